"""`rdt checkpoint`: what is inside a checkpoint, and the way between the released format and ours.

A checkpoint of this stack is a released one with encoders, a robot and a config beside it (`rdt/train/checkpoint.py`),
so either is read as a network; to write one of ours takes the robot and the encoders, which a training config names.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import torch

from data_pipeline.atomic import atomic_folder
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from deploy.robot import explain
from rdt.alignment.acting import FOLDER as HEAD
from rdt.alignment.acting import load_acting
from rdt.encoders.condition import ConditionConfig
from rdt.model.manifest import verify
from rdt.model.released import inspect_released, load_released, save_released
from rdt.model.weights import WeightFormat
from rdt.train.best import read_best
from rdt.train.checkpoint import (
    STATISTICS_FILE,
    is_checkpoint,
    load_checkpoint,
    read_progress,
    read_run,
    save_checkpoint,
)
from rdt.train.config import dump_config, load_config
from rdt.visuomotor import VisuomotorPolicy


def command(args: argparse.Namespace) -> None:
    if args.checkpoint_command == "inspect":
        print(inspect(args.checkpoint))
        return
    request = Conversion(
        weight_format=args.format,
        dtype=None if args.dtype is None else getattr(torch, args.dtype),
        ema=args.ema,
        horizon=args.horizon,
        frames=args.frames,
        cameras=args.cameras,
        config=args.config,
        robot=args.robot,
    )
    convert(args.source, Path(args.destination), request)
    print(f"\n{args.destination}\n{inspect(args.destination)}")


def inspect(path: str) -> str:
    """A summary of a released checkpoint or of one of ours."""
    if not is_checkpoint(path):
        return f"released checkpoint {path}\n{inspect_released(path)}"
    folder = Path(path)
    checkpoint = load_checkpoint(folder)
    counts = {"network": checkpoint.model.policy, "encoders": checkpoint.model.condition}
    lines = [f"checkpoint {folder}"]
    lines += [
        f"  {name:9s} {sum(p.numel() for p in module.parameters()):,} parameters" for name, module in counts.items()
    ]
    lines.append(f"  chunk     {checkpoint.model.horizon} actions at {checkpoint.robot.rate_hz:g} Hz")
    if progress := read_progress(folder):
        lines.append(f"  trained   {progress[0]} of {checkpoint.config.steps} steps, {progress[1]:.0f} s")
    if (folder / HEAD).is_dir():
        lines.append(f"  acts by   {load_acting(folder / HEAD).config}")
    if best := read_best(folder):
        lines.append(f"  best      {best}")
    if (folder / STATISTICS_FILE).is_file():
        verify(folder, (STATISTICS_FILE,))
        statistics = json.loads((folder / STATISTICS_FILE).read_text(encoding="utf-8"))
        lines.append(
            f"  learnt    {statistics['num_episodes']} episodes, {statistics['num_steps']} steps; "
            "held-out ones not counted"
        )
    lines += ["", "robot", explain(checkpoint.robot), "", "config", dump_config(checkpoint.config)]
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What the new checkpoint shall be; None leaves as it is."""

    weight_format: WeightFormat = "bin"
    dtype: torch.dtype | None = None
    ema: bool = False  # the moving average in place of the weights
    horizon: int | None = None  # actions in a chunk
    frames: int | None = None  # per camera
    cameras: tuple[str, ...] | None = None  # roles, in the order of their tokens
    config: str | None = None  # a training config: write a checkpoint of this stack
    robot: str | None = None  # in place of the config's

    def __post_init__(self) -> None:
        if self.robot and not self.config:
            raise ValueError("--robot makes a checkpoint of this stack, which needs encoders too: add --config")
        if self.config and (self.frames or self.cameras):
            raise ValueError(
                "--frames and --cameras stand in the training config, as condition.image_history and "
                "condition.cameras: change them there, or leave out --config"
            )
        if self.config and self.weight_format != "bin":
            raise ValueError(f"a checkpoint of this stack is written as 'bin', got --format {self.weight_format}")


def convert(source: str, destination: Path, request: Conversion) -> None:
    """Write `destination`, a new folder, from a released checkpoint or one of ours; whole or not at all."""
    if destination.exists():
        raise ValueError(f"{destination} exists already: choose another name or remove it")
    train_config = None
    if request.config is not None:
        train_config = load_config(find_config("train", request.config))
        train_config = dataclasses.replace(train_config, robot=request.robot or train_config.robot)
        _check_unscaled(train_config.condition)
    wanted = train_config.condition if train_config else None
    policy = load_released(
        source,
        dtype=request.dtype,
        ema=request.ema,
        pred_horizon=request.horizon,
        image_history=wanted.image_history if wanted else request.frames,
        cameras=wanted.cameras if wanted else request.cameras,
        checkpoint_cameras=_cameras_of(source),
    )
    if train_config is None:
        with atomic_folder(destination) as temporary:
            save_released(policy, temporary, request.weight_format)
        return
    robot = Embodiment.from_yaml(find_config("robots", train_config.robot))
    model = VisuomotorPolicy(policy, train_config.condition, train_config.noise_slots)
    save_checkpoint(destination, model, robot, train_config)


def _cameras_of(source: str) -> tuple[str, ...] | None:
    """The order of cameras that a checkpoint of ours was trained with; a released one keeps to the usual order."""
    if not is_checkpoint(source):
        return None
    return read_run(source).condition.cameras


def _check_unscaled(condition: ConditionConfig) -> None:
    if condition.scaling != "none":
        raise ValueError(
            f"a released network reads SI units, but the config scales with {condition.scaling!r}, whose ranges come "
            "from training data: set condition.scaling to none"
        )
