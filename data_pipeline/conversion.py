"""Recordings -> native store, shard by shard: resumable after a kill at any moment, on one machine or a cluster.

    OUT/conversion/plan.json           what is converted how; another plan needs another folder
    OUT/conversion/SHARD/00000.parquet episodes of a shard, until they are joined
    OUT/conversion/SHARD.json          what became of it, written last: a shard without one is done again

A shard is a unit of work and a pure function of its file: it appears whole or not at all, whoever does it. Joining
takes the shards in their order, so that the store's bytes do not depend on workers, interruptions or machines.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import google_crc32c  # type: ignore[import-untyped]

from data_pipeline.atomic import WriteError, atomic_folder, check_writable, read_json, remove_leftovers, write_json
from data_pipeline.cluster import run_on_ray
from data_pipeline.recordings import ReadEpisode, Recordings
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.shards import JoinJob, Profile, stage_episode
from data_pipeline.sources.raw import Fault, Shard
from data_pipeline.storage import HEADER, EpisodeStore
from data_pipeline.workers import run_as_completed

Engine = Literal["pool", "ray"]
FOLDER, PLAN = "conversion", "plan.json"

BY_CHOICE = ("filtered", "no_language", "too_short", "zero_length", "still")
"""Kinds of fault that a dataset's YAML asks for: such an episode is skipped, any other is quarantined."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EBADF)  # the last one: NFS, for a folder
_FORM = 1  # of what this file writes beside a store


@dataclass(frozen=True)
class StagedFile:
    """An episode of a shard, in a file of its own."""

    name: str
    num_steps: int
    num_bytes: int  # of the file
    crc32c: int


@dataclass(frozen=True)
class ShardRecord:
    """What became of one shard: a line of the manifest."""

    shard: str
    source: Mapping[str, int]  # bytes and modified_ns of its file
    code: str  # version of this package
    episodes: tuple[StagedFile, ...]
    skipped: tuple[Fault, ...]  # episodes that the dataset's YAML does not want
    quarantined: tuple[Fault, ...]  # episodes that could not be used
    noted: tuple[Fault, ...]  # what was found in episodes that are kept

    @classmethod
    def read(cls, path: Path) -> ShardRecord:
        raw = read_json(path, "remove it to convert its shard again")
        faults = {key: tuple(Fault(**fault) for fault in raw[key]) for key in ("skipped", "quarantined", "noted")}
        return cls(**{**raw, "episodes": tuple(StagedFile(**one) for one in raw["episodes"]), **faults})


@dataclass
class ConversionReport:
    """All shards together."""

    num_shards: int = 0
    num_shards_before: int = 0  # done by an earlier call
    num_episodes: int = 0
    num_steps: int = 0
    skipped: list[Fault] = field(default_factory=list)
    quarantined: list[Fault] = field(default_factory=list)
    noted: list[Fault] = field(default_factory=list)
    joined: bool = False  # False: this was a share of the work, to be joined by a call without `job`

    def add(self, record: ShardRecord) -> None:
        self.num_shards += 1
        self.num_episodes += len(record.episodes)
        self.num_steps += sum(one.num_steps for one in record.episodes)
        self.skipped += record.skipped
        self.quarantined += record.quarantined
        self.noted += record.noted

    def counts(self) -> dict[str, dict[str, int]]:
        """Faults by what was done about them, by kind."""
        lists = {"skipped": self.skipped, "quarantined": self.quarantined, "noted": self.noted}
        return {name: dict(Counter(fault.kind for fault in faults)) for name, faults in lists.items()}


Progress = Callable[[str, int, int], None]
"""Called with "convert" or "join", what is done and what there is to do: bytes of the sources, then data files."""


def convert(
    recordings: Recordings,
    out: str | Path,
    embodiment: Embodiment | None,
    *,
    robot_type: str | None = None,
    profile: Profile | None = None,
    workers: int = 1,
    engine: Engine = "pool",
    job: tuple[int, int] | None = None,
    max_shards: int | None = None,
    max_quarantine: int | None = None,
    wave_bytes: float = 64e9,
    progress: Progress | None = None,
) -> ConversionReport:
    """Convert what is missing of `recordings` into the store `out` and join it.

    Whenever the first shards that are not joined yet amount to `wave_bytes` they are joined, so that the disk never
    holds much more than that twice. `job` (i, n): only every n-th shard from the i-th on, and no joining: n such calls
    may run side by side. Raises `ValueError` when `out` holds another conversion or another call writes into it, when
    a source has changed since it was converted, or when more than `max_quarantine` episodes had to be left out;
    `WriteError` for a full disk. What is done is kept.
    """
    out, profile = Path(out), profile or Profile()
    shards = list(recordings.shards())[:max_shards]
    check_writable(out)
    with ExitStack() as held:
        with _locked(out, fcntl.LOCK_EX):  # calls that come at once begin one after another
            EpisodeStore.create(out, embodiment, robot_type=robot_type, profile=profile, sole_writer=False)
            _check_plan(out, {"form": _FORM, "recordings": recordings.signature})
            held.enter_context(_writing(out, shared=job is not None))
            store = EpisodeStore.open(out)
            if job is None:
                store.clear_leftovers()
                remove_leftovers(out / FOLDER)
            else:
                shards = shards[job[0] :: job[1]]
        records = {shard.name: record for shard in shards if (record := _done(store, shard)) is not None}
        report = ConversionReport(num_shards_before=len(records), joined=job is None)
        quarantined = [fault for record in records.values() for fault in record.quarantined]
        _check_quarantined(quarantined, max_quarantine)
        missing = [shard for shard in shards if shard.name not in records]
        sizes = {shard.name: source_bytes(shard.path) for shard in missing}
        done, total = 0, sum(sizes.values())
        tell = progress or (lambda *_: None)
        tell("convert", done, total)
        join = _Joiner(store, shards, records, wave_bytes)
        for shard, record in _run(engine, _convert_shard, _Work(recordings, out, profile), missing, workers):
            records[shard.name] = record
            done += sizes[shard.name]
            tell("convert", done, total)
            quarantined += record.quarantined
            _check_quarantined(quarantined, max_quarantine)
            if job is None:
                join.wave()
        if job is None:
            join.rest(lambda call, jobs: _told(_run(engine, call, None, jobs, workers), len(jobs), tell))
        for shard in shards:
            report.add(records[shard.name])
        report.noted += join.noted
    return report


def source_bytes(path: Path) -> int:
    """Size of a file, or of all files of a folder."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.exists() else 0


@dataclass(frozen=True)
class _Work:
    """What every worker has to know."""

    recordings: Recordings
    out: Path
    profile: Profile


def _convert_shard(work: _Work, shard: Shard) -> ShardRecord:
    """One shard, whole or not at all. An error that no source foresaw names the shard, in plain words that travel."""
    try:
        return _converted(work, shard)
    except (WriteError, ImportError):  # they say what to do
        raise
    except Exception as error:
        raise RuntimeError(
            f"{shard.path} cannot be converted ({type(error).__name__}: {error}): mend it or move it away, and repeat "
            "the command; what is done is kept"
        ) from error


def _converted(work: _Work, shard: Shard) -> ShardRecord:
    source = _fingerprint(shard.path)
    episodes: list[StagedFile] = []
    left_out: list[Fault] = []
    noted: list[Fault] = []
    with atomic_folder(_folder(work.out, shard), replace=True) as folder:
        for found in work.recordings.read(shard):
            if isinstance(found, Fault):
                (left_out if found.left_out else noted).append(found)
                continue
            path = folder / f"{len(episodes):05d}.parquet"
            try:
                _stage(path, found, work.profile)
            except WriteError:
                raise
            except ValueError as error:  # a picture that only its decoder finds broken, say
                left_out.append(Fault("unusable", found.episode.name, str(error)))
                continue
            content = path.read_bytes()
            crc32c = google_crc32c.value(content)
            episodes.append(StagedFile(found.episode.name, found.episode.num_steps, len(content), crc32c))
        if _fingerprint(shard.path) != source:
            raise ValueError("it changed while it was read")
    record = ShardRecord(
        shard=shard.name,
        source=source,
        code=_code_version(),
        episodes=tuple(episodes),
        skipped=tuple(fault for fault in left_out if fault.kind in BY_CHOICE),
        quarantined=tuple(fault for fault in left_out if fault.kind not in BY_CHOICE),
        noted=tuple(noted),
    )
    write_json(_record_path(work.out, shard), asdict(record))
    return record


def _stage(path: Path, found: ReadEpisode, profile: Profile) -> None:
    stage_episode(path, found.episode, profile, source=found.note, native=found.native, max_steps=found.max_steps)


class _Joiner:
    """Adds staged episodes to a store in the order of the shards; those that an interrupted call has added stay."""

    def __init__(
        self, store: EpisodeStore, shards: Sequence[Shard], records: Mapping[str, ShardRecord], wave_bytes: float
    ) -> None:
        """`records` fills up meanwhile."""
        self.noted: list[Fault] = []
        self._store, self._shards, self._records, self._wave_bytes = store, shards, records, wave_bytes
        self._joined = self._ready = 0  # shards in the store; shards without a gap that are there or can be
        self._ready_bytes = 0  # of those between the two
        self._owners: dict[str, str] = {}  # episode -> its shard

    def wave(self) -> None:
        """Join the first shards if they are done and amount to a wave."""
        while self._ready < len(self._shards) and (record := self._records.get(self._shards[self._ready].name)):
            self._ready_bytes += sum(one.num_bytes for one in record.episodes)
            self._ready += 1
        if self._ready_bytes >= self._wave_bytes:
            self._join(self._shards[self._joined : self._ready], lambda store: store.flush(statistics=False))
            self._joined, self._ready_bytes = self._ready, 0

    def rest(self, run: Callable[[Callable, Sequence[JoinJob]], Iterable]) -> None:
        """Join what is left, and take the statistics of the whole; `run` as of `EpisodeStore.flush`."""
        self._join(self._shards[self._joined :], lambda store: store.flush(run))

    def _join(self, shards: Sequence[Shard], flush: Callable[[EpisodeStore], None]) -> None:
        for shard in shards:
            for number, episode in enumerate(self._records[shard.name].episodes):
                self._add(shard, number, episode)
        flush(self._store)
        for shard in shards:
            shutil.rmtree(_folder(self._store.path, shard), ignore_errors=True)

    def _add(self, shard: Shard, number: int, episode: StagedFile) -> None:
        if episode.name in self._owners:
            raise ValueError(
                f"two episodes are named {episode.name!r}, in {self._owners[episode.name]} and {shard.name}: a source "
                "must give each of its episodes a name of its own"
            )
        self._owners[episode.name] = shard.name
        if self._store.has(episode.name):
            return
        path = _folder(self._store.path, shard) / f"{number:05d}.parquet"
        if google_crc32c.value(path.read_bytes()) != episode.crc32c:
            _record_path(self._store.path, shard).unlink()
            raise ValueError(f"{path} was damaged after it was written: repeat the command to make it again")
        dropped = self._store.adopt(path)
        if dropped:
            told = f"{', '.join(dropped)} are of another type or width than in the episodes before: not kept"
            self.noted.append(Fault("source_column", episode.name, told, left_out=False))


def _check_quarantined(quarantined: Sequence[Fault], most: int | None) -> None:
    if most is not None and len(quarantined) > most:
        first = quarantined[0]
        raise ValueError(
            f"{len(quarantined)} episodes had to be left out, more than the {most} allowed; the first: {first.where}: "
            f"{first.message}. What is converted is kept; see `rdt data validate`"
        )


@contextmanager
def _writing(out: Path, *, shared: bool) -> Iterator[None]:
    """Raise `ValueError` where another call writes into `out`; shared: where one does that is no share of the work."""
    mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
    with ExitStack() as held:
        try:
            held.enter_context(_locked(out / HEADER, mode))
        except BlockingIOError:
            raise ValueError(
                f"another conversion writes into {out}: wait until it is done, or convert into another folder"
            ) from None
        yield


@contextmanager
def _locked(path: Path, mode: int) -> Iterator[None]:
    """A lock that ends with the process. Where the file system knows none, nobody is kept out."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # NFS locks a file that may be written
    try:
        try:
            fcntl.flock(descriptor, mode)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)


def _done(store: EpisodeStore, shard: Shard) -> ShardRecord | None:
    """The record of a shard that need not be done again; None for any other."""
    out = store.path
    path = _record_path(out, shard)
    if not path.exists():
        return None
    record = ShardRecord.read(path)
    if dict(record.source) != _fingerprint(shard.path):
        if any(store.has(episode.name) for episode in record.episodes):
            raise ValueError(
                f"{shard.path} has changed since it was converted, and its episodes are in {out} already: convert into "
                "a new folder"
            )
        return None  # nothing of it is in use: a file that was damaged and has been copied again, say
    for number, episode in enumerate(record.episodes):
        file = _folder(out, shard) / f"{number:05d}.parquet"
        if not store.has(episode.name) and not (file.exists() and file.stat().st_size == episode.num_bytes):
            return None
    return record


def _told(results: Iterable, total: int, tell: Progress) -> Iterator:
    for done, result in enumerate(results, start=1):
        tell("join", done, total)
        yield result


def _run(engine: Engine, call: Callable, shared: Any, jobs: Iterable, workers: int) -> Iterator:
    if engine == "ray":
        return run_on_ray(call, shared, jobs, workers)
    jobs = list(jobs)
    return run_as_completed(call, shared, jobs, min(workers, max(1, len(jobs))))


def _check_plan(out: Path, plan: Mapping[str, Any]) -> None:
    path = out / FOLDER / PLAN
    if not path.exists():
        if len(EpisodeStore.open(out)):
            raise ValueError(f"{out} holds episodes that were not converted into it: convert into a new folder")
        write_json(path, plan)
        return
    before = read_json(path, f"remove {out} and convert again")
    if before != plan:
        raise ValueError(
            f"{out} holds a conversion of another dataset, or by another dataset YAML ({json.dumps(before)}, now "
            f"{json.dumps(plan)}): convert into a new folder, or remove this one"
        )


def _fingerprint(path: Path) -> dict[str, int]:
    """Tells a changed source from the one that was converted, without reading it."""
    if not path.exists():
        return {"bytes": 0, "modified_ns": 0}
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return {"bytes": source_bytes(path), "modified_ns": max((f.stat().st_mtime_ns for f in files), default=0)}


def _folder(out: Path, shard: Shard) -> Path:
    """Named after the shard: readable, and still different where only odd characters differ."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", shard.name)[-80:].lstrip(".")
    return out / FOLDER / f"{readable}-{google_crc32c.value(os.fsencode(shard.name)):08x}"


def _record_path(out: Path, shard: Shard) -> Path:
    folder = _folder(out, shard)
    return folder.with_name(folder.name + ".json")


@cache
def _code_version() -> str:
    try:
        return version("rdt-stack")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
