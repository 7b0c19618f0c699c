"""A robot that is told where its tools shall be: a way in joints, said in poses, comes back as that way.

Run: pytest tests/deploy/test_eef.py
"""

import dataclasses
import math

import numpy as np
import pytest

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.schema.types import ActionChunk, Observation
from data_pipeline.sources.hdf5 import read_episode
from deploy.loop import ControlLoop, LoopSettings
from deploy.record import record_demonstrations
from deploy.rollout import Trial, run_trials
from rdt.train.config import DemonstrationConfig
from robot_drivers.bimanual import Bimanual
from robot_drivers.limits.chain import SIMULATED
from robot_drivers.tool_poses import Poses, ToolPoses

pytest.importorskip("mujoco", reason="needs the extra `sim`")
pytest.importorskip("gym_aloha", reason="needs the extra `sim`")

from robot_drivers.sim.expert import plan
from robot_drivers.sim.kinematics import ArmKinematics
from robot_drivers.sim.tasks import draw_positions
from tests.robots import ObedientArm

ROBOT = Embodiment.from_yaml(find_config("robots", "sim_bimanual_eef"))
SIDES = ("left", "right")
TICK_NS = 20_000_000
HORIZON, STEP_TICKS = 16, 4
FIRST = 2 * HORIZON  # tick from which on no chunk is left that a robot at rest began late
TASK = "transfer_right_to_left"


class SimulatorSolver:
    """The expert's own kinematics in Pink's place."""

    def __init__(self):
        self._arms = [ArmKinematics(side) for side in SIDES]

    def poses(self, positions):
        found = [arm.tool_pose(positions[7 * i : 7 * i + 6]) for i, arm in enumerate(self._arms)]
        return Poses(np.array([point for point, _ in found]), np.array([rotation for _, rotation in found]))

    def reach(self, wanted, start):
        positions = start.copy()
        for i, arm in enumerate(self._arms):
            here = slice(7 * i, 7 * i + 6)
            positions[here] = arm.solve(wanted.points[i], wanted.rotations[i], start[here], iterations=8).joints
        return positions


@pytest.fixture(scope="module", params=["simulator", "pink"])
def tools(request):
    if request.param == "simulator":
        return ToolPoses(ROBOT, SimulatorSolver(), SIMULATED)
    pytest.importorskip("pink", reason="needs the extra `eef`")
    from robot_drivers.pink_solver import PinkSolver

    return ToolPoses(ROBOT, PinkSolver(ROBOT, SIMULATED.margin_rad), SIMULATED)


@pytest.fixture(scope="module")
def way():
    """Targets of a scripted hand-over, float64 (401, 14) at 50 Hz."""
    return plan(TASK, draw_positions("centred_box", 3))


def follow(tools, way, spoil=lambda tick, rows: rows):
    """What two obedient arms are told while the loop executes the way in chunks of poses; and all reports."""
    robot = dataclasses.replace(ROBOT, rate_hz=50.0, action_offset_steps=0, cameras={}, kinematics=None)
    arms = {side: ObedientArm(way[0, 7 * i : 7 * i + 7]) for i, side in enumerate(SIDES)}
    body = Bimanual(robot, arms, SIMULATED, tool_poses=tools)
    loop = ControlLoop(robot, settings=LoopSettings(jump_rad=math.inf, gripper_jump=math.inf, jump_m=math.inf))
    loop.start()
    told, reports = [], []
    for tick in range(len(way) - 1):
        now_ns = tick * TICK_NS
        for arm in arms.values():
            arm.now_ns = now_ns
        native, stamp_ns = body.state()
        loop.push_state(native, stamp_ns, now_ns)
        if loop.wants_observation(now_ns):
            observation = loop.observation(now_ns)
            assert isinstance(observation, Observation)
            rows = np.minimum(tick + np.arange(HORIZON), len(way) - 1)
            said = spoil(tick, np.array([tools.of_motors(way[row]) for row in rows]))
            actions, mask = robot.to_unified(said, "action")
            assert (mask == observation.state_mask).all()
            loop.deliver(ActionChunk(observation.stamp_ns, 50.0, actions, mask), now_ns)
        decided = loop.tick(now_ns)
        if decided.positions is None:
            body.hold()
        else:
            changes = body.command(decided.positions, decided.stamp_ns)
            if changes:
                loop.push_sent(body.set_point, decided.stamp_ns)
            reports += changes
        told.append(np.concatenate([arm.positions for arm in arms.values()]))
    return np.array(told), reports


def test_a_way_in_joints_comes_back_from_its_poses(tools, way):
    told, reports = follow(tools, way)
    assert not [change for change in reports if change.verdict != "limited"]
    np.testing.assert_allclose(told[FIRST:], way[FIRST + 1 :], atol=2e-3)  # rad, openings


def test_poses_out_of_reach_hold_and_the_robot_goes_on_after_them(tools, way):
    def spoil(tick, rows):
        if 100 <= tick < 150:
            rows[:, 2] += 0.1 * np.arange(1, HORIZON + 1)  # the left tool shall rise by 1.6 m, most of it in vain
        return rows

    told, reports = follow(tools, way[:300], spoil)
    holds = [change for change in reports if change.verdict == "hold"]
    assert {change.limit for change in holds} == {"reach"}
    assert all(change.words.startswith("the left tool stays") for change in holds)
    low, high = np.array([joint.limits for joint in ROBOT.arms["left"].joints]).T
    assert ((low <= told[:, :6]) & (told[:, :6] <= high)).all()
    assert np.abs(np.diff(told, axis=0))[:, :6].max() <= 3.14 * 0.02 + 1e-9
    assert np.abs(told[-1] - way[299])[:6].max() < 0.02  # the chunks are sound again


class PosesOfTheExpert:
    """Answers with the plan of the expert, said in poses."""

    def __init__(self, tools, way):
        self.robot, self._tools, self._way = ROBOT, tools, way

    def predict_batch(self, observations, noise_keys, prefixes):
        return [self._chunk(observation) for observation in observations]

    def _chunk(self, observation):
        tick = observation.stamp_ns // TICK_NS
        rows = np.minimum(tick + STEP_TICKS * np.arange(1, HORIZON + 1), len(self._way) - 1)
        actions, mask = ROBOT.to_unified(np.array([self._tools.of_motors(self._way[row]) for row in rows]), "action")
        start_ns = observation.stamp_ns + STEP_TICKS * TICK_NS
        return ActionChunk(start_ns=start_ns, rate_hz=observation.control_hz, actions=actions, mask=mask)


def test_the_simulated_robot_hands_the_cube_over_by_poses(way):
    pytest.importorskip("pink", reason="needs the extra `eef`")
    from robot_drivers.pink_solver import PinkSolver

    tools = ToolPoses(ROBOT, PinkSolver(ROBOT, SIMULATED.margin_rad), SIMULATED)
    trial = Trial("sim_handover", TASK, "from right to left", "trained", 3)
    settings = LoopSettings(cameras=("external",), jump_rad=0.7, gripper_jump=math.inf, jump_m=0.3)
    (outcome,) = run_trials(PosesOfTheExpert(tools, way), [trial], settings)
    assert outcome.fault is None
    assert outcome.success


def test_the_expert_is_recorded_in_poses(tools, way, tmp_path):
    pytest.importorskip("pink", reason="needs the extra `eef`")
    config = DemonstrationConfig(environment="sim_transfer", per_task=1)
    ((path,),) = record_demonstrations(config, ROBOT, tmp_path, workers=1).values()
    episode = read_episode(path, ROBOT)
    home = tools.of_motors(way[0])
    np.testing.assert_allclose(ROBOT.from_unified(episode.states[0], "state"), home, atol=1e-4)
