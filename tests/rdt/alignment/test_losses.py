"""pytest tests/rdt/alignment/test_losses.py"""

import pytest
import torch

from rdt.alignment import losses
from rdt.alignment.nca import preference_loss

GENERATOR = torch.Generator().manual_seed(0)


def random(*shape):
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def test_infonca_of_two_at_no_temperature_is_dpo():
    log_ratio, reward = random(64, 2), random(64, 2)
    infonca = preference_loss(log_ratio, reward, beta=0.3, temperature=1e-6, kind="InfoNCA")
    order = reward.argsort(dim=1, descending=True)
    winner, loser = (0.3 * log_ratio).gather(1, order).T
    torch.testing.assert_close(infonca, losses.dpo_pair(winner, loser).mean())


def test_a_shift_of_all_ratios_is_nothing_to_infonca_and_something_to_nca():
    log_ratio, label = random(8, 4), losses.soft_labels(random(8, 4))
    for loss, invariant in ((losses.contrastive, True), (losses.nca, False)):
        same = torch.allclose(loss(log_ratio, label), loss(log_ratio + random(8, 1), label), rtol=1e-9)
        assert same is invariant


def test_the_contrastive_loss_is_least_where_ratios_say_the_labels():
    label = losses.soft_labels(random(16, 5), 2.0)
    best = losses.contrastive(label.log(), label)
    for _ in range(10):
        assert losses.contrastive(label.log() + 0.1 * random(16, 5), label) > best


def test_nca_is_least_at_the_density_ratio():
    """Its optimum is R_k = log(K w_k): the tilt's own density ratio, normaliser included."""
    label = losses.soft_labels(random(16, 5))
    ratio = (5 * label).log().requires_grad_()
    (gradient,) = torch.autograd.grad(losses.nca(ratio, label), ratio)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)


def test_ranking_by_an_energy_learns_the_tilt_in_closed_form():
    """Two values a, each at noise 0 or 1: the minimiser is E_t(x) = log E[e^(beta E) | x] up to a constant."""
    beta, energy = 2.0, torch.tensor([0.0, 1.0], dtype=torch.float64)
    seen = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=torch.float64)  # p(x | a), a of equal weight
    posterior = seen / seen.sum(dim=0)
    expected = (posterior * (beta * energy).exp()[:, None]).sum(dim=0).log()
    f = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([f], line_search_fn="strong_wolfe", max_iter=100)
    # a contrast set that holds each (a, x) as often as they occur; K -> infinity is its weights made exact
    counts = (seen * 10).round().long()
    a = torch.tensor([0, 0, 1, 1]).repeat_interleave(counts.flatten())
    x = torch.tensor([0, 1, 0, 1]).repeat_interleave(counts.flatten())

    def closure():
        optimizer.zero_grad()
        loss = losses.contrastive(f[x], losses.soft_labels(energy[a], beta))
        loss.backward()
        return loss

    optimizer.step(closure)
    assert (f[1] - f[0]).item() == pytest.approx((expected[1] - expected[0]).item(), abs=1e-5)


def test_regressing_the_energy_learns_another_mean():
    """(f - beta E)^2 is least at the conditional mean, which is smaller than E_t by Jensen's inequality."""
    beta_e = torch.tensor([0.0, 4.0], dtype=torch.float64)
    mean, tilt = beta_e.mean(), beta_e.exp().mean().log()
    assert tilt - mean > 0.5
    for f, better in ((mean, "mse"), (tilt, "emse")):
        other = tilt if better == "mse" else mean
        loss = losses.energy_mse if better == "mse" else lambda f, e: losses.energy_exponential_mse(f, e, (-100, 100))
        assert loss(f.expand(2), beta_e) < loss(other.expand(2), beta_e)


def test_clipping_of_the_exponential_regression():
    f, target = random(6) + 10, random(6) + 10
    assert losses.energy_exponential_mse(f, target, (-100, 4), clip_prediction=True) == 0
    assert losses.energy_exponential_mse(f, target, (-100, 4)) > 0


@pytest.mark.parametrize("lambda_", [0.5, 50.0])
def test_rows_of_one_condition_are_positives(lambda_):
    positive, negative = random(6), random(6)
    nobody, everybody = torch.zeros(6, dtype=torch.bool), torch.ones(6, dtype=torch.bool)
    plain = losses.cca(positive, negative, 0.1, lambda_)
    scale = max(lambda_, 1.0)
    torch.testing.assert_close(losses.cca(positive, negative, 0.1, lambda_, nobody), plain / scale)
    both = losses.cca(positive, negative, 0.1, lambda_, everybody)
    as_positives = -torch.nn.functional.logsigmoid(0.1 * torch.stack([positive, negative])).mean(dim=1).sum()
    torch.testing.assert_close(both, as_positives / scale)


def test_dpo_has_no_form_for_dropped_conditions():
    with pytest.raises(ValueError, match="use CCA"):
        losses.cca(random(2), random(2), same=torch.tensor([True, False]), kind="DPO")


def test_cca_pulls_positives_up_and_negatives_down():
    positive, negative = random(6).requires_grad_(), random(6).requires_grad_()
    losses.cca(positive, negative, 0.02, 1000.0).backward()
    assert (positive.grad < 0).all() and (negative.grad > 0).all()


def test_masked_dimensions_do_not_count():
    eps, noise, mask = random(4, 3, 6), random(4, 3, 6), torch.ones(4, 1, 6, dtype=torch.float64)
    mask[..., 4:] = 0
    found = losses.behaviour_loss(eps, noise, mask, event_ndim=2)
    torch.testing.assert_close(found, losses.behaviour_loss(eps[..., :4], noise[..., :4], event_ndim=2))


def test_the_surrogate_is_its_gradient():
    action, eps, noise, grad_q = (random(5, 3) for _ in range(4))
    action.requires_grad_()
    weight = random(5).abs()
    losses.srpo_surrogate(action, eps, noise, grad_q, weight, beta=0.2).backward()
    torch.testing.assert_close(5 * action.grad, weight[:, None] * (eps - noise) - 0.2 * grad_q)


def test_a_gradient_of_zero_stays_zero():
    gradient = random(3, 4)
    gradient[1] = 0
    found = losses.unit_rms(gradient)
    assert (found[1] == 0).all()
    torch.testing.assert_close(found[0].square().mean().sqrt(), torch.tensor(1.0, dtype=torch.float64))
