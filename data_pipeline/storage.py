"""The native store: episodes in unified units, in the layout of LeRobotDataset v3.0, pictures as JPEG columns.

    store.json             what makes it a store: format, version, robot, profile
    meta/, data/           the dataset (spec interop.md section 2), complete whenever `flush` has returned
    index/                 beside each data file: where its pictures begin, and the unified vectors
    incoming/000007.parquet  episodes that were added since, one file each

`observation.state` and `action` are the 128 unified slots, `observation.images.<role>` the cameras,
`source.<path>` the source's own columns, `rdt.<name>` marks of steps (which actions are valid, say), and
`annotation.<name>` numbers that were said of the steps afterwards; slot masks, phrasings, rate, action offset and
origin of an episode stand in its row of meta/episodes, column `rdt/episode`.

An added episode is there whole or not at all, whenever the writer is killed. `flush` joins the added ones into data
files and writes meta/info.json last: rows beyond its count do not count, and the files they came from are removed
only then, so a repeated call ends with the same bytes. One writer at a time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from data_pipeline.atomic import is_temporary, remove_leftovers, write_json
from data_pipeline.frames import JpegFrames
from data_pipeline.lerobot_format import COUNTERS, IMAGES, INFO, STATS, Feature
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
    native_fields,
    read_rows,
    read_staged,
    slot_mask,
    stage_episode,
    stored_episode,
)
from data_pipeline.stats import Moments, SlotStats
from data_pipeline.store_tables import (
    INCOMING,
    StoreTable,
    data_path,
    index_path,
    read_table,
    staged_path,
    write_table,
)

HEADER = "store.json"
_FORMAT, _VERSION = "rdt-store", 2
_OPEN_FILES = 64


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
        sole_writer: bool = True,
    ) -> EpisodeStore:
        """A store to add to: a fresh one, or the one that is there already if it is of the same robot and profile.

        Without an embodiment the store holds episodes that somebody else brought into unified units; `robot_type` is
        then its label. What killed writers left is cleared, unless this is not the `sole_writer`: several may create
        the same store at once, and then one of them adds to it.
        """
        path = Path(path)
        foreign = path.exists() and (not path.is_dir() or any(not is_temporary(found) for found in path.iterdir()))
        if not cls.exists(path):  # looked for last: another writer may have begun meanwhile
            if foreign:
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
        if sole_writer:
            store.clear_leftovers()
        return store

    def clear_leftovers(self) -> None:
        """Remove what killed writers left; only for the one writer."""
        for folder in {self.path, *(path.parent for path in self.path.rglob("*"))}:
            remove_leftovers(folder)

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
        while (staged := staged_path(path, len(store))).exists():
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

    def _picture(self, index: int, role: str, step: int) -> np.ndarray:
        return self[index].images[role][step]

    def jpeg(self, index: int, key: str, step: int) -> bytes:
        """One picture of an episode as it is stored."""
        place = self._places[index]
        return self._file(place).jpeg(key, place.first_row + step)

    def native(self, index: int) -> dict[str, np.ndarray]:
        """The source's own fields of an episode by path, as they were given to `add`."""
        index = range(len(self))[index]
        keys = [key for key in self._features if key.startswith(SOURCE)]
        return native_fields(self._columns(index, keys), self._features)

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
        return tuple(StoreTable(self._entries).tasks)

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
        return [decode_episode(episode) for episode in self]

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
        path = staged_path(self.path, len(self))
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
        target = staged_path(self.path, len(self))
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
        incoming = [staged_path(self.path, i) for i in range(first, len(self))]
        complete = (self.path / INFO).exists() and ((self.path / STATS).exists() or not statistics)
        if complete and not incoming:
            shutil.rmtree(self.path / INCOMING, ignore_errors=True)  # of a flush that was killed at its end
            return
        features, files = dict(self._features), self._assigned_files()
        table = StoreTable(self._entries, files, features)
        jobs = []
        for number, group in groupby(range(len(files)), key=files.__getitem__):
            members = list(group)
            if members[-1] < first and features == self._committed_features:
                continue
            old = [i for i in members if i < first]
            target, index = data_path(self.path, number), index_path(self.path, number)
            parts = [Part(target, sum(self._entries[i].num_steps for i in old))] if old else []
            for i in members[len(old) :]:
                ours = table.counters(i)
                lacking = {key: ours[key] for key in ("episode_index", "index", "task_index")}
                parts.append(Part(staged_path(self.path, i), self._entries[i].num_steps, lacking))
            jobs.append(JoinJob(target, index, tuple(parts), features, tuple(self._entries[i] for i in members)))
        for _ in run(join, jobs):
            pass
        write_table(
            self.path,
            table,
            incoming,
            robot_type=self.robot_type,
            rate_hz=self._rate_hz(),
            file_megabytes=self.profile.file_megabytes,
            picture=self._picture if statistics else None,
        )
        shutil.rmtree(self.path / INCOMING, ignore_errors=True)
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
        table = read_table(self.path)
        self._entries, self._features = list(table.entries), dict(table.features)
        self._committed_features = dict(table.features)
        self._names = {entry.name: i for i, entry in enumerate(self._entries)}
        self._places = [_Place(self.path, self.path, 0)] * len(self)
        self._set_files(list(table.files))

    def _set_files(self, files: list[int]) -> None:
        """Every episode stands in a data file now, at the row where those before it in the file end."""
        self._file_numbers = files
        row, before = 0, -1
        for i, (number, entry) in enumerate(zip(files, self._entries, strict=True)):
            row = row if number == before else 0
            self._places[i] = _Place(data_path(self.path, number), index_path(self.path, number), row)
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

    def _rate_hz(self) -> float:
        if self._entries:
            return self._entries[0].rate_hz
        return self._embodiment.rate_hz if self._embodiment else 1


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


def decode_episode(episode: Episode) -> Episode:
    """The episode with its pictures decoded into read-only arrays."""
    images = {role: np.stack(list(frames)) for role, frames in episode.images.items()}
    for frames in images.values():
        frames.flags.writeable = False
    return replace(episode, images=images)
