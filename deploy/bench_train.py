"""`rdt bench train`: an optimizer step of the published runs, beside a plain eager step of the same training.

    plain      as one writes it in an afternoon: nothing shared, nothing compiled (`bench_train_row.PlainImitation`)
    ours       `Trainer` on batches of the loader, as `rdt train` runs it
    compiled   the same with its blocks compiled, where that is asked for
    ddp, fsdp  the same under torchrun, as many samples for each rank

Each row trains the shipped config of its size from the same weights on the same samples, in processes of its own, so
that its memory is its own. Weights, pictures and embeddings are random: speed does not depend on them. T5 is in no row:
its embeddings come from the cache. The runs have no moving average of weights and a constant learning rate.

Times are from one batch to the next, as the clock shows them; "cpu" is what the first rank used of all cores, by which
rows compare on a CPU that other work shares.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_pipeline.atomic import read_json
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.schema.types import Episode
from data_pipeline.storage import EpisodeStore
from data_pipeline.workers import num_workers
from deploy.bench import LANGUAGE_TOKENS, SIGLIP_SO400M, Timing, device_name, measure_peak
from deploy.bench_data import Scene
from deploy.bench_train_row import PEAK_MEMORY, PLAIN
from deploy.device import choose_device
from rdt.encoders.pretrained import save_random_siglip
from rdt.encoders.t5 import XXL
from rdt.encoders.text_cache import TextCache
from rdt.model.presets import PRESETS
from rdt.train.config import DemonstrationConfig, TrainConfig, dump_config, load_config
from rdt.train.lora import LoraConfig
from rdt.train.memory import run_memory
from rdt.train.parallel import ParallelMode
from rdt.train.progress import peak_flops
from rdt.train.trainer import choose_precision

CONFIG_OF_SIZE = {"tiny": "quickstart", "170m": "pretrain_170m", "1b": "pretrain_1b"}
WARM_UP = 3  # steps that are not counted
EPISODES, EPISODE_STEPS = 8, 40
INSTRUCTIONS = [f"put object {number} into the box" for number in range(EPISODES)]
FRAMES_OF_STORE = (288, 384)  # what a conversion makes of 480 x 640
DATA_SHEET = "by the maker's data sheet"
SAME_LOSS = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Relative difference up to which two roads to the first loss are one training."""


LOSSES = "first loss differs", "last loss differs"
"""Relative difference to the plain row's, of the first step and of the last."""


@dataclass(frozen=True)
class Row:
    """A line of the table: a run by so many ranks, of which `config.data.batch_size` is all samples of a step."""

    name: str
    config: TrainConfig
    ranks: int = 1


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """Print the table; returns its figures, those of a row under `rows` by its name."""
    device = choose_device(args.device)
    large_on_cpu = args.size != "tiny" and device.type == "cpu"
    ranks = _num_ranks(args.ranks, device, by_default=1 if large_on_cpu else min(2, num_workers()))
    batch, steps = args.batch or (1 if large_on_cpu else 32), args.steps or (3 if large_on_cpu else 20)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = _config(args, batch, steps, device, folder)
        asked = _asked(args.rows, _rows(config, ranks))
        dtype = choose_precision(config.precision, device)
        figures: dict[str, Any] = {
            "config": CONFIG_OF_SIZE[args.size],
            "device": device_name(device),
            "dtype": str(dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "batch": config.data.batch_size,
            "micro-batch": config.data.micro_batch_size or config.data.batch_size,
            "optimizer": config.optim.name,
            "activation checkpointing": config.activation_checkpointing,
            "adapters of rank": config.lora.rank,
        }
        figures |= _make_inputs(args, config, device, folder)
        for key, value in figures.items():
            print(f"{key:24s} {value}")
        peak, origin = _peak(device, dtype)
        figures |= {"peak TFLOP/s": peak / 1e12, "peak is": origin}
        memory = run_memory(config, device)
        figures["estimated memory [GB]"] = memory.peak / 1e9
        print(f"{'peak':24s} {peak / 1e12:.3g} TFLOP/s, {origin}")
        print(f"{'estimate, network alone':24s} {memory}\n")
        print(_header("MFU" if origin == DATA_SHEET else "of peak"), flush=True)
        rows: dict[str, Any] = {}
        for row in asked:
            rows[row.name] = found = _run(row, folder)
            if "failed" not in found:
                found |= _figures(row, found, peak, rows.get(PLAIN, {"failed": "not asked for"}))
                _check_losses(row, found, dtype)
            print(_line(row, found), flush=True)
    print(f"left out   {_left_out(ranks, device)}")
    return figures | {"rows": rows}


def _config(args: argparse.Namespace, batch: int, steps: int, device: torch.device, folder: Path) -> TrainConfig:
    """The shipped config of the size, on data and encoders that lie in `folder`."""
    base = load_config(find_config("train", CONFIG_OF_SIZE[args.size]))
    condition = base.condition
    if args.size == "tiny":
        if args.vision is not None or args.cameras is not None:
            raise ValueError(
                "--vision and --cameras are for 170m and 1b: tiny has an encoder of its own and one camera"
            )
    else:
        condition = replace(condition, vision_path=str(folder / "siglip"), text_cache=str(folder / "text"))
    if args.cameras is not None and not 1 <= args.cameras <= len(condition.cameras):
        raise ValueError(f"--cameras must be a number from 1 to {len(condition.cameras)}, got {args.cameras:g}")
    data = replace(
        base.data,
        stores=(str(folder / "store"),),
        mixture=None,
        batch_size=batch,
        micro_batch_size=args.micro_batch,
        held_out_every=0,
    )
    return replace(
        base,
        steps=WARM_UP + steps,
        condition=condition,
        lora=LoraConfig(rank=args.lora),
        data=data,
        optim=replace(base.optim, name=args.optimizer, schedule="constant", warmup_steps=0, ema_decay=0.0),
        demonstrations=DemonstrationConfig(),
        activation_checkpointing="blocks" if args.activation_checkpointing else "none",
        compile=args.compile,
        loggers=(),
        device=str(device),
    )


def _rows(config: TrainConfig, ranks: int) -> list[Row]:
    plain = replace(config, compile=False, activation_checkpointing="none", optim=replace(config.optim, name="adamw"))
    rows = [Row(PLAIN, plain), Row("ours", replace(config, compile=False))]
    if config.compile:
        rows.append(Row("compiled", config))
    modes: tuple[ParallelMode, ...] = ("ddp", "fsdp") if ranks > 1 else ()
    for mode in modes:
        data = replace(config.data, batch_size=ranks * config.data.batch_size)
        rows.append(Row(mode, replace(config, parallel=mode, data=data), ranks))
    return [replace(row, config=_with_workers(row.config, row.ranks)) for row in rows]


def _asked(names: tuple[str, ...] | None, rows: list[Row]) -> list[Row]:
    """The rows of these names; raises `ValueError` for one that is not there."""
    there = [row.name for row in rows]
    if unknown := [name for name in names or () if name not in there]:
        raise ValueError(f"--rows {','.join(unknown)}: this command has {', '.join(there)} (compiled with --compile)")
    return [row for row in rows if names is None or row.name in names]


def _with_workers(config: TrainConfig, ranks: int) -> TrainConfig:
    """As many processes that make batches as the config wants, where each rank keeps a core."""
    workers = min(config.data.workers, max(num_workers() // ranks - 1, 0))
    return replace(config, data=replace(config.data, workers=workers))


def _num_ranks(asked: int | None, device: torch.device, by_default: int) -> int:
    """Of the parallel rows: all GPUs, or so many processes of a CPU."""
    if device.type == "cpu":
        return asked or by_default
    there = torch.cuda.device_count()
    if asked and asked > there:
        raise ValueError(f"--ranks {asked} needs as many GPUs, there are {there}")
    return asked or there


def _left_out(ranks: int, device: torch.device) -> str:
    """Parallel modes without a row, and why."""
    if ranks > 1:
        return "hsdp: it needs several machines, on one it is fsdp"
    return f"ddp, fsdp, hsdp: one {'GPU' if device.type == 'cuda' else 'process'} needs none of them (--ranks N)"


def _make_inputs(args: argparse.Namespace, config: TrainConfig, device: torch.device, folder: Path) -> dict[str, Any]:
    """Episodes, embedded instructions and a vision encoder; what the table says of them."""
    robot = Embodiment.from_yaml(find_config("robots", config.robot))
    roles = config.condition.cameras
    cameras = float(args.cameras or len(roles))
    size = (64, 64) if args.size == "tiny" else FRAMES_OF_STORE
    make_store(folder / "store", robot, deal_cameras(roles, cameras, EPISODES), size)
    told: dict[str, Any] = {"cameras of an episode": f"{cameras:g} of {len(roles)} on average"}
    if args.size == "tiny":
        return {**told, "vision": config.condition.vision}
    whole = args.vision if args.vision is not None else device.type == "cuda"
    # without layers its patches are embedded, and that is all: the road is the same, at 0.2 % of the arithmetic
    save_random_siglip(folder / "siglip", SIGLIP_SO400M if whole else {**SIGLIP_SO400M, "num_hidden_layers": 0})
    width = PRESETS[config.preset].lang_token_dim
    embeddings = {sentence: torch.randn(LANGUAGE_TOKENS, width).bfloat16() for sentence in INSTRUCTIONS}
    embeddings[""] = torch.randn(1, width).bfloat16()
    TextCache(folder / "text", Path(XXL).name, None).put_imported(embeddings)
    return {**told, "vision": "siglip so400m, in the step" if whole else "left out: siglip without layers"}


def deal_cameras(roles: tuple[str, ...], mean: float, episodes: int) -> list[tuple[str, ...]]:
    """Cameras of each episode, the first ones of `roles`, so that they are `mean` on average."""
    total = round(mean * episodes)
    return [roles[: total // episodes + (number < total % episodes)] for number in range(episodes)]


def make_store(
    path: Path, robot: Embodiment, cameras: list[tuple[str, ...]], size: tuple[int, int], steps: int = EPISODE_STEPS
) -> None:
    """An episode for each entry of `cameras`, with an instruction of its own; pictures of (height, width)."""
    rng = np.random.default_rng(0)
    scene = Scene(rng)
    with EpisodeStore.create(path, robot) as store:
        for number, roles in enumerate(cameras):
            angles = np.cumsum(rng.normal(0, 0.01, (steps, robot.num_native)), axis=0)
            states, state_mask = robot.to_unified(angles)
            actions, action_mask = robot.to_unified(angles, kind="action")
            store.add(
                Episode(
                    name=f"episode_{number}",
                    states=states,
                    state_mask=state_mask,
                    actions=actions,
                    action_mask=action_mask,
                    images={role: scene.film(steps, size, rng) for role in roles},
                    instructions=(INSTRUCTIONS[number % len(INSTRUCTIONS)],),
                    rate_hz=robot.rate_hz,
                )
            )


def _peak(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """Operations a second of one device, and where the number is from."""
    known = peak_flops(device)
    if known:
        return known, DATA_SHEET
    measured = measure_peak(device, dtype).flops
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the rows need the room
    return measured, "what one large product reaches here"


def _run(row: Row, folder: Path) -> dict[str, Any]:
    """Run a row in its processes; what it found, or `failed` where memory ran out."""
    (folder / f"{row.name}.yaml").write_text(dump_config(row.config), encoding="utf-8")
    command = [sys.executable, "-m", "deploy.bench_train_row", str(folder), row.name]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    if row.ranks > 1:
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(row.ranks)]
        command = [sys.executable, *launch, *command[1:]]
        environment["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // row.ranks))
    log = folder / f"{row.name}.log"
    with log.open("wb") as output, subprocess.Popen(command, env=environment, stdout=output, stderr=output) as process:
        try:
            process.wait()
        except BaseException:
            process.terminate()  # torchrun ends its ranks, which a kill would leave behind
            raise
    if process.returncode == 0:
        return read_json(folder / f"{row.name}.json", "it is made by this command")
    said = log.read_text(encoding="utf-8", errors="replace")
    if "OutOfMemoryError" in said:
        return {"failed": "out of memory"}
    raise RuntimeError(f"row {row.name!r} left with {process.returncode}, having said:\n{said[-3000:]}")


def _figures(row: Row, found: dict[str, Any], peak: float, plain: dict[str, Any]) -> dict[str, Any]:
    """What the table shows of a row, `plain` being that row; the steps that warm up do not count."""
    timing = Timing(np.array(found["milliseconds"][WARM_UP:]))
    samples = row.config.data.batch_size
    devices = 1 if row.config.device == "cpu" else row.ranks
    floor = 1e3 * row.ranks * float(np.mean(found["flops"][WARM_UP:])) / (peak * devices)
    figures = {
        "step p50": timing.p50,
        "step p99": timing.p99,
        "step CPU p50": Timing(np.array(found["CPU milliseconds"][WARM_UP:])).p50,
        "floor": floor,
        "samples/s": 1e3 * samples * len(timing.milliseconds) / float(timing.milliseconds.sum()),
        "mfu": floor / timing.p50,
        "waiting share": sum(found["waited milliseconds"][WARM_UP:]) / float(timing.milliseconds.sum()),
        "ranks": row.ranks,
        "workers": row.config.data.workers,
    }
    if "failed" in plain:
        return figures
    base = plain if row.name != PLAIN else figures | {"losses": found["losses"]}
    figures["plain / this"] = base["step p50"] / timing.p50 * row.ranks  # of a sample: each rank has as many
    if row.ranks == 1:
        figures[LOSSES[0]] = _difference(found["losses"][0], base["losses"][0])
        if row.config.optim.name == "adamw":  # the plain step's
            figures[LOSSES[1]] = _difference(found["losses"][-1], base["losses"][-1])
    return figures


def _difference(value: float, reference: float) -> float:
    return abs(value - reference) / abs(reference)


def _check_losses(row: Row, found: dict[str, Any], dtype: torch.dtype) -> None:
    """Raise `RuntimeError` where a row does not begin the training that the plain one does."""
    differs = found.get(LOSSES[0], 0.0)
    if differs > SAME_LOSS[dtype]:
        raise RuntimeError(
            f"the first loss of {row.name!r} differs from the plain step's by {differs:.1e} of its size, more than "
            f"{SAME_LOSS[dtype]:.0e}: they are not the same training, and their times say nothing"
        )


def _header(utilisation: str) -> str:
    return (
        f"row         step p50       p99    cpu p50     floor ms  samples/s {utilisation:>8s}  waiting     GB  "
        "plain / this   loss differs from plain's, first and last"
    )


def _line(row: Row, found: dict[str, Any]) -> str:
    if "failed" in found:
        return f"{row.name:9s} {found['failed']}"
    text = (
        f"{row.name:9s} {found['step p50']:10.2f} {found['step p99']:9.2f} {found['step CPU p50']:10.2f} "
        f"{found['floor']:12.2f} "
        f"{found['samples/s']:10.2f} {found['mfu']:8.1%} {found['waiting share']:8.1%} {found[PEAK_MEMORY]:6.2f} "
    )
    text += f"{found['plain / this']:11.2f} x" if "plain / this" in found else 13 * " "
    if row.ranks > 1:
        return f"{text}   {row.ranks} ranks, as many samples for each"
    differences = [found[key] for key in LOSSES if key in found]
    return "   ".join([text, *(f"{value:.1e}" for value in differences if row.name != PLAIN)])
