"""The validator: every episode of a store, a folder of recordings or a dataset YAML through every check.

    reports = validate("stores/pick")            # one Report a store, recording folder or YAML
    reports[0].findings                          # what is wrong, where, and what to change

Nothing is written and nothing repaired. Without a mapping, a recording's units are not known: unit checks wait for
the YAML or the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from data_pipeline.mapping.apply import MappedEpisode
from data_pipeline.mapping.mapping import Mapping
from data_pipeline.mapping.timing import stamps_of
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.selection import find_stores
from data_pipeline.sources.opening import open_dataset, open_recordings, recognise
from data_pipeline.sources.raw import Fault, RawEpisode, Shard, Source
from data_pipeline.storage import HEADER, EpisodeStore
from data_pipeline.validate.across import Seen, check_across, remember, spread
from data_pipeline.validate.cameras import CameraSeen, check_cameras, look
from data_pipeline.validate.clocks import check_clock, check_robot_rate
from data_pipeline.validate.findings import Finding, Where, of_fault
from data_pipeline.validate.following import Following, check_following, follow
from data_pipeline.validate.language import check_instructions
from data_pipeline.validate.lerobot import check_lerobot
from data_pipeline.validate.motion import check_jumps, check_motion
from data_pipeline.validate.records import Columns, Record, finite, of_episode, of_raw
from data_pipeline.validate.units import check_limits, check_rotations, check_units, check_velocities

Item = TypeVar("Item")
Follow = Callable[[Iterable[Item], int, str], Iterable[Item]]
"""(items, how many, what they are called) -> the items, while somebody counts them."""

_SMALL_PX = 160  # of the pictures that are kept in case that a camera is flagged
_KEPT_EPISODES = 200
_SERIES_A_KIND = 2  # episodes of one kind of finding whose numbers are kept for a plot
_CHECKS = (check_motion, check_jumps, check_units, check_rotations, check_velocities)


@dataclass(frozen=True)
class Series:
    """The numbers of a flagged column, for a plot."""

    values: np.ndarray  # (steps,)
    unit: str
    rate_hz: float | None


@dataclass(frozen=True)
class Thumbnail:
    """A picture of a camera, as RGB."""

    episode: str
    camera: str
    step: int
    frame: np.ndarray  # uint8 (height, width, 3)


@dataclass
class Report:
    """What was looked at, and what was found."""

    path: str
    kind: str  # store, mapping, or the format of the recordings
    num_episodes: int = 0  # episodes or files that are there
    num_looked: int = 0  # episodes that were looked at
    num_steps: int = 0
    rates_hz: tuple[float, ...] = ()
    findings: list[Finding] = field(default_factory=list)
    series: dict[tuple[str, str], Series] = field(default_factory=dict)  # (episode, column) -> its numbers
    thumbnails: list[Thumbnail] = field(default_factory=list)

    def count(self, severity: str) -> int:
        return sum(finding.severity == severity for finding in self.findings)


def validate(
    path: str | Path, root: str | Path | None = None, max_episodes: int | None = None, progress: Follow | None = None
) -> list[Report]:
    """One report for a store, a folder of recordings or a YAML; one each for a folder of stores.

    Raises `FileNotFoundError` or `ValueError` for a path that is none of these.
    """
    follow_along: Follow = progress or (lambda items, _count, _name: items)
    place = Path(path)
    if place.suffix in (".yaml", ".yml") or not place.exists():
        return [_validate_mapping(find_config("datasets", path), root, max_episodes, follow_along)]
    if EpisodeStore.exists(place) or next(place.glob(f"*/{HEADER}"), None) is not None:
        return [_validate_store(store, max_episodes, follow_along) for store in find_stores(place)]
    return [_validate_recordings(place, max_episodes, follow_along)]


def _validate_store(path: Path, most: int | None, progress: Follow) -> Report:
    report = Report(str(path), "store")
    try:
        store = EpisodeStore.open(path)
    except ValueError as error:
        report.findings.append(_damaged(report, str(error)))
        return report
    examiner = _Examiner(report, store.embodiment if store.is_described else None)
    report.num_episodes = len(store)
    wanted = spread(len(store), most)
    for index in progress(wanted, len(wanted), path.name):
        try:
            record = of_episode(store[index])
        except ValueError as error:
            report.findings.append(_damaged(report, str(error), store.entries[index].name))
            continue
        examiner.look(record)
    return examiner.finish()


def _validate_recordings(path: Path, most: int | None, progress: Follow) -> Report:
    report = Report(str(path), recognise(path) or "")
    try:
        source = open_recordings(path)
    except FileNotFoundError:
        raise
    except ValueError as error:
        if not report.kind or report.kind == "mcap":
            raise
        report.findings.append(_damaged(report, str(error)))
        return report
    rate_hz = None
    if report.kind == "lerobot":
        report.findings += check_lerobot(source, report.path)  # type: ignore[arg-type]
        rate_hz = source.fps  # type: ignore[attr-defined]
    examiner = _Examiner(report)
    for raw in _read(source, most, progress, path.name, report):
        if isinstance(raw, Fault):
            report.findings.append(of_fault(raw, report.path))
            continue
        report.findings += _lengths(raw, report.path)
        examiner.look(of_raw(raw, rate_hz))
    return examiner.finish()


def _validate_mapping(yaml: Path, root: str | Path | None, most: int | None, progress: Follow) -> Report:
    mapping = Mapping.from_yaml(yaml)
    report = Report(str(yaml), "mapping")
    examiner = _Examiner(report, mapped=True)
    try:
        sources = open_dataset(mapping, yaml, root)
    except FileNotFoundError:
        raise
    except ValueError as error:  # a field that is not there, a width, damaged metadata
        advice = "correct the rule in the YAML; `rdt data inspect` lists the fields of the recordings"
        place = Where(report.path, str(yaml.name))
        report.findings.append(Finding("error", "does_not_fit", place, "files that fit the YAML", str(error), advice))
        return report
    for opened in sources:
        for raw in _read(opened.source, most, progress, opened.prefix.rstrip("/") or mapping.name, report):
            results = [raw] if isinstance(raw, Fault) else mapping.apply(raw)
            faults = [result for result in results if isinstance(result, Fault)]
            report.findings += [of_fault(fault, report.path) for fault in faults]
            for mapped in results:
                if isinstance(mapped, MappedEpisode) and isinstance(raw, RawEpisode):
                    stamps = stamps_of(raw, mapping.rate.clock)
                    record = of_episode(mapped.episode, None if stamps is None else stamps[mapped.steps])
                    name = opened.prefix + record.name
                    examiner.look(replace(record, name=name, task=name.rpartition("/")[0]), {f.kind for f in faults})
    return examiner.finish()


class _Examiner:
    """Puts records through the checks, and remembers what the checks of all together need."""

    def __init__(self, report: Report, robot: Embodiment | None = None, mapped: bool = False) -> None:
        self.report, self.robot, self.mapped = report, robot, mapped
        self._seen: list[Seen] = []
        self._cameras: list[CameraSeen] = []
        self._present: dict[str, frozenset[str]] = {}
        self._following: list[Following] = []
        self._kept: dict[str, int] = {}
        self._small: dict[tuple[str, str], Thumbnail] = {}

    def look(self, record: Record, told: set[str] | None = None) -> None:
        """`told` are kinds that the mapping has told of this record already."""
        report = self.report
        report.num_looked += 1
        report.num_steps += record.num_steps
        findings = [*check_instructions(record), *check_clock(record), *_finite(record)]
        if finite(record) and record.num_steps > 0:
            for check in _CHECKS:
                findings += check(record)
            if self.robot is not None:
                findings += [*check_limits(record, self.robot), *check_robot_rate(record, self.robot)]
            self._seen.append(remember(record))
            following = follow(record)
            self._following += [following] if following else []
        cameras, of_cameras = look(record)
        self._cameras += cameras
        self._present[record.name] = frozenset(name for name, frames in record.images.items() if len(frames))
        self._keep_pictures(record)
        hidden = (told or set()) | ({"gripper_range"} if self.mapped else set())  # a rule's `within` judges
        for finding in [*findings, *of_cameras]:
            if finding.kind not in hidden:
                self._add(finding, record)

    def finish(self) -> Report:
        for finding in [
            *check_across(self._seen),
            *check_cameras(self._cameras, self._present),
            *check_following(self._following),
        ]:
            if not (self.mapped and finding.kind in ("too_short", "missing_camera")):  # the mapping has judged
                self._add(finding)
        flagged = {(f.where.episode, f.where.camera) for f in self.report.findings if f.kind == "colour_order"}
        shown = {(thumbnail.episode, thumbnail.camera) for thumbnail in self.report.thumbnails}
        self.report.thumbnails += [self._small[key] for key in sorted(flagged - shown) if key in self._small]
        rates = dict.fromkeys(one.rate_hz for one in self._seen if one.rate_hz is not None)
        self.report.rates_hz = tuple(sorted(rates))
        return self.report

    def _add(self, finding: Finding, record: Record | None = None) -> None:
        finding = replace(finding, where=replace(finding.where, dataset=self.report.path))
        self.report.findings.append(finding)
        column, episode = finding.where.column, finding.where.episode
        if record is None or not column or self._kept.get(finding.kind, 0) >= _SERIES_A_KIND:
            return
        kind, _, name = column.partition(" ")
        columns: Columns = record.state if kind == "state" else record.action
        if name in columns.names and (episode, column) not in self.report.series:
            i = columns.names.index(name)
            values = columns.values[:, i].astype(np.float32)
            self.report.series[episode, column] = Series(values, columns.units[i], record.rate_hz)
            self._kept[finding.kind] = self._kept.get(finding.kind, 0) + 1

    def _keep_pictures(self, record: Record) -> None:
        """One of each camera, and small ones of the first episodes."""
        shown = {thumbnail.camera for thumbnail in self.report.thumbnails}
        for camera, frames in record.images.items():
            step = len(frames) // 2
            if len(frames) == 0 or (camera in shown and self.report.num_looked > _KEPT_EPISODES):
                continue
            try:
                frame = np.asarray(frames[step])
            except (ValueError, OSError):  # a finding of `look`; the next episode has a picture
                continue
            if camera not in shown:
                self.report.thumbnails.append(Thumbnail(record.name, camera, step, frame))
            stride = -(-max(frame.shape) // _SMALL_PX)
            small = np.ascontiguousarray(frame[::stride, ::stride])
            self._small[record.name, camera] = Thumbnail(record.name, camera, step, small)


def _read(
    source: Source, most: int | None, progress: Follow, name: str, report: Report
) -> Iterator[RawEpisode | Fault]:
    """Records of all shards; with a limit an equal number of each of so many evenly spread shards."""
    shards = source.shards()
    report.num_episodes += getattr(source, "num_episodes", len(shards))
    chosen = [shards[i] for i in spread(len(shards), most)]
    quota = None if most is None else -(-most // max(len(chosen), 1))
    for shard in progress(chosen, len(chosen), name):
        yield from _first(source, shard, quota)


def _first(source: Source, shard: Shard, quota: int | None) -> Iterator[RawEpisode | Fault]:
    for count, raw in enumerate(source.read(shard), start=1):
        yield raw
        if count == quota:
            return


def _finite(record: Record) -> Iterator[Finding]:
    for kind, columns in (("state", record.state), ("action", record.action)):
        bad = np.argwhere(~np.isfinite(columns.values))
        if len(bad):
            step, i = bad[0]
            yield Finding(
                "error",
                "nan",
                Where(episode=record.name, column=f"{kind} {columns.names[i]}", steps=(int(step), int(bad[-1][0]))),
                "finite numbers",
                f"{len(np.unique(bad[:, 0]))} of {len(columns.values)} steps are not, first at step {step}",
                "find the sensor that dropped out; `faults: {nan: drop_steps}` leaves these steps out",
            )


def _lengths(raw: RawEpisode, dataset: str) -> Iterator[Finding]:
    lengths = {path: len(values) for path, values in (*raw.fields.items(), *raw.images.items())}
    wrong = {path: count for path, count in lengths.items() if count not in (0, raw.num_steps)}
    if wrong:
        yield Finding(
            "error",
            "lengths",
            Where(dataset, raw.name),
            f"{raw.num_steps} steps in each field",
            ", ".join(f"{path} {count}" for path, count in wrong.items()),
            "record all fields with one clock; `faults: {lengths: truncate}` forgives one step",
        )


def _damaged(report: Report, message: str, episode: str = "") -> Finding:
    advice = "copy it again; `rdt data repair` saves what can be saved"
    return Finding(
        "error", "damaged", Where(report.path, episode), f"a {report.kind} that can be read", message, advice
    )
