"""RealSense cameras: the colour stream, stamped by the device, on the loop's clock.

The source of frames is handed in (a pipeline, or a syncer fed by a software device: spec robot_ros2.md section 8).
Depth is left out: no policy here reads it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.schema.embodiment import Embodiment
from robot_drivers.connection import read_connection
from robot_drivers.device_clock import DeviceClock
from robot_drivers.errors import NOT_CONCERNED, DriverError
from robot_drivers.types import CameraFrame

LOST_NS = 2_000_000_000  # without frames for so long, the camera is opened anew


@dataclass(frozen=True, kw_only=True)
class RealSenseConnection:
    """`connection` of a camera with `source: realsense`."""

    serial: str = ""  # of the device; needed where there is more than one
    width: int = 640
    height: int = 480
    fps: int = 30


class RealSense:
    """One camera. `source` has `poll_for_frames()`; `reopen` makes another source when this one has died."""

    def __init__(
        self,
        role: str,
        source: Any,
        clock: Callable[[], int],
        latency_s: float = 0.0,
        reopen: Callable[[], Any] | None = None,
    ) -> None:
        self._role, self._source, self._clock = role, source, clock
        self._latency_ns = round(latency_s * 1e9)
        self._reopen = reopen
        self._reopening: threading.Thread | None = None
        self._times = DeviceClock()
        self._last: CameraFrame | None = None
        self._heard_ns = clock()
        self._closed = False

    @property
    def refused(self) -> int:
        """How often the device's clock has jumped; frames around a jump are not handed on."""
        return self._times.jumps

    def frame(self) -> CameraFrame | None:
        """The newest frame, RGB. A camera that stops hands on its last one, whose stamp grows old."""
        newest, stamp_ns, now_ns = None, None, self._clock()
        while (colour := self._poll()) is not None:
            newest, now_ns = colour, self._clock()
            stamp_ns = self._times.stamp(round(colour.get_timestamp() * 1e6), now_ns)
        if newest is not None:
            self._heard_ns = now_ns
            if stamp_ns is not None:
                image = np.array(newest.get_data())  # the library takes its memory back
                self._last = CameraFrame(self._role, image, stamp_ns - self._latency_ns)
        elif now_ns - self._heard_ns > LOST_NS:
            self._try_again()
        return self._last

    def close(self) -> None:
        self._closed = True
        if self._reopening is not None:
            self._reopening.join()
        _stop(self._source)

    def _poll(self) -> Any:
        """The next colour frame, `None` where none waits or the pipeline has died."""
        try:
            frames = self._source.poll_for_frames()
        except RuntimeError:  # librealsense's, once the device is gone: silence, which `frame` counts
            return None
        return (frames.get_color_frame() or None) if frames else None

    def _try_again(self) -> None:
        """Open the camera anew beside the loop, which never waits for it."""
        self._heard_ns = self._clock()
        if self._reopen is None or (self._reopening is not None and self._reopening.is_alive()):
            return
        reopen = self._reopen

        def work() -> None:
            _stop(self._source)
            try:
                source = reopen()
            except DriverError:
                return  # the next attempt comes after LOST_NS
            if self._closed:
                _stop(source)
            else:
                self._source, self._times = source, DeviceClock()

        self._reopening = threading.Thread(target=work, daemon=True)
        self._reopening.start()


def _stop(source: Any) -> None:
    """Pipelines are stopped; one that has died says so with a RuntimeError, and a syncer has nothing to stop."""
    if hasattr(source, "stop"):
        try:
            source.stop()
        except RuntimeError:
            return


def open_camera(robot: Embodiment, role: str, clock: Callable[[], int]) -> RealSense:
    """The camera of one role of a robot YAML with `source: realsense`."""
    camera = robot.cameras[role]
    connection = read_connection(RealSenseConnection, f"cameras.{role}.connection", camera.connection)
    try:
        import pyrealsense2 as rs
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("RealSense cameras need pyrealsense2: pip install 'rdt-stack[realsense]'") from error
    except ImportError as error:
        raise ImportError(
            f"pyrealsense2 is there but does not load ({error}): on Debian `apt-get install libusb-1.0-0`"
        ) from error

    def start() -> Any:
        found = [device.get_info(rs.camera_info.serial_number) for device in rs.context().query_devices()]
        if not found or (connection.serial and connection.serial not in found):  # `start` would wait for it for 15 s
            wanted = f"RealSense {connection.serial}" if connection.serial else "RealSense"
            raise DriverError(
                f"camera {role!r}: no {wanted} is connected, but {', '.join(found) or 'none at all'}: is it plugged "
                "in, and into USB 3",
                NOT_CONCERNED,
            )
        pipeline, config = rs.pipeline(), rs.config()
        if connection.serial:
            config.enable_device(connection.serial)
        config.enable_stream(rs.stream.color, connection.width, connection.height, rs.format.rgb8, connection.fps)
        try:
            pipeline.start(config)
        except RuntimeError as error:
            raise DriverError(
                f"camera {role!r} has no colour stream of {connection.width}x{connection.height} at {connection.fps} "
                f"fps ({error}): `rs-enumerate-devices` names those it has",
                NOT_CONCERNED,
            ) from error
        return pipeline

    return RealSense(role, start(), clock, camera.latency_s, start)
