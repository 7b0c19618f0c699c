"""Inference that takes time, at the rates of real arms: real-time chunking from the sampler to the guard.

Run: pytest tests/deploy/test_realtime.py
"""

import math

import numpy as np
import pytest

from deploy.loop import LoopSettings
from deploy.two_ways import ACCELERATION, SIDE, TICK_NS, TwoWays, rehearse, robot_at


@pytest.mark.parametrize("rate_hz", [25.0, 50.0])
@pytest.mark.parametrize("latency_ms", [50, 100, 170, 300])
def test_latency_leaves_no_gap_and_the_guard_keeps_the_acceleration(latency_ms, rate_hz):
    run = rehearse(TwoWays(robot_at(rate_hz)), latency_ms, LoopSettings(handover="rtc", execute_steps=12))
    counters = run.loop.counters
    assert (counters.exhausted, counters.late, counters.overruns, counters.rejected) == (0, 0, 0, 0)
    assert counters.holds == latency_ms // 10  # until the first answer
    assert len(run.sent) == 400 - counters.holds
    assert all(due_ns >= now_ns + TICK_NS for due_ns, now_ns in run.first_due_ns)  # nothing past is executed
    acceleration = np.diff(np.array(run.sent), n=2, axis=0) / 0.01**2
    assert np.abs(acceleration).max() <= ACCELERATION * (1 + 1e-6)
    delay = math.ceil((latency_ms + 10) * 1e-3 * rate_hz) - 1
    assert run.prefixes[0] is None
    assert {prefix.delay_steps for prefix in run.prefixes[1:]} == {delay}
    starts_ns = [stamp_ns + round(1e9 / rate_hz) for stamp_ns in run.asked_ns]
    steps = {p.execute_steps(start_ns, rate_hz) for p, start_ns in zip(run.prefixes[1:], starts_ns[1:], strict=True)}
    assert all(max(12, delay) <= s <= max(12, delay) + 2 and s <= 64 - delay for s in steps)


@pytest.mark.parametrize(("jacobian", "rate_hz"), [("network", 25.0), ("identity", 25.0), ("identity", 50.0)])
@pytest.mark.parametrize("latency_ms", [50, 170])
def test_chunks_that_go_on_from_each_other_have_a_smaller_seam_than_a_switch(jacobian, rate_hz, latency_ms):
    """A chunk that is sampled afresh takes the other way half of the time."""
    switched = rehearse(TwoWays(robot_at(rate_hz)), latency_ms, LoopSettings(handover="switch", execute_steps=12))
    chunked = rehearse(TwoWays(robot_at(rate_hz), jacobian), latency_ms, LoopSettings(handover="rtc", execute_steps=12))
    assert switched.seam().velocity > SIDE / 0.04  # the whole distance within two ticks
    assert chunked.seam().velocity < 0.3 * switched.seam().velocity
    assert chunked.seam().acceleration < 0.3 * switched.seam().acceleration
