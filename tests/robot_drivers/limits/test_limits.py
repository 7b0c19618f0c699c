"""Properties of the single limits and of their row.

Run: pytest tests/robot_drivers/limits/test_limits.py
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.schema.embodiment import Embodiment
from robot_drivers.limits.acceleration import AccelerationLimit, reach
from robot_drivers.limits.bounds import Bounds
from robot_drivers.limits.finite import FiniteLimit
from robot_drivers.limits.jump import JumpLimit
from robot_drivers.limits.limit import Motion
from robot_drivers.limits.position import PositionLimit
from robot_drivers.limits.staleness import StalenessLimit
from robot_drivers.limits.tracking import TrackingLimit
from robot_drivers.limits.velocity import VelocityLimit

DT = 0.02
ROBOT = Embodiment.from_dict(
    {
        "name": "small",
        "rate_hz": 12.5,
        "arms": {
            "left": {
                "driver": "fake",
                "joints": [
                    {
                        "name": f"j{i}",
                        "slot": f"left_arm_joint_{i}_pos",
                        "limits": limits,
                        "velocity_limit": speed,
                        "acceleration_limit": 10.0,
                    }
                    for i, (limits, speed) in enumerate([([-1, 1], 2.0), ([-2, 0.5], 1.0)])
                ],
                "gripper": {
                    "slot": "left_gripper_open",
                    "state_range": [0, 5],
                    "action_range": [0, 10],
                    "velocity_limit": 4.0,
                },
            }
        },
    }
)
BOUNDS = Bounds.of(ROBOT)


def motion(sent=(0.0, 0.0, 5.0), velocity=(0.0, 0.0, 0.0), wanted=None, before=None, dt=DT, age=0.0):
    sent = np.array(sent)
    return Motion(
        sent,
        np.array(velocity),
        sent if wanted is None else np.array(wanted),
        sent if before is None else np.array(before),
        sent,
        age,
        dt,
    )


positions = st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 13)).map(np.array)


def test_bounds_are_in_command_units():
    assert BOUNDS.names == ("left_j0", "left_j1", "left_gripper")
    assert BOUNDS.low.tolist() == [-1, -2, 0]
    assert BOUNDS.high.tolist() == [1, 0.5, 10]
    assert BOUNDS.velocity.tolist() == [2, 1, 40]  # 4 openings a second
    assert BOUNDS.as_command(np.array([0.3, 0.4, 5.0])).tolist() == [0.3, 0.4, 10.0]


def test_bounds_of_a_side_that_is_not_there_name_those_that_are():
    with pytest.raises(ValueError, match=r"\['left'\], not 'right'"):
        Bounds.of(ROBOT, "right")


def test_finite_holds_once_then_faults():
    limit = FiniteLimit()
    good, bad = np.zeros(3), np.array([0.0, math.nan, math.inf])
    assert limit.apply(bad, motion())[1][1:4] == ((1, 2), 1.0, "hold")
    assert limit.apply(good, motion()) == (good, None)
    assert limit.apply(bad, motion())[1].verdict == "hold"
    assert limit.apply(bad, motion())[1].verdict == "fault"


@pytest.mark.parametrize(
    ("age", "dt", "verdict"),
    [(0.1, DT, None), (0.11, DT, "hold"), (0.5, DT, "hold"), (0.51, DT, "fault"), (0.0, 0.0, "hold")],
)
def test_staleness_by_age_and_order(age, dt, verdict):
    change = StalenessLimit(0.1, 0.5).apply(np.zeros(3), motion(age=age, dt=dt))[1]
    assert (change.verdict if change else None) == verdict


def test_staleness_waits_for_the_first_state():
    assert StalenessLimit(0.1, 0.5).apply(np.zeros(3), motion(age=math.inf))[1].verdict == "hold"


def test_tracking_faults_only_after_its_duration_and_ignores_grippers():
    limit = TrackingLimit(BOUNDS, 0.3, 0.25)
    stuck = motion()._replace(measured=np.array([0.4, 0.0, 5.0]))
    gripping = motion()._replace(measured=np.array([0.0, 0.0, 0.0]))
    verdicts = [limit.apply(np.zeros(3), stuck)[1] for _ in range(13)]
    assert verdicts[:12] == [None] * 12
    assert verdicts[12].verdict == "fault"
    assert verdicts[12].entries == (0,)
    assert all(limit.apply(np.zeros(3), gripping)[1] is None for _ in range(30))


@settings(deadline=None)
@given(positions)
def test_position_stays_inside_its_margin(wanted):
    limited, change = PositionLimit(BOUNDS, 0.1).apply(wanted, motion())
    assert (limited >= [-0.9, -1.9, 0]).all()
    assert (limited <= [0.9, 0.4, 10]).all()
    assert (change is None) == (limited is wanted) == bool((limited == wanted).all())


def test_a_margin_that_leaves_no_range_names_the_joint():
    with pytest.raises(ValueError, match="left_j0"):
        PositionLimit(BOUNDS, 1.0)


@settings(deadline=None)
@given(positions, positions)
def test_velocity_is_kept_and_so_is_the_direction(sent, wanted):
    limited, change = VelocityLimit(BOUNDS).apply(wanted, motion(sent))
    step, asked = limited - sent, wanted - sent
    assert (np.abs(step) <= BOUNDS.velocity * DT + 2e-9).all()
    assert (change is None) == (limited is wanted)
    # joints: parallel and the same way; the gripper for itself
    assert abs(step[0] * asked[1] - step[1] * asked[0]) < 1e-8
    assert step[:2] @ asked[:2] >= 0
    assert step[2] == pytest.approx(np.clip(asked[2], -0.8, 0.8), abs=1e-8)


@settings(deadline=None)
@given(st.floats(0, 5), st.floats(1e-4, 0.1))
def test_reach_leaves_room_to_brake(distance, largest_change):
    step = float(reach(np.array(distance), np.array(largest_change)))
    assert step <= distance + 1e-12
    while step > 0 and distance > 0:
        distance -= step
        assert distance >= -1e-9
        step = step - largest_change
        assert step <= reach(np.array(max(distance, 0.0)), np.array(largest_change)) + 1e-9


@settings(deadline=None)
@given(positions, st.tuples(st.floats(-2, 2), st.floats(-1, 1), st.floats(-40, 40)).map(np.array))
def test_acceleration_changes_the_step_by_no_more_than_allowed(wanted, velocity):
    state = motion((0.0, -1.0, 5.0), velocity, wanted)
    limited, change = AccelerationLimit(BOUNDS, 0.0).apply(wanted, state)
    assert (np.abs((limited - state.sent)[:2] - velocity[:2] * DT) <= 10 * DT * DT + 2e-9).all()
    assert limited[2] == pytest.approx(np.clip(wanted[2], 0, 10), abs=2e-9)  # no limit for the gripper, but its range
    assert (change is None) == (limited is wanted)


def test_jump_looks_at_the_first_waypoint_and_between_waypoints():
    limit = JumpLimit(BOUNDS, jump_rad=0.35, gripper_jump=0.5)
    here = np.array([0.0, 0.0, 5.0])
    smooth = here + np.outer(np.arange(1, 5), [0.1, 0.05, 0.5])
    assert limit.check(here, smooth, 0.08) is None
    assert limit.check(here, smooth + np.array([0.3, 0, 0]), 0.08).entries == (0,)
    assert limit.check(here, smooth + np.array([0, 0, 4.6]), 0.08).entries == (2,)
    leap = smooth.copy()
    leap[2:, 1] += 0.17  # 2 v_max dt = 0.16
    assert limit.check(here, leap, 0.08).entries == (1,)


def test_jump_knows_tools_and_leaves_out_what_is_only_seen():
    bounds = Bounds.of(Embodiment.from_dict({**ROBOT.to_dict(), "control": "eef"}))
    assert bounds.describe(tuple(np.flatnonzero(bounds.points))) == "left_x, left_y, left_z"
    assert bounds.describe(tuple(np.flatnonzero(bounds.seen))) == "left_j0, left_j1"
    limit, here = JumpLimit(bounds, jump_rad=0.35, jump_m=0.15), np.zeros(12)
    for entry, far in ((0, 0.2), (3, 0.4), (9, 6.0)):
        assert limit.check(here, far * (np.arange(12) == entry)[None], 0.08).entries == (entry,)
        assert limit.check(here, 0.6 * far * (np.arange(12) == entry)[None], 0.08) is None
    assert limit.check(here, 9.0 * (np.arange(12) > 9)[None], 0.08) is None


@settings(deadline=None)
@given(st.lists(positions, min_size=1, max_size=40))
def test_any_commands_stay_inside_all_limits(commands):
    """The row position, velocity, acceleration over whole sequences, from rest."""
    row = (PositionLimit(BOUNDS, 0.05), VelocityLimit(BOUNDS), AccelerationLimit(BOUNDS, 0.05))
    margin = np.array([0.05, 0.05, 0.0])
    sent, velocity, before = np.array([0.0, -1.0, 5.0]), np.zeros(3), np.array([0.0, -1.0, 5.0])
    for wanted in commands:
        state = Motion(sent, velocity, wanted, before, sent, 0.0, DT)
        limited, changes = wanted, []
        for limit in row:
            limited, change = limit.apply(limited, state)
            changes += [change] if change else []
        assert (changes == []) == (limited is wanted)
        moved = (limited - sent) / DT
        assert (limited >= BOUNDS.low + margin - 1e-8).all()
        assert (limited <= BOUNDS.high - margin + 1e-8).all()
        assert (np.abs(moved) <= BOUNDS.velocity + 1e-6).all()
        assert (np.abs(moved - velocity)[:2] <= 10 * DT + 1e-6).all()
        sent, velocity, before = limited, moved, wanted
