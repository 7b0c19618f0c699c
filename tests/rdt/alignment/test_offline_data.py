"""Run: pytest tests/rdt/alignment/test_offline_data.py"""

import numpy as np
import pytest
import torch

from data_pipeline.schema.types import Transition
from rdt.alignment.nets import ScoreUNet
from rdt.alignment.objectives import Behaviour
from rdt.alignment.offline_data import OnBatch, StageModel, StateScaling, offline_data, row_batches, scaled_rewards
from rdt.random import SampleGenerator


def transition(**changes):
    """Two episodes of three rows: the first terminal, the second cut."""
    states = np.arange(14, dtype=np.float32).reshape(7, 2)
    rows = [0, 1, 2, 4, 5, 6]
    following = np.array([1, 2, 3, 5, 6, 0])
    columns = {
        "observations": states[rows],
        "actions": np.linspace(-1, 1, 6, dtype=np.float32)[:, None],
        "rewards": np.array([1, 1, 1, 2, 2, 2], dtype=np.float32),
        "next_observations": states[following],
        "terminals": np.array([0, 0, 1, 0, 0, 0], dtype=bool),
        "timeouts": np.array([0, 0, 0, 0, 0, 1], dtype=bool),
    }
    return Transition("tiny", **{**columns, **changes})


def test_every_state_is_visited_once_and_every_next_one_found():
    data = offline_data(transition())
    states, place = data.visited()
    assert len(states) == 7  # six rows, and what followed the cut
    live = data.terminals == 0
    assert torch.equal(states[place][live], data.next_states[live])
    assert place[2] == 2  # a terminal row's is its own, and never read


def test_rewards_are_scaled_by_the_range_of_returns():
    assert scaled_rewards(transition(), "locomotion").tolist() == pytest.approx(
        [1000 / 3 * r for r in (1, 1, 1, 2, 2, 2)]
    )
    assert scaled_rewards(transition(), "antmaze").tolist() == [0, 0, 0, 1, 1, 1]
    assert scaled_rewards(transition(), "none").tolist() == [1, 1, 1, 2, 2, 2]
    with pytest.raises(ValueError, match="set reward_scaling to none"):
        scaled_rewards(transition(rewards=np.ones(6, dtype=np.float32)), "locomotion")


def test_states_are_scaled_alike_before_and_after():
    data, raw = offline_data(transition(), scale_states=True), offline_data(transition())
    torch.testing.assert_close(data.states.std(dim=0), torch.ones(2))
    torch.testing.assert_close(data.scaling(raw.next_states), data.next_states)
    constant = StateScaling.of(torch.ones(5, 2))
    assert torch.equal(constant(torch.ones(1, 2)), torch.zeros(1, 2))


def test_actions_beyond_the_limit_are_refused():
    with pytest.raises(ValueError, match="set action_limit"):
        offline_data(transition(), action_limit=0.5)
    assert offline_data(transition(), action_limit=2.0).actions.abs().max() == 0.5


def test_a_batch_is_a_function_of_its_step():
    data = offline_data(transition())
    batches = row_batches(len(data), 4, seed=3, content=data.steps)
    first, again, other = batches(5), batches(5), batches(6)
    assert torch.equal(first.content.reward, again.content.reward)
    assert not set(first.sample_index.tolist()) & set(other.sample_index.tolist())


def test_an_objective_of_the_family_draws_by_the_batch():
    torch.manual_seed(0)
    data = offline_data(transition())
    batches = row_batches(len(data), 4, seed=0, content=data.demonstrations)
    model, objective = StageModel(ScoreUNet(1, 2, widths=(8, 8, 8))), OnBatch(Behaviour())
    losses = [model(objective, batches(step), SampleGenerator(0))[0].item() for step in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
