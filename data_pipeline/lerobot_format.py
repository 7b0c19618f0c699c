"""LeRobotDataset as it lies on disk: path templates, features, arrow types, metadata (spec interop.md sections 1, 2).

Reader, native store and exports share these words. Version 2.x keeps one file an episode, version 3.0 many episodes
a file. Nothing here opens a video or knows a robot.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

INFO, TASKS_V2, TASKS_V3 = "meta/info.json", "meta/tasks.jsonl", "meta/tasks.parquet"
STATS, EPISODES_V2, EPISODES_STATS_V2 = "meta/stats.json", "meta/episodes.jsonl", "meta/episodes_stats.jsonl"
MODALITY = "meta/modality.json"  # of the GR00T flavour
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA_PATHS = {
    "v2.1": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "v3.0": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
}
VIDEO_PATHS = {
    "v2.1": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    "v3.0": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}
CHUNK_SIZE = 1000  # v2.x: episodes in a chunk folder; v3.0: files in one
STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."

VISUAL = ("image", "video")
_IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass(frozen=True)
class Feature:
    """One entry of `features` in info.json: what a column, or a video, holds of each step."""

    dtype: str  # a numpy scalar name, "string", "image" or "video"
    shape: tuple[int, ...] = (1,)
    names: tuple[str, ...] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)  # further keys, kept as they are

    @classmethod
    def from_dict(cls, key: str, raw: Mapping[str, Any]) -> Feature:
        """An entry of any writer; `names` may be a list, a list in a list, or a mapping of lists."""
        rest = {name: value for name, value in raw.items() if name not in ("dtype", "shape", "names")}
        try:
            return cls(str(raw["dtype"]), tuple(int(n) for n in raw["shape"]), _flat_names(raw.get("names")), rest)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"feature {key!r} must have dtype and shape, got {dict(raw)} ({error})") from None

    def to_dict(self) -> dict[str, Any]:
        names = None if self.names is None else list(self.names)
        return {"dtype": self.dtype, "shape": list(self.shape), "names": names, **self.extra}

    @property
    def is_visual(self) -> bool:
        return self.dtype in VISUAL

    @property
    def is_numeric(self) -> bool:
        return not self.is_visual and self.dtype != "string"

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) of a camera: by the axes' names, else by which axis counts channels."""
        names = [name.removesuffix("s") for name in self.names or ()]
        axis = (
            names.index("channel") if "channel" in names else next(i for i in (2, 0, 1) if self.shape[i] in (1, 3, 4))
        )
        height, width = (n for i, n in enumerate(self.shape) if i != axis)
        return height, width

    @property
    def arrow_type(self) -> pa.DataType:
        if self.dtype == "image":
            return _IMAGE_TYPE
        kind = _arrow_scalar(self.dtype)
        if self.shape == (1,):
            return kind
        if len(self.shape) == 1:
            return pa.list_(kind, self.shape[0])
        for _ in self.shape:
            kind = pa.list_(kind)
        return kind

    @property
    def hub_type(self) -> dict[str, Any]:
        """What the `datasets` library is told of the column; "Sequence", which all its versions read."""
        if self.dtype == "image":
            return {"_type": "Image"}
        if len(self.shape) > 1:
            return {"shape": list(self.shape), "dtype": self.dtype, "_type": f"Array{len(self.shape)}D"}
        value = {"dtype": self.dtype, "_type": "Value"}
        return value if self.shape == (1,) else {"feature": value, "length": self.shape[0], "_type": "Sequence"}


COUNTERS = {
    "timestamp": Feature("float32"),
    "frame_index": Feature("int64"),
    "episode_index": Feature("int64"),
    "index": Feature("int64"),
    "task_index": Feature("int64"),
}
"""The features that every dataset has, added by its writer."""


def camera_feature(dtype: str, height: int, width: int, **extra: Any) -> Feature:
    return Feature(dtype, (height, width, 3), ("height", "width", "channels"), extra)


def array_feature(values: np.ndarray, names: Sequence[str] | None = None, **extra: Any) -> Feature:
    """The feature of step values (steps, ...): numbers, truth values, or objects of str."""
    text = values.dtype.kind in "OUS"
    shape = values.shape[1:] or (1,)
    return Feature("string" if text else values.dtype.name, shape, tuple(names) if names else None, extra)


def schema(features: Mapping[str, Feature]) -> pa.Schema:
    """Columns of a data file, all features but the videos, with the note that makes pictures of `image` columns."""
    columns = {key: feature for key, feature in features.items() if feature.dtype != "video"}
    hub = {"info": {"features": {key: feature.hub_type for key, feature in columns.items()}}}
    fields = [pa.field(key, feature.arrow_type) for key, feature in columns.items()]
    return pa.schema(fields, metadata={"huggingface": json.dumps(hub)})


def to_arrow(feature: Feature, values: np.ndarray) -> pa.Array:
    """Step values (steps, *shape), or (steps,) for shape (1,), as a column."""
    kind = feature.arrow_type
    if feature.dtype == "string":
        return pa.array([str(value) for value in values.reshape(len(values))], kind)
    flat = np.ascontiguousarray(values, dtype=feature.dtype).reshape(-1)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind)
    column = pa.array(flat)
    if feature.shape == (1,):
        return column
    count = flat.size
    for length in reversed(feature.shape):
        count //= length
        column = pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * length, column)
    return column


def from_arrow(column: pa.ChunkedArray | pa.Array, feature: Feature) -> np.ndarray:
    """A column as (steps, *shape), (steps,) for shape (1,), text as objects. Lists may be of any arrow kind.

    Raises `ValueError` for values that are missing or of another width.
    """
    if feature.dtype == "string":
        return np.array(column.to_pylist(), dtype=object)
    num_steps = len(column)
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    array = pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    while pa.types.is_nested(array.type):
        array = array.flatten()
    if array.null_count:
        raise ValueError(f"holds {array.null_count} missing values")
    flat = array.to_numpy(zero_copy_only=False)
    width = int(np.prod(feature.shape))
    if flat.size != num_steps * width:
        raise ValueError(
            f"holds {flat.size} numbers in {num_steps} rows, its shape {list(feature.shape)} says {width} a row"
        )
    return flat.reshape(num_steps) if feature.shape == (1,) else flat.reshape(num_steps, *feature.shape)


def images_to_arrow(encoded: Sequence[bytes], ending: str = "jpg") -> pa.Array:
    """Whole picture files as an `image` column."""
    paths = [f"frame_{i:06d}.{ending}" for i in range(len(encoded))]
    return pa.StructArray.from_arrays(
        [pa.array(encoded, pa.binary()), pa.array(paths, pa.string())], fields=list(_IMAGE_TYPE)
    )


def counters(num_steps: int, rate_hz: float, episode: int, first_index: int, task: int) -> dict[str, np.ndarray]:
    """The columns of `COUNTERS` for one episode."""
    frames = np.arange(num_steps, dtype=np.int64)
    return {
        "timestamp": (frames / rate_hz).astype(np.float32),
        "frame_index": frames,
        "episode_index": np.full(num_steps, episode, dtype=np.int64),
        "index": first_index + frames,
        "task_index": np.full(num_steps, task, dtype=np.int64),
    }


def file_place(number: int, chunk_size: int = CHUNK_SIZE) -> dict[str, int]:
    """Chunk folder and file of the n-th file of a kind, in version 3.0."""
    return {"chunk_index": number // chunk_size, "file_index": number % chunk_size}


def dataset_info(
    version: str,
    features: Mapping[str, Feature],
    *,
    robot_type: str | None,
    fps: float,
    num_episodes: int,
    num_steps: int,
    num_tasks: int,
    data_megabytes: int = 100,
    video_megabytes: int = 200,
) -> dict[str, Any]:
    """The content of info.json."""
    videos = sum(feature.dtype == "video" for feature in features.values())
    sizes: dict[str, int] = {"data_files_size_in_mb": data_megabytes, "video_files_size_in_mb": video_megabytes}
    if version == "v2.1":
        sizes = {"total_videos": num_episodes * videos, "total_chunks": -(-num_episodes // CHUNK_SIZE)}
    return {
        "codebase_version": version,
        "robot_type": robot_type,
        "total_episodes": num_episodes,
        "total_frames": num_steps,
        "total_tasks": num_tasks,
        "chunks_size": CHUNK_SIZE,
        **sizes,
        "fps": int(fps) if float(fps).is_integer() else fps,
        "splits": {"train": f"0:{num_episodes}"},
        "data_path": DATA_PATHS[version],
        "video_path": VIDEO_PATHS[version] if videos else None,
        "features": {key: feature.to_dict() for key, feature in features.items()},
    }


def tasks_table(tasks: Sequence[str]) -> pa.Table:
    """Tasks of version 3.0: the texts are the pandas index, and the metadata must say so."""
    index = "__index_level_0__"
    columns: list[dict[str, Any]] = [
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"},
        {"name": None, "field_name": index, "pandas_type": "unicode", "numpy_type": "object"},
    ]
    note = {
        "index_columns": [index],
        "column_indexes": [
            {
                "name": None,
                "field_name": None,
                "pandas_type": "unicode",
                "numpy_type": "object",
                "metadata": {"encoding": "UTF-8"},
            }
        ],
        "columns": [{**column, "metadata": None} for column in columns],
        "pandas_version": "2.0.0",
    }
    content = {"task_index": pa.array(range(len(tasks)), pa.int64()), index: pa.array(tasks, pa.string())}
    return pa.table(content).replace_schema_metadata({"pandas": json.dumps(note)})


def read_tasks(root: Path) -> dict[int, str]:
    """Task number -> text, of either version; in the parquet form the only text column is the task."""
    if (root / TASKS_V3).exists():
        table = pq.read_table(root / TASKS_V3)
        texts = [f.name for f in table.schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
        if len(texts) != 1 or "task_index" not in table.column_names:
            raise ValueError(f"{root / TASKS_V3} must have task_index and one column of text, has {table.column_names}")
        return dict(zip(table["task_index"].to_pylist(), table[texts[0]].to_pylist(), strict=True))
    return {int(row["task_index"]): str(row["task"]) for row in read_json_lines(root / TASKS_V2)}


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Raises `ValueError` that names the file and line."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{path}, line {number} is damaged: {error}") from None
    return rows


def json_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def _flat_names(names: Any) -> tuple[str, ...] | None:
    if names is None:
        return None
    if isinstance(names, Mapping):
        names = list(names.values())
    if isinstance(names, str):
        return (names,)
    flat: list[str] = []
    for name in names:
        flat.extend(_flat_names(name) or () if isinstance(name, (list, tuple, Mapping)) else [str(name)])
    return tuple(flat)


def _arrow_scalar(dtype: str) -> pa.DataType:
    if dtype == "string":
        return pa.string()
    try:
        return pa.from_numpy_dtype(np.dtype(dtype))
    except (TypeError, pa.ArrowNotImplementedError):
        raise ValueError(f"dtype {dtype!r} is none of numpy's scalars, string, image, video") from None


def episodes_schema(features: Mapping[str, Feature]) -> pa.Schema:
    """Columns of the episode table of version 3.0, without what else a writer notes there."""
    fields = [
        pa.field("episode_index", pa.int64()),
        pa.field("tasks", pa.list_(pa.string())),
        pa.field("length", pa.int64()),
        *(pa.field(f"data/{key}", pa.int64()) for key in ("chunk_index", "file_index")),
        *(pa.field(f"dataset_{end}_index", pa.int64()) for end in ("from", "to")),
    ]
    for key, feature in features.items():
        if feature.dtype == "video":
            fields += [pa.field(f"videos/{key}/{name}", pa.int64()) for name in ("chunk_index", "file_index")]
            fields += [pa.field(f"videos/{key}/{end}_timestamp", pa.float64()) for end in ("from", "to")]
    for key, feature in features.items():
        for name in (*_STATS_OF_VALUES, "count") if feature.dtype != "string" else ():
            fields.append(pa.field(f"stats/{key}/{name}", _stats_type(feature, name)))
    fields += [pa.field(f"meta/episodes/{key}", pa.int64()) for key in ("chunk_index", "file_index")]
    return pa.schema(fields)


def stats_columns(stats: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Statistics of one episode as entries of its row."""
    return {
        f"stats/{key}/{name}": np.asarray(value).tolist() for key, of in stats.items() for name, value in of.items()
    }


_STATS_OF_VALUES = ("min", "max", "mean", "std", "q01", "q10", "q50", "q90", "q99")


def _stats_type(feature: Feature, name: str) -> pa.DataType:
    kind, depth = pa.float64(), 3 if feature.is_visual else len(feature.shape)
    if name == "count":
        kind, depth = pa.int64(), 1
    elif name in ("min", "max") and not feature.is_visual and np.dtype(feature.dtype).kind in "biu":
        kind = pa.bool_() if feature.dtype == "bool" else pa.int64()
    for _ in range(depth):
        kind = pa.list_(kind)
    return kind
