"""pytest tests/data_pipeline/test_sampling.py"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.frames import encode_frames
from data_pipeline.sampling import make_sample
from data_pipeline.schema.layout import NUM_SLOTS
from data_pipeline.schema.types import Episode

STEPS = 9


@pytest.fixture(scope="module")
def nine_steps():
    """Nine steps whose states, actions and pixels hold their own step number."""
    mask = np.zeros(NUM_SLOTS, dtype=bool)
    mask[0] = True
    vectors = np.zeros((STEPS, NUM_SLOTS), dtype=np.float32)
    vectors[:, 0] = np.arange(STEPS)
    frames = np.tile(np.arange(STEPS, dtype=np.uint8)[:, None, None, None], (1, 4, 4, 3))
    return Episode("nine", vectors, mask, 10 * vectors, mask, {"external": frames}, ("a", "b", "c"), 12.5, 1)


@given(t=st.integers(0, STEPS - 1), horizon=st.integers(1, 20), history=st.integers(1, 12))
def test_history_and_chunk_repeat_the_ends(nine_steps, t, horizon, history):
    sample = make_sample(nine_steps, t, horizon=horizon, image_history=history)
    observation, chunk = sample.observation, sample.action_chunk
    assert observation.state[0] == t
    steps = np.arange(t - history + 1, t + 1)
    assert observation.images["external"][:, 0, 0, 0].tolist() == steps.clip(0).tolist()
    assert observation.image_masks["external"].tolist() == (steps >= 0).tolist()
    assert (chunk.actions[:, 0] / 10).tolist() == np.minimum(np.arange(t, t + horizon), STEPS - 1).tolist()


@pytest.mark.parametrize("offset", [0, 1, 3])
def test_the_chunk_starts_when_its_first_action_was_meant(nine_steps, offset):
    episode = dataclasses.replace(nine_steps, action_offset_steps=offset)
    sample = make_sample(episode, 4, horizon=16)
    assert sample.observation.stamp_ns == 4 * 80_000_000
    assert sample.action_chunk.start_ns == (4 + offset) * 80_000_000
    assert sample.action_chunk.actions[0, 0] == 40  # the command recorded with step 4, whenever it is meant
    assert sample.action_chunk.rate_hz == sample.observation.control_hz == 12.5


def test_stamps_do_not_drift(nine_steps):
    episode = dataclasses.replace(nine_steps, rate_hz=30.0, action_offset_steps=0)
    stamps = [make_sample(episode, t, horizon=1).observation.stamp_ns for t in range(STEPS)]
    assert stamps == [round(t * 1e9 / 30) for t in range(STEPS)]


def test_the_phrasing_is_chosen_drawn_or_the_first(nine_steps):
    assert make_sample(nine_steps, 0, horizon=1).observation.instruction == "a"
    assert make_sample(nine_steps, 0, horizon=1, instruction=2).observation.instruction == "c"
    rng = np.random.default_rng(0)
    drawn = [make_sample(nine_steps, 0, horizon=1, rng=rng).observation.instruction for _ in range(300)]
    assert min(drawn.count(text) for text in "abc") > 60


def test_coded_frames_give_the_same_sample(nine_steps):
    coded = dataclasses.replace(nine_steps, images={"external": encode_frames(nine_steps.images["external"])})
    for t in range(STEPS):
        whole, lazy = (make_sample(e, t, horizon=2, image_history=3) for e in (nine_steps, coded))
        difference = whole.observation.images["external"].astype(int) - lazy.observation.images["external"]
        assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("t", [-1, STEPS])
def test_steps_outside_are_refused(nine_steps, t):
    with pytest.raises(ValueError, match=r"has steps 0\.\.8"):
        make_sample(nine_steps, t, horizon=1)


def test_what_an_episode_says_of_its_steps_reaches_the_sample(episode):
    frames, own = np.arange(9) != 3, np.arange(9) < 6
    told = episode(image_masks={"external": frames}, action_valid=own, instruction_of_step=np.arange(9) % 2)
    sample = make_sample(told, 4, horizon=6)
    assert sample.observation.image_masks["external"].tolist() == [False, True]
    assert sample.action_valid.tolist() == [True, True, False, False, False, False]
    assert make_sample(told, 0, horizon=6).observation.image_masks["external"].tolist() == [False, True]
    said = [make_sample(told, t, horizon=2, instruction=0).observation.instruction for t in (4, 5)]
    assert said == list(told.instructions)


def test_phrasings_come_as_often_as_their_weights_say(episode):
    weighted = episode(instruction_weights=(0.8, 0.2))
    rng = np.random.default_rng(0)
    said = [make_sample(weighted, 0, horizon=2, rng=rng).observation.instruction for _ in range(1000)]
    assert said.count(weighted.instructions[0]) / 1000 == pytest.approx(0.8, abs=0.04)


def test_actions_after_the_end_are_not_valid(episode):
    assert make_sample(episode(), 6, horizon=5).action_valid.tolist() == [True, True, True, False, False]
