"""Run: pytest tests/deploy/realtime/test_clock.py"""

import time

from deploy.realtime.clock import Deadlines, now_ns


def test_deadlines_lie_on_one_grid_whatever_the_work_takes():
    deadlines = Deadlines(200)
    first = deadlines._next_ns
    for work_s in (0.0, 0.002, 0.0):
        deadlines.wait()
        time.sleep(work_s)
    assert (deadlines._next_ns - first) % deadlines.period_ns == 0


def test_ticks_that_were_slept_through_are_counted_and_not_replayed():
    deadlines = Deadlines(200)
    deadlines.wait()
    time.sleep(0.033)  # five whole periods and more
    before = now_ns()
    lateness = deadlines.wait()
    assert deadlines.missed >= 5
    assert lateness >= 0
    assert now_ns() >= before  # it waited for the next one, and did not run through those that had passed
