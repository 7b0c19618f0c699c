"""Each method's objective on a problem of seconds whose answer is known.

pytest tests/rdt/alignment/test_methods.py
"""

import copy
import math

import pytest
import torch
from torch import nn

from rdt.alignment.cca import contrast
from rdt.alignment.critics import SingleCritic, TargetedCritic
from rdt.alignment.eda import EDA
from rdt.alignment.log_ratio import bottleneck, denoising_error, sequence, sequence_logp
from rdt.alignment.losses import TIME_WEIGHTS, blended
from rdt.alignment.models import Guided, Support
from rdt.alignment.nca import preference_loss
from rdt.alignment.nets import Bottleneck, EnergyMLP, ScoreUNet
from rdt.alignment.objectives import Behaviour, Demonstrations
from rdt.alignment.qgpo import ContrastiveEnergy, EnergyRegression, SoftmaxQ, SupportTransition
from rdt.alignment.sfbc import ReturnRegression, Returns, first_returns, plan, support_actions
from rdt.alignment.srpo import SRPO
from rdt.diffusion.continuous import LinearVP, over
from rdt.diffusion.ode import DPMSolver

STATES, ACTIONS = 3, 2
CASES = torch.Generator().manual_seed(0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape):
    return torch.randn(*shape, generator=CASES)


def support(rows=4, k=5):
    return Support(random(rows, k, ACTIONS), random(rows, k), random(rows, STATES))


def small_bottleneck():
    torch.manual_seed(0)
    return Bottleneck(ACTIONS, STATES, width=32, blocks=1).eval()


class StandardNormal:
    """N(0, I): eps = sigma a_t."""

    schedule = LinearVP()

    def eps(self, a_t, t, cond):
        return over(self.schedule.sigma(t), a_t) * a_t


class Shift(nn.Module):
    """N(m, I) with a trained mean."""

    schedule = LinearVP()

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(ACTIONS))

    def eps(self, a_t, t, cond):
        return over(self.schedule.sigma(t), a_t) * (a_t - over(self.schedule.alpha(t), a_t) * self.mean)


class Point(nn.Module):
    """A policy that gives one action whatever it sees."""

    def __init__(self):
        super().__init__()
        self.action = nn.Parameter(torch.zeros(ACTIONS))

    def act(self, cond):
        return self.action.expand(len(cond), -1)


def train(model, objective, batch, steps, lr):
    optimizer = torch.optim.Adam(model.parameters(), lr)
    draws = generator()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad()
        objective(model, batch, draws)[0].backward()
        optimizer.step()


@pytest.mark.parametrize("model", [ScoreUNet(ACTIONS, STATES), small_bottleneck()], ids=["score", "bottleneck"])
def test_the_behaviour_objective_learns(model):
    model = copy.deepcopy(model)
    batch = Demonstrations(random(256, ACTIONS) * 0.1 + 1, torch.zeros(256, STATES))
    before = Behaviour()(model, batch, generator(9))[0]
    train(model, Behaviour(stratified=True), batch, 60, 2e-3)
    assert Behaviour()(model, batch, generator(9))[0] < 0.6 * before


def test_a_batch_and_a_generator_decide_the_loss():
    model, batch = small_bottleneck(), support()
    for objective in (ContrastiveEnergy(), EnergyRegression("mse"), EnergyRegression("emse")):
        found = [objective(model.logp, batch, generator(3))[0] for _ in range(2)]
        assert torch.equal(*found)


def test_eda_with_inner_beta_one_is_cep_of_the_difference():
    model, energy, batch = small_bottleneck(), EnergyMLP(ACTIONS, STATES, width=16, depth=1), support()
    eda, metrics = EDA(model, alpha=2.0)(Guided(model, energy), batch, generator(1))
    cep, _ = ContrastiveEnergy(beta=2.0)(energy, batch, generator(1))
    torch.testing.assert_close(eda, cep, rtol=1e-4, atol=1e-5)
    assert set(metrics) == {"best_first", "log_ratio_std"}


def test_eda_trains_a_copy_and_leaves_the_reference():
    reference = small_bottleneck()
    policy, actions = copy.deepcopy(reference), random(16, 8, ACTIONS)
    batch = Support(actions, actions[..., 0], random(16, STATES))
    objective = EDA(reference.requires_grad_(False))
    at_start, _ = objective(policy, batch, generator(5))
    assert at_start.item() == pytest.approx(math.log(8), rel=1e-5)  # the ratios of a copy are 0
    train(policy, objective, batch, 40, 3e-3)
    assert objective(policy, batch, generator(5))[0] < at_start
    assert all(p.grad is None for p in reference.parameters())


def test_the_ratio_of_equal_models_is_nothing():
    model, a_t, t, cond = small_bottleneck(), random(4, 5, ACTIONS), torch.rand(4), random(4, STATES)
    assert (bottleneck(model, copy.deepcopy(model), a_t, t, cond) == 0).all()
    g = denoising_error(model, copy.deepcopy(model), a_t, cond, [t], [random(4, 1, ACTIONS)])
    assert g.shape == (4, 5) and g.abs().max() < 1e-5


def test_a_denoising_error_ratio_is_an_average_over_its_draws():
    policy, actions = Shift(), random(4, 5, ACTIONS)
    policy.mean.data += 0.5
    times, noises = [torch.rand(4) for _ in range(3)], [random(4, 1, ACTIONS) for _ in range(3)]
    kept = {"weight": lambda t: 1 + t, "mask": torch.tensor([1.0, 0.0])}
    together = denoising_error(policy, StandardNormal(), actions, None, times, noises, **kept)
    alone = [
        denoising_error(policy, StandardNormal(), actions, None, [t], [noise], **kept)
        for t, noise in zip(times, noises, strict=True)
    ]
    torch.testing.assert_close(together, torch.stack(alone).mean(dim=0))
    with pytest.raises(ValueError, match="at least one draw"):
        denoising_error(policy, StandardNormal(), actions, None, [], [])


def test_a_denoising_error_ratio_estimates_a_density_ratio():
    """With W = -d lambda / dt the mean over (t, eps) is the difference of the evidence lower bounds, here exact."""
    policy, vp = Shift(), LinearVP()
    policy.mean.data += torch.tensor([0.5, -0.3])
    actions = random(6, 1, ACTIONS)
    t = torch.linspace(1e-4, 1, 4000)

    def weight(t):  # lambda falls at half the rate of log alpha^2, over sigma^2
        rate = 0.1 + (20 - 0.1) * t
        return 0.5 * rate / vp.sigma(t) ** 2

    times, noises = [x.expand(6) for x in t], [random(6, 1, ACTIONS) for _ in t]
    with torch.no_grad():
        g = denoising_error(policy, StandardNormal(), actions, None, times, noises, weight=weight)[:, 0]
    exact = 0.5 * (actions.square() - (actions - policy.mean).square()).sum(dim=-1)[:, 0].detach()
    torch.testing.assert_close(g, exact, rtol=0.15, atol=0.1)


def test_labels_of_a_sequence_are_shifted_and_masked():
    logits, labels = random(2, 5, 7), torch.randint(7, (2, 5), generator=CASES)
    labels[0, 3:] = -100
    logp = logits.log_softmax(dim=-1)
    expected = sum(logp[0, i, labels[0, i + 1]] for i in range(2))
    torch.testing.assert_close(sequence_logp(logits, labels)[0], expected)
    assert (sequence(logits, logits, labels) == 0).all()


def test_the_first_candidate_may_break_ties():
    ratio, reward = torch.tensor([[0.3, -0.2]]), torch.tensor([[5.0, 5.0]])
    tied = preference_loss(ratio, reward, beta=1.0, temperature=1e-4, kind="InfoNCA")
    broken = preference_loss(ratio, reward, beta=1.0, temperature=1e-4, first_offset=0.01, kind="InfoNCA")
    assert tied.item() == pytest.approx(-ratio.log_softmax(dim=1).mean().item())
    assert broken.item() == pytest.approx(-ratio.log_softmax(dim=1)[0, 0].item())


def test_negatives_take_the_next_rows_condition():
    dropped = torch.tensor([False, False, True, False])
    found = contrast(torch.tensor([7, 7, 8, 9]), dropped, null=0)
    assert found.positive.tolist() == [7, 7, 0, 9]
    assert found.negative.tolist() == [7, 8, 0, 7]
    assert found.same.tolist() == [True, False, True, False]
    with pytest.raises(ValueError, match="give `null`"):
        contrast(torch.tensor([7, 7]), torch.tensor([True, False]))


@pytest.mark.parametrize("subtract_noise", [True, False])
def test_srpo_stops_where_its_objective_is_best(subtract_noise):
    """With N(0, I), w = sigma^2 and Q = c a the optimum is beta c / E[sigma^3 alpha], dimension by dimension."""
    behaviour, policy, slope = StandardNormal(), Point(), torch.tensor([1.0, -0.5])
    objective = SRPO(behaviour, lambda a, cond: a @ slope, beta=0.02, subtract_noise=subtract_noise, stratified=True)
    train(policy, objective, torch.zeros(256, STATES), 300, 0.02)
    t = torch.linspace(0.02, 0.98, 2001)
    pull = (behaviour.schedule.sigma(t) ** 3 * behaviour.schedule.alpha(t)).mean()
    torch.testing.assert_close(policy.action.detach(), 0.02 * slope / pull, atol=0.02, rtol=0.1)


def test_more_draws_are_the_same_objective():
    conditions, policy = torch.zeros(64, STATES), Point()
    policy.action.data += 1

    def gradients(draws):
        objective = SRPO(StandardNormal(), lambda a, cond: -a.square().sum(dim=-1), beta=0.1, draws=draws)
        found = []
        for seed in range(40):
            policy.zero_grad()
            objective(policy, conditions, generator(seed))[0].backward()
            found.append(policy.action.grad.clone())
        return torch.stack(found)

    one, four = gradients(1), gradients(4)
    torch.testing.assert_close(one.mean(dim=0), four.mean(dim=0), atol=0.02, rtol=0)
    assert (four.var(dim=0) < 0.5 * one.var(dim=0)).all()


def test_a_weight_may_change_over_training():
    alpha, sigma = torch.rand(5), torch.rand(5)
    weight = blended(TIME_WEIGHTS["sigma^2"], TIME_WEIGHTS["alpha"], 0.25)
    torch.testing.assert_close(weight(alpha, sigma), 0.75 * sigma**2 + 0.25 * alpha)


def test_srpo_leaves_masked_dimensions_alone():
    objective = SRPO(StandardNormal(), lambda a, cond: a.sum(dim=-1), beta=0.1, mask=torch.tensor([1.0, 0.0]))
    policy = Point()
    loss, metrics = objective(policy, torch.zeros(8, STATES), generator())
    loss.backward()
    assert policy.action.grad[0] != 0 and policy.action.grad[1] == 0
    assert set(metrics) == {"behaviour_error", "grad_q_norm"}


def test_softmax_q_asks_only_about_support_actions():
    model = TargetedCritic(ACTIONS, STATES)
    batch = SupportTransition(
        action=random(6, ACTIONS),
        reward=random(6),
        done=torch.ones(6),
        cond=random(6, STATES),
        next_cond=random(6, STATES),
        next_actions=random(6, 4, ACTIONS),
    )
    loss, metrics = SoftmaxQ()(model, batch, generator())
    q1, q2 = model.online.both(batch.action, batch.cond)
    expected = ((q1 - batch.reward) ** 2 + (q2 - batch.reward) ** 2).mean() / 2  # all are terminal
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(metrics["q_target"], batch.reward.mean())


def test_planning_stitches_trajectories():
    """Two trajectories meet in one state; the worse one learns of the better one's end."""
    rewards, ends = torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    first = first_returns(rewards, ends, discount=0.5)
    raw = first.returns * first.std + first.mean
    torch.testing.assert_close(raw, torch.tensor([0.5, 1.0, 0.0, 0.0]))
    q_support = first.returns[[0, 1, 0, 1]][:, None]  # what a critic says of steps 2 and 3: they look like 0 and 1
    after = plan(rewards, ends, q_support, first, discount=0.5)
    torch.testing.assert_close(after.returns * after.std + after.mean, torch.tensor([0.5, 1.0, 0.5, 1.0]))


def test_support_actions_are_drawn_in_pieces():
    states, seen = random(5, STATES), []
    found = support_actions(
        ScoreUNet(ACTIONS, STATES),
        states,
        ACTIONS,
        generator(),
        num_candidates=3,
        rows=2,
        solver=DPMSolver(3, 1),
        progress=seen.append,
    )
    assert found.shape == (5, 3, ACTIONS) and seen == [2, 4, 5]


def test_returns_are_regressed():
    critic = SingleCritic(ACTIONS, STATES)
    batch = Returns(random(32, ACTIONS), torch.ones(32), random(32, STATES))
    train(critic, ReturnRegression(), batch, 60, 5e-3)
    assert ReturnRegression()(critic, batch, generator())[0] < 0.05
