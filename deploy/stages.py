"""One stage of alignment as a folder: what trains in it, trained to the end, going on where it was interrupted.

FOLDER/state/            what the stage's `write` puts there, trainer.pt, checksums
FOLDER/metrics.jsonl     curves, TensorBoard's beside them
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from data_pipeline.atomic import atomic_folder, recover_folder
from rdt.model.manifest import write_manifest
from rdt.train.checkpoint import load_trainer_state
from rdt.train.config import TrainConfig
from rdt.train.trainer import Measure, Trainer
from rdt.trainable import Trainable

STATE = "state"
"""Folder of what trains and of the trainer's state."""

AnyModel = TypeVar("AnyModel", bound=Trainable)


def train_stage(
    model: AnyModel,
    objective: Callable[..., Any],
    batches: Callable[[int], Any],
    train: TrainConfig,
    write: Callable[[Path, AnyModel], None] = lambda folder, model: None,
    measures: Sequence[Measure] = (),
) -> AnyModel:
    """In `train.out`; the averaged weights where there are any, ready to be asked. A stage that is done is read."""
    folder = Path(train.out)
    recover_folder(folder / STATE)

    def save(trainer: Trainer) -> None:
        with atomic_folder(folder / STATE, replace=True) as temporary:
            write(temporary, trainer.deployed)
            torch.save(trainer.state_dict(), temporary / "trainer.pt")
            write_manifest(temporary)

    trainer = Trainer(model, objective, batches, train, folder, measures=measures, save=save)
    if (folder / STATE).exists():
        trainer.load_state_dict(load_trainer_state(folder / STATE))
    if trainer.step < train.steps:
        print(f"{folder}: {train.steps} steps, from {trainer.step}", flush=True)
        trainer.run(log_every=max(10, train.steps // 500))
    return trainer.deployed.eval().requires_grad_(False)


def is_done(folder: Path, steps: int) -> bool:
    return (folder / STATE).exists() and load_trainer_state(folder / STATE)["step"] >= steps
