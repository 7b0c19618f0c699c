"""Data files of the native store: written whole, joined without decoding, read by byte.

A data file is parquet that any tool opens. Its pictures lie there uncompressed, in row groups of a few steps, and an
index beside it (Arrow) says where each JPEG begins and holds the unified vectors and marks: a sample is some slices of
two memory-mapped files, whatever the size of the store, and no parquet is parsed. The index is derived: a missing or
outdated one is made from the parquet when the file is opened.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipeline.atomic import atomic_path
from data_pipeline.feature_stats import Stats, frame_stats, row_stats, sampled_steps, to_plain
from data_pipeline.frames import JPEG_QUALITY, JpegFrames, check_frame, encode_jpeg
from data_pipeline.lerobot_format import (
    ACTION,
    COUNTERS,
    IMAGES,
    STATE,
    Feature,
    array_feature,
    camera_feature,
    counters,
    from_arrow,
    images_to_arrow,
    schema,
    to_arrow,
)
from data_pipeline.schema.layout import NUM_SLOTS, SLOT_NAMES
from data_pipeline.schema.types import Episode, Frames
from data_pipeline.transforms.images import resize

SOURCE = "source."
"""Prefix of the columns that keep a source's own fields."""

MARK = "rdt."
"""Prefix of the columns that mark steps: truth values, or whole numbers from 0 on."""

ANNOTATION = "annotation."
"""Prefix of the columns with numbers that were said of the steps afterwards (`Episode.annotations`)."""

_IMAGE_MASK, _ACTION_VALID = "image_mask.", "action_valid"
_COUNTED = ("instruction_of_step", "actor_of_step")

_GLOBAL = ("episode_index", "index", "task_index")  # known only when an episode has its place in the store
_NOTE = b"rdt"  # key of the description in the footer of a staged file
_BYTES = b"data_file_bytes"  # key in an index of the size of its data file


@dataclass(frozen=True)
class Profile:
    """How pictures and files of a store are made."""

    long_side_px: int = 384  # larger pictures are reduced to this once, with Pillow's bicubic; 0: never
    jpeg_quality: int = JPEG_QUALITY
    row_group_steps: int = 16
    file_megabytes: float = 256  # a data file is closed before it grows beyond this

    def __post_init__(self) -> None:
        if self.long_side_px < 0 or not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"long_side_px must be 0 or more and jpeg_quality 1 to 100, got {self}")
        if self.row_group_steps < 1 or not self.file_megabytes > 0:
            raise ValueError(f"row_group_steps and file_megabytes must be positive, got {self}")


@dataclass(frozen=True)
class EpisodeEntry:
    """What the store's table says of one episode."""

    name: str
    num_steps: int
    instructions: tuple[str, ...]
    rate_hz: float
    action_offset_steps: int
    state_slots: tuple[int, ...]  # slots that its states fill
    action_slots: tuple[int, ...]
    frame_sizes: Mapping[str, tuple[int, int]]  # role -> (height, width)
    num_bytes: int  # of pictures and columns, before any compression
    source: Mapping[str, Any] = field(default_factory=dict)  # where it came from, plain types
    instruction_weights: tuple[float, ...] = ()  # as in `Episode`
    max_steps: int | None = None  # steps that one visit of a longer episode draws; None: all

    def to_json(self) -> str:
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> EpisodeEntry:
        raw = json.loads(text)
        lists = ("instructions", "state_slots", "action_slots", "instruction_weights")
        listed = {key: tuple(raw[key]) for key in lists if key in raw}
        return cls(**{**raw, **listed, "frame_sizes": {k: tuple(v) for k, v in raw["frame_sizes"].items()}})


@dataclass(frozen=True)
class Staged:
    """An episode that lies in a file of its own, until it is joined with others."""

    entry: EpisodeEntry
    features: Mapping[str, Feature]
    stats: Mapping[str, Mapping[str, Any]]


def stage_episode(
    path: str | Path,
    episode: Episode,
    profile: Profile,
    *,
    source: Mapping[str, Any] | None = None,
    native: Mapping[str, np.ndarray] | None = None,
    max_steps: int | None = None,
) -> Staged:
    """Write one episode as a file of its own, whole or not at all: all the costly work, needing no store.

    Every picture is decoded once, so a broken one is found now. `native` are the source's own fields by path, (steps,
    ...) numbers or text; `source` and `max_steps` are noted in the table. Raises `ValueError` for what cannot be
    stored.
    """
    for text in (episode.name, *episode.instructions):
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(
                f"episode {episode.name!r}: {text!r} is no text that can be written: mend it at its source"
            )
    num_steps = episode.num_steps
    vectors = {STATE: episode.states, ACTION: episode.actions}
    features: dict[str, Feature] = {key: array_feature(values, SLOT_NAMES) for key, values in vectors.items()}
    columns: dict[str, pa.Array] = {}
    stats: dict[str, Stats] = {}
    sizes, num_bytes = {}, 0
    for role, frames in episode.images.items():
        key = IMAGES + role
        encoded, sampled = _coded(episode.name, role, frames, profile)
        sizes[role] = sampled[0].shape[:2]
        features[key] = camera_feature("image", *sizes[role])
        columns[key], stats[key] = images_to_arrow(encoded), frame_stats(sampled)
        num_bytes += sum(map(len, encoded))
    for name, values in (native or {}).items():
        key = SOURCE + name.strip("/").replace("/", ".")
        values = np.asarray(values)
        if len(values) != num_steps or key in features:
            what = "is there twice" if key in features else f"has {len(values)} rows for {num_steps} steps"
            raise ValueError(f"episode {episode.name!r}: source field {name!r} {what}")
        if not values.size:  # parquet's writer would end the process
            raise ValueError(f"episode {episode.name!r}: source field {name!r} has steps of no numbers: leave it out")
        features[key] = array_feature(values, path=name, step_shape=list(values.shape[1:]))
        vectors[key] = values
    for key, values in step_columns(episode).items():
        features[key], vectors[key] = array_feature(values), values
    ours = counters(num_steps, episode.rate_hz, 0, 0, 0)
    features |= COUNTERS
    for key, values in {**vectors, **{key: ours[key] for key in ours if key not in _GLOBAL}}.items():
        columns[key] = to_arrow(features[key], values)
        num_bytes += columns[key].nbytes
        if features[key].is_numeric and (found := row_stats(values)):
            stats[key] = found
    entry = EpisodeEntry(
        name=episode.name,
        num_steps=num_steps,
        instructions=episode.instructions,
        rate_hz=episode.rate_hz,
        action_offset_steps=episode.action_offset_steps,
        state_slots=tuple(np.flatnonzero(episode.state_mask).tolist()),
        action_slots=tuple(np.flatnonzero(episode.action_mask).tolist()),
        frame_sizes=sizes,
        num_bytes=num_bytes,
        source=dict(source or {}),
        instruction_weights=episode.instruction_weights,
        max_steps=max_steps,
    )
    plain = {key: to_plain(found) for key, found in stats.items()}
    kept = schema({key: features[key] for key in features if key in columns})
    table = pa.table(columns, schema=kept.with_metadata({_NOTE: _note(entry, features, plain)}))
    with atomic_path(path) as temporary, _writer(temporary, table.schema) as writer:
        writer.write_table(table, row_group_size=profile.row_group_steps)
    return Staged(entry, features, plain)


def read_staged(path: Path) -> Staged:
    """What `stage_episode` said of a file, from its footer."""
    note = _read_note(path)
    return Staged(EpisodeEntry.from_json(note["episode"]), _features(note), note["stats"])


def drop_columns(path: Path, keys: Sequence[str]) -> Staged:
    """Write a staged file anew without some of its columns."""
    staged = read_staged(path)
    features = {key: feature for key, feature in staged.features.items() if key not in keys}
    stats = {key: of for key, of in staged.stats.items() if key not in keys}
    with pq.ParquetFile(path) as file:
        kept = schema({key: features[key] for key in features if key in file.schema_arrow.names})
        kept = kept.with_metadata({_NOTE: _note(staged.entry, features, stats)})
        with atomic_path(path) as temporary, _writer(temporary, kept) as writer:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=kept.names, use_threads=False)
                writer.write_table(table.select(kept.names).cast(kept), row_group_size=len(table))
    return Staged(staged.entry, features, stats)


def _note(entry: EpisodeEntry, features: Mapping[str, Feature], stats: Mapping[str, Any]) -> str:
    """What `read_staged` reads."""
    return json.dumps({"episode": entry.to_json(), "features": _described(features), "stats": stats})


def _described(features: Mapping[str, Feature]) -> dict[str, Any]:
    return {key: feature.to_dict() for key, feature in features.items()}


def read_entries(path: Path) -> list[EpisodeEntry]:
    """The episodes of a data file, from its footer."""
    return [EpisodeEntry.from_json(text) for text in _read_note(path)["episodes"]]


def read_features(path: Path) -> dict[str, Feature]:
    """What the columns of a data file or of a staged file hold, from its footer."""
    return _features(_read_note(path))


def _features(note: Mapping[str, Any]) -> dict[str, Feature]:
    return {key: Feature.from_dict(key, raw) for key, raw in note["features"].items()}


def _read_note(path: Path) -> dict[str, Any]:
    return json.loads(pq.read_schema(path).metadata[_NOTE])


@dataclass(frozen=True)
class Part:
    """Rows to be joined into a data file: the first ones of an existing file, or a staged episode."""

    path: Path
    num_rows: int
    global_columns: Mapping[str, np.ndarray] = field(default_factory=dict)  # what a staged episode lacks


@dataclass(frozen=True)
class JoinJob:
    """One data file to be made of its parts: a pure function of them, whoever does it."""

    target: Path
    index: Path
    parts: tuple[Part, ...]
    features: Mapping[str, Feature]
    entries: tuple[EpisodeEntry, ...]  # of its episodes in the order of their rows


def join(_: None, job: JoinJob) -> None:
    """Write one data file of the parts' row groups, and its index.

    Columns that a part lacks are null; pictures stay as they are. The file says in its footer which episodes it holds,
    so that it is of use without the store's table.
    """
    features, whole = job.features, schema(job.features)
    note = {"episodes": [entry.to_json() for entry in job.entries], "features": _described(features)}
    whole = whole.with_metadata({**whole.metadata, _NOTE: json.dumps(note)})
    with atomic_path(job.target) as temporary, _writer(temporary, whole) as writer:
        for part in job.parts:
            row = 0
            with pq.ParquetFile(part.path, memory_map=True) as file:
                for group in range(file.num_row_groups):
                    if row == part.num_rows:
                        break
                    table = file.read_row_group(group, use_threads=False)
                    rows = slice(row, row + len(table))
                    added = {key: values[rows] for key, values in part.global_columns.items()}
                    writer.write_table(_conformed(table, added, whole, features), row_group_size=len(table))
                    row += len(table)
    write_index(job.target, job.index)


def write_index(data_file: Path, index: Path) -> None:
    table = build_index(data_file)
    with atomic_path(index) as temporary, pa.ipc.new_file(str(temporary), table.schema) as writer:
        writer.write_table(table)


def build_index(path: Path) -> pa.Table:
    """Where each picture of a data file begins and its length (-1: none); of each row the vectors, the marks (-1: none)
    and the annotations (not a number: none).
    """
    with pq.ParquetFile(path, memory_map=True) as file, path.open("rb") as content:
        leaves = {file.schema.column(i).path: i for i in range(len(file.schema))}
        cameras = [name for name in file.schema_arrow.names if name.startswith(IMAGES)]
        places: dict[str, list[np.ndarray]] = {f"{key}.{what}": [] for key in cameras for what in ("begin", "length")}
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=[f"{key}.bytes" for key in cameras], use_threads=False)
            for key in cameras:
                pictures = pc.struct_field(table[key], "bytes")
                lengths = pc.fill_null(pc.binary_length(pictures), -1).to_numpy().astype(np.int64)
                chunk = file.metadata.row_group(group).column(leaves[f"{key}.bytes"])
                begins = _begins(chunk, lengths)
                for begin, length in zip(begins, lengths, strict=True):
                    content.seek(max(begin - 4, 0))
                    if length >= 0 and int.from_bytes(content.read(4), "little") != length:
                        raise ValueError("its pictures are not where this writer puts them: another tool wrote it")
                places[f"{key}.begin"].append(begins)
                places[f"{key}.length"].append(lengths)
        said = [name for name in file.schema_arrow.names if is_step_column(name)]
        vectors = file.read(columns=[STATE, ACTION, *said], use_threads=False).combine_chunks()
    columns = {name: vectors[name] for name in (STATE, ACTION)}
    for name in said:
        kind, absent = (pa.int64(), -1) if name.startswith(MARK) else (pa.float32(), np.nan)
        columns[name] = pc.fill_null(vectors[name].cast(kind), absent)
    columns |= {name: pa.array(np.concatenate(values)) for name, values in places.items()}
    return pa.table(columns).replace_schema_metadata({_BYTES: str(path.stat().st_size)})


class DataFile:
    """One data file open for random access. Rows are those of the file."""

    def __init__(self, path: Path, index: Path, *, damaged: bool = False) -> None:
        """Raises `OSError` or `ValueError` for a file that is missing or damaged.

        Of a `damaged` one everything stands in its index, whose pictures may then not be there or be broken.
        """
        table = _read_index(index, None if damaged else path.stat().st_size)
        if table is None:
            table = build_index(path)
        with path.open("rb") as content:
            self._bytes = mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ)
        self.states = _vectors(table[STATE])  # (rows, 128), read-only
        self.actions = _vectors(table[ACTION])
        self.said = {name: table[name].to_numpy() for name in table.column_names if is_step_column(name)}
        names = [name.removesuffix(".begin") for name in table.column_names if name.endswith(".begin")]
        self._places = {name: (table[f"{name}.begin"].to_numpy(), table[f"{name}.length"].to_numpy()) for name in names}

    def jpeg(self, key: str, row: int) -> bytes:
        begins, lengths = self._places[key]
        begin = begins[row]
        return self._bytes[begin : begin + lengths[row]]


@dataclass(frozen=True)
class StoredEpisode(Episode):
    """An episode of a store: checked when it was written, so that drawing a sample costs no check of the whole."""

    def __post_init__(self) -> None:
        pass


def stored_episode(entry: EpisodeEntry, file: DataFile, first_row: int, images: Mapping[str, Frames]) -> Episode:
    """The episode of an entry whose rows begin at `first_row`; its arrays are views of mapped files."""
    rows = slice(first_row, first_row + entry.num_steps)
    said = {key: values[rows] for key, values in file.said.items() if not _is_absent(key, values[first_row])}
    return entry_episode(entry, file.states[rows], file.actions[rows], images, said, StoredEpisode)


def entry_episode(
    entry: EpisodeEntry,
    states: np.ndarray,
    actions: np.ndarray,
    images: Mapping[str, Frames],
    said: Mapping[str, np.ndarray],
    kind: type[Episode] = Episode,
) -> Episode:
    """What the table says of an episode, with its vectors, its pictures, and what columns say of its steps."""
    return kind(
        name=entry.name,
        states=states,
        state_mask=slot_mask(entry.state_slots),
        actions=actions,
        action_mask=slot_mask(entry.action_slots),
        images=images,
        instructions=entry.instructions,
        rate_hz=entry.rate_hz,
        action_offset_steps=entry.action_offset_steps,
        instruction_weights=entry.instruction_weights,
        **_said_of_steps(said, images),
    )


@lru_cache(maxsize=1024)
def slot_mask(slots: tuple[int, ...]) -> np.ndarray:
    """bool (128,), True in the slots given; read-only."""
    mask = np.zeros(NUM_SLOTS, dtype=bool)
    mask[list(slots)] = True
    mask.flags.writeable = False
    return mask


def native_fields(table: pa.Table, features: Mapping[str, Feature]) -> dict[str, np.ndarray]:
    """The source's own fields by path, as they were given; those that an episode lacks are left out."""
    native: dict[str, np.ndarray] = {}
    for key, feature in features.items():
        if key.startswith(SOURCE) and key in table.column_names and table[key].null_count < len(table):
            native |= native_field(feature, from_arrow(table[key], feature))
    return native


def native_field(feature: Feature, values: np.ndarray) -> dict[str, np.ndarray]:
    """A column of the source's own under its path, in the shape that a step has there."""
    return {feature.extra["path"]: values.reshape(len(values), *feature.extra["step_shape"])}


def read_rows(path: Path, keys: Sequence[str], start: int, stop: int) -> pa.Table:
    """Some columns of rows start .. stop - 1, through parquet."""
    with pq.ParquetFile(path, memory_map=True) as file:
        groups: list[int] = []
        first = row = 0
        for group in range(file.num_row_groups):
            end = row + file.metadata.row_group(group).num_rows
            if row < stop and end > start:
                first = row if not groups else first
                groups.append(group)
            row = end
        return file.read_row_groups(groups, columns=list(keys), use_threads=False).slice(start - first, stop - start)


def is_step_column(key: str) -> bool:
    """Whether a column is one of `step_columns`."""
    return key.startswith((MARK, ANNOTATION))


def step_columns(episode: Episode) -> dict[str, np.ndarray]:
    """What is said of single steps, by column; a mark that holds for all of them is not written."""
    marks = {_IMAGE_MASK + role: mask for role, mask in episode.image_masks.items() if not mask.all()}
    if episode.action_valid is not None and not episode.action_valid.all():
        marks[_ACTION_VALID] = episode.action_valid
    counted = {name: getattr(episode, name) for name in _COUNTED}
    marks |= {name: values for name, values in counted.items() if values is not None}
    said = {ANNOTATION + name: values for name, values in episode.annotations.items()}
    return {MARK + name: values for name, values in marks.items()} | said


def _said_of_steps(said: Mapping[str, np.ndarray], images: Mapping[str, Frames]) -> dict[str, Any]:
    """The fields of an `Episode` with those pictures that `step_columns` stand for; numbers of any type."""
    fields: dict[str, Any] = {"image_masks": {}, "annotations": {}}
    for key, values in said.items():
        name = key.removeprefix(MARK)
        if key.startswith(ANNOTATION):
            fields["annotations"] |= {key.removeprefix(ANNOTATION): values.astype(np.float32, copy=False)}
        elif name.startswith(_IMAGE_MASK):
            role = name.removeprefix(_IMAGE_MASK)
            fields["image_masks"] |= {role: values.astype(bool)} if role in images else {}
        elif name == _ACTION_VALID:
            fields["action_valid"] = values.astype(bool)
        elif name in _COUNTED:
            fields[name] = values.astype(np.int64)
    return fields


def _is_absent(key: str, first: float) -> bool:
    """Whether an episode lacks the column: by its value at the first step."""
    return bool(first < 0 if key.startswith(MARK) else np.isnan(first))


def _coded(name: str, role: str, frames: Frames, profile: Profile) -> tuple[list[bytes], list[np.ndarray]]:
    """Pictures as true-RGB JPEG of the profile's size, and some of them decoded. JPEGs that fit keep their bytes."""
    keep = isinstance(frames, JpegFrames) and frames.colour == "rgb"
    sampled_at = set(sampled_steps(len(frames)))
    encoded, sampled, shapes = [], [], set()
    for step in range(len(frames)):
        frame = frames[step]
        check_frame(frame)
        shapes.add(frame.shape)
        size = _fitted(frame.shape, profile.long_side_px)
        if keep and size == frame.shape[:2]:
            encoded.append(frames.encoded[step].rstrip(b"\0"))  # type: ignore[union-attr]
        else:
            frame = resize(frame, *size)
            encoded.append(encode_jpeg(frame, profile.jpeg_quality))
        if step in sampled_at:
            sampled.append(frame)
    if len(shapes) != 1:
        raise ValueError(f"episode {name!r}: camera {role!r} changes its size: {sorted(shapes)}")
    return encoded, sampled


def _fitted(shape: tuple[int, ...], long_side: int) -> tuple[int, int]:
    height, width = shape[:2]
    if not long_side or max(height, width) <= long_side:
        return height, width
    scale = long_side / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _writer(path: Path, columns: pa.Schema) -> pq.ParquetWriter:
    """Pictures plain and in one page a row group, so that they can be found by arithmetic; the rest small."""
    empty = pa.BufferOutputStream()
    pq.write_table(columns.empty_table(), empty)
    parquet = pq.ParquetFile(pa.BufferReader(empty.getvalue())).schema
    paths = [parquet.column(i).path for i in range(len(parquet))]
    small = [path for path in paths if not path.startswith(IMAGES)]
    return pq.ParquetWriter(
        path,
        columns,
        compression=dict.fromkeys(small, "snappy") | dict.fromkeys(set(paths) - set(small), "none"),
        use_dictionary=small,
        write_statistics=small,
        data_page_size=2**30,
    )


def _conformed(
    table: pa.Table, added: Mapping[str, np.ndarray], whole: pa.Schema, features: Mapping[str, Feature]
) -> pa.Table:
    columns = []
    for wanted in whole:
        if wanted.name in added:
            columns.append(to_arrow(features[wanted.name], added[wanted.name]))
        elif wanted.name in table.column_names:
            columns.append(table[wanted.name])
        else:
            columns.append(pa.nulls(len(table), wanted.type))
    return pa.table(columns, schema=whole)


def _begins(chunk: pq.ColumnChunkMetaData, lengths: np.ndarray) -> np.ndarray:
    """Plain values end where their column chunk ends, each behind its length in four bytes; those of null are 0."""
    if chunk.compression != "UNCOMPRESSED" or chunk.has_dictionary_page:
        raise ValueError("its pictures are compressed: another tool wrote it")
    sizes = np.where(lengths < 0, 0, lengths + 4)
    end = chunk.data_page_offset + chunk.total_compressed_size
    return np.where(lengths < 0, 0, end - sizes[::-1].cumsum()[::-1] + 4)


def _read_index(path: Path, data_file_bytes: int | None) -> pa.Table | None:
    """The index of a data file of that size, or of any; None where there is none, or one of another file."""
    try:
        with pa.memory_map(str(path)) as content:
            table = pa.ipc.open_file(content).read_all()
    except (OSError, pa.ArrowInvalid):
        return None
    known = (table.schema.metadata or {}).get(_BYTES)
    return table if data_file_bytes is None or known == str(data_file_bytes).encode() else None


def _vectors(column: pa.ChunkedArray) -> np.ndarray:
    return column.chunk(0).flatten().to_numpy().reshape(-1, NUM_SLOTS)
