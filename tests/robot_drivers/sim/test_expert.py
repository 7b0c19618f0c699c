"""pytest tests/robot_drivers/sim/test_expert.py"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.importorskip("gym_aloha")

from robot_drivers.sim import expert, tasks
from robot_drivers.sim.render import make_renderer
from robot_drivers.sim.robot import SimRobot
from robot_drivers.sim.scene import CONTROL_HZ, HOME, JOINTS, SIDES, load_scene
from robot_drivers.types import ArmCommand


@pytest.fixture(scope="module", params=sorted(tasks.TASKS))
def planned(request):
    task = tasks.TASKS[request.param]
    return task, expert.plan(task.name, tasks.draw_positions(task.distribution, seed=1))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", sorted(tasks.TASKS))
def test_the_expert_succeeds_by_both_tests(name, seed):
    robot = SimRobot(name, seed)
    targets = expert.plan(name, {body: pose[:3] for body, pose in robot.object_poses().items()})
    for target in targets[1:]:
        for side, positions in zip(SIDES, (target[:7], target[7:]), strict=True):
            robot.command(side, ArmCommand(positions, robot.now_ns))
        robot.step()
    assert robot.strict_success()
    assert robot.highest_reward == 4
    if name != "insertion":
        assert robot.first_touch == name.split("_")[1]


def test_a_plan_starts_at_home_and_stays_within_the_joints(planned):
    task, targets = planned
    np.testing.assert_array_equal(targets[0], np.concatenate([HOME, HOME]))
    model = load_scene(task.scene).model
    limits = np.array([model.joint(f"vx300s_{side}/{joint}").range for side in SIDES for joint in JOINTS])
    joints = np.delete(targets, [6, 13], axis=1)
    assert (limits[:, 0] <= joints).all() and (joints <= limits[:, 1]).all()
    openings = targets[:, [6, 13]]
    assert openings.min() >= 0 and openings.max() <= 1


def test_a_plan_is_slow_and_smooth(planned):
    _, targets = planned
    velocity = np.diff(targets, axis=0) * CONTROL_HZ
    acceleration = np.diff(velocity, axis=0) * CONTROL_HZ
    joints = np.delete(np.arange(14), [6, 13])
    assert np.abs(velocity[:, joints]).max() < 3.14  # rad/s
    assert np.abs(acceleration[:, joints]).max() < 20  # rad/s^2


def test_a_plan_never_waits(planned):
    _, targets = planned
    travel = np.abs(targets[20:] - targets[:-20]).max(axis=1)
    assert travel.min() > 0.002


def test_left_to_right_is_planned_in_the_mirror():
    box = np.array([0.03, 0.45, 0.05])
    right_to_left = expert.plan("transfer_right_to_left", {"box": box})
    left_to_right = expert.plan("transfer_left_to_right", {"box": box * (-1, 1, 1)})
    np.testing.assert_array_equal(left_to_right, tasks.mirror_joints(right_to_left))


def test_the_receiver_has_closed_before_the_giver_opens():
    targets = expert.plan("transfer_right_to_left", {"box": np.array([0.0, 0.5, 0.05])})
    left_closed = np.flatnonzero(targets[240:, 6] < 0.01)[0] + 240
    right_opens = np.flatnonzero(targets[200:, 13] > 0.01)[0] + 200
    assert left_closed < right_opens


def test_a_recorded_demonstration():
    with make_renderer(load_scene("transfer_cube").model, 16, 16, "raycast") as renderer:
        demo = expert.record_demonstration(
            "transfer_left_to_right",
            3,
            noise_std_rad=0.003,
            roles=("external", "left_wrist"),
            renderer=renderer,
        )
        first = SimRobot("transfer_left_to_right", 3, renderer=renderer).frame("left_wrist")
    assert demo is not None
    assert demo.qpos.shape == demo.action.shape == demo.executed.shape == (100, 14)
    assert demo.instructions == tasks.TASKS["transfer_left_to_right"].instructions
    assert {role: frames.shape for role, frames in demo.images.items()} == {
        "external": (100, 16, 16, 3),
        "left_wrist": (100, 16, 16, 3),
    }
    np.testing.assert_array_equal(demo.images["left_wrist"][0], first.image)
    # the label is the clean target at the end of the step's interval, not what was executed
    clean = expert.plan("transfer_left_to_right", tasks.draw_positions("centred_box", 3))
    np.testing.assert_allclose(demo.action, clean[4::4], atol=1e-6)
    assert not np.allclose(demo.executed, demo.action, atol=1e-3)
    np.testing.assert_array_equal(demo.executed[:, [6, 13]], demo.action[:, [6, 13]])
    np.testing.assert_allclose(demo.qpos[0], np.concatenate([HOME, HOME]), atol=1e-6)


def test_an_episode_that_fails_is_not_a_demonstration():
    assert expert.record_demonstration("transfer_right_to_left", 0, noise_std_rad=0.2, roles=()) is None


def test_perturbations_are_stationary_and_spare_the_grippers():
    noise = expert.perturbation(20_000, 0.01, np.random.default_rng(0))
    joints = np.delete(noise, [6, 13], axis=1)
    np.testing.assert_allclose(joints.std(axis=0), 0.01, rtol=0.15)
    assert not noise[:, [6, 13]].any()
    correlation = (joints[1:] * joints[:-1]).mean() / joints.var()
    assert correlation == pytest.approx(np.exp(-1 / (CONTROL_HZ * expert.NOISE_TIME_S)), abs=0.02)


def test_the_monotone_cubic_passes_its_points_and_stays_between_them():
    points = np.array([(0, 0.0, 1.0), (10, 1.0, 0.0), (30, 1.5, 0.0), (40, 5.0, 2.0)])
    values = expert._monotone_cubic(points, np.arange(41))
    np.testing.assert_allclose(values[[0, 10, 30, 40]], points[:, 1:], atol=1e-12)
    assert (np.diff(values[:, 0]) >= 0).all()
    np.testing.assert_array_equal(values[10:31, 1], 0)
