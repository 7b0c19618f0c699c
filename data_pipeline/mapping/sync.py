"""Values of one topic at the times of another: previous, nearest, linear, spherical linear.

Topics arrive at their own rates; a mapping names a clock and, for each field, how its value at a tick of that clock
is found and how old it may be (spec data.md section 4, MCAP). Every function takes

    stamps_ns    int64 (samples,), not falling; of equal stamps the last one counts
    values       (samples, ...)
    at_ns        int64 (ticks,), in any order
    max_age_ns   largest distance in time between a tick and a sample that is used for it

and returns the values (ticks, ...) and a mask (ticks,). Where the mask is False no sample was young enough, or there
was none, and the value means nothing. Nothing is extrapolated: past either end the end's sample is held while it is
young enough, and `previous` has nothing before the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.schema.registry import check_keys, unknown_name

Synchroniser = Callable[[np.ndarray, np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def sample_previous(
    stamps_ns: np.ndarray, values: np.ndarray, at_ns: np.ndarray, max_age_ns: int
) -> tuple[np.ndarray, np.ndarray]:
    """The newest sample that is not later than the tick: what a controller would have known then."""
    stamps_ns, values, at_ns = _checked(stamps_ns, values, at_ns, max_age_ns)
    if len(stamps_ns) == 0:
        return _nothing(values, at_ns)
    before, _ = _neighbours(stamps_ns, at_ns)
    age = at_ns - stamps_ns[before]
    return values[before], (age >= 0) & (age <= max_age_ns)


def sample_nearest(
    stamps_ns: np.ndarray, values: np.ndarray, at_ns: np.ndarray, max_age_ns: int
) -> tuple[np.ndarray, np.ndarray]:
    """The sample closest in time, the earlier one of two that are equally close."""
    stamps_ns, values, at_ns = _checked(stamps_ns, values, at_ns, max_age_ns)
    if len(stamps_ns) == 0:
        return _nothing(values, at_ns)
    before, after = _neighbours(stamps_ns, at_ns)
    distances = np.abs(at_ns - stamps_ns[before]), np.abs(stamps_ns[after] - at_ns)
    nearest = np.where(distances[0] <= distances[1], before, after)
    return values[nearest], np.minimum(*distances) <= max_age_ns


def sample_linear(
    stamps_ns: np.ndarray, values: np.ndarray, at_ns: np.ndarray, max_age_ns: int
) -> tuple[np.ndarray, np.ndarray]:
    """Between the two neighbours in time, both of which have to be young enough; float64."""
    stamps_ns, values, at_ns = _checked(stamps_ns, values, at_ns, max_age_ns)
    values = np.asarray(values, dtype=np.float64)
    if len(stamps_ns) == 0:
        return _nothing(values, at_ns)
    before, after, weight, valid = _blend(stamps_ns, at_ns, max_age_ns)
    weight = weight.reshape(-1, *([1] * (values.ndim - 1)))
    # a weight of 0 or 1 takes its sample alone: a neighbour that is not finite cannot spoil it
    blended = (1 - weight) * values[before] + weight * values[after]
    blended = np.where(weight == 0, values[before], np.where(weight == 1, values[after], blended))
    return blended, valid


def sample_slerp(
    stamps_ns: np.ndarray, values: np.ndarray, at_ns: np.ndarray, max_age_ns: int
) -> tuple[np.ndarray, np.ndarray]:
    """Along the shorter arc between the neighbouring quaternions (..., 4), of length 1; the order is the input's."""
    stamps_ns, values, at_ns = _checked(stamps_ns, values, at_ns, max_age_ns)
    values = np.asarray(values, dtype=np.float64)
    if values.shape[-1:] != (4,):
        raise ValueError(f"slerp takes quaternions, 4 numbers on the last axis, got shape {values.shape}")
    if len(stamps_ns) == 0:
        return _nothing(values, at_ns)
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    if np.any(length < 1e-8):
        raise ValueError(f"a quaternion of length zero is not a rotation: sample {np.argwhere(length < 1e-8)[0][0]}")
    values = values / length
    before, after, weight, valid = _blend(stamps_ns, at_ns, max_age_ns)
    weight = weight.reshape(-1, *([1] * (values.ndim - 1)))
    start, end = values[before], values[after]
    cosine = (start * end).sum(axis=-1, keepdims=True)
    end = np.where(cosine < 0, -end, end)  # q and -q are one rotation: the shorter way
    angle = np.arccos(np.clip(np.abs(cosine), 0, 1))
    # sin(w a) / sin(a), whose limit for a -> 0 is w
    ratio = [w * np.sinc(w * angle / np.pi) / np.sinc(angle / np.pi) for w in (1 - weight, weight)]
    blended = ratio[0] * start + ratio[1] * end
    return blended / np.linalg.norm(blended, axis=-1, keepdims=True), valid


SYNCHRONISERS: dict[str, Synchroniser] = {
    "previous": sample_previous,
    "nearest": sample_nearest,
    "linear": sample_linear,
    "slerp": sample_slerp,
}
"""The words of `sync: {how: ...}`."""


@dataclass(frozen=True)
class Sync:
    """How the value of a field at a step is found, and how old it may be."""

    how: str = "previous"  # previous, nearest, linear, slerp
    max_age_s: float = 0.1  # between the step and a message that is used for it

    def __post_init__(self) -> None:
        if self.how not in SYNCHRONISERS:
            raise ValueError("sync: " + unknown_name("how", str(self.how), SYNCHRONISERS))
        if isinstance(self.max_age_s, bool) or not isinstance(self.max_age_s, int | float) or not self.max_age_s >= 0:
            raise ValueError(f"sync.max_age_s must be 0 or more seconds, got {self.max_age_s!r}")

    @classmethod
    def parse(cls, raw: Any) -> Sync:
        """Of a mapping's YAML: the age is a decision of whoever writes it."""
        if not isinstance(raw, Mapping):
            raise ValueError(f"sync takes {{how, max_age_s}}, got {raw!r}")
        check_keys("sync", raw, ("how", "max_age_s"))
        if "max_age_s" not in raw:
            raise ValueError("sync needs max_age_s, a number of seconds from 0 on")
        return cls(raw.get("how", "nearest"), raw["max_age_s"])


def ticks_ns(start_ns: int, stop_ns: int, rate_hz: float) -> np.ndarray:
    """int64 times from `start_ns` to `stop_ns` (included when it falls on a tick), each rounded once."""
    if not rate_hz > 0:
        raise ValueError(f"rate_hz must be positive, got {rate_hz}")
    count = int((stop_ns - start_ns) * rate_hz / 1e9 + 1e-6) + 1 if stop_ns >= start_ns else 0
    return start_ns + np.round(np.arange(count) * (1e9 / rate_hz)).astype(np.int64)


def _checked(
    stamps_ns: np.ndarray, values: np.ndarray, at_ns: np.ndarray, max_age_ns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    stamps_ns, values, at_ns = np.asarray(stamps_ns), np.asarray(values), np.asarray(at_ns)
    for name, stamps in (("stamps_ns", stamps_ns), ("at_ns", at_ns)):
        if stamps.ndim != 1 or (len(stamps) and stamps.dtype.kind != "i"):
            raise ValueError(f"{name} must be whole nanoseconds (n,), got {stamps.dtype} {stamps.shape}")
    if len(values) != len(stamps_ns):
        raise ValueError(f"values has {len(values)} samples for {len(stamps_ns)} stamps")
    if np.any(np.diff(stamps_ns) < 0):
        at = int(np.flatnonzero(np.diff(stamps_ns) < 0)[0]) + 1
        raise ValueError(f"stamps_ns goes back at sample {at}: sort the samples, or drop what came late")
    if max_age_ns < 0:
        raise ValueError(f"max_age_ns must be 0 or more, got {max_age_ns}")
    return stamps_ns.astype(np.int64), values, at_ns.astype(np.int64)


def _neighbours(stamps_ns: np.ndarray, at_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the last sample at or before each tick and of the first one after it; the end's past an end."""
    after = np.searchsorted(stamps_ns, at_ns, side="right")
    last = len(stamps_ns) - 1
    return np.clip(after - 1, 0, last), np.clip(after, 0, last)


def _blend(
    stamps_ns: np.ndarray, at_ns: np.ndarray, max_age_ns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Neighbours, the weight of the later one in [0, 1], and whether what has weight is young enough."""
    before, after = _neighbours(stamps_ns, at_ns)
    span = stamps_ns[after] - stamps_ns[before]
    weight = np.clip((at_ns - stamps_ns[before]) / np.maximum(span, 1), 0.0, 1.0)
    weight = np.where(span == 0, 0.0, weight)
    ages = np.abs(at_ns - stamps_ns[before]), np.abs(stamps_ns[after] - at_ns)
    valid = ((weight == 1) | (ages[0] <= max_age_ns)) & ((weight == 0) | (ages[1] <= max_age_ns))
    return before, after, weight, valid


def _nothing(values: np.ndarray, at_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((len(at_ns), *values.shape[1:]), dtype=values.dtype), np.zeros(len(at_ns), dtype=bool)
