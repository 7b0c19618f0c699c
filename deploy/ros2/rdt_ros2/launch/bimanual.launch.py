"""A robot and its policy by ROS 2's own launch, by file or from the package that colcon or pip installed:

    ros2 launch deploy/ros2/rdt_ros2/launch/bimanual.launch.py robot:=sim_bimanual policy:=runs/quickstart/checkpoint
    ros2 launch rdt_ros2 bimanual.launch.py robot:=sim_bimanual policy:=runs/quickstart/checkpoint

The processes are those of `deploy/graph.py`, which `rdt run` starts too. The policy's node comes up active and holds;
`start:=true` lets the arms move, else `ros2 service call /rdt_policy/start std_srvs/srv/Trigger` does.
When one of the processes ends, all do, and the arms hold.
"""

import sys

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from deploy.graph import node_graph, ros_environment

HANDED_ON = ("device", "instruction", "against", "leader", "record")
ARGUMENTS = {
    "robot": ("sim_bimanual", "robot YAML, by name or path"),
    "policy": ("", "a checkpoint folder, or ws://HOST:PORT of `rdt serve`"),
    "instruction": ("", "what the policy is told"),
    "device": ("auto", "auto, cpu or cuda"),
    "start": ("false", "true: let the arms move at once"),
    "against": ("", "a second policy, to compare it with"),
    "leader": ("", "robot YAML of arms with which a person takes over"),
    "record": ("", "folder for episodes, begun and ended by services"),
    "environment": ("sim_transfer", "of the simulated robot"),
    "seed": ("0", "of its first scene"),
}


def generate_launch_description():
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=words)
        for name, (default, words) in ARGUMENTS.items()
    ]
    variables = [SetEnvironmentVariable(name, value) for name, value in ros_environment().items()]
    return LaunchDescription([*declared, *variables, OpaqueFunction(function=_nodes)])


def _nodes(context):
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    robot = Embodiment.from_yaml(find_config("robots", given["robot"]))
    options = [word for name in HANDED_ON if given[name] for word in (f"--{name}", given[name])]
    graph = node_graph(
        robot,
        given["robot"],
        given["policy"],
        policy_options=(*options, "--start" if given["start"] == "true" else "--active"),
        sim_options=("--environment", given["environment"], "--seed", given["seed"]),
    )
    return [
        Node(
            executable=sys.executable,
            arguments=["-m", node.module, *node.arguments],
            output="screen",
            on_exit=Shutdown(reason=f"{node.name} has ended"),
        )
        for node in graph
    ]
