"""LeRobotDataset by the letter of spec interop.md sections 1 and 2, with json and pyarrow alone: none of our code.

`check_v3` and `check_v2` assert every rule that a folder must keep, and return its episodes as plain rows.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

COUNTERS = {
    "timestamp": "float",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
ARROW = {"float32": "float", "float64": "double", "float16": "halffloat"}


def check_v3(root: Path) -> list[dict[str, Any]]:
    info = json.loads((root / "meta/info.json").read_text())
    check_info(info, "v3.0")
    assert not {"total_videos", "total_chunks"} & set(info)
    assert type(info["data_files_size_in_mb"]) is int and type(info["video_files_size_in_mb"]) is int
    assert info["data_path"] == "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    videos = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    video_path = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    assert info["video_path"] == (video_path if videos else None)
    tasks = check_tasks_v3(root, info)
    rows, position = [], 0
    for path in sorted((root / "meta/episodes").glob("chunk-*/file-*.parquet")):
        table = pq.read_table(path)
        check_episode_types(table.schema, info["features"])
        for row in table.to_pylist():
            assert row["episode_index"] == position
            name = "meta/episodes/chunk-{:03d}/file-{:03d}.parquet".format(
                row["meta/episodes/chunk_index"], row["meta/episodes/file_index"]
            )
            assert path.relative_to(root).as_posix() == name
            rows.append(row)
            position += 1
    assert position == info["total_episodes"]
    index, files, episodes = 0, {}, []
    for row in rows:
        place = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
        path = root / info["data_path"].format(**place)
        if path not in files:
            files[path] = (pq.read_table(path), 0)
            check_schema(files[path][0].schema, info["features"])
        table, first = files[path]
        assert row["dataset_from_index"] == index and row["dataset_to_index"] == index + row["length"]
        columns = table.slice(first, row["length"]).to_pydict()
        files[path] = (table, first + row["length"])
        check_counters(columns, row["episode_index"], index, row["length"], info["fps"])
        assert {tasks[number] for number in columns["task_index"]} <= set(row["tasks"])
        index += row["length"]
        for key in videos:
            assert (root / video_path.format(video_key=key, **video_place(row, key))).is_file()
            begin, end = (row[f"videos/{key}/{side}_timestamp"] for side in ("from", "to"))
            assert abs((end - begin) * info["fps"] - row["length"]) < 1e-6
        for key, feature in info["features"].items():
            if feature["dtype"] != "string":
                stats = {name: row[f"stats/{key}/{name}"] for name in ("min", "max", "mean", "std", "count")}
                check_stats(stats, feature, None if feature["dtype"] in ("image", "video") else columns[key])
        episodes.append({"columns": columns, "tasks": row["tasks"], "row": row})
    assert index == info["total_frames"]
    for table, used in files.values():
        assert used == len(table)
    assert set(root.glob("data/chunk-*/file-*.parquet")) == set(files)
    stats = json.loads((root / "meta/stats.json").read_text())
    for key, feature in info["features"].items():
        if feature["dtype"] != "string":
            whole = [value for episode in episodes for value in episode["columns"].get(key, [])]
            check_stats(stats[key], feature, None if feature["dtype"] in ("image", "video") else whole)
    return episodes


def check_v2(root: Path) -> list[dict[str, Any]]:
    info = json.loads((root / "meta/info.json").read_text())
    check_info(info, "v2.1")
    videos = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    assert info["total_videos"] == info["total_episodes"] * len(videos)
    assert info["data_path"] == "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    video_path = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    assert info["video_path"] == (video_path if videos else None)
    assert len(list((root / "data").iterdir())) == info["total_chunks"]
    tasks, rows, stats = (
        [json.loads(line) for line in (root / f"meta/{name}.jsonl").read_text().splitlines()]
        for name in ("tasks", "episodes", "episodes_stats")
    )
    assert [task["task_index"] for task in tasks] == list(range(info["total_tasks"]))
    assert len(rows) == len(stats) == info["total_episodes"]
    index, episodes = 0, []
    for number, (row, of) in enumerate(zip(rows, stats, strict=True)):
        assert row["episode_index"] == of["episode_index"] == number
        place = {"episode_chunk": number // info["chunks_size"], "episode_index": number}
        table = pq.read_table(root / info["data_path"].format(**place))
        check_schema(table.schema, info["features"])
        columns = table.to_pydict()
        assert len(table) == row["length"]
        check_counters(columns, number, index, row["length"], info["fps"])
        assert {tasks[i]["task"] for i in columns["task_index"]} <= set(row["tasks"])
        for key in videos:
            assert (root / video_path.format(video_key=key, **place)).is_file()
        for key, feature in info["features"].items():
            if feature["dtype"] != "string":
                visual = feature["dtype"] in ("image", "video")
                check_stats(of["stats"][key], feature, None if visual else columns[key])
        index += row["length"]
        episodes.append({"columns": columns, "tasks": row["tasks"], "row": row})
    assert index == info["total_frames"]
    return episodes


def check_info(info: dict[str, Any], version: str) -> None:
    assert info["codebase_version"] == version
    assert info["robot_type"] is None or isinstance(info["robot_type"], str)
    assert all(type(info[f"total_{name}"]) is int for name in ("episodes", "frames", "tasks"))
    assert info["chunks_size"] == 1000 and info["fps"] > 0
    assert info["splits"] == {"train": f"0:{info['total_episodes']}"}
    for name, kind in COUNTERS.items():
        dtype = "float32" if kind == "float" else kind
        assert info["features"][name] == {"dtype": dtype, "shape": [1], "names": None}
    for key, feature in info["features"].items():
        assert "/" not in key and all(type(n) is int for n in feature["shape"])
        assert feature["names"] is None or all(isinstance(name, str) for name in feature["names"])


def check_schema(schema: pa.Schema, features: dict[str, Any]) -> None:
    wanted = {key: feature for key, feature in features.items() if feature["dtype"] != "video"}
    assert set(schema.names) == set(wanted)
    hub = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert set(hub) == set(wanted) and '"List"' not in json.dumps(hub)
    for key, feature in wanted.items():
        kind, scalar = schema.field(key).type, ARROW.get(feature["dtype"], feature["dtype"])
        value = {"dtype": feature["dtype"], "_type": "Value"}
        if feature["dtype"] == "image":
            assert str(kind) == "struct<bytes: binary, path: string>" and hub[key] == {"_type": "Image"}
        elif feature["shape"] == [1]:
            assert str(kind) == scalar and hub[key] == value
        elif len(feature["shape"]) == 1:
            length = feature["shape"][0]
            assert pa.types.is_fixed_size_list(kind) and kind.list_size == length and str(kind.value_type) == scalar
            assert hub[key] == {"feature": value, "length": length, "_type": "Sequence"}
        else:
            for _ in feature["shape"]:
                kind = kind.value_type
            assert str(kind) == scalar and hub[key]["_type"] == f"Array{len(feature['shape'])}D"


def check_counters(columns: dict[str, list], episode: int, first: int, length: int, fps: float) -> None:
    assert columns["frame_index"] == list(range(length))
    assert columns["index"] == list(range(first, first + length))
    assert columns["episode_index"] == [episode] * length
    assert columns["timestamp"] == [float(np.float32(i / fps)) for i in range(length)]
    for key, values in columns.items():
        if isinstance(values[0], dict) and set(values[0]) == {"bytes", "path"}:
            for value in values:
                Image.open(io.BytesIO(value["bytes"])).load()
                assert "/" not in value["path"], key


def check_tasks_v3(root: Path, info: dict[str, Any]) -> dict[int, str]:
    table = pq.read_table(root / "meta/tasks.parquet")
    note = json.loads(table.schema.metadata[b"pandas"])
    (index,) = note["index_columns"]
    assert set(table.column_names) == {"task_index", index}
    assert table.schema.field("task_index").type == pa.int64() and table.schema.field(index).type == pa.string()
    tasks = dict(zip(table["task_index"].to_pylist(), table[index].to_pylist(), strict=True))
    assert sorted(tasks) == list(range(info["total_tasks"]))
    return tasks


def check_episode_types(schema: pa.Schema, features: dict[str, Any]) -> None:
    whole = ["episode_index", "length", "dataset_from_index", "dataset_to_index"]
    whole += [f"{kind}/{name}" for kind in ("data", "meta/episodes") for name in ("chunk_index", "file_index")]
    videos = [key for key, feature in features.items() if feature["dtype"] == "video"]
    whole += [f"videos/{key}/{name}" for key in videos for name in ("chunk_index", "file_index")]
    assert all(schema.field(name).type == pa.int64() for name in whole)
    assert str(schema.field("tasks").type).startswith("list<") and schema.field("tasks").type.value_type == pa.string()
    for key in videos:
        assert schema.field(f"videos/{key}/from_timestamp").type == pa.float64()
    for key, feature in features.items():
        if feature["dtype"] == "string":
            continue
        for name in ("min", "max", "mean", "std"):
            kind = schema.field(f"stats/{key}/{name}").type
            for _ in range(3 if feature["dtype"] in ("image", "video") else len(feature["shape"])):
                kind = kind.value_type
            whole_numbers = feature["dtype"].startswith(("int", "uint"))
            plain = {"bool": "bool"}.get(feature["dtype"], "int64" if whole_numbers else "double")
            assert str(kind) == (plain if name in ("min", "max") else "double")
        assert schema.field(f"stats/{key}/count").type.value_type == pa.int64()


def check_stats(stats: dict[str, Any], feature: dict[str, Any], values: list | None) -> None:
    """`values` None: a camera, whose numbers are of a sample."""
    if values is None:
        assert all(np.shape(stats[name]) == (3, 1, 1) for name in ("min", "max", "mean", "std"))
        assert 0 <= np.min(stats["min"]) <= np.max(stats["max"]) <= 1 and np.min(stats["std"]) > 0.02
        return
    rows = np.array(values, dtype=np.float64).reshape(len(values), *feature["shape"])
    assert stats["count"] == [len(rows)]
    for name in ("min", "max", "mean", "std"):
        assert np.shape(stats[name]) == tuple(feature["shape"])
        np.testing.assert_allclose(np.array(stats[name], dtype=np.float64), getattr(rows, name)(axis=0), atol=1e-9)
    for name, q in (("q01", 0.01), ("q50", 0.5), ("q99", 0.99)):
        if name in stats:
            np.testing.assert_allclose(stats[name], np.quantile(rows, q, axis=0), atol=1e-9)


def video_place(row: dict[str, Any], key: str) -> dict[str, int]:
    return {name: row[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")}
