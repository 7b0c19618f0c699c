"""What a chunk that is asked for now must go on from: the boundary object of real-time chunking.

The loop makes it, the engine reads it. Numpy only: the tick knows no network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_pipeline.schema.types import ActionChunk
from deploy.interpolate import rows_at

GRID_TOLERANCE = 1e-3
"""Two time grids that differ by less than this part of a step are one: stamps are whole nanoseconds."""


@dataclass(frozen=True)
class Prefix:
    """Actions that are decided already, on their way to an engine that samples what follows them."""

    chunk: ActionChunk  # what was sent up to now and what the plan before proposes from here on
    delay_steps: int  # rows of the new chunk that will have been executed when it arrives
    plan_start_ns: int  # time of the plan's first action

    def __post_init__(self) -> None:
        if self.delay_steps < 0:
            raise ValueError(f"Prefix: delay_steps must be a count, got {self.delay_steps}")

    def execute_steps(self, start_ns: int, rate_hz: float) -> int:
        """Steps from the plan's first action to that of a new chunk, which starts at `start_ns`."""
        return max(round((start_ns - self.plan_start_ns) * 1e-9 * rate_hz), 0)


def align(chunk: ActionChunk, start_ns: int, rate_hz: float, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """A chunk on another chunk's time grid: rows float32 (horizon, 128), and where it knows them, bool (horizon,).

    Row i is the action for `start_ns + i / rate_hz`: the chunk's own where the grids meet, on the straight line between
    two of its rows elsewhere; rows before its first or after its last one are unknown and 0.
    """
    positions = (start_ns - chunk.start_ns) * 1e-9 * chunk.rate_hz + np.arange(horizon) * (chunk.rate_hz / rate_hz)
    nearest = np.rint(positions)
    positions = np.where(np.abs(positions - nearest) < GRID_TOLERANCE, nearest, positions)
    known = (positions >= 0) & (positions <= chunk.horizon - 1)
    rows = rows_at(chunk.actions, positions)
    return np.where(known[:, None], rows, 0).astype(np.float32), known
