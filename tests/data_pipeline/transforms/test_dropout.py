"""pytest tests/data_pipeline/transforms/test_dropout.py"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from data_pipeline.sampling import make_sample
from data_pipeline.schema.layout import NUM_SLOTS
from data_pipeline.schema.types import CAMERA_ROLES
from data_pipeline.transforms.dropout import DropoutRates, Dropped, draw_dropout, drop_conditions

KEEP = DropoutRates(state=0, state_mask=0, image=0, instruction=0, control_hz=0)
NOTHING = draw_dropout(np.random.default_rng(0), KEEP, 2)
MEAN = np.arange(NUM_SLOTS, dtype=np.float64)


@pytest.fixture
def observation(episode):
    return make_sample(episode(), 3, horizon=4).observation


def test_rates_of_zero_change_nothing(observation):
    conditions = drop_conditions(observation, NOTHING, MEAN)
    for field in dataclasses.fields(conditions):
        if field.name != "image_masks":
            source = {"state_present": "state_mask"}.get(field.name, field.name)
            assert getattr(conditions, field.name) is getattr(observation, source)
    assert conditions.image_masks["external"].tolist() == [True, True]


def test_rates_of_one_take_everything(observation):
    rates = DropoutRates(state=1, state_mask=1, image=1, instruction=1, control_hz=1)
    conditions = drop_conditions(observation, draw_dropout(np.random.default_rng(0), rates, 2), MEAN)
    np.testing.assert_array_equal(conditions.state, np.where(observation.state_mask, MEAN, 0))
    assert conditions.state.dtype == np.float32
    assert not conditions.state_mask.any() and not conditions.image_masks["external"].any()
    assert conditions.instruction == "" and conditions.control_hz == 0


@pytest.mark.parametrize("name", ["state", "state_mask", "instruction", "control_hz"])
def test_each_condition_goes_alone(observation, name):
    conditions = drop_conditions(observation, dataclasses.replace(NOTHING, **{name: True}), MEAN)
    changed = [
        key
        for key in ("state", "state_mask", "instruction", "control_hz")
        if not np.array_equal(getattr(conditions, key), getattr(observation, key))
    ]
    assert changed == [name]


def test_a_missing_frame_stays_missing(episode):
    first = make_sample(episode(), 0, horizon=4).observation
    dropped = dataclasses.replace(NOTHING, images={role: np.array([False, True]) for role in CAMERA_ROLES})
    assert drop_conditions(first, dropped, MEAN).image_masks["external"].tolist() == [False, False]
    assert drop_conditions(first, NOTHING, MEAN).image_masks["external"].tolist() == [False, True]


def test_draws_are_independent_and_at_their_rates():
    rates = DropoutRates(state=0.1, state_mask=0.2, image=0.3, external=0.6, instruction=0.4, control_hz=0.5)
    rng = np.random.default_rng(0)
    table = np.array([_flat(draw_dropout(rng, rates, 2)) for _ in range(4000)], dtype=float)
    np.testing.assert_allclose(table.mean(axis=0), [0.1, 0.2, 0.4, 0.5, 0.6, 0.6, 0.3, 0.3, 0.3, 0.3], atol=0.04)
    assert np.abs(np.corrcoef(table.T) - np.eye(10)).max() < 0.07


def _flat(dropped: Dropped) -> list[bool]:
    images = [bool(frame) for role in CAMERA_ROLES for frame in dropped.images[role]]
    return [dropped.state, dropped.state_mask, dropped.instruction, dropped.control_hz, *images]


def test_the_published_rates_are_the_defaults():
    assert dataclasses.astuple(DropoutRates()) == (0.1, 0.1, 0.1, None, 0.1, 0.1)
    with pytest.raises(ValueError, match="dropout rate image must be in"):
        DropoutRates(image=1.5)
