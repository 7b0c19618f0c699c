"""Which steps and episodes are worth a sample: the still start, and the share of each episode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def first_usable_step(values: np.ndarray, eps: float) -> int:
    """The step before the first whose numbers (steps, n) differ from those of step 0 by more than `eps` anywhere.

    Raises `ValueError` when nothing ever moves.
    """
    moved = np.flatnonzero((np.abs(values - values[:1]) > eps).any(axis=1))
    if len(moved) == 0:
        raise ValueError(f"no number ever moves by more than {eps:g} from its start")
    return int(moved[0]) - 1


def usable_steps(values: np.ndarray, eps: float) -> range:
    """Steps that a sample may start from: all but the still start."""
    return range(first_usable_step(values, eps), len(values))


def episode_weights(usable_lengths: Sequence[int]) -> np.ndarray:
    """Chance of each episode, in proportion to its usable steps: every step is drawn equally often."""
    lengths = np.asarray(usable_lengths, dtype=np.float64)
    if lengths.size == 0 or not (lengths >= 0).all() or not lengths.sum() > 0:
        raise ValueError(f"usable lengths must be numbers from 0 on, not all 0, got {list(usable_lengths)}")
    return lengths / lengths.sum()
