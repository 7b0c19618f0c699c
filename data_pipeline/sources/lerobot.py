"""LeRobotDataset v2.0, v2.1 and v3.0 with pictures or video, read without the lerobot package (spec interop.md 1-4).

A shard is a data file. Fields are the dataset's features under their own keys, without the counters that every
dataset has; `task` is the text of each step, and `annotation.*` columns of the GR00T flavour are texts too. Paths come
from the templates in info.json. Depth cameras and the language event columns of late 3.0 writers are not read.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data_pipeline.atomic import read_json
from data_pipeline.feature_stats import MIN_CAMERA_STD, suspicious_cameras
from data_pipeline.frames import JpegFrames
from data_pipeline.lerobot_format import (
    COUNTERS,
    EPISODES_STATS_V2,
    EPISODES_V2,
    INFO,
    STATS,
    Feature,
    from_arrow,
    read_json_lines,
    read_tasks,
)
from data_pipeline.schema.types import Frames
from data_pipeline.sources.raw import Fault, FieldSpec, RawEpisode, Shard
from data_pipeline.sources.video import VideoFrames

TASK = "task"
"""Field of the instruction of each step."""

_TOLERANCE_S = 1e-4  # upstream's, for stamps against frame_index / fps
_ADVICE = "this is no complete LeRobotDataset"
_JPEG_START = b"\xff\xd8"


@dataclass(frozen=True)
class _Row:
    """One episode of the table."""

    index: int
    length: int
    tasks: tuple[str, ...]
    data: Path
    videos: Mapping[str, tuple[Path, float]]  # key -> file and the second at which the episode begins; absent: none


class LeRobotSource:
    """A dataset folder of any version that is known; which one is read from it."""

    def __init__(self, root: str | Path) -> None:
        """Raises `ValueError` for metadata that are missing, damaged or of another format."""
        self.root = Path(root)
        self.info = read_json(self.root / INFO, _ADVICE)
        self.version = str(self.info.get("codebase_version"))
        if self.version not in ("v2.0", "v2.1", "v3.0"):
            raise ValueError(f"{self.root} has codebase_version {self.version!r}: v2.0, v2.1 and v3.0 are read")
        self.fps = float(self._entry("fps"))
        if not self.fps > 0:
            raise ValueError(f"{self.root / INFO}: fps must be positive, got {self.fps}")
        self.robot_type: str | None = self.info.get("robot_type")
        self.features = {key: Feature.from_dict(key, raw) for key, raw in self._entry("features").items()}
        try:
            self.tasks = read_tasks(self.root)
            rows = self._rows_v3() if self.version == "v3.0" else self._rows_v2()
        except (OSError, KeyError, TypeError, pa.ArrowException) as error:
            raise ValueError(f"{self.root / 'meta'} is missing something or damaged ({error}): {_ADVICE}") from None
        self._rows: dict[Path, list[_Row]] = {}
        for row in rows:
            self._rows.setdefault(row.data, []).append(row)

    def shards(self) -> Sequence[Shard]:
        paths = sorted(self._rows)
        names = [path.relative_to(self.root).with_suffix("").as_posix() for path in paths]
        return [Shard(name, path, index) for index, (name, path) in enumerate(zip(names, paths, strict=True))]

    def fields(self) -> Mapping[str, FieldSpec]:
        specs = {TASK: FieldSpec("text", dtype="string")}
        for key, feature in self.features.items():
            if feature.is_visual and not _is_depth(feature):
                specs[key] = FieldSpec("image", (*feature.frame_size, 3), "uint8")
            elif feature.dtype == "string" or key.startswith("annotation."):
                specs[key] = FieldSpec("text", dtype="string")
            elif feature.is_numeric and key not in COUNTERS:
                specs[key] = FieldSpec("array", () if feature.shape == (1,) else feature.shape, feature.dtype)
        return specs

    def read(self, shard: Shard) -> Iterator[RawEpisode | Fault]:
        if not shard.path.is_file():
            yield Fault("missing_file", shard.name, f"no file {shard.path}: its episodes are left out")
            return
        try:
            with pq.ParquetFile(shard.path, memory_map=True) as file:
                numbers = file.read(columns=["episode_index"], use_threads=False)["episode_index"].to_numpy()
                runs = _runs(numbers)
                rows = _RowReader(file, [key for key in self._columns() if key in file.schema_arrow.names])
                for row in self._rows[shard.path]:
                    where = f"{shard.name}, episode {row.index}"
                    found = runs.pop(row.index, (0, 0))
                    if found[1] - found[0] != row.length:
                        told = f"{found[1] - found[0]} rows in one piece, the table says {row.length}"
                        yield Fault("wrong_length", where, f"{told}: the episode is left out")
                        continue
                    yield from self._episode(row, rows.read(*found), where)
        except (pa.ArrowException, OSError, KeyError) as error:
            yield Fault("truncated", shard.name, f"{shard.path} cannot be read ({error}): the rest of it is left out")
            return
        for number in runs:
            yield Fault("wrong_length", f"{shard.name}, episode {number}", "not in the table of episodes: left out")

    def faults(self) -> list[Fault]:
        """What is wrong with the dataset as a whole. Its statistics are never used, but other tools use them."""
        if (self.root / STATS).is_file():
            stored = [read_json(self.root / STATS, _ADVICE)]
        elif (self.root / EPISODES_STATS_V2).is_file():
            stored = [row["stats"] for row in read_json_lines(self.root / EPISODES_STATS_V2)]
        else:
            stored = []
        cameras = sorted({key for stats in stored for key in suspicious_cameras(stats)})
        told = f"its stored deviation is below {MIN_CAMERA_STD}, which no camera has: compute the statistics anew"
        return [Fault("bad_statistics", f"{self.root / 'meta'}, {key}", told, left_out=False) for key in cameras]

    @property
    def num_episodes(self) -> int:
        """Of the table of episodes."""
        return sum(map(len, self._rows.values()))

    @property
    def num_steps(self) -> int:
        return sum(row.length for rows in self._rows.values() for row in rows)

    def video_lengths(self) -> dict[Path, int]:
        """Frames that the table of episodes says of each video file."""
        lengths: dict[Path, int] = {}
        for row in (row for rows in self._rows.values() for row in rows):
            for path, _ in row.videos.values():
                lengths[path] = lengths.get(path, 0) + row.length
        return lengths

    def names(self, key: str) -> tuple[str, ...] | None:
        """What the dataset calls the entries of a feature. Written by hand, and wrong in known datasets."""
        return self.features[key].names

    def _entry(self, key: str) -> Any:
        if key not in self.info:
            raise ValueError(f"{self.root / INFO} has no {key!r}: {_ADVICE}")
        return self.info[key]

    def _columns(self) -> list[str]:
        return [key for key, feature in self.features.items() if feature.dtype != "video" and not _is_depth(feature)]

    def _video_keys(self) -> list[str]:
        return [key for key, feature in self.features.items() if feature.dtype == "video" and not _is_depth(feature)]

    def _rows_v2(self) -> Iterator[_Row]:
        for raw in read_json_lines(self.root / EPISODES_V2):
            number = int(raw["episode_index"])
            place = {"episode_chunk": number // int(self._entry("chunks_size")), "episode_index": number}
            videos = {
                key: (self.root / self._entry("video_path").format(video_key=key, **place), 0.0)
                for key in self._video_keys()
            }
            data = self.root / self._entry("data_path").format(**place)
            yield _Row(number, int(raw["length"]), tuple(raw.get("tasks", ())), data, videos)

    def _rows_v3(self) -> Iterator[_Row]:
        for path in sorted((self.root / "meta" / "episodes").rglob("*.parquet")):
            columns = [name for name in pq.read_schema(path).names if not name.startswith("stats/")]
            for raw in pq.read_table(path, columns=columns, use_threads=False).to_pylist():
                place = {key: raw[f"data/{key}"] for key in ("chunk_index", "file_index")}
                videos = {}
                for key in self._video_keys():
                    at = {name: raw.get(f"videos/{key}/{name}") for name in ("chunk_index", "file_index")}
                    begin = raw.get(f"videos/{key}/from_timestamp")
                    if begin is not None and None not in at.values():
                        videos[key] = (self.root / self._entry("video_path").format(video_key=key, **at), float(begin))
                data = self.root / self._entry("data_path").format(**place)
                yield _Row(raw["episode_index"], raw["length"], tuple(raw.get("tasks") or ()), data, videos)

    def _episode(self, row: _Row, table: pa.Table, where: str) -> Iterator[RawEpisode | Fault]:
        """The episode, after what is wrong with it; without it where it cannot be used."""
        fields: dict[str, np.ndarray] = {}
        images: dict[str, Frames] = {}
        faults = _Faults(where)
        for key in self._columns():
            feature = self.features[key]
            if key not in table.column_names:
                faults.fatal("missing_field", f"{key!r} is not among the columns {table.column_names}")
            elif feature.dtype == "image":
                frames = self._pictures(table[key], f"{where}, {key}")
                if frames is None:
                    faults.add("missing_camera", f"{key!r} has no pictures: that view is missing")
                else:
                    images[key] = frames
            elif table[key].null_count < len(table):  # else an episode without that field
                try:
                    fields[key] = from_arrow(table[key], feature)
                except ValueError as error:
                    faults.fatal("wrong_width", f"{key!r} {error}")
        if faults.is_fatal:
            yield from faults.all
            return
        for key in [key for key in fields if key.startswith("annotation.") and fields[key].dtype.kind in "iu"]:
            fields[key] = self._texts(fields[key], key, faults)
        if "task_index" in fields:
            fields[TASK] = self._texts(fields["task_index"], "task_index", faults)
        stamps_ns = self._stamps_ns(row, fields, faults)
        for key in self._video_keys():
            video = self._video(row, key, faults)
            if video is not None:
                images[key] = video
        yield from faults.all
        if not faults.is_fatal:
            yield RawEpisode(
                name=f"episode_{row.index:06d}",
                num_steps=row.length,
                fields={key: values for key, values in fields.items() if key not in COUNTERS},
                images=images,
                metadata={"episode_metadata/episode_index": row.index, "episode_metadata/tasks": list(row.tasks)},
                stamps_ns=stamps_ns,
            )

    def _texts(self, numbers: np.ndarray, key: str, faults: _Faults) -> np.ndarray:
        unknown = sorted(set(numbers.tolist()) - set(self.tasks))
        if unknown:
            faults.fatal("unknown_task", f"{key!r} has numbers {unknown} that no task has")
        return np.array([self.tasks.get(number, "") for number in numbers.tolist()], dtype=object)

    def _stamps_ns(self, row: _Row, fields: Mapping[str, np.ndarray], faults: _Faults) -> np.ndarray:
        """Times of the steps by their number: what the file says in float32 is checked against it, not used."""
        steps = np.arange(row.length)
        nominal = np.rint(steps * 1e9 / self.fps).astype(np.int64)
        stamps = fields.get("timestamp")
        if stamps is None:
            return nominal
        stamps = stamps.astype(np.float64)
        error = np.abs(stamps - steps / self.fps)
        if not np.isfinite(stamps).all() or (error >= 0.5 / self.fps).any():
            step = int(np.argmax(~(error < 0.5 / self.fps)))
            told = f"timestamp {stamps[step]} at step {step}, {step / self.fps:.6f} s expected of {self.fps:g} Hz"
            faults.fatal("timestamps", f"{told}; frames cannot be told apart")
        elif (error > _TOLERANCE_S + np.finfo(np.float32).eps * stamps).any():
            faults.add("timestamps", f"timestamps are up to {error.max():.6f} s off their steps; the steps are used")
        return nominal

    def _pictures(self, column: pa.ChunkedArray, name: str) -> Frames | None:
        """The pictures of an `image` column; None where there is none at all."""
        entries = column.to_pylist()
        if all(entry is None or not (entry.get("bytes") or entry.get("path")) for entry in entries):
            return None
        encoded = []
        for entry in entries:
            content = (entry or {}).get("bytes")
            path = self.root / ((entry or {}).get("path") or "")
            if content is None and path.is_file():  # a dataset that was never packed
                content = path.read_bytes()
            encoded.append(content or b"")
        if all(content.startswith(_JPEG_START) for content in encoded if content):
            return JpegFrames(encoded, name=name)
        return _PictureFrames(encoded, name)

    def _video(self, row: _Row, key: str, faults: _Faults) -> VideoFrames | None:
        if key not in row.videos:
            return None
        path, begin_s = row.videos[key]
        first = round(begin_s * self.fps)
        if not path.is_file():
            faults.add("missing_camera", f"no file {path}: that view is missing")
            return None
        try:
            frames = VideoFrames(path, first, row.length)
        except ValueError as error:
            faults.fatal("wrong_length", str(error))
            return None
        rate = frames.video.rate_hz
        if rate is not None and abs(float(rate) - self.fps) > 0.01 * self.fps:
            faults.fatal("wrong_rate", f"{path} runs at {float(rate):g} Hz, info.json says {self.fps:g}")
        drift = abs(begin_s - first / self.fps)
        if drift > _TOLERANCE_S:
            faults.add("timestamps", f"{key!r} begins {drift:.6f} s off a frame; the nearest, {first}, is used")
        return frames


@dataclass
class _Faults:
    """What is wrong with one episode."""

    where: str
    all: list[Fault] = field(default_factory=list)
    is_fatal: bool = False

    def add(self, kind: str, message: str) -> None:
        self.all.append(Fault(kind, self.where, message, left_out=False))

    def fatal(self, kind: str, message: str) -> None:
        self.all.append(Fault(kind, self.where, f"{message}: the episode is left out"))
        self.is_fatal = True


class _RowReader:
    """Rows of a parquet file in ascending pieces; each row group is read once."""

    def __init__(self, file: pq.ParquetFile, columns: Sequence[str]) -> None:
        self._file, self._columns = file, list(columns)
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        self._ends = np.cumsum(sizes)
        self._groups: dict[int, pa.Table] = {}

    def read(self, start: int, stop: int) -> pa.Table:
        first, last = (int(np.searchsorted(self._ends, row, side="right")) for row in (start, stop - 1))
        wanted = range(first, last + 1)
        self._groups = {i: table for i, table in self._groups.items() if i in wanted}
        for i in wanted:
            if i not in self._groups:
                self._groups[i] = self._file.read_row_group(i, columns=self._columns, use_threads=False)
        before = int(self._ends[first - 1]) if first else 0
        return pa.concat_tables([self._groups[i] for i in wanted]).slice(start - before, stop - start)


class _PictureFrames(Sequence[np.ndarray]):
    """Pictures of any format that Pillow knows, decoded when indexed."""

    def __init__(self, encoded: Sequence[bytes], name: str) -> None:
        self._encoded, self._name = encoded, name

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, step: int) -> np.ndarray:  # type: ignore[override]  # one frame, no slices
        try:
            with Image.open(io.BytesIO(self._encoded[step])) as picture:
                return np.asarray(picture.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{self._name}, frame {step}: cannot be decoded ({error})") from None

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[step] for step in range(len(self)))


def _runs(numbers: np.ndarray) -> dict[int, tuple[int, int]]:
    """Episode -> its rows [start, stop); (0, 0) where they are in several pieces."""
    starts = np.flatnonzero(np.diff(numbers, prepend=np.int64(-1)))
    runs: dict[int, tuple[int, int]] = {}
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(numbers)], strict=True):
        number = int(numbers[start])
        runs[number] = (0, 0) if number in runs else (start, stop)
    return runs


def _is_depth(feature: Feature) -> bool:
    info = feature.extra.get("info") or feature.extra.get("video_info") or {}
    return bool(info.get("is_depth_map") or info.get("video.is_depth_map")) or (
        feature.is_visual and 3 not in feature.shape
    )
