"""The `rdt` command: parses words and hands them on; each command's module is imported when it is used."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from data_pipeline.schema.registry import load_attribute
from deploy.arguments import add_device, add_viewing_options, names, seed, whole_number
from deploy.bench_parser import add_bench_parsers
from deploy.data.parser import add_parsers as add_data_parsers

_POSITIVE = whole_number(1)

COMMANDS = {
    "quickstart": "deploy.quickstart:command",
    "data": "deploy.data.parser:command",
    "train": "deploy.train:command",
    "eval": "deploy.evaluate:command",
    "rollout": "deploy.rollouts:command",
    "align": "deploy.align:command",
    "rl": "deploy.rl:command",
    "run": "deploy.run:command",
    "record": "deploy.demonstrate:command",
    "replay": "deploy.replay:command",
    "serve": "deploy.serve.command:command",
    "robot": "deploy.robot:command",
    "checkpoint": "deploy.checkpoint:command",
    "bench": "deploy.bench:command",
    "doctor": "deploy.doctor:command",
}


def build_parser() -> argparse.ArgumentParser:
    """All commands and options, without importing what runs them."""
    parser = argparse.ArgumentParser(
        prog="rdt",
        description="The RDT stack: demonstrations -> one action space -> Robotics Diffusion Transformer -> robot.",
        epilog="First steps: `rdt doctor`, then `rdt quickstart --out runs/quickstart`.",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error; before the command")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    quickstart = commands.add_parser(
        "quickstart", help="record, convert, train and evaluate in the embedded simulator; writes a report"
    )
    quickstart.add_argument("--out", required=True, metavar="DIR", help="folder of the run; a half-done one goes on")
    quickstart.add_argument("--demos", type=_POSITIVE, metavar="N", help="demonstrations of each task")
    quickstart.add_argument("--episodes", type=_POSITIVE, metavar="N", help="evaluation episodes of each task")
    quickstart.add_argument("--steps", type=_POSITIVE, metavar="N", help="training steps")
    quickstart.add_argument("--seed", type=seed, default=0, metavar="S", help="of recording, training and evaluation")
    quickstart.add_argument("--config", default="quickstart", help="training config, by name or path")
    add_device(quickstart)

    data = commands.add_parser("data", help="convert, check, look at and export demonstrations")
    add_data_parsers(data)

    train = commands.add_parser(
        "train",
        help="train a policy from a config",
        description="Options follow the config: `rdt train sim_transfer --steps 500`.",
    )
    train.add_argument("config", help="a YAML file, or the name of one in configs/train/")
    train.add_argument(
        "--demos", type=_POSITIVE, metavar="N", help="take the config's preset for so many demonstrations"
    )
    train.add_argument("--resume", choices=["auto", "never"], default="never", help="auto: go on where the run stopped")

    rollout = commands.add_parser(
        "rollout", help="let a policy act in simulation and keep what came of it, with its success, for `rdt align`"
    )
    rollout.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint folder")
    rollout.add_argument("--env", required=True, metavar="NAME", help="as of `rdt eval`")
    rollout.add_argument("--scenes", type=_POSITIVE, default=50, metavar="N", help="of each task (default: 50)")
    rollout.add_argument("--per-scene", type=_POSITIVE, default=4, metavar="N", help="tries of one scene (default: 4)")
    rollout.add_argument("--seed", type=seed, default=0, metavar="S", help="picks the scenes")
    rollout.add_argument("--out", required=True, metavar="DIR", help="the episode store to make")
    add_device(rollout)

    align = commands.add_parser(
        "align",
        help="make a policy better by how its rollouts ended, or by which words it was told",
        description="Options follow the config: `rdt align nca_sim --policy.steps 500`.",
    )
    align.add_argument("config", help="a YAML file, or the name of one in configs/align/")

    _add_rl(commands.add_parser("rl", help="experts of Gymnasium tasks by Tianshou's algorithms, and their data"))

    evaluate = commands.add_parser("eval", help="closed loop in simulation: success with 95 %% intervals, videos, JSON")
    evaluate.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint folder")
    evaluate.add_argument("--env", required=True, metavar="NAME", help="sim_transfer, sim_handover or sim_insertion")
    evaluate.add_argument("--episodes", type=_POSITIVE, default=50, metavar="N", help="episodes of each task")
    evaluate.add_argument("--seed", type=seed, default=0, metavar="S", help="picks scenes never used in training")
    evaluate.add_argument("--out", required=True, metavar="DIR", help="folder for report.json and rollouts/")
    evaluate.add_argument(
        "--sampler",
        default="dpm_solver++",
        metavar="NAME",
        help="dpm_solver++ (as published), ddim, ddpm, or the class name of a diffusers scheduler",
    )
    evaluate.add_argument(
        "--sampling-steps", type=_POSITIVE, metavar="N", help="denoising steps; else the checkpoint's"
    )
    evaluate.add_argument(
        "--handover",
        choices=["switch", "blend", "ensemble", "rtc"],
        default="switch",
        help="from plan to plan; rtc: real-time chunking",
    )
    evaluate.add_argument(
        "--latency-ms",
        type=whole_number(0),
        default=0,
        metavar="MS",
        help="from an observation to its chunk, in simulated time",
    )
    evaluate.add_argument(
        "--jacobian",
        choices=["network", "identity"],
        default="network",
        help="of rtc's guidance: the published one, or none, which is cheaper",
    )
    add_device(evaluate)

    run = commands.add_parser(
        "run", help="a policy on a robot, simulated or real: limits, real time, ROS 2 where it is used"
    )
    run.add_argument("robot", metavar="ROBOT", help="robot YAML, by name or path")
    run.add_argument("policy", metavar="CHECKPOINT", help="a checkpoint folder, or ws://HOST:PORT of `rdt serve`")
    run.add_argument("--instruction", metavar="TEXT", help="what the policy is told; else the simulated task's own")
    run.add_argument("--env", default="sim_transfer", metavar="NAME", help="of the simulated robot, as in `rdt eval`")
    run.add_argument("--task", metavar="NAME", help="one of the environment's tasks; else its first")
    run.add_argument("--trials", type=_POSITIVE, metavar="N", help="episodes, each judged; else run until Ctrl-C")
    run.add_argument(
        "--against",
        metavar="OTHER",
        help="a second checkpoint or server: N blind pairs of trials, in the same scenes and an order that is drawn",
    )
    run.add_argument(
        "--leader",
        metavar="ROBOT",
        help="robot YAML of arms with which a person takes over (key t), to correct the policy",
    )
    run.add_argument("--seconds", type=float, default=10.0, help="of a trial (default: 10)")
    run.add_argument("--seed", type=seed, default=0, metavar="S", help="of the first simulated scene")
    run.add_argument(
        "--handover", choices=["switch", "blend", "ensemble", "rtc"], help="from plan to plan; else the robot's default"
    )
    _add_yes(run)
    run.add_argument("--json", metavar="FILE", help="write the outcome of the trials there")
    add_viewing_options(run)
    run.add_argument("--record", metavar="DIR", help="each trial, or the whole run, as an MCAP file there")
    _add_pictures(run)
    add_device(run)

    record = commands.add_parser("record", help="demonstrations: a robot follows leader arms, an episode file each")
    record.add_argument("robot", metavar="ROBOT", help="robot YAML, by name or path: the arms that follow")
    record.add_argument("--leader", required=True, metavar="ROBOT", help="robot YAML of the arms that are led by hand")
    record.add_argument("--out", required=True, metavar="DIR", help="folder of the episodes")
    record.add_argument("--instruction", required=True, metavar="TEXT", help="what is being shown")
    _add_yes(record)
    _add_scene(record)
    add_viewing_options(record)
    _add_pictures(record)

    replay = commands.add_parser("replay", help="a recorded episode on a robot, through the limits of `rdt run`")
    replay.add_argument("robot", metavar="ROBOT", help="robot YAML, by name or path")
    replay.add_argument("recording", metavar="RECORDING", help="a store, an MCAP file of --record, an ALOHA HDF5 file")
    replay.add_argument("--episode", type=whole_number(0), default=0, metavar="N", help="of a store, from 0")
    _add_yes(replay)
    _add_scene(replay)
    add_viewing_options(replay)

    serve = commands.add_parser("serve", help="a checkpoint as a policy server over websocket and msgpack")
    serve.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint folder")
    serve.add_argument("--host", default="127.0.0.1", metavar="HOST", help="interface; 0.0.0.0 is all of them")
    serve.add_argument(
        "--port", type=whole_number(0, 65535), metavar="PORT", help="8000; xpolicylab 19000; robotwin 9999; 0: any"
    )
    serve.add_argument(
        "--protocol",
        choices=["openpi", "xpolicylab", "robotwin"],
        default="openpi",
        help="openpi: robots; xpolicylab: RoboTwin's evaluator; robotwin: its older one in two environments",
    )
    serve.add_argument("--prompt", metavar="TEXT", help="the instruction where a client sends none")
    serve.add_argument("--api-key-file", metavar="FILE", help="holds the key that clients must send; else $RDT_API_KEY")
    add_device(serve)

    robot = commands.add_parser("robot", help="describe a robot, read its YAML, meet it for the first time")
    robot_commands = robot.add_subparsers(dest="robot_command", metavar="COMMAND", required=True)
    robot_commands.add_parser("list", help="the shipped robots")
    explain = robot_commands.add_parser("explain", help="the mapping joint -> slot, line by line")
    explain.add_argument("robot", metavar="ROBOT_YAML", help="a YAML file, or the name of a shipped one")
    check = robot_commands.add_parser(
        "check", help="first contact: connection, readings, limits, joint directions, gripper, cameras"
    )
    check.add_argument("robot", metavar="ROBOT_YAML", help="a YAML file, or the name of a shipped one")
    check.add_argument("--arm", metavar="SIDE", help="left or right only")
    check.add_argument(
        "--wiggle",
        action="store_true",
        help="give torque, and let each joint move by at most 0.05 rad; else none moves",
    )
    check.add_argument("--yes", action="store_true", help="ask nobody: agree to --wiggle, skip what needs a hand")
    check.add_argument("--out", default="runs/robot_check", metavar="DIR", help="folder for one picture of each camera")
    new = robot_commands.add_parser("new", help="a robot YAML from URDFs; asks what they do not say")
    new.add_argument("--urdf", required=True, nargs="+", metavar="FILE", help="one, or one an arm")
    new.add_argument("--name", required=True, metavar="NAME", help="of the robot")
    new.add_argument("--out", metavar="FILE", help="the robot YAML; else NAME.yaml")
    new.add_argument("--answers", metavar="FILE", help="YAML with the answers: nobody is asked")

    checkpoint = commands.add_parser("checkpoint", help="what is inside a checkpoint; released format <-> ours")
    checkpoint_commands = checkpoint.add_subparsers(dest="checkpoint_command", metavar="COMMAND", required=True)
    inspect = checkpoint_commands.add_parser("inspect", help="configuration, sizes and data of a checkpoint")
    inspect.add_argument("checkpoint", metavar="CHECKPOINT", help="ours or a released one: a folder, a file, a hub id")
    convert = checkpoint_commands.add_parser(
        "convert",
        help="another format, type, chunk length or set of cameras; with --config a checkpoint of this stack",
    )
    convert.add_argument("source", metavar="SRC", help="ours or a released one: a folder, a file, a hub id")
    convert.add_argument("destination", metavar="DST", help="a new folder")
    convert.add_argument("--format", choices=["bin", "safetensors", "deepspeed"], default="bin", help="of the weights")
    convert.add_argument("--dtype", choices=["bfloat16", "float32"], help="of the weights; else as they are")
    convert.add_argument("--ema", action="store_true", help="take the moving average in the folder ema/")
    convert.add_argument("--horizon", type=_POSITIVE, metavar="N", help="actions in a chunk")
    convert.add_argument("--frames", type=_POSITIVE, metavar="N", help="pictures of each camera")
    convert.add_argument("--cameras", type=names, metavar="A,B", help="camera roles, in the order of their tokens")
    convert.add_argument("--config", metavar="CONFIG", help="training config, by name or path, that names the encoders")
    convert.add_argument("--robot", metavar="ROBOT", help="robot YAML, by name or path; else the config's")

    bench = commands.add_parser("bench", help="speed and quality, beside a baseline measured in the same run")
    add_bench_parsers(bench)

    commands.add_parser("doctor", help="versions, devices, rendering, extras: what is missing and how to get it")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0 done, 1 failed with a message; wrong use leaves with 2."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if rest and not takes_overrides(args):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    args.overrides = rest
    try:
        with _terminated_like_interrupted():
            return load_attribute("command", args.command, COMMANDS)(args) or 0
    except KeyboardInterrupt:
        print("\nrdt: interrupted; what was finished is kept", file=sys.stderr)
        return 1
    except Exception as error:
        if args.debug:
            raise
        print(f"rdt: error: {error or type(error).__name__}", file=sys.stderr)
        return 1


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM, which job schedulers and `timeout` send, ends a command as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def takes_overrides(args: argparse.Namespace) -> bool:
    """Whether words that the parser does not know are for a config."""
    return args.command in ("train", "align") or (args.command == "rl" and args.rl_command == "train")


def _add_rl(rl: argparse.ArgumentParser) -> None:
    commands = rl.add_subparsers(dest="rl_command", metavar="COMMAND", required=True)
    train = commands.add_parser(
        "train",
        help="train an expert, with its curve and its actors on the way",
        description="Options follow the config: `rdt rl train sac --task Walker2d-v5 --seed 1`.",
    )
    train.add_argument("config", help="a YAML file, or the name of one in configs/rl/: an algorithm's")
    collect = commands.add_parser("collect", help="episodes of a run's actors as transitions, a D4RL HDF5 file")
    collect.add_argument("run", metavar="RUN", help="folder of `rdt rl train`")
    collect.add_argument("--out", required=True, metavar="FILE", help="the HDF5 file to make")
    collect.add_argument(
        "--at", type=names, default=("last",), metavar="A,B", help="who acts: steps of kept actors, last, random"
    )
    collect.add_argument("--episodes", type=_POSITIVE, default=20, metavar="N", help="of each (default: 20)")
    collect.add_argument("--seed", type=seed, default=0, metavar="S", help="of starts and noise")
    collect.add_argument("--noise", type=float, default=0.0, metavar="STD", help="added to actions in [-1, 1]")
    collect.add_argument("--deterministic", action="store_true", help="their best actions; else drawn, and noisy")
    table = commands.add_parser("table", help="runs beside the figures that Tianshou publishes")
    table.add_argument("runs", nargs="+", metavar="DIR", help="folders of runs, or above them")
    table.add_argument("--json", metavar="FILE", help="write the rows there, too")
    table.add_argument("--png", metavar="FILE", help="draw the curves there (extra sim)")


def _add_yes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="do not wait for Enter before the arms of a real robot move")


def _add_scene(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--env", default="sim_transfer", metavar="NAME", help="of the simulated robot")
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="of the simulated scene")


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pictures", choices=["jpeg", "raw"], default="jpeg", help="as recorded; jpeg has quality 90")


if __name__ == "__main__":
    sys.exit(main())
