"""From cameras to the frame rings: a thread for each looks for new frames and hands them on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from robot_drivers.camera import Camera
from robot_drivers.types import CameraFrame

POLL_S = 0.004


class CameraPump:
    """Hands every new frame of each camera to `push`. A camera that raises is named, and asked again."""

    def __init__(self, cameras: Mapping[str, Camera], push: Callable[[CameraFrame], None]) -> None:
        self.problems: dict[str, str] = {}  # camera role -> what it raised
        self._cameras, self._push = dict(cameras), push
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=self._watch, args=(role, camera), name=f"camera {role}", daemon=True)
            for role, camera in cameras.items()
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Let go of every camera, even if one raises; then raise it."""
        self._closing.set()
        for thread in self._threads:
            thread.join(2.0)
        with ExitStack() as ends:
            for camera in self._cameras.values():
                ends.callback(camera.close)

    def _watch(self, role: str, camera: Camera) -> None:
        newest_ns = 0
        while not self._closing.is_set():
            try:
                frame = camera.frame()
                if frame is not None and frame.stamp_ns > newest_ns:
                    newest_ns = frame.stamp_ns
                    self._push(frame)
                self.problems.pop(role, None)
            except Exception as error:  # its frames grow old, and the observation buffer says so
                self.problems[role] = f"{type(error).__name__}: {error}"
                time.sleep(0.1)
            time.sleep(POLL_S)
