"""pytest tests/rdt/alignment/test_toy_optimum.py"""

import pytest
import torch

from rdt.alignment.losses import TIME_WEIGHTS
from rdt.alignment.toy import Mixture, eight_gaussians
from rdt.alignment.toy_optimum import ROUGH, PointPolicy, ScoreRegularised, judge, off_support, targets

ONE = Mixture(torch.zeros(1, 2), 1.0, torch.zeros(1), torch.zeros(1))  # N(0, I), which noise leaves as it is
SIGMA2 = TIME_WEIGHTS["sigma^2"]


def test_the_regulariser_of_a_normal_distribution():
    """E_z log N(alpha a + sigma z; 0, I) = -(alpha^2 |a|^2 + 2 sigma^2) / 2 - log 2 pi."""
    objective, schedule = ScoreRegularised(ONE, SIGMA2, 0.1, accuracy=ROUGH), ONE.schedule
    a = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    t = torch.linspace(0.02, 0.98, 4001)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    gain = torch.trapezoid(sigma**3 * alpha, t) / 0.96
    value = objective.regulariser(a)
    assert (value[0] - value[1]).item() == pytest.approx(0.5 * 5 * gain.item(), rel=1e-3)


def test_the_optimum_of_a_normal_distribution():
    """beta Q + R is a parabola: a* = 2 beta target / (2 beta + gain)."""
    objective, schedule = ScoreRegularised(ONE, SIGMA2, 0.1, accuracy=ROUGH), ONE.schedule
    t = torch.linspace(0.02, 0.98, 4001)
    gain = torch.trapezoid(schedule.sigma(t) ** 3 * schedule.alpha(t), t).item() / 0.96
    wanted = torch.tensor([[2.0, 1.0]])
    optima, value = objective.optima(wanted)
    torch.testing.assert_close(optima[0, value[0].argmax()], 0.2 / (0.2 + gain) * wanted[0], atol=1e-2, rtol=0)


def test_optima_judge_themselves_and_symmetry_makes_several():
    objective = ScoreRegularised(eight_gaussians(), TIME_WEIGHTS["1"], 0.1, accuracy=ROUGH)
    wanted = targets(3)
    optima, value = objective.optima(wanted)
    best = optima[torch.arange(9), value.argmax(dim=1)]
    report = judge(best[:, None], wanted, objective)
    assert report.within == 1 and report.objective_gap == pytest.approx(0, abs=1e-3)
    centre = optima[4][value[4] > value[4].max() - 1e-3]
    assert len(torch.unique(centre.round(decimals=1) + 0.0, dim=0)) >= 4  # of eight, as far as the rough integrals tell


def test_the_support_and_the_points():
    truth = eight_gaussians()
    assert not off_support(truth.means, truth).any() and off_support(torch.zeros(1, 2), truth).all()
    assert targets().shape == (81, 2)
    policy = PointPolicy(torch.ones(3, 2))
    assert torch.equal(policy.act(torch.zeros(3, 2)), torch.ones(3, 2)) and len(list(policy.parameters())) == 1
