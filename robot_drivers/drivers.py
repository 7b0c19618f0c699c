"""Which driver moves which arm, and which one reads which camera: plain tables, imported on use.

A robot YAML names the driver of an arm (`driver`) and of a camera (`source`), and says under `connection` how to
reach the device. Nothing here moves an arm: what is opened holds where it is. Put it behind a guard
(`guarded_arm.py`, `bimanual.py`) before it is commanded.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import load_attribute
from robot_drivers.arm import Arm
from robot_drivers.camera import Camera

Clock = Callable[[], int]
"""Now, in integer ns of a clock that never jumps: the loop's."""

ARMS = {
    "viperx": "robot_drivers.viperx:open_arm",
    "piper": "robot_drivers.piper:open_arm",
    "ur5e": "robot_drivers.ur5e:open_arm",
    "ros_topics": "robot_drivers.ros_topics:open_arm",
    "sim": "robot_drivers.sim.live:open_arm",
}
CAMERAS = {
    "realsense": "robot_drivers.realsense:open_camera",
    "v4l2": "robot_drivers.v4l2:open_camera",
    "ros_topics": "robot_drivers.ros_topics:open_camera",
    "sim": "robot_drivers.sim.live:open_camera",
}


def open_arm(robot: Embodiment, side: str, clock: Clock = time.monotonic_ns, passive: bool = False) -> Arm:
    """Connect to one arm, which holds where it is from then on.

    `passive` only looks: no motor is given torque and none is told anything, so an arm without torque can be moved by
    hand. Such an arm takes no command, and its `hold` leaves it as it is.

    Raises `ValueError` for a driver or a connection that does not exist, `ModuleNotFoundError` with the words that
    install a missing SDK, and `DriverError` where the arm does not answer as it should.
    """
    robot.arm_slice(side)  # names the sides that exist
    return load_attribute("arm driver", robot.arms[side].driver, ARMS)(robot, side, clock, passive)


def open_camera(robot: Embodiment, role: str, clock: Clock = time.monotonic_ns) -> Camera:
    """Connect to one camera. Raises what `open_arm` raises."""
    if role not in robot.cameras:
        raise ValueError(f"robot {robot.name!r} has cameras {list(robot.cameras)}, not {role!r}")
    source = "sim" if robot.is_simulated else robot.cameras[role].source  # it then names a camera of the scene
    source = "ros_topics" if source.startswith("/") else source
    return load_attribute("camera source", source, CAMERAS)(robot, role, clock)
