"""pytest tests/robot_drivers/sim/test_kinematics.py"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.importorskip("gym_aloha")

from robot_drivers.sim.kinematics import ArmKinematics, radial_rotation
from robot_drivers.sim.scene import HOME, SIDES
from robot_drivers.sim.tasks import mirror_joints


@pytest.fixture(scope="module", params=SIDES)
def arm(request):
    return ArmKinematics(request.param)


@pytest.mark.parametrize("seed", range(3))
def test_a_solution_has_the_wanted_pose_and_says_so(arm, seed):
    random = np.random.default_rng(seed)
    joints = HOME[:6] + random.uniform(-0.4, 0.4, 6)
    position, rotation = arm.tool_pose(joints)
    solution = arm.solve(position, rotation, joints + random.normal(0, 0.05, 6), iterations=30)
    reached, turned = arm.tool_pose(solution.joints)
    assert solution.position_error_m == pytest.approx(np.linalg.norm(reached - position))
    assert solution.position_error_m < 1e-4
    np.testing.assert_allclose(turned, rotation, atol=2e-3)
    assert solution.rotation_error_rad < 2e-3


def test_a_pose_out_of_reach_shows_in_the_residual(arm):
    position = np.array([0.0, 0.5, 1.5])
    solution = arm.solve(position, radial_rotation(arm.base_xy, position, 0, 0), HOME[:6], iterations=50)
    assert solution.position_error_m > 0.1
    assert (arm.limits[:, 0] <= solution.joints).all() and (solution.joints <= arm.limits[:, 1]).all()


def test_with_the_radial_yaw_the_roll_joints_keep_still(arm):
    joints = HOME[:6]
    for y in np.linspace(0.5, 0.7, 30):  # sidewards, where a fixed yaw would need both rolls
        position = np.array([0.0, y, 0.2])
        solution = arm.solve(position, radial_rotation(arm.base_xy, position, 0.8, 0), joints, iterations=10)
        joints = solution.joints
    assert solution.position_error_m < 1e-3
    assert np.abs(joints[[3, 5]]).max() < 0.02


def test_radial_rotation_is_a_rotation_that_reaches_outwards_and_down():
    rotation = radial_rotation(np.zeros(2), np.array([0.0, 0.3, 0.2]), pitch=0.5, roll=0.7)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    np.testing.assert_allclose(rotation[:, 0], (0, np.cos(0.5), -np.sin(0.5)), atol=1e-12)


def test_mirrored_joints_put_the_other_tool_at_the_mirrored_place():
    left, right = (ArmKinematics(side) for side in SIDES)
    joints = np.concatenate([HOME, HOME]) + np.random.default_rng(0).uniform(-0.4, 0.4, 14)
    mirrored = mirror_joints(joints)
    expected = left.tool_pose(joints[:6])[0] * (-1, 1, 1)
    np.testing.assert_allclose(right.tool_pose(mirrored[7:13])[0], expected, atol=1e-4)
