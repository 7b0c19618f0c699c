"""One synchronised observation, or the name of what is missing.

Run: pytest tests/deploy/test_observation_buffer.py
"""

import math

import numpy as np
import pytest

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.schema.types import Observation
from deploy.observation_buffer import ObservationBuffer, Stale
from robot_drivers.types import CameraFrame

MS = 1_000_000
ROBOT = Embodiment.from_yaml(find_config("robots", "aloha_viperx"))  # external required, wrists optional
HOME = np.zeros(14)


def frame(role, stamp_ms, value=None):
    image = np.full((4, 6, 3), stamp_ms % 256 if value is None else value, dtype=np.uint8)
    return CameraFrame(role, image, stamp_ms * MS)


def filled(until_ms=200, **options):
    """States every 5 ms with joint 0 = time in s, all cameras every 20 ms."""
    buffer = ObservationBuffer(ROBOT, **options)
    for ms in range(0, until_ms + 1, 5):
        buffer.push_state(HOME + np.eye(14)[0] * ms * 1e-3, ms * MS, ms * MS)
    for role in options.get("cameras", ROBOT.cameras):
        for ms in range(0, until_ms + 1, 20):
            buffer.push_frame(frame(role, ms), ms * MS)
    return buffer


def test_everything_there_is_one_observation_in_unified_units():
    seen = filled().observation(200 * MS, "lift")
    assert isinstance(seen, Observation)
    assert seen.stamp_ns == 200 * MS
    assert seen.state[ROBOT.slots[0]] == pytest.approx(0.2)
    assert (seen.state_mask == ROBOT.mask).all()
    assert seen.instruction == "lift"
    assert seen.control_hz == 50
    assert all(seen.image_masks[role].tolist() == [True] for role in ROBOT.cameras)
    assert all(seen.images[role].shape == (1, 4, 6, 3) for role in ROBOT.cameras)


def test_nothing_there_names_the_state_first():
    answer = ObservationBuffer(ROBOT).observation(0, "")
    assert answer == Stale("state", math.inf)
    assert str(answer) == "state has never come"


def test_a_stale_state_is_an_answer():
    answer = filled().observation(301 * MS, "")
    assert answer.what == "state"
    assert str(answer) == "state is 101 ms old"


def test_a_stale_required_camera_is_named():
    buffer = filled()
    buffer.push_state(HOME, 701 * MS, 701 * MS)
    assert buffer.observation(701 * MS, "") == Stale("external", pytest.approx(0.501))


def test_a_stale_optional_camera_is_masked():
    buffer = filled()
    for ms in range(220, 800, 20):
        buffer.push_state(HOME, ms * MS, ms * MS)
        buffer.push_frame(frame("external", ms), ms * MS)
        buffer.push_frame(frame("right_wrist", ms), ms * MS)
    seen = buffer.observation(780 * MS, "")
    assert seen.image_masks["left_wrist"].tolist() == [False]
    assert not seen.images["left_wrist"].any()
    assert seen.image_masks["external"].tolist() == seen.image_masks["right_wrist"].tolist() == [True]


def test_an_optional_camera_that_never_came_is_masked_with_a_picture_of_the_usual_size():
    buffer = ObservationBuffer(ROBOT)
    buffer.push_state(HOME, 0, 0)
    buffer.push_frame(frame("external", 0), 0)
    seen = buffer.observation(0, "")
    assert seen.images["left_wrist"].shape == (1, 4, 6, 3)
    assert seen.image_masks["left_wrist"].tolist() == [False]


def test_the_reference_is_the_slowest_live_camera_and_the_state_is_interpolated_to_it():
    buffer = filled(until_ms=200)
    for ms in (205, 210, 215, 220):
        buffer.push_state(HOME + np.eye(14)[0] * ms * 1e-3, ms * MS, ms * MS)
    for role, ms in (("external", 212), ("right_wrist", 218), ("left_wrist", 213)):
        buffer.push_frame(frame(role, ms), 220 * MS)
    seen = buffer.observation(220 * MS, "")
    assert seen.stamp_ns == 212 * MS
    assert seen.state[ROBOT.slots[0]] == pytest.approx(0.212)
    assert seen.image_stamps_ns["right_wrist"].tolist() == [218 * MS]


def test_a_dead_camera_does_not_freeze_time():
    buffer = filled(until_ms=200)
    for ms in range(205, 400, 5):
        buffer.push_state(HOME, ms * MS, ms * MS)
        buffer.push_frame(frame("external", ms), ms * MS)
        buffer.push_frame(frame("right_wrist", ms), ms * MS)
    assert buffer.observation(395 * MS, "").stamp_ns == 395 * MS  # left_wrist: 195 ms old


def test_a_state_is_continued_for_ten_milliseconds_at_most():
    buffer = ObservationBuffer(ROBOT, cameras=["external"])
    for ms in (0, 5, 10):
        buffer.push_state(HOME + np.eye(14)[0] * ms * 1e-3, ms * MS, ms * MS)
    for ms, expected in ((18, 0.018), (50, 0.020)):
        buffer.push_frame(frame("external", ms), ms * MS)
        assert buffer.observation(ms * MS, "").state[ROBOT.slots[0]] == pytest.approx(expected)


def test_history_is_the_frame_one_step_before_not_the_frame_before():
    buffer = filled(history=3)
    seen = buffer.observation(200 * MS, "", control_hz=12.5)
    assert seen.image_stamps_ns["external"].tolist() == [40 * MS, 120 * MS, 200 * MS]
    assert seen.images["external"][:, 0, 0, 0].tolist() == [40, 120, 200]


def test_history_before_the_first_frame_is_masked():
    seen = filled(until_ms=100, history=3).observation(100 * MS, "", control_hz=12.5)
    assert seen.image_masks["external"].tolist() == [False, True, True]


def test_old_future_and_broken_data_is_refused_and_counted():
    buffer = filled()
    now_ns = 205 * MS
    assert not buffer.push_state(HOME, 200 * MS, now_ns)
    assert not buffer.push_state(HOME, 300 * MS, now_ns)
    assert not buffer.push_state(HOME * math.nan, 205 * MS, now_ns)
    assert not buffer.push_frame(frame("external", 180), now_ns)
    assert not buffer.push_frame(frame("external", 300), now_ns)
    assert buffer.refused == 5
    assert buffer.push_state(HOME, 205 * MS, now_ns)


def test_a_state_of_another_robot_is_an_error_that_names_the_order():
    with pytest.raises(ValueError, match=r"14 native entries.*\(13,\).*left_waist"):
        ObservationBuffer(ROBOT).push_state(HOME[:13], 0, 0)


def test_a_camera_that_changes_its_size_loses_its_history_only():
    buffer = filled(history=2, cameras=["external"])
    buffer.push_frame(CameraFrame("external", np.ones((8, 8, 3), dtype=np.uint8), 210 * MS), 210 * MS)
    seen = buffer.observation(210 * MS, "", control_hz=12.5)
    assert seen.images["external"].shape == (2, 8, 8, 3)
    assert not seen.image_masks["external"][0]


def test_only_the_cameras_of_the_policy_count():
    buffer = ObservationBuffer(ROBOT, cameras=[])
    buffer.push_state(HOME, 0, 0)
    assert buffer.observation(0, "").images == {}
    with pytest.raises(ValueError, match="no camera 'external' here"):
        buffer.push_frame(frame("external", 0), 0)
    with pytest.raises(ValueError, match=r"not \['top'\]"):
        ObservationBuffer(ROBOT, cameras=["top"])


def test_the_ring_of_states_wraps():
    buffer = ObservationBuffer(ROBOT, cameras=["external"], num_states=8)
    for ms in range(0, 100, 5):
        buffer.push_state(HOME + np.eye(14)[0] * ms * 1e-3, ms * MS, ms * MS)
    buffer.push_frame(frame("external", 77), 95 * MS)
    assert buffer.observation(95 * MS, "").state[ROBOT.slots[0]] == pytest.approx(0.077)
    buffer.clear()
    assert buffer.push_state(HOME, 0, 0)
