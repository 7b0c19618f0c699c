"""ROS 2 at arm's length: messages to and from numpy, qualities of service, clocks, and a node that lives in a thread.

Everything here is imported when a robot is reached over topics; the rest of the house runs without ROS. Joints are
mapped by name, never by place; a name that is unknown or missing is an error. Conventions: spec robot_ros2.md sections
1.5, 1.6 and 3.
"""

from __future__ import annotations

import array
import contextlib
import io
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from PIL import Image as PillowImage
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Bool, Float64MultiArray, String
from std_srvs.srv import SetBool, Trigger

Reliability = Literal["best_effort", "reliable"]

PLAIN_CHANNELS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0), "mono8": (0, 0, 0)}
_WIDTH = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}

__all__ = ["Bool", "CompressedImage", "Float64MultiArray", "Image", "JointState", "SetBool", "String", "Trigger"]


def quality(reliability: Reliability = "best_effort", depth: int = 1, *, latched: bool = False) -> QoSProfile:
    """Keep the last `depth`; latched: a late joiner gets the last one too."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliability == "reliable" else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


class ClockBridge:
    """Between header stamps of ROS, which are the system's time, and this stack's monotonic clock.

    The offset is measured anew every ten seconds, by the tightest of a few readings.
    """

    EVERY_NS = 10_000_000_000

    def __init__(self) -> None:
        self._offset_ns, self._measured_ns = self._measure(), time.monotonic_ns()

    def to_monotonic(self, stamp: Time) -> int:
        """A header stamp in ns of CLOCK_MONOTONIC; a stamp of 0 is the present."""
        self._renew()
        stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
        return stamp_ns - self._offset_ns if stamp_ns else time.monotonic_ns()

    def to_stamp(self, monotonic_ns: int) -> Time:
        """The inverse."""
        self._renew()
        seconds, nanoseconds = divmod(monotonic_ns + self._offset_ns, 1_000_000_000)
        return Time(sec=seconds, nanosec=nanoseconds)

    def _renew(self) -> None:
        now = time.monotonic_ns()
        if now - self._measured_ns > self.EVERY_NS:
            self._offset_ns, self._measured_ns = self._measure(), now

    @staticmethod
    def _measure() -> int:
        """System time minus monotonic time."""
        readings = []
        for _ in range(5):
            before, system, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
            readings.append((after - before, system - (before + after) // 2))
        return min(readings)[1]


def joint_state(names: Sequence[str], positions: np.ndarray, stamp: Time, frame_id: str = "") -> JointState:
    """Velocity and effort are filled: readers expect them, and an empty tail is serialised wrongly (section 7)."""
    message = JointState()
    message.header.stamp, message.header.frame_id = stamp, frame_id
    message.name = list(names)
    message.position = array.array("d", positions)
    message.velocity = message.effort = array.array("d", bytes(8 * len(names)))
    return message


def positions_of(message: JointState, names: Sequence[str]) -> np.ndarray:
    """Positions in the order of `names`, float64. Raises `ValueError` where a joint is missing or has no position."""
    places = {name: place for place, name in enumerate(message.name)}
    missing = [name for name in names if name not in places]
    if missing or len(message.position) != len(message.name):
        raise ValueError(
            f"a joint state with {list(message.name)} and {len(message.position)} positions came; expected one with "
            f"{list(names)}" + (f", so {missing} are missing" if missing else "")
        )
    return np.array([message.position[places[name]] for name in names])


def image_message(image: np.ndarray, stamp: Time, frame_id: str) -> Image:
    """RGB uint8 (height, width, 3) -> rgb8. Bytes by way of an array: an ndarray is checked number by number."""
    message = Image()
    message.header.stamp, message.header.frame_id = stamp, frame_id
    message.height, message.width = image.shape[:2]
    message.encoding, message.step = "rgb8", image.shape[1] * 3
    message.data = array.array("B", image.tobytes())
    return message


def picture(message: Image | CompressedImage) -> np.ndarray:
    """RGB uint8 (height, width, 3), a copy. Raises `ValueError` for an encoding, a size or data that do not fit."""
    if isinstance(message, CompressedImage):
        try:
            return np.asarray(PillowImage.open(io.BytesIO(bytes(message.data))).convert("RGB"))
        except (OSError, PillowImage.DecompressionBombError) as error:
            raise ValueError(f"a compressed image ({message.format!r}, {len(message.data)} bytes): {error}") from None
    if message.encoding not in PLAIN_CHANNELS:
        raise ValueError(f"an image with encoding {message.encoding!r} came; expected one of {sorted(PLAIN_CHANNELS)}")
    height, width, channels = message.height, message.width, _WIDTH[message.encoding]
    if not height * width or len(message.data) != height * message.step or message.step < width * channels:
        raise ValueError(
            f"an image of {width} x {height} with step {message.step} and {len(message.data)} bytes came: its data do "
            "not fit its size"
        )
    rows = np.frombuffer(message.data, np.uint8).reshape(height, message.step)[:, : width * channels]
    return rows.reshape(height, width, channels)[..., list(PLAIN_CHANNELS[message.encoding])]


class Link:
    """A node of its own, spun by a thread: callbacks come from there. `with` closes it."""

    def __init__(self, name: str, *, namespace: str = "") -> None:
        self._context = Context()
        rclpy.init(args=None, context=self._context, signal_handler_options=rclpy.SignalHandlerOptions.NO)
        self.node = Node(name, context=self._context, namespace=namespace)
        self.clock = ClockBridge()
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, name=f"ros {name}", daemon=True)
        self._thread.start()

    def subscribe(self, kind: Any, topic: str, callback: Callable[[Any], None], profile: QoSProfile) -> None:
        self.node.create_subscription(kind, topic, callback, profile)

    def publish_on(self, kind: Any, topic: str, profile: QoSProfile) -> Any:
        return self.node.create_publisher(kind, topic, profile)

    def call(self, kind: Any, service: str, request: Any = None, timeout_s: float = 10.0) -> Any:
        """Ask a service and wait for its answer. Raises `TimeoutError` when it is not there or does not answer."""
        client: Any = self.node.create_client(kind, service)
        try:
            if not client.wait_for_service(timeout_s):
                raise TimeoutError(f"service {service} did not appear within {timeout_s:g} s")
            answered = threading.Event()
            future = client.call_async(kind.Request() if request is None else request)
            future.add_done_callback(lambda _: answered.set())
            if not answered.wait(timeout_s):
                raise TimeoutError(f"service {service} did not answer within {timeout_s:g} s")
            return future.result()
        finally:
            self.node.destroy_client(client)

    def topics_of(self, kind: str) -> list[str]:
        """Topics that carry a kind ("sensor_msgs/msg/JointState"), for an error message."""
        return sorted(name for name, kinds in self.node.get_topic_names_and_types() if kind in kinds)

    def close(self) -> None:
        self._executor.shutdown(timeout_sec=1.0)
        self._thread.join(2.0)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException, KeyboardInterrupt):
            self._executor.spin()
