"""How episodes ended: the label that alignment learns from.

A store keeps it with each episode's source, under `success`: rollouts of the simulator are judged by it, trials of a
robot by a person.
"""

from __future__ import annotations

import numpy as np

from data_pipeline.selection import EpisodeSelection
from data_pipeline.storage import EpisodeStore

SUCCESS, SCENE = "success", "scene"


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


def success_ratio(episodes: EpisodeStore | EpisodeSelection) -> np.ndarray:
    """float32 (episodes,): success over the rate of success of all tries of the same scene; 1 where all ended alike.

    What could have ended otherwise tells good from bad; a scene that is always lost says nothing of what was done.
    Episodes that name no scene are tries of one.
    """
    success = episode_success(episodes)
    scenes = [episodes.entry(i).source.get(SCENE, "") for i in range(len(episodes))]
    ratio = np.ones_like(success)
    for scene in set(scenes):
        tries = np.array([other == scene for other in scenes])
        rate = success[tries].mean()
        if 0 < rate < 1:
            ratio[tries] = success[tries] / rate
    return ratio
