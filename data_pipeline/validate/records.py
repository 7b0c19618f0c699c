"""What the checks look at: one episode as named columns with units, texts, cameras and stamps.

An `Episode` fills it by slots, in unified units. A record without a mapping fills it by the fields of its file; its
units are then unknown (""), and checks that need them stay silent.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from data_pipeline.schema.layout import SLOT_NAMES, SLOT_UNITS
from data_pipeline.schema.types import Episode, Frames
from data_pipeline.sources.raw import RawEpisode

ANGLE, GRIPPER, POSITION, ROTATION = "rad", "opening in [0, 1]", "m", "6-D rotation"
ANGLE_RATE, SPEED, OPENING_RATE = "rad/s", "m/s", "1/s"
PLACES = (ANGLE, POSITION, "")
"""Units of columns that say where the robot is; unknown ones may."""

MOST_TURNS_RAD = 4 * math.pi  # a wrist may turn twice; joint angles beyond are in other units

_CLOCKS = ("timestamp", "timestamps", "time", "stamp")
_NO_PLACES = ("reward", "discount", "done", "success")  # numbers by step that say nothing of the robot
_TEXTS = ("task", "instruction", "language_instruction", "natural_language_instruction")
_WIDEST_FIELD = 64  # numbers a step; wider ones are embeddings, not joints


@dataclass(frozen=True)
class Columns:
    """Numbers by step, their names and units."""

    values: np.ndarray  # float64 (steps, n)
    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()  # of layout.py, "" where unknown

    def of_units(self, *units: str) -> list[int]:
        return [i for i, unit in enumerate(self.units) if unit in units]


@dataclass(frozen=True)
class Record:
    """One episode, as far as it is known."""

    name: str
    state: Columns
    action: Columns
    images: Mapping[str, Frames] = field(default_factory=dict)
    image_masks: Mapping[str, np.ndarray] = field(default_factory=dict)  # camera -> bool (steps,): False is missing
    texts: tuple[str, ...] = ()
    rate_hz: float | None = None
    action_offset_steps: int | None = None  # None where nobody says
    stamps_ns: np.ndarray | None = None  # int64 (steps,)
    task: str = ""  # what tells tasks apart besides the text: the folder of the episode

    @property
    def is_unified(self) -> bool:
        """Whether units are known."""
        return any(self.state.units) or any(self.action.units)

    @property
    def num_steps(self) -> int:
        return len(self.state.values) or len(self.action.values)

    @cached_property
    def digest(self) -> str:
        """Equal for episodes of equal numbers; pictures are not compared."""
        content = hashlib.sha256()
        for columns in (self.state, self.action):
            content.update(np.ascontiguousarray(columns.values, dtype=np.float32).tobytes())
        return content.hexdigest()

    def pairs(self) -> list[tuple[int, int]]:
        """(column of the state, column of the action) that are the same place of the robot."""
        where = {name: i for i, name in enumerate(self.state.names)}
        return [
            (where[name], i)
            for i, (name, unit) in enumerate(zip(self.action.names, self.action.units, strict=True))
            if name in where and unit in PLACES
        ]


def of_episode(episode: Episode, stamps_ns: np.ndarray | None = None) -> Record:
    """An episode in unified units."""
    return Record(
        name=episode.name,
        state=_slots(episode.states, episode.state_mask),
        action=_slots(episode.actions, episode.action_mask),
        images=episode.images,
        image_masks=episode.image_masks,
        texts=episode.instructions,
        rate_hz=episode.rate_hz,
        action_offset_steps=episode.action_offset_steps,
        stamps_ns=stamps_ns,
        task=episode.name.rpartition("/")[0],
    )


def of_raw(raw: RawEpisode, rate_hz: float | None = None) -> Record:
    """A record in its file's own words. Fields whose name says action are the action, other floats the state."""
    floats: dict[str, np.ndarray] = {}
    for path, values in raw.fields.items():
        name = path.replace(".", "/").rpartition("/")[2].lower()
        if values.dtype.kind != "f" or len(values) != raw.num_steps or name in (*_CLOCKS, *_NO_PLACES):
            continue
        flat = values.reshape(raw.num_steps, -1)
        if flat.shape[1] <= _WIDEST_FIELD:
            floats[path] = flat.astype(np.float64)
    names = {path: path.lower().replace(".", "/").split("/") for path in floats}
    actions = {path: values for path, values in floats.items() if {"action", "actions"} & set(names[path])}
    states = {path: values for path, values in floats.items() if path not in actions}
    told = raw.metadata.get("rate_hz", rate_hz)
    offset = raw.metadata.get("action_offset_steps")
    return Record(
        name=raw.name,
        state=_fields(raw.num_steps, states),
        action=_fields(raw.num_steps, actions),
        images=raw.images,
        texts=_texts(raw),
        rate_hz=None if told is None else float(told),
        action_offset_steps=None if offset is None else int(offset),
        stamps_ns=raw.stamps_ns if raw.stamps_ns is not None else _stamps(raw),
        task=raw.name.rpartition("/")[0],
    )


def finite(record: Record) -> bool:
    return bool(np.isfinite(record.state.values).all() and np.isfinite(record.action.values).all())


def _slots(vectors: np.ndarray, mask: np.ndarray) -> Columns:
    slots = np.flatnonzero(mask)
    return Columns(
        np.asarray(vectors[:, slots], dtype=np.float64),
        tuple(SLOT_NAMES[slot] for slot in slots),
        tuple(SLOT_UNITS[slot] for slot in slots),
    )


def _fields(num_steps: int, fields: Mapping[str, np.ndarray]) -> Columns:
    if not fields:
        return Columns(np.zeros((num_steps, 0)))
    names = [f"{path}[{i}]" for path, values in fields.items() for i in range(values.shape[1])]
    return Columns(np.concatenate(list(fields.values()), axis=1), tuple(names), ("",) * len(names))


def _texts(raw: RawEpisode) -> tuple[str, ...]:
    """Each distinct text once: of the steps, else of the episode."""
    for path, values in raw.fields.items():
        if path.rpartition("/")[2] in _TEXTS and values.dtype == object:
            return tuple(dict.fromkeys(str(text) for text in values.ravel()))
    for path, value in raw.metadata.items():
        if path.rpartition("/")[2] in _TEXTS:
            return tuple(map(str, value)) if isinstance(value, list | tuple) else (str(value),)
    found: Any = raw.sidecar.get("instruction", ())
    return (found,) if isinstance(found, str) else tuple(map(str, found))


def _stamps(raw: RawEpisode) -> np.ndarray | None:
    """Of a field that is called a time: whole numbers are ns, others seconds."""
    for path, values in raw.fields.items():
        if path.rpartition("/")[2].lower() in _CLOCKS and values.size == raw.num_steps and values.dtype.kind in "iuf":
            flat = values.reshape(-1)
            if flat.dtype.kind == "f" and not np.isfinite(flat).all():
                return None
            return flat.astype(np.int64) if flat.dtype.kind in "iu" else np.round(flat * 1e9).astype(np.int64)
    return None
