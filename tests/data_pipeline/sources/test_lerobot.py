"""Datasets written by hand from spec interop.md, not by our writer, come back number by number.

Run: pytest tests/data_pipeline/sources/test_lerobot.py
"""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_pipeline.sources.lerobot import LeRobotSource
from data_pipeline.sources.raw import Fault, FieldSpec, RawEpisode
from data_pipeline.sources.video import write_video

LENGTHS, FPS = (6, 4, 5), 10
TASKS = ("open the door", "close it")
VERSIONS = ("v2.0", "v2.1", "v3.0")
SIZE = (16, 24)
V2_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
V2_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
V3_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
V3_VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


def grey(episode: int, step: int) -> int:
    return 20 + 15 * (5 * episode + step)


def frames(episode: int) -> list[np.ndarray]:
    return [np.full((*SIZE, 3), grey(episode, i), np.uint8) for i in range(LENGTHS[episode])]


def png(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return buffer.getvalue()


def state(episode: int) -> np.ndarray:
    return np.random.default_rng(episode).standard_normal((LENGTHS[episode], 3)).astype(np.float32)


def columns(episode: int, visual: str) -> dict[str, pa.Array]:
    length, first = LENGTHS[episode], sum(LENGTHS[:episode])
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pictures = [{"bytes": png(f), "path": f"frame_{i:06d}.png"} for i, f in enumerate(frames(episode))]
    return {
        "observation.state": pa.array(state(episode).tolist(), pa.list_(pa.float32(), 3)),
        "action": pa.array((state(episode) * 2).tolist(), pa.list_(pa.float32())),  # a list of no fixed length
        "next.done": pa.array([i == length - 1 for i in range(length)]),
        **({"observation.images.top": pa.array(pictures, image)} if visual == "image" else {}),
        "annotation.human.task": pa.array([1] * length, pa.int64()),
        "timestamp": pa.array(np.arange(length, dtype=np.float32) / np.float32(FPS)),
        "frame_index": pa.array(range(length), pa.int64()),
        "episode_index": pa.array([episode] * length, pa.int64()),
        "index": pa.array(range(first, first + length), pa.int64()),
        "task_index": pa.array([episode % 2] * length, pa.int64()),
        "unknown": pa.array(["x"] * length),
    }


def info(version: str, visual: str) -> dict:
    number = {"dtype": "int64", "shape": [1], "names": None}
    v3 = version == "v3.0"
    return {
        "codebase_version": version,
        "robot_type": "franka",
        "fps": FPS,
        "total_episodes": 3,
        "total_frames": sum(LENGTHS),
        "total_tasks": 2,
        "chunks_size": 1000 if v3 else 2,
        "data_path": V3_DATA if v3 else V2_DATA,
        "video_path": V3_VIDEO if v3 else V2_VIDEO,
        "features": {
            "observation.state": {"dtype": "float32", "shape": [3], "names": {"motors": ["a", "b", "c"]}},
            "action": {"dtype": "float32", "shape": [3], "names": [["a", "b", "c"]]},
            "next.done": {"dtype": "bool", "shape": [1], "names": None},
            "observation.images.top": {
                "dtype": visual,
                "shape": [3, *SIZE],
                "names": ["channels", "height", "width"],
                "video_info": {"video.fps": 10.0},
            },
            "observation.depth": {"dtype": "video", "shape": [*SIZE, 1], "names": None, "info": {"is_depth_map": True}},
            "annotation.human.task": number,
            **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), number),
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        },
    }


def hand_written(root, version: str, visual: str = "image"):
    """Three episodes; in v3.0 the first two share a file and the row groups do not follow the episodes."""
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info(version, visual)))
    tables = [pa.table(columns(i, visual)) for i in range(3)]
    hub = {"info": {"features": {"action": {"_type": "List"}}}}
    if version == "v3.0":
        (root / "data/chunk-000").mkdir(parents=True)
        both = pa.concat_tables(tables[:2]).replace_schema_metadata({"huggingface": json.dumps(hub)})
        pq.write_table(both, root / "data/chunk-000/file-000.parquet", row_group_size=4)
        pq.write_table(tables[2], root / "data/chunk-000/file-001.parquet")
        pq.write_table(pa.table({"task": TASKS[::-1], "task_index": [1, 0]}), root / "meta/tasks.parquet")
        if visual == "video":
            path = root / "videos/observation.images.top/chunk-000/file-000.mp4"
            write_video(path, [f for i in range(3) for f in frames(i)], FPS, "libx264", 18, 2)
        write_episodes(root, visual)
    else:
        for i, table in enumerate(tables):
            place = {"episode_chunk": i // 2, "episode_index": i}
            path = root / V2_DATA.format(**place)
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, path)
            if visual == "video":
                path = root / V2_VIDEO.format(video_key="observation.images.top", **place)
                write_video(path, frames(i), FPS, "libx264", 18, 2)
        tasks = "".join(json.dumps({"task_index": i, "task": text}) + "\n" for i, text in enumerate(TASKS))
        (root / "meta/tasks.jsonl").write_text(tasks)
        rows = [{"episode_index": i, "tasks": [TASKS[i % 2]], "length": n} for i, n in enumerate(LENGTHS)]
        (root / "meta/episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def write_episodes(root, visual: str, **changes) -> None:
    starts = [0, 6, 10, 15]
    table = {
        "episode_index": [0, 1, 2],
        "tasks": [[TASKS[0]], [TASKS[1]], [TASKS[0]]],
        "length": list(LENGTHS),
        "data/chunk_index": [0, 0, 0],
        "data/file_index": [0, 0, 1],
        "dataset_from_index": starts[:3],
        "dataset_to_index": starts[1:],
        "stats/action/mean": [[0.0] * 3] * 3,  # without quantiles
    }
    if visual == "video":
        key = "videos/observation.images.top"
        table |= {f"{key}/chunk_index": [0] * 3, f"{key}/file_index": [0] * 3}
        table |= {
            f"{key}/{end}_timestamp": [s / FPS for s in starts[i : i + 3]] for i, end in enumerate(("from", "to"))
        }
    (root / "meta/episodes/chunk-000").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**table, **changes}), root / "meta/episodes/chunk-000/file-000.parquet")


def read(root) -> list[RawEpisode | Fault]:
    source = LeRobotSource(root)
    return [found for shard in source.shards() for found in source.read(shard)]


def kinds(found) -> list[str]:
    return [one.kind if isinstance(one, Fault) else one.name for one in found]


@pytest.mark.parametrize("visual", ["image", "video"])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_comes_back(tmp_path, version, visual):
    found = read(hand_written(tmp_path / "set", version, visual))
    assert kinds(found) == ["episode_000000", "episode_000001", "episode_000002"]
    for i, episode in enumerate(found):
        assert set(episode.fields) == {"observation.state", "action", "next.done", "annotation.human.task", "task"}
        np.testing.assert_array_equal(episode.fields["observation.state"], state(i))
        np.testing.assert_array_equal(episode.fields["action"], state(i) * 2)
        assert episode.fields["next.done"].tolist() == [False] * (LENGTHS[i] - 1) + [True]
        assert set(episode.fields["task"]) == {TASKS[i % 2]} and set(episode.fields["annotation.human.task"]) == {
            TASKS[1]
        }
        assert episode.metadata == {"episode_metadata/episode_index": i, "episode_metadata/tasks": [TASKS[i % 2]]}
        assert episode.stamps_ns.tolist() == [step * 100_000_000 for step in range(LENGTHS[i])]
        (pictures,) = episode.images.values()
        assert len(pictures) == LENGTHS[i] and pictures[0].shape == (*SIZE, 3)
        levels = [frame.mean() for frame in pictures]
        np.testing.assert_allclose(
            levels, [grey(i, step) for step in range(LENGTHS[i])], atol=0 if visual == "image" else 3
        )


@pytest.mark.parametrize("version", VERSIONS)
def test_fields_and_shards_are_known_before_a_row_is_read(tmp_path, version):
    source = LeRobotSource(hand_written(tmp_path / "set", version))
    assert source.fields() == {
        "task": FieldSpec("text", dtype="string"),
        "observation.state": FieldSpec("array", (3,), "float32"),
        "action": FieldSpec("array", (3,), "float32"),
        "next.done": FieldSpec("array", (), "bool"),
        "observation.images.top": FieldSpec("image", (*SIZE, 3), "uint8"),
        "annotation.human.task": FieldSpec("text", dtype="string"),
    }
    assert source.names("action") == source.names("observation.state") == ("a", "b", "c")
    names = [shard.name for shard in source.shards()]
    v2 = ["data/chunk-000/episode_000000", "data/chunk-000/episode_000001", "data/chunk-001/episode_000002"]
    assert names == (["data/chunk-000/file-000", "data/chunk-000/file-001"] if version == "v3.0" else v2)


def test_pictures_outside_the_table_are_read(tmp_path):
    root = hand_written(tmp_path / "set", "v2.1")
    path = root / "data/chunk-000/episode_000000.parquet"
    table = pq.read_table(path)
    (root / "images").mkdir()
    (root / "images/0.png").write_bytes(png(frames(0)[3]))
    key, at = "observation.images.top", table.column_names.index("observation.images.top")
    pictures = pa.array([{"bytes": None, "path": "images/0.png"}] * 6, table.schema.field(key).type)
    pq.write_table(table.set_column(at, key, pictures), path)
    assert {frame.mean() for frame in read(root)[0].images[key]} == {grey(0, 3)}


def change_rows(path, key: str, values, kind=None) -> None:
    table = pq.read_table(path)
    at = table.column_names.index(key)
    pq.write_table(table.set_column(at, key, pa.array(values, kind or table.schema.field(key).type)), path)


NUMBERS = {
    "stamps far off": ("timestamp", [0, 0.1, 0.2, 0.36, 0.4, 0.5], "timestamps", False),
    "stamps not a number": ("timestamp", [0, 0.1, float("nan"), 0.3, 0.4, 0.5], "timestamps", False),
    "stamps a little off": ("timestamp", [0, 0.1, 0.2, 0.31, 0.4, 0.5], "timestamps", True),
    "an unknown task": ("task_index", [0, 0, 7, 0, 0, 0], "unknown_task", False),
    "a row of another width": ("action", [[1.0, 2.0, 3.0]] * 5 + [[1.0]], "wrong_width", False),
    "a missing number": ("action", [[1.0, 2.0, 3.0]] * 5 + [[1.0, None, 3.0]], "wrong_width", False),
    "rows of another episode": ("episode_index", [0, 0, 5, 0, 0, 0], "wrong_length", False),
    "no pictures": ("observation.images.top", [None] * 6, "missing_camera", True),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_bad_rows_are_told_and_spare_their_neighbours(tmp_path, case):
    key, values, kind, is_kept = NUMBERS[case]
    root = hand_written(tmp_path / "set", "v2.1")
    change_rows(root / "data/chunk-000/episode_000000.parquet", key, values)
    found = kinds(read(root))
    assert found[0] == kind and found[-2:] == ["episode_000001", "episode_000002"]
    assert ("episode_000000" in found) == is_kept


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_damaged_file_spares_the_others(tmp_path, version, damage):
    root = hand_written(tmp_path / "set", version)
    path = LeRobotSource(root).shards()[-1].path
    path.write_bytes(path.read_bytes()[:-20]) if damage == "cut" else path.unlink()
    expected = {"gone": "missing_file", "cut": "truncated"}[damage]
    assert kinds(read(root)) == ["episode_000000", "episode_000001", expected]


def test_lengths_that_disagree_are_told(tmp_path):
    root = hand_written(tmp_path / "set", "v3.0")
    write_episodes(root, "image", length=[6, 3, 5])
    assert kinds(read(root)) == ["episode_000000", "wrong_length", "episode_000002"]
    write_episodes(root, "image", episode_index=[0, 7, 2])
    found = read(root)
    assert kinds(found) == ["episode_000000", "wrong_length", "wrong_length", "episode_000002"]
    assert "0 rows in one piece, the table says 4" in found[1].message
    assert found[2].where.endswith("episode 1") and "not in the table" in found[2].message


def test_a_field_may_be_empty_in_an_episode(tmp_path):
    root = hand_written(tmp_path / "set", "v2.1")
    change_rows(root / "data/chunk-000/episode_000000.parquet", "next.done", [None] * 6)
    first, second, _ = read(root)
    assert "next.done" not in first.fields and "next.done" in second.fields


def test_a_column_that_is_missing_is_told(tmp_path):
    root = hand_written(tmp_path / "set", "v2.1")
    path = root / "data/chunk-000/episode_000000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["action"]), path)
    found = read(root)
    assert kinds(found)[0] == "missing_field" and "'action' is not among the columns" in found[0].message


KEY = "videos/observation.images.top"


def test_videos_that_do_not_fit_are_told(tmp_path):
    root = hand_written(tmp_path / "set", "v3.0", "video")
    write_episodes(root, "video", **{f"{KEY}/chunk_index": [0, None, 0], f"{KEY}/from_timestamp": [0, None, 1.0]})
    found = read(root)
    assert kinds(found) == ["episode_000000", "episode_000001", "episode_000002"] and not found[1].images

    write_episodes(root, "video", **{f"{KEY}/from_timestamp": [0, 0.6, 1.03]})  # durations added in floating point
    found = read(root)
    assert kinds(found) == ["episode_000000", "episode_000001", "timestamps", "episode_000002"]
    np.testing.assert_allclose(found[3].images["observation.images.top"][0].mean(), grey(2, 0), atol=3)

    write_episodes(root, "video", **{f"{KEY}/from_timestamp": [0, 0.6, 1.2]})
    found = read(root)
    assert kinds(found) == ["episode_000000", "episode_000001", "wrong_length"]
    assert "the file has 15" in found[2].message

    write_episodes(root, "video", **{f"{KEY}/file_index": [0, 0, 4]})
    found = read(root)
    assert kinds(found) == ["episode_000000", "episode_000001", "missing_camera", "episode_000002"]
    assert not found[3].images


def test_a_video_of_another_rate_is_told(tmp_path):
    root = hand_written(tmp_path / "set", "v2.1", "video")
    path = root / V2_VIDEO.format(video_key="observation.images.top", episode_chunk=0, episode_index=1)
    write_video(path, frames(1), 30, "libx264", 18, 2)
    found = read(root)
    assert kinds(found) == ["episode_000000", "wrong_rate", "episode_000002"] and "runs at 30 Hz" in found[1].message


def test_impossible_statistics_are_told(tmp_path):
    root = hand_written(tmp_path / "set", "v2.1")
    assert LeRobotSource(root).faults() == []
    stats = {"observation.images.top": {"std": [[[0.002]]] * 3}, "action": {"std": [0.001] * 3}}
    (root / "meta/episodes_stats.jsonl").write_text(json.dumps({"episode_index": 0, "stats": stats}))
    (fault,) = LeRobotSource(root).faults()
    assert fault.kind == "bad_statistics" and fault.where.endswith("observation.images.top")
    stats["observation.images.top"]["std"] = [[[0.3]]] * 3
    (root / "meta/stats.json").write_text(json.dumps(stats))
    assert LeRobotSource(root).faults() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codebase_version": "v4.0"}, "codebase_version 'v4.0'"),
        ({"fps": 0}, "fps must be positive"),
        ({"features": None}, "has no 'features'"),
        ({"chunks_size": None}, "has no 'chunks_size'"),
    ],
)
def test_other_formats_are_told(tmp_path, change, message):
    root = hand_written(tmp_path / "set", "v2.1")
    content = {**info("v2.1", "image"), **change}
    (root / "meta/info.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    with pytest.raises(ValueError, match=message):
        LeRobotSource(root)


def test_incomplete_metadata_are_told(tmp_path):
    root = hand_written(tmp_path / "set", "v2.1")
    (root / "meta/tasks.jsonl").unlink()
    with pytest.raises(ValueError, match=r"tasks\.jsonl.*no complete LeRobotDataset"):
        LeRobotSource(root)
    with pytest.raises(ValueError, match="is missing or damaged"):
        LeRobotSource(tmp_path)
