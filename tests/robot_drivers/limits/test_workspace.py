"""Whatever is commanded, the tool stays in its box: an arm of two links in a plane, by hand.

Run: pytest tests/robot_drivers/limits/test_workspace.py
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.schema.embodiment import Embodiment
from robot_drivers.errors import ArmFaultError
from robot_drivers.guarded_arm import GuardedArm
from robot_drivers.limits.bounds import Bounds
from robot_drivers.limits.chain import LimitSettings
from robot_drivers.limits.limit import Motion
from robot_drivers.limits.workspace import WorkspaceLimit
from robot_drivers.types import ArmCommand
from tests.robots import ObedientArm

T = 5_000_000
V_MAX, A_MAX = 1.57, 8.0
LINK_M = 0.4
BETWEEN_LOOKS_M = 0.01
JOINTS = [
    {
        "name": f"j{i}",
        "slot": f"left_arm_joint_{i}_pos",
        "limits": [-3, 3],
        "velocity_limit": V_MAX,
        "acceleration_limit": A_MAX,
    }
    for i in range(2)
]
BOUNDS = Bounds.of(
    Embodiment.from_dict({"name": "plane", "rate_hz": 50, "arms": {"left": {"driver": "fake", "joints": JOINTS}}})
)
HOME = np.array([math.pi / 4, -math.pi / 2])  # the tool 0.57 m ahead of the base


class Plane:
    """One rule: the tool is no farther ahead than `wall_m`, and one about its side, `half_m`."""

    sway = np.array([[2 * LINK_M, LINK_M], [2 * LINK_M, LINK_M]])

    def __init__(self, wall_m=0.6, half_m=0.3):
        self.wall_m, self.half_m, self.calls = wall_m, half_m, 0

    def room(self, positions):
        self.calls += 1
        a, b = positions
        x = LINK_M * (math.cos(a) + math.cos(a + b))
        y = LINK_M * (math.sin(a) + math.sin(a + b))
        return np.array([self.wall_m - x, self.half_m - abs(y)])


def guarded(geometry, start=HOME):
    arm = ObedientArm(start)
    return arm, GuardedArm(
        arm, BOUNDS, LimitSettings(approach_rad_s=math.inf, tracking_rad=math.inf), 1e9 / T, geometry
    )


def run(arm, guard, targets):
    reports = []
    for k, target in enumerate(targets):
        arm.now_ns = k * T
        reports.append(guard.command(ArmCommand(np.asarray(target, dtype=np.float64), (k + 1) * T)))
    return reports


def motion(sent, positions, dt_s=0.005):
    return Motion(sent, np.zeros(2), positions, sent, sent, 0.0, dt_s)


def test_a_command_inside_passes_as_it_is_and_costs_one_look():
    plane = Plane(wall_m=0.7)
    wanted = HOME + 0.001
    assert WorkspaceLimit(BOUNDS, plane).apply(wanted, motion(HOME, wanted)) == (wanted, None)
    assert plane.calls == 1


def test_a_command_outside_is_held_with_its_joints_and_by_how_much():
    wanted = np.array([0.3, -0.6])  # 0.76 m ahead
    _, change = WorkspaceLimit(BOUNDS, Plane()).apply(wanted, motion(wanted, wanted)._replace(sent=HOME, dt_s=1e9))
    assert (change.limit, change.verdict, change.entries) == ("workspace", "hold", (0, 1))
    assert change.amount == pytest.approx(2 * LINK_M * math.cos(0.3) - 0.6)


def test_a_fast_command_that_could_not_stop_in_time_is_held_before_the_wall():
    sent, step = HOME, V_MAX * 0.005 * np.array([-1, 1])  # both links towards the wall
    limit = WorkspaceLimit(BOUNDS, Plane())
    assert limit.apply(sent + step / 10, motion(sent, sent + step / 10))[1] is None
    assert Plane().room(sent + step).min() > 0
    assert limit.apply(sent + step, motion(sent, sent + step))[1].verdict == "hold"


def test_an_arm_that_is_outside_may_come_back_but_go_no_farther():
    out = np.array([0.3, -0.6])
    step = np.array([0.002, -0.004])
    towards, away = out + step, out - step
    limit = WorkspaceLimit(BOUNDS, Plane())
    assert limit.apply(towards, motion(out, towards))[1] is None
    assert limit.apply(away, motion(out, away))[1].verdict == "hold"
    arm, guard = guarded(Plane(), out)
    run(arm, guard, [HOME] * 400)
    assert arm.positions == pytest.approx(HOME)


def test_at_the_wall_the_arm_stands_and_takes_the_next_sound_command():
    arm, guard = guarded(plane := Plane())
    reports = run(arm, guard, [np.array([0.2, -0.4])] * 300)
    assert reports[-1][-1].verdict == "hold"
    assert 0 <= plane.room(arm.positions)[0] < 0.05
    for k in range(300, 700):
        arm.now_ns = k * T
        guard.command(ArmCommand(HOME, (k + 1) * T))
    assert arm.positions == pytest.approx(HOME)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["command", "command", "hold", "nan", "stale", "again", "skip"]),
            st.floats(-3, 3),
            st.floats(-3, 3),
            st.integers(1, 40),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_no_stream_of_commands_leads_out(events):
    """Wild targets for some ticks each, holds, NaN, old states, repeated and late stamps."""
    arm, guard = guarded(plane := Plane())
    stamp, before, step_before, state_ns = T, HOME, np.zeros(2), 0
    for event, a, b, ticks in events:
        for _ in range(ticks):
            stamp += {"again": 0, "skip": 5 * T}.get(event, T)
            state_ns = state_ns if event == "stale" else stamp - T
            arm.now_ns = state_ns
            count = len(arm.told)
            try:
                if event == "hold":
                    guard.hold()
                else:
                    target = np.full(2, math.nan) if event == "nan" else np.array([a, b])
                    guard.command(ArmCommand(target, stamp))
            except ArmFaultError:
                while guard.is_moving:
                    guard.hold()
                guard.reset()
            gap = event == "skip"
            for command in arm.told[count:]:
                step = command.positions - before
                assert (np.abs(step) <= V_MAX * T * 1e-9 + 1e-8).all()
                if not gap:
                    assert (np.abs(step - step_before) <= A_MAX * (T * 1e-9) ** 2 + 1e-8).all()
                assert (np.abs(command.positions) <= 3 - 0.05 + 1e-8).all()
                assert plane.room(command.positions).min() >= -BETWEEN_LOOKS_M
                before, step_before, gap = command.positions, step, False
