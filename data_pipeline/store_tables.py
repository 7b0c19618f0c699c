"""What a store says of itself below meta/, as LeRobotDataset v3.0 wants it: episodes, tasks, statistics, info.json.

Where the files of a store lie is said here too. Statistics of the dataset are of all rows, quantiles exactly up to
`_QUANTILE_ROWS`, those of cameras of some of their pictures.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.atomic import atomic_path, write_json
from data_pipeline.feature_stats import (
    finite_rows,
    frame_stats,
    merge_stats,
    quantiles,
    row_stats,
    sampled_steps,
    to_plain,
)
from data_pipeline.lerobot_format import (
    COUNTERS,
    DATA_PATHS,
    EPISODES_PATH,
    IMAGES,
    INFO,
    STATS,
    TASKS_V3,
    Feature,
    counters,
    dataset_info,
    episodes_schema,
    file_place,
    from_arrow,
    stats_columns,
    tasks_table,
)
from data_pipeline.shards import EpisodeEntry, read_staged

INCOMING = "incoming"
"""Folder of the episodes that no data file holds yet."""

ENTRY = "rdt/episode"
"""Column of the episode table with what the format has no place for."""

_EPISODES_A_FILE = 1000  # rows of a file of the episode table
_QUANTILE_ROWS = 2**18  # quantiles of larger stores are of evenly spread rows
_STATS_FRAMES = 64  # pictures of a camera that its statistics are taken from

Picture = Callable[[int, str, int], np.ndarray]
"""The picture of an episode, a camera role and a step."""


@dataclass(frozen=True)
class StoreTable:
    """The episodes of a store, the data file of each, and what the columns hold."""

    entries: Sequence[EpisodeEntry] = ()
    files: Sequence[int] = ()
    features: Mapping[str, Feature] = field(default_factory=lambda: dict(COUNTERS))

    @cached_property
    def starts(self) -> list[int]:
        """Steps before each episode, and all of them."""
        return [0, *accumulate(entry.num_steps for entry in self.entries)]

    @cached_property
    def tasks(self) -> dict[str, int]:
        """Phrasing -> task number, in the order in which they came."""
        tasks: dict[str, int] = {}
        for entry in self.entries:
            for text in entry.instructions:
                tasks.setdefault(text, len(tasks))
        return tasks

    def counters(self, index: int) -> dict[str, np.ndarray]:
        """The columns of an episode that every dataset has."""
        entry = self.entries[index]
        task = self.tasks[entry.instructions[0]]
        return counters(entry.num_steps, entry.rate_hz, index, self.starts[index], task)


def staged_path(root: Path, index: int) -> Path:
    return root / INCOMING / f"{index:06d}.parquet"


def data_path(root: Path, number: int) -> Path:
    return root / DATA_PATHS["v3.0"].format(**file_place(number))


def index_path(root: Path, number: int) -> Path:
    return root / "index/chunk-{chunk_index:03d}/file-{file_index:03d}.arrow".format(**file_place(number))


def episodes_path(root: Path, number: int) -> Path:
    return root / EPISODES_PATH.format(**file_place(number))


def read_table(root: Path) -> StoreTable:
    """What is committed: as many episodes as info.json counts; none where it is not there."""
    info_path = root / INFO
    if not info_path.exists():  # killed before the first flush
        return StoreTable()
    info = json.loads(info_path.read_text(encoding="utf-8"))
    total, entries, files = info["total_episodes"], list[EpisodeEntry](), list[int]()
    for number in range(-(-total // _EPISODES_A_FILE)):
        place = ["data/chunk_index", "data/file_index"]
        table = pq.read_table(episodes_path(root, number), columns=[ENTRY, *place], use_threads=False)
        entries += [EpisodeEntry.from_json(text) for text in table[ENTRY].to_pylist()]
        pairs = zip(*(table[key].to_pylist() for key in place), strict=True)
        files += [chunk * info["chunks_size"] + file for chunk, file in pairs]
    if len(entries) < total:
        raise ValueError(f"{info_path} counts {total} episodes, the table has {len(entries)}")
    features = {key: Feature.from_dict(key, raw) for key, raw in info["features"].items()}
    return StoreTable(entries[:total], files[:total], features)


def write_table(
    root: Path,
    table: StoreTable,
    incoming: Sequence[Path],
    *,
    robot_type: str | None,
    rate_hz: float,
    file_megabytes: float,
    picture: Picture | None,
) -> None:
    """Everything below meta/, the count of episodes last.

    `incoming` are the files of the last episodes, which the table on the disk lacks; their statistics stand in them.
    Without `picture` the statistics of the dataset are left to a later call.
    """
    _write_episodes(root, table, incoming)
    with atomic_path(root / TASKS_V3) as temporary:
        pq.write_table(tasks_table(list(table.tasks)), temporary)
    info = dataset_info(
        "v3.0",
        table.features,
        robot_type=robot_type,
        fps=rate_hz,
        num_episodes=len(table.entries),
        num_steps=table.starts[-1],
        num_tasks=len(table.tasks),
        data_megabytes=max(1, round(file_megabytes)),
    )
    if picture is not None:
        write_json(root / STATS, _dataset_stats(root, table, picture))
    else:
        (root / STATS).unlink(missing_ok=True)
    write_json(root / INFO, info)


def _write_episodes(root: Path, table: StoreTable, incoming: Sequence[Path]) -> None:
    columns = episodes_schema(table.features).append(pa.field(ENTRY, pa.string()))
    total = len(table.entries)
    first = total - len(incoming)
    for number in range(first // _EPISODES_A_FILE, -(-total // _EPISODES_A_FILE)):
        begin, path = number * _EPISODES_A_FILE, episodes_path(root, number)
        rows = []
        for i in range(max(begin, first), min(begin + _EPISODES_A_FILE, total)):
            entry, ours = table.entries[i], table.counters(i)
            stats = {**read_staged(incoming[i - first]).stats, **{key: row_stats(ours[key]) for key in ours}}
            row = {
                "episode_index": i,
                "tasks": list(entry.instructions),
                "length": entry.num_steps,
                **{f"data/{key}": value for key, value in file_place(table.files[i]).items()},
                "dataset_from_index": table.starts[i],
                "dataset_to_index": table.starts[i + 1],
                **stats_columns(stats),
                **{f"meta/episodes/{key}": value for key, value in file_place(number).items()},
                ENTRY: entry.to_json(),
            }
            rows.append(row)
        written = pa.Table.from_pylist(rows, schema=columns)
        if begin < first:
            kept = pq.read_table(path, use_threads=False).slice(0, first - begin)
            written = pa.concat_tables([kept, written], promote_options="default").select(columns.names)
            written = written.cast(columns).combine_chunks()  # the bytes do not tell how often it was written
        with atomic_path(path) as temporary:
            pq.write_table(written, temporary)


def _dataset_stats(root: Path, table: StoreTable, picture: Picture) -> dict[str, dict[str, list]]:
    stats = {}
    for key, feature in table.features.items() if table.files else ():
        if feature.is_visual:
            stats[key] = to_plain(frame_stats(_sampled_frames(table, key.removeprefix(IMAGES), picture)))
        elif feature.is_numeric:
            of = _column_stats(root, table, key, feature)
            if of is not None:
                stats[key] = of
    return stats


def _column_stats(root: Path, table: StoreTable, key: str, feature: Feature) -> dict[str, list] | None:
    """Of one column of numbers; None where no episode has any."""
    names = ("min", "max", "mean", "std", "count")
    columns = [f"stats/{key}/{name}" for name in names]
    tables = [episodes_path(root, number) for number in range(-(-len(table.entries) // _EPISODES_A_FILE))]
    parts = pa.concat_tables([pq.read_table(path, columns=columns, use_threads=False) for path in tables])
    shaped = {name: Feature("float64", (1,) if name == "count" else feature.shape) for name in names}
    of = {name: from_arrow(parts[f"stats/{key}/{name}"].drop_null(), shaped[name]) for name in names}
    if not len(of["count"]):
        return None
    of = {name: values.reshape(len(values), *shaped[name].shape) for name, values in of.items()}
    merged = merge_stats([{name: of[name][i] for name in names} for i in range(len(of["count"]))])
    stride = -(-table.starts[-1] // _QUANTILE_ROWS)
    data = (pq.read_table(data_path(root, n), columns=[key], use_threads=False) for n in sorted(set(table.files)))
    rows = [finite_rows(from_arrow(read[key].drop_null(), feature))[::stride].copy() for read in data]
    return to_plain({**merged, **quantiles(np.concatenate(rows))})


def _sampled_frames(table: StoreTable, role: str, picture: Picture) -> list[np.ndarray]:
    """Evenly spread pictures of one camera."""
    having = [i for i, entry in enumerate(table.entries) if role in entry.frame_sizes]
    ends = list(accumulate(table.entries[i].num_steps for i in having))
    frames = []
    for step in sampled_steps(ends[-1], _STATS_FRAMES):
        place = bisect_right(ends, step)
        frames.append(picture(having[place], role, step - (ends[place - 1] if place else 0)))
    return frames
