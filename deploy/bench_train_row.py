"""One row of `rdt bench train`, in processes of its own: so many steps of a config, and what each took.

    python -m deploy.bench_train_row FOLDER ROW        or under torchrun, with as many ranks

FOLDER/ROW.yaml is the run, its `steps` with those that warm up; the first rank writes FOLDER/ROW.json.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from data_pipeline.atomic import write_json
from data_pipeline.selection import find_stores, split_held_out
from data_pipeline.storage import EpisodeStore
from deploy.bench import wake
from deploy.device import choose_device
from deploy.train import rank_device
from rdt.batch import Batch, micro_batches, to_device
from rdt.objective import DiffusionImitation, Objective, imitation_loss
from rdt.random import SampleGenerator
from rdt.train.adapt import adapt
from rdt.train.config import TrainConfig, load_config
from rdt.train.data import batch_loader, fit_scaling, sample_stream
from rdt.train.parallel import Ranks, joined_ranks
from rdt.train.progress import StepCost, peak_memory_gb
from rdt.train.start import network_config
from rdt.train.trainer import Trainer, choose_precision
from rdt.visuomotor import VisuomotorPolicy

PLAIN = "plain"
PEAK_MEMORY = "peak memory [GB]"


class PlainImitation:
    """The loss of `DiffusionImitation` as one writes it in an afternoon.

    Every sample has its own instruction, embedded and projected for it, and every picture goes through the encoder,
    the background that stands for a missing one too.
    """

    def __call__(
        self, model: VisuomotorPolicy, batch: Batch, generator: SampleGenerator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        seen = batch.observation
        own = replace(seen, text=seen.text[seen.text_index], text_mask=seen.text_mask[seen.text_index])
        features = model.condition.encode_images(seen.images.flatten(0, 1)).unflatten(0, seen.images.shape[:2])
        condition = replace(model.condition(own, features), lang_index=None)
        return imitation_loss(model, batch, condition, generator), {}


def train_plainly(
    model: VisuomotorPolicy, objective: Objective, batches: Callable[[int], Batch], config: TrainConfig
) -> None:
    """`config.steps` steps of the run that `Trainer` makes of it, with PyTorch's own choice of an AdamW."""
    optim, device = config.optim, model.device
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = AdamW(parameters, lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay)
    generator = SampleGenerator(config.seed)
    narrow = choose_precision(config.precision, device) is torch.bfloat16
    for step in range(config.steps):
        batch = batches(step)
        optimizer.zero_grad()
        for piece in micro_batches(batch, config.data.micro_batch_size):
            with torch.autocast(device.type, torch.bfloat16, enabled=narrow):
                loss, _ = objective(model, to_device(piece, device), generator)
            (loss * (len(piece.sample_index) / len(batch.sample_index))).backward()
        nn.utils.clip_grad_norm_(parameters, optim.clip_norm)
        optimizer.step()


@dataclass
class TimedBatches:
    """A loader that notes when it is asked for a batch, how long that takes, and what a step on it costs.

    Times are in seconds; `busy` is what this process had used of all cores when it was asked.
    """

    loader: Callable[[int], Batch]
    cost: StepCost
    asked: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    flops: list[float] = field(default_factory=list)

    def __call__(self, step: int) -> Batch:
        self.asked.append(time.perf_counter())
        self.busy.append(time.process_time())
        batch = self.loader(step)
        self.waited.append(time.perf_counter() - self.asked[-1])
        self.flops.append(self.cost(batch))
        return batch


@dataclass
class NotedLosses:
    """An objective that keeps its values, each times its number of samples; they stay on the device."""

    objective: Objective
    values: list[Tensor] = field(default_factory=list)

    def __call__(
        self, model: VisuomotorPolicy, batch: Batch, generator: SampleGenerator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss, parts = self.objective(model, batch, generator)
        self.values.append(loss.detach() * len(batch.sample_index))
        return loss, parts


def run_row(config: TrainConfig, out: Path, ranks: Ranks, *, plain: bool) -> dict[str, Any]:
    """Train, and say what every step took: time and CPU time from one batch to the next, waiting, operations, loss."""
    torch.manual_seed(config.seed)
    model = VisuomotorPolicy(network_config(config), config.condition, config.noise_slots)
    wake(model.policy)
    stores = [EpisodeStore.open(path) for named in config.data.stores for path in find_stores(named)]
    model.condition.text.prepare(["", *(sentence for store in stores for sentence in store.instructions)])
    parts = [split_held_out(store, config.data.held_out_every)[0] for store in stores]
    _, randomisation = fit_scaling(model, config, parts, None, ranks.tell)
    adapt(model, config, ranks.tell)
    model.to(rank_device(config, ranks))
    stream = sample_stream(config, model, dict.fromkeys(parts), "step", train=True)
    loader = batch_loader(config, model, stream, randomisation, ranks)
    batches = TimedBatches(loader, StepCost(model, peak=1.0))
    objective = NotedLosses(PlainImitation() if plain else DiffusionImitation())
    try:
        if plain:
            train_plainly(model, objective, batches, config)
        else:
            Trainer(model, objective, batches, config, out, ranks=ranks).run(log_every=config.steps)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        wall, busy = [*batches.asked, time.perf_counter()], [*batches.busy, time.process_time()]
    finally:
        loader.close()
    losses = torch.stack(objective.values).reshape(config.steps, -1).sum(dim=1)
    figures = {
        "milliseconds": [1e3 * (after - before) for before, after in itertools.pairwise(wall)],
        "CPU milliseconds": [1e3 * (after - before) for before, after in itertools.pairwise(busy)],
        "waited milliseconds": [1e3 * seconds for seconds in batches.waited],
        "flops": batches.flops,
        "losses": (losses * ranks.size / config.data.batch_size).tolist(),
        PEAK_MEMORY: peak_memory_gb(model.device),
    }
    if model.device.type == "cuda":
        figures["reserved memory [GB]"] = torch.cuda.max_memory_reserved(model.device) / 1e9
    return figures


def main(folder: Path, row: str) -> None:
    config = load_config(folder / f"{row}.yaml")
    with joined_ranks(choose_device(config.device)) as ranks:
        figures = run_row(config, folder, ranks, plain=row == PLAIN)
        if ranks.is_first:
            write_json(folder / f"{row}.json", figures)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
