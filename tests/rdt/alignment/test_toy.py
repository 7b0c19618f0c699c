"""pytest tests/rdt/alignment/test_toy.py"""

import pytest
import torch

from rdt.alignment.models import DensityModel, Guided, density_eps, sample_actions
from rdt.alignment.toy import (
    TOY_SETS,
    Points,
    eight_gaussians,
    guidance_error,
    nearest_energy,
    resampled,
    sliced_wasserstein,
)
from rdt.diffusion.ode import TOY_SOLVER

TRUTH = eight_gaussians(torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("t", [1e-3, 0.2, 0.9])
def test_the_score_is_the_gradient_of_the_density(t):
    assert isinstance(TRUTH, DensityModel)
    x, t = torch.randn(64, 2, generator=generator()).double() * 2, torch.tensor(t).double()
    torch.testing.assert_close(TRUTH.eps(x, t), density_eps(TRUTH.logp, TRUTH.schedule, x, t, None))


def test_a_noised_density_integrates_to_one():
    axis = torch.linspace(-8, 8, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    total = TRUTH.logp(grid, torch.tensor(0.3).double()).exp().sum() * (axis[1] - axis[0]) ** 2
    assert total.item() == pytest.approx(1, abs=1e-6)


def test_the_intermediate_energy_is_an_expectation_over_what_a_point_may_have_been():
    beta, t = 3.0, torch.tensor(0.3).double()
    pool = TRUTH.sample(400_000, generator())
    x_t = torch.tensor([[0.5, 0.2], [-0.8, 0.4]]).double()
    alpha, sigma = TRUTH.schedule.alpha(t), TRUTH.schedule.sigma(t)
    posterior = (-0.5 * (x_t[:, None] - alpha * pool.x).square().sum(dim=-1) / sigma**2).softmax(dim=1)
    expected = (posterior * (beta * pool.energy).exp()).sum(dim=1).log()
    torch.testing.assert_close(TRUTH.energy(beta)(x_t, t, None), expected, atol=0.03, rtol=0)
    mean = (posterior * beta * pool.energy).sum(dim=1)
    torch.testing.assert_close(TRUTH.mean_energy(beta)(x_t, t, None), mean, atol=0.03, rtol=0)


@pytest.mark.parametrize("beta", [3.0, 10.0, 20.0])
def test_the_exact_energy_guides_to_the_tilt(beta):
    truth, target = eight_gaussians(), eight_gaussians().tilted(beta)
    guided = Guided(truth, truth.energy(beta))
    x = sample_actions(guided, None, (8000, 2), generator(), solver=TOY_SOLVER)
    oracle = sample_actions(target, None, (8000, 2), generator(), solver=TOY_SOLVER)
    torch.testing.assert_close(x, oracle, atol=2e-3, rtol=0)
    assert target.mode_tv(x) < 0.02 and target.stray(x) < 1e-3
    assert sliced_wasserstein(x, target.sample(8000, generator(1)).x) < 0.12


def test_resampling_is_the_tilt():
    truth = eight_gaussians()
    drawn = resampled(truth.sample(200_000, generator()), 3.0, 20_000, generator(1))
    assert truth.tilted(3.0).mode_tv(drawn) < 0.01


@pytest.mark.parametrize("name", TOY_SETS)
def test_sets_have_energies_in_the_unit_interval_and_follow_the_generator(name):
    points, again = (TOY_SETS[name](2000, generator()) for _ in range(2))
    assert points.x.shape == (2000, 2) and points.energy.shape == (2000,)
    assert torch.equal(points.x, again.x)
    assert points.x.abs().max() < 5
    assert points.energy.min() > -0.01 and points.energy.max() < 1.5 and points.energy.std() > 0.1


def test_distance_of_a_set_to_itself_and_to_its_shift():
    x = torch.randn(500, 2, generator=generator())
    assert sliced_wasserstein(x, x) == 0
    assert sliced_wasserstein(x, x + torch.tensor([1.0, 0.0])) == pytest.approx(0.5**0.5, abs=1e-3)


def test_masses_of_the_modes():
    truth = eight_gaussians()
    assert truth.mode_tv(truth.means) == 0
    assert truth.mode_tv(truth.means[:4]) == pytest.approx(0.5)
    assert truth.stray(torch.zeros(4, 2)) == 1


def test_the_exact_guidance_has_no_error_and_its_multiple_has():
    truth = eight_gaussians()
    exact = truth.energy(3.0)
    assert guidance_error(exact, exact, truth, 0.2, 500, generator()) < 1e-9
    scaled = guidance_error(lambda *x: 1.5 * exact(*x), exact, truth, 0.2, 500, generator())
    assert scaled == pytest.approx(0.25, rel=1e-3)


def test_a_point_is_worth_what_its_neighbour_is():
    pool = Points(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([0.2, 0.8]))
    found = nearest_energy(torch.tensor([[[0.1, 0.0], [0.9, 2.0]]]), pool, rows=1)
    torch.testing.assert_close(found, torch.tensor([[0.2, 0.8]]))
