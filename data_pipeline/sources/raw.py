"""What every file format becomes before a mapping gives it meaning: episodes of named arrays.

A `Source` lists shards (files that are read as one) and reads a shard into `RawEpisode`s, one at a time. Names are
slash paths as the format spells them ("observation/image", "observations/qpos", "/joint_states/position"). Nothing
is translated here: units, slots, colour order and language belong to the mapping (`data_pipeline/mapping/`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from data_pipeline.schema.types import Frames

FieldKind = Literal["array", "image", "text"]


@dataclass(frozen=True)
class FieldSpec:
    """What a source promises of one step field, before a record is read."""

    kind: FieldKind
    shape: tuple[int | None, ...] = ()  # of one step; None: not fixed
    dtype: str = "float32"


@dataclass(frozen=True)
class RawEpisode:
    """One recorded episode in the words of its file.

    Texts are `str`, an array of `str` by step, or code points by step (steps, length); images are frames as a
    standard decoder returns them, decoded when indexed (`JpegFrames` keeps the bytes).
    """

    name: str  # unique in its source: file and number
    num_steps: int
    fields: Mapping[str, np.ndarray]  # path -> (steps, ...) numbers, or (steps,) objects of str
    images: Mapping[str, Frames] = field(default_factory=dict)  # path -> as many frames as steps
    metadata: Mapping[str, Any] = field(default_factory=dict)  # path -> one value an episode; "episode_metadata/..."
    stamps_ns: np.ndarray | None = None  # int64 (steps,), where the format has clocks
    sidecar: Mapping[str, Any] = field(default_factory=dict)  # values of a file beside the episode


@dataclass(frozen=True)
class Fault:
    """Something that could not be used: told, counted, and never repaired in silence."""

    kind: str  # a row of the fault table (spec data.md section 7), for instance "truncated", "nan", "bad_crc"
    where: str  # file, episode, field, step
    message: str  # what was expected, what came, what was done about it
    left_out: bool = True  # False: the episode is there all the same, mended or masked


@dataclass(frozen=True)
class Shard:
    """A unit of reading and of conversion: one file, or one folder of a format that has several."""

    name: str  # stable and unique in its source
    path: Path
    index: int = 0  # place in the source's order


class Source(Protocol):
    """One format's reader, opened on one dataset."""

    def shards(self) -> Sequence[Shard]:
        """In name order, the same on every machine."""
        ...

    def fields(self) -> Mapping[str, FieldSpec] | None:
        """Step fields by path, where the format states them without reading a record; None where it does not."""
        ...

    def read(self, shard: Shard) -> Iterator[RawEpisode | Fault]:
        """Episodes of a shard in file order; what is damaged comes as a `Fault`, its neighbours as usual."""
        ...
