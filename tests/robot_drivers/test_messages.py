"""Run: pytest tests/robot_drivers/test_messages.py"""

import io
import time

import numpy as np
import pytest
from PIL import Image as PillowImage

pytest.importorskip("rclpy", reason="needs the extra `ros2`")

from robot_drivers import messages
from robot_drivers.messages import ClockBridge, CompressedImage, joint_state, picture, positions_of

NAMES = ("waist", "elbow", "gripper")
PICTURE = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def stamped(image: np.ndarray, encoding: str, padding: int = 0) -> messages.Image:
    """A message of an encoding, each row padded."""
    channels = {"rgb8": image, "bgr8": image[..., ::-1], "mono8": image[..., :1]}
    channels["rgba8"] = np.concatenate([image, image[..., :1]], axis=2)
    channels["bgra8"] = np.concatenate([image[..., ::-1], image[..., :1]], axis=2)
    rows = channels[encoding].reshape(len(image), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)))
    message = messages.Image(height=image.shape[0], width=image.shape[1], encoding=encoding, step=rows.shape[1])
    message.data = rows.tobytes()
    return message


def test_joints_are_mapped_by_name():
    message = joint_state(("gripper", "waist", "elbow"), np.array([3.0, 1.0, 2.0]), ClockBridge().to_stamp(0))
    np.testing.assert_array_equal(positions_of(message, NAMES), [1, 2, 3])
    assert len(message.velocity) == len(message.effort) == 3


def test_a_missing_joint_is_named():
    message = joint_state(("waist", "gripper"), np.zeros(2), ClockBridge().to_stamp(0))
    with pytest.raises(ValueError, match=r"\['elbow'\] are missing"):
        positions_of(message, NAMES)


def test_names_without_positions_are_refused():
    message = joint_state(NAMES, np.zeros(3), ClockBridge().to_stamp(0))
    message.position = []
    with pytest.raises(ValueError, match="and 0 positions came"):
        positions_of(message, NAMES)


def test_stamps_come_back_on_the_monotonic_clock():
    bridge, now = ClockBridge(), time.monotonic_ns()
    assert abs(bridge.to_monotonic(bridge.to_stamp(now)) - now) < 10
    assert abs(bridge.to_monotonic(messages.Time()) - time.monotonic_ns()) < 1e9  # no stamp: the present


@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8"])
def test_pictures_of_every_encoding_and_step_are_rgb(encoding, padding):
    np.testing.assert_array_equal(picture(stamped(PICTURE, encoding, padding)), PICTURE)


def test_grey_is_three_times_grey():
    np.testing.assert_array_equal(picture(stamped(PICTURE, "mono8")), np.repeat(PICTURE[..., :1], 3, axis=2))


def test_our_own_message_is_read_back():
    np.testing.assert_array_equal(picture(messages.image_message(PICTURE, messages.Time(), "camera")), PICTURE)


def test_a_jpeg_is_decoded():
    flat = np.full((16, 16, 3), (200, 30, 60), np.uint8)
    buffer = io.BytesIO()
    PillowImage.fromarray(flat).save(buffer, "JPEG", quality=95)
    decoded = picture(CompressedImage(format="rgb8; jpeg compressed bgr8", data=buffer.getvalue()))
    assert np.abs(decoded.astype(int) - flat).max() < 8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoding": "yuv422"}, "encoding 'yuv422' came"),
        ({"data": b"abc"}, "3 bytes came"),
        ({"height": 0}, "do not fit"),
        ({"step": 3}, "do not fit"),
    ],
)
def test_a_picture_that_cannot_be_one_is_refused(change, words):
    message = stamped(PICTURE, "rgb8")
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(ValueError, match=words):
        picture(message)


def test_a_picture_that_would_unpack_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(PillowImage, "MAX_IMAGE_PIXELS", 4)
    buffer = io.BytesIO()
    PillowImage.fromarray(PICTURE).save(buffer, "PNG")
    with pytest.raises(ValueError, match=r"a compressed image \('png'.*decompression bomb"):
        picture(CompressedImage(format="png", data=buffer.getvalue()))


def test_a_broken_jpeg_is_refused():
    with pytest.raises(ValueError, match=r"a compressed image \('jpeg', 4 bytes\)"):
        picture(CompressedImage(format="jpeg", data=b"\xff\xd8\x00\x01"))
