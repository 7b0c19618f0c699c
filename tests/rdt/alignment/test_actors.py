"""Run: pytest tests/rdt/alignment/test_actors.py"""

import numpy as np
import pytest
import torch

from data_pipeline.sources.transitions import read_d4rl, write_d4rl
from rdt.alignment.actors import Actor, ActorConfig, load_actor, run_episodes, save_actor, transition_of, uniform

CONFIG = ActorConfig(observation=3, low=(-2.0, 0.0), high=(2.0, 1.0), hidden=(8,), spread="state")


class Walk:
    """Observation: seed, step, last action's sum. Ends by itself after 3 + seed % 3 steps, or is cut after 4."""

    def __init__(self) -> None:
        self.seed = self.count = 0

    def reset(self, *, seed):
        self.seed, self.count = seed, 0
        return np.array([seed, 0, 0.0]), {}

    def step(self, action):
        self.count += 1
        terminated = self.count == 3 + self.seed % 3
        observation = np.array([self.seed, self.count, float(np.sum(action))])
        return observation, float(self.count), terminated, self.count == 4 and not terminated, {}


@pytest.fixture
def actor() -> Actor:
    torch.manual_seed(0)
    return Actor(CONFIG)


@pytest.mark.parametrize("changes", [{}, {"spread": "none", "bound": "clip"}, {"spread": "constant"}])
def test_a_file_gives_the_same_actor(tmp_path, changes):
    torch.manual_seed(0)
    actor = Actor(ActorConfig(**{**vars(CONFIG), "normalised": True, **changes}))
    actor.observation_mean += 1.5
    actor.observation_std *= 3
    save_actor(actor, tmp_path / "a.safetensors")
    again = load_actor(tmp_path / "a.safetensors")
    observations = np.random.default_rng(0).normal(size=(5, 3))
    assert again.config == actor.config
    assert (again.act(observations) == actor.act(observations)).all()


def test_a_file_that_is_none_is_named(tmp_path):
    (tmp_path / "b.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"b\.safetensors holds no actor"):
        load_actor(tmp_path / "b.safetensors")
    with pytest.raises(FileNotFoundError, match="rdt rl train"):
        load_actor(tmp_path / "c.safetensors")


def test_actions_stay_in_their_bounds(actor):
    observations = 1e3 * np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    generators = [np.random.default_rng(i) for i in range(50)]
    for actions in (actor.act(observations), actor.noisy(5.0)(observations, generators)):
        assert (actions >= [-2, 0]).all() and (actions <= [2, 1]).all()


def test_one_observation_or_many(actor):
    observations = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    assert np.allclose(actor.act(observations)[2], actor.act(observations[2]), atol=1e-6)


@pytest.mark.parametrize("num_envs", [1, 2, 5])
def test_episodes_do_not_hang_on_how_many_run_together(actor, num_envs):
    seeds = [5, 3, 10, 8, 4]
    rollouts = run_episodes(actor.noisy(0.3), [Walk() for _ in range(num_envs)], seeds)
    alone = [run_episodes(actor.noisy(0.3), [Walk()], [seed])[0] for seed in seeds]
    assert [len(rollout) for rollout in rollouts] == [4, 3, 4, 4, 4]
    assert [rollout.terminated for rollout in rollouts] == [False, True, True, False, True]
    for rollout, expected in zip(rollouts, alone, strict=True):
        assert np.allclose(rollout.actions, expected.actions, atol=1e-6)
        assert rollout.total == expected.total == sum(range(1, len(rollout) + 1))


def test_transitions_go_through_a_file_and_keep_how_episodes_ended(actor, tmp_path):
    rollouts = run_episodes(uniform(np.array([-2.0, 0.0]), np.array([2.0, 1.0])), [Walk(), Walk()], [3, 5])
    transition = transition_of(rollouts, "walk")
    assert transition.terminals.tolist() == [False, False, True, False, False, False, False]
    assert transition.timeouts.tolist() == [False] * 6 + [True]
    assert (transition.next_observations[:2] == transition.observations[1:3]).all()
    assert transition.next_observations[-1].tolist() == pytest.approx([5, 4, transition.actions[-1].sum()])
    write_d4rl(tmp_path / "walk.hdf5", transition, {"task": "walk"})
    read = read_d4rl(tmp_path / "walk.hdf5")
    assert read.faults == ()
    for name in ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts"):
        assert (getattr(read.transition, name) == getattr(transition, name)).all()
