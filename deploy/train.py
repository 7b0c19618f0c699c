"""`rdt train`: compose data, model, objective and trainer from a config.

OUT/demonstrations/, OUT/store/   when the config asks the embedded simulator for data
OUT/metrics.jsonl                 the learning curve
OUT/checkpoint/                   the newest checkpoint
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tqdm import tqdm

from data_pipeline.atomic import check_writable, remove_leftovers
from data_pipeline.conversion import convert
from data_pipeline.mixture import SampleStream
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config, unknown_name
from data_pipeline.storage import EpisodeStore, split_held_out
from deploy.device import choose_device
from deploy.record import record_demonstrations
from rdt.model.presets import PRESETS
from rdt.objective import DiffusionImitation
from rdt.random import SampleGenerator
from rdt.train.checkpoint import load_trainer_state, save_checkpoint
from rdt.train.config import TrainConfig, load_config
from rdt.train.loader import BatchLoader
from rdt.train.metrics import sampling_error
from rdt.train.trainer import Trainer
from rdt.visuomotor import VisuomotorPolicy
from robot_drivers.sim.scene import load_scene
from robot_drivers.sim.tasks import ENVIRONMENTS, TASKS, lookup

VALIDATION_BATCHES = 4
DEMONSTRATIONS, STORE, CHECKPOINT = "demonstrations", "store", "checkpoint"


def command(args: argparse.Namespace) -> None:
    config = load_config(find_config("train", args.config), args.overrides)
    out = Path(config.out)
    if (out / CHECKPOINT).exists() and args.resume != "auto":
        raise ValueError(f"{out} holds a checkpoint already: go on with --resume auto, or give another --out")
    check(config)
    check_writable(out)
    record(config, out)
    convert_demonstrations(config, out)
    train(config, out)
    print(
        f"checkpoint in {out / CHECKPOINT}; next: rdt eval {out / CHECKPOINT} --env "
        f"{config.demonstrations.environment} --out {out / 'eval'}"
    )


def check(config: TrainConfig) -> None:
    """Raise `ValueError` for a name that does not exist or a part that is missing here, before hours of work."""
    choose_device(config.device)
    robot = _robot(config)
    for role in config.condition.cameras:
        if role not in robot.cameras:
            raise ValueError(unknown_name("camera", role, robot.cameras, f" of robot {robot.name!r}"))
    with torch.device("meta"):
        VisuomotorPolicy(PRESETS[config.preset], config.condition, config.noise_slots)
    if config.demonstrations.per_task:
        for task in lookup(ENVIRONMENTS, config.demonstrations.environment).tasks:
            load_scene(TASKS[task].scene)


def record(config: TrainConfig, out: Path) -> None:
    """Record what `config.demonstrations` asks for, or what is still missing of it."""
    if config.demonstrations.per_task:
        record_demonstrations(config.demonstrations, _robot(config), out / DEMONSTRATIONS)


def convert_demonstrations(config: TrainConfig, out: Path) -> None:
    """Recorded HDF5 -> native store."""
    if not config.demonstrations.per_task:
        return
    files = record_demonstrations(config.demonstrations, _robot(config), out / DEMONSTRATIONS)
    paths = [path for task in files.values() for path in task]
    with tqdm(total=len(paths), desc="convert", unit="episode", dynamic_ncols=True) as bar:
        report = convert(paths, out / STORE, _robot(config), progress=lambda *_: bar.update())
    if report.failed:
        name, reason = next(iter(report.failed.items()))
        raise ValueError(
            f"{len(report.failed)} of {len(paths)} demonstrations cannot be converted; {name}: {reason}. "
            f"Remove the damaged files and {out / STORE}, and repeat the command"
        )


def train(config: TrainConfig, out: Path) -> None:
    """Train to the end, going on from `out/checkpoint` where there is one."""
    robot = _robot(config)
    stores = [EpisodeStore.open(path) for path in _store_paths(config, out)]
    if not stores:
        raise ValueError("the config names no data: set data.stores or demonstrations.per_task")
    remove_leftovers(out)
    torch.manual_seed(config.seed)
    model = VisuomotorPolicy(PRESETS[config.preset], config.condition, config.noise_slots)
    statistics = _fit_scaling(model, config, stores)
    model.to(choose_device(config.device))
    parts = [split_held_out(store, config.data.held_out_every) for store in stores]
    loader = _loader(config, model, [training for training, _ in parts], statistics["state"]["mean"], train=True)
    held_out = [part for _, part in parts if len(part)]
    validation = []
    if held_out:
        validation_loader = _loader(config, model, held_out, statistics["state"]["mean"], train=False)
        validation = [validation_loader(step) for step in range(VALIDATION_BATCHES)]
        validation_loader.close()
    generator = SampleGenerator(config.seed)

    def validate(policy: VisuomotorPolicy) -> dict[str, float]:
        return {"held_out_error": sampling_error(policy, validation, generator)} if validation else {}

    def save(trainer: Trainer) -> None:
        save_checkpoint(out / CHECKPOINT, trainer.deployed, robot, config, statistics, trainer.state_dict())

    trainer = Trainer(model, DiffusionImitation(), loader, config, out, validate=validate, save=save)
    if (out / CHECKPOINT).exists():
        trainer.load_state_dict(load_trainer_state(out / CHECKPOINT))
    try:
        trainer.run()
    finally:
        loader.close()


def _robot(config: TrainConfig) -> Embodiment:
    return Embodiment.from_yaml(find_config("robots", config.robot))


def _store_paths(config: TrainConfig, out: Path) -> list[Path]:
    own = [out / STORE] if config.demonstrations.per_task else []
    return [*map(Path, config.data.stores), *own]


def _fit_scaling(model: VisuomotorPolicy, config: TrainConfig, stores: list[EpisodeStore]) -> dict:
    """Statistics of the first store, fitted into the model's scaling where the config asks for it."""
    statistics: dict = {
        "num_episodes": sum(len(store) for store in stores),
        "num_steps": sum(sum(store.episode_lengths) for store in stores),
    }
    for kind in ("state", "action"):
        stats = stores[0].stats(kind)
        statistics[kind] = stats.to_dict()
        if config.condition.scaling == "min_max":
            model.condition.scaling.fit_min_max(kind, stats.min, stats.max, stats.count > 0)
    return statistics


def _loader(config: TrainConfig, model: VisuomotorPolicy, parts: list, mean_state, *, train: bool) -> BatchLoader:
    data = config.data
    stream = SampleStream(
        parts,
        seed=config.seed,
        horizon=model.horizon,
        image_history=config.condition.image_history,
        start_fraction=data.start_fraction if train else 0.0,
        start_steps=data.start_steps,
    )
    return BatchLoader(
        stream,
        model.condition,
        data.batch_size,
        seed=config.seed,
        dropout=data.dropout if train else None,
        random_shift_px=data.random_shift_px if train else 0,
        mean_state=mean_state,
    )
