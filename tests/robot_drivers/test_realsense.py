"""The real librealsense with a software device: colours, stamps, jumps, silence.

Run: pytest tests/robot_drivers/test_realsense.py
"""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from robot_drivers.drivers import open_camera
from robot_drivers.errors import DriverError
from robot_drivers.realsense import RealSense

rs = pytest.importorskip("pyrealsense2", exc_type=ImportError)

WIDTH, HEIGHT = 32, 24
MS = 1_000_000


class SoftwareCamera:
    """A colour sensor without hardware; `push` is its shutter."""

    def __init__(self) -> None:
        self._device = rs.software_device()
        self._sensor = self._device.add_sensor("Color")
        stream = rs.video_stream()
        stream.type, stream.uid, stream.fmt = rs.stream.color, 0, rs.format.rgb8
        stream.width, stream.height, stream.fps, stream.bpp = WIDTH, HEIGHT, 30, 3
        intrinsics = rs.intrinsics()
        intrinsics.width, intrinsics.height = WIDTH, HEIGHT
        stream.intrinsics = intrinsics
        self._profile = rs.video_stream_profile(self._sensor.add_video_stream(stream))
        self._device.create_matcher(rs.matchers.default)
        self.syncer = rs.syncer(8)
        self._sensor.open(self._profile)
        self._sensor.start(self.syncer)
        self._count = 0

    def push(self, colour, milliseconds: float) -> None:
        frame = rs.software_video_frame()
        self._count += 1
        frame.stride, frame.bpp, frame.timestamp, frame.frame_number = WIDTH * 3, 3, milliseconds, self._count
        frame.domain = rs.timestamp_domain.hardware_clock
        frame.profile = self._profile
        frame.pixels = np.full((HEIGHT, WIDTH, 3), colour, np.uint8).reshape(-1)
        self._sensor.on_video_frame(frame)

    def close(self) -> None:
        self._sensor.stop()
        self._sensor.close()


class Clock:
    now_ns = 5_000 * MS

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def device():
    device = SoftwareCamera()
    yield device
    device.close()


def shown(camera, colour):
    """The frame of this colour, which the library hands over from a thread of its own."""
    for _ in range(500):
        frame = camera.frame()
        if frame is not None and (frame.image[0, 0] == colour).all():
            return frame
        time.sleep(0.01)
    raise AssertionError(f"no frame of colour {colour}")


def test_colours_and_stamps_on_the_loops_clock(device):
    clock = Clock()
    camera = RealSense("external", device.syncer, clock, latency_s=0.02)
    assert camera.frame() is None
    device.push((250, 10, 20), 1000.0)
    first = shown(camera, (250, 10, 20))
    assert first.image.shape == (HEIGHT, WIDTH, 3)
    assert first.role == "external"
    assert first.stamp_ns == clock.now_ns - 20 * MS
    clock.now_ns += 50 * MS  # the second frame was taken 33 ms later and looked at late
    device.push((1, 2, 250), 1033.0)
    second = shown(camera, (1, 2, 250))
    assert second.stamp_ns - first.stamp_ns == 33 * MS
    camera.close()


def test_a_jump_of_the_devices_clock_is_not_served_as_new(device):
    clock = Clock()
    camera = RealSense("external", device.syncer, clock)
    device.push((1, 1, 1), 1000.0)
    first = shown(camera, (1, 1, 1))
    clock.now_ns += 33 * MS
    device.push((2, 2, 2), 99_000.0)
    for _ in range(500):
        camera.frame()
        if camera.refused:
            break
        time.sleep(0.01)
    assert camera.refused == 1
    assert camera.frame() is first


class Silent:
    """A pipeline that died."""

    stopped = False

    def poll_for_frames(self):
        raise RuntimeError("the device is gone")

    def stop(self):
        self.stopped = True
        raise RuntimeError("stop() cannot be called before start()")


def test_a_camera_that_stops_grows_old_and_is_opened_anew(device):
    clock, dead = Clock(), Silent()
    opened = []

    def reopen():
        opened.append(True)
        if len(opened) == 1:
            raise DriverError("not yet there", "not concerned")
        return device.syncer

    camera = RealSense("external", dead, clock, reopen=reopen)
    assert camera.frame() is None
    for attempt in (1, 2):
        clock.now_ns += 3_000 * MS
        camera.frame()
        camera._reopening.join()
        assert len(opened) == attempt
    assert dead.stopped
    device.push((9, 9, 9), 10.0)
    assert shown(camera, (9, 9, 9)).stamp_ns == clock.now_ns
    camera.close()


def test_a_camera_that_is_not_there_names_those_that_are():
    robot = Embodiment.from_yaml(find_config("robots", "viperx_pair"))
    with pytest.raises(DriverError, match=r"camera 'external': no RealSense 130322270000 is connected, but.*USB 3"):
        open_camera(robot, "external")


def test_the_sdk_is_asked_for_by_name(monkeypatch):
    robot = Embodiment.from_yaml(find_config("robots", "viperx_pair"))
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rdt-stack\[realsense\]'"):
        open_camera(robot, "external")
