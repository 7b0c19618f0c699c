"""The pieces of `rdt bench loop`, on made-up ticks; nothing here is timed.

Run: pytest tests/deploy/test_bench_loop.py
"""

import itertools

import numpy as np
import pytest

from data_pipeline.schema.types import Observation
from deploy import bench_loop, bench_loop_parts
from deploy.loop import LoopSettings
from deploy.realtime.records import text, tick_dtype
from deploy.two_ways import TwoWays, rehearse, robot_at

MS = 1_000_000


def ticks(modes, positions):
    rows = []
    for k, (mode, position) in enumerate(zip(modes, positions, strict=True)):
        row = np.zeros((), tick_dtype(1))
        row["stamp_ns"], row["mode"], row["measured"] = (1000 + 5 * k) * MS, mode.encode(), position
        rows.append(row)
    return rows


def modes_of(ticks):
    """One after the other, of the ticks since it was asked."""
    return [mode for mode, _ in itertools.groupby(text(record.value["mode"]) for record in ticks.new())]


def test_lateness_counts_what_was_lost_while_it_looked():
    found = bench_loop.lateness(np.arange(101) * MS // 100, np.array([7] * 50 + [9] * 51))
    assert found == (0.5, 0.99, 1.0, 2)


def test_a_stop_is_told_up_to_the_tick_that_obeys_and_to_the_last_motion():
    rows = ticks(["run", "fault", "fault", "fault", "fault"], [0.0, 0.2, 0.3, 0.35, 0.35])
    assert bench_loop.stop_of(rows, 998 * MS) == {"ticks": 2, "to_braking": 7.0, "to_stand": 12.0}


def test_a_stop_of_an_arm_that_stood_is_told_too():
    rows = ticks(["fault"] * 3, [0.1] * 3)
    assert bench_loop.stop_of(rows, 1000 * MS)["ticks"] == 1


def test_the_policy_of_the_bench_never_jumps_away(tmp_path):
    robot = bench_loop_parts.bench_robot(tmp_path / "silence")
    policy = bench_loop_parts.open_policy(robot, {"busy": False})
    state, mask = robot.to_unified(np.zeros(14))
    seen = Observation(
        stamp_ns=10**12, control_hz=50.0, images={}, image_masks={}, state=state, state_mask=mask, instruction=""
    )
    rows = robot.from_unified(policy.predict(seen).actions)
    assert np.abs(rows).max() <= 2 * bench_loop_parts.AMPLITUDE_RAD + 1e-6 < LoopSettings().jump_rad
    speed = np.abs(np.diff(rows, axis=0)).max() * 50
    assert speed < robot.arms["left"].joints[0].velocity_limit


def test_the_motor_obeys_and_falls_silent_with_its_file(tmp_path):
    robot = bench_loop_parts.bench_robot(tmp_path / "silence")
    motor = bench_loop_parts.open_motor(robot, "left")
    before = motor.state()
    (tmp_path / "silence").touch()
    assert motor.state().stamp_ns == before.stamp_ns
    (tmp_path / "silence").unlink()
    assert motor.state().stamp_ns > before.stamp_ns


def test_a_chunk_that_the_loop_refuses_ends_a_rehearsal():
    with pytest.raises(RuntimeError, match="a chunk was refused: jump"):
        rehearse(TwoWays(robot_at(50.0)), 50, LoopSettings(jump_rad=0.001))


def test_seams_are_rehearsed_for_each_way_rate_and_latency(monkeypatch):
    monkeypatch.setattr(bench_loop, "RATES_HZ", (25.0,))
    monkeypatch.setattr(bench_loop, "LATENCIES_MS", (50,))
    rows = bench_loop.measure_seams()
    assert [row["handover"] for row in rows] == list(bench_loop.HANDOVERS)
    jump = {row["handover"]: row["velocity"] for row in rows}
    assert jump["rtc, identity"] < jump["blend"] < jump["switch"]


def test_the_session_of_the_bench_moves_stops_and_holds(tmp_path):
    """Real processes, once; how fast is for the bench to say."""
    silence = tmp_path / "silence"
    with bench_loop.session(50, silence, busy=False) as supervisor:
        over = bench_loop.measure_overhead(supervisor, 1.0)
        assert over["chunks"] > 0
        ticks = supervisor.ring("ticks")
        list(ticks.new())
        assert set(bench_loop.measure_stops(supervisor)) == {"ticks", "to_braking", "to_stand"}
        assert modes_of(ticks) == ["run", "fault", "hold"] * bench_loop.NUM_STOPS
        bench_loop.measure_state_loss(supervisor, silence)
        blind = [record.value for record in ticks.new() if text(record.value["why"]).startswith("state is")]
        assert blind and not any(row["commanded"] for row in blind)
        ticks.close()


def test_the_bench_commands_what_no_limit_changes():
    assert set(bench_loop.measure_limits(200)) == {"p50", "p99"}


def test_the_workspace_of_the_bench_holds_the_wave_too():
    pytest.importorskip("pinocchio")
    assert bench_loop.measure_limits(200, workspace=True)
