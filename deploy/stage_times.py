"""How long the stages of an inference take: decode, encode, project, denoise, copy.

On a GPU the marks are CUDA events, read once the chunk has reached the host: nothing is synchronised for them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

import numpy as np
import torch

KEPT = 1000  # latest inferences that the percentiles speak of


class StageTimes:
    """`start()`, `mark(stage)` at the end of each stage, `finish()`; then `summary()`."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []
        self._milliseconds: dict[str, deque[float]] = {}

    def start(self) -> None:
        """Begin an inference; one that did not finish is forgotten."""
        self._marks = [("start", self._now())]

    def mark(self, stage: str) -> None:
        """End of a stage, which began at the mark before."""
        self._marks.append((stage, self._now()))

    def finish(self) -> None:
        """Book the stages and their `total`. On a GPU, call it when the results are on the host."""
        times = {}
        for (_, before), (stage, after) in zip(self._marks, self._marks[1:], strict=False):
            times[stage] = self._between(before, after)
        times["total"] = sum(times.values())
        for stage, milliseconds in times.items():
            self._milliseconds.setdefault(stage, deque(maxlen=KEPT)).append(milliseconds)

    def clear(self) -> None:
        """Forget everything, for instance the inferences of a warm-up."""
        self._milliseconds.clear()

    def summary(self) -> Mapping[str, Mapping[str, float]]:
        """Stage -> {"p50", "p99"} in milliseconds, in the order of the stages; empty before the first inference."""
        return {
            stage: {"p50": float(np.percentile(times, 50)), "p99": float(np.percentile(times, 99))}
            for stage, times in self._milliseconds.items()
        }

    def _now(self) -> float | torch.cuda.Event:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @staticmethod
    def _between(before: float | torch.cuda.Event, after: float | torch.cuda.Event) -> float:
        if isinstance(before, float) or isinstance(after, float):
            return 1e3 * (after - before)  # type: ignore[operator]  # both are, on a CPU
        after.synchronize()
        return before.elapsed_time(after)
