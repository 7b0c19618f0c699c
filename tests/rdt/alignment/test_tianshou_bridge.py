"""Run: pytest tests/rdt/alignment/test_tianshou_bridge.py"""

import subprocess
import sys
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

pytest.importorskip("tianshou", reason="needs the extra `rl`")

import gymnasium
from gymnasium import spaces
from tianshou.data import Batch

from data_pipeline.schema.types import Transition
from rdt.alignment.rl_config import AlgorithmName, OnPolicyConfig, ReplayConfig, RLConfig, is_off_policy
from rdt.alignment.tianshou_bridge import (
    actor_of,
    buffer_of,
    make_algorithm,
    make_envs,
    training,
    transition_of_buffer,
)

OBSERVATIONS = spaces.Box(-np.inf, np.inf, (2,), np.float32)
ACTIONS = spaces.Box(np.array([-3.0], np.float32), np.array([1.0], np.float32))
ALGORITHMS = get_args(AlgorithmName)


class Target(gymnasium.Env):
    """Pays for actions near twice the first observation less 1; five steps, then cut."""

    observation_space, action_space = OBSERVATIONS, ACTIONS

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self._see(), {}

    def step(self, action):
        reward = -float((action[0] - 2 * self.seen[0] + 1) ** 2)
        self.count += 1
        return self._see(), reward, False, self.count == 5, {}

    def _see(self):
        self.seen = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.seen


def tiny(algorithm: str, **changes) -> RLConfig:
    off = is_off_policy(algorithm)
    shared = {
        "hidden": (16,),
        "activation": "relu" if off else "tanh",
        "batch_size": 16 if off else 0,
        "envs": 2,
        "collect_steps": 4 if off else 20,
        "steps": 60,
        "evaluate_every": 20,
        "evaluation_episodes": 2,
        "replay": ReplayConfig(size=200, random_steps=20, updates_per_step=0.25),
        "on_policy": OnPolicyConfig(repeat=1, critic_updates=2, max_grad_norm=0.5),
    }
    return RLConfig(**{"task": "Target", "algorithm": algorithm, **shared, **changes})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_actor_alone_acts_as_the_policy(algorithm):
    config = tiny(algorithm)
    torch.manual_seed(0)
    policy = make_algorithm(config, OBSERVATIONS, ACTIONS).policy
    envs = make_envs(config, Target)
    envs.reset()
    actor = actor_of(policy, config, envs)
    observations = 3 * np.random.default_rng(0).normal(size=(6, 2))
    seen = observations if is_off_policy(algorithm) else envs.get_obs_rms().norm(observations)
    with torch.no_grad():
        expected = policy.map_action(policy(Batch(obs=seen, info={})).act)
    assert np.allclose(actor.act(observations), expected, atol=1e-5)
    envs.close()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_trains_and_says_how_far(algorithm):
    evaluations = list(training(tiny(algorithm), Target))
    off = is_off_policy(algorithm)
    assert [e.steps for e in evaluations] == ([0, 40, 60] if off else [0, 20, 40, 60])
    assert evaluations[-1].updates == (10 if off else 3)
    assert evaluations[0].losses == {} and evaluations[-1].losses
    assert evaluations[-1].returns.shape == (2,)
    before, after = (e.actor.body[0].weight for e in (evaluations[0], evaluations[-1]))
    assert not torch.equal(before, after)


def test_the_same_seed_gives_the_same_curve():
    curves = [[e.returns.tolist() for e in training(tiny("sac", seed=seed), Target)] for seed in (3, 3, 4)]
    assert curves[0] == curves[1] != curves[2]


def test_training_leaves_the_progress_to_who_asked_for_it(capsys):
    replay = ReplayConfig(size=200, random_steps=20, updates_per_step=1.0)
    list(training(tiny("td3", collect_steps=20, steps=40, replay=replay), Target))  # twenty gradient steps at once
    assert "gradient" not in capsys.readouterr().err


def test_ddpg_learns():
    config = tiny(
        "ddpg",
        steps=400,
        evaluate_every=400,
        evaluation_episodes=10,
        lr=1e-2,
        gamma=0.0,
        replay=ReplayConfig(size=400, random_steps=200, critic_lr=1e-2, updates_per_step=0.5),
    )
    first, last = training(config, Target)
    assert last.returns.mean() > 0.5 * first.returns.mean()  # they are negative


def test_the_entropy_weight_of_sac_is_tuned_where_none_is_given():
    config = tiny("sac", replay=replace(tiny("sac").replay, entropy_weight=None))
    *_, last = training(config, Target)
    assert 0 < last.losses["alpha"] < 1


def recorded(rows: int = 7) -> Transition:
    rng = np.random.default_rng(0)
    ends = np.zeros(rows, bool)
    return Transition(
        "recorded",
        observations=rng.normal(size=(rows, 2)).astype(np.float32),
        actions=rng.uniform(-3, 1, (rows, 1)).astype(np.float32),
        rewards=rng.normal(size=rows).astype(np.float32),
        next_observations=rng.normal(size=(rows, 2)).astype(np.float32),
        terminals=np.where(np.arange(rows) == 2, True, ends),
        timeouts=np.where(np.arange(rows) == 5, True, ends),
    )


@pytest.mark.parametrize("algorithm", ["sac", "td3", "ppo"])
def test_recorded_steps_become_a_buffer_in_the_policys_space_and_come_back(algorithm):
    transition = recorded()
    policy = make_algorithm(tiny(algorithm), OBSERVATIONS, ACTIONS).policy
    buffer = buffer_of(transition, policy)
    assert np.abs(buffer.act).max() <= 1
    assert np.allclose(buffer[:].act, (transition.actions + 3) / 2 - 1, atol=1e-6)
    assert np.flatnonzero(buffer.done).tolist() == [2, 5, 6]  # the last row ends with the recording
    back = transition_of_buffer(buffer, policy, "back")
    for name in ("observations", "rewards", "next_observations", "terminals"):
        assert (getattr(back, name) == getattr(transition, name)).all()
    assert np.allclose(back.actions, transition.actions, atol=1e-5)
    assert back.timeouts.tolist() == [False] * 5 + [True, True]


def test_spaces_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="one vector"):
        make_algorithm(tiny("sac"), spaces.Box(0, 1, (3, 3)), ACTIONS)
    with pytest.raises(ValueError, match="bounded"):
        make_algorithm(tiny("sac"), OBSERVATIONS, spaces.Box(-np.inf, np.inf, (2,)))
    with pytest.raises(ValueError, match="sac"):
        RLConfig(algorithm="sacc")
    with pytest.raises(ValueError, match="multiple of envs"):
        RLConfig(envs=3, collect_steps=4)
    with pytest.raises(ValueError, match="rounds to no update"):
        RLConfig(replay=ReplayConfig(updates_per_step=0.1))


def test_what_is_missing_is_named_with_its_extra():
    code = "import sys; sys.modules['tianshou'] = None; import rdt.alignment.chunk_policy"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "reinforcement learning needs tianshou" in result.stderr
    assert "pip install 'rdt-stack[rl]'" in result.stderr
