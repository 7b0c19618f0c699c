"""pytest tests/rdt/diffusion/test_continuous.py"""

import math

import pytest
import torch

from rdt.diffusion.continuous import DiscreteVP, LinearVP, Schedule, draw_times, noised, over
from rdt.diffusion.schedule import alpha_sigma, squared_cosine_alphas_cumprod

ACP = squared_cosine_alphas_cumprod()
SCHEDULES = {"linear": LinearVP(), "squared_cosine": DiscreteVP(ACP)}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_variance_is_preserved_and_lambda_falls(schedule):
    assert isinstance(schedule, Schedule)
    t = torch.linspace(1e-3, 1, 200, dtype=torch.float64)
    alpha, sigma, lambda_ = schedule.alpha(t), schedule.sigma(t), schedule.half_log_snr(t)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t))
    torch.testing.assert_close(lambda_, torch.log(alpha / sigma))
    assert (lambda_.diff() < 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_times_of_any_shape_and_type(schedule):
    for t in (torch.tensor(0.5), torch.rand(3), torch.rand(2, 3, dtype=torch.float64)):
        for found in (schedule.alpha(t), schedule.sigma(t), schedule.half_log_snr(t)):
            assert found.shape == t.shape and found.dtype == t.dtype


def test_linear_log_alpha_is_the_integral_of_its_rate():
    t = torch.linspace(0, 1, 10001, dtype=torch.float64)
    rate = 0.1 + (20 - 0.1) * t
    integral = torch.cumulative_trapezoid(rate, t)
    torch.testing.assert_close(LinearVP().log_alpha(t)[1:], -0.5 * integral, rtol=1e-9, atol=1e-12)


def test_the_discrete_table_is_met_at_its_own_steps():
    schedule, steps = DiscreteVP(ACP), torch.arange(1000)
    t = steps.double() / 999
    alpha, sigma = alpha_sigma(ACP.double(), steps)
    torch.testing.assert_close(schedule.alpha(t), alpha, rtol=1e-9, atol=0)
    torch.testing.assert_close(schedule.sigma(t), sigma, rtol=1e-9, atol=0)
    torch.testing.assert_close(schedule.timesteps(t), steps.double())


def test_between_two_steps_lies_what_is_between_them():
    schedule = DiscreteVP(ACP)
    left, middle, right = schedule.alpha(torch.tensor([500.0, 500.5, 501.0], dtype=torch.float64) / 999).tolist()
    assert middle == pytest.approx(math.sqrt(left * right))


def test_one_time_serves_all_candidates_of_a_row():
    actions, noise, t = torch.randn(4, 3, 2), torch.randn(4, 3, 2), torch.rand(4)
    found = noised(LinearVP(), actions, t, noise)
    for k in range(3):
        torch.testing.assert_close(found[:, k], noised(LinearVP(), actions[:, k], t, noise[:, k]))
    assert over(t, actions).shape == (4, 1, 1)


@pytest.mark.parametrize("stratified", [False, True])
def test_times_stay_in_their_range_and_follow_the_generator(stratified):
    def draw():
        return draw_times((8, 16), torch.Generator().manual_seed(3), 0.02, 0.98, stratified=stratified)

    t = draw()
    assert t.shape == (8, 16) and t.min() >= 0.02 and t.max() < 0.98
    assert torch.equal(t, draw())


def test_stratified_times_have_one_in_each_piece():
    t = draw_times((100,), torch.Generator().manual_seed(0), 0.0, stratified=True)
    assert (t * 100).floor().sort().values.tolist() == list(range(100))
