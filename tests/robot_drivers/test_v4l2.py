"""A USB camera's thread, on the real OpenCV with a file for a device, and on captures that break.

Run: pytest tests/robot_drivers/test_v4l2.py
"""

from __future__ import annotations

import sys
import threading
import time

import numpy as np
import pytest

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config, read_yaml
from robot_drivers import v4l2
from robot_drivers.drivers import open_camera
from robot_drivers.errors import DriverError
from robot_drivers.v4l2 import USBCamera

cv2 = pytest.importorskip("cv2")

MS = 1_000_000


def wait_until(true):
    for _ in range(1000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("nothing happened")


def robot(device, **connection) -> Embodiment:
    raw = read_yaml(find_config("robots", "piper_pair"))
    raw["cameras"]["external"]["connection"] = {"device": str(device), "width": 64, "height": 48, **connection}
    return Embodiment.from_dict(raw)


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (64, 48))
    for _ in range(5):
        writer.write(np.full((48, 64, 3), (200, 30, 10), np.uint8))  # BGR: blue
    writer.release()
    return path


class Capture:
    """Hands out what it is given; `None` is a failed grab."""

    def __init__(self) -> None:
        self.pictures, self.released = [], False
        self._more = threading.Semaphore(0)

    def give(self, picture):
        self.pictures.append(picture)
        self._more.release()

    def grab(self):
        self._more.acquire()
        return self.pictures[0] is not None

    def retrieve(self):
        return True, self.pictures.pop(0)

    def release(self):
        self.released = True


def picture(value):
    return np.full((4, 6, 3), (value, 0, 0), np.uint8)


def test_a_film_is_a_camera_in_rgb_and_comes_back_after_its_end(film, monkeypatch):
    monkeypatch.setattr(v4l2, "RETRY_S", 0.05)
    before = time.monotonic_ns()
    camera = open_camera(robot(film), "external")
    first = camera.frame()
    assert first.image.shape == (48, 64, 3)
    assert first.image[0, 0, 2] > 150 > 60 > first.image[0, 0, 0]
    assert before - 80 * MS <= first.stamp_ns <= time.monotonic_ns() - 80 * MS  # less the latency in the YAML
    wait_until(lambda: camera.frame().stamp_ns - first.stamp_ns > 40 * MS)  # it was opened again
    camera.close()


def test_a_size_that_was_not_asked_for_is_refused(film):
    with pytest.raises(DriverError, match=r"was asked for 640x48 and gives 64x48: `v4l2-ctl"):
        open_camera(robot(film, width=640), "external")


def test_a_device_that_is_not_there_says_what_to_look_for():
    with pytest.raises(DriverError, match=r"/dev/video97 cannot be opened: is it plugged in.*by-id"):
        open_camera(robot("/dev/video97"), "external")


def test_reading_never_waits_and_a_lost_camera_grows_old_until_it_is_back(monkeypatch):
    monkeypatch.setattr(v4l2, "RETRY_S", 0.01)
    captures = [Capture(), None, Capture(), Capture()]
    given = iter(captures)
    now = [1_000 * MS]

    def open_capture():
        capture = next(given)
        if capture is None:
            raise DriverError("gone", "not concerned")
        return capture

    camera = USBCamera("left_wrist", open_capture, lambda: now[0], latency_s=0.1)
    assert camera.frame() is None  # nothing has come, and nothing was waited for
    captures[0].give(picture(7))
    wait_until(lambda: camera.frame() is not None)
    first = camera.frame()
    assert (first.role, first.stamp_ns) == ("left_wrist", 900 * MS)
    assert first.image[0, 0].tolist() == [0, 0, 7]
    now[0] += 500 * MS
    captures[0].give(None)
    wait_until(lambda: captures[0].released)
    assert camera.frame() is first
    captures[2].give(picture(8))
    wait_until(lambda: camera.frame().stamp_ns == 1_400 * MS)
    captures[2].give("damaged")  # what makes the library raise
    wait_until(lambda: captures[2].released)
    now[0] += 500 * MS
    captures[3].give(picture(9))
    wait_until(lambda: camera.frame().stamp_ns == 1_900 * MS)
    captures[3].give(None)
    camera.close()


def test_the_library_is_asked_for_by_name(monkeypatch, film):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rdt-stack\[usb_cameras\]'"):
        open_camera(robot(film), "external")
