"""The archive profile: a store with its pictures as mp4, a tenth of the size, and the way back to a store.

An archive is a LeRobotDataset v3.0 that standard tools play. It holds every column of the store and its table; the
pictures go through a lossy code each way. A store for training is made of it by `restore` (`rdt data repair`); before
that it is no store, whose pictures stand in tables, and its header has another name.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from data_pipeline.atomic import atomic_folder
from data_pipeline.export.lerobot import DatasetWriter, VideoCoding
from data_pipeline.lerobot_format import ACTION, IMAGES, STATE
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.shards import (
    SOURCE,
    EpisodeEntry,
    Profile,
    entry_episode,
    is_step_column,
    native_field,
    step_columns,
)
from data_pipeline.sources.lerobot import LeRobotSource
from data_pipeline.sources.raw import Fault
from data_pipeline.storage import HEADER, EpisodeStore
from data_pipeline.store_tables import ENTRY

ARCHIVE_HEADER = "archive.json"
"""The header of the store that was archived."""


def archive(
    store: EpisodeStore,
    out: str | Path,
    *,
    coding: VideoCoding | None = None,
    progress: Callable[[], object] = lambda: None,
) -> None:
    """Write `store` to the folder `out`, whole or not at all."""
    features = {key: feature for key, feature in store.features.items() if not feature.is_visual}
    paths = {feature.extra["path"]: key for key, feature in features.items() if key.startswith(SOURCE)}
    with atomic_folder(out) as folder:
        shutil.copy(store.path / HEADER, folder / ARCHIVE_HEADER)
        writer = DatasetWriter(folder, store, "v3.0", "video", coding or VideoCoding(), columns=features)
        for index, episode in enumerate(store):
            columns = {STATE: episode.states, ACTION: episode.actions}
            columns |= step_columns(episode)
            columns |= {paths[path]: values for path, values in store.native(index).items()}
            images = {IMAGES + role: frames for role, frames in episode.images.items()}
            note = {ENTRY: store.entries[index].to_json()}
            writer.add(columns, {key: features[key] for key in columns}, images, episode, note)
            progress()
        writer.finish()


def is_archive(path: str | Path) -> bool:
    return (Path(path) / ARCHIVE_HEADER).is_file()


def restore(folder: str | Path, out: str | Path, progress: Callable[[], object] = lambda: None) -> list[Fault]:
    """Make a store of an archive, or finish one that was interrupted; what cannot be read is left out and told."""
    folder = Path(folder)
    try:
        header = json.loads((folder / ARCHIVE_HEADER).read_text(encoding="utf-8"))
        robot = Embodiment.from_dict(header["embodiment"]) if header["embodiment"] else None
        profile = Profile(**header["profile"])
        tables = sorted((folder / "meta" / "episodes").rglob("*.parquet"))
        texts = [text for path in tables for text in pq.read_table(path, columns=[ENTRY])[ENTRY].to_pylist()]
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{folder} is no archive of a store ({error})") from None
    source, faults = LeRobotSource(folder), []
    with EpisodeStore.create(out, robot, robot_type=header["robot_type"], profile=profile) as store:
        for found in (found for shard in source.shards() for found in source.read(shard)):
            progress()
            if isinstance(found, Fault):
                faults.append(found)
                continue
            entry = EpisodeEntry.from_json(texts[found.metadata["episode_metadata/episode_index"]])
            if store.has(entry.name):
                continue
            images = {role: found.images[IMAGES + role] for role in entry.frame_sizes if IMAGES + role in found.images}
            said = {key: values for key, values in found.fields.items() if is_step_column(key)}
            episode = entry_episode(entry, found.fields[STATE], found.fields[ACTION], images, said)
            native: dict[str, np.ndarray] = {}
            for key in (key for key in found.fields if key.startswith(SOURCE)):
                native |= native_field(source.features[key], found.fields[key])
            store.add(episode, entry.source, native=native, max_steps=entry.max_steps)
    return faults
