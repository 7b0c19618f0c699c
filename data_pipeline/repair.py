"""Save what can be saved of a damaged store into a new one; the damaged one is left as it is.

Nothing is believed but the data files and their indices: a file whose end is gone still has its index, which knows the
vectors and where each picture lay. Every picture is decoded. An episode is saved whole, with up to one per cent of a
camera's pictures masked, or it is told as lost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.atomic import WriteError, check_apart
from data_pipeline.frames import JpegFrames
from data_pipeline.lerobot_format import IMAGES
from data_pipeline.mapping.apply import BAD_IMAGES
from data_pipeline.mapping.pictures import select_frames
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.types import Episode, Frames
from data_pipeline.shards import (
    SOURCE,
    DataFile,
    EpisodeEntry,
    Profile,
    native_fields,
    read_entries,
    read_features,
    read_rows,
    read_staged,
    stored_episode,
)
from data_pipeline.sources.raw import Fault
from data_pipeline.storage import HEADER, EpisodeStore
from data_pipeline.store_tables import ENTRY

_DAMAGE = (OSError, ValueError, KeyError, TypeError, IndexError, pa.ArrowException)


@dataclass(frozen=True)
class _Found:
    """A data file, and the episodes that it should hold in the order of their rows."""

    path: Path
    index: Path
    entries: Sequence[EpisodeEntry]


def is_damaged_store(path: str | Path) -> bool:
    """Whether a folder is, or was, a native store."""
    path = Path(path)
    return EpisodeStore.exists(path) or ((path / "data").is_dir() and (path / "index").is_dir())


def repair_store(path: str | Path, out: str | Path, progress: Callable[[str], object] = lambda _: None) -> list[Fault]:
    """Copy the episodes that can be read into the new store `out`; returns what was lost or mended.

    `progress` is called with the name of each episode. An interrupted call goes on.
    """
    path, faults = Path(path), list[Fault]()
    check_apart(out, path)
    robot, robot_type, profile = _header(path, faults)
    found = list(_found(path, faults))
    names = {entry.name for place in found for entry in place.entries}
    if EpisodeStore.exists(out) and not names.issuperset(EpisodeStore.open(out).names):
        raise ValueError(f"{out} holds episodes that {path} does not name: write into a new folder")
    with EpisodeStore.create(out, robot, robot_type=robot_type, profile=profile) as store:
        for place in found:
            for entry, episode, native in _episodes(place, path, faults):
                progress(entry.name)
                if store.has(entry.name):
                    continue
                try:
                    whole = _with_masks(episode, faults)
                    store.add(whole, entry.source, native=native, max_steps=entry.max_steps)
                except WriteError:
                    raise
                except _DAMAGE as error:
                    faults.append(Fault("lost", entry.name, f"{place.path}: {error}"))
    return faults


def _header(path: Path, faults: list[Fault]) -> tuple[Embodiment | None, str | None, Profile]:
    try:
        header = json.loads((path / HEADER).read_text(encoding="utf-8"))
        robot = Embodiment.from_dict(header["embodiment"]) if header["embodiment"] else None
        return robot, header["robot_type"], Profile(**header["profile"])
    except _DAMAGE as error:
        told = f"cannot be read ({error}): the robot's description is lost, unified vectors are kept"
        faults.append(Fault("header", str(path / HEADER), told, left_out=False))
        return None, None, Profile()


def _found(path: Path, faults: list[Fault]) -> Iterator[_Found]:
    table = _table(path)
    for data in sorted((path / "data").rglob("*.parquet")):
        index = path / "index" / data.relative_to(path / "data").with_suffix(".arrow")
        try:
            entries = read_entries(data)
        except _DAMAGE as error:
            entries = table.get(data.relative_to(path).as_posix(), [])
            if not entries:
                faults.append(Fault("lost", str(data), f"cannot be read ({error}), and no table says what it held"))
                continue
        yield _Found(data, index, entries)
    for staged in sorted((path / "incoming").glob("*.parquet")):
        yield _Found(staged, staged.with_suffix(".arrow"), list(_staged_entry(staged, faults)))


def _staged_entry(path: Path, faults: list[Fault]) -> Iterator[EpisodeEntry]:
    try:
        entry = read_staged(path).entry
    except _DAMAGE as error:
        faults.append(Fault("lost", str(path), f"cannot be read ({error})"))
    else:
        yield entry


def _table(path: Path) -> dict[str, list[EpisodeEntry]]:
    """What the table of episodes says of each data file, as far as it can be read."""
    table: dict[str, list[EpisodeEntry]] = {}
    for part in sorted((path / "meta" / "episodes").rglob("*.parquet")):
        try:
            rows = pq.read_table(part, columns=[ENTRY, "data/chunk_index", "data/file_index"]).to_pylist()
        except _DAMAGE:
            continue
        for row in rows:
            name = "data/chunk-{:03d}/file-{:03d}.parquet".format(row["data/chunk_index"], row["data/file_index"])
            table.setdefault(name, []).append(EpisodeEntry.from_json(row[ENTRY]))
    return table


def _episodes(
    place: _Found, store: Path, faults: list[Fault]
) -> Iterator[tuple[EpisodeEntry, Episode, dict[str, np.ndarray]]]:
    try:
        file = DataFile(place.path, place.index)
    except _DAMAGE as error:
        try:
            file = DataFile(place.path, place.index, damaged=True)
        except _DAMAGE:
            told = f"{place.path} cannot be read ({error})"
            faults.extend(Fault("lost", entry.name, told) for entry in place.entries)
            return
        told = f"cannot be read ({error}): read by its index, without the source's own columns"
        faults.append(Fault("truncated", str(place.path), told, left_out=False))
    first_row = 0
    for entry in place.entries:
        images = {
            role: JpegFrames(_Jpegs(file, IMAGES + role, first_row, entry.num_steps), name=f"{entry.name}, {role}")
            for role in entry.frame_sizes
        }
        try:
            yield entry, stored_episode(entry, file, first_row, images), _native(place.path, entry, first_row)
        except _DAMAGE as error:
            faults.append(Fault("lost", entry.name, f"{place.path}: {error}"))
        first_row += entry.num_steps


def _native(path: Path, entry: EpisodeEntry, first_row: int) -> dict[str, np.ndarray]:
    """The source's own fields, {} where the file cannot be read as parquet any more."""
    try:
        features = {key: feature for key, feature in read_features(path).items() if key.startswith(SOURCE)}
        table = read_rows(path, list(features), first_row, first_row + entry.num_steps)
    except _DAMAGE:
        return {}
    return native_fields(table, features)


def _with_masks(episode: Episode, faults: list[Fault]) -> Episode:
    """The episode with its few broken pictures masked. Raises `ValueError` where there are many."""
    images: dict[str, Frames] = {}
    masks: dict[str, Any] = dict(episode.image_masks)
    for role, frames in episode.images.items():
        good = np.array([_decodes(frames, step) for step in range(len(frames))])
        broken = int((~good).sum())
        if broken > BAD_IMAGES * len(good):
            raise ValueError(f"{broken} of {len(good)} pictures of camera {role} are broken")
        images[role] = frames
        if broken:
            images[role] = select_frames(frames, np.arange(len(good)), "rgb", good)
            masks[role] = good & masks.get(role, True)
            told = f"{broken} of {len(good)} pictures are broken: masked"
            faults.append(Fault("bad_image", f"{episode.name}, {role}", told, left_out=False))
    return replace(episode, images=images, image_masks=masks)


def _decodes(frames: Frames, step: int) -> bool:
    try:
        frames[step]
    except ValueError:
        return False
    return True


class _Jpegs(Sequence[bytes]):
    """The JPEGs of one camera at some rows of a data file."""

    def __init__(self, file: DataFile, key: str, first_row: int, num_steps: int) -> None:
        self._file, self._key, self._first_row, self._num_steps = file, key, first_row, num_steps

    def __len__(self) -> int:
        return self._num_steps

    def __getitem__(self, step: int) -> bytes:  # type: ignore[override]  # one picture, no slices
        return self._file.jpeg(self._key, self._first_row + range(self._num_steps)[step])
