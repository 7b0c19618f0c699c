"""Run: pytest tests/rdt/alignment/test_absorbing.py"""

import numpy as np
import pytest
import torch

from rdt.alignment.absorbing import Trajectory, absorbing_state, act_only_in_life, alive, expert_pairs


def trajectory(num_steps: int, *, terminated: bool) -> Trajectory:
    """Observation and action of step i are i and -i."""
    steps = np.arange(1.0, num_steps + 1)
    return Trajectory(np.stack([steps, steps], axis=1), -steps[:, None], terminated, 0.0)


def test_the_indicator_is_the_last_entry():
    assert alive(np.ones((4, 2))).tolist() == [[1, 1, 0]] * 4
    assert absorbing_state(2).tolist() == [0, 0, 1]


def test_nothing_is_done_in_the_absorbing_state():
    observations = torch.tensor([[0.3, 0.0], [0.0, 1.0]])
    assert act_only_in_life(observations, torch.tensor([[0.5], [0.7]])).tolist() == [[0.5], [0.0]]


def test_steps_are_spread_over_the_trajectory_from_a_random_offset():
    pairs = [expert_pairs([trajectory(1000, terminated=False)], 50, seed) for seed in range(4)]
    for found in pairs:
        assert len(found) == 50 and torch.equal(found.weight, torch.ones(50))
        assert (found.observations[:, 0].diff() == 20).all()
        assert torch.equal(found.observations[:, 0], -found.actions[:, 0])
        assert (found.observations[:, -1] == 0).all()
    assert len({float(found.observations[0, 0]) for found in pairs}) > 1


def test_an_early_end_leaves_one_absorbing_row_that_counts_for_less():
    found = expert_pairs([trajectory(100, terminated=True), trajectory(30, terminated=False)], 10, seed=0)
    absorbing = found.observations[:, -1] == 1
    assert absorbing.sum() == 1
    assert found.observations[absorbing].tolist() == [[0, 0, 1]] and found.actions[absorbing].tolist() == [[0]]
    assert found.weight[absorbing].tolist() == pytest.approx([0.1])  # every tenth step was kept
    assert (found.weight[~absorbing] == 1).all()


def test_short_trajectories_are_kept_whole_and_so_are_all_without_a_number():
    assert len(expert_pairs([trajectory(7, terminated=True)], 50, seed=0)) == 8
    assert len(expert_pairs([trajectory(1000, terminated=False)], None, seed=0)) == 1000


def test_without_absorbing_states_observations_are_as_they_were():
    found = expert_pairs([trajectory(20, terminated=True)], None, seed=0, absorbing=False)
    assert found.observations.shape == (20, 2)


def test_rows_stay_together_when_they_are_drawn():
    torch.manual_seed(0)
    drawn = expert_pairs([trajectory(50, terminated=False)], None, seed=0).sample(100)
    assert torch.equal(drawn.observations[:, 0], -drawn.actions[:, 0]) and len(drawn) == 100


def test_no_demonstration_is_an_error():
    with pytest.raises(ValueError, match="at least one trajectory"):
        expert_pairs([], 50, seed=0)
