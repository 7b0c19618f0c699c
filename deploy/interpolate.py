"""Between the steps of a plan: straight lines, smooth curves, and how to stop when the plan ends.

Pure functions of rows (knots, entries) at times in s, of any unit. Nothing here knows a clock, a robot or a
limit.
"""

from __future__ import annotations

import numpy as np


def lerp(before: np.ndarray, after: np.ndarray, fraction: float) -> np.ndarray:
    """The straight line: `before` at fraction 0, exactly, `after` at 1."""
    return before + fraction * (after - before)


def rows_at(rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Rows (n, entries) at positions (n,) counted in rows, on straight lines between them; the end rows beyond them."""
    positions = np.clip(positions, 0, len(rows) - 1)
    left = np.minimum(positions.astype(int), max(len(rows) - 2, 0))
    right = np.minimum(left + 1, len(rows) - 1)
    return rows[left] + (positions - left)[:, None] * (rows[right] - rows[left])


def rdt_linear(before: np.ndarray, after: np.ndarray, max_step: np.ndarray) -> np.ndarray:
    """The published interpolation (spec rdt.md section 12): rows (n, entries) on the line, the last one `after`.

    n = ceil(max |after - before| / max_step), at least 1: no entry moves further than its `max_step` from row to row.
    Published steps are 0.01 rad a joint and 0.2 a gripper, in raw units.
    """
    count = max(int(np.ceil(np.max(np.abs(after - before) / max_step))), 1)
    return np.linspace(before, after, count + 1)[1:]


def smoothstep(fraction: float) -> float:
    """3x^2 - 2x^3 on [0, 1], flat outside: from 0 to 1 with no speed at both ends."""
    x = min(max(fraction, 0.0), 1.0)
    return x * x * (3.0 - 2.0 * x)


def monotone_slopes(times: np.ndarray, rows: np.ndarray, start_slope: np.ndarray | None = None) -> np.ndarray:
    """Slopes (knots, entries) at the knots for a C1 cubic that never passes its knots (PCHIP).

    Inner slopes are the weighted harmonic mean of the secants on both sides, 0 at a turning point (Fritsch
    and Butland 1984); the ends take their secant. `start_slope` replaces the first one, so that a plan
    starts with the velocity that the arm has: the first interval may then pass its knots, as it must when the
    arm moves the other way.
    """
    width = np.diff(times)[:, None]  # (knots - 1, 1)
    secant = np.diff(rows, axis=0) / width
    slopes = np.zeros_like(rows)
    if len(rows) > 1:
        slopes[0], slopes[-1] = secant[0], secant[-1]
    if len(rows) > 2:
        before, after = secant[:-1], secant[1:]
        weight_before, weight_after = 2 * width[1:] + width[:-1], width[1:] + 2 * width[:-1]
        same_way = before * after > 0
        inverse = weight_before / np.where(same_way, before, 1) + weight_after / np.where(same_way, after, 1)
        slopes[1:-1] = np.where(same_way, (weight_before + weight_after) / inverse, 0.0)
    if start_slope is not None:
        slopes[0] = start_slope
    return slopes


def hermite(
    before: np.ndarray,
    after: np.ndarray,
    slope_before: np.ndarray,
    slope_after: np.ndarray,
    width_s: float,
    fraction: float,
) -> np.ndarray:
    """The cubic with these values and slopes at both ends of an interval of `width_s`."""
    x, rest = fraction, 1.0 - fraction
    return (
        (1 + 2 * x) * rest * rest * before
        + x * x * (3 - 2 * x) * after
        + width_s * x * rest * (rest * slope_before - x * slope_after)
    )


def brake(position: np.ndarray, velocity: np.ndarray, deceleration: np.ndarray, elapsed_s: float) -> np.ndarray:
    """Where the arm is `elapsed_s` after it began to brake; an infinite deceleration stops at once.

    x(t) = x0 + v t - sign(v) a t^2 / 2 until t = |v| / a, then at rest.
    """
    stop_s = stopping_time(velocity, deceleration)
    t = np.minimum(elapsed_s, stop_s)
    return position + velocity * t * (1 - 0.5 * t / np.maximum(stop_s, 1e-12))


def stopping_time(velocity: np.ndarray, deceleration: np.ndarray) -> np.ndarray:
    """Time to rest per entry, in s."""
    return np.abs(velocity) / deceleration
