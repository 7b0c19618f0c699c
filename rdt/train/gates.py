"""Is it learning? Checks that print one line of advice each: what is wrong, in numbers, and what to try.

`Gates` reads the rows of the log as they come; the others look at a run before it begins. Advice never stops a run. A
resumed run forgets what it was told, and may be told again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipeline.schema.layout import NUM_SLOTS, SLOT_NAMES
from data_pipeline.stats import SlotStats

ENOUGH_STEPS = 500
"""Steps after the warm-up, or a fifth of the run where that is less, in which a loss must have fallen."""

NOT_FALLEN = 0.9
"""Share of the loss of the mean action from which on a loss has not fallen."""

RISE = 1.2
"""Held-out error against its best, from which on it rises."""

CONSTANT = 1e-4
"""Range in unified units up to which a slot is constant."""

RECIPE_BATCH = {"rdt_1b": 32, "rdt_170m": 32}
"""Samples of an optimizer step in the published fine-tuning (spec rdt.md section 11), by preset."""

_RECENT = 20  # rows of the log over which a loss is averaged


class Gates:
    """Advice from the learning curve, each kind once."""

    def __init__(self, num_steps: int, warmup_steps: int, mean_action_loss: float | None) -> None:
        """`mean_action_loss` is what always predicting the mean action would cost; None where that has no meaning."""
        self._judged_at = warmup_steps + min(ENOUGH_STEPS, num_steps // 5)
        self._mean_action_loss = mean_action_loss
        self._losses: deque[float] = deque(maxlen=_RECENT)
        self._best: tuple[float, float] | None = None  # held-out error and the training loss at that time
        self._worse = 0  # measurements in a row
        self._said: set[str] = set()

    def __call__(self, row: Mapping[str, float]) -> list[str]:
        """What to say after this row."""
        self._losses.append(row["loss"])
        advice = {"mean": self._against_the_mean(row["step"])}
        if "overall_avg_sample_mse" in row:
            advice["overfitting"] = self._against_the_best(row["overall_avg_sample_mse"])
        fresh = {kind: line for kind, line in advice.items() if line and kind not in self._said}
        self._said |= set(fresh)
        return list(fresh.values())

    def _against_the_mean(self, step: float) -> str | None:
        loss, mean = float(np.mean(self._losses)), self._mean_action_loss
        if mean is None or step < self._judged_at or loss < NOT_FALLEN * mean:
            return None
        return (
            f"after {step:.0f} steps the loss, {loss:.3g}, is about that of always predicting the mean action, "
            f"{mean:.3g}: raise optim.lr, or look whether pictures, states and actions belong together "
            "(rdt data view) and whether condition.scaling fits so small a network"
        )

    def _against_the_best(self, held_out: float) -> str | None:
        """Overfitting: the error of held-out episodes rises while the loss goes on falling."""
        loss = float(np.mean(self._losses))
        if self._best is None or held_out < self._best[0]:
            self._best, self._worse = (held_out, loss), 0
            return None
        self._worse = self._worse + 1 if held_out > RISE * self._best[0] and loss < self._best[1] else 0
        if self._worse < 2:
            return None
        return (
            f"the error on held-out episodes has risen from {self._best[0]:.3g} to {held_out:.3g} while the loss fell "
            f"from {self._best[1]:.3g} to {loss:.3g}: it is overfitting. Stop at the best checkpoint, add "
            "demonstrations, or raise data.augment.probability"
        )


def mean_action_loss(actions: SlotStats, num_steps: int, half_range: np.ndarray) -> float:
    """The training loss of always predicting each slot's mean action, in the network's space.

    The loss is a mean over all 128 slots: empty ones add nothing, and a slot that is filled in some of the `num_steps`
    counts by that share. `half_range` (128,) is what scaling divides by.
    """
    share = actions.count / num_steps
    return float((share * (actions.std / half_range) ** 2).sum() / NUM_SLOTS)


def constant_slots(actions: SlotStats) -> str | None:
    """Advice where commands never change: that joint will not move."""
    constant = np.flatnonzero((actions.count > 0) & (actions.max - actions.min <= CONSTANT))
    if not len(constant):
        return None
    named = ", ".join(f"{SLOT_NAMES[slot]} ({actions.mean[slot]:.3g})" for slot in constant[:8])
    more = f" and {len(constant) - 8} more" if len(constant) > 8 else ""
    return (
        f"actions are constant in {named}{more}: the policy will not move them. Meant so for a joint at rest; else "
        "look at the recording (rdt data stats) and at the robot's ranges (rdt robot explain)"
    )


def small_batch(preset: str, samples_per_step: int) -> str | None:
    """Advice where an optimizer step sees fewer samples than the recipe's."""
    recipe = RECIPE_BATCH.get(preset)
    if recipe is None or samples_per_step >= recipe:
        return None
    return (
        f"a step sees {samples_per_step} samples, the recipe of {preset} has {recipe}: raise data.batch_size, or "
        "train proportionally longer with a smaller optim.lr"
    )


def advice_before(preset: str, samples_per_step: int, actions: SlotStats) -> Sequence[str]:
    """All that can be said before the first step."""
    return [line for line in (small_batch(preset, samples_per_step), constant_slots(actions)) if line]
