"""One trainer for every objective: draw a batch, take a step, measure now and then, save so that nothing is lost.

Batches are a pure function of the step, so resuming needs the step number and no replay. Not here: many GPUs,
mixed precision, gradient accumulation.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn
from tqdm import tqdm

from rdt.batch import Batch, to_device
from rdt.objective import Objective
from rdt.random import SampleGenerator
from rdt.train.config import TrainConfig, plain_config
from rdt.train.ema import averaged
from rdt.train.gates import Gates
from rdt.train.loggers import open_loggers
from rdt.train.optim import make_optimizer, make_schedule
from rdt.train.progress import Pace, progress_text
from rdt.visuomotor import VisuomotorPolicy


@dataclass(frozen=True)
class Measure:
    """What is looked at every so many steps, and after the last: `of(model, step)` gives numbers to log."""

    every: int
    of: Callable[[VisuomotorPolicy, int], dict[str, float]]


class Trainer:
    """Runs `config.steps` optimizer steps of an objective.

    `batches(step)` gives the training batch of a step; `measures` are taken of the averaged weights where there are
    any, and their newest numbers stand in `measured`; `save(trainer)` writes a checkpoint. `config.loggers` get one
    row per logged step, `gates` too, whose advice is printed.
    """

    def __init__(
        self,
        model: VisuomotorPolicy,
        objective: Objective,
        batches: Callable[[int], Batch],
        config: TrainConfig,
        out: Path,
        *,
        measures: Sequence[Measure] = (),
        gates: Gates | None = None,
        save: Callable[[Trainer], None] | None = None,
    ) -> None:
        self.model = model
        self.objective = objective
        self.batches = batches
        self.config = config
        self.out = out
        self.measures = measures
        self.measured: dict[str, float] = {}
        self.gates = gates or Gates(config.steps, config.optim.warmup_steps, mean_action_loss=None)
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
        loggers = open_loggers(self.config.loggers, self.out, self.step, plain_config(self.config))
        pace = Pace(self.model, self.step, self.config.steps, self.train_seconds)
        bar = tqdm(total=self.config.steps, initial=self.step, desc="train", unit="step", dynamic_ncols=True)
        smoothed: float | None = None
        substituted = 0  # samples since the last line
        try:
            with bar:
                while self.step < self.config.steps:
                    started = time.perf_counter()
                    batch = self.batches(self.step)
                    pace.count(batch, time.perf_counter() - started)
                    substituted += batch.num_substituted
                    learning_rate = self.optimizer.param_groups[0]["lr"]
                    with _interrupts_held():
                        loss, parts = self._train_step(batch)
                        self.train_seconds += time.perf_counter() - started
                        self.step += 1
                    bar.update()
                    due = [measure for measure in self.measures if self._is_due(measure.every)]
                    if due or self.step % log_every == 0 or self.step == self.config.steps:
                        row = {
                            "step": self.step,
                            "seconds": round(self.train_seconds, 3),
                            "lr": learning_rate,
                            "loss": loss.item(),
                            **{name: value.item() for name, value in parts.items()},
                            **({"substituted": substituted} if substituted else {}),
                        }
                        row |= pace.figures(self.step, self.train_seconds)
                        substituted = 0
                        if not torch.isfinite(loss):
                            raise FloatingPointError(f"the loss is {row['loss']} at step {self.step}: lower optim.lr")
                        smoothed = row["loss"] if smoothed is None else 0.9 * smoothed + 0.1 * row["loss"]
                        bar.set_postfix_str(progress_text(smoothed, row))
                        try:
                            row |= self._measure(due)
                        finally:  # an interrupted measurement costs no row
                            for logger in loggers:
                                logger.log(row)
                        for advice in self.gates(row):
                            bar.write(f"advice: {advice}")
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

    def _measure(self, due: Sequence[Measure]) -> dict[str, float]:
        figures: dict[str, float] = {}
        for measure in due:
            self.deployed.eval()
            figures |= measure.of(self.deployed, self.step)
        self.measured |= figures
        return figures

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
