"""Poses in, joints out: the words of a robot under `control: eef`, by kinematics that anybody can solve.

Run: pytest tests/robot_drivers/test_tool_poses.py
"""

import math
import sys

import numpy as np
import pytest

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.schema.rotation import matrix_from_euler, rot6d_from_matrix
from robot_drivers.bimanual import Bimanual
from robot_drivers.errors import ArmFaultError, CommandError
from robot_drivers.limits.chain import LimitSettings
from robot_drivers.tool_poses import Poses, ToolPoses, distances, tool_poses_of
from tests.robots import ObedientArm

T = 20_000_000
AXES = ("x_rail", "y_rail", "z_rail", "roll", "pitch", "yaw")


def robot(**changes):
    """Two gantries: three rails and three turns each, so that joints and poses are one in another's words."""
    arms = {
        side: {
            "driver": "fake",
            "joints": [{"name": name, "limits": [-1, 1], "velocity_limit": 3, **changes} for name in AXES],
            "gripper": {"slot": f"{side}_gripper_open", "state_range": [0, 5], "action_range": [0, 10]},
        }
        for side in ("left", "right")
    }
    return Embodiment.from_dict({"name": "gantries", "rate_hz": 12.5, "control": "eef", "arms": arms})


class Gantries:
    """A `Solver` by hand: rails stop at 0.95."""

    def poses(self, positions):
        arms = positions.reshape(2, 7)
        return Poses(arms[:, :3].copy(), matrix_from_euler(arms[:, 3:6]))

    def reach(self, wanted, start):
        positions = start.copy().reshape(2, 7)
        positions[:, :3] = np.clip(wanted.points, -0.95, 0.95)
        R = wanted.rotations
        positions[:, 3] = np.arctan2(R[:, 2, 1], R[:, 2, 2])
        positions[:, 4] = -np.arcsin(R[:, 2, 0])
        positions[:, 5] = np.arctan2(R[:, 1, 0], R[:, 0, 0])
        return positions.ravel()


HOME = np.array([0.1, 0.2, 0.3, 0.0, 0.1, 0.2, 2.0])
SETTINGS = LimitSettings(approach_rad_s=math.inf, tracking_rad=math.inf)


def body_of(eef, settings=SETTINGS):
    arms = {side: ObedientArm(HOME) for side in eef.arms}
    return arms, Bimanual(eef, arms, settings, tool_poses=ToolPoses(eef, Gantries(), settings))


def native(joints, gripper):
    pose = [*joints[:3], *rot6d_from_matrix(matrix_from_euler(np.array(joints[3:6])))]
    return [*pose, gripper]


def test_a_state_is_told_as_tool_poses_and_grippers():
    _, body = body_of(robot())
    state, stamp_ns = body.state()
    np.testing.assert_allclose(state, [*native(HOME, 2.0), *native(HOME, 2.0)])
    assert stamp_ns == 0


def test_a_pose_becomes_joints_and_the_gripper_passes():
    arms, body = body_of(robot())
    goal = HOME + np.array([0.01, -0.01, 0.02, 0.01, 0.0, -0.01, 0.0])
    command = np.array([*native(goal, 4.5), *native(HOME, 4.0)])
    assert body.command(command, T) == ()
    np.testing.assert_allclose(arms["left"].told[0].positions, [*goal[:6], 4.5])
    np.testing.assert_allclose(arms["right"].told[0].positions, [*HOME[:6], 4.0])
    np.testing.assert_allclose(body.set_point, command)


def test_limits_of_the_joints_come_after():
    arms, body = body_of(robot())
    changes = body.command(np.array([*native([HOME[0] + 0.5, *HOME[1:]], 4), *native(HOME, 4)]), T)
    assert [change.limit for change in changes] == ["velocity"]
    assert body.names[changes[0].entries[0]] == "left_x_rail"
    assert arms["left"].positions[0] == pytest.approx(HOME[0] + 3 * 0.02)


def test_a_pose_out_of_reach_is_a_hold_that_says_which_and_how_far():
    arms, body = body_of(robot())
    (change,) = body.command(np.array([*native(HOME, 4), *native([1.2, *HOME[1:]], 4)]), T)
    assert (change.limit, change.verdict) == ("reach", "hold")
    assert change.words == "the right tool stays 0.250 m and 0.00 rad from its pose"
    assert {body.names[i] for i in change.entries} == {f"right_{name}" for name in (*AXES, "gripper")}
    assert not arms["left"].told and not arms["right"].told
    assert body.command(np.array([*native(HOME, 4), *native(HOME, 4)]), 2 * T) == ()  # and goes on by itself


def test_an_arm_that_moves_brakes_where_a_pose_is_out_of_reach():
    arms, body = body_of(robot(acceleration_limit=10.0))
    for k in range(1, 6):
        for arm in arms.values():
            arm.now_ns = k * T
        body.command(np.array([*native([HOME[0] + 0.001 * k * k, *HOME[1:]], 4), *native(HOME, 4)]), (k + 1) * T)
    before = arms["left"].positions[0]
    assert body.is_moving
    far = np.array([*native([1.5, *HOME[1:]], 4), *native(HOME, 4)])
    for k in range(7, 20):
        assert body.command(far, k * T)[0].limit == "reach"
    assert not body.is_moving
    assert before < arms["left"].positions[0] < before + 0.01


def test_the_bounds_are_settings():
    near = np.array([*native([0.97, *HOME[1:]], 4), *native(HOME, 4)])
    assert body_of(robot())[1].command(near, T)[0].words.startswith("the left tool stays 0.020 m")
    loose = LimitSettings(approach_rad_s=math.inf, tracking_rad=math.inf, residual_m=0.05)
    assert all(change.limit != "reach" for change in body_of(robot(), loose)[1].command(near, T))


def test_six_numbers_that_are_no_rotation_are_a_hold():
    _, body = body_of(robot())
    for columns in ([0] * 6, [1, 0, 0, 1, 0, 0]):
        (change,) = body.command(np.array([*HOME[:3], *columns, 4, *native(HOME, 4)]), T)
        assert (change.limit, change.words) == (
            "reach",
            "the left tool is told no rotation: two equal or empty columns",
        )


def test_a_rotation_need_not_be_exact():
    arms, body = body_of(robot())
    command = np.array([*native(HOME, 4), *native(HOME, 4)])
    command[3:9] *= 0.9  # as a network says it
    assert body.command(command, T) == ()
    np.testing.assert_allclose(arms["left"].positions[:6], HOME[:6], atol=1e-12)


def test_a_command_that_is_not_finite_is_the_guards_to_judge():
    _, body = body_of(robot())
    command = np.array([*native(HOME, 4), *native(HOME, 4)])
    command[0] = np.nan
    assert body.command(command, T)[0].limit == "finite"
    with pytest.raises(ArmFaultError, match="'finite' gave up"):
        body.command(command, 2 * T)


def test_a_command_in_joints_is_refused():
    _, body = body_of(robot())
    with pytest.raises(CommandError, match=r"20 numbers, tool poses first, got shape \(14,\)"):
        body.command(np.tile(HOME, 2), T)


def test_joints_that_have_a_slot_are_told_and_not_obeyed():
    raw = robot().to_dict()
    for side, arm in raw["arms"].items():
        for i, joint in enumerate(arm["joints"]):
            joint |= {"slot": f"{side}_arm_joint_{i}_pos", "unit": "deg"}
    seen = Embodiment.from_dict(raw)
    arms, body = body_of(seen)
    state, _ = body.state()
    np.testing.assert_allclose(state[10:16], np.rad2deg(HOME[:6]))
    state[10:16] = 99.0
    state[[9, 25]] = 4.0
    body.command(state, T)
    np.testing.assert_allclose(arms["left"].positions, [*HOME[:6], 4.0])
    np.testing.assert_allclose(seen.to_unified(state, "action")[0][[50, 80]], [np.deg2rad(99.0), HOME[0]], rtol=1e-6)


def test_distances_are_those_of_points_and_the_angle_between_rotations():
    turns = np.array([[0.0, 1e-6, 0.0], [0.0, 0.0, math.pi]])
    one = Poses(np.zeros((2, 3)), np.tile(np.eye(3), (2, 1, 1)))
    other = Poses(np.array([[0.3, 0.4, 0.0], [0.0, 0.0, 0.0]]), matrix_from_euler(turns))
    metres, radians = distances(one, other)
    np.testing.assert_allclose(metres, [0.5, 0.0])
    np.testing.assert_allclose(radians, [1e-6, math.pi], rtol=1e-6)


def test_a_robot_that_is_told_joints_has_none():
    assert tool_poses_of(robot().motors, SETTINGS) is None


def test_without_kinematics_the_yaml_is_told_what_it_lacks():
    with pytest.raises(ValueError, match=r"'gantries'.*control: eef.*no kinematics.arms for \['left', 'right'\]"):
        Bimanual(robot(), {side: ObedientArm(HOME) for side in ("left", "right")})


def test_where_the_extra_lacks_the_words_that_install_it_come_first(monkeypatch):
    for library in ("pinocchio", "pink", "daqp"):
        monkeypatch.setitem(sys.modules, library, None)
    shipped = Embodiment.from_yaml(find_config("robots", "sim_bimanual_eef"))
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rdt-stack\[eef\]'"):
        Bimanual(shipped, {side: ObedientArm(HOME) for side in ("left", "right")})
