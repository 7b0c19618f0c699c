"""`rdt rollout`: let a policy act in the embedded simulator and keep what came of it, for alignment.

    DIR/              an episode store: what was seen and done, success and reward with each episode
    DIR.report.json   success by task, the checkpoint and the scenes
    DIR.incoming/     episodes on their way into the store

Each scene is tried several times with other sampling noise: what differs between two tries of one scene is what the
policy did, not where the objects lay. Scenes are of their own, apart from those of recording and of `rdt eval`. What is
there already is kept, so that an interrupted recording goes on.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data_pipeline.atomic import check_writable, read_json, write_json
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import read_yaml
from data_pipeline.storage import EpisodeStore
from deploy.evaluate import Settings, run_in_workers
from deploy.intervals import wilson_interval
from deploy.rollout import Trial, episode_name
from rdt.train.checkpoint import is_checkpoint
from rdt.train.config import differences
from robot_drivers.sim.render import settle_backend
from robot_drivers.sim.tasks import ENVIRONMENTS, EVALUATION_SEED, SEEDS_PER_RUN, TASKS, lookup

ROLLOUT_RUN = 20_000
"""Run of scenes from which on rollouts are; `rdt eval --seed` and trials during training use smaller ones."""


@dataclass(frozen=True)
class RolloutConfig:
    """Which rollouts are recorded."""

    environment: str = "sim_transfer"
    scenes: int = 50  # of each task
    per_scene: int = 4  # tries of one scene
    seed: int = 0

    def __post_init__(self) -> None:
        if self.scenes < 1 or self.per_scene < 1 or not 0 <= self.seed < ROLLOUT_RUN:
            raise ValueError(
                f"rollouts need at least one scene, one try of it and a seed in [0, {ROLLOUT_RUN}), got {self}"
            )


def command(args: argparse.Namespace) -> None:
    config = RolloutConfig(args.env, args.scenes, args.per_scene, args.seed)
    report = record_rollouts(Path(args.checkpoint), config, Path(args.out), args.device)
    for task, found in report["tasks"].items():
        low, high = found["interval_95"]
        print(f"{task:42s} {found['successes']} of {found['rollouts']} succeeded [{low:.1%}, {high:.1%}]")
    print(f"\n{args.out}; next: rdt align CONFIG --stores \"['{args.out}']\", or rdt data view {args.out}")


def record_rollouts(
    checkpoint: Path, config: RolloutConfig, out: Path, device: str = "auto", workers: int | None = None
) -> dict[str, Any]:
    """Record what is missing and return what the report says.

    Raises `ValueError` where `out` holds rollouts of another checkpoint or of other settings.
    """
    environment = lookup(ENVIRONMENTS, config.environment)
    if not is_checkpoint(checkpoint):
        raise ValueError(f"{checkpoint} is no checkpoint of this stack: give a folder that `rdt train` has written")
    check_writable(out.parent)
    report_path, incoming = out.with_name(out.name + ".report.json"), out.with_name(out.name + ".incoming")
    settings = {"checkpoint": str(checkpoint), "rollouts": asdict(config)}
    if EpisodeStore.exists(out) and report_path.exists():
        before = read_json(report_path, "use another folder")
        if changed := differences({key: before.get(key) for key in settings}, settings):
            raise ValueError(f"{out} holds rollouts of other settings ({', '.join(changed)}): use another folder")
    store = EpisodeStore.create(out, Embodiment.from_dict(read_yaml(checkpoint / "robot.yaml")))
    write_json(report_path, settings)
    trials = [trial for trial in planned(config, incoming) if not store.has(episode_name(trial))]
    missing = [trial for trial in trials if trial.recording and not trial.recording.is_file()]
    if missing:
        settle_backend()
        run_in_workers(checkpoint, Settings(environment.name, len(missing), 0, device), missing, workers, "rollouts")
    for trial in trials:
        assert trial.recording is not None
        store.adopt(trial.recording)
    store.flush()
    shutil.rmtree(incoming, ignore_errors=True)
    report = {**settings, "tasks": {task: _rates(store, task) for task in environment.tasks}}
    write_json(report_path, report)
    return report


def planned(config: RolloutConfig, incoming: Path) -> list[Trial]:
    """All trials, the tries of a scene one after the other; phrasings of training in turn."""
    environment = lookup(ENVIRONMENTS, config.environment)
    first = EVALUATION_SEED + (ROLLOUT_RUN + config.seed) * SEEDS_PER_RUN
    trials = []
    for name in environment.tasks:
        sentences = TASKS[name].instructions
        for scene in range(first, first + config.scenes):
            sentence = sentences[scene % len(sentences)]
            for attempt in range(config.per_scene):
                trial = Trial(environment.name, name, sentence, "trained", scene, attempt=attempt)
                file = episode_name(trial).replace("/", "_") + ".parquet"
                trials.append(replace(trial, recording=incoming / file))
    return trials


def _rates(store: EpisodeStore, task: str) -> dict[str, Any]:
    of_task = [i for i, name in enumerate(store.names) if name.startswith(task + "/")]
    ours = [bool(store.entry(i).source["success"]) for i in of_task]
    low, high = wilson_interval(sum(ours), len(ours))
    return {"successes": sum(ours), "rollouts": len(ours), "interval_95": [low, high]}
