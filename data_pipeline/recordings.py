"""Shards of recordings -> episodes in unified units, a shard at a time as a pure function: what a conversion reads.

`MappedRecordings` gives records of any format the meaning that a dataset YAML says; `RobotRecordings` reads ALOHA HDF5
of a robot that its own YAML describes. Both are plain values that travel to worker processes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data_pipeline.frames import Colour
from data_pipeline.mapping import mapping as mappings
from data_pipeline.mapping.apply import MappedEpisode
from data_pipeline.schema.embodiment import Embodiment, Kind
from data_pipeline.schema.registry import read_yaml
from data_pipeline.schema.types import Episode
from data_pipeline.sources.hdf5 import read_recording
from data_pipeline.sources.opening import Opened, open_dataset
from data_pipeline.sources.raw import Fault, RawEpisode, Shard

MAX_NATIVE_NUMBERS = 1024  # numbers a step above which a source's own field is no vector and is not kept
SUCCESS_FIELDS = ("episode_metadata/success", "success")  # of a record, where it says how it ended: noted beside it


@dataclass(frozen=True)
class ReadEpisode:
    """An episode, and what a store keeps beside it."""

    episode: Episode
    native: Mapping[str, np.ndarray] = field(default_factory=dict)  # the source's own fields by path
    max_steps: int | None = None  # steps that one visit draws of a longer episode
    note: Mapping[str, Any] = field(default_factory=dict)  # where it came from, plain types


class Recordings(Protocol):
    """A dataset as shards that can be read in any order, anywhere."""

    @property
    def signature(self) -> str:
        """Changes whenever the same shards would be read as something else."""
        ...

    def shards(self) -> Sequence[Shard]:
        """All of them, in an order that is the same on every machine."""
        ...

    def read(self, shard: Shard) -> Iterator[ReadEpisode | Fault]:
        """What is in a shard, in its order; what cannot be used comes as a `Fault`, its neighbours as usual."""
        ...


class MappedRecordings:
    """The records that a dataset YAML names, in the units that it says."""

    def __init__(
        self, yaml_path: str | Path, root: str | Path | None = None, overrides: Mapping[str, Any] | None = None
    ) -> None:
        """Arguments as of `open_dataset`; `overrides` as of `Mapping.from_yaml`."""
        self.mapping = mappings.Mapping.from_yaml(yaml_path, overrides=overrides)
        self.signature = _digest({**read_yaml(yaml_path), **(overrides or {})})
        self._opened: list[Opened] = open_dataset(self.mapping, yaml_path, root)
        self._by_width = {rule.source.path for rule in self.mapping.rules() if rule.when_dim is not None}

    def shards(self) -> Sequence[Shard]:
        listed = [(opened.prefix, shard) for opened in self._opened for shard in opened.source.shards()]
        return [replace(shard, name=prefix + shard.name, index=i) for i, (prefix, shard) in enumerate(listed)]

    def read(self, shard: Shard) -> Iterator[ReadEpisode | Fault]:
        opened, shard = self._owner(shard)
        for found in opened.source.read(shard):
            if isinstance(found, Fault):
                yield replace(found, where=opened.prefix + found.where)
                continue
            raw = replace(found, name=opened.prefix + found.name)
            for result in self.mapping.apply(raw):
                yield result if isinstance(result, Fault) else self._kept(raw, result, opened.prefix + shard.name)

    def _owner(self, shard: Shard) -> tuple[Opened, Shard]:
        """The source that a shard of `shards` comes from, and the shard as that source numbers it."""
        first = 0
        for opened in self._opened:
            own = opened.source.shards()
            if shard.index < first + len(own):
                return opened, own[shard.index - first]
            first += len(own)
        raise ValueError(f"no shard number {shard.index}: the dataset has {first}")

    def _kept(self, raw: RawEpisode, mapped: MappedEpisode, shard: str) -> ReadEpisode:
        native = {}
        for path, values in raw.fields.items():
            width = math.prod(values.shape[1:])
            most = 1 if values.dtype == object else MAX_NATIVE_NUMBERS  # a column holds one text a step
            if len(values) == raw.num_steps and 0 < width <= most:
                # a field whose width differs from record to record is one column for each width
                native[f"{path}.{width}" if path in self._by_width else path] = values[mapped.steps]
        note: dict[str, Any] = {"dataset": mapped.dataset, "shard": shard, "record": raw.name}
        if len(mapped.steps) != raw.num_steps:
            note["steps"] = [int(mapped.steps[0]), int(mapped.steps[-1]) + 1]
        for path in SUCCESS_FIELDS:
            if path in raw.fields:
                note["success"] = bool(raw.fields[path].reshape(-1)[-1])
        return ReadEpisode(mapped.episode, native, mapped.max_steps, note)


class RobotRecordings:
    """ALOHA HDF5 files of one robot, an episode each, named by file and folder: "pick_cup/episode_0".

    Everything that is kept has been proved to come back: unified -> native equals what the robot said.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        embodiment: Embodiment,
        *,
        colour: Colour = "rgb",
        instructions: Sequence[str] = (),
    ) -> None:
        """`colour` and `instructions` are those of `read_recording`. Raises `ValueError` for two files of one name."""
        self._embodiment, self._colour, self._instructions = embodiment, colour, tuple(instructions)
        self._shards: dict[str, Shard] = {}
        for path in map(Path, paths):
            name = f"{path.resolve().parent.name}/{path.stem}"
            if name in self._shards:
                raise ValueError(
                    f"two sources are named {name!r}: {self._shards[name].path} and {path}; rename one folder"
                )
            self._shards[name] = Shard(name, path, len(self._shards))
        self.signature = _digest([embodiment.to_dict(), colour, list(instructions)])

    def shards(self) -> Sequence[Shard]:
        return list(self._shards.values())

    def read(self, shard: Shard) -> Iterator[ReadEpisode | Fault]:
        try:
            yield ReadEpisode(self._checked(shard), note={"file": shard.path.name})
        except (ValueError, OSError) as error:
            yield Fault("unreadable", shard.name, str(error))

    def _checked(self, shard: Shard) -> Episode:
        robot = self._embodiment
        recording = read_recording(shard.path, robot, colour=self._colour, instructions=self._instructions)
        try:
            episode = replace(recording.to_episode(robot), name=shard.name)
            check_round_trip(robot, recording.qpos, episode.states, "state")
            check_round_trip(robot, recording.action, episode.actions, "action")
        except ValueError as error:
            raise ValueError(f"{shard.path}: {error}") from None
        return episode


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


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
