"""Two clocks kept together by what arrives.

Run: pytest tests/robot_drivers/test_device_clock.py
"""

from hypothesis import given
from hypothesis import strategies as st

from robot_drivers.device_clock import AFTER_JUMP, DeviceClock

MS = 1_000_000
PERIOD = 33 * MS


@given(st.lists(st.integers(0, 40 * MS), min_size=1, max_size=50), st.integers(-(10**15), 10**15))
def test_a_stamp_is_never_in_the_future_and_at_most_one_delay_old(delays, offset):
    clock = DeviceClock()
    for i, delay in enumerate(delays):
        taken = i * PERIOD
        stamp = clock.stamp(taken - offset, taken + delay)
        assert taken <= stamp <= taken + min(delays[: i + 1])


def test_drift_is_followed():
    clock = DeviceClock()
    for i in range(30_000):  # a quarter of an hour, 100 ppm: 100 ms apart at its end
        now = i * PERIOD
        stamp = clock.stamp(now - now // 10_000, now)
    assert 0 <= now - stamp < 5 * MS


def test_a_jump_is_refused_and_measured_anew():
    for leap in (10_000 * MS, -10_000 * MS):
        clock = DeviceClock()
        assert clock.stamp(0, 5) == 5
        assert clock.stamp(PERIOD, PERIOD + 5) == PERIOD + 5
        stamps = [clock.stamp(leap + i * PERIOD, i * PERIOD + 5) for i in range(2, 10)]
        assert stamps[:AFTER_JUMP] == [None] * AFTER_JUMP
        assert stamps[AFTER_JUMP] == (2 + AFTER_JUMP) * PERIOD + 5
        assert clock.jumps == 1


def test_a_stamp_that_repeats_is_refused():
    clock = DeviceClock()
    clock.stamp(7, 10)
    assert clock.stamp(7, 20) is None
