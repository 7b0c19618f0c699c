"""Which processes a robot needs on ROS 2, said once: `rdt run` starts them, and so does the launch file.

A robot of the embedded simulator gets the simulator's node, and its arms and cameras are then reached over topics like
those of any other robot; one whose YAML names topics needs the policy node alone.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from data_pipeline.schema.embodiment import Arm, Camera, Embodiment

SIM_MODULE, POLICY_MODULE = "robot_drivers.sim.node", "deploy.node"
POLICY_NAME = "rdt_policy"
ROS_PACKAGE = Path(str(files("deploy") / "ros2" / "rdt_ros2"))
"""What `colcon build` and `ros2 launch` read: the one launch file, the one transport profile."""


@dataclass(frozen=True)
class NodeProcess:
    """A process to start: `python -m module *arguments`. When one ends, all do."""

    name: str
    module: str
    arguments: tuple[str, ...]


def uses_ros(robot: Embodiment) -> bool:
    """Whether the robot is reached over topics: some arm says so, or the simulator's node stands for it."""
    return robot.is_simulated or any(arm.driver == "ros_topics" for arm in robot.arms.values())


def over_topics(robot: Embodiment) -> Embodiment:
    """A simulated robot as the simulator's node shows it; any other one as it is."""
    if not robot.is_simulated:
        return robot
    arms = {
        side: Arm(
            "ros_topics",
            arm.joints,
            arm.gripper,
            {"state": f"/{robot.name}/{side}/joint_states", "command": f"/{robot.name}/{side}/command"},
        )
        for side, arm in robot.arms.items()
    }
    cameras = {
        role: Camera(f"/{robot.name}/cameras/{role}/image_raw", camera.required, camera.latency_s)
        for role, camera in robot.cameras.items()
    }
    return dataclasses.replace(robot, arms=arms, cameras=cameras)


def node_graph(
    robot: Embodiment, robot_path: str, policy: str, *, policy_options: tuple[str, ...], sim_options: tuple[str, ...]
) -> list[NodeProcess]:
    """The processes of a robot, the body before the mind."""
    graph = []
    if robot.is_simulated:
        graph.append(NodeProcess("sim_robot", SIM_MODULE, ("--robot", robot_path, *sim_options)))
    graph.append(NodeProcess(POLICY_NAME, POLICY_MODULE, ("--robot", robot_path, "--policy", policy, *policy_options)))
    return graph


def ros_environment() -> dict[str, str]:
    """Variables of all processes: this machine alone unless said otherwise, and the transport that carries pictures."""
    return {
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "FASTDDS_DEFAULT_PROFILES_FILE": str(dds_profile()),
    }


def dds_profile() -> Path:
    """The shipped Fast DDS profile (spec robot_ros2.md section 1.5)."""
    return ROS_PACKAGE / "config" / "fastdds.xml"
