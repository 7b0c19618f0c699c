"""Words of `rdt bench`; nothing heavy is imported here, and `bench.py` has the table of what runs them."""

from __future__ import annotations

import argparse

from deploy.arguments import add_device, names, positive_numbers, seed, whole_number

_POSITIVE = whole_number(1)


def add_bench_parsers(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="bench_command", metavar="WHAT", required=True)
    infer = commands.add_parser(
        "infer", help="one chunk at full size: the naive road against the engine, each stage, memory, the floor"
    )
    infer.add_argument(
        "--size", choices=["tiny", "170m", "1b"], default="tiny", help="tiny is the quick start's policy"
    )
    infer.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="of the network")
    infer.add_argument("--compile", action="store_true", help="put the blocks through torch.compile")
    infer.add_argument("--quantize", choices=["int8", "fp8"], help="eight-bit weights, behind the quality gate")
    infer.add_argument("--guided", action="store_true", help="the denoising loop of real-time chunking, too")
    infer.add_argument(
        "--vision",
        action=argparse.BooleanOptionalAction,
        help="from pictures to chunk too, with SigLIP so400m; by default on a GPU, and for tiny its own encoder",
    )
    infer.add_argument("--json", metavar="FILE", help="write the figures there too")
    add_device(infer)

    bench_data = commands.add_parser(
        "data", help="one training sample from the disk: a plain PIL + h5py reader against the store, on data it makes"
    )
    bench_data.add_argument("--episodes", type=_POSITIVE, default=4, metavar="N", help="that are made")
    bench_data.add_argument("--steps", type=_POSITIVE, default=150, metavar="N", help="of each")
    bench_data.add_argument("--samples", type=_POSITIVE, default=200, metavar="N", help="read in each of 4 rounds")
    bench_data.add_argument("--json", metavar="FILE", help="write the figures there too")

    bench_train = commands.add_parser(
        "train",
        help="one optimizer step of the shipped runs: a plain eager step against the trainer, alone and in ranks",
    )
    bench_train.add_argument("--size", choices=["tiny", "170m", "1b"], default="tiny", help="tiny is the quick start's")
    bench_train.add_argument(
        "--batch", type=_POSITIVE, metavar="N", help="samples of a rank; else 32, on a CPU 1 of 170m and 1b"
    )
    bench_train.add_argument(
        "--micro-batch", type=_POSITIVE, default=0, metavar="N", help="in memory at once; else the whole batch"
    )
    bench_train.add_argument(
        "--steps", type=_POSITIVE, metavar="N", help="counted in each row; else 20, on a CPU 3 of 170m and 1b"
    )
    bench_train.add_argument("--compile", action="store_true", help="a row with compiled blocks; the ranks' are too")
    bench_train.add_argument(
        "--rows", type=names, metavar="A,B", help="of plain, ours, compiled, ddp, fsdp; else all that there are"
    )
    bench_train.add_argument("--optimizer", default="adamw", metavar="NAME", help="adamw, adamw8bit or adafactor")
    bench_train.add_argument("--activation-checkpointing", action="store_true", help="of the blocks; not in plain")
    bench_train.add_argument("--lora", type=_POSITIVE, default=0, metavar="RANK", help="train adapters of this rank")
    bench_train.add_argument(
        "--vision",
        action=argparse.BooleanOptionalAction,
        help="SigLIP so400m in the step; by default on a GPU",
    )
    bench_train.add_argument(
        "--cameras",
        type=float,
        metavar="MEAN",
        help="of three, in an episode; else all. The pre-training mixture has 1.63: the others show the background",
    )
    bench_train.add_argument(
        "--ranks",
        type=_POSITIVE,
        metavar="N",
        help="of the parallel rows; else all GPUs, or 2 of a CPU for tiny; 1: no such rows",
    )
    bench_train.add_argument("--json", metavar="FILE", help="write the figures there too")
    add_device(bench_train)

    bench_loop = commands.add_parser(
        "loop",
        help="the control loop beside a busy policy: lateness against a bare loop, overhead, stopping, seams",
    )
    bench_loop.add_argument("--hz", type=_POSITIVE, default=200, metavar="N", help="ticks a second (default: 200)")
    bench_loop.add_argument("--seconds", type=_POSITIVE, default=8, metavar="N", help="of each measurement")
    bench_loop.add_argument("--json", metavar="FILE", help="write the figures there too")

    guidance = commands.add_parser(
        "guidance",
        help="alignment in 2-D against the exact answer: SfBC, CEP, EDA, SRPO, with floor, oracle and a picture",
    )
    guidance.add_argument(
        "--sets", metavar="A,B", help="of 8gaussians, swissroll, rings, moons, checkerboard, 2spirals"
    )
    guidance.add_argument("--methods", metavar="A,B", help="of sfbc, cep, cep_all_beta, eda, mse, emse, srpo")
    guidance.add_argument("--seeds", type=_POSITIVE, default=1, metavar="N", help="trainings of everything")
    guidance.add_argument("--samples", type=_POSITIVE, metavar="N", help="of each method; else 20,000")
    guidance.add_argument("--quick", action="store_true", help="seconds instead of minutes: nothing is learnt")
    guidance.add_argument("--out", default="runs/guidance", metavar="DIR", help="folder of the pictures")
    guidance.add_argument("--json", metavar="FILE", help="write all rows there")

    bench_cca = commands.add_parser(
        "cca", help="digits drawn token by token: CCA against classifier-free guidance, measured against the truth"
    )
    bench_nca = commands.add_parser(
        "nca", help="counting with scalar rewards: InfoNCA, NCA and DPO, all expectations exact"
    )
    bench_eeg = commands.add_parser(
        "eeg", help="emotion of people never seen, on synthetic EEG: WCMF beside its baselines (extra eeg)"
    )
    bench_eeg.add_argument("--seeds", type=_POSITIVE, default=5, metavar="N", help="repeats (default: 5)")
    bench_eeg.add_argument("--model", choices=["logistic", "mlp"], default="logistic", help="of each channel")
    for sequences in (bench_cca, bench_nca, bench_eeg):
        sequences.add_argument("--seed", type=seed, default=0, metavar="S", help="of weights, data and samples")
        sequences.add_argument("--quick", action="store_true", help="a few steps of everything: whether it runs")
        sequences.add_argument("--out", metavar="DIR", help="folder for pictures (extra sim)")
        sequences.add_argument("--json", metavar="FILE", help="write the figures there too")

    imitation = commands.add_parser(
        "imitation", help="GAIL-DAC with and without C-GAIL's controller over the same seeds, beside behaviour cloning"
    )
    imitation.add_argument(
        "--tasks",
        type=names,
        default=("Pendulum-v1", "InvertedPendulum-v5"),
        metavar="A,B",
        help="YAML files, or names of those in configs/imitation/ (default: Pendulum-v1,InvertedPendulum-v5)",
    )
    imitation.add_argument(
        "--methods",
        type=names,
        default=("bc", "dac", "c-gail-dac"),
        metavar="A,B",
        help="of bc, dac, c-gail-dac, and on-policy gail and c-gail (default: the first three)",
    )
    imitation.add_argument(
        "--k", type=positive_numbers, default=(1.0,), metavar="A,B", help="weights of the controller (default: 1)"
    )
    imitation.add_argument("--seeds", type=_POSITIVE, default=5, metavar="N", help="runs of each method (default: 5)")
    imitation.add_argument("--first-seed", type=seed, default=0, metavar="S", help="the others follow")
    imitation.add_argument("--out", default="runs/imitation", metavar="DIR", help="a folder that is there goes on")
    imitation.add_argument("--json", metavar="FILE", help="write all figures there")

    offline = commands.add_parser(
        "offline", help="offline reinforcement learning: BC, IQL, SfBC, QGPO, EDA, SRPO on data of mixed quality"
    )
    offline.add_argument(
        "data",
        nargs="+",
        metavar="DATA",
        help="D4RL files, folders of them that are read as one, Minari folders; NAME=DATA gives the task's name",
    )
    offline.add_argument("--env", metavar="ID", help="Gymnasium's; else D4RL's own by the task's name")
    offline.add_argument("--methods", type=names, metavar="A,B", help="of bc, diffusion_bc, iql, sfbc, qgpo, eda, ...")
    offline.add_argument("--seeds", type=_POSITIVE, default=3, metavar="N", help="trainings of everything (default: 3)")
    offline.add_argument("--episodes", type=_POSITIVE, default=20, metavar="N", help="of each training (default: 20)")
    offline.add_argument(
        "--budget", default="small", metavar="NAME", help="published: the papers' networks and steps (default: small)"
    )
    offline.add_argument("--quick", action="store_true", help="a few steps of everything: whether it runs")
    offline.add_argument(
        "--out", default="runs/offline_bench", metavar="DIR", help="folder of all runs and the picture"
    )
    offline.add_argument("--json", metavar="FILE", help="write the figures there too")
    add_device(offline)
