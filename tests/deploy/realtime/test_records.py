"""Run: pytest tests/deploy/realtime/test_records.py"""

import numpy as np
import pytest

from data_pipeline.schema.layout import NUM_SLOTS
from data_pipeline.schema.types import ActionChunk
from deploy.prefix import Prefix
from deploy.realtime import records
from robot_drivers.types import CameraFrame


def chunk(steps: int) -> ActionChunk:
    mask = np.arange(NUM_SLOTS) < 14
    actions = np.where(mask, np.random.default_rng(0).normal(size=(steps, NUM_SLOTS)), 0).astype(np.float32)
    return ActionChunk(123, 12.5, actions, mask)


def test_a_chunk_comes_back_as_it_went():
    record = np.zeros((), records.answer_dtype(32))
    sent = chunk(20)
    got = records.get_chunk(records.put_answer(record, 7, sent))
    assert record["request"] == 7
    assert (got.start_ns, got.rate_hz) == (sent.start_ns, sent.rate_hz)
    np.testing.assert_array_equal(got.actions, sent.actions)
    np.testing.assert_array_equal(got.mask, sent.mask)


def test_a_chunk_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="40 actions came where at most 32"):
        records.put_answer(np.zeros((), records.answer_dtype(32)), 0, chunk(40))


def test_a_prefix_is_counted_from_the_observation_that_is_made():
    record = np.zeros((), records.request_dtype(32))
    assert records.get_prefix(records.put_prefix(record, 1000, None), 5, 12.5) is None
    sent = Prefix(chunk(20), delay_steps=2, execute_steps=4)
    got = records.get_prefix(records.put_prefix(record, 1000, sent), 1000 + 160_000_000, 12.5)
    np.testing.assert_array_equal(got.chunk.actions, sent.chunk.actions)
    assert (got.delay_steps, got.execute_steps) == (2, 6)  # the observation is two steps later than was assumed


def test_a_picture_may_be_smaller_than_announced_and_not_larger():
    record = np.zeros((), records.frame_dtype(48, 64))
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    frame = records.get_frame(records.put_frame(record, CameraFrame("external", image, 5)), "external")
    np.testing.assert_array_equal(frame.image, image)
    assert frame.stamp_ns == 5
    with pytest.raises(ValueError, match="camera 'external' sent 64 x 60"):
        records.put_frame(record, CameraFrame("external", np.zeros((60, 64, 3), np.uint8), 5))


def test_text_is_cut_between_letters():
    record = np.zeros((), records.ORDERS)
    record["instruction"] = ("ä" * 2000).encode()
    assert records.text(record["instruction"]) == "ä" * 1024
    record["instruction"] = b"pick up the cup"
    assert records.text(record["instruction"]) == "pick up the cup"
