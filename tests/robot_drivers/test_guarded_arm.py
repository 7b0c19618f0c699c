"""A guard passes what is safe, softens what is not, and holds when it does not know.

Run: pytest tests/robot_drivers/test_guarded_arm.py
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_drivers.errors import ArmFaultError, CommandError, DriverError, RobotError
from robot_drivers.guarded_arm import GuardedArm
from robot_drivers.limits.chain import LimitSettings
from robot_drivers.types import ArmCommand, ArmState
from tests.robots import bimanual

T = 20_000_000
ROBOT = bimanual()
HOME = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.5])
V_MAX, A_MAX = 3.14, 15.0


class FakeArm:
    """Goes where it is told at once; `broken` names methods that raise."""

    def __init__(self):
        self.positions, self.now_ns = HOME.copy(), 0
        self.told, self.holds, self.closed, self.broken = [], 0, False, set()

    def _fail(self, method):
        if method in self.broken:
            raise OSError("bus gone")

    def state(self):
        self._fail("state")
        return ArmState(self.positions.copy(), self.now_ns)

    def command(self, command):
        self._fail("command")
        self.told.append(command)
        self.positions = command.positions

    def hold(self):
        self._fail("hold")
        self.holds += 1

    def close(self):
        self.closed = True


def guarded(**limits):
    """Without the slow first motion: most of these begin with a leap."""
    arm = FakeArm()
    limits = {"margin_rad": 0.0, "approach_rad_s": math.inf, **limits}
    return arm, GuardedArm.of(ROBOT, "left", arm, LimitSettings(**limits))


def run(arm, guard, targets, first_tick=0):
    """Command one target a tick; the reports."""
    reports = []
    for k, target in enumerate(targets, start=first_tick):
        arm.now_ns = k * T
        reports.append(guard.command(ArmCommand(np.asarray(target, dtype=np.float64), (k + 1) * T)))
    return reports


def joint(path):
    """Targets that move the first joint only."""
    return [HOME + np.array([x, 0, 0, 0, 0, 0, 0]) for x in path]


def sent_path(arm):
    return np.array([command.positions[0] for command in arm.told])


def test_a_safe_path_passes_bit_for_bit():
    arm, guard = guarded()
    times = np.arange(200) * 0.02
    targets = HOME + np.outer(1 - np.cos(times), [0.5, 0.3, -0.4, 0.2, 0.1, 0.9, 0.2])
    assert run(arm, guard, targets) == [()] * 200
    assert all((c.positions == t).all() for c, t in zip(arm.told, targets, strict=True))


def test_the_first_command_is_limited_from_the_measured_position():
    arm, guard = guarded()
    (report,) = run(arm, guard, joint([0.5]))
    assert [change.limit for change in report] == ["velocity", "acceleration"]
    assert sent_path(arm)[0] == pytest.approx(A_MAX * 0.02**2)


def test_limits_are_on_without_asking():
    arm = FakeArm()
    guard = GuardedArm.of(ROBOT, "left", arm)
    (report,) = run(arm, guard, [HOME + np.array([4.0, 0, 0, 0, 0, 0, 2.0])])
    assert {change.limit for change in report} == {"position", "approach"}
    assert arm.told[0].positions[6] == 1.0  # the gripper's range


def test_the_first_motion_is_slow_until_the_command_is_met():
    arm, guard = guarded(approach_rad_s=0.3)
    reports = run(arm, guard, joint([0.3] * 60))
    far = sent_path(arm) < 0.25
    assert np.diff(sent_path(arm)[far], prepend=0.0).max() == pytest.approx(0.3 * 0.02)
    assert sent_path(arm)[-1] == pytest.approx(0.3)
    assert [change.limit for change in reports[30]] == ["approach"]
    run(arm, guard, joint([0.5] * 40), 60)  # met: from here on at the robot's own speed
    assert np.diff(sent_path(arm)).max() > 0.02


def test_a_plan_that_begins_at_the_arm_is_not_slowed():
    arm, guard = guarded(approach_rad_s=0.3)
    times = 0.02 * np.arange(1, 60)
    path = np.where(times < 0.2, 4.0 * times**2, 0.16 + 1.6 * (times - 0.2))  # 8 rad/s^2 up to 1.6 rad/s
    changes = [change for report in run(arm, guard, joint(path)) for change in report]
    assert {change.limit for change in changes} <= {"approach", "acceleration"}
    assert np.abs(sent_path(arm) - path)[11:].max() == 0.0  # met after 0.1 s, caught up after 0.24 s


def test_a_plan_in_small_steps_does_not_pass_for_one_that_is_met():
    """Interpolation makes a leap of 0.3 rad into steps of 0.02."""
    arm, guard = guarded(approach_rad_s=0.3)
    run(arm, guard, joint([min(0.02 * k, 0.3) for k in range(1, 40)]))
    assert np.diff(sent_path(arm)).max() <= 0.3 * 0.02 + 1e-9


@pytest.mark.parametrize("pause", ["hold", "silence"])
def test_after_a_pause_the_next_motion_is_a_first_one(pause):
    arm, guard = guarded(approach_rad_s=0.3)
    run(arm, guard, joint([0.0] * 10))
    if pause == "hold":
        guard.hold()
    (report,) = run(arm, guard, joint([0.5]), 10 if pause == "hold" else 20)
    assert report[0].limit == "approach"


def test_a_step_is_reached_without_swinging_past():
    arm, guard = guarded(tracking_rad=math.inf)
    run(arm, guard, joint([0.5] * 60))
    path = sent_path(arm)
    assert path.max() <= 0.5 + 1e-9
    assert path[-1] == 0.5
    assert (np.diff(path) >= 0).all()


def test_a_kink_is_caught_up_without_oscillation():
    arm, guard = guarded()
    ramp = 0.02 * np.arange(40.0)  # 1 rad/s, then back at once
    wanted = np.concatenate([ramp, ramp[::-1], np.full(20, 0.0)])
    run(arm, guard, joint(wanted))
    error = sent_path(arm) - wanted
    back = error[41:75]
    assert np.abs(error).max() < 0.15
    assert back.min() >= -1e-9  # comes back from one side only
    assert np.abs(error[-5:]).max() == 0.0


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.sampled_from(["command", "hold", "nan", "skip"]), st.floats(-4, 4), st.integers(-T, 3 * T)),
        min_size=1,
        max_size=60,
    )
)
def test_whatever_comes_the_motor_is_never_told_more_than_it_may(events):
    """Wild targets, NaN, holds, jittering and repeated stamps."""
    arm, guard = guarded(tracking_rad=math.inf)
    stamp, before = T, HOME
    low = np.array([j.limits[0] for j in ROBOT.arms["left"].joints])
    high = np.array([j.limits[1] for j in ROBOT.arms["left"].joints])
    for event, value, later in events:
        stamp += later if event == "skip" else T
        arm.now_ns = stamp - T
        count = len(arm.told)
        try:
            if event == "hold":
                guard.hold()
            else:
                target = HOME + value * np.array([1, -0.5, 0.3, 1, 0.2, -1, 0.1])
                guard.command(ArmCommand(np.full(7, math.nan) if event == "nan" else target, stamp))
        except ArmFaultError:
            guard.reset()
            before = arm.positions
            continue
        for command in arm.told[count:]:
            step = command.positions - before
            assert (np.abs(step)[:6] <= V_MAX * 0.02 + 1e-8).all()
            assert (command.positions[:6] >= low - 1e-8).all()
            assert (command.positions[:6] <= high + 1e-8).all()
            before = command.positions


def test_one_nan_brakes_two_are_a_fault():
    arm, guard = guarded()
    run(arm, guard, joint(0.02 * np.arange(30)))
    nan = HOME * math.nan
    (report,) = run(arm, guard, [nan], 30)
    assert [(c.limit, c.verdict) for c in report] == [("finite", "hold")]
    with pytest.raises(ArmFaultError, match=r"finite.*The arm is now braking"):
        run(arm, guard, [nan], 31)
    for k in range(32, 40):
        with pytest.raises(ArmFaultError):
            run(arm, guard, [HOME], k)
    speed = np.diff(sent_path(arm))[28:] / 0.02
    assert (np.diff(speed) <= 1e-9).all()
    assert speed[-1] == 0
    assert guard.fault


def test_after_reset_it_starts_from_where_it_is():
    arm, guard = guarded()
    with pytest.raises(ArmFaultError):
        run(arm, guard, [HOME * math.nan] * 2)
    guard.reset()
    assert guard.fault is None
    assert run(arm, guard, [HOME], 10) == [()]


def test_a_state_that_stops_holds_then_faults():
    arm, guard = guarded()
    run(arm, guard, joint(0.01 * np.arange(10)))
    last_state_ns = arm.now_ns

    def verdict(k):
        try:
            report = guard.command(ArmCommand(HOME, (k + 1) * T))
        except ArmFaultError as error:
            assert "staleness" in str(error)
            return "fault"
        return next((c.verdict for c in report if c.limit == "staleness"), "none")

    ages_ms = [((k + 1) * T - last_state_ns) // 1_000_000 for k in range(10, 60)]
    for age_ms, got in zip(ages_ms, map(verdict, range(10, 60)), strict=True):
        assert got == ("none" if age_ms <= 100 else "hold" if age_ms <= 500 else "fault")


def test_a_state_with_nan_counts_as_none():
    arm, guard = guarded()
    arm.positions = HOME * math.nan
    (report,) = run(arm, guard, [HOME])
    assert report[0].verdict == "hold"
    assert arm.told == []
    assert arm.holds == 1


def test_a_repeated_stamp_sends_nothing_and_stops_nothing():
    arm, guard = guarded()
    run(arm, guard, joint(0.01 * np.arange(10)))
    (repeated,) = run(arm, guard, joint([0.5]), 9)
    assert repeated[0].limit == "staleness"
    assert len(arm.told) == 10
    assert run(arm, guard, joint([0.10, 0.11]), 10) == [(), ()]


def test_a_late_command_moves_no_farther_than_one_in_time():
    arm, guard = guarded()
    run(arm, guard, joint([0.0]))
    run(arm, guard, joint([1.0]), 10)
    assert sent_path(arm)[-1] == pytest.approx(A_MAX * 0.02**2)


def test_hold_brakes_to_a_stand_and_keeps_the_set_point():
    arm, guard = guarded()
    run(arm, guard, joint(0.03 * np.arange(30)))
    for _ in range(20):
        guard.hold()
    steps = np.diff(sent_path(arm))[28:]
    assert (np.diff(steps) >= -A_MAX * 0.02**2 - 1e-12).all()
    assert steps[-1] == 0
    assert arm.holds == 0  # the motor keeps its set-point: a grip stays firm


def test_hold_before_any_command_is_the_drivers_own():
    arm, guard = guarded()
    guard.hold()
    assert arm.holds == 1
    assert arm.told == []


def test_a_stuck_arm_is_a_fault():
    arm, guard = guarded()
    arm.command = arm.told.append  # takes commands, does not move
    with pytest.raises(ArmFaultError, match=r"tracking.*left_waist"):
        run(arm, guard, joint(0.02 * np.arange(60)))


def test_a_raising_driver_ends_in_hold_and_stays_there():
    arm, guard = guarded()
    run(arm, guard, joint([0.0]))
    arm.broken = {"command"}
    with pytest.raises(DriverError, match=r"bus gone.*holding where it is"):
        run(arm, guard, joint([0.001]), 1)
    assert arm.holds == 1
    guard.hold()
    assert arm.holds == 2
    with pytest.raises(ArmFaultError):
        run(arm, guard, joint([0.0]), 2)


def test_a_dead_bus_says_that_the_arm_is_on_its_own():
    arm, guard = guarded()
    arm.broken = {"state", "hold"}
    with pytest.raises(DriverError, match="emergency stop"):
        run(arm, guard, [HOME])


def test_a_command_of_the_wrong_length_is_refused_by_name():
    arm, guard = guarded()
    with pytest.raises(CommandError, match=r"7 positions, got shape \(6,\)") as caught:
        guard.command(ArmCommand(np.zeros(6), T))
    assert isinstance(caught.value, RobotError)
    assert arm.holds == 1


def test_the_caller_may_reuse_its_array():
    arm, guard = guarded()
    target = HOME.copy()
    run(arm, guard, [target])
    target[:] = 99.0
    assert (guard.set_point == HOME).all()


def test_close_holds_and_closes():
    arm, guard = guarded()
    run(arm, guard, [HOME])
    guard.close()
    assert arm.closed
    assert len(arm.told) == 2
