"""Native store -> LeRobotDataset v3.0 or v2.1, with pictures or video, and the GR00T flavour (spec interop.md 1-4).

Whole or not at all: the folder appears when it is complete. Statistics are computed from what is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.atomic import atomic_folder, write_json, write_text
from data_pipeline.feature_stats import Stats, frame_stats, merge_stats, quantiles, row_stats, sampled_steps, to_plain
from data_pipeline.frames import encode_frames
from data_pipeline.lerobot_format import (
    ACTION,
    CHUNK_SIZE,
    COUNTERS,
    DATA_PATHS,
    EPISODES_PATH,
    EPISODES_STATS_V2,
    EPISODES_V2,
    IMAGES,
    INFO,
    MODALITY,
    STATE,
    STATS,
    TASKS_V2,
    TASKS_V3,
    VIDEO_PATHS,
    Feature,
    camera_feature,
    counters,
    dataset_info,
    episodes_schema,
    file_place,
    images_to_arrow,
    json_lines,
    schema,
    stats_columns,
    tasks_table,
    to_arrow,
)
from data_pipeline.schema.embodiment import Gripper
from data_pipeline.schema.layout import SLOT_NAMES
from data_pipeline.schema.types import CAMERA_ROLES, Episode, Frames
from data_pipeline.shards import SOURCE
from data_pipeline.storage import EpisodeStore

Version = Literal["v2.1", "v3.0"]
Visual = Literal["image", "video"]
Vectors = Literal["native", "unified", "source"]

ANNOTATION = "annotation.human.action.task_description"
"""Column of the GR00T flavour that names each step's task."""

_DATA_MEGABYTES, _VIDEO_MEGABYTES = 100, 200
_EPISODES_A_FILE = 1000


@dataclass(frozen=True)
class VideoCoding:
    """How an export's mp4 files are coded; short groups of pictures are what makes random access fast."""

    codec: str = "libx264"
    crf: int = 18
    gop: int = 2


def export_lerobot(
    store: EpisodeStore,
    out: str | Path,
    *,
    version: Version = "v3.0",
    visual: Visual = "image",
    vectors: Vectors = "native",
    cameras: Sequence[str] | None = None,
    coding: VideoCoding | None = None,
    gr00t: bool = False,
    progress: Callable[[], object] = lambda: None,
) -> None:
    """Write a dataset folder `out`.

    `vectors`: `observation.state` and `action` in the robot's own order and units (`native`), as the 128 slots
    (`unified`), or the columns of the source that the store was converted from, under their own names (`source`).
    `cameras` are the roles that are written, by default all; each must be there in every episode. JPEG pictures
    keep their bytes.
    """
    out = Path(out)
    if gr00t and (version != "v2.1" or vectors != "native"):
        raise ValueError("the GR00T flavour is version v2.1 with native vectors: its parts are the robot's arms")
    roles = _roles(store, cameras)
    with atomic_folder(out) as folder:
        writer = DatasetWriter(folder, store, version, visual, coding or VideoCoding())
        for index, episode in enumerate(store):
            columns, features = _columns(store, index, episode, vectors)
            if gr00t:
                features[ANNOTATION] = Feature("int64")
                columns[ANNOTATION] = np.full(episode.num_steps, writer.task_index(episode.instructions[0]))
            writer.add(columns, features, {IMAGES + role: episode.images[role] for role in roles}, episode)
            progress()
        writer.finish()
        if gr00t:
            write_json(folder / STATS, writer.dataset_stats())
            write_json(folder / MODALITY, _modality(store, roles))


def _roles(store: EpisodeStore, cameras: Sequence[str] | None) -> list[str]:
    having = {role: sum(role in entry.frame_sizes for entry in store.entries) for role in CAMERA_ROLES}
    roles = [role for role in CAMERA_ROLES if having[role]] if cameras is None else list(cameras)
    for role in roles:
        if having.get(role, 0) < len(store):
            raise ValueError(
                f"camera {role!r} is there in {having.get(role, 0)} of {len(store)} episodes, the format wants it in "
                f"all: choose `cameras` from {[r for r, n in having.items() if n == len(store)]}"
            )
    return roles


def _columns(
    store: EpisodeStore, index: int, episode: Episode, vectors: Vectors
) -> tuple[dict[str, np.ndarray], dict[str, Feature]]:
    if vectors == "source":
        values = {SOURCE + path.strip("/").replace("/", "."): rows for path, rows in store.native(index).items()}
        wanted = [key for key in store.features if key.startswith(SOURCE)]
        missing = sorted(set(wanted) - set(values))
        if missing or not wanted:
            raise ValueError(f"episode {episode.name!r} of {store.path} lacks the source's columns {missing or 'all'}")
        known = {key.removeprefix(SOURCE): key for key in wanted}
        known = {name: key for name, key in known.items() if name not in COUNTERS and name != "task"}
        features = {name: Feature(store.features[key].dtype, store.features[key].shape) for name, key in known.items()}
        return {name: values[key] for name, key in known.items()}, features
    if vectors == "unified":
        columns, names = {STATE: episode.states, ACTION: episode.actions}, SLOT_NAMES
    elif vectors == "native":
        robot = store.embodiment
        states = robot.from_unified(episode.states, kind="state").astype(np.float32)
        actions = robot.from_unified(episode.actions, kind="action").astype(np.float32)
        columns, names = {STATE: states, ACTION: actions}, tuple(robot.native_names)
    else:
        raise ValueError(f"vectors must be native, unified or source, got {vectors!r}")
    return columns, {key: Feature("float32", values.shape[1:], names) for key, values in columns.items()}


@dataclass
class _VideoFile:
    """Episodes of one camera that go into one mp4."""

    number: int = 0
    num_frames: int = 0
    num_bytes: int = 0  # of their JPEGs, which no video exceeds
    clips: list[Frames] = field(default_factory=list)


class DatasetWriter:
    """A dataset folder in the making."""

    def __init__(
        self,
        root: Path,
        store: EpisodeStore,
        version: Version,
        visual: Visual,
        coding: VideoCoding,
        columns: Mapping[str, Feature] | None = None,
    ) -> None:
        """With `columns`, all that there will be but cameras, an episode may lack some of them, and cameras too."""
        if version not in DATA_PATHS or visual not in ("image", "video"):
            raise ValueError(f"version must be v2.1 or v3.0 and visual image or video, got {version!r}, {visual!r}")
        self._root, self._version, self._visual, self._coding = root, version, visual, coding
        self._robot_type, self._fps = store.robot_type, store.entries[0].rate_hz
        self._may_lack = columns is not None
        self._features: dict[str, Feature] = dict(columns or {})
        self._tasks: dict[str, int] = {}
        self._stats: list[dict[str, Stats]] = []
        self._rows: list[dict[str, Any]] = []  # of the episode table
        self._values: dict[str, list[np.ndarray]] = {}  # of all steps, for the quantiles
        self._num_steps = 0
        self._parquet: pq.ParquetWriter | None = None
        self._data_number, self._data_bytes = -1, 0
        self._videos: dict[str, _VideoFile] = {}

    def task_index(self, text: str) -> int:
        return self._tasks.setdefault(text, len(self._tasks))

    def add(
        self,
        columns: Mapping[str, np.ndarray],
        features: Mapping[str, Feature],
        images: Mapping[str, Frames],
        episode: Episode,
        note: Mapping[str, str] | None = None,
    ) -> None:
        """One episode; `note` are further columns of its row in the table of version 3.0, text."""
        number = len(self._rows)
        if episode.rate_hz != self._fps:
            raise ValueError(
                f"episode {episode.name!r} has {episode.rate_hz} Hz, the first {self._fps}: a dataset has one"
            )
        tasks = {text: self.task_index(text) for text in episode.instructions}
        ours = counters(episode.num_steps, self._fps, number, self._num_steps, tasks[episode.instructions[0]])
        values = {**columns, **ours}
        stats: dict[str, Stats] = {
            key: found for key, rows in values.items() if rows.dtype != object and (found := row_stats(rows))
        }
        pictures = {}
        for key, frames in images.items():
            sampled = [frames[step] for step in sampled_steps(episode.num_steps)]
            pictures[key] = camera_feature(self._visual, *sampled[0].shape[:2], **self._video_note(sampled[0]))
            stats[key] = frame_stats(sampled)
        everything = {**features, **pictures, **COUNTERS}
        self._check_form(episode.name, everything)
        row = {
            "episode_index": number,
            "tasks": list(episode.instructions),
            "length": episode.num_steps,
            "dataset_from_index": self._num_steps,
            "dataset_to_index": self._num_steps + episode.num_steps,
            **(note or {}),
        }
        arrays = {key: to_arrow(everything[key], rows) for key, rows in values.items()}
        for key, frames in images.items():
            encoded = encode_frames(frames)
            if self._visual == "image":
                arrays[key] = images_to_arrow(list(encoded.encoded))
            else:
                row |= self._add_video(key, frames, sum(map(len, encoded.encoded)))
        whole = schema(self._features)
        lacking = {field.name: pa.nulls(episode.num_steps, field.type) for field in whole if field.name not in arrays}
        row |= self._add_rows(pa.table({name: {**arrays, **lacking}[name] for name in whole.names}, schema=whole))
        self._rows.append(row)
        self._stats.append(stats)
        self._num_steps += episode.num_steps
        for key in stats:
            if key in values:
                self._values.setdefault(key, []).append(values[key])

    def finish(self) -> None:
        """What is still open, then the metadata, info.json last."""
        if self._parquet:
            self._parquet.close()
        for key, video in self._videos.items():
            self._write_video(key, video)
        plain = [{key: to_plain(of) for key, of in stats.items()} for stats in self._stats]
        (self._root / "meta").mkdir()
        if self._version == "v2.1":
            self._write_meta_v2(plain)
        else:
            self._write_meta_v3(plain)
        info = dataset_info(
            self._version,
            self._features,
            robot_type=self._robot_type,
            fps=self._fps,
            num_episodes=len(self._rows),
            num_steps=self._num_steps,
            num_tasks=len(self._tasks),
            data_megabytes=_DATA_MEGABYTES,
            video_megabytes=_VIDEO_MEGABYTES,
        )
        write_json(self._root / INFO, info)

    def dataset_stats(self) -> dict[str, dict[str, list]]:
        """Of all episodes; cameras from the frames that the episodes' own were taken from."""
        stats = {}
        for key in dict.fromkeys(key for of in self._stats for key in of):
            merged = merge_stats([of[key] for of in self._stats if key in of])
            stats[key] = to_plain(
                merged | (quantiles(np.concatenate(self._values[key])) if key in self._values else {})
            )
        return stats

    def _check_form(self, name: str, features: dict[str, Feature]) -> None:
        """A dataset has one form: take the first episode's, and hold the others to it."""
        known = self._features or features
        different = [key for key in features if features[key] != known.get(key, features[key])]
        if not self._may_lack:
            different += sorted(set(known) ^ set(features))
        if different:
            raise ValueError(f"episode {name!r} has other {different} than those before it: a dataset has one form")
        self._features = {**known, **features}

    def _add_rows(self, table: pa.Table) -> dict[str, int]:
        """Write the rows of an episode; where they are, for version 3.0."""
        if self._version == "v2.1":
            path = self._root / DATA_PATHS["v2.1"].format(**_place_v2(len(self._rows)))
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, path, compression="snappy", row_group_size=len(table))
            return {}
        if self._parquet is None or self._data_bytes + table.nbytes > _DATA_MEGABYTES * 1e6:
            if self._parquet:
                self._parquet.close()
            self._data_number, self._data_bytes = self._data_number + 1, 0
            path = self._root / DATA_PATHS["v3.0"].format(**file_place(self._data_number))
            path.parent.mkdir(parents=True, exist_ok=True)
            self._parquet = pq.ParquetWriter(path, table.schema, compression="snappy")
        self._data_bytes += table.nbytes
        self._parquet.write_table(table, row_group_size=len(table))
        return {f"data/{key}": value for key, value in file_place(self._data_number).items()}

    def _add_video(self, key: str, frames: Frames, num_bytes: int) -> dict[str, Any]:
        """Note an episode's frames for their mp4; where they will be, for version 3.0."""
        video = self._videos.setdefault(key, _VideoFile())
        full = self._version == "v2.1" or video.num_bytes + num_bytes > _VIDEO_MEGABYTES * 1e6
        if video.clips and full:
            self._write_video(key, video)
            video = self._videos[key] = _VideoFile(video.number + 1)
        begin = video.num_frames
        video.clips.append(frames)
        video.num_frames += len(frames)
        video.num_bytes += num_bytes
        row = {f"videos/{key}/{name}": value for name, value in file_place(video.number).items()}
        ends = {"from": begin / self._fps, "to": video.num_frames / self._fps}
        return row | {f"videos/{key}/{end}_timestamp": value for end, value in ends.items()}

    def _write_video(self, key: str, video: _VideoFile) -> None:
        from data_pipeline.sources.video import write_video

        place = _place_v2(video.number) if self._version == "v2.1" else file_place(video.number)
        path = self._root / VIDEO_PATHS[self._version].format(video_key=key, **place)
        frames = (frame for clip in video.clips for frame in clip)
        write_video(path, frames, self._fps, self._coding.codec, self._coding.crf, self._coding.gop)

    def _video_note(self, frame: np.ndarray) -> dict[str, Any]:
        if self._visual == "image":
            return {}
        names = {"libx264": "h264", "libx265": "hevc", "libsvtav1": "av1"}
        height, width, channels = frame.shape
        note = {"height": height, "width": width, "channels": channels, "fps": self._fps, "pix_fmt": "yuv420p"}
        note |= {"codec": names.get(self._coding.codec, self._coding.codec), "is_depth_map": False}
        return {"info": {**{f"video.{name}": value for name, value in note.items()}, "has_audio": False}}

    def _write_meta_v2(self, stats: list[dict[str, dict[str, list]]]) -> None:
        tasks = [{"task_index": number, "task": text} for text, number in self._tasks.items()]
        episodes = [{key: row[key] for key in ("episode_index", "tasks", "length")} for row in self._rows]
        known = ("min", "max", "mean", "std", "count")
        lines = [
            {"episode_index": i, "stats": {key: {name: of[name] for name in known} for key, of in one.items()}}
            for i, one in enumerate(stats)
        ]
        for path, rows in ((TASKS_V2, tasks), (EPISODES_V2, episodes), (EPISODES_STATS_V2, lines)):
            write_text(self._root / path, json_lines(rows))

    def _write_meta_v3(self, stats: list[dict[str, dict[str, list]]]) -> None:
        columns = episodes_schema(self._features)
        for name in [name for name in self._rows[0] if name not in columns.names]:
            columns = columns.append(pa.field(name, pa.string()))
        for number in range(-(-len(self._rows) // _EPISODES_A_FILE)):
            place = file_place(number)
            here = slice(number * _EPISODES_A_FILE, (number + 1) * _EPISODES_A_FILE)
            rows = [
                {**row, **stats_columns(of), **{f"meta/episodes/{key}": value for key, value in place.items()}}
                for row, of in zip(self._rows[here], stats[here], strict=True)
            ]
            path = self._root / EPISODES_PATH.format(**place)
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(rows, schema=columns), path)
        pq.write_table(tasks_table(list(self._tasks)), self._root / TASKS_V3)
        write_json(self._root / STATS, self.dataset_stats())


def _place_v2(episode: int) -> dict[str, int]:
    return {"episode_chunk": episode // CHUNK_SIZE, "episode_index": episode}


def _modality(store: EpisodeStore, roles: Sequence[str]) -> dict[str, Any]:
    """Slices of the native vector by tool, gripper and arm, in the robot's order."""
    parts: dict[str, dict[str, int]] = {}
    for i, entry in enumerate(store.embodiment.entries):
        kind = "tool" if entry.part is None else "gripper" if isinstance(entry.part, Gripper) else "arm"
        parts.setdefault(f"{entry.side}_{kind}", {"start": i})["end"] = i + 1
    return {
        "state": parts,
        "action": parts,
        "video": {role: {"original_key": IMAGES + role} for role in roles},
        "annotation": {ANNOTATION.removeprefix("annotation."): {}},
    }
