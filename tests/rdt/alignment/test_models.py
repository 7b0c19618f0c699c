"""pytest tests/rdt/alignment/test_models.py"""

import pytest
import torch

from rdt.alignment.models import (
    BehaviorModel,
    DensityModel,
    Guided,
    Support,
    best_of,
    density_eps,
    sample_actions,
    select,
    selection_probabilities,
)
from rdt.diffusion.continuous import LinearVP, over
from rdt.diffusion.ode import TOY_SOLVER


class Gaussian:
    """N(mean(cond), std^2) in any number of dimensions, exactly."""

    def __init__(self, std=0.5):
        self.schedule, self.std = LinearVP(), std

    def _variance(self, t, a_t):
        return over(self.schedule.alpha(t) ** 2 * self.std**2 + self.schedule.sigma(t) ** 2, a_t)

    def _away(self, a_t, t, cond):
        mean = 0.0 if cond is None else cond.reshape(*cond.shape[:-1], *(1,) * (a_t.ndim - cond.ndim), cond.shape[-1])
        return a_t - over(self.schedule.alpha(t), a_t) * mean

    def eps(self, a_t, t, cond):
        return over(self.schedule.sigma(t), a_t) * self._away(a_t, t, cond) / self._variance(t, a_t)

    def logp(self, a_t, t, cond):
        return (-0.5 * self._away(a_t, t, cond).square() / self._variance(t, a_t)).sum(dim=-1)


class Along:
    """A critic that likes one direction."""

    def q(self, a, cond):
        return a[..., 0]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_contracts_are_met():
    assert isinstance(Gaussian(), BehaviorModel) and isinstance(Gaussian(), DensityModel)
    assert isinstance(Guided(Gaussian(), lambda a, t, cond: a.sum(dim=-1)), BehaviorModel)


def test_the_noise_prediction_of_a_density_is_its_gradient():
    model, a_t, t = Gaussian(), torch.randn(4, 3, 2), torch.rand(4)
    cond = torch.randn(4, 2)
    found = density_eps(model.logp, model.schedule, a_t, t, cond)
    torch.testing.assert_close(found, model.eps(a_t, t, cond))
    with torch.no_grad():
        assert torch.equal(density_eps(model.logp, model.schedule, a_t, t, cond), found)


def test_no_energy_no_guidance():
    model, a_t, t, cond = Gaussian(), torch.randn(4, 2), torch.rand(4), torch.randn(4, 2)
    guided = Guided(model, lambda a, t, cond: 0 * a.sum(dim=-1))
    assert torch.equal(guided.eps(a_t, t, cond), model.eps(a_t, t, cond))
    assert torch.equal(guided.logp(a_t, t, cond), model.logp(a_t, t, cond))


def test_an_exact_energy_moves_a_gaussian_exactly():
    """N(0, s^2) tilted by e^(c a) is N(c s^2, s^2); its E_t(a_t) is linear in a_t."""
    model, c = Gaussian(0.5), 3.0

    def energy(a_t, t, cond):
        alpha, sigma = model.schedule.alpha(t), model.schedule.sigma(t)
        gain = alpha * 0.25 / (alpha**2 * 0.25 + sigma**2)  # d E[a | a_t] / d a_t
        return c * gain * a_t.sum(dim=-1)

    shape = (20000, 1)
    actions = sample_actions(Guided(model, energy), None, shape, generator(), solver=TOY_SOLVER)
    assert actions.mean().item() == pytest.approx(c * 0.25, abs=0.02)
    assert actions.std().item() == pytest.approx(0.5, abs=0.06)  # of 25 steps


def test_masked_dimensions_are_not_guided():
    model, a_t, t = Gaussian(), torch.randn(4, 3), torch.rand(4)
    guided = Guided(model, lambda a, t, cond: a.sum(dim=-1), mask=torch.tensor([1.0, 1.0, 0.0]))
    moved = guided.eps(a_t, t, None) != model.eps(a_t, t, None)
    assert moved[:, :2].all() and not moved[:, 2].any()


def test_guided_needs_a_density_to_have_one():
    class OnlyEps:
        schedule = LinearVP()

        def eps(self, a_t, t, cond):
            return a_t

    with pytest.raises(TypeError, match="OnlyEps has no logp"):
        Guided(OnlyEps(), lambda a, t, cond: a.sum(dim=-1)).logp(torch.zeros(1, 2), torch.ones(1), None)


def test_the_best_of_one_is_the_model_itself():
    model, cond = Gaussian(), torch.randn(5, 2)
    one = best_of(model, Along(), cond, (5, 2), generator(), num_candidates=1)
    torch.testing.assert_close(one, sample_actions(model, cond, (5, 1, 2), generator())[:, 0])


def test_more_candidates_are_better_and_chunks_work_too():
    model = Gaussian()
    few, many = (best_of(model, Along(), None, (500, 2), generator(1), num_candidates=m)[:, 0].mean() for m in (2, 16))
    assert 0.1 < few < many
    assert best_of(model, ChunkCritic(), None, (3, 4, 2), generator(), num_candidates=8).shape == (3, 4, 2)


class ChunkCritic:
    def q(self, a, cond):
        return a.sum(dim=(-2, -1))


def test_a_condition_serves_all_candidates_of_its_row():
    model, cond = Gaussian(0.01), torch.tensor([[-3.0, 0.0], [3.0, 1.0]])
    actions = best_of(model, Along(), cond, (2, 2), generator(), num_candidates=8, num_selected=4)
    torch.testing.assert_close(actions, cond, atol=0.05, rtol=0)


def test_selection_is_a_softmax_until_the_cap():
    q = torch.tensor([[0.0, 0.1, 0.2]])
    torch.testing.assert_close(selection_probabilities(q, alpha=10.0), (10 * q).softmax(dim=-1))
    steep = selection_probabilities(torch.tensor([[0.0, 10.0, 9.0]]), alpha=100.0, num_selected=2)
    assert (steep > 0).sum() == 2  # without the cap one would be left


def test_selection_prefers_what_is_better():
    actions = torch.arange(4.0).reshape(1, 4, 1).expand(2000, 4, 1)
    q = torch.tensor([0.0, 1.0, 2.0, 3.0]).expand(2000, 4)
    drawn = select(actions, q, generator(), alpha=1.0)
    share = torch.stack([(drawn == k).float().mean() for k in range(4)])
    torch.testing.assert_close(share, q[0].softmax(dim=0), atol=0.03, rtol=0)
    all_four = select(actions, q, generator(), alpha=1.0, num_selected=4)
    torch.testing.assert_close(all_four, torch.full((2000, 1), 1.5))


def test_values_belong_to_candidates():
    with pytest.raises(ValueError, match="a value for each candidate"):
        Support(torch.zeros(2, 3, 4), torch.zeros(2, 4))
