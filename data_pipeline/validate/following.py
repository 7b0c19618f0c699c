"""Whether actions lead the state: by how many steps, and in which units.

`follow` measures one episode; `check_following` judges all of them together, for a lag of one episode is guesswork.
A command is reached a little later than its step (the arm's own delay), so only a lag before the stated offset, or
far behind it, is a mistake of the recording.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.validate.findings import Finding, Where
from data_pipeline.validate.motion import MOVED
from data_pipeline.validate.records import Record

EARLIEST, LATEST = -5, 15  # lags that are tried, in steps
ARM_DELAY_S = 0.4  # an arm may trail its command by this
MIN_STEPS = 40
MIN_GAIN = 0.5  # the best lag must leave half the error of the stated one
SAME_UNITS = (0.4, 2.5)  # of action to state
MIN_CORRELATION = 0.9
DELTA_CORRELATION = 0.8
_KNOWN_FACTORS = {57.3: "degrees against radians", 1000.0: "mm against m", 100.0: "cm against m"}


@dataclass(frozen=True)
class Following:
    """How the actions of one episode stand to its states."""

    name: str
    offset_steps: int | None
    rate_hz: float | None
    errors: np.ndarray  # (lags,), mean squared distance of action[t] and state[t + lag], in variances of the state
    factors: dict[str, float]  # column -> action / state, where the two are alike but for it
    deltas: tuple[str, ...]  # columns whose action is a difference of states


def follow(record: Record) -> Following | None:
    """None where there is too little to compare."""
    if record.num_steps < MIN_STEPS:
        return None
    lags = range(EARLIEST, LATEST + 1)
    errors, factors, deltas = [], {}, []
    for i, j in record.pairs():
        state, action = record.state.values[:, i], record.action.values[:, j]
        name = record.action.names[j]
        spread = float(np.ptp(state))
        if spread < 5 * MOVED.get(record.state.units[i], 1e-6) or np.ptp(action) == 0:
            continue
        factor = _factor(state, action)
        if factor is not None and not SAME_UNITS[0] < factor < SAME_UNITS[1]:
            factors[name] = factor
        elif factor is None and _is_delta(state, action):
            deltas.append(name)
        elif factor is not None:
            errors.append([_distance(state, action, lag) / float(np.var(state)) for lag in lags])
    if not (errors or factors or deltas):
        return None
    mean = np.mean(errors, axis=0) if errors else np.zeros(0)
    return Following(record.name, record.action_offset_steps, record.rate_hz, mean, factors, tuple(deltas))


def check_following(followings: Sequence[Following]) -> Iterator[Finding]:
    """One finding a column or dataset, not an episode."""
    for name in dict.fromkeys(name for one in followings for name in one.factors):
        having = [one for one in followings if name in one.factors]
        factor = float(np.median([one.factors[name] for one in having]))
        nearest = min(_KNOWN_FACTORS, key=lambda known: abs(np.log(max(factor, 1 / factor) / known)))
        looks = f" ({_KNOWN_FACTORS[nearest]})" if abs(np.log(max(factor, 1 / factor) / nearest)) < 0.25 else ""
        yield Finding(
            "error",
            "action_units",
            Where(episode=having[0].name, column=f"action {name}"),
            "actions in the units of the state",
            f"{factor:.3g} times the state in {_episodes(len(having))}{looks}",
            "give both rules the same unit, `scale` or `range`",
        )
    for name in dict.fromkeys(name for one in followings for name in one.deltas):
        having = [one for one in followings if name in one.deltas]
        if len(having) > len(followings) / 2:
            yield Finding(
                "error",
                "action_is_delta",
                Where(episode=having[0].name, column=f"action {name}"),
                "absolute targets",
                f"the action follows the differences of the state in {_episodes(len(having))}, not the state",
                "add `delta_to_absolute` to the rule",
            )
    measured = [one for one in followings if len(one.errors)]
    offsets = {one.offset_steps for one in measured}
    if len(offsets) == 1 and None not in offsets:
        yield from _lag(measured, int(next(iter(offsets)) or 0))


def _lag(measured: Sequence[Following], offset: int) -> Iterator[Finding]:
    errors = np.mean([one.errors for one in measured], axis=0)
    best = int(np.argmin(errors)) + EARLIEST
    rate = measured[0].rate_hz
    allowed = offset + max(2, round(ARM_DELAY_S * rate)) if rate else offset + 2
    if not EARLIEST <= offset <= LATEST or errors[best - EARLIEST] > MIN_GAIN * errors[offset - EARLIEST]:
        return
    if best < offset or best > allowed:
        same = best == 0 and errors[-EARLIEST] < 1e-9
        yield Finding(
            "note" if best == offset - 1 and not same else "warning",  # a sensor slower than the rate looks like that
            "action_lag",
            Where(episode=measured[0].name),
            f"action[t] near state[t + {offset}], or a little later, as action_offset_steps says",
            f"action[t] {'equals' if same else 'is nearest to'} state[t {'+' if best >= 0 else '-'} {abs(best)}] over "
            f"{_episodes(len(measured))}",
            "correct action_offset_steps, or move the commands with `action: {shift: N}`",
        )


def _factor(state: np.ndarray, action: np.ndarray) -> float | None:
    """Spread of the action to that of the state, where one follows the other at some lag; else None."""
    best = max(abs(_correlation(*_shifted(state, action, lag))) for lag in (0, 1, 2, 4, 8))
    return float(np.std(action) / np.std(state)) if best > MIN_CORRELATION else None


def _is_delta(state: np.ndarray, action: np.ndarray) -> bool:
    change = np.diff(state)
    return max(_correlation(*_shifted(change, action[:-1], lag)) for lag in (0, 1, 2)) > DELTA_CORRELATION


def _shifted(state: np.ndarray, action: np.ndarray, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows t of the action and t + lag of the state, where both are."""
    if lag >= 0:
        return state[lag:], action[: len(action) - lag]
    return state[:lag], action[-lag:]


def _distance(state: np.ndarray, action: np.ndarray, lag: int) -> float:
    """Mean squared distance, a constant one left out: an arm hangs a little below its command."""
    steps = np.arange(-EARLIEST, len(state) - LATEST)
    return float(np.var(action[steps] - state[steps + lag]))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    power = float(a @ a) * float(b @ b)
    return float(a @ b) / power**0.5 if power > 0 else 0.0


def _episodes(count: int) -> str:
    return f"{count} episode{'' if count == 1 else 's'}"
