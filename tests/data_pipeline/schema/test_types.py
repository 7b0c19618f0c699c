"""pytest tests/data_pipeline/schema/test_types.py"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from data_pipeline.schema.layout import NUM_SLOTS
from data_pipeline.schema.types import ActionChunk, Episode, Observation, Transition

MASK = np.zeros(NUM_SLOTS, dtype=bool)
MASK[:3] = True
VECTOR = MASK.astype(np.float32)

OBSERVATION = Observation(
    state=VECTOR,
    state_mask=MASK,
    images={"external": np.zeros((2, 4, 6, 3), np.uint8)},
    image_masks={"external": np.array([False, True])},
    instruction="",
    control_hz=25.0,
    stamp_ns=0,
)
CHUNK = ActionChunk(start_ns=7, rate_hz=30.0, actions=np.tile(VECTOR, (4, 1)), mask=MASK)
EPISODE = Episode(
    name="e",
    states=np.tile(VECTOR, (5, 1)),
    state_mask=MASK,
    actions=np.tile(VECTOR, (5, 1)),
    action_mask=MASK,
    images={"external": np.zeros((5, 4, 6, 3), np.uint8)},
    instructions=("wave",),
    rate_hz=10.0,
)


@pytest.mark.parametrize(
    ("valid", "change", "message"),
    [
        (OBSERVATION, {"state": VECTOR.astype(np.float64)}, "state must be float32 of shape"),
        (OBSERVATION, {"state_mask": np.zeros(NUM_SLOTS, bool)}, r"masked slots \[0, 1, 2\]"),
        (OBSERVATION, {"state": VECTOR * np.nan}, "not finite in slots"),
        (OBSERVATION, {"image_masks": {}}, "same roles"),
        (OBSERVATION, {"images": {"cam_high": np.zeros((1, 4, 6, 3), np.uint8)}}, "unknown camera roles"),
        (
            OBSERVATION,
            {"image_masks": {"external": np.array([True])}},
            r"image_masks\['external'\] must be bool",
        ),
        (OBSERVATION, {"image_stamps_ns": {"left_wrist": np.zeros(2, np.int64)}}, "roles without images"),
        (OBSERVATION, {"image_stamps_ns": {"external": np.zeros(3, np.int64)}}, "must be int64 of shape"),
        (OBSERVATION, {"control_hz": 0.0}, "control_hz must be positive"),
        (CHUNK, {"actions": np.zeros((0, NUM_SLOTS), np.float32)}, "is empty"),
        (CHUNK, {"actions": np.ones((2, NUM_SLOTS), np.float32)}, "masked slots"),
        (CHUNK, {"actions": np.where(MASK, np.float32(np.inf), 0)[None].astype(np.float32)}, "not finite"),
        (CHUNK, {"rate_hz": 0.0}, "rate_hz must be positive"),
        (EPISODE, {"actions": np.tile(VECTOR, (4, 1))}, "actions must be float32 of shape"),
        (EPISODE, {"images": {"external": np.zeros((4, 4, 6, 3), np.uint8)}}, "4 frames for 5 steps"),
        (EPISODE, {"instructions": ()}, "no instruction"),
        (EPISODE, {"action_offset_steps": -1}, "whole number of steps"),
        (EPISODE, {"rate_hz": -1.0}, "rate_hz must be positive"),
    ],
)
def test_wrong_fields_are_refused_at_birth(valid, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(valid, **change)


def test_an_empty_episode_is_refused():
    none = np.zeros((0, NUM_SLOTS), np.float32)
    with pytest.raises(ValueError, match="has no steps"):
        dataclasses.replace(EPISODE, states=none, actions=none, images={})


def test_vectors_cannot_be_written_through_the_object():
    for array in (OBSERVATION.state, OBSERVATION.state_mask, CHUNK.actions, CHUNK.mask):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_the_last_stamp_does_not_drift():
    hour = dataclasses.replace(CHUNK, actions=np.zeros((30 * 3600 + 1, NUM_SLOTS), np.float32))
    assert hour.end_ns == 7 + 3600 * 10**9


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_masks": {"left_wrist": np.ones(9, bool)}}, r"has masks of \['left_wrist'\], pictures of"),
        ({"image_masks": {"external": np.ones(8, bool)}}, r"image_masks\['external'\] must be bool of shape \(9\)"),
        ({"action_valid": np.ones(9)}, "action_valid must be bool"),
        ({"instruction_weights": (1.0,)}, "instruction_weights must be 2 chances"),
        ({"instruction_weights": (0.9, 0.2)}, "instruction_weights must be 2 chances"),
        ({"instruction_of_step": np.full(9, 2)}, "instruction_of_step must count its 2 instructions"),
        ({"actor_of_step": np.full(9, 3)}, "actor_of_step must count .*operator"),
        ({"annotations": {"x": np.zeros(8, np.float32)}}, r"annotations\['x'\] must be float32 of shape \(9\)"),
        ({"annotations": {"x": np.full(9, np.nan, np.float32)}}, r"annotations\['x'\] is not finite"),
    ],
)
def test_what_an_episode_says_of_its_steps_is_checked(episode, wrong, message):
    with pytest.raises(ValueError, match=message):
        episode(**wrong)


TRANSITION = Transition(
    name="t",
    observations=np.arange(14, dtype=np.float32).reshape(7, 2),
    actions=np.zeros((7, 1), np.float32),
    rewards=np.arange(7, dtype=np.float32),
    next_observations=np.arange(14, dtype=np.float32).reshape(7, 2) + 2,
    terminals=np.array([0, 1, 0, 0, 0, 0, 0], bool),
    timeouts=np.array([0, 0, 0, 0, 1, 0, 0], bool),
    infos={"action_log_probs": np.zeros(7, np.float32)},
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observations": np.zeros((7, 2))}, "observations must be float32"),
        ({"observations": np.zeros((0, 2), np.float32)}, r"actions must be float32 of shape \(0, any\)"),
        ({"actions": np.zeros(7, np.float32)}, r"actions must be float32 of shape \(7, any\)"),
        ({"rewards": np.zeros((7, 1), np.float32)}, r"rewards must be float32 of shape \(7\)"),
        ({"next_observations": np.zeros((7, 3), np.float32)}, r"next_observations must be float32 of shape \(7, 2\)"),
        ({"terminals": np.zeros(7)}, "terminals must be bool"),
        ({"timeouts": np.zeros(6, bool)}, r"timeouts must be bool of shape \(7\)"),
        (
            {"rewards": np.where(np.arange(7) == 3, np.nan, 0).astype(np.float32)},
            "rewards is not finite, first at row 3",
        ),
        ({"infos": {"qpos": np.zeros((6, 3))}}, r"infos\['qpos'\] has shape \(6, 3\) for 7 rows"),
    ],
)
def test_wrong_transitions_are_refused_at_birth(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TRANSITION, **change)


def test_transitions_without_rows_are_refused():
    empty = {"observations": (0, 2), "next_observations": (0, 2), "actions": (0, 1), "rewards": (0,)}
    arrays = {name: np.zeros(shape, np.float32) for name, shape in empty.items()}
    with pytest.raises(ValueError, match="'t' has no rows"):
        Transition("t", **arrays, terminals=np.zeros(0, bool), timeouts=np.zeros(0, bool))


def test_episodes_end_where_the_data_say_and_with_the_last_row():
    np.testing.assert_array_equal(TRANSITION.episode_bounds(), [[0, 2], [2, 5], [5, 7]])
    np.testing.assert_array_equal(TRANSITION.complete_episodes(), [True, True, False])
    np.testing.assert_array_equal(TRANSITION.episode_returns(), [0 + 1, 2 + 3 + 4, 5 + 6])
    assert TRANSITION.ends().tolist() == [False, True, False, False, True, False, True]


def test_every_row_belongs_to_one_episode():
    rng = np.random.default_rng(0)
    for _ in range(20):
        terminals, timeouts = rng.random((2, 7)) < 0.3
        some = dataclasses.replace(TRANSITION, terminals=terminals, timeouts=timeouts)
        bounds = some.episode_bounds()
        np.testing.assert_array_equal(np.concatenate([np.arange(*b) for b in bounds]), np.arange(7))
        assert some.episode_returns().sum() == some.rewards.sum()
        assert some.complete_episodes()[:-1].all()


def test_transitions_cannot_be_written_through_the_object():
    ends = TRANSITION.ends()
    ends[0] = True
    assert not TRANSITION.terminals[0]
    for array in (TRANSITION.observations, TRANSITION.terminals, TRANSITION.rewards):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
