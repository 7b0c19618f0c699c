"""Run: pytest tests/rdt/train/test_loader.py"""

import numpy as np
import pytest
import torch

from data_pipeline.stream import SampleStream
from data_pipeline.transforms.dropout import DropoutRates
from data_pipeline.transforms.images import BACKGROUND
from rdt.train.loader import BatchLoader

NOTHING = DropoutRates(state=0, state_mask=0, image=0, instruction=0, control_hz=0)
EVERYTHING = DropoutRates(state=1, state_mask=1, image=1, instruction=1, control_hz=1)


@pytest.fixture
def make_loader(store, make_model):
    loaders = []

    def make(**options) -> BatchLoader:
        stream = SampleStream([store], seed=3, horizon=4, image_history=1)
        loaders.append(BatchLoader(stream, make_model().condition, 8, seed=3, **options))
        return loaders[-1]

    yield make
    for loader in loaders:
        loader.close()


def assert_equal(first, second):
    for name, value in vars(first.observation).items():
        assert torch.equal(value, getattr(second.observation, name)), name
    assert torch.equal(first.actions, second.actions)
    assert torch.equal(first.sample_index, second.sample_index)


def test_a_batch_is_a_function_of_the_step_alone(make_loader):
    options = {"dropout": DropoutRates(), "random_shift_px": 3, "mean_state": np.zeros(128)}
    in_order, alone = make_loader(**options), make_loader(**options)
    batches = [in_order(step) for step in range(4)]
    assert_equal(batches[3], alone(3))
    assert_equal(batches[1], alone(1))  # backwards, past what was made ahead
    assert batches[3].sample_index.tolist() == list(range(24, 32))


def test_nothing_dropped_is_the_sample_itself(make_loader):
    assert_equal(make_loader(dropout=NOTHING, mean_state=np.zeros(128))(0), make_loader()(0))


def test_everything_dropped_hides_the_condition_and_keeps_the_target(make_loader, store):
    mean = store.stats("state").mean
    plain, hidden = make_loader()(0), make_loader(dropout=EVERYTHING, mean_state=mean)(0)
    seen = hidden.observation
    assert torch.allclose(seen.state, torch.tensor(mean, dtype=torch.float32).expand_as(seen.state))
    assert (seen.slot_mask == 0).all()
    assert (seen.control_hz == 0).all()
    assert (seen.images == BACKGROUND).all()
    assert seen.text_mask.sum(1).tolist() == [1]  # one empty sentence for all, a single pair
    assert torch.equal(hidden.actions, plain.actions)
    assert torch.equal(hidden.action_mask, plain.action_mask)
    assert plain.action_mask.sum(1).tolist() == [14.0] * 8


def test_dropout_without_a_mean_is_refused(make_loader):
    with pytest.raises(ValueError, match="needs mean_state"):
        make_loader(dropout=EVERYTHING)


def test_an_error_in_the_thread_reaches_the_caller(make_loader):
    loader = make_loader(dropout=EVERYTHING, mean_state=np.zeros(3))
    loader.close()  # no thread to work ahead: what is wrong is raised where it is asked for
    with pytest.raises(ValueError, match="broadcast"):
        loader(0)
