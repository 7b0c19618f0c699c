"""The best weights of a run so far, by what is measured on the way: success in trials, else the held-out error.

The folder of the best is a checkpoint to act with, without the trainer's state, and says in `best.json` which step it
is of and what was measured then. A resumed run goes on comparing with that. One that was killed repeats the steps since
its last checkpoint, with the same figures bit for bit, so a best that is newer than that checkpoint stays what it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_pipeline.atomic import read_json
from rdt.model.manifest import verify

BEST_FILE = "best.json"
SUCCESS, HELD_OUT = "success_rate", "valid_sample_mse"
"""Figures that decide: more is better of the first, less of the second."""


@dataclass(frozen=True)
class Best:
    """What was measured of the weights of a step."""

    step: int
    name: str
    figure: float

    def __str__(self) -> str:
        return f"step {self.step}, {self.name} {self.figure:.4g}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_best(folder: str | Path) -> Best | None:
    """What a checkpoint folder says of itself; None where it is no best one. Raises `ValueError` for a damaged file."""
    folder = Path(folder)
    if not (folder / BEST_FILE).is_file():
        return None
    verify(folder, (BEST_FILE,))
    return Best(**read_json(folder / BEST_FILE, f"remove {folder} to forget it"))


class BestSoFar:
    """Compares what is measured with the best before it, which a resumed run brings along."""

    def __init__(self, name: str, kept: Best | None = None) -> None:
        """`name` is the figure that decides; a best by another figure is not compared, and gives way to the first."""
        self.name = name
        self.best = kept if kept is not None and kept.name == name else None

    def improved(self, figures: Mapping[str, float], step: int) -> Best | None:
        """The new best, when these figures of a step are better than all before; of equal ones the earlier stays."""
        if self.name not in figures:
            return None
        figure = float(figures[self.name])
        sign = 1 if self.name == SUCCESS else -1
        if not sign * figure > (float("-inf") if self.best is None else sign * self.best.figure):  # no number is none
            return None
        return Best(step, self.name, figure)
