"""pytest tests/data_pipeline/schema/test_types.py"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from data_pipeline.schema.layout import NUM_SLOTS
from data_pipeline.schema.types import ActionChunk, Episode, Observation

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
    ],
)
def test_what_an_episode_says_of_its_steps_is_checked(episode, wrong, message):
    with pytest.raises(ValueError, match=message):
        episode(**wrong)
