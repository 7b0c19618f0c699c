"""One trainer for every objective: draw a batch, take a step, measure now and then, save so that nothing is lost.

Batches are a pure function of the step, so resuming needs the step number and no replay. Not here: many GPUs,
mixed precision, gradient accumulation.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from torch import nn
from tqdm import tqdm

from data_pipeline.atomic import explained, write_text
from rdt.batch import Batch, to_device
from rdt.objective import Objective
from rdt.random import SampleGenerator
from rdt.train.config import TrainConfig
from rdt.train.ema import averaged
from rdt.train.optim import make_optimizer, make_schedule
from rdt.visuomotor import VisuomotorPolicy


class Trainer:
    """Runs `config.steps` optimizer steps of an objective.

    `batches(step)` gives the training batch of a step; `validate(model)` gives numbers to log, of the averaged
    weights where there are any; `save(trainer)` writes a checkpoint. `metrics.jsonl` in `out` gets one line per
    logged step.
    """

    def __init__(
        self,
        model: VisuomotorPolicy,
        objective: Objective,
        batches: Callable[[int], Batch],
        config: TrainConfig,
        out: Path,
        *,
        validate: Callable[[VisuomotorPolicy], dict[str, float]] | None = None,
        save: Callable[[Trainer], None] | None = None,
    ) -> None:
        self.model = model
        self.objective = objective
        self.batches = batches
        self.config = config
        self.out = out
        self.validate = validate
        self.save = save
        self.generator = SampleGenerator(config.seed)
        self.optimizer = make_optimizer(model, config.optim)
        self.schedule = make_schedule(self.optimizer, config.optim, config.steps)
        self.average = averaged(model, config.optim.ema_decay) if config.optim.ema_decay else None
        self.step = 0
        self.train_seconds = 0.0  # in optimizer steps, over all resumed runs; validation and saving left out

    @property
    def deployed(self) -> VisuomotorPolicy:
        """The weights to validate, save and serve: the moving average where there is one."""
        return cast("VisuomotorPolicy", self.average.module) if self.average else self.model

    def run(self, log_every: int = 10) -> None:
        """Train up to `config.steps`. An interrupt lets the step end, saves a checkpoint, then leaves."""
        log = self.out / "metrics.jsonl"
        write_text(log, _whole_lines(log))
        bar = tqdm(total=self.config.steps, initial=self.step, desc="train", unit="step", dynamic_ncols=True)
        smoothed: float | None = None
        substituted = 0  # samples since the last line
        try:
            with bar:
                while self.step < self.config.steps:
                    started = time.perf_counter()
                    batch = self.batches(self.step)
                    substituted += batch.num_substituted
                    learning_rate = self.optimizer.param_groups[0]["lr"]
                    with _interrupts_held():
                        loss, parts = self._train_step(batch)
                        self.train_seconds += time.perf_counter() - started
                        self.step += 1
                    bar.update()
                    validate_now = self._is_due(self.config.validate_every)
                    if self.step % log_every == 0 or validate_now:
                        row = {
                            "step": self.step,
                            "seconds": round(self.train_seconds, 3),
                            "lr": learning_rate,
                            "loss": loss.item(),
                            **{name: value.item() for name, value in parts.items()},
                            **({"substituted": substituted} if substituted else {}),
                        }
                        substituted = 0
                        if not torch.isfinite(loss):
                            raise FloatingPointError(f"the loss is {row['loss']} at step {self.step}: lower optim.lr")
                        smoothed = row["loss"] if smoothed is None else 0.9 * smoothed + 0.1 * row["loss"]
                        if validate_now and self.validate:
                            self.deployed.eval()
                            row.update(self.validate(self.deployed))
                        with explained(log), log.open("a", encoding="utf-8") as lines:
                            lines.write(json.dumps(row) + "\n")
                        bar.set_postfix(loss=f"{smoothed:.4f}")
                    if self.save and self._is_due(self.config.checkpoint_every):
                        self.save(self)
        except KeyboardInterrupt:
            if self.save:
                self.save(self)
            raise

    def state_dict(self) -> dict:
        """All that a resumed run needs beside the config."""
        return {
            "step": self.step,
            "train_seconds": self.train_seconds,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "average": self.average.state_dict() if self.average else None,
        }

    def load_state_dict(self, state: dict) -> None:
        self.step = state["step"]
        self.train_seconds = state["train_seconds"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.average:
            self.average.load_state_dict(state["average"])

    def _train_step(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        self.model.train()
        loss, parts = self.objective(self.model, to_device(batch, self.model.device), self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        if self.average:
            self.average.update_parameters(self.model)
        return loss.detach(), {"grad_norm": grad_norm, **parts}

    def _is_due(self, every: int) -> bool:
        return self.step == self.config.steps or (every > 0 and self.step % every == 0)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block has ended: what is saved then has done whole steps only."""
    if threading.current_thread() is not threading.main_thread():  # signals go to the main thread
        yield
        return
    held: list[signal.Signals] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(number, lambda n, _: held.append(signal.Signals(n))) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


def _whole_lines(log: Path) -> str:
    """What a log holds, without a last line that a full disk or a killed run cut short."""
    text = log.read_text(encoding="utf-8") if log.is_file() else ""
    return text[: text.rfind("\n") + 1]
