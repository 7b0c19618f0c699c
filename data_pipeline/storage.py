"""The native store: episodes in unified units, in the layout of LeRobotDataset v3.0, pictures as JPEG columns.

    store.json             what makes it a store: format, version, robot, profile
    meta/, data/           the dataset (spec interop.md section 2), complete whenever `flush` has returned
    index/                 beside each data file: where its pictures begin, and the unified vectors
    incoming/000007.parquet  episodes that were added since, one file each

`observation.state` and `action` are the 128 unified slots, `observation.images.<role>` the cameras,
`source.<path>` the source's own columns, `rdt.<name>` marks of steps (which actions are valid, say); slot masks,
phrasings, rate, action offset and origin of an episode stand in its row of meta/episodes, column `rdt/episode`.

An added episode is there whole or not at all, whenever the writer is killed. `flush` joins the added ones into data
files and writes meta/info.json last: rows beyond its count do not count, and the files they came from are removed
only then, so a repeated call ends with the same bytes. One writer at a time.
"""

from __future__ import annotations

import json
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.atomic import atomic_path, remove_leftovers, write_json
from data_pipeline.feature_stats import frame_stats, merge_stats, quantiles, row_stats, sampled_steps, to_plain
from data_pipeline.frames import JpegFrames
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
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.types import Episode
from data_pipeline.shards import (
    SOURCE,
    DataFile,
    EpisodeEntry,
    JoinJob,
    Part,
    Profile,
    Staged,
    drop_columns,
    join,
    read_rows,
    read_staged,
    slot_mask,
    stage_episode,
    stored_episode,
)
from data_pipeline.stats import Moments, SlotStats

HEADER = "store.json"
ENTRY = "rdt/episode"
"""Column of the episode table with what the format has no place for."""

_FORMAT, _VERSION = "rdt-store", 2
_INCOMING = "incoming"
_EPISODES_A_FILE = 1000  # rows of a file of the episode table
_OPEN_FILES = 64
_QUANTILE_ROWS = 2**18  # quantiles of larger stores are of evenly spread rows
_STATS_FRAMES = 64  # pictures of a camera that its statistics are taken from


@dataclass(frozen=True)
class _Place:
    """Rows of an episode."""

    data: Path
    index: Path
    first_row: int


def _one_after_another(call: Callable, jobs: Sequence[JoinJob]) -> Iterator:
    return (call(None, job) for job in jobs)


class EpisodeStore(Sequence[Episode]):
    """Episodes of one robot, or of one dataset whose robot has no description. Made by `create` or `open`."""

    def __init__(self, path: Path, embodiment: Embodiment | None, robot_type: str | None, profile: Profile) -> None:
        self.path = path
        self.robot_type = robot_type
        self.profile = profile
        self._embodiment = embodiment
        self._features: dict[str, Feature] = dict(COUNTERS)
        self._committed_features: dict[str, Feature] = {}  # of the data files
        self._entries: list[EpisodeEntry] = []
        self._places: list[_Place] = []
        self._file_numbers: list[int] = []  # data file of each committed episode
        self._names: dict[str, int] = {}
        self._open_file = _file_cache()

    @classmethod
    def create(
        cls,
        path: str | Path,
        embodiment: Embodiment | None,
        *,
        robot_type: str | None = None,
        profile: Profile | None = None,
    ) -> EpisodeStore:
        """A store to add to: a fresh one, or the one that is there already if it is of the same robot and profile.

        Without an embodiment the store holds episodes that somebody else brought into unified units; `robot_type` is
        then its label.
        """
        path = Path(path)
        if not cls.exists(path):
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise ValueError(f"{path} exists and is no episode store: choose an empty or absent folder")
            store = cls(path, embodiment, embodiment.name if embodiment else robot_type, profile or Profile())
            header = {
                "format": _FORMAT,
                "version": _VERSION,
                "robot_type": store.robot_type,
                "embodiment": embodiment.to_dict() if embodiment else None,
                "profile": asdict(store.profile),
            }
            write_json(path / HEADER, header)
            store.flush()
            return store
        store = cls.open(path)
        if store._embodiment != embodiment:
            raise ValueError(
                f"{path} was made with another description of robot {store.robot_type!r} than the given "
                f"one of {embodiment.name if embodiment else None!r}: write into another folder"
            )
        if profile not in (None, store.profile):
            raise ValueError(f"{path} was made with {store.profile}, not {profile}: write into another folder")
        for folder in {path, *(p.parent for p in path.rglob("*"))}:
            remove_leftovers(folder)
        return store

    @classmethod
    def exists(cls, path: str | Path) -> bool:
        """Whether a folder is a store, whole or damaged."""
        return (Path(path) / HEADER).is_file()

    @classmethod
    def open(cls, path: str | Path) -> EpisodeStore:
        """An existing store. Reads its table, and the episodes that a writer added without `flush`."""
        path = Path(path)
        try:
            content = json.loads((path / HEADER).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise FileNotFoundError(f"{path} is no episode store: it has no {HEADER}") from None
        except ValueError as error:
            raise ValueError(f"{path / HEADER} is damaged ({error}): remove {path} and convert again") from None
        if content.get("format") != _FORMAT or content.get("version") != _VERSION:
            raise ValueError(
                f"{path} has format {content.get('format')!r} version {content.get('version')!r}, this code "
                f"reads {_FORMAT!r} version {_VERSION}: convert the recordings again"
            )
        embodiment = Embodiment.from_dict(content["embodiment"]) if content["embodiment"] else None
        store = cls(path, embodiment, content["robot_type"], Profile(**content["profile"]))
        with _explained(path / "meta", path):
            store._read_table()
        while (staged := store._staged_path(len(store))).exists():
            with _explained(staged, path):
                store._append(read_staged(staged), staged)
        return store

    @property
    def is_described(self) -> bool:
        """Whether the robot's description came with the episodes: `embodiment` has none to give otherwise."""
        return self._embodiment is not None

    def is_of(self, robot: Embodiment) -> bool:
        """Whether this robot recorded it, as described today."""
        return self._embodiment == robot

    @property
    def embodiment(self) -> Embodiment:
        if self._embodiment is None:
            raise ValueError(
                f"{self.path} was converted without a robot description: its vectors are unified ones alone"
            )
        return self._embodiment

    @property
    def features(self) -> Mapping[str, Feature]:
        """What the columns hold, by key."""
        return self._features

    @property
    def entries(self) -> Sequence[EpisodeEntry]:
        """The table: what is known of each episode without reading any."""
        return self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Episode:  # type: ignore[override]  # one episode, no slices
        """An episode whose arrays are views of mapped files and whose frames are read and decoded when indexed."""
        index = range(len(self))[index]
        entry, place = self._entries[index], self._places[index]
        images = {
            role: JpegFrames(_StoredJpegs(self, index, role), name=f"{self.path.name} episode {index}, camera {role!r}")
            for role in entry.frame_sizes
        }
        return stored_episode(entry, self._file(place), place.first_row, images)

    def jpeg(self, index: int, key: str, step: int) -> bytes:
        """One picture of an episode as it is stored."""
        place = self._places[index]
        return self._file(place).jpeg(key, place.first_row + step)

    def native(self, index: int) -> dict[str, np.ndarray]:
        """The source's own fields of an episode by path, as they were given to `add`."""
        index = range(len(self))[index]
        keys = [key for key in self._features if key.startswith(SOURCE)]
        table = self._columns(index, keys)
        native = {}
        for key in keys:
            if key in table.column_names and table[key].null_count < len(table):
                feature = self._features[key]
                values = from_arrow(table[key], feature)
                native[feature.extra["path"]] = values.reshape(len(values), *feature.extra["step_shape"])
        return native

    def native_paths(self) -> dict[str, Feature]:
        """Which of the source's own fields are kept, by path."""
        return {feature.extra["path"]: feature for key, feature in self._features.items() if key.startswith(SOURCE)}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._names)

    def has(self, name: str) -> bool:
        """Whether it holds an episode of that name."""
        return name in self._names

    @property
    def episode_lengths(self) -> tuple[int, ...]:
        """Steps of each episode, without reading any."""
        return tuple(entry.num_steps for entry in self._entries)

    @property
    def visit_lengths(self) -> tuple[int, ...]:
        """Steps that one visit of each episode draws (see `add`)."""
        return tuple(min(entry.num_steps, entry.max_steps or entry.num_steps) for entry in self._entries)

    def entry(self, index: int) -> EpisodeEntry:
        """What the table says of one episode."""
        return self._entries[index]

    @property
    def instructions(self) -> tuple[str, ...]:
        """All phrasings of all episodes, each once, without reading any."""
        return tuple(self._tasks())

    @property
    def sources(self) -> dict[str, Any]:
        """Episode name -> what its converter noted about where it came from."""
        return {entry.name: entry.source for entry in self._entries}

    @property
    def decoded_bytes(self) -> int:
        """Memory that `decoded` would take for its pictures."""
        sizes = (
            entry.num_steps * height * width * 3
            for entry in self._entries
            for height, width in entry.frame_sizes.values()
        )
        return sum(sizes)

    def decoded(self) -> list[Episode]:
        """All episodes with their pictures decoded into read-only arrays (see `decoded_bytes` first)."""
        return [_decode(episode) for episode in self]

    def add(
        self,
        episode: Episode,
        source: Mapping[str, Any] | None = None,
        native: Mapping[str, np.ndarray] | None = None,
        max_steps: int | None = None,
    ) -> int:
        """Append an episode durably and return its index.

        `source` is noted beside it, plain types. `native` are the source's own fields by path, (steps, ...): what a
        corrected mapping needs to make the unified vectors anew. A visit of the stream draws `max_steps` of a longer
        episode.
        """
        self._check_name(episode.name)
        path = self._staged_path(len(self))
        staged = stage_episode(path, episode, self.profile, source=source, native=native, max_steps=max_steps)
        try:
            return self._append(staged, path)
        except ValueError:
            path.unlink()
            raise

    def adopt(self, path: str | Path) -> tuple[str, ...]:
        """Append a file that `stage_episode` wrote, in another process perhaps, on the same disk; it is moved.

        The source's own columns of another type or width than the store's are left behind; returns their keys.
        """
        path = Path(path)
        staged = read_staged(path)
        self._check_name(staged.entry.name)
        misfits = tuple(key for key in staged.features if key.startswith(SOURCE) and not self._fits(staged, key))
        if misfits:
            staged = drop_columns(path, misfits)
        self._check_features(staged)
        target = self._staged_path(len(self))
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
        self._append(staged, target)
        return misfits

    def flush(
        self, run: Callable[[Callable, Sequence[JoinJob]], Iterable] = _one_after_another, *, statistics: bool = True
    ) -> None:
        """Join the added episodes into data files and bring the dataset's metadata up to date.

        `run(call, jobs)` gives what `call(None, job)` returns for each job, in any order, in other processes perhaps.
        Without `statistics` those of the whole dataset, which take a pass over all vectors, are left to a later call.
        """
        first = len(self._file_numbers)
        incoming = [self._staged_path(i) for i in range(first, len(self))]
        complete = (self.path / INFO).exists() and ((self.path / STATS).exists() or not statistics)
        if complete and not incoming:
            shutil.rmtree(self.path / _INCOMING, ignore_errors=True)  # of a flush that was killed at its end
            return
        features = dict(self._features)
        staged = [read_staged(path) for path in incoming]
        files = self._assigned_files()
        tasks = self._tasks()
        starts = [0, *accumulate(self.episode_lengths)]
        jobs = []
        for number, group in groupby(range(len(files)), key=files.__getitem__):
            members = list(group)
            if members[-1] < first and features == self._committed_features:
                continue
            old = [i for i in members if i < first]
            parts = [Part(self._data_path(number), sum(self._entries[i].num_steps for i in old))] if old else []
            for i in members[len(old) :]:
                entry = self._entries[i]
                ours = counters(entry.num_steps, entry.rate_hz, i, starts[i], tasks[entry.instructions[0]])
                lacking = {key: ours[key] for key in ("episode_index", "index", "task_index")}
                parts.append(Part(self._staged_path(i), entry.num_steps, lacking))
            entries = tuple(self._entries[i] for i in members)
            jobs.append(JoinJob(self._data_path(number), self._index_path(number), tuple(parts), features, entries))
        for _ in run(join, jobs):
            pass
        self._write_metadata(features, files, tasks, [dict(part.stats) for part in staged], statistics=statistics)
        shutil.rmtree(self.path / _INCOMING, ignore_errors=True)
        self._open_file = _file_cache()
        self._committed_features = features
        self._set_files(files)

    def __enter__(self) -> EpisodeStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def stats(self, which: Literal["state", "action"]) -> SlotStats:
        """Statistics of all steps, in one pass over the files; pictures are not read."""
        return self.moments(which, range(len(self))).finish()

    def moments(self, which: Literal["state", "action"], indices: Iterable[int]) -> Moments:
        """Sums over some episodes, to be added to those of other stores."""
        moments = Moments.zero()
        for index in indices:
            entry, place = self._entries[index], self._places[index]
            file = self._file(place)
            rows = slice(place.first_row, place.first_row + entry.num_steps)
            if which == "state":
                moments += Moments.of(file.states[rows], slot_mask(entry.state_slots))
            else:
                moments += Moments.of(file.actions[rows], slot_mask(entry.action_slots))
        return moments

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open_file": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _open_file=_file_cache())

    def _file(self, place: _Place) -> DataFile:
        with _explained(place.data, self.path):
            return self._open_file(place.data, place.index)

    def _columns(self, index: int, keys: Sequence[str]) -> pa.Table:
        place = self._places[index]
        with _explained(place.data, self.path):
            return read_rows(place.data, keys, place.first_row, place.first_row + self._entries[index].num_steps)

    def _append(self, staged: Staged, path: Path) -> int:
        self._check_features(staged)
        self._features = _united(self._features, staged.features)
        self._names[staged.entry.name] = len(self)
        self._entries.append(staged.entry)
        self._places.append(_Place(path, path.with_suffix(".arrow"), 0))
        return len(self) - 1

    def _check_name(self, name: str) -> None:
        if name in self._names:
            raise ValueError(f"{self.path} holds an episode named {name!r} already")

    def _fits(self, staged: Staged, key: str) -> bool:
        known, feature = self._features.get(key), staged.features[key]
        return not known or known.is_visual or (known.dtype, known.shape) == (feature.dtype, feature.shape)

    def _check_features(self, staged: Staged) -> None:
        for key, feature in staged.features.items():
            known = self._features.get(key)
            if known and not self._fits(staged, key):
                raise ValueError(
                    f"episode {staged.entry.name!r}: {key} is {feature.dtype} {list(feature.shape)}, the store's other "
                    f"episodes have {known.dtype} {list(known.shape)}: convert it into another store"
                )

    def _read_table(self) -> None:
        info_path = self.path / INFO
        if not info_path.exists():  # killed before the first flush
            return
        info = json.loads(info_path.read_text(encoding="utf-8"))
        self._features = {key: Feature.from_dict(key, raw) for key, raw in info["features"].items()}
        self._committed_features = dict(self._features)
        total, files = info["total_episodes"], []
        for number in range(-(-total // _EPISODES_A_FILE)):
            place = ["data/chunk_index", "data/file_index"]
            table = pq.read_table(self._episodes_path(number), columns=[ENTRY, *place], use_threads=False)
            self._entries += [EpisodeEntry.from_json(text) for text in table[ENTRY].to_pylist()]
            pairs = zip(*(table[key].to_pylist() for key in place), strict=True)
            files += [chunk * info["chunks_size"] + file for chunk, file in pairs]
        if len(self._entries) < total:
            raise ValueError(f"{info_path} counts {total} episodes, the table has {len(self._entries)}")
        del self._entries[total:], files[total:]
        self._names = {entry.name: i for i, entry in enumerate(self._entries)}
        self._places = [_Place(self.path, self.path, 0)] * total
        self._set_files(files)

    def _set_files(self, files: list[int]) -> None:
        """Every episode stands in a data file now, at the row where those before it in the file end."""
        self._file_numbers = files
        row, before = 0, -1
        for i, (number, entry) in enumerate(zip(files, self._entries, strict=True)):
            row = row if number == before else 0
            self._places[i] = _Place(self._data_path(number), self._index_path(number), row)
            row, before = row + entry.num_steps, number

    def _assigned_files(self) -> list[int]:
        """Data file of each episode: the last one as long as it stays within its size."""
        files = list(self._file_numbers)
        number = files[-1] if files else 0
        size = sum(self._entries[i].num_bytes for i, file in enumerate(files) if file == number)
        for entry in self._entries[len(files) :]:
            if size and size + entry.num_bytes > self.profile.file_megabytes * 1e6:
                number, size = number + 1, 0
            size += entry.num_bytes
            files.append(number)
        return files

    def _tasks(self) -> dict[str, int]:
        """Phrasing -> task number, in the order in which they came."""
        tasks: dict[str, int] = {}
        for entry in self._entries:
            for text in entry.instructions:
                tasks.setdefault(text, len(tasks))
        return tasks

    def _write_metadata(
        self,
        features: dict[str, Feature],
        files: list[int],
        tasks: dict[str, int],
        staged_stats: list[dict[str, Any]],
        *,
        statistics: bool,
    ) -> None:
        """Everything below meta/, the count of episodes last."""
        columns = episodes_schema(features).append(pa.field(ENTRY, pa.string()))
        first = len(self) - len(staged_stats)
        starts = [0, *accumulate(self.episode_lengths)]
        for number in range(first // _EPISODES_A_FILE, -(-len(self) // _EPISODES_A_FILE)):
            begin, path = number * _EPISODES_A_FILE, self._episodes_path(number)
            rows = []
            for i in range(max(begin, first), min(begin + _EPISODES_A_FILE, len(self))):
                entry = self._entries[i]
                ours = counters(entry.num_steps, entry.rate_hz, i, starts[i], tasks[entry.instructions[0]])
                row = {
                    "episode_index": i,
                    "tasks": list(entry.instructions),
                    "length": entry.num_steps,
                    **{f"data/{key}": value for key, value in file_place(files[i]).items()},
                    "dataset_from_index": starts[i],
                    "dataset_to_index": starts[i + 1],
                    **stats_columns(staged_stats[i - first] | {key: row_stats(ours[key]) for key in ours}),
                    **{f"meta/episodes/{key}": value for key, value in file_place(number).items()},
                    ENTRY: entry.to_json(),
                }
                rows.append(row)
            table = pa.Table.from_pylist(rows, schema=columns)
            if begin < first:
                kept = pq.read_table(path, use_threads=False).slice(0, first - begin)
                table = pa.concat_tables([kept, table], promote_options="default").select(columns.names)
                table = table.cast(columns).combine_chunks()  # the bytes do not tell how often it was written
            with atomic_path(path) as temporary:
                pq.write_table(table, temporary)
        with atomic_path(self.path / TASKS_V3) as temporary:
            pq.write_table(tasks_table(list(tasks)), temporary)
        info = dataset_info(
            "v3.0",
            features,
            robot_type=self.robot_type,
            fps=self._rate_hz(),
            num_episodes=len(self),
            num_steps=starts[-1],
            num_tasks=len(tasks),
            data_megabytes=max(1, round(self.profile.file_megabytes)),
        )
        if statistics:
            write_json(self.path / STATS, self._dataset_stats(features, files))
        else:
            (self.path / STATS).unlink(missing_ok=True)
        write_json(self.path / INFO, info)

    def _dataset_stats(self, features: dict[str, Feature], files: list[int]) -> dict[str, dict[str, list]]:
        """Numbers from all rows, quantiles exactly up to `_QUANTILE_ROWS`; cameras from some of their pictures."""
        stats = {}
        tables = [self._episodes_path(number) for number in range(-(-len(self) // _EPISODES_A_FILE))]
        stride = -(-sum(self.episode_lengths) // _QUANTILE_ROWS)
        for key, feature in features.items() if files else ():
            if feature.is_visual:
                stats[key] = to_plain(frame_stats(self._sampled_frames(key.removeprefix(IMAGES))))
            elif feature.is_numeric:
                names = ("min", "max", "mean", "std", "count")
                columns = [f"stats/{key}/{name}" for name in names]
                parts = pa.concat_tables([pq.read_table(path, columns=columns, use_threads=False) for path in tables])
                shaped = {name: Feature("float64", (1,) if name == "count" else feature.shape) for name in names}
                of = {name: from_arrow(parts[f"stats/{key}/{name}"].drop_null(), shaped[name]) for name in names}
                of = {name: values.reshape(len(values), *shaped[name].shape) for name, values in of.items()}
                merged = merge_stats([{name: of[name][i] for name in names} for i in range(len(of["count"]))])
                data = (pq.read_table(self._data_path(n), columns=[key], use_threads=False) for n in sorted(set(files)))
                rows = [from_arrow(table[key].drop_null(), feature)[::stride].copy() for table in data]
                stats[key] = to_plain({**merged, **quantiles(np.concatenate(rows))})
        return stats

    def _sampled_frames(self, role: str) -> list[np.ndarray]:
        """Evenly spread pictures of one camera."""
        having = [i for i, entry in enumerate(self._entries) if role in entry.frame_sizes]
        ends = list(accumulate(self._entries[i].num_steps for i in having))
        frames = []
        for step in sampled_steps(ends[-1], _STATS_FRAMES):
            place = bisect_right(ends, step)
            frames.append(self[having[place]].images[role][step - (ends[place - 1] if place else 0)])
        return frames

    def _rate_hz(self) -> float:
        if self._entries:
            return self._entries[0].rate_hz
        return self._embodiment.rate_hz if self._embodiment else 1

    def _staged_path(self, index: int) -> Path:
        return self.path / _INCOMING / f"{index:06d}.parquet"

    def _data_path(self, number: int) -> Path:
        return self.path / DATA_PATHS["v3.0"].format(**file_place(number))

    def _index_path(self, number: int) -> Path:
        return self.path / "index/chunk-{chunk_index:03d}/file-{file_index:03d}.arrow".format(**file_place(number))

    def _episodes_path(self, number: int) -> Path:
        return self.path / EPISODES_PATH.format(**file_place(number))


class EpisodeSelection(Sequence[Episode]):
    """Some episodes of a store, read like a store: a training or a held-out part."""

    def __init__(self, store: EpisodeStore, indices: Sequence[int]) -> None:
        self.store = store
        self.indices = tuple(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Episode:  # type: ignore[override]  # one episode, no slices
        return self.store[self.indices[index]]

    @property
    def episode_lengths(self) -> tuple[int, ...]:
        lengths = self.store.episode_lengths
        return tuple(lengths[i] for i in self.indices)

    @property
    def visit_lengths(self) -> tuple[int, ...]:
        """Steps that one visit of each episode draws."""
        lengths = self.store.visit_lengths
        return tuple(lengths[i] for i in self.indices)

    @property
    def path(self) -> Path:
        """Of the store."""
        return self.store.path

    def entry(self, index: int) -> EpisodeEntry:
        """What the table says of one episode."""
        return self.store.entry(self.indices[index])

    @property
    def decoded_bytes(self) -> int:
        """Memory that `decoded` would take for its pictures, if all episodes of the store are alike."""
        return self.store.decoded_bytes * sum(self.episode_lengths) // max(sum(self.store.episode_lengths), 1)

    def moments(self, which: Literal["state", "action"]) -> Moments:
        """Sums over these episodes."""
        return self.store.moments(which, self.indices)

    def decoded(self) -> list[Episode]:
        """The episodes with their pictures decoded into read-only arrays."""
        return [_decode(episode) for episode in self]


def split_held_out(store: EpisodeStore, every: int) -> tuple[EpisodeSelection, EpisodeSelection]:
    """(training part, held-out part): the last episode of each stride of `every` is held out; 0: none."""
    held_out = range(every - 1, len(store), every) if every else range(0)
    training = [i for i in range(len(store)) if i not in held_out]
    return EpisodeSelection(store, training), EpisodeSelection(store, held_out)


def find_stores(path: str | Path) -> list[Path]:
    """The store at `path`, or those that lie side by side in that folder, by name."""
    path = Path(path)
    if EpisodeStore.exists(path):
        return [path]
    stores = sorted(header.parent for header in path.glob(f"*/{HEADER}"))
    if stores:
        return stores
    what = "holds none" if path.is_dir() else "there is no such folder"
    raise ValueError(f"{path} is no episode store and {what}: expected {path / HEADER} or {path / 'NAME' / HEADER}")


class _StoredJpegs(Sequence[bytes]):
    """The JPEGs of one camera of an episode, read when indexed, wherever a `flush` has moved them."""

    def __init__(self, store: EpisodeStore, episode: int, role: str) -> None:
        self._store, self._episode, self._key = store, episode, IMAGES + role

    def __len__(self) -> int:
        return self._store.entries[self._episode].num_steps

    def __getitem__(self, step: int) -> bytes:  # type: ignore[override]  # one picture, no slices
        return self._store.jpeg(self._episode, self._key, range(len(self))[step])


@contextmanager
def _explained(path: Path, store: Path) -> Iterator[None]:
    """Damage of any kind becomes one `ValueError`."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise ValueError(
            f"{path} is missing or damaged ({error}): save the rest by `rdt data repair {store} --out NEW`, or "
            "convert again"
        ) from None


def _file_cache() -> Callable[[Path, Path], DataFile]:
    return lru_cache(maxsize=_OPEN_FILES)(DataFile)


def _united(features: Mapping[str, Feature], more: Mapping[str, Feature]) -> dict[str, Feature]:
    """The features of both in the order in which they came, the counters last."""
    both = {**features, **{key: feature for key, feature in more.items() if key not in features}}
    return {key: feature for key, feature in both.items() if key not in COUNTERS} | COUNTERS


def _decode(episode: Episode) -> Episode:
    images = {role: np.stack(list(frames)) for role, frames in episode.images.items()}
    for frames in images.values():
        frames.flags.writeable = False
    return replace(episode, images=images)
