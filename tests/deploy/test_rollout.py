"""The simulated robot through loop, limits and judgement, with the scripted expert in the network's place.

Run: pytest tests/deploy/test_rollout.py
"""

import numpy as np
import pytest

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.schema.types import ActionChunk, Observation
from deploy.loop import LoopSettings
from deploy.rollout import Trial, run_trials

pytest.importorskip("mujoco", reason="needs the extra `sim`")
pytest.importorskip("gym_aloha", reason="needs the extra `sim`")

HORIZON = 16
TICKS_PER_STEP = 4
TICK_NS = 20_000_000


class Expert:
    """Answers an observation with the next targets of a plan, or with those of a robot that does nothing."""

    def __init__(self, targets: np.ndarray) -> None:
        self.robot = Embodiment.from_yaml(find_config("robots", "sim_bimanual"))
        self.targets = targets  # (ticks, 14)
        self.calls = 0
        self.prefixes = []

    def predict_batch(self, observations: list[Observation], noise_keys: list[int], prefixes) -> list[ActionChunk]:
        assert len(set(noise_keys)) == len(noise_keys) == len(observations) == len(prefixes)
        self.prefixes += prefixes
        self.calls += 1
        return [self._chunk(observation) for observation in observations]

    def _chunk(self, observation: Observation) -> ActionChunk:
        assert observation.images["external"].shape == (1, 64, 64, 3)
        tick = observation.stamp_ns // TICK_NS
        rows = np.minimum(tick + TICKS_PER_STEP * np.arange(1, HORIZON + 1), len(self.targets) - 1)
        actions, mask = self.robot.to_unified(self.targets[rows], kind="action")
        start_ns = observation.stamp_ns + TICKS_PER_STEP * TICK_NS
        return ActionChunk(start_ns=start_ns, rate_hz=observation.control_hz, actions=actions, mask=mask)


def roll_out(task: str, seed: int, targets: np.ndarray, video=None, latency_ticks=0, **settings):
    expert = Expert(targets)
    trial = Trial("sim_handover", task, "from right to left", "trained", seed, video)
    (outcome,) = run_trials(expert, [trial], LoopSettings(cameras=("external",), **settings), latency_ticks)
    return outcome, expert


@pytest.mark.parametrize("direction", ["right_to_left", "left_to_right"])
def test_the_expert_succeeds_through_loop_and_limits(direction, tmp_path):
    from robot_drivers.sim.expert import plan
    from robot_drivers.sim.tasks import draw_positions

    task = f"transfer_{direction}"
    outcome, expert = roll_out(task, 3, plan(task, draw_positions("centred_box", 3)), tmp_path)
    assert outcome.success and outcome.benchmark_success
    assert outcome.did == (task,)
    assert outcome.first_touch == direction.split("_")[0]
    assert outcome.fault is None
    assert expert.calls == 13  # 400 ticks, 8 steps of 4 ticks between two requests
    assert [path.name for path in tmp_path.iterdir()] == [f"{task}_3_success.mp4"]


def test_the_other_task_done_is_no_success():
    from robot_drivers.sim.expert import plan
    from robot_drivers.sim.tasks import draw_positions

    targets = plan("transfer_left_to_right", draw_positions("centred_box", 3))
    outcome, _ = roll_out("transfer_right_to_left", 3, targets)
    assert not outcome.success
    assert outcome.did == ("transfer_left_to_right",)
    assert outcome.first_touch == "left"


def test_a_robot_that_does_nothing_does_nothing():
    from robot_drivers.sim.scene import HOME

    outcome, _ = roll_out("transfer_right_to_left", 3, np.tile(HOME, (2, 2)))
    assert outcome.did == ()
    assert not outcome.benchmark_success
    assert outcome.first_touch is None


@pytest.mark.parametrize("handover", ["switch", "rtc"])
def test_the_expert_succeeds_with_answers_that_come_late(handover):
    from robot_drivers.sim.expert import plan
    from robot_drivers.sim.tasks import draw_positions

    task = "transfer_right_to_left"
    targets = plan(task, draw_positions("centred_box", 3))
    outcome, expert = roll_out(task, 3, targets, latency_ticks=9, handover=handover)
    assert outcome.success and outcome.fault is None
    assert expert.prefixes[0] is None
    for i, prefix in enumerate(expert.prefixes[1:], start=1):
        if handover == "switch":
            assert prefix is None
            continue
        assert prefix.delay_steps == 2  # 180 ms and a tick are less than 3 steps of 80 ms, and row 0 is for the first
        times = (prefix.chunk.start_ns + prefix.chunk.step_ns * np.arange(prefix.chunk.horizon)) // TICK_NS
        decided = expert.robot.to_unified(targets[np.minimum(times, len(targets) - 1)], kind="action")[0]
        if i > 1:  # the first chunk waited for its turn
            assert np.abs(prefix.chunk.actions - decided)[2:].max() < 1e-5  # the plan before: the same expert's


def test_a_loop_that_stops_is_a_fault_of_the_trial():
    from robot_drivers.sim.expert import plan
    from robot_drivers.sim.tasks import draw_positions

    targets = plan("transfer_right_to_left", draw_positions("centred_box", 3)).copy()
    targets[100:, 6] += 2  # a gripper that is told to leap
    outcome, _ = roll_out("transfer_right_to_left", 3, targets)
    assert not outcome.success
    assert "chunk rejected: jump" in outcome.fault and "left_gripper" in outcome.fault
