"""A recorded episode in the policy's place: its actions as chunks, through the same loop, limits and arms.

The robot first goes, slowly, from where it is to where the episode's first action wants it; then every action has its
time. It answers once: after the last action the arms stay there.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.recordings import MappedRecordings
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.types import ActionChunk, Episode, Observation
from data_pipeline.sources.hdf5 import read_episode
from data_pipeline.sources.raw import Fault
from data_pipeline.storage import EpisodeStore
from deploy.realtime.recorder import DATASET
from robot_drivers.limits.bounds import Bounds
from robot_drivers.limits.chain import LimitSettings

OPENER = "deploy.realtime.replay:open_replay"
APPROACH_GRIPPER = 0.5  # openings per second on the way to the first action
HORIZON = 32


def load_episode(path: str | Path, robot: Embodiment, number: int = 0) -> Episode:
    """Episode `number` of a store, an MCAP file with its dataset.yaml beside it, or an ALOHA HDF5 file.

    Raises `FileNotFoundError`, `IndexError` for a number that is not there, and `ValueError` for anything that is not
    an episode of this robot's slots.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no recording {path}")
    episodes: list[Episode] | EpisodeStore
    if EpisodeStore.exists(path):
        episodes = EpisodeStore.open(path)
    elif path.suffix in (".hdf5", ".h5"):
        episodes = [read_episode(path, robot)]
    elif path.suffix == ".mcap":
        episodes = _of_mcap(path)
    else:
        raise ValueError(f"{path} is no store, no MCAP file and no HDF5 file")
    if not 0 <= number < len(episodes):
        raise IndexError(f"{path} has {len(episodes)} episodes, there is no number {number}")
    episode = episodes[number]
    lacking = [robot.native_names[i] for i in np.flatnonzero(~episode.action_mask[robot.slots])]
    if lacking:
        raise ValueError(f"episode {episode.name!r} has no actions for {lacking} of robot {robot.name!r}")
    return episode


def timeline(robot: Embodiment, state: np.ndarray, episode: Episode) -> np.ndarray:
    """The way from a unified state (128,) to the first action, then all actions: float32 (steps, 128)."""
    slots = robot.slots
    speed = np.where(Bounds.of(robot).grippers, APPROACH_GRIPPER, LimitSettings.approach_rad_s)
    away = np.abs(episode.actions[0][slots] - state[slots]) / speed  # s
    steps = math.ceil(away.max() * episode.rate_hz)
    share = np.arange(1, steps)[:, None] / max(steps, 1)
    approach = np.where(robot.mask, state + share * (episode.actions[0] - state), 0)
    actions = np.where(robot.mask, episode.actions, 0)
    return np.concatenate([approach, actions]).astype(np.float32)


class Replay:
    """A backend of the inference process; it looks at no camera."""

    cameras: tuple[str, ...] = ()
    image_history = 1

    def __init__(self, robot: Embodiment, episode: Episode) -> None:
        self._robot, self._episode = robot, episode
        self._step_ns = round(1e9 / episode.rate_hz)
        self._rows: np.ndarray | None = None
        self._start_ns = 0

    def predict(self, observation: Observation) -> ActionChunk:
        """The actions from the observation's time on; the first one a step after the first observation."""
        if self._rows is None:
            self._rows = timeline(self._robot, observation.state, self._episode)
            self._start_ns = observation.stamp_ns + self._step_ns
        first = max(0, -((self._start_ns - observation.stamp_ns) // self._step_ns))  # none that is past
        there = np.minimum(first + np.arange(HORIZON), len(self._rows) - 1)
        return ActionChunk(
            self._start_ns + first * self._step_ns, self._episode.rate_hz, self._rows[there], self._robot.mask.copy()
        )


def open_replay(robot: Embodiment, options: dict[str, Any]) -> Replay:
    """`options`: path and episode, of `load_episode`."""
    return Replay(robot, load_episode(options["path"], robot, options["episode"]))


def _of_mcap(path: Path) -> list[Episode]:
    dataset = path.parent / DATASET
    if not dataset.is_file():
        raise ValueError(f"{path} needs the dataset YAML that reads it beside it, as {DATASET}")
    data = MappedRecordings(dataset, path.parent, {"limits": {"min_length": 1}})
    found = [one for shard in data.shards() if shard.path.samefile(path) for one in data.read(shard)]
    episodes = [one.episode for one in found if not isinstance(one, Fault)]
    if not episodes:
        told = "; ".join(one.message for one in found if isinstance(one, Fault)) or f"{dataset} does not name it"
        raise ValueError(f"{path} has no episode: {told}")
    return episodes
