"""Run: pytest tests/deploy/realtime/test_records.py"""

import numpy as np
import pytest

from data_pipeline.schema.layout import NUM_SLOTS
from data_pipeline.schema.types import ActionChunk
from deploy.loop import LoopSettings
from deploy.prefix import Prefix, align
from deploy.realtime import records
from deploy.realtime.control import LOOK_BACK_NS
from deploy.realtime.memory import Ring
from deploy.realtime.supervisor import MAX_HORIZON
from deploy.two_ways import TwoWays, rehearse, robot_at
from rdt.diffusion.guidance import prefix_weights
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


def test_a_prefix_comes_back_as_it_went():
    record = np.zeros((), records.request_dtype(32))
    sent = Prefix(chunk(20), delay_steps=2, plan_start_ns=99)
    got = records.get_prefix(records.put_prefix(record, sent))
    np.testing.assert_array_equal(got.chunk.actions, sent.chunk.actions)
    assert (got.chunk.start_ns, got.delay_steps, got.plan_start_ns) == (123, 2, 99)
    assert records.get_prefix(records.put_prefix(record, None)) is None


def test_of_a_prefix_that_is_too_long_the_far_end_is_left_out():
    record = np.zeros((), records.request_dtype(32))
    got = records.get_prefix(records.put_prefix(record, Prefix(chunk(40), 2, 99)))
    np.testing.assert_array_equal(got.chunk.actions, chunk(40).actions[:32])


@pytest.mark.parametrize("latency_ms", [50, 100, 170])
def test_real_time_chunking_weighs_the_same_through_the_ring_as_directly(latency_ms):
    """The loop makes a request's prefix for an older observation than the one that is made then."""
    rate_hz, horizon = 50.0, 64
    settings = LoopSettings(handover="rtc", execute_steps=6)
    ring = Ring.create(records.request_dtype(MAX_HORIZON), 2)

    def guidance(prefix, stamp_ns):
        start_ns = stamp_ns + round(1e9 / rate_hz)
        rows, known = align(prefix.chunk, start_ns, rate_hz, horizon)
        execute_steps = prefix.execute_steps(start_ns, rate_hz)
        return rows, prefix_weights(horizon, prefix.delay_steps, execute_steps).numpy() * known

    try:
        for more_ms in (0, 20, 40, 60, 80):  # moments between one chunk and the next
            run = rehearse(TwoWays(robot_at(rate_hz)), latency_ms, settings, seconds=1.0 + more_ms / 1000)
            now_ns = round((1000 + more_ms) * 1e6)
            record = records.put_prefix(ring.empty(), run.loop.prefix(now_ns - LOOK_BACK_NS))
            ring.write(record)
            rows, weights = guidance(records.get_prefix(ring.newest().value), now_ns)
            rows_directly, weights_directly = guidance(run.loop.prefix(now_ns), now_ns)
            np.testing.assert_array_equal(weights, weights_directly)
            np.testing.assert_allclose(rows, rows_directly, atol=1e-6)
    finally:
        ring.close()


def test_a_picture_may_be_smaller_than_announced_and_not_larger():
    record = np.zeros((), records.frame_dtype(48, 64))
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    frame = records.get_frame(records.put_frame(record, CameraFrame("external", image, 5)), "external")
    np.testing.assert_array_equal(frame.image, image)
    assert frame.stamp_ns == 5
    with pytest.raises(ValueError, match=r"camera 'external' sent 64 x 60.* cameras\.external\.connection"):
        records.put_frame(record, CameraFrame("external", np.zeros((60, 64, 3), np.uint8), 5))


def test_text_is_cut_between_letters():
    record = np.zeros((), records.ORDERS)
    record["instruction"] = ("ä" * 2000).encode()
    assert records.text(record["instruction"]) == "ä" * 1024
    record["instruction"] = b"pick up the cup"
    assert records.text(record["instruction"]) == "pick up the cup"
