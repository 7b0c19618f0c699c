"""USB cameras through OpenCV, each read by a thread of its own.

OpenCV hands on no stamp of the device, so a frame is stamped when it arrives, less the camera's latency from the
YAML (70 to 125 ms for common USB cameras, spec robot_ros2.md section 5.2: measure it with a blinking light). A camera
that is lost leaves its last frame, whose stamp grows old: what that means is for the loop to say. It is opened anew
once a second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from data_pipeline.schema.embodiment import Embodiment
from robot_drivers.connection import read_connection
from robot_drivers.errors import NOT_CONCERNED, DriverError
from robot_drivers.types import CameraFrame

FIRST_FRAME_S = 5.0
RETRY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class V4L2Connection:
    """`connection` of a camera with `source: v4l2`."""

    device: str  # /dev/video0, better a name under /dev/v4l/by-id/; an address of a stream or a file works too
    width: int = 640
    height: int = 480
    fps: int = 30


class USBCamera:
    """One camera. `open_capture` makes what has `grab`, `retrieve` and `release`, as `cv2.VideoCapture` does."""

    def __init__(
        self, role: str, open_capture: Callable[[], Any], clock: Callable[[], int], latency_s: float = 0.0
    ) -> None:
        """Opens the camera and starts reading. Raises what `open_capture` raises the first time."""
        self._role, self._open_capture, self._clock = role, open_capture, clock
        self._latency_ns = round(latency_s * 1e9)
        self._last: CameraFrame | None = None
        self._arrived = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(open_capture(),), daemon=True)
        self._thread.start()

    def frame(self) -> CameraFrame | None:
        """The newest frame, RGB; it never waits."""
        return self._last

    def wait(self, seconds: float) -> CameraFrame | None:
        """The first frame, waited for. For opening, not for the loop."""
        self._arrived.wait(seconds)
        return self._last

    def close(self) -> None:
        self._stop.set()
        self._thread.join(RETRY_S)  # a driver that waits for a lost device is left behind

    def _read(self, capture: Any) -> None:
        while not self._stop.is_set():
            try:
                capture = self._open_capture() if capture is None else capture
                self._take(capture)
            except Exception:  # noqa: PERF203 (OpenCV's own, by what broke: the answer to each is to open it anew)
                if capture is not None:
                    capture.release()
                capture = None
                self._stop.wait(RETRY_S)
        if capture is not None:
            capture.release()

    def _take(self, capture: Any) -> None:
        """One picture. Raises where the camera gives none."""
        if not capture.grab():
            raise DriverError(f"camera {self._role!r} gives no picture", NOT_CONCERNED)
        stamp_ns = self._clock() - self._latency_ns  # before decoding
        decoded, image = capture.retrieve()
        if decoded:  # a damaged picture is no reason to open the camera anew
            self._last = CameraFrame(self._role, image[..., ::-1].copy(), stamp_ns)  # BGR -> RGB
            self._arrived.set()


def open_camera(robot: Embodiment, role: str, clock: Callable[[], int]) -> USBCamera:
    """The camera of one role of a robot YAML with `source: v4l2`."""
    settings = robot.cameras[role]
    connection = read_connection(V4L2Connection, f"cameras.{role}.connection", settings.connection)
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("USB cameras need OpenCV: pip install 'rdt-stack[usb_cameras]'") from error

    def open_capture() -> Any:
        is_device = connection.device.startswith("/dev/")
        capture = cv2.VideoCapture(connection.device, cv2.CAP_V4L2 if is_device else cv2.CAP_ANY)
        if not capture.isOpened():
            raise DriverError(
                f"camera {role!r}: {connection.device} cannot be opened: is it plugged in, is another program using "
                "it, may this user (group video); `ls /dev/v4l/by-id` names what is there",
                NOT_CONCERNED,
            )
        if is_device:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))  # raw pictures overload USB 2
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, connection.width)
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, connection.height)
            capture.set(cv2.CAP_PROP_FPS, connection.fps)
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest picture, not the oldest of a queue
        return capture

    camera = USBCamera(role, open_capture, clock, settings.latency_s)
    first = camera.wait(FIRST_FRAME_S)
    got = "no picture" if first is None else f"{first.image.shape[1]}x{first.image.shape[0]}"
    if got != f"{connection.width}x{connection.height}":
        camera.close()
        raise DriverError(
            f"camera {role!r}: {connection.device} was asked for {connection.width}x{connection.height} and gives "
            f"{got}: `v4l2-ctl --list-formats-ext` names its sizes",
            NOT_CONCERNED,
        )
    return camera
