"""An arm and a camera that are reached over ROS 2 topics: ALOHA, Interbotix, ros2_control, AgileX, or our own nodes.

    connection of an arm
        state        topic of sensor_msgs/JointState; the arm's joints by `names`, else by those of the YAML
        command      topic that takes the targets, in a message of kind `message`
        message      joint_state | float64_multi_array (ros2_control's forward controllers, in the order of the joints)
        names        joint names in the messages, gripper last, separated by blanks
    connection of a camera, whose `source` is its topic where it begins with a slash
        topic, compressed, reliable

An arm over topics keeps the last target that it was sent, so holding sends nothing new.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from data_pipeline.schema.embodiment import Embodiment
from robot_drivers.connection import read_connection
from robot_drivers.errors import DriverError
from robot_drivers.messages import (
    CompressedImage,
    Float64MultiArray,
    Image,
    JointState,
    Link,
    joint_state,
    picture,
    positions_of,
    quality,
)
from robot_drivers.types import ArmCommand, ArmState, CameraFrame

FIRST_MESSAGE_S = 10.0
NO_TORQUE_KNOWN = "doing what its own driver does: nothing was sent to it"


@dataclass(frozen=True)
class ArmTopics:
    """The `connection` of an arm."""

    state: str
    command: str
    message: Literal["joint_state", "float64_multi_array"] = "joint_state"
    names: str = ""
    reliable: bool = False  # the states' publisher is asked to repeat what was lost


@dataclass(frozen=True)
class CameraTopic:
    """The `connection` of a camera."""

    topic: str = ""
    compressed: bool = False
    reliable: bool = False


class TopicArm:
    """One arm whose driver is a ROS node elsewhere."""

    def __init__(self, link: Link, side: str, names: tuple[str, ...], topics: ArmTopics, owner: _Shared) -> None:
        self._link, self._side, self._names, self._topics, self._owner = link, side, names, topics, owner
        self._lock = threading.Lock()
        self._newest: ArmState | None = None
        self._problem = ""
        self._plain = topics.message == "float64_multi_array"
        reliability: Literal["reliable", "best_effort"] = "reliable" if topics.reliable else "best_effort"
        link.subscribe(JointState, topics.state, self._take, quality(reliability))
        kind = Float64MultiArray if self._plain else JointState
        self._publisher = link.publish_on(kind, topics.command, quality("reliable"))

    def wait(self, timeout_s: float = FIRST_MESSAGE_S) -> None:
        """For the first state. Raises `DriverError` that says what is there instead."""
        until = time.monotonic() + timeout_s
        while self._newest is None:
            if time.monotonic() > until:
                others = self._link.topics_of("sensor_msgs/msg/JointState")
                raise DriverError(
                    f"no joint state of the {self._side} arm came on {self._topics.state} within {timeout_s:g} s"
                    f"{': ' + self._problem if self._problem else ''}; topics of that kind: {others}",
                    NO_TORQUE_KNOWN,
                )
            time.sleep(0.01)

    def state(self) -> ArmState:
        with self._lock:
            newest = self._newest
        if newest is None:
            raise DriverError(f"no joint state of the {self._side} arm has come", NO_TORQUE_KNOWN)
        return newest

    def command(self, command: ArmCommand) -> None:
        if self._plain:
            self._publisher.publish(Float64MultiArray(data=command.positions.tolist()))
            return
        stamp = self._link.clock.to_stamp(command.stamp_ns)
        self._publisher.publish(joint_state(self._names, command.positions, stamp))

    def hold(self) -> None:
        """The last target stands."""

    def close(self) -> None:
        self._owner.leave()

    def _take(self, message: Any) -> None:
        """One state. One that does not fit is left out: the states then grow old, which the limits answer."""
        try:
            positions = positions_of(message, self._names)
        except ValueError as error:
            self._problem = str(error)
            return
        state = ArmState(positions, _stamp_ns(self._link, message))
        with self._lock:
            self._newest = state


class TopicCamera:
    """One camera whose driver is a ROS node elsewhere."""

    def __init__(self, link: Link, role: str, topic: str, settings: CameraTopic, owner: _Shared) -> None:
        self._link, self._role, self._owner = link, role, owner
        self._lock = threading.Lock()
        self._newest: tuple[Any, int] | None = None  # a message and its stamp
        self._looked_at: tuple[Any, int] | None = None
        self._frame: CameraFrame | None = None
        kind = CompressedImage if settings.compressed else Image
        link.subscribe(kind, topic, self._take, quality("reliable" if settings.reliable else "best_effort"))

    def frame(self) -> CameraFrame | None:
        """The newest picture, decoded when it is asked for. After a message that is none the last one grows old."""
        with self._lock:
            newest = self._newest
        if newest is not None and newest is not self._looked_at:
            self._looked_at = newest
            message, stamp_ns = newest
            try:
                self._frame = CameraFrame(self._role, picture(message), stamp_ns)
            except ValueError as error:
                self._link.node.get_logger().warning(f"camera {self._role}: {error}", throttle_duration_sec=5.0)
        return self._frame

    def close(self) -> None:
        self._owner.leave()

    def _take(self, message: Any) -> None:
        stamp_ns = _stamp_ns(self._link, message)
        with self._lock:
            self._newest = (message, stamp_ns)


def _stamp_ns(link: Link, message: Any) -> int:
    """When a message that comes now was measured. A clock that goes ahead must not keep what it stamped young."""
    return min(link.clock.to_monotonic(message.header.stamp), time.monotonic_ns())


class _Shared:
    """One link for all arms and cameras that a process opens of a robot."""

    _open: dict[str, _Shared] = {}  # noqa: RUF012 (shared on purpose, like a bus)

    def __init__(self, name: str) -> None:
        self._name = name
        self.link = Link(f"{name}_link")
        self._users = 0

    @classmethod
    def join(cls, name: str) -> _Shared:
        if name not in cls._open:
            cls._open[name] = cls(name)
        shared = cls._open[name]
        shared._users += 1
        return shared

    def leave(self) -> None:
        self._users -= 1
        if self._users == 0:
            del self._open[self._name]
            self.link.close()


def open_arm(robot: Embodiment, side: str, clock: Callable[[], int], passive: bool = False) -> TopicArm:
    """Subscribe, and wait for the first state. Nothing is sent before the first command, so `passive` changes nothing.

    Stamps are those of the monotonic clock, which `clock` must be.
    """
    arm = robot.arms[side]
    topics = read_connection(ArmTopics, f"arms.{side}.connection", arm.connection)
    own = (*(joint.name for joint in arm.joints), *(["gripper"] if arm.gripper else []))
    names = tuple(topics.names.split()) or own
    if len(names) != arm.num_entries:
        raise ValueError(
            f"arms.{side}.connection.names has {len(names)} names for {arm.num_entries} entries {list(own)}"
        )
    shared = _Shared.join(robot.name)
    opened = TopicArm(shared.link, side, names, topics, shared)
    try:
        opened.wait()
    except BaseException:
        opened.close()
        raise
    return opened


def open_camera(robot: Embodiment, role: str, clock: Callable[[], int]) -> TopicCamera:
    """Subscribe; pictures come when they come."""
    camera = robot.cameras[role]
    settings = read_connection(CameraTopic, f"cameras.{role}.connection", camera.connection)
    topic = settings.topic or camera.source
    shared = _Shared.join(robot.name)
    return TopicCamera(shared.link, role, topic, settings, shared)
