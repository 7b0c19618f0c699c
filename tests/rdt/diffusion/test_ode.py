"""pytest tests/rdt/diffusion/test_ode.py"""

import math

import pytest
import torch

from rdt.diffusion.continuous import DiscreteVP, LinearVP
from rdt.diffusion.ode import RL_SOLVER, SFBC_SOLVER, TOY_SOLVER, DPMSolver
from rdt.diffusion.schedule import squared_cosine_alphas_cumprod

VP = LinearVP()
SETTINGS = [
    ("singlestep", 1, "noise"),
    ("singlestep", 2, "noise"),
    ("singlestep", 2, "data"),
    ("singlestep", 3, "noise"),
    ("singlestep", 3, "data"),
    ("multistep", 2, "noise"),
    ("multistep", 2, "data"),
]


def gaussian(schedule, mean=0.7, std=0.3):
    """The exact noise prediction of N(mean, std^2), and where the exact flow ends."""

    def eps(a_t, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return sigma * (a_t - alpha * mean) / (alpha**2 * std**2 + sigma**2)

    def flow(x, start, end):
        (a, b), (s, r) = (
            (f(torch.tensor([start, end], dtype=torch.float64))) for f in (schedule.alpha, schedule.sigma)
        )
        spread = [math.hypot(alpha * std, sigma) for alpha, sigma in ((a, s), (b, r))]
        return b * mean + spread[1] / spread[0] * (x - a * mean)

    return eps, flow


def error(steps, method, order, prediction):
    eps, flow = gaussian(VP)
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    solver = DPMSolver(steps, order, method, prediction, t_start=1.0, t_end=0.1)
    return (solver(eps, noise, VP) - flow(noise, 1.0, 0.1)).abs().max().item()


@pytest.mark.parametrize(("method", "order", "prediction"), SETTINGS)
def test_error_falls_with_the_order(method, order, prediction):
    coarse, fine = (59, 119) if order == 3 else (60, 120)  # no step of a lower order than order - 1
    rate = error(coarse, method, order, prediction) / error(fine, method, order, prediction)
    assert math.log2(rate) > order - 0.3


@pytest.mark.parametrize("solver", [SFBC_SOLVER, RL_SOLVER, TOY_SOLVER], ids=["sfbc", "rl", "toy"])
def test_published_settings_reach_the_data(solver):
    eps, _ = gaussian(VP)
    asked = []

    def counted(a_t, t):
        asked.append(t)
        return eps(a_t, t)

    noise = torch.randn(20000, 1, generator=torch.Generator().manual_seed(0))
    samples = solver(counted, noise, VP)
    assert len(asked) == solver.steps and samples.dtype == torch.float32
    assert samples.mean().item() == pytest.approx(0.7, abs=0.02)
    assert samples.std().item() == pytest.approx(0.3, abs=0.08)  # in so few steps


@pytest.mark.parametrize(
    ("steps", "order", "orders"),
    [
        (15, 2, [2] * 7 + [1]),
        (14, 2, [2] * 7),
        (15, 3, [3, 3, 3, 3, 2, 1]),
        (25, 3, [3] * 8 + [1]),
        (17, 3, [3] * 5 + [2]),
        (3, 3, [2, 1]),
        (1, 3, [1]),
    ],
)
def test_orders_of_single_steps(steps, order, orders):
    assert DPMSolver(steps, order, "singlestep", "noise")._orders() == orders


def test_the_schedule_of_rdt_serves_as_well():
    schedule = DiscreteVP(squared_cosine_alphas_cumprod())
    eps, flow = gaussian(schedule)
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    solver = DPMSolver(200, 2, "multistep", "data", t_start=0.99)
    torch.testing.assert_close(solver(eps, noise, schedule), flow(noise, 0.99, 1e-3), rtol=0, atol=2e-3)


def test_actions_of_any_shape():
    eps, _ = gaussian(VP)
    noise = torch.randn(3, 4, 5, 6)
    found = RL_SOLVER(eps, noise, VP)
    torch.testing.assert_close(found.reshape(-1, 6), RL_SOLVER(eps, noise.reshape(-1, 6), VP))


@pytest.mark.parametrize(
    "settings",
    [
        {"order": 4},
        {"order": 3, "method": "multistep"},
        {"steps": 0},
        {"prediction": "v"},
        {"method": "heun"},
        {"t_end": 0},
    ],
)
def test_settings_are_checked_at_birth(settings):
    with pytest.raises(ValueError):
        DPMSolver(**settings)
