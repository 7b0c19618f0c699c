"""What a run of imitation is judged by: pure functions of its returns and states (spec imitation_rl.md 1.6).

Curves are normalised returns n_t over evaluations t, 1 the expert's and 0 a random policy's.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

Array = np.ndarray

GOOD, RUNNING = 0.9, 3  # "solved": n of so much in so many evaluations running
OF_BEST = 0.95
LAST = 0.25  # the share of evaluations by which oscillation is judged
NUM_DIRECTIONS = 128


def normalised(returns: Float[Array, "*batch"], of_random: float, of_expert: float) -> Float[Array, "*batch"]:
    """(R - R_random) / (R_expert - R_random)."""
    if of_expert <= of_random:
        raise ValueError(
            f"the expert's return ({of_expert:g}) must exceed the random policy's ({of_random:g}): train it for longer"
        )
    return (np.asarray(returns, dtype=float) - of_random) / (of_expert - of_random)


def updates_to_share_of_best(updates: Float[Array, " t"], n: Float[Array, " t"], share: float = OF_BEST) -> float:
    """Gradient steps until n_t >= share x max n, the paper's rate of convergence: who gets nowhere may be fast."""
    return float(updates[int(np.argmax(n >= share * n.max()))])


def updates_to_level(
    updates: Float[Array, " t"], n: Float[Array, " t"], level: float = GOOD, running: int = RUNNING
) -> float:
    """Gradient steps until n_t >= level begins to hold for `running` evaluations; infinite if it never does."""
    enough = np.asarray(n) >= level
    starts = [i for i in range(len(enough) - running + 1) if enough[i : i + running].all()]
    return float(updates[starts[0]]) if starts else float("inf")


def area_under(updates: Float[Array, " t"], n: Float[Array, " t"]) -> float:
    """Mean of n over the gradient steps, by the trapezoidal rule: 1 for an expert from the start."""
    x, y = np.asarray(updates, dtype=float), np.asarray(n, dtype=float)
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / (x[-1] - x[0]))


def last_part(n: Float[Array, " t"], share: float = LAST) -> Float[Array, " last"]:
    """The last share of the evaluations, three at least where there are so many."""
    return np.asarray(n)[-max(3, round(share * len(n))) :]


def oscillation_range(n: Float[Array, " t"]) -> float:
    """P95 - P5 of n over the last quarter of the evaluations."""
    low, high = np.percentile(last_part(n), [5, 95])
    return float(high - low)


def detrended_std(n: Float[Array, " t"]) -> float:
    """Standard deviation over the last quarter of the evaluations, around a straight line: a late rise is no swing."""
    y = last_part(n)
    x = np.arange(len(y))
    return float(np.std(y - np.polyval(np.polyfit(x, y, 1), x)))


def sliced_wasserstein_1(
    states: Float[Array, "n state"], others: Float[Array, "n state"], scale: Float[Array, " state"], seed: int = 0
) -> float:
    """Mean over 128 fixed random directions of the 1-Wasserstein distance of the projections; states over `scale`.

    Both sets have as many rows: sorted projections then pair off.
    """
    if states.shape != others.shape:
        raise ValueError(f"both sets of states must have one shape, got {states.shape} and {others.shape}")
    directions = np.random.default_rng(seed).standard_normal((states.shape[1], NUM_DIRECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    pair = (np.sort(x / scale @ directions, axis=0) for x in (states, others))
    return float(np.abs(next(pair) - next(pair)).mean())


def scale_of(states: Float[Array, "n state"]) -> Float[Array, " state"]:
    """Standard deviation of each entry; 1 where nothing moves."""
    std = states.std(axis=0)
    return np.where(std > 1e-8, std, 1.0)
