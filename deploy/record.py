"""Demonstrations of the embedded simulator's scripted expert, written as ALOHA HDF5.

    DIR/<task>/seed_<S>.hdf5    an accepted demonstration
    DIR/attempts.json           the settings, and every seed tried so far, per task: accepted or not

Seeds are tried in order and a run is resumed from `attempts.json`, so that the same settings give the same
files however often the recording was interrupted.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_pipeline.atomic import read_json, remove_leftovers, write_json
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.sources.hdf5 import write_episode
from data_pipeline.workers import num_workers, run_ordered
from rdt.train.config import DemonstrationConfig, differences
from robot_drivers.limits.chain import SIMULATED
from robot_drivers.sim.expert import POLICY_HZ, record_demonstration
from robot_drivers.sim.render import Renderer, make_renderer, settle_backend
from robot_drivers.sim.scene import SIDES, load_scene
from robot_drivers.sim.tasks import ENVIRONMENTS, SEEDS_PER_RUN, TASKS, lookup
from robot_drivers.tool_poses import tool_poses_of

ATTEMPTS_FILE = "attempts.json"


@dataclass(frozen=True)
class Attempt:
    """One try of the expert, as a worker gets it."""

    task: str
    distribution: str | None  # none: the task's own
    seed: int
    noise_rad: float
    action: str  # what counts as the action: DemonstrationConfig.action
    robot: Embodiment
    path: Path


def record_demonstrations(
    config: DemonstrationConfig, robot: Embodiment, out: Path, workers: int | None = None
) -> dict[str, list[Path]]:
    """Record until each task of the environment has `config.per_task` accepted demonstrations.

    Returns the files by task, in the order of their seeds. Raises `RuntimeError` when the expert fails too often.
    """
    environment = lookup(ENVIRONMENTS, config.environment)
    _check_robot(robot)
    settings = {
        "environment": environment.name,
        "noise_rad": config.noise_rad,
        "action": config.action,
        "seed": config.seed,
    }
    remove_leftovers(out)
    stored = _read_attempts(out)
    changed = differences({"action": "intended", **stored["settings"]}, settings) if stored["settings"] else []
    if changed:
        raise ValueError(f"{out} holds demonstrations of other settings ({', '.join(changed)}): use another folder")
    attempts = stored["tried"]
    files = {}
    for task in environment.tasks:
        remove_leftovers(out / task)
        tried = attempts.setdefault(task, {})
        for seed in [s for s, success in tried.items() if success and not _episode_path(out, task, int(s)).is_file()]:
            del tried[seed]  # somebody removed the file: record it again
        accepted = sum(tried.values())
        jobs = (
            Attempt(
                task,
                environment.distribution,
                seed,
                config.noise_rad,
                config.action,
                robot,
                _episode_path(out, task, seed),
            )
            for seed in _seeds(config)
            if str(seed) not in tried
        )
        with tqdm(
            total=config.per_task, initial=min(accepted, config.per_task), desc=f"record {task}", unit="demo"
        ) as bar:
            if accepted < config.per_task:
                settle_backend()
                for attempt, success in run_ordered(_record_one, jobs, workers or num_workers()):
                    tried[str(attempt.seed)] = success
                    write_json(out / ATTEMPTS_FILE, {"settings": settings, "tried": attempts})
                    accepted += success
                    bar.update(success)
                    if accepted == config.per_task:
                        break
                    if len(tried) >= 20 + 10 * config.per_task:
                        raise RuntimeError(
                            f"the expert succeeded in only {accepted} of {len(tried)} tries of {task}: "
                            f"lower demonstrations.noise_rad ({config.noise_rad})"
                        )
        files[task] = [_episode_path(out, task, int(seed)) for seed in sorted(tried, key=int) if tried[seed]]
        for path in set((out / task).glob("*")) - set(files[task]):  # a worker had begun more than was needed
            path.unlink()
    return {task: paths[: config.per_task] for task, paths in files.items()}


def count_attempts(out: Path) -> dict[str, dict[str, int]]:
    """Task -> how many tries were made and how many were accepted."""
    return {
        task: {"accepted": sum(tried.values()), "attempts": len(tried)}
        for task, tried in _read_attempts(out)["tried"].items()
    }


def _record_one(attempt: Attempt) -> bool:
    demonstration = record_demonstration(
        attempt.task,
        attempt.seed,
        noise_std_rad=attempt.noise_rad,
        distribution=attempt.distribution,
        roles=tuple(attempt.robot.cameras),
        renderer=_renderer(attempt.task),
    )
    if demonstration is None:
        return False
    tools = tool_poses_of(attempt.robot, SIMULATED)
    qpos = demonstration.qpos
    action = demonstration.executed if attempt.action == "executed" else demonstration.action
    if tools is not None:
        qpos, action = (np.array([tools.of_motors(row) for row in rows]) for rows in (qpos, action))
    write_episode(
        attempt.path,
        qpos=qpos,
        action=action,
        images=demonstration.images,
        instructions=demonstration.instructions,
        embodiment=attempt.robot,
        sim=True,
    )
    return True


@functools.cache
def _renderer(task: str) -> Renderer:
    return make_renderer(load_scene(TASKS[task].scene).model)


def _episode_path(out: Path, task: str, seed: int) -> Path:
    return out / task / f"seed_{seed}.hdf5"


def _seeds(config: DemonstrationConfig) -> Iterator[int]:
    yield from range(config.seed * SEEDS_PER_RUN, (config.seed + 1) * SEEDS_PER_RUN)


def _read_attempts(out: Path) -> dict[str, Any]:
    path = out / ATTEMPTS_FILE
    return read_json(path, "remove it to record again") if path.is_file() else {"settings": {}, "tried": {}}


def _check_robot(robot: Embodiment) -> None:
    """The expert drives one robot: both simulated arms, left first, targets at the end of 80 ms steps."""
    drivers = {side: arm.driver for side, arm in robot.arms.items()}
    if list(drivers.items()) != [(side, "sim") for side in SIDES]:
        raise ValueError(f"the expert drives the simulated arms {list(SIDES)}, robot {robot.name!r} has {drivers}")
    if (robot.rate_hz, robot.action_offset_steps) != (POLICY_HZ, 1):
        raise ValueError(
            f"the expert records at {POLICY_HZ} Hz with action_offset_steps 1, robot {robot.name!r} says "
            f"{robot.rate_hz} Hz and {robot.action_offset_steps}"
        )
