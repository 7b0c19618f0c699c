"""Native store -> ALOHA HDF5, one file an episode in the robot's own order and units (spec interop.md section 5)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from data_pipeline.atomic import atomic_folder
from data_pipeline.sources.hdf5 import write_episode
from data_pipeline.storage import EpisodeStore


def export_aloha(
    store: EpisodeStore, out: str | Path, *, compress: bool = True, progress: Callable[[], object] = lambda: None
) -> None:
    """Write a folder `out` of `episode_<i>.hdf5`, whole or not at all. `compress=False` writes raw pictures."""
    with atomic_folder(out) as folder:
        for index, episode in enumerate(store):
            write_episode(
                folder / f"episode_{index}.hdf5",
                qpos=store.embodiment.from_unified(episode.states, kind="state"),
                action=store.embodiment.from_unified(episode.actions, kind="action"),
                images=episode.images,
                instructions=episode.instructions,
                embodiment=store.embodiment,
                rate_hz=episode.rate_hz,
                action_offset_steps=episode.action_offset_steps,
                compress=compress,
            )
            progress()
