"""Run: pytest tests/rdt/alignment/test_c_gail.py"""

from dataclasses import replace

import numpy as np
import pytest
import torch

gymnasium = pytest.importorskip("gymnasium")
pytest.importorskip("tianshou")

from gymnasium import spaces  # noqa: E402
from tianshou.algorithm import GAIL  # noqa: E402
from tianshou.algorithm.algorithm_base import policy_within_training_step  # noqa: E402
from tianshou.data import Batch  # noqa: E402

from rdt.alignment import c_gail  # noqa: E402
from rdt.alignment.absorbing import ExpertPairs, alive  # noqa: E402
from rdt.alignment.c_gail import CGAIL, DAC, AbsorbingWrapper, Discriminator, make_c_gail, make_dac  # noqa: E402
from rdt.alignment.imitation_config import DiscriminatorConfig, ImitationConfig  # noqa: E402
from rdt.alignment.rl_config import OnPolicyConfig, ReplayConfig, RLConfig  # noqa: E402
from rdt.alignment.tianshou_bridge import training  # noqa: E402


class Corridor(gymnasium.Env):
    """A point in the plane is pushed: it ends beyond 1 to the right, and is cut after ten steps."""

    observation_space = spaces.Box(-3.0, 3.0, (2,), np.float32)
    action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = self.np_random.uniform(-0.5, 0.5, 2).astype(np.float32)
        self.steps = 0
        return self.at.copy(), {}

    def step(self, action):
        self.at = np.clip(self.at + 0.2 * np.array([action[0], 0.1]), -3, 3).astype(np.float32)
        self.steps += 1
        return self.at.copy(), 1.0, bool(self.at[0] > 1), self.steps >= 10, {}


TINY = ImitationConfig(
    dac=RLConfig(
        algorithm="td3",
        steps=60,
        hidden=(8,),
        batch_size=16,
        evaluate_every=20,
        evaluation_episodes=1,
        collect_steps=5,
        replay=ReplayConfig(random_steps=20),
    ),
    gail=RLConfig(
        algorithm="ppo",
        steps=64,
        hidden=(8,),
        activation="tanh",
        batch_size=16,
        envs=2,
        collect_steps=32,
        evaluate_every=32,
        evaluation_episodes=1,
        on_policy=OnPolicyConfig(normalise_observations=False, repeat=2),
    ),
    actor_delay=4,
    discriminator=DiscriminatorConfig(hidden=(8,), halve_every=3),
)


def shown(*, absorbing: bool) -> ExpertPairs:
    """Steps of one that drifts to the left, and an end that counts for a tenth."""
    observations = np.random.default_rng(0).uniform(-1, 0, (30, 2)).astype(np.float32)
    rows = torch.from_numpy(alive(observations) if absorbing else observations)
    pairs = ExpertPairs(rows, torch.full((30, 1), -0.5), torch.ones(30))
    if not absorbing:
        return pairs
    end = torch.tensor([[0.0, 0.0, 1.0]])
    return ExpertPairs(
        torch.cat([pairs.observations, end]),
        torch.cat([pairs.actions, torch.zeros(1, 1)]),
        torch.cat([pairs.weight, torch.tensor([0.1])]),
    )


def trained_dac(k: float, config: ImitationConfig = TINY) -> tuple[dict[str, torch.Tensor], list]:
    """All weights after a short training, and its evaluations."""
    made = []

    def algorithm(observations, actions):
        made.append(make_dac(config, k, shown(absorbing=True), None, observations, actions))
        return made[0]

    evaluations = list(training(config.dac, lambda: AbsorbingWrapper(Corridor()), algorithm))
    return tensors(made[0]), evaluations


def trained_gail(kind: type, **settings) -> dict[str, torch.Tensor]:
    made = []

    def algorithm(observations, actions):
        model = make_c_gail(TINY, 0.0, shown(absorbing=False), observations, actions)
        if kind is GAIL:  # the same one, of Tianshou's own class
            model.__class__ = GAIL
        for name, value in settings.items():
            setattr(model, name, value)
        made.append(model)
        return model

    list(training(TINY.gail, Corridor, algorithm))
    return tensors(made[0])


def tensors(algorithm) -> dict[str, torch.Tensor]:
    return {key: value for key, value in algorithm.state_dict().items() if isinstance(value, torch.Tensor)}


def equal(some, others) -> bool:
    return some.keys() == others.keys() and all(torch.equal(value, others[key]) for key, value in some.items())


def test_without_a_controller_c_gail_is_tianshous_gail_to_the_bit():
    baseline = trained_gail(GAIL)
    assert equal(trained_gail(CGAIL, k=0.0), baseline)
    assert not equal(trained_gail(CGAIL, k=1.0), baseline)


def test_without_a_controller_dac_is_gail_dac_to_the_bit(monkeypatch):
    """Against a discriminator's loss that never heard of k."""
    mine, _ = trained_dac(0.0)
    controlled, _ = trained_dac(1.0)

    def cross_entropy(expert, policy, k, weight):
        of_expert = (weight * torch.nn.functional.logsigmoid(expert)).mean()
        return -of_expert - torch.nn.functional.logsigmoid(-policy).mean()

    monkeypatch.setattr(c_gail, "discriminator_loss", cross_entropy)
    baseline, _ = trained_dac(0.0)
    assert equal(mine, baseline)
    assert not equal(controlled, baseline)


def test_training_says_what_the_discriminator_thinks():
    _, evaluations = trained_dac(1.0)
    assert [e.steps for e in evaluations] == [0, 40, 60]
    losses = evaluations[-1].losses
    assert 0 < losses["D_policy"] < 1 and 0 < losses["D_expert"] < 1 and 0 <= losses["D_apart"] < 0.5
    assert {"actor_loss", "critic1_loss", "disc_loss"} <= losses.keys()


@pytest.fixture
def dac() -> DAC:
    torch.manual_seed(0)
    env = AbsorbingWrapper(Corridor())
    return make_dac(TINY, 1.0, shown(absorbing=True), None, env.observation_space, env.action_space)


def batch(*, absorbing: list[bool], following: list[bool]) -> Batch:
    """Rows that are living or absorbing, and lead to such; with flags and rewards that must not matter."""
    generator = np.random.default_rng(1)
    n = len(absorbing)

    def observations(gone):
        rows = alive(generator.uniform(-1, 1, (n, 2)).astype(np.float32))
        rows[gone] = [0, 0, 1]
        return rows

    return Batch(
        obs=observations(absorbing),
        act=generator.uniform(-3, 3, (n, 1)),
        rew=np.full(n, 1e6),
        terminated=np.array(absorbing),
        truncated=np.zeros(n, bool),
        done=np.array(absorbing),
        obs_next=observations(following),
        info=Batch(),
    )


def test_targets_are_masked_by_no_end_and_rewards_are_the_present_discriminators(dac):
    dac.policy_noise = 0.0  # of the targets
    rows = batch(absorbing=[False, False, True], following=[False, True, True])
    found = dac._preprocess_batch(rows, None, np.arange(3))
    assert found.act.abs().max() <= 1 and found.act[2] == 0
    with torch.no_grad():
        reward = dac.disc_net(torch.cat([found.obs, found.act], dim=1)).flatten()
        action = dac.policy.actor(found.obs_next)[0] * torch.tensor([[1.0], [0.0], [0.0]])
        value = torch.minimum(dac.critic(found.obs_next, action), dac.critic2(found.obs_next, action)).flatten()
    assert torch.allclose(found.returns, reward + dac.gamma * value)  # target networks are still the networks


def test_the_actor_does_not_learn_from_absorbing_states_and_begins_later(dac):
    def weights():
        return [value.clone() for value in dac.policy.parameters()]

    def changed(absorbing, updates):
        before = weights()
        rows = dac._preprocess_batch(batch(absorbing=absorbing, following=[True] * 2), None, np.arange(2))
        with policy_within_training_step(dac.policy):
            for _ in range(updates):
                dac._update_with_batch(rows)
        return not all(torch.equal(a, b) for a, b in zip(before, weights(), strict=True))

    assert not changed([False, True], TINY.actor_delay)
    assert not changed([True, True], 4)
    assert changed([False, True], 2)


def test_only_the_actors_gradient_is_clipped(dac):
    assert dac.policy_optim._max_grad_norm == 40.0
    assert dac.critic_optim._max_grad_norm is None and dac.disc_optim._max_grad_norm is None


def test_learning_rates_of_actor_and_discriminator_halve(dac):
    for _ in range(7):  # every third
        for scheduler in dac.lr_schedulers:
            scheduler.step()
    rates = [optimizer._optim.param_groups[0]["lr"] for optimizer in (dac.policy_optim, dac.disc_optim)]
    assert rates == pytest.approx([TINY.dac.lr / 4, TINY.discriminator.lr / 4])
    assert dac.critic_optim._optim.param_groups[0]["lr"] == pytest.approx(TINY.dac.replay.critic_lr)


def test_the_discriminator_measures_in_its_unit(dac):
    rows = dac._rows(torch.ones(2, 3), torch.ones(2, 1))
    assert torch.equal(rows, torch.ones(2, 4))
    dac.unit = torch.tensor([2.0, 4.0, 1.0])
    assert torch.equal(dac._rows(torch.ones(2, 3), torch.ones(2, 1))[0], torch.tensor([0.5, 0.25, 1, 1]))


def test_a_discriminator_cannot_tell_the_range_of_actions():
    torch.manual_seed(0)
    net = Discriminator(2, 1, (8,))
    inside, outside = torch.tensor([[0.3, 0.2, 1.0]]), torch.tensor([[0.3, 0.2, 5.0]])
    assert torch.equal(net(inside), net(outside))
    assert torch.equal(net(inside.double()), net(inside.double().float()))  # MuJoCo observes in double precision


def test_an_episode_that_ends_has_one_step_in_the_absorbing_state():
    env = AbsorbingWrapper(Corridor())
    observation, _ = env.reset(seed=0)
    assert observation.shape == (3,) and observation[-1] == 0
    ended = False
    while not ended:
        observation, reward, terminated, truncated, _ = env.step(np.array([2.0]))
        ended = observation[-1] == 1
    assert observation.tolist() == [0, 0, 1] and reward == 1 and not terminated and not truncated
    observation, reward, terminated, truncated, _ = env.step(np.array([2.0]))
    assert observation.tolist() == [0, 0, 1] and reward == 0 and terminated and not truncated
    observation, _ = env.reset(seed=0)
    assert observation[-1] == 0


def test_a_time_limit_is_no_end():
    env = AbsorbingWrapper(Corridor())
    env.reset(seed=0)
    steps = [env.step(np.array([-2.0])) for _ in range(10)]
    observation, _, terminated, truncated, _ = steps[-1]
    assert truncated and not terminated and observation[-1] == 0
    assert not any(step[3] for step in steps[:-1])


def test_the_wrapper_is_an_environment_as_gymnasium_wants_it():
    from gymnasium.utils.env_checker import check_env

    check_env(AbsorbingWrapper(Corridor()), skip_render_check=True)
    with pytest.raises(ValueError, match="flat observations"):
        AbsorbingWrapper(gymnasium.make("FrozenLake-v1"))


def test_a_learner_on_another_algorithm_is_refused():
    with pytest.raises(ValueError, match="must be td3 or sac"):
        replace(TINY, dac=RLConfig(algorithm="ddpg"))
    with pytest.raises(ValueError, match="at least 1"):
        replace(TINY, demonstrations=0)
