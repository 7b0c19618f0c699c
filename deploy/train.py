"""`rdt train`: compose data, model, objective and trainer from a config.

OUT/demonstrations/, OUT/store/   when the config asks the embedded simulator for data
OUT/metrics.jsonl                 the learning curve
OUT/checkpoint/                   the newest checkpoint
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import yaml
from tqdm import tqdm

from data_pipeline.atomic import check_writable, recover_folder, remove_leftovers
from data_pipeline.conversion import convert
from data_pipeline.schema.embodiment import Embodiment, Kind
from data_pipeline.schema.registry import find_config, read_yaml, unknown_name
from data_pipeline.schema.types import CAMERA_ROLES
from data_pipeline.stats import Moments
from data_pipeline.storage import EpisodeSelection, EpisodeStore, split_held_out
from data_pipeline.stream import SampleStream
from deploy.device import choose_device
from deploy.record import record_demonstrations
from rdt.model.presets import PRESETS
from rdt.objective import DiffusionImitation
from rdt.random import SampleGenerator
from rdt.train.checkpoint import load_trainer_state, save_checkpoint
from rdt.train.config import TrainConfig, config_from_dict, differences, dump_config, load_config
from rdt.train.loader import BatchLoader
from rdt.train.metrics import sampling_error
from rdt.train.trainer import Trainer
from rdt.visuomotor import VisuomotorPolicy
from robot_drivers.sim.scene import load_scene
from robot_drivers.sim.tasks import ENVIRONMENTS, TASKS, lookup

VALIDATION_BATCHES = 4
FREE_ON_RESUME = dict.fromkeys(("out", "device", "validate_every", "checkpoint_every"))
"""Settings that a resumed run may change."""

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
    _robot(config)
    for role in config.condition.cameras:
        if role not in CAMERA_ROLES:
            raise ValueError(unknown_name("camera", role, CAMERA_ROLES))
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
    if len(paths) < len(EpisodeStore.open(out / STORE)):
        raise ValueError(
            f"{out / STORE} holds more than the {len(paths)} demonstrations that are asked for: use another out"
        )
    if report.failed:
        name, reason = next(iter(report.failed.items()))
        raise ValueError(
            f"{len(report.failed)} of {len(paths)} demonstrations cannot be converted; {name}: {reason}. "
            f"Remove the damaged files and {out / STORE}, and repeat the command"
        )


def train(config: TrainConfig, out: Path) -> None:
    """Train to the end, going on from `out/checkpoint` where there is one."""
    recover_folder(out / CHECKPOINT)
    robot = _robot(config)
    stores = [EpisodeStore.open(path) for path in _store_paths(config, out)]
    _check_run(config, out, robot, stores)
    torch.manual_seed(config.seed)
    model = VisuomotorPolicy(PRESETS[config.preset], config.condition, config.noise_slots)
    model.condition.text.prepare(["", *(sentence for store in stores for sentence in store.instructions)])
    parts = [split_held_out(store, config.data.held_out_every) for store in stores]
    statistics = _fit_scaling(model, config, [training for training, _ in parts])
    model.to(choose_device(config.device))
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

    remove_leftovers(out)
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


def _check_run(config: TrainConfig, out: Path, robot: Embodiment, stores: list[EpisodeStore]) -> None:
    """Refuse what would train the wrong thing: no data, another robot's data, another run's checkpoint."""
    if not stores:
        raise ValueError("the config names no data: set data.stores or demonstrations.per_task")
    for store in stores:
        if store.embodiment != robot:
            raise ValueError(
                f"{store.path} was recorded by robot {store.embodiment.name!r}, the config says {config.robot!r} "
                "or an older form of its YAML: set `robot`, or convert anew"
            )
    if not set(config.condition.cameras) & set(robot.cameras):
        raise ValueError(
            f"robot {robot.name!r} has cameras {list(robot.cameras)}: set condition.cameras to some of them"
        )
    if (out / CHECKPOINT).exists():
        path = out / CHECKPOINT / "run.yaml"
        before, now = (
            {**yaml.safe_load(dump_config(c)), **FREE_ON_RESUME}
            for c in (config_from_dict(read_yaml(path), where=str(path)), config)
        )
        changed = differences(before, now)
        if changed:
            raise ValueError(
                f"{out / CHECKPOINT} was trained with other settings ({', '.join(changed)}): use another out"
            )


def _fit_scaling(model: VisuomotorPolicy, config: TrainConfig, parts: list[EpisodeSelection]) -> dict:
    """Statistics of the training episodes, fitted into the model's scaling where the config asks for it."""
    statistics: dict = {
        "num_episodes": sum(len(part) for part in parts),
        "num_steps": sum(sum(part.episode_lengths) for part in parts),
    }
    kinds: tuple[Kind, ...] = ("state", "action")
    for kind in kinds:
        stats = sum((part.moments(kind) for part in parts), Moments.zero()).finish()
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
