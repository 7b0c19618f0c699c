"""Run: pytest tests/rdt/alignment/test_adversarial.py"""

import pytest
import torch
from torch.nn.functional import softplus

from rdt.alignment.adversarial import discriminator_loss, gradient_penalty


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return [3 * torch.randn(50, generator=generator) for _ in range(2)]


def test_the_baseline_is_cross_entropy(logits):
    expert, policy = logits
    loss = discriminator_loss(expert, policy)
    assert loss == pytest.approx(float(softplus(-expert).mean() + softplus(policy).mean()))


def test_without_a_controller_nothing_of_it_is_left_and_a_tiny_one_tends_there(logits):
    expert, policy = logits
    assert torch.equal(discriminator_loss(expert, policy, k=0.0), discriminator_loss(expert, policy))
    assert discriminator_loss(expert, policy, k=1e-6) == pytest.approx(float(discriminator_loss(expert, policy)))


def test_the_controller_is_the_sum_over_both_sets(logits):
    expert, policy = logits
    added = discriminator_loss(expert, policy, k=3.0) - discriminator_loss(expert, policy)
    D = torch.cat([expert, policy]).sigmoid()
    assert added == pytest.approx(float(3 * ((D - 0.5) ** 2).mean()), rel=1e-4)  # two means of k / 2


def test_the_controller_is_symmetric_in_what_one_calls_expert(logits):
    """With all labels turned the loss is the same: Ho and Ermon's convention changes nothing."""
    expert, policy = logits
    assert torch.allclose(discriminator_loss(expert, policy, 2.0), discriminator_loss(-policy, -expert, 2.0))


@pytest.mark.parametrize("k", [0.0, 1.0, 10.0])
def test_two_equal_sets_are_told_apart_by_nothing(k):
    """Where both draw the same rows, l = 0 is the optimum for every k: the wanted state."""
    logit = torch.zeros(8, requires_grad=True)
    discriminator_loss(logit, logit, k).backward()
    assert torch.equal(logit.grad, torch.zeros(8))


def test_the_optimum_moves_towards_one_half_with_k():
    """All rows alike in each set: the stationary logits shrink as k grows."""
    found = []
    for k in (0.1, 1.0, 10.0):
        logit = torch.zeros((), requires_grad=True)
        optimizer = torch.optim.SGD([logit], lr=0.5)
        for _ in range(2000):
            optimizer.zero_grad()
            # three quarters of what looks like this row are the expert's
            (1.5 * discriminator_loss(logit[None], logit[None], k) - softplus(logit)).backward()
            optimizer.step()
        found.append(float(logit))
    assert found[0] > found[1] > found[2] > 0


def test_weights_make_rows_count_for_less(logits):
    expert, policy = logits
    ones = torch.ones_like(expert)
    assert torch.allclose(discriminator_loss(expert, policy, 1.0, ones), discriminator_loss(expert, policy, 1.0))
    without = ones.clone()
    without[25:] = 0
    halves = discriminator_loss(expert[:25], policy, 1.0)
    of_policy = discriminator_loss(torch.zeros(1), policy, 1.0) - discriminator_loss(torch.zeros(1), torch.zeros(1))
    of_policy = of_policy + softplus(torch.zeros(1)).sum()
    assert discriminator_loss(expert, policy, 1.0, without) == pytest.approx(
        float((halves - of_policy) / 2 + of_policy), rel=1e-5
    )


def test_a_plane_of_slope_one_pays_no_penalty_and_another_its_excess():
    def plane(slope):
        return lambda x: slope * x[:, :1]

    expert, policy, share = torch.ones(5, 3), torch.zeros(5, 3), torch.rand(5, 1)
    assert gradient_penalty(plane(1.0), expert, policy, share) == pytest.approx(0)
    assert gradient_penalty(plane(-3.0), expert, policy, share) == pytest.approx(4)


def test_the_penalty_is_taken_between_the_pairs_and_reaches_the_weights():
    layer = torch.nn.Linear(1, 1)
    seen = []

    def discriminator(x):
        seen.append(x.detach())
        return layer(x) ** 2

    loss = gradient_penalty(discriminator, torch.tensor([[2.0]]), torch.tensor([[4.0]]), torch.tensor([[0.25]]))
    loss.backward()
    assert torch.equal(seen[0], torch.tensor([[3.5]]))
    assert layer.weight.grad.abs() > 0
