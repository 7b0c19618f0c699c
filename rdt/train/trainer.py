"""One trainer for every objective: draw a batch, take a step, measure now and then, save so that nothing is lost.

Batches are a pure function of the step, so resuming needs the step number and no replay. Under torchrun every rank runs
this trainer on its share of each batch; the first one writes. What ranks, micro-batches and precision change is how a
gradient is computed, not which: of the mean over the whole batch.
"""

from __future__ import annotations

import copy
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from torch import nn
from tqdm import tqdm

from data_pipeline.atomic import write_json
from rdt.batch import micro_batches, to_device
from rdt.random import SampleGenerator, step_seed
from rdt.train.config import TrainConfig, plain_config
from rdt.train.ema import averaged
from rdt.train.gates import Gates
from rdt.train.loggers import Logger, open_loggers
from rdt.train.optim import make_optimizer, make_schedule
from rdt.train.parallel import (
    ALONE,
    Ranks,
    gradients_kept,
    is_shared,
    load_model_state,
    load_optimizer_state,
    model_state,
    optimizer_state,
    parallelize,
    unshared,
    whole,
)
from rdt.train.progress import Pace, progress_text, step_cost
from rdt.trainable import Trainable
from rdt.visuomotor import VisuomotorPolicy

Model = TypeVar("Model", bound=Trainable)


@dataclass(frozen=True)
class Measure:
    """What is looked at every so many steps, and after the last: `of(model, step)` gives numbers to log."""

    every: int
    of: Callable[[Any, int], dict[str, float]]
    alone: bool = False  # taken by the first rank only, of the whole model: it draws pictures, or asks other processes


class Trainer(Generic[Model]):
    """Runs `config.steps` optimizer steps of an objective.

    `batches(step)` gives the training batch of a step; `measures` are taken of the averaged weights where there are
    any; `keep_best(trainer, figures)` hears of their numbers, on every rank, and `save(trainer)` writes a checkpoint.
    `config.loggers` get one row per logged step, `gates` too, whose advice is printed.
    """

    def __init__(
        self,
        model: Model,
        objective: Callable[[Any, Any, SampleGenerator], tuple[torch.Tensor, dict[str, torch.Tensor]]],
        batches: Callable[[int], Any],
        config: TrainConfig,
        out: Path,
        *,
        measures: Sequence[Measure] = (),
        gates: Gates | None = None,
        save: Callable[[Trainer], None] | None = None,
        keep_best: Callable[[Trainer, dict[str, float]], None] | None = None,
        describe: Callable[[int], str] = str,
        ranks: Ranks = ALONE,
    ) -> None:
        """`objective` is an `Objective`, for whatever model and batches there are.

        `describe(index)` says where a sample comes from, for the report of a loss that is no number.
        """
        self.model = model
        self.objective = objective
        self.batches = batches
        self.config = config
        self.out = out
        self.measures = measures
        self.gates = gates or Gates(config.steps, config.optim.warmup_steps, mean_action_loss=None)
        self.save = save
        self.keep_best = keep_best
        self.describe = describe
        self.ranks = ranks
        self.generator = SampleGenerator(config.seed)
        self.average = averaged(model, config.optim.ema_decay) if config.optim.ema_decay else None
        self._plain = copy.deepcopy(model).to("cpu") if ranks.size > 1 and ranks.is_first else None
        # asked of a model that no ranks share yet
        self._cost = step_cost(model) if isinstance(model, VisuomotorPolicy) else None
        self._shared = parallelize(model, config.parallel, ranks)
        if self.average and self._shared is model:  # its shares lie where the model's do
            parallelize(self.deployed, config.parallel, ranks)
        self.optimizer = make_optimizer(model, config.optim)
        self.schedule = make_schedule(self.optimizer, config.optim, config.steps)
        self._autocast = choose_precision(config.precision, model.device) is torch.bfloat16
        self.step = 0
        self.row: dict[str, float] | None = None  # of this step, to be logged once its measures are taken
        self.train_seconds = 0.0  # in optimizer steps, over all resumed runs; validation and saving left out

    @property
    def deployed(self) -> Model:
        """The weights to validate, save and serve: the moving average where there is one."""
        return cast("Model", self.average.module) if self.average else self.model

    def deployed_copy(self) -> Model | None:
        """`deployed` as one whole, on the first rank; all have to ask."""
        if self.ranks.size == 1:
            return self.deployed
        state = model_state(self.deployed, whole=True)
        if self._plain is not None:
            self._plain.load_state_dict(state)
        return self._plain

    def run(self, log_every: int = 10) -> None:
        """Train up to `config.steps`. An interrupt lets the step end, saves a checkpoint, then leaves.

        Raises `FloatingPointError` when a gradient is no number, before it reaches the weights.
        """
        alone = self.ranks.is_first
        logged = self.step if self.row is None else self.step - 1  # what was interrupted is written anew
        loggers = open_loggers(self.config.loggers, self.out, logged, plain_config(self.config)) if alone else []
        pace = Pace(self.model.device, self._cost, self.step, self.config.steps, self.train_seconds, self.ranks.size)
        bar = tqdm(
            total=self.config.steps,
            initial=self.step,
            desc="train",
            unit="step",
            dynamic_ncols=True,
            disable=not alone,
        )
        smoothed: float | None = None
        substituted = 0  # samples since the last line
        together: AbstractContextManager[list[signal.Signals]] = nullcontext([])
        if self.ranks.size > 1:
            together = _interrupts_noted()
        with together as noted:
            try:
                with bar:
                    if self.row is not None:
                        self._look(loggers, bar)
                        self._save_if_due()
                    while self.step < self.config.steps:
                        started = time.perf_counter()
                        batch = self.batches(self.step)
                        pace.count(batch, time.perf_counter() - started)
                        substituted += batch.num_substituted
                        learning_rate = float(self.optimizer.param_groups[0]["lr"])  # a tensor in some optimizers
                        with _interrupts_held():
                            loss, parts = self._train_step(batch)
                            self.train_seconds += time.perf_counter() - started
                            self.step += 1
                            if self.step % log_every == 0 or self._due() or self.step == self.config.steps:
                                self.row = {
                                    "step": self.step,
                                    "seconds": round(self.train_seconds, 3),
                                    "lr": learning_rate,
                                    "loss": self.ranks.mean(loss).item(),
                                    **{name: self.ranks.mean(value).item() for name, value in parts.items()},
                                    **({"substituted": substituted} if substituted else {}),
                                }
                                self.row |= pace.figures(self.step, self.train_seconds)
                                substituted = 0
                        if self.ranks.any(bool(noted)):
                            raise KeyboardInterrupt  # one rank's is all ranks', after the same step
                        bar.update()
                        if self.row is not None:
                            smoothed = self.row["loss"] if smoothed is None else 0.9 * smoothed + 0.1 * self.row["loss"]
                            bar.set_postfix_str(progress_text(smoothed, self.row))
                            self._look(loggers, bar)
                        self._save_if_due()
            except KeyboardInterrupt:
                if self.save and self.step:  # before the first step there is nothing to keep
                    self.save(self)
                raise

    @property
    def shards(self) -> bool:
        """Whether a checkpoint of it is written in shards, so that no rank needs room for the whole."""
        # states in eight bits are tensors of torchao's own, which the files of shards do not know
        return is_shared(self.model) and self.config.optim.name != "adamw8bit"

    def state_dict(self, *, whole: bool = True) -> dict[str, Any]:
        """All that a resumed run needs beside the config; all ranks have to ask.

        It is complete on the first rank; without `whole` every rank has its own part of shared tensors, and the
        tensors are the trainer's own.
        """
        average = self.average
        return {
            "step": self.step,
            "row": self.row,
            "train_seconds": self.train_seconds,
            "model": model_state(self.model, whole=whole),
            "optimizer": optimizer_state(self.model, self.optimizer, whole=whole),
            "schedule": self.schedule.state_dict(),
            "average": (
                {"module": model_state(average.module, whole=whole), "count": int(average.n_averaged)}
                if average
                else None
            ),
        }

    def load_state_dict(self, state: dict[str, Any], *, whole: bool = True) -> None:
        """The inverse of `state_dict`; every rank gives the whole, or its own part."""
        self.step = state["step"]
        self.row = state.get("row")  # older states have none
        self.train_seconds = state["train_seconds"]
        load_model_state(self.model, state["model"], whole=whole)
        load_optimizer_state(self.model, self.optimizer, state["optimizer"], whole=whole)
        self.schedule.load_state_dict(state["schedule"])
        if self.average:
            load_model_state(self.average.module, state["average"]["module"], whole=whole)
            self.average.n_averaged.fill_(state["average"]["count"])

    def _train_step(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        self.model.train()
        rank_step = self.step * self.ranks.size + self.ranks.rank
        seed_torch(step_seed(self.config.seed, rank_step), self.model.device)  # dropout, where there is any
        self.optimizer.zero_grad(set_to_none=True)
        pieces = micro_batches(batch, self.config.data.micro_batch_size)
        losses, parts = [], dict[str, Any]()
        for number, piece in enumerate(pieces):
            share = len(piece.sample_index) / len(batch.sample_index)
            with gradients_kept(self._shared, shared=number == len(pieces) - 1):
                with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self._autocast):
                    loss, found = self._shared(self.objective, to_device(piece, self.model.device), self.generator)
                (loss * share).backward()
            losses.append(loss.detach() * share)
            parts = {name: parts.get(name, 0) + value * share for name, value in found.items()}
        loss = torch.stack(losses).sum()
        grad_norm = whole(nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip_norm))
        if not torch.isfinite(grad_norm):
            self._stop(batch, loss)
        self.optimizer.step()
        self.schedule.step()
        if self.average:
            self.average.update_parameters(self.model)
        return loss, {"grad_norm": grad_norm, **parts}

    def _stop(self, batch: Any, loss: torch.Tensor) -> None:
        """Say which samples made a gradient that is no number; the weights are still those of the step before."""
        name = "not_finite.json" if self.ranks.size == 1 else f"not_finite_rank{self.ranks.rank}.json"
        samples = {str(index): self.describe(index) for index in batch.sample_index.tolist()}
        write_json(self.out / name, {"step": self.step, "loss": repr(loss.item()), "samples": samples})
        raise FloatingPointError(
            f"loss {loss.item():g} at step {self.step}, its gradient is not finite: the samples of the batch are in "
            f"{self.out / name} and the last checkpoint is as it was; look at them, or lower optim.lr"
        )

    def _save_if_due(self) -> None:
        if self.save and self._is_due(self.config.checkpoint_every):
            self.save(self)

    def _look(self, loggers: Sequence[Logger], bar: tqdm) -> None:
        """Take the measures of this step and log its row. Interrupted, it is for the resumed run to do again."""
        assert self.row is not None
        row, due, figures = dict(self.row), self._due(), dict[str, float]()
        try:
            figures = self._measure(due)
            row |= figures
        finally:  # an interrupted measurement costs no row
            for logger in loggers:
                logger.log(row)
        for advice in self.gates(row) if self.ranks.is_first else ():
            bar.write(f"advice: {advice}")
        if due and self.keep_best:
            self.keep_best(self, figures)
        self.row = None

    def _measure(self, due: Sequence[Measure]) -> dict[str, float]:
        figures: dict[str, float] = {}
        for measure in due:
            self.deployed.eval()
            if not measure.alone:
                with unshared(self.deployed):
                    figures |= measure.of(self.deployed, self.step)
                continue
            # a share is no model to save or to move; of DDP every rank has the whole
            model = self.deployed_copy() if self._shared is self.model else self.deployed
            with self.ranks.together():
                if model is not None and self.ranks.is_first:
                    figures |= measure.of(model.eval(), self.step)
        return figures

    def _due(self) -> list[Measure]:
        return [measure for measure in self.measures if self._is_due(measure.every)]

    def _is_due(self, every: int) -> bool:
        return self.step == self.config.steps or (every > 0 and self.step % every == 0)


def seed_torch(seed: int, device: torch.device) -> None:
    """`torch.manual_seed`, without its tour of all devices where the model is on the CPU: a third of a small step."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The type that products are computed in."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


@contextmanager
def _interrupts_noted() -> Iterator[list[signal.Signals]]:
    """Ctrl-C and SIGTERM interrupt nothing within; they are noted."""
    noted: list[signal.Signals] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(number, lambda n, _: noted.append(signal.Signals(n))) for number in numbers]
    try:
        yield noted
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block has ended: what is saved then has done whole steps only."""
    if threading.current_thread() is not threading.main_thread():  # signals go to the main thread
        yield
        return
    held: list[signal.Signals] = []
    try:
        with _interrupts_noted() as held:
            yield
    finally:
        if held:
            signal.raise_signal(held[0])
