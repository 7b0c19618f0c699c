"""Run: pytest tests/rdt/alignment/test_absorbing.py"""

import numpy as np
import pytest
import torch

from rdt.alignment.absorbing import absorbing_state, act_only_in_life, alive, expert_pairs, policy_space
from rdt.alignment.actors import Rollout

BOUNDS = (np.array([-2000.0]), np.array([2000.0]))


def episode(num_steps: int, *, terminated: bool) -> Rollout:
    """Observation and action of step i are i and -i."""
    steps = np.arange(1.0, num_steps + 1, dtype=np.float32)
    return Rollout(np.stack([steps, steps], axis=1), -steps[:, None], steps, np.zeros(2, np.float32), terminated)


def test_the_indicator_is_the_last_entry():
    assert alive(np.ones((4, 2))).tolist() == [[1, 1, 0]] * 4
    assert absorbing_state(2).tolist() == [0, 0, 1]


def test_nothing_is_done_in_the_absorbing_state():
    observations = torch.tensor([[0.3, 0.0], [0.0, 1.0]])
    assert act_only_in_life(observations, torch.tensor([[0.5], [0.7]])).tolist() == [[0.5], [0.0]]


def test_actions_come_back_to_the_policys_range():
    low, high = np.array([-2.0, 0.0]), np.array([2.0, 10.0])
    assert policy_space(np.array([[-2.0, 10.0], [0.0, 5.0], [9.0, 0.0]]), low, high).tolist() == [
        [-1, 1],
        [0, 0],
        [1, -1],
    ]


def test_steps_are_spread_over_the_trajectory_from_a_random_offset():
    pairs = [expert_pairs([episode(1000, terminated=False)], BOUNDS, 50, seed) for seed in range(4)]
    for found in pairs:
        assert len(found) == 50 and torch.equal(found.weight, torch.ones(50))
        assert (found.observations[:, 0].diff() == 20).all()
        assert torch.allclose(found.observations[:, 0], -2000 * found.actions[:, 0])
        assert (found.observations[:, -1] == 0).all()
    assert len({float(found.observations[0, 0]) for found in pairs}) > 1


def test_an_early_end_leaves_one_absorbing_row_that_counts_for_less():
    found = expert_pairs([episode(100, terminated=True), episode(30, terminated=False)], BOUNDS, 10, seed=0)
    absorbing = found.observations[:, -1] == 1
    assert absorbing.sum() == 1
    assert found.observations[absorbing].tolist() == [[0, 0, 1]] and found.actions[absorbing].tolist() == [[0]]
    assert found.weight[absorbing].tolist() == pytest.approx([0.1])  # every tenth step was kept
    assert (found.weight[~absorbing] == 1).all()


def test_short_trajectories_are_kept_whole_and_so_are_all_without_a_number():
    assert len(expert_pairs([episode(7, terminated=True)], BOUNDS, 50, seed=0)) == 8
    assert len(expert_pairs([episode(1000, terminated=False)], BOUNDS, None, seed=0)) == 1000


def test_without_absorbing_states_observations_are_as_they_were():
    found = expert_pairs([episode(20, terminated=True)], BOUNDS, None, seed=0, absorbing=False)
    assert found.observations.shape == (20, 2)


def test_rows_stay_together_when_they_are_drawn():
    torch.manual_seed(0)
    drawn = expert_pairs([episode(50, terminated=False)], BOUNDS, None, seed=0).sample(100)
    assert torch.allclose(drawn.observations[:, 0], -2000 * drawn.actions[:, 0]) and len(drawn) == 100


def test_no_demonstration_is_an_error():
    with pytest.raises(ValueError, match="at least one episode"):
        expert_pairs([], BOUNDS, 50, seed=0)
