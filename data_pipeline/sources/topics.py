"""Topics that arrive at their own rates -> steps of one clock: the part of a bag that knows no file format.

A plan names the clock topic and, for each field, how its value at a step is found and how old it may be. A field is
the topic and the way to a value inside its message: "/joint_states/position", "/joint_states/position/elbow" (by the
joint's name) or ".../position/2", "/tool_pose/pose/orientation" (x, y, z, w as an array), "/cam_high/compressed"
(the whole message, a picture). Steps for which no message was young enough are NaN, "" or an undecodable frame, and
are told. Where the clock pauses for more than `gap_periods` of its periods, one episode ends and the next begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from data_pipeline.mapping.sync import SYNCHRONISERS, Sync, ticks_ns
from data_pipeline.schema.registry import unknown_name
from data_pipeline.schema.types import Frames
from data_pipeline.sources.pictures import encoded_frames
from data_pipeline.sources.raw import Fault, RawEpisode

MAX_STRAY_STAMPS = 0.01
"""Share of repeated or falling clock stamps that is dropped; above it the recording is left out."""

_CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "8UC3": 3, "8UC1": 1}
_REVERSED = ("bgr8", "bgra8", "8UC3")


@dataclass(frozen=True)
class TopicPlan:
    """Which topics become which step fields."""

    clock: str  # the topic whose messages are the steps; a path below it will do
    fields: Mapping[str, Sync] = field(default_factory=dict)  # path -> how
    resample_hz: float | None = None  # steps at this rate between the clock's first and last message
    gap_periods: float = 3.0

    def __post_init__(self) -> None:
        if self.resample_hz is not None and not self.resample_hz > 0:
            raise ValueError(f"resample_hz must be positive, got {self.resample_hz}")
        if not self.gap_periods > 1:
            raise ValueError(f"gap_periods must be more than 1, got {self.gap_periods}")


@dataclass(frozen=True)
class Message:
    """One message of a topic, decoded."""

    topic: str
    kind: str  # "sensor_msgs/msg/JointState"
    log_ns: int
    content: Any

    @property
    def stamp_ns(self) -> int:
        """The header's time, when the thing was measured; where there is none, when the message was written down."""
        stamp = getattr(getattr(self.content, "header", None), "stamp", None)
        if stamp is None:
            return self.log_ns
        seconds = getattr(stamp, "sec", 0) or getattr(stamp, "secs", 0)
        nanoseconds = getattr(stamp, "nanosec", 0) or getattr(stamp, "nsecs", 0)
        return (int(seconds) * 1_000_000_000 + int(nanoseconds)) or self.log_ns


@dataclass(frozen=True)
class _Track:
    """All values of one field, in the order of their stamps."""

    stamps_ns: np.ndarray
    values: list[Any]  # numbers, str or picture messages
    is_image: bool


def wanted_topics(plan: TopicPlan, topics: Iterable[str]) -> dict[str, str]:
    """Path of the plan (its clock too) -> the topic that it names; paths without a topic are left out."""
    known = sorted(topics, key=len, reverse=True)
    paths = [*plan.fields, plan.clock]
    owners = {path: next((t for t in known if path == t or path.startswith(t + "/")), None) for path in paths}
    return {path: topic for path, topic in owners.items() if topic is not None}


def build_episodes(
    name: str, plan: TopicPlan, topics: Sequence[str], messages: Iterable[Message]
) -> Iterator[RawEpisode | Fault]:
    """The episodes of one recording. `topics` are all that it has, `messages` those of `wanted_topics`."""
    owners = wanted_topics(plan, topics)
    if plan.clock not in owners:
        yield Fault("missing_topic", f"{name}, {plan.clock}", unknown_name("clock topic", plan.clock, topics))
        return
    clock, tracks, faults = _collect(name, plan, owners, topics, messages)
    yield from faults
    if any(fault.kind == "wrong_width" for fault in faults):
        return
    clock, stray = _rising(clock)
    if stray:
        share = stray / (stray + len(clock))
        told = f"{stray} of {stray + len(clock)} clock stamps repeat or fall"
        many = share >= MAX_STRAY_STAMPS
        verdict = "the recording is left out" if many else "these steps are left out"
        yield Fault("timestamps", f"{name}, {plan.clock}", f"{told}: {verdict}", left_out=many)
        if many:
            return
    if len(clock) == 0:
        yield Fault("zero_length", name, f"the clock topic {plan.clock} has no messages: the recording is left out")
        return
    pieces = _pieces(clock, plan.gap_periods)
    for before, after in pairwise(pieces):
        pause = (after[0] - before[-1]) / 1e9
        yield Fault(
            "gap", f"{name}, {plan.clock}", f"a pause of {pause:.3f} s: split into two episodes", left_out=False
        )
    for number, piece in enumerate(pieces):
        steps = piece if plan.resample_hz is None else ticks_ns(int(piece[0]), int(piece[-1]), plan.resample_hz)
        yield from _episode(f"{name}:{number}", steps, plan, tracks)


def _collect(
    name: str, plan: TopicPlan, owners: Mapping[str, str], topics: Sequence[str], messages: Iterable[Message]
) -> tuple[np.ndarray, dict[str, _Track], list[Fault]]:
    """The clock's stamps in the order of arrival, and the tracks of all fields."""
    ways = {path: [part for part in path[len(topic) :].split("/") if part] for path, topic in owners.items()}
    found: dict[str, list[tuple[int, Any]]] = {path: [] for path in plan.fields if path in owners}
    images: set[str] = set()
    faults = {
        path: Fault(
            "missing_topic", f"{name}, {path}", unknown_name("topic", path, topics) + " It is left out.", left_out=False
        )
        for path in plan.fields
        if path not in owners
    }
    clock = []
    for message in messages:
        stamp = message.stamp_ns
        if message.topic == owners[plan.clock]:
            clock.append(stamp)
        for path, rows in found.items():
            if owners[path] != message.topic or path in faults:
                continue
            if not ways[path] and is_image(message.kind):
                images.add(path)
                rows.append((stamp, message))
                continue
            try:
                rows.append((stamp, value_at(message.content, ways[path])))
            except ValueError as error:
                faults[path] = Fault(
                    "missing_field", f"{name}, {path}", f"{error}: the field is left out", left_out=False
                )
    tracks = {}
    for path, rows in found.items():
        if path in faults:
            continue
        rows.sort(key=lambda row: row[0])
        shapes = {np.shape(value) for _, value in rows} if path not in images else set()
        if len(shapes) > 1:
            message_text = f"all messages must have one width, got {sorted(shapes)}: the recording is left out"
            faults[path] = Fault("wrong_width", f"{name}, {path}", message_text)
            continue
        stamps = np.array([stamp for stamp, _ in rows], dtype=np.int64)
        tracks[path] = _Track(stamps, [value for _, value in rows], path in images)
    return np.array(clock, dtype=np.int64), tracks, list(faults.values())


def _episode(
    name: str, steps: np.ndarray, plan: TopicPlan, tracks: Mapping[str, _Track]
) -> Iterator[RawEpisode | Fault]:
    fields: dict[str, np.ndarray] = {}
    images: dict[str, Frames] = {}
    for path, track in tracks.items():
        sync = plan.fields[path]
        max_age_ns = round(sync.max_age_s * 1e9)
        text = bool(track.values) and isinstance(track.values[0], str)
        if track.is_image or text:
            how = "nearest" if sync.how == "nearest" else "previous"  # nothing between two pictures
            order = np.arange(len(track.values))
            index, valid = SYNCHRONISERS[how](track.stamps_ns, order, steps, max_age_ns)
            chosen = [track.values[i] if ok else None for i, ok in zip(index, valid, strict=True)]
            if text:
                fields[path] = np.array(["" if value is None else value for value in chosen], dtype=object)
            else:
                images[path] = picture_frames(chosen, f"{name}, {path}")
        else:
            numbers = np.array(track.values, dtype=np.float64)
            values, valid = SYNCHRONISERS[sync.how](track.stamps_ns, numbers, steps, max_age_ns)
            values = values.copy()
            values[~valid] = np.nan
            fields[path] = values
        if not valid.all():
            told = f"{int((~valid).sum())} of {len(steps)} steps have no message within {sync.max_age_s} s: masked"
            yield Fault("stale", f"{name}, {path}", told, left_out=False)
    yield RawEpisode(name, len(steps), fields, images, stamps_ns=steps)


def _rising(stamps: np.ndarray) -> tuple[np.ndarray, int]:
    """The stamps that are later than all before them, and how many are not."""
    highest = np.maximum.accumulate(stamps) if len(stamps) else stamps
    keep = np.ones(len(stamps), dtype=bool)
    keep[1:] = stamps[1:] > highest[:-1]
    return stamps[keep], int((~keep).sum())


def _pieces(stamps: np.ndarray, gap_periods: float) -> list[np.ndarray]:
    periods = np.diff(stamps)
    if len(periods) == 0:
        return [stamps]
    return np.split(stamps, np.flatnonzero(periods > gap_periods * np.median(periods)) + 1)


def is_image(kind: str) -> bool:
    return kind.rpartition("/")[2] in ("CompressedImage", "Image")


def value_at(content: Any, way: Sequence[str]) -> Any:
    """The numbers or the text at the end of a way into a message. Raises `ValueError` that says what is there."""
    owner: Any = None
    for part in way:
        if isinstance(content, (list, tuple, np.ndarray)):
            content = content[_place(owner, content, part)]
            continue
        names = _names(content)
        if part not in names:
            raise ValueError(unknown_name("field", part, names))
        owner, content = content, getattr(content, part)
    return _plain(content)


def _place(owner: Any, values: Sequence[Any] | np.ndarray, part: str) -> int:
    """Where an entry stands in an array: its number, or its name in the `name` list beside the array."""
    names = list(getattr(owner, "name", ()))
    place = names.index(part) if part in names else int(part) if part.isdecimal() else None
    if place is None:
        raise ValueError(unknown_name("joint", part, names))
    if place >= len(values):
        raise ValueError(f"entry {part!r} of an array of {len(values)}")
    return place


def _plain(content: Any) -> Any:
    if isinstance(content, (str, bool, int, float, np.generic)):
        return content
    if isinstance(content, (list, tuple, np.ndarray)):
        values = np.asarray(content)
        if values.dtype.kind not in "biuf":
            raise ValueError("an array of messages or texts: name an entry by its number")
        return values
    names = _names(content)
    for letters in ("xyzw", "xyz", "xy"):
        if set(letters) == set(names):
            return np.array([getattr(content, letter) for letter in letters], dtype=np.float64)
    raise ValueError(f"a message, not a value: go on to one of {names}")


def _names(content: Any) -> list[str]:
    return [name for name in dir(content) if not name.startswith("_") and not callable(getattr(content, name))]


def picture_frames(messages: Sequence[Message | None], name: str) -> Frames:
    """The pictures of some messages, decoded when indexed; None is a missing one, which raises `ValueError` then."""
    if all(message is None or message.kind.endswith("CompressedImage") for message in messages):
        encoded = [b"" if message is None else bytes(message.content.data) for message in messages]
        return encoded_frames(encoded, name)
    return RawImageFrames(messages, name)


class RawImageFrames(Sequence[np.ndarray]):
    """Frames of uncompressed Image messages, made RGB when indexed."""

    def __init__(self, messages: Sequence[Message | None], name: str) -> None:
        self._messages, self.name = messages, name

    def __len__(self) -> int:
        return len(self._messages)

    def __getitem__(self, step: int) -> np.ndarray:  # type: ignore[override]  # one frame, no slices
        message = self._messages[step]
        try:
            if message is None:
                raise ValueError("no message was young enough")
            return decode_image(message.content)
        except ValueError as error:
            raise ValueError(f"{self.name}, frame {step}: {error}") from None

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[step] for step in range(len(self)))


def decode_image(image: Any) -> np.ndarray:
    """A sensor_msgs Image -> RGB uint8 (height, width, 3). Rows may be padded (`step` bytes each)."""
    if image.encoding not in _CHANNELS:
        raise ValueError(unknown_name("image encoding", image.encoding, _CHANNELS))
    channels = _CHANNELS[image.encoding]
    data = np.frombuffer(bytes(image.data), np.uint8)
    row = image.width * channels
    if image.step < row or len(data) != image.height * image.step:
        raise ValueError(
            f"an image of {image.height} x {image.width} {image.encoding} with rows of {image.step} bytes has "
            f"{len(data)} bytes: it is cut short"
        )
    frame = data.reshape(image.height, image.step)[:, :row].reshape(image.height, image.width, channels)
    if channels == 1:
        return np.repeat(frame, 3, axis=2)
    frame = frame[..., :3]
    return np.ascontiguousarray(frame[..., ::-1] if image.encoding in _REVERSED else frame)
