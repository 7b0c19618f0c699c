"""`rdt train`: compose data, model, objective and trainer from a config.

OUT/demonstrations/, OUT/store/   when the config asks the embedded simulator for data
OUT/metrics.jsonl                 the learning curve
OUT/tensorboard/                  the same for TensorBoard
OUT/plots/                        predicted beside recorded actions of held-out episodes
OUT/features/                     what a frozen vision encoder makes of the pictures, where the config caches it
OUT/checkpoint/                   the newest checkpoint
OUT/best/                         the best by what was measured on the way, to act with
OUT/checkpoints/                  the last ones, where the config keeps more than one
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from data_pipeline.atomic import check_writable, read_json, recover_folder, remove_leftovers
from data_pipeline.conversion import convert
from data_pipeline.recordings import RobotRecordings
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config, shipped_configs, unknown_name
from data_pipeline.schema.types import CAMERA_ROLES
from data_pipeline.selection import split_held_out
from data_pipeline.stats import SlotStats
from data_pipeline.storage import EpisodeStore
from data_pipeline.workers import num_workers
from deploy.data.progress import progress_bar
from deploy.device import choose_device, memory_bytes
from deploy.doctor import require
from deploy.measures import closed_loop_success, open_loop_plots, plotted_episodes
from deploy.record import record_demonstrations
from rdt.encoders.feature_cache import FeatureCache
from rdt.model.manifest import verify
from rdt.objective import DiffusionImitation
from rdt.random import SampleGenerator
from rdt.train.adapt import adapt
from rdt.train.best import HELD_OUT, SUCCESS, BestSoFar, read_best
from rdt.train.checkpoint import STATISTICS_FILE, keep_earlier, read_progress, read_run, resume, save_checkpoint
from rdt.train.config import TrainConfig, differences, dump_config, load_config
from rdt.train.data import batch_loader, fit_scaling, sample_stream, weighted_stores
from rdt.train.features import cached_features
from rdt.train.gates import Gates, advice_before, mean_action_loss
from rdt.train.loggers import check_loggers
from rdt.train.lora import merged
from rdt.train.memory import advice, run_memory
from rdt.train.metrics import joint_figures, measure, sampling_figures
from rdt.train.parallel import ALONE, Ranks, joined_ranks
from rdt.train.start import Start, check_will_fit, load_start, network_config, open_start
from rdt.train.trainer import Measure, Trainer
from rdt.visuomotor import VisuomotorPolicy
from robot_drivers.sim.scene import load_scene
from robot_drivers.sim.tasks import ENVIRONMENTS, TASKS, lookup

VALIDATION_BATCHES = 4
FREE_ON_RESUME = dict.fromkeys(
    (
        "out",
        "device",
        "loggers",
        "validate_every",
        "plot_every",
        "evaluate_every",
        "evaluate_episodes",
        "checkpoint_every",
        "parallel",
        "keep_best",
        "keep_last",
        "activation_checkpointing",
    )
)
DATA_FREE_ON_RESUME = dict.fromkeys(("workers", "cache_features", "micro_batch_size", "max_bad_fraction", "bad_window"))
"""Settings that a resumed run may change, and those of its `data`."""

DEMONSTRATIONS, STORE, FEATURES = "demonstrations", "store", "features"
CHECKPOINT, BEST, EARLIER = "checkpoint", "best", "checkpoints"


def command(args: argparse.Namespace) -> None:
    *before, config = runs(load_config(find_config("train", args.config), args.overrides, args.demos))
    out = Path(config.out)
    if args.resume != "auto" and any((out / name).exists() for name in (CHECKPOINT, BEST, EARLIER)):
        raise ValueError(f"{out} holds a checkpoint already: go on with --resume auto, or give another --out")
    for run in (*before, config):
        check(run)
    for earlier, later in pairwise([*before, config]):
        check_will_fit(earlier, later)
    if not before:
        _open_start(config, out, report=lambda _: None)
    check_writable(out)
    with joined_ranks(choose_device(config.device)) as ranks:
        for run in before:
            ranks.tell(f"{run.out} is trained first: {config.out} starts from it")
            run_training(run, ranks)
        run_training(config, ranks)
    if not ranks.is_first:
        return
    simulated = f"rdt eval {out / CHECKPOINT} --env {config.demonstrations.environment} --out {out / 'eval'}"
    following = simulated if config.demonstrations.per_task else f"rdt checkpoint inspect {out / CHECKPOINT}"
    print(f"checkpoint in {out / CHECKPOINT}; next: {following}")


def runs(config: TrainConfig) -> list[TrainConfig]:
    """What has to run, in order, `config` the last: where `start_from` is the name of a shipped training config,
    the checkpoint of that run is meant, and it comes before as long as it is not finished.
    """
    name, shipped = config.start_from, shipped_configs("train")
    if name is None or name not in shipped or Path(name).exists():
        return [config]
    before = replace(load_config(shipped[name]), device=config.device, parallel=config.parallel)
    checkpoint = Path(before.out) / CHECKPOINT
    config = replace(config, start_from=str(checkpoint))
    if (Path(config.out) / CHECKPOINT).exists():
        return [config]
    progress = read_progress(checkpoint) if checkpoint.exists() else None
    finished = checkpoint.exists() and (progress is None or progress[0] >= before.steps)
    return [config] if finished else [*runs(before), config]


def run_training(config: TrainConfig, ranks: Ranks = ALONE) -> None:
    """One config from its demonstrations to its last step."""
    out = Path(config.out)
    if ranks.is_first:
        record(config, out)
        convert_demonstrations(config, out)
    ranks.wait()
    train(config, out, ranks)


def check(config: TrainConfig) -> None:
    """Raise `ValueError` for a name that does not exist or a part that is missing here, before hours of work."""
    choose_device(config.device)
    check_loggers(config.loggers)
    robot = _robot(config)
    for role in config.condition.cameras:
        if role not in CAMERA_ROLES:
            raise ValueError(unknown_name("camera", role, CAMERA_ROLES))
    with torch.device("meta"):
        model = VisuomotorPolicy(network_config(config), config.condition, config.noise_slots)
        adapt(model, config, lambda _: None)
    if config.data.cache_features and not model.condition.vision.frozen:
        raise ValueError(
            f"data.cache_features: the vision encoder {config.condition.vision!r} trains along, so its features "
            "change: set it to false, or choose siglip or timm:NAME"
        )
    if config.evaluate_every:
        require("evaluate_every", {"scipy": "scipy"})
        others = [side for side, arm in robot.arms.items() if arm.driver != "sim"]
        if others:
            raise ValueError(
                f"evaluate_every runs trials in the embedded simulator, which does not have robot {robot.name!r} "
                f"(driver {robot.arms[others[0]].driver!r}): set it to 0"
            )
    if config.demonstrations.per_task or config.evaluate_every:
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
    robot = _robot(config)
    with progress_bar() as progress:
        report = convert(RobotRecordings(paths, robot), out / STORE, robot, workers=num_workers(), progress=progress)
    if len(paths) < len(EpisodeStore.open(out / STORE)):
        raise ValueError(
            f"{out / STORE} holds more than the {len(paths)} demonstrations that are asked for: use another out"
        )
    if report.quarantined:
        first = report.quarantined[0]
        raise ValueError(
            f"{len(report.quarantined)} of {len(paths)} demonstrations cannot be converted; {first.where}: "
            f"{first.message}. Remove the damaged files and {out / STORE}, and repeat the command"
        )


def train(config: TrainConfig, out: Path, ranks: Ranks = ALONE) -> None:
    """Train to the end, going on from `out/checkpoint` where there is one."""
    if ranks.is_first:
        recover_folder(out / CHECKPOINT)
        recover_folder(out / BEST)
        for folder in (out, out / EARLIER):
            remove_leftovers(folder)
    ranks.wait()
    robot = _robot(config)
    recorded = [out / STORE] if config.demonstrations.per_task else []
    weights, unit = weighted_stores(config.data, recorded, ranks.tell)
    stores = [EpisodeStore.open(path) for path in weights]
    _check_run(config, out, robot, stores, ranks.tell)
    torch.manual_seed(config.seed)
    start = _open_start(config, out, ranks.tell)
    if start:
        model = load_start(start, config, ranks.tell)
    else:
        model = VisuomotorPolicy(network_config(config), config.condition, config.noise_slots)
    model.condition.text.prepare(["", *(sentence for store in stores for sentence in store.instructions)])
    parts = [split_held_out(store, config.data.held_out_every) for store in stores]
    training = {part: weights[part.path] for part, _ in parts}
    held_out = {part: weights[part.path] for _, part in parts if len(part)}
    statistics, randomisation = fit_scaling(model, config, list(training), start, ranks.tell)
    _check_data(statistics, out)
    adapt(model, config, ranks.tell)
    device = rank_device(config, ranks)
    _tell_memory(config, device, ranks)
    model.to(device)
    if config.data.cache_features:
        if ranks.is_first:
            cached_features(model.condition, stores, out / FEATURES, device, ranks.tell)
        ranks.wait()
        model.condition.feature_cache = FeatureCache(out / FEATURES)
    stream = sample_stream(config, model, training, unit, train=True)
    loader = batch_loader(config, model, stream, randomisation, ranks)
    validation = []
    if held_out:
        validation_loader = batch_loader(
            config, model, sample_stream(config, model, held_out, unit, train=False), None, ranks
        )
        validation = [validation_loader(step) for step in range(VALIDATION_BATCHES)]
        validation_loader.close()
    generator = SampleGenerator(config.seed)
    described = [number for number, part in enumerate(held_out) if part.store.is_of(robot)]

    def validate(policy: VisuomotorPolicy, _: int) -> dict[str, float]:
        errors = measure(policy, validation, generator)
        own = errors.of(np.isin(errors.store, described))
        return {**sampling_figures(errors, [part.path.name for part in held_out]), **joint_figures(own, robot)}

    def deployable(trainer: Trainer) -> VisuomotorPolicy | None:
        deployed = trainer.deployed_copy()  # of all ranks together
        return merged(deployed) if deployed is not None and config.lora.rank else deployed

    def save(trainer: Trainer) -> None:
        state, deployed = trainer.state_dict(whole=not trainer.shards), deployable(trainer)
        save_checkpoint(out / CHECKPOINT, deployed, robot, config, statistics, state, ranks=ranks)
        with ranks.together():
            if ranks.is_first:
                keep_earlier(out / CHECKPOINT, out / EARLIER, trainer.step, config.keep_last)

    best = BestSoFar(SUCCESS if config.evaluate_every else HELD_OUT, read_best(out / BEST))

    def keep_best(trainer: Trainer, figures: dict[str, float]) -> None:
        found = best.improved(figures, trainer.step) if ranks.is_first else None  # trials are known to the first alone
        if ranks.any(found is not None):
            save_checkpoint(out / BEST, deployable(trainer), robot, config, statistics, best=found, ranks=ranks)
            best.best = found

    measures = [Measure(config.validate_every, validate)] if validation else []
    plotted = plotted_episodes(part for part in held_out if part.store.is_of(robot)) if config.plot_every else []
    if plotted and find_spec("matplotlib") is None:
        ranks.tell("plot_every: no pictures, since matplotlib is missing: pip install 'rdt-stack[sim]'")
    elif plotted:
        measures.append(Measure(config.plot_every, open_loop_plots(plotted, robot, config, out), alone=True))
    if config.evaluate_every:
        measures.append(Measure(config.evaluate_every, closed_loop_success(robot, config, statistics, out), alone=True))
    actions = SlotStats.from_dict(statistics["action"])
    half_range = model.condition.scaling.get_buffer("action_half_range").cpu().numpy()
    mean_loss = mean_action_loss(actions, statistics["num_steps"], half_range)
    gates = Gates(config.steps, config.optim.warmup_steps, mean_loss)
    for line in advice_before(config.preset, config.data.batch_size, actions):
        ranks.tell(f"advice: {line}")
    trainer = Trainer(
        model,
        DiffusionImitation(),
        loader,
        config,
        out,
        measures=measures,
        gates=gates,
        save=save,
        keep_best=keep_best if config.keep_best and (validation or config.evaluate_every) else None,
        describe=stream.describe,
        ranks=ranks,
    )
    if (out / CHECKPOINT).exists():
        resume(trainer, out / CHECKPOINT, ranks)
    try:
        trainer.run()
    finally:
        loader.close()
    if trainer.keep_best and best.best is not None and best.best.step != trainer.step:
        ranks.tell(f"the best checkpoint is that of {best.best}: {out / BEST}")


def rank_device(config: TrainConfig, ranks: Ranks) -> torch.device:
    """This rank's own."""
    device = choose_device(config.device)
    return torch.device("cuda", ranks.local_rank) if device.type == "cuda" and ranks.size > 1 else device


def _tell_memory(config: TrainConfig, device: torch.device, ranks: Ranks) -> None:
    """What the run will take, and what would help where that is more than there is."""
    ranks.tell(f"the network will take {run_memory(config, device, ranks)}")
    if too_much := advice(config, memory_bytes(device), device, ranks):
        ranks.tell(too_much)


def _robot(config: TrainConfig) -> Embodiment:
    return Embodiment.from_yaml(find_config("robots", config.robot))


def _open_start(config: TrainConfig, out: Path, report: Callable[[str], None]) -> Start | None:
    """What a fresh run starts from; one that goes on starts from its own checkpoint."""
    if config.start_from is None or (out / CHECKPOINT).exists():
        return None
    return open_start(config, _robot(config), report)


def _check_run(
    config: TrainConfig, out: Path, robot: Embodiment, stores: list[EpisodeStore], report: Callable[[str], None]
) -> None:
    """Refuse what would train the wrong thing: no data, another robot's data, another run's checkpoint."""
    if not stores:
        raise ValueError("the config names no data: set data.stores or demonstrations.per_task")
    for store in stores:
        if store.is_described and not store.is_of(robot) and not config.data.other_robots:
            raise ValueError(
                f"{store.path} was recorded by robot {store.embodiment.name!r}, the config says {config.robot!r} "
                "or an older form of its YAML: set `robot`, convert anew, or mix robots with data.other_robots"
            )
    others = [store.path.name for store in stores if not store.is_of(robot)]
    if others:
        report(
            f"the checkpoint is for robot {robot.name!r}; of another one, or of one unknown, are: {', '.join(others)}"
        )
    if not set(config.condition.cameras) & set(robot.cameras):
        raise ValueError(
            f"robot {robot.name!r} has cameras {list(robot.cameras)}: set condition.cameras to some of them"
        )
    for folder in (out / CHECKPOINT, out / BEST):
        if folder.exists():
            before, now = map(_fixed, (read_run(folder), config))
            changed = differences(before, now)
            if changed:
                raise ValueError(f"{folder} was trained with other settings ({', '.join(changed)}): use another out")


def _check_data(statistics: dict[str, Any], out: Path) -> None:
    """Refuse to go on with other data than those of the run: order and scaling would change in its midst."""
    file = out / CHECKPOINT / STATISTICS_FILE
    if not file.is_file():
        return
    verify(file.parent, (file.name,))
    if read_json(file, "take an earlier checkpoint") != json.loads(json.dumps(statistics)):
        raise ValueError(
            f"the data are not those that {file.parent} was trained on, by their statistics: bring them back, or use "
            "another out, with start_from to go on from these weights"
        )


def _fixed(config: TrainConfig) -> dict:
    """The settings that a resumed run may not change, as plain types."""
    plain = yaml.safe_load(dump_config(config))
    return {**plain, "data": {**plain["data"], **DATA_FREE_ON_RESUME}, **FREE_ON_RESUME}
