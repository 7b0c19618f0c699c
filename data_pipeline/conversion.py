"""Recordings -> native store: resumable, one episode at a time, nothing dropped in silence.

A recording that cannot be read is left out and reported with its reason; everything else has been proved to
come back: unified -> native equals what the robot said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from data_pipeline.atomic import WriteError
from data_pipeline.frames import Colour
from data_pipeline.schema.embodiment import Embodiment, Kind
from data_pipeline.schema.types import Episode
from data_pipeline.sources.hdf5 import read_recording
from data_pipeline.storage import EpisodeStore

Progress = Callable[[int, int, str], None]
"""Called after each source with (sources done, sources in all, episode name)."""


@dataclass
class ConversionReport:
    """What became of every source, by episode name."""

    converted: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # in the store already, from the same file
    failed: dict[str, str] = field(default_factory=dict)  # name -> reason


def convert(
    sources: Sequence[str | Path],
    out: str | Path,
    embodiment: Embodiment,
    *,
    colour: Colour = "rgb",
    instructions: Sequence[str] = (),
    progress: Progress | None = None,
) -> ConversionReport:
    """Convert ALOHA HDF5 files, in the given order, into the store `out`; what it holds already is skipped.

    `colour` and `instructions` are those of `read_recording`. An episode is named by its file and folder,
    "pick_cup/episode_0". Raises `ValueError` for two sources of one name and `WriteError` for a full disk.
    """
    paths = _by_name(sources)
    report = ConversionReport()
    with EpisodeStore.create(out, embodiment) as store:
        earlier = store.sources
        for done, (name, path) in enumerate(paths.items(), start=1):
            try:
                source = _fingerprint(path)
                if name not in earlier:
                    store.add(_checked_episode(name, path, embodiment, colour, instructions), source)
                    report.converted.append(name)
                elif earlier[name] == source:
                    report.skipped.append(name)
                else:
                    raise ValueError(f"{path} has changed since it was converted: convert into a new store")
            except WriteError:
                raise
            except (ValueError, OSError) as error:
                report.failed[name] = str(error)
            if progress:
                progress(done, len(paths), name)
    return report


def check_round_trip(embodiment: Embodiment, native: np.ndarray, unified: np.ndarray, kind: Kind) -> None:
    """Raise `ValueError` unless `unified` gives back `native` to the precision of float32 slots."""
    # a slot's rounding, brought back to native units: relative to the value and to the gripper range's offset
    zeros = embodiment.from_unified(np.zeros(unified.shape[-1:], dtype=np.float32), kind=kind)
    tolerance = np.finfo(np.float32).eps * (np.abs(native) + np.abs(zeros))
    error = np.abs(embodiment.from_unified(unified, kind=kind) - native)
    if (error > tolerance).any():
        step, entry = np.argwhere(error > tolerance)[0]
        raise ValueError(
            f"{kind} does not survive the unified vector: {embodiment.native_names[entry]!r} at step {step} "
            f"was {native[step, entry]} and came back {error[step, entry]} off"
        )


def _by_name(sources: Sequence[str | Path]) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for path in map(Path, sources):
        name = f"{path.resolve().parent.name}/{path.stem}"
        if name in paths:
            raise ValueError(f"two sources are named {name!r}: {paths[name]} and {path}; rename one folder")
        paths[name] = path
    return paths


def _fingerprint(path: Path) -> dict[str, str | int]:
    """Tells a changed file from the one that was converted, without reading it."""
    stat = path.stat()
    return {"file": path.name, "bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}


def _checked_episode(
    name: str, path: Path, embodiment: Embodiment, colour: Colour, instructions: Sequence[str]
) -> Episode:
    recording = read_recording(path, embodiment, colour=colour, instructions=instructions)
    try:
        episode = replace(recording.to_episode(embodiment), name=name)
        check_round_trip(embodiment, recording.qpos, episode.states, "state")
        check_round_trip(embodiment, recording.action, episode.actions, "action")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return episode
