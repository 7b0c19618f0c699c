"""Run: pytest tests/rdt/alignment/test_chunk_policy.py"""

from functools import partial

import numpy as np
import pytest

pytest.importorskip("tianshou", reason="needs the extra `rl`")

import gymnasium
from gymnasium import spaces
from tianshou.data import Batch, Collector, CollectStats, VectorReplayBuffer
from tianshou.env import DummyVectorEnv, SubprocVectorEnv

from rdt.alignment.chunk_policy import ChunkPolicy, finished_episodes

HORIZON, REPLAYED = 10, 8
LENGTHS = (5, 13, 20)
LOW, HIGH = -4000.0, 4000.0  # far outside [-1, 1]: actions must pass as they are
ACTIONS = spaces.Box(LOW, HIGH, (2,), np.float32)


class Counting(gymnasium.Env):
    """Says which step of which of its episodes this is; the actions it gets come back as `info`."""

    observation_space = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (4, 4, 3), np.uint8),
            "state": spaces.Box(-np.inf, np.inf, (14,), np.float32),
        }
    )
    action_space = ACTIONS

    def __init__(self, number: int) -> None:
        self.number, self.episode, self.step_count = number, -1, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.step_count = self.episode + 1, 0
        return self._observation(), {"got": np.zeros(2, np.float32)}

    def step(self, action):
        self.step_count += 1
        ended = self.step_count == LENGTHS[self.number]
        ends = (ended and self.number != 1, ended and self.number == 1)  # one of the three is cut by its time limit
        return self._observation(), 1.0, *ends, {"got": np.asarray(action, np.float32)}

    def _observation(self):
        state = np.zeros(14, np.float32)
        state[:3] = self.number, self.episode, self.step_count
        return {"image": np.full((4, 4, 3), self.step_count, np.uint8), "state": state}


class Planner:
    """A plan from step t on: action k is (100 x environment + episode, t + k)."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, observations):
        state = observations["state"]
        assert observations["image"].dtype == np.uint8
        assert (observations["image"][:, 0, 0, 0] == state[:, 2]).all()
        self.asked.append(len(state))
        when = state[:, 2, None] + np.arange(HORIZON)
        who = np.broadcast_to(100 * state[:, :1] + state[:, 1:2], when.shape)
        return np.stack([who, when], axis=-1)


@pytest.mark.parametrize("vector_env", [DummyVectorEnv, SubprocVectorEnv])
def test_every_action_is_the_planned_one_across_episode_ends(vector_env):
    planner = Planner()
    policy = ChunkPolicy(planner, REPLAYED, ACTIONS, Counting.observation_space)
    envs = vector_env([partial(Counting, number) for number in range(3)])
    buffer = VectorReplayBuffer(600, 3)
    collector = Collector[CollectStats](policy, envs, buffer)
    collector.reset()
    stats = collector.collect(n_episode=9)
    envs.close()

    assert stats.n_collected_episodes == 9
    rows = buffer[buffer.sample_indices(0)]
    state = rows.obs.state
    assert len(rows) == stats.n_collected_steps >= 9 * min(LENGTHS)
    expected = np.stack([100 * state[:, 0] + state[:, 1], state[:, 2]], axis=-1)
    assert (rows.act == expected).all()
    assert (rows.info.got == expected).all()  # the environment got what the buffer holds
    # one question an episode and one each 8 steps of it, however they fell together
    plans = sum(-(-length // REPLAYED) for length in _lengths(state))
    assert sum(planner.asked) == plans
    assert len(planner.asked) < plans  # environments that were due together shared a call


def _lengths(state: np.ndarray) -> list[int]:
    """Of each episode, also of those that had not ended."""
    _, counts = np.unique(state[:, :2], axis=0, return_counts=True)
    return counts.tolist()


def test_finished_episodes_are_whole():
    policy = ChunkPolicy(Planner(), REPLAYED, ACTIONS)
    buffer = VectorReplayBuffer(600, 3)
    collector = Collector[CollectStats](policy, DummyVectorEnv([partial(Counting, n) for n in range(3)]), buffer)
    collector.reset()
    collector.collect(n_step=3 * 30)
    episodes = finished_episodes(buffer)
    assert sorted(len(episode) for episode in episodes) == [5] * 6 + [13] * 2 + [20]
    for episode in episodes:
        assert (episode.obs.state[:, 2] == np.arange(len(episode))).all()
        assert episode.done[-1] and not episode.done[:-1].any()
    assert {bool(e.truncated[-1]) for e in episodes if len(e) == 13} == {True}


def test_a_plan_goes_on_in_the_next_collection():
    planner = Planner()
    buffer = VectorReplayBuffer(100, 1)
    policy = ChunkPolicy(planner, REPLAYED, ACTIONS)
    collector = Collector[CollectStats](policy, DummyVectorEnv([partial(Counting, 2)]), buffer)
    collector.reset()
    for _ in range(8):
        collector.collect(n_step=2)
    assert (buffer[:16].act[:, 1] == np.arange(16)).all()
    assert planner.asked == [1, 1]


def test_answers_of_another_shape_are_named():
    policy = ChunkPolicy(lambda observations: np.zeros((1, 3, 2)), REPLAYED, ACTIONS)
    with pytest.raises(ValueError, match=r"at least 8 actions each, shape \(1, 8, 2\), got \(1, 3, 2\)"):
        policy(Batch(obs=np.zeros((1, 14)), info={}))
