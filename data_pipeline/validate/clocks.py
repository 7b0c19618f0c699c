"""Clocks of an episode: stamps against the rate, a rate that drifts, stamps that jitter, pauses and repeats."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data_pipeline.mapping.timing import GAP_PERIODS, RATE_TOLERANCE
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.validate.findings import Finding, Severity, Where
from data_pipeline.validate.records import Record

DRIFT = 0.02  # share by which all stamps together may be off the rate, pauses left out
RATE_CHANGE = 0.1  # share by which the period may change from the first third to the last
JITTER = 0.5  # of a period, that one stamp in twenty may be off
MIN_STAMPS = 20
_NS = 1e9


def check_clock(record: Record) -> Iterator[Finding]:
    """Everything that stamps say. Silent without stamps, and about what the median period cannot tell."""
    stamps = record.stamps_ns
    if stamps is None or len(stamps) < 2:
        return
    periods = np.diff(stamps.astype(np.int64)).astype(np.float64)
    back = np.flatnonzero(periods <= 0)
    if len(back):
        yield _finding(
            record,
            "error",
            "timestamps",
            (int(back[0]), int(back[0]) + 1),
            "stamps that advance",
            f"{len(back)} of {len(stamps)} repeat or go back, first after step {back[0]}",
            "the recorder stamps arrival, not exposure, or doubles messages: drop the repeats",
        )
    forward = periods[periods > 0]
    if len(forward) == 0:
        return
    median = float(np.median(forward))
    pauses = np.flatnonzero(periods > GAP_PERIODS * median)
    if len(pauses):
        longest = int(pauses[np.argmax(periods[pauses])])
        yield _finding(
            record,
            "warning",
            "gap",
            (longest, longest + 1),
            f"pauses of at most {GAP_PERIODS:g} periods",
            f"{len(pauses)} longer ones, {periods[longest] / _NS:.3g} s after step {longest}",
            "conversion splits the episode there; look for a recorder that waits for its disk",
        )
    rate = record.rate_hz
    if rate is not None and abs(_NS / median / rate - 1) > RATE_TOLERANCE:
        yield _finding(
            record,
            "error",
            "wrong_rate",
            None,
            f"{rate:g} Hz, as the metadata say",
            f"the stamps say {_NS / median:.4g} Hz",
            "correct `fps`, or `fps: {from: timestamps}` to believe the stamps",
        )
        rate = None
    steady = forward[forward <= GAP_PERIODS * median]
    if len(steady) >= MIN_STAMPS:
        yield from _drift(record, steady, median, rate)


def check_robot_rate(record: Record, robot: Embodiment) -> Iterator[Finding]:
    """A policy of a robot is asked at the robot's rate; recordings of another rate teach another speed."""
    rate = record.rate_hz
    if rate is not None and abs(rate / robot.rate_hz - 1) > RATE_TOLERANCE:
        yield _finding(
            record,
            "note",
            "robot_rate",
            None,
            f"{robot.rate_hz:g} Hz, the rate of {robot.name}",
            f"{rate:g} Hz",
            "correct `rate_hz` in the robot YAML or `fps` of the dataset, if one of them is wrong",
        )


def _drift(record: Record, steady: np.ndarray, median: float, rate: float | None) -> Iterator[Finding]:
    """Of the periods without pauses."""
    third = len(steady) // 3
    first, last = float(np.mean(steady[:third])), float(np.mean(steady[-third:]))
    if abs(last / first - 1) > RATE_CHANGE:
        yield _finding(
            record,
            "warning",
            "clock_drift",
            None,
            "one rate throughout",
            f"{_NS / first:.4g} Hz at the start, {_NS / last:.4g} Hz at the end",
            "the recorder cannot keep up: record fewer or smaller pictures, or resample by stamps",
        )
    elif rate is not None and abs(float(np.mean(steady)) * rate / _NS - 1) > DRIFT:
        behind = (float(steady.sum()) - len(steady) * _NS / rate) / _NS
        yield _finding(
            record,
            "warning",
            "clock_drift",
            None,
            f"stamps near step / {rate:g} Hz",
            f"{behind:+.2f} s after {len(steady)} steps",
            "correct the rate; step number / rate is what training takes for time",
        )
    jitter = float(np.quantile(np.abs(steady - median), 0.95)) / median
    if jitter > JITTER:
        yield _finding(
            record,
            "note",
            "jitter",
            None,
            f"stamps within {JITTER:.0%} of a period",
            f"one in twenty is more than {jitter:.0%} of a period off",
            "`fps: {from: timestamps, resample: HZ}` puts the record on even ticks",
        )


def _finding(
    record: Record,
    severity: Severity,
    kind: str,
    steps: tuple[int, int] | None,
    expected: str,
    found: str,
    advice: str,
) -> Finding:
    return Finding(severity, kind, Where(episode=record.name, steps=steps), expected, found, advice)
