"""Pictures of an episode: broken, frozen, black, of changing size, with channels that look reversed.

Every encoded picture is compared by its bytes; a few are decoded. Whether channels are reversed cannot be known: the
heuristic says that rooms, wood, skin and most robots are warmer than they are blue.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from data_pipeline.feature_stats import sampled_steps
from data_pipeline.mapping.pictures import ChosenFrames, complete_frames
from data_pipeline.schema.types import Frames
from data_pipeline.validate.findings import Finding, Where
from data_pipeline.validate.motion import MOVED
from data_pipeline.validate.records import Record

DECODED = 6  # pictures of a camera and episode
WINDOWS, WINDOW = 3, 13  # pieces of a video that are compared picture by picture
FROZEN_S, FROZEN_STEPS = 1.0, 8
MOVES_BY = 5.0  # times `MOVED`: a robot that moves so much is seen to move
BLACK, FLAT = 8.0, 1.5  # mean, and deviation, of grey values in [0, 255]
MANY_BAD = 0.01  # share of broken pictures that costs the episode
MANY_MISSING = 0.05  # share of an episode's steps without a picture
VIVID = 40  # between a pixel's largest and smallest channel
COOL_SHARE, COOL_RATIO = 0.05, 3.0
LEAST_TINT, MIXED_RATIO = 6.0, 3.0


@dataclass(frozen=True)
class CameraSeen:
    """What is remembered of one camera of one episode."""

    episode: str
    camera: str
    sizes: tuple[tuple[int, int], ...]  # (height, width), each once
    rgb: tuple[float, float, float]  # means
    warm: float  # share of vivid pixels whose red is largest and blue smallest
    cool: float  # the reverse


def look(record: Record) -> tuple[list[CameraSeen], list[Finding]]:
    """All cameras of an episode."""
    seen, findings = [], []
    for camera, frames in record.images.items():
        if len(frames) == 0:
            continue
        wanted = record.image_masks.get(camera, np.ones(len(frames), dtype=bool))
        if len(wanted) == len(frames) and (~wanted).mean() > MANY_MISSING:
            findings.append(_gaps(record, camera, np.flatnonzero(~wanted)))
        bad = np.flatnonzero(~complete_frames(frames) & wanted) if len(wanted) == len(frames) else np.zeros(0, int)
        if len(bad):
            findings.append(_broken(record, camera, bad, len(frames), "cut short or none"))
        pictures = _decoded(record, camera, frames, wanted, set(bad.tolist()), findings)
        if pictures:
            seen.append(_seen(record.name, camera, list(pictures.values())))
            findings += _dark(record, camera, pictures)
        findings += _frozen(record, camera, frames)
    return seen, findings


def check_cameras(seen: Sequence[CameraSeen], present: Mapping[str, frozenset[str]]) -> Iterator[Finding]:
    """What only all episodes together show: missing cameras, sizes, colour order. `present`: episode -> cameras."""
    for camera in sorted(frozenset().union(*present.values())):
        mine = [one for one in seen if one.camera == camera]
        lacking = [name for name, cameras in present.items() if camera not in cameras]
        if lacking:
            yield Finding(
                "warning",
                "missing_camera",
                Where(episode=lacking[0], camera=camera),
                "each camera in each episode",
                f"missing in {len(lacking)} of {len(present)} episodes",
                "record it, or accept that the view is masked there",
            )
        if mine:
            yield from _sizes(camera, mine)
            yield from _colours(camera, mine)


def _decoded(
    record: Record, camera: str, frames: Frames, wanted: np.ndarray, bad: set[int], findings: list[Finding]
) -> dict[int, np.ndarray]:
    """A few pictures by step; those that cannot be decoded become findings."""
    pictures, failed = {}, []
    for step in sampled_steps(len(frames), DECODED):
        if step in bad or not wanted[min(step, len(wanted) - 1)]:
            continue
        try:
            pictures[step] = np.asarray(frames[step])
        except (ValueError, OSError):
            failed.append(step)
    if failed:
        findings.append(_broken(record, camera, np.array(failed), len(sampled_steps(len(frames), DECODED)), "broken"))
    return pictures


def _broken(record: Record, camera: str, bad: np.ndarray, count: int, how: str) -> Finding:
    return Finding(
        "error" if len(bad) > MANY_BAD * count else "warning",
        "bad_image",
        Where(episode=record.name, camera=camera, steps=(int(bad[0]), int(bad[-1]))),
        "pictures that decode",
        f"{len(bad)} of {count} are {how}, first at step {bad[0]}",
        "pictures were cut short: check disk and network of the recorder",
    )


def _gaps(record: Record, camera: str, missing: np.ndarray) -> Finding:
    return Finding(
        "note",
        "missing_pictures",
        Where(episode=record.name, camera=camera, steps=(int(missing[0]), int(missing[-1]))),
        "a picture at each step",
        f"none at {len(missing)} of {record.num_steps} steps, which are masked",
        "a camera slower than the recording, or one that dropped out",
    )


def _seen(episode: str, camera: str, pictures: Sequence[np.ndarray]) -> CameraSeen:
    pixels = np.concatenate([picture[::4, ::4].reshape(-1, 3) for picture in pictures]).astype(np.int32)
    red, green, blue = pixels.T
    vivid = pixels.max(axis=1) - pixels.min(axis=1) > VIVID
    warm, cool = vivid & (red >= green) & (green >= blue), vivid & (blue >= green) & (green >= red)
    sizes = tuple(dict.fromkeys(picture.shape[:2] for picture in pictures))
    means = tuple(float(channel) for channel in pixels.mean(axis=0))
    return CameraSeen(episode, camera, sizes, means, float(warm.mean()), float(cool.mean()))  # type: ignore[arg-type]


def _dark(record: Record, camera: str, pictures: dict[int, np.ndarray]) -> Iterator[Finding]:
    means = {step: float(picture.mean()) for step, picture in pictures.items()}
    black = [step for step, mean in means.items() if mean < BLACK]
    flat = [step for step, picture in pictures.items() if step not in black and float(picture.std()) < FLAT]
    for kind, steps, what in (("camera_black", black, "black"), ("camera_flat", flat, "of one colour")):
        if steps:
            yield Finding(
                "warning" if len(steps) > len(pictures) / 2 else "note",
                kind,
                Where(episode=record.name, camera=camera, steps=(steps[0], steps[-1])),
                "pictures of something",
                f"{len(steps)} of {len(pictures)} are {what} (mean {means[steps[0]]:.0f} of 255)",
                "lens cap, exposure or driver: leave the camera out of `cameras` or record again",
            )


def _frozen(record: Record, camera: str, frames: Frames) -> Iterator[Finding]:
    """Runs of identical pictures while the robot that they should show moves."""
    least = max(FROZEN_STEPS, round(FROZEN_S * record.rate_hz) if record.rate_hz else FROZEN_STEPS)
    columns, certain = _visible(record, camera)
    for first, last in _same(frames):
        if last - first < least or last >= len(record.state.values):
            continue
        moved = np.ptp(record.state.values[first : last + 1][:, columns], axis=0)
        limits = [
            MOVES_BY * MOVED.get(record.state.units[i], 0.01 * float(np.ptp(record.state.values[:, i]) + 1e-9))
            for i in columns
        ]
        if len(columns) and (moved > limits).any():
            yield Finding(
                "warning" if certain else "note",
                "camera_frozen",
                Where(episode=record.name, camera=camera, steps=(first, last)),
                "pictures that change while the robot moves",
                f"{last - first + 1} identical ones in a row",
                "the camera's driver hung: cut the episode there, or leave it out",
            )
            return


def _visible(record: Record, camera: str) -> tuple[list[int], bool]:
    """Columns whose motion the camera must show, and whether that is sure: a wrist camera sees its own arm."""
    side = next((side for side in ("left", "right") if side in camera.lower()), None)
    known = [i for i, unit in enumerate(record.state.units) if unit in MOVED]
    if not known:
        return list(range(len(record.state.names))), False
    mine = [i for i in known if side is None or record.state.names[i].startswith(side)]
    return mine, True


def _same(frames: Frames) -> list[tuple[int, int]]:
    """Runs [first, last] of identical successive pictures."""
    keys = _keys(frames)
    if keys is not None:
        return _runs(keys, range(len(keys)))
    if isinstance(frames, np.ndarray):
        return _runs([frame.tobytes() for frame in frames], range(len(frames)))
    runs = []
    for start in np.linspace(0, max(len(frames) - WINDOW, 0), WINDOWS).astype(int).tolist():
        steps = range(start, min(start + WINDOW, len(frames)))
        try:
            runs += _runs([np.asarray(frames[step]).tobytes() for step in steps], steps)
        except (ValueError, OSError):  # told by `_decoded`
            continue
    return runs


def _keys(frames: Frames) -> list[int] | None:
    """One number a picture, equal for equal bytes; None where the pictures are not encoded one by one."""
    if isinstance(frames, ChosenFrames):
        keys = _keys(frames.source)
        return None if keys is None else [keys[step] for step in frames.steps]
    encoded = getattr(frames, "encoded", None)
    return None if encoded is None else [hash(bytes(picture)) for picture in encoded]


def _runs(keys: Sequence[object], steps: range) -> list[tuple[int, int]]:
    changes = [i for i in range(1, len(keys)) if keys[i] != keys[i - 1]]
    return [(steps[a], steps[b - 1]) for a, b in zip([0, *changes], [*changes, len(keys)], strict=True) if b - a > 1]


def _sizes(camera: str, mine: Sequence[CameraSeen]) -> Iterator[Finding]:
    sizes = dict.fromkeys(size for one in mine for size in one.sizes)
    if len(sizes) > 1:
        odd = next(one for one in mine if one.sizes != mine[0].sizes or len(one.sizes) > 1)
        within = len(odd.sizes) > 1
        yield Finding(
            "error" if within else "warning",
            "camera_size",
            Where(episode=odd.episode, camera=camera),
            "one size",
            ", ".join(f"{width} x {height}" for height, width in sizes) + (" within one episode" if within else ""),
            "different cameras or settings under one name: name them apart, or record alike",
        )


def _colours(camera: str, mine: Sequence[CameraSeen]) -> Iterator[Finding]:
    """Episodes whose channels are reversed against the others', then all of them against a usual room."""
    usual = np.array([median(one.rgb[i] for one in mine) for i in range(3)])
    tinted = abs(usual[0] - usual[2]) > LEAST_TINT and len(mine) > 2
    reversed_ones = [
        one
        for one in mine
        if tinted
        and abs(one.rgb[0] - one.rgb[2]) > LEAST_TINT
        and MIXED_RATIO * np.abs(np.array(one.rgb[::-1]) - usual).sum() < np.abs(np.array(one.rgb) - usual).sum()
    ]
    if reversed_ones:
        yield Finding(
            "warning",
            "colour_order",
            Where(episode=reversed_ones[0].episode, camera=camera),
            "one channel order in all episodes",
            f"{len(reversed_ones)} of {len(mine)} episodes look reversed against the others (a heuristic)",
            "compare the two pictures on the page of --html; `source: {colour: bgr}` reverses a dataset",
        )
        return
    warm, cool = median(one.warm for one in mine), median(one.cool for one in mine)
    if cool > COOL_SHARE and cool > COOL_RATIO * warm:
        yield Finding(
            "note",
            "colour_order",
            Where(episode=mine[0].episode, camera=camera),
            "more warm colours than blue ones, as most rooms have",
            f"{cool:.0%} of the pixels are blue, {warm:.0%} warm: channels may be reversed (a heuristic)",
            "compare the two pictures on the page of --html; `source: {colour: bgr}` reverses a dataset",
        )
