"""Time for a control process: a grid of absolute deadlines on the monotonic clock, and the priority to meet them.

Deadline k is start + k period. A deadline that has passed is counted as missed and never replayed (spec robot_ros2.md
section 1.4). All stamps of this stack's processes are `now_ns()`: one clock for all processes of a machine.
"""

from __future__ import annotations

import ctypes
import gc
import os
import time

_MCL_CURRENT, _MCL_FUTURE = 1, 2
FIFO_PRIORITY = 50


def now_ns() -> int:
    """CLOCK_MONOTONIC, in ns."""
    return time.monotonic_ns()


class Deadlines:
    """The ticks of a loop. `wait()` sleeps to the next one that still lies ahead."""

    def __init__(self, rate_hz: float) -> None:
        self.period_ns = round(1e9 / rate_hz)
        self.missed = 0  # ticks that were skipped
        self._next_ns = now_ns() + self.period_ns

    def wait(self) -> int:
        """Sleep, and return by how many ns the caller woke late."""
        passed = (now_ns() - self._next_ns) // self.period_ns
        if passed > 0:
            self.missed += passed
            self._next_ns += passed * self.period_ns
        deadline = self._next_ns
        _sleep_until(deadline)
        self._next_ns = deadline + self.period_ns
        return now_ns() - deadline


def ask_for_priority() -> list[str]:
    """First-in-first-out scheduling, memory that is not paged out, no garbage collection: what was refused, in words.

    Without them the loop runs all the same, less evenly.
    """
    refused = []
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(FIFO_PRIORITY))
    except (OSError, AttributeError) as error:
        refused.append(f"SCHED_FIFO ({error}): allow it with an rtprio limit for this user in limits.conf")
    if ctypes.CDLL(None, use_errno=True).mlockall(_MCL_CURRENT | _MCL_FUTURE):
        refused.append(f"mlockall ({os.strerror(ctypes.get_errno())}): allow it with a memlock limit in limits.conf")
    gc.collect()
    gc.freeze()
    gc.disable()
    return refused


def _sleep_until(deadline_ns: int) -> None:
    """Python's sleep takes a duration: what it wakes too early for, it sleeps again."""
    while (left := deadline_ns - now_ns()) > 0:
        time.sleep(left * 1e-9)
