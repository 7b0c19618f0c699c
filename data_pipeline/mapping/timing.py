"""Clocks of a record: its rate, steps whose stamp does not advance, and gaps (spec data.md section 7)."""

from __future__ import annotations

import numpy as np

from data_pipeline.mapping.paths import EpisodeError
from data_pipeline.sources.raw import RawEpisode

RATE_TOLERANCE = 0.1  # a rate further off than this is a wrong one
REPEATS = 0.01  # share of stamps that may repeat or go back and are then dropped
GAP_PERIODS = 3.0


def stamps_of(raw: RawEpisode, clock: str | None) -> np.ndarray | None:
    """int64 (steps,) ns of the record's clock, else of the field `clock`: whole numbers are ns, others seconds."""
    if raw.stamps_ns is not None:
        return np.asarray(raw.stamps_ns, dtype=np.int64)
    if clock is None or clock not in raw.fields:
        return None
    values = np.asarray(raw.fields[clock]).reshape(raw.num_steps)
    return values.astype(np.int64) if values.dtype.kind in "iu" else np.round(values * 1e9).astype(np.int64)


def advancing(stamps_ns: np.ndarray) -> np.ndarray:
    """Steps whose stamp is later than every one before. Raises `EpisodeError` where too many are not."""
    latest = np.maximum.accumulate(stamps_ns)
    steps = np.flatnonzero(np.concatenate([[True], stamps_ns[1:] > latest[:-1]]))
    lost = len(stamps_ns) - len(steps)
    if lost > REPEATS * len(stamps_ns):
        raise EpisodeError(
            "timestamps", f"{lost} of {len(stamps_ns)} stamps repeat or go back, expected at most {REPEATS:.0%}"
        )
    return steps


def rate_of(stamps_ns: np.ndarray, expected_hz: float | None) -> float:
    """Hz by the median period, or `expected_hz` where that is known. Raises `EpisodeError` when they differ."""
    if len(stamps_ns) < 2:
        if expected_hz is None:
            raise EpisodeError("wrong_rate", "one step has no rate: give fps a number")
        return expected_hz
    measured = 1e9 / float(np.median(np.diff(stamps_ns)))
    if expected_hz is None:
        return measured
    check_rate(expected_hz, measured, "the stamps say")
    return expected_hz


def check_rate(expected_hz: float, found_hz: float, who: str) -> None:
    """Raise `EpisodeError` for a rate that is more than a tenth off."""
    if abs(found_hz / expected_hz - 1) > RATE_TOLERANCE:
        raise EpisodeError(
            "wrong_rate", f"fps says {expected_hz:g} Hz, {who} {found_hz:.4g} Hz: correct fps or resample"
        )


def without_gaps(stamps_ns: np.ndarray, rate_hz: float) -> list[np.ndarray]:
    """Runs of steps with no longer pause between two of them than `GAP_PERIODS` periods."""
    breaks = np.flatnonzero(np.diff(stamps_ns) > GAP_PERIODS * 1e9 / rate_hz) + 1
    return np.split(np.arange(len(stamps_ns)), breaks)
