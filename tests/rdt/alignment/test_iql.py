"""Implicit Q-learning and behaviour cloning where the answer is known.

Run: pytest tests/rdt/alignment/test_iql.py
"""

import pytest
import torch

from rdt.alignment.critics import TargetedCritic
from rdt.alignment.iql import ImplicitQ, WeightedImitation, imitation_distance
from rdt.alignment.nets import DeterministicPolicy, GaussianPolicy
from rdt.alignment.objectives import Demonstrations, Step

CASES = torch.Generator().manual_seed(0)


def random(*shape):
    return torch.randn(*shape, generator=CASES)


def train(model, objective, batch, steps, lr):
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr)
    for _ in range(steps):
        optimizer.zero_grad()
        objective(model, batch, torch.Generator())[0].backward()
        optimizer.step()


def one_step_bandit(rows=512):
    """Reward is the action's first number; everything is terminal."""
    actions, states = random(rows, 2).tanh(), torch.zeros(rows, 3)
    return Step(actions, actions[:, 0], torch.ones(rows), states, states)


def test_the_target_is_one_step_behind_and_never_trained():
    torch.manual_seed(0)
    model, batch = TargetedCritic(2, 3, (16,), with_value=True), one_step_bandit(32)
    before = [p.clone() for p in model.target.parameters()]
    ImplicitQ()(model, batch, torch.Generator())[0].backward()
    assert all(torch.equal(a, b) for a, b in zip(before, model.target.parameters(), strict=True))  # twins are equal yet
    assert all(p.grad is None for p in model.target.parameters())
    with torch.no_grad():
        for parameter in model.online.parameters():
            parameter.add_(1.0)
    ImplicitQ(rate=0.25)(model, batch, torch.Generator())
    for old, now in zip(before, model.target.parameters(), strict=True):
        torch.testing.assert_close(now, old + 0.25)


def test_q_learns_rewards_and_v_their_expectile():
    torch.manual_seed(0)
    model, batch = TargetedCritic(2, 3, (32,), with_value=True), one_step_bandit()
    train(model, ImplicitQ(expectile=0.9, rate=0.1), batch, 400, 5e-3)
    q = model.online.q(batch.action, batch.cond).detach()
    assert (q - batch.reward).abs().mean() < 0.1
    v = float(model.v(batch.cond)[0].detach())
    assert batch.reward.mean() + 0.2 < v < batch.reward.max()


def test_without_v_a_critic_says_so():
    with pytest.raises(TypeError, match="no V"):
        TargetedCritic(2, 3, (8,)).v(torch.zeros(1, 3))


def test_weights_lean_to_what_the_critic_likes():
    torch.manual_seed(0)
    critic, batch = TargetedCritic(2, 3, (32,), with_value=True), one_step_bandit()
    train(critic, ImplicitQ(rate=0.1), batch, 300, 5e-3)
    demonstrations = Demonstrations(batch.action, batch.cond)
    found = {}
    for name, objective in (("cloned", WeightedImitation()), ("weighted", WeightedImitation(critic, 5.0))):
        policy = DeterministicPolicy(2, 3, (16,))
        train(policy, objective, demonstrations, 300, 5e-3)
        found[name] = policy.act(torch.zeros(1, 3)).detach()[0]
    assert found["cloned"].abs().max() < 0.1
    assert found["weighted"][0] > 0.3 and abs(found["weighted"][1]) < 0.15


def test_a_gaussian_learns_its_spread():
    torch.manual_seed(0)
    policy, actions = GaussianPolicy(2, 3, (8,)), 0.2 * random(512, 2)
    train(policy, WeightedImitation(), Demonstrations(actions, torch.zeros(512, 3)), 300, 2e-2)
    torch.testing.assert_close(policy.log_std.exp().detach(), actions.std(dim=0), rtol=0.2, atol=0.02)
    distance = imitation_distance(policy, actions, torch.zeros(512, 3))
    torch.testing.assert_close(distance, -policy.logp(actions, torch.zeros(512, 3)))
