"""pytest tests/robot_drivers/sim/test_robot.py"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.importorskip("gym_aloha")

from robot_drivers.sim.render import make_renderer
from robot_drivers.sim.robot import SimRobot
from robot_drivers.sim.scene import HOME, SIDES
from robot_drivers.types import ArmCommand

TRANSFERS = ("transfer_right_to_left", "transfer_left_to_right")


def test_an_episode_starts_at_home_with_nothing_done():
    robot = SimRobot("insertion", seed=0)
    for side in SIDES:
        np.testing.assert_allclose(robot.state(side).positions, HOME, atol=1e-12)
    assert robot.now_ns == 0
    assert robot.reward() == 0
    assert robot.first_touch is None
    assert not robot.strict_success()
    assert set(robot.object_poses()) == {"peg", "socket"}


def test_the_same_seed_gives_the_same_episode_and_another_one_does_not():
    def end(seed):
        robot = SimRobot("transfer_right_to_left", seed)
        for k in range(30):
            robot.command("right", ArmCommand(HOME + 0.01 * k, robot.now_ns))
            robot.step()
        return robot.data.qpos.copy()

    np.testing.assert_array_equal(end(1), end(1))
    assert not np.array_equal(end(1), end(2))


def test_both_directions_start_from_the_same_scene():
    poses = [SimRobot(task, seed=11).object_poses()["box"] for task in TRANSFERS]
    np.testing.assert_array_equal(*poses)


def test_the_clock_counts_ticks_of_20_ms_and_stamps_everything():
    robot = SimRobot("transfer_right_to_left", seed=0, renderer=None)
    for _ in range(3):
        robot.step()
    assert robot.now_ns == 60_000_000
    assert robot.state("left").stamp_ns == 60_000_000
    with make_renderer(robot.scene.model, 24, 32, "raycast") as renderer:
        frame = SimRobot("transfer_right_to_left", seed=0, renderer=renderer).frame("left_wrist")
    assert frame.role == "left_wrist"
    assert frame.image.shape == (24, 32, 3)
    assert frame.stamp_ns == 0


def test_an_arm_goes_where_it_is_sent_and_the_other_one_stays():
    robot = SimRobot("transfer_right_to_left", seed=0)
    target = HOME + np.array([0.3, 0.1, -0.2, 0.2, 0.2, 0.3, 0.5])
    for _ in range(100):
        robot.command("left", ArmCommand(target, robot.now_ns))
        robot.step()
    np.testing.assert_allclose(robot.state("left").positions, target, atol=0.06)  # friction holds a servo off
    np.testing.assert_allclose(robot.state("right").positions, HOME, atol=0.06)


@pytest.mark.parametrize("positions", [np.zeros(6), np.full(7, np.nan)])
def test_a_command_that_is_no_command_is_refused_and_the_last_one_kept(positions):
    robot = SimRobot("transfer_right_to_left", seed=0)
    before = robot.data.ctrl.copy()
    with pytest.raises(ValueError, match="left arm"):
        robot.command("left", ArmCommand(positions, 0))
    np.testing.assert_array_equal(robot.data.ctrl, before)


def test_the_robot_closes_only_its_own_renderer(monkeypatch):
    monkeypatch.setattr(
        "robot_drivers.sim.robot.make_renderer", lambda model, h, w: make_renderer(model, h, w, "raycast")
    )
    with SimRobot("transfer_right_to_left", seed=0, image_size=(8, 12)) as robot:
        assert robot.frame("external").image.shape == (8, 12, 3)
    with make_renderer(robot.scene.model, 8, 8, "raycast") as shared:
        closed = []
        monkeypatch.setattr(shared, "close", lambda: closed.append(True))
        SimRobot("transfer_right_to_left", seed=0, renderer=shared).close()
        assert not closed


def test_a_distribution_of_another_scene_is_refused():
    with pytest.raises(ValueError, match="'peg', 'socket'"):
        SimRobot("insertion", seed=0, distribution="centred_box")
