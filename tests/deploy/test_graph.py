"""Run: pytest tests/deploy/test_graph.py"""

import runpy
import xml.etree.ElementTree as ET

import pytest

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from deploy.graph import POLICY_MODULE, ROS_PACKAGE, SIM_MODULE, dds_profile, node_graph, over_topics, uses_ros


def robot(name: str) -> Embodiment:
    return Embodiment.from_yaml(find_config("robots", name))


@pytest.mark.parametrize(
    ("name", "modules"), [("sim_bimanual", [SIM_MODULE, POLICY_MODULE]), ("aloha_viperx", [POLICY_MODULE])]
)
def test_the_body_comes_before_the_mind(name, modules):
    graph = node_graph(robot(name), name, "runs/x", policy_options=("--start",), sim_options=("--seed", "3"))
    assert [node.module for node in graph] == modules
    assert graph[-1].arguments == ("--robot", name, "--policy", "runs/x", "--start")


def test_a_simulated_robot_is_reached_over_topics_and_is_else_the_same():
    before = robot("sim_bimanual")
    after = over_topics(before)
    assert {arm.driver for arm in after.arms.values()} == {"ros_topics"}
    assert after.native_names == before.native_names
    assert after.cameras["external"].source == "/sim_bimanual/cameras/external/image_raw"
    assert Embodiment.from_dict(after.to_dict()) == after


@pytest.mark.parametrize(("name", "ros"), [("sim_bimanual", True), ("aloha_viperx", True), ("piper_pair", False)])
def test_only_robots_on_topics_need_ros(name, ros):
    assert uses_ros(robot(name)) is ros
    assert (over_topics(robot(name)) == robot(name)) is (name != "sim_bimanual")


def test_the_shipped_transport_has_room_for_a_raw_picture():
    space = {"dds": "http://www.eprosima.com"}
    descriptors = ET.parse(dds_profile()).getroot().findall(".//dds:transport_descriptor", space)
    segments = [int(size.text) for d in descriptors if (size := d.find("dds:segment_size", space)) is not None]
    assert segments and min(segments) > 4 * 640 * 480 * 3


def test_the_launch_file_starts_the_graph_and_declares_what_it_takes():
    pytest.importorskip("launch_ros", reason="comes with an installation of ROS 2, not with the extra `ros2`")
    from launch import LaunchContext
    from launch.actions import DeclareLaunchArgument, OpaqueFunction

    said = runpy.run_path(str(ROS_PACKAGE / "launch" / "bimanual.launch.py"))
    description, context = said["generate_launch_description"](), LaunchContext()
    declared = [entity for entity in description.entities if isinstance(entity, DeclareLaunchArgument)]
    assert {entity.name for entity in declared} == set(said["ARGUMENTS"])
    for entity in declared:
        entity.execute(context)
    (nodes,) = (entity for entity in description.entities if isinstance(entity, OpaqueFunction))
    assert len(nodes.execute(context)) == 2  # of the simulated robot: the body, the mind
