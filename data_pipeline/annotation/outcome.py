"""How episodes ended: the label that alignment learns from.

A store keeps it with each episode's source, under `success`: rollouts of the simulator are judged by it, trials of a
robot by a person.
"""

from __future__ import annotations

import numpy as np

from data_pipeline.selection import EpisodeSelection
from data_pipeline.storage import EpisodeStore

SUCCESS = "success"


def episode_success(episodes: EpisodeStore | EpisodeSelection) -> np.ndarray:
    """float32 (episodes,): 1 where an episode succeeded, 0 where it failed.

    Raises `ValueError` that names the first episodes of which nothing is said.
    """
    said = [episodes.entry(i).source.get(SUCCESS) for i in range(len(episodes))]
    silent = [episodes.entry(i).name for i, success in enumerate(said) if success is None]
    if silent:
        raise ValueError(
            f"{episodes.path}: {len(silent)} of {len(said)} episodes do not say whether they succeeded "
            f"({', '.join(silent[:3])}): record with `rdt rollout` or `rdt run --trials --record`"
        )
    return np.array(said, dtype=np.float32)
