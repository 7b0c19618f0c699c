"""Arms as ROS 2 topics: what a real driver's node does for any `Arm`, above all for the embedded robot.

<side>/joint_states   JointState out, at the node's rate
<side>/command        JointState in; by name, each joint of the arm
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import partial

import numpy as np

from data_pipeline.schema.embodiment import Embodiment
from robot_drivers.arm import Arm
from robot_drivers.messages import JointState, Link, joint_state, positions_of, quality
from robot_drivers.types import ArmCommand


def joint_names(robot: Embodiment, side: str) -> tuple[str, ...]:
    """Names in the messages of one arm: its joints, then `gripper`."""
    arm = robot.arms[side]
    return (*(joint.name for joint in arm.joints), *(["gripper"] if arm.gripper else []))


class ArmTopicServer:
    """Publishes the states of a robot's arms and hands on the commands that come. Its owner calls `publish`."""

    def __init__(self, link: Link, robot: Embodiment, arms: Mapping[str, Arm]) -> None:
        self._link, self._arms = link, dict(arms)
        self._names = {side: joint_names(robot, side) for side in arms}
        self._lock = threading.Lock()
        self._commands: dict[str, ArmCommand] = {}
        self.refused = 0  # commands that did not fit the arm
        self._publishers = {
            side: link.publish_on(JointState, f"{side}/joint_states", quality("best_effort")) for side in arms
        }
        for side in arms:
            link.subscribe(JointState, f"{side}/command", partial(self._take, side), quality("reliable"))

    def publish(self) -> None:
        """The states now."""
        for side, arm in self._arms.items():
            state = arm.state()
            stamp = self._link.clock.to_stamp(state.stamp_ns)
            self._publishers[side].publish(joint_state(self._names[side], state.positions, stamp))

    def obey(self) -> None:
        """Hand the newest commands to the arms, each once."""
        with self._lock:
            commands, self._commands = self._commands, {}
        for side, command in commands.items():
            self._arms[side].command(command)

    def _take(self, side: str, message: JointState) -> None:
        try:
            positions = positions_of(message, self._names[side])
        except ValueError:
            self.refused += 1
            return
        if not np.isfinite(positions).all():
            self.refused += 1
            return
        with self._lock:
            self._commands[side] = ArmCommand(positions, self._link.clock.to_monotonic(message.header.stamp))
