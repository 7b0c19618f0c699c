"""Two ViperX told where their tools shall be, by Pink, against MuJoCo's kinematics of the simulated ones.

Run: pytest tests/robot_drivers/test_pink_solver.py
"""

from pathlib import Path

import numpy as np
import pytest

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from robot_drivers.limits.chain import LimitSettings
from robot_drivers.tool_poses import Poses, distances, tool_poses_of

pytest.importorskip("pink", reason="needs the extra `eef`")
import pink

from robot_drivers.pink_solver import PinkSolver

ROBOT = Embodiment.from_yaml(find_config("robots", "sim_bimanual_eef"))
HOME = np.tile([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.5], 2)
JOINTS = np.array([*range(6), *range(7, 13)])
LIMITS = np.array([joint.limits for arm in ROBOT.arms.values() for joint in arm.joints])
MARGIN_RAD = 0.05


@pytest.fixture(scope="module")
def solver():
    return PinkSolver(ROBOT, MARGIN_RAD)


def somewhere(seed, width=0.5):
    positions = HOME.copy()
    positions[JOINTS] += np.random.default_rng(seed).uniform(-width, width, 12)
    positions[JOINTS] = np.clip(positions[JOINTS], LIMITS[:, 0] + MARGIN_RAD, LIMITS[:, 1] - MARGIN_RAD)
    return positions


def test_poses_are_where_mujoco_finds_them(solver):
    pytest.importorskip("mujoco")
    pytest.importorskip("gym_aloha")
    from robot_drivers.sim.kinematics import ArmKinematics

    truth = [ArmKinematics(side) for side in ("left", "right")]
    for seed in range(20):
        positions = somewhere(seed, 1.2)
        points, rotations = solver.poses(positions)
        for i, arm in enumerate(truth):
            point, rotation = arm.tool_pose(positions[7 * i : 7 * i + 6])
            np.testing.assert_allclose(points[i], point, atol=2e-5)
            np.testing.assert_allclose(rotations[i], rotation, atol=2e-5)


@pytest.mark.parametrize("seed", range(20))
def test_a_pose_near_by_is_reached_by_the_joints_that_made_it(solver, seed):
    goal = somewhere(seed)
    start = goal.copy()
    start[JOINTS] += np.random.default_rng(seed + 100).uniform(-0.05, 0.05, 12)
    found = solver.reach(solver.poses(goal), start)
    assert np.max(distances(solver.poses(found), solver.poses(goal))) < 1e-4
    np.testing.assert_allclose(found[JOINTS], goal[JOINTS], atol=0.02)
    assert (found[[6, 13]] == start[[6, 13]]).all()


def test_a_pose_out_of_reach_is_approached_inside_the_range(solver):
    points, rotations = solver.poses(HOME)
    wanted = Poses(points + np.array([0.0, 0.0, 1.0]), rotations)
    found = solver.reach(wanted, HOME)
    low, high = LIMITS.T
    assert ((low + MARGIN_RAD <= found[JOINTS]) & (found[JOINTS] <= high - MARGIN_RAD)).all()
    assert distances(solver.poses(found), wanted)[0].min() > 0.1


def test_a_start_outside_the_range_is_brought_inside(solver):
    start = HOME.copy()
    start[1] = -1.9  # left shoulder: -1.85 less the margin
    found = solver.reach(solver.poses(start), start)
    assert found[1] >= -1.85 + MARGIN_RAD


def test_the_shipped_robot_speaks_of_tools():
    tools = tool_poses_of(ROBOT, LimitSettings())
    native = tools.of_motors(HOME)
    assert native.shape == (20,)
    positions, change = tools.to_motors(native, HOME + 0.01)
    assert change is None
    np.testing.assert_allclose(tools.of_motors(positions), native, atol=1e-4)
    native[2] += 1.0
    _, change = tools.to_motors(native, HOME)
    assert (change.limit, change.verdict) == ("reach", "hold") and change.words.startswith("the left tool stays")


def test_a_program_without_a_solution_ends_in_a_hold(monkeypatch):
    def fail(*_, **__):
        raise pink.exceptions.NoSolutionFound(None, None)

    tools = tool_poses_of(ROBOT, LimitSettings())
    native = tools.of_motors(HOME)
    native[0] += 0.05
    monkeypatch.setattr(pink, "solve_ik", fail)
    positions, change = tools.to_motors(native, HOME)
    np.testing.assert_allclose(positions[JOINTS], HOME[JOINTS])
    assert change.words == "the left tool stays 0.050 m and 0.00 rad from its pose"


def test_a_joint_without_an_end_turns_on(tmp_path):
    raw = ROBOT.to_dict()
    model = raw["kinematics"]["arms"]["left"]["model"]
    endless = tmp_path / "arm.urdf"
    endless.write_text(
        Path(model).read_text().replace('name="waist" type="revolute"', 'name="waist" type="continuous"')
    )
    raw["kinematics"]["arms"]["left"]["model"] = str(endless)
    raw["arms"]["left"]["joints"][0]["limits"] = [-6.3, 6.3]
    solver = PinkSolver(Embodiment.from_dict(raw), MARGIN_RAD)
    start = somewhere(0)
    start[0] = 3.1
    goal = start.copy()
    goal[0] = 3.2  # past pi
    np.testing.assert_allclose(solver.reach(solver.poses(goal), start), goal, atol=1e-3)


def test_what_was_not_measured_has_no_pose(solver):
    unknown = HOME.copy()
    unknown[2] = np.nan
    assert np.isnan(solver.poses(unknown).points[0]).all()
    assert np.isfinite(solver.poses(unknown).points[1]).all()
