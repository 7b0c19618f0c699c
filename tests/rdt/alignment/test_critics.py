"""pytest tests/rdt/alignment/test_critics.py"""

import pytest
import torch

from rdt.alignment import critics
from rdt.alignment.critics import TwinCritic


def test_half_an_expectile_is_a_mean():
    q, v = torch.randn(9), torch.randn(9)
    torch.testing.assert_close(critics.iql_value_loss(q, v, 0.5), 0.5 * (q - v).square().mean())


def test_a_high_expectile_climbs_towards_the_maximum():
    q = torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64)

    def best(expectile):
        grid = torch.linspace(0, 5, 5001, dtype=torch.float64)
        loss = [critics.iql_value_loss(q, v.expand(3), expectile).item() for v in grid]
        return grid[loss.index(min(loss))].item()

    assert best(0.5) == pytest.approx(2.0, abs=2e-3)
    assert 2.5 < best(0.7) < best(0.9) < best(0.999) < 5.0


def test_nothing_follows_a_terminal():
    reward, done = torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0])
    assert critics.td_target(reward, done, torch.tensor([10.0, 10.0]), 0.9).tolist() == [10.0, 1.0]
    assert critics.td_target(reward, done.bool(), torch.tensor([10.0, 10.0]), 0.9).tolist() == [10.0, 1.0]


def test_a_softmax_value_goes_from_the_mean_to_the_maximum():
    q = torch.tensor([[0.0, 1.0, 2.0]])
    assert critics.softmax_value(q, 0.0).item() == pytest.approx(1.0)
    assert critics.softmax_value(q, 1000.0).item() == pytest.approx(2.0)


def test_targets_carry_no_gradient():
    q_next = torch.randn(4, 3, requires_grad=True)
    assert not critics.softmax_q_target(torch.zeros(4), torch.zeros(4), q_next).requires_grad


def test_polyak_moves_by_its_rate():
    old, online = TwinCritic(2, 3), TwinCritic(2, 3)
    before = [p.clone() for p in old.parameters()]
    critics.polyak_(old, online, 0.25)
    for b, p, now in zip(before, old.parameters(), online.parameters(), strict=True):
        torch.testing.assert_close(p, 0.75 * b + 0.25 * now)


def test_without_values_planning_gives_plain_returns_by_trajectory():
    rewards, ends = torch.tensor([1.0, 1.0, 1.0, 2.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    found = critics.planned_returns(rewards, ends, torch.full((4,), -torch.inf), 0.5)
    assert found.tolist() == [1.5, 1.0, 2.0, 2.0]


def test_planning_switches_to_what_is_known_to_be_better():
    rewards, ends = torch.zeros(3), torch.tensor([0.0, 0.0, 1.0])
    found = critics.planned_returns(rewards, ends, torch.tensor([-1.0, 8.0, -1.0]), 0.5)
    assert found.tolist() == [4.0, 8.0, 0.0]


def test_standardised_returns_have_a_floor():
    returns, mean, std = critics.standardise(torch.tensor([1.0, 3.0]))
    assert (returns.tolist(), mean, std) == ([-1.0, 1.0], 2.0, 1.0)
    assert critics.standardise(torch.ones(4))[2] == 0.1
