"""The section `kinematics` of a robot YAML: plain, strict, beside its file.

Run: pytest tests/data_pipeline/schema/test_kinematics.py
"""

import dataclasses
import json
import math

import pytest
import yaml

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.kinematics import Kinematics
from deploy.bench_loop_parts import with_kinematics
from tests.robots import bimanual

RAW = {"arms": {"left": {"model": "arm.urdf", "tool_frame": "hand"}}}


def test_what_is_not_said_limits_nothing_but_the_distances():
    kinematics = Kinematics.from_dict(RAW)
    assert kinematics.box_high_m == (math.inf,) * 3
    assert (kinematics.tools_apart_m, kinematics.links_apart_m) == (0.08, 0.02)
    assert kinematics.to_dict() == RAW


def test_it_travels_with_the_robot_as_plain_types_and_is_no_part_of_its_identity():
    robot = with_kinematics(bimanual())
    again = Embodiment.from_dict(json.loads(json.dumps(robot.to_dict())))
    assert again.kinematics == robot.kinematics
    assert robot == bimanual()
    assert "kinematics" not in bimanual().to_dict()


def test_a_model_lies_beside_the_yaml(tmp_path):
    robot = {**bimanual().to_dict(), "kinematics": RAW}
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(robot))
    read = Embodiment.from_yaml(tmp_path / "robot.yaml")
    assert read.kinematics.arms["left"].model == str(tmp_path.resolve() / "arm.urdf")
    absolute = dataclasses.replace(read.kinematics.arms["left"], model="/models/arm.urdf")
    kinematics = dataclasses.replace(read.kinematics, arms={"left": absolute}).beside(tmp_path)
    assert kinematics.arms["left"].model == "/models/arm.urdf"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"box": 1}, "box"),
        ({"box_low_m": [0, 0]}, "kinematics.box_low_m must be three numbers"),
        ({"box_low_m": [0, 0, 1], "box_high_m": [1, 1, 1]}, "must lie below"),
        ({"tools_apart_m": -0.1}, "tools_apart_m must not be negative"),
        ({"arms": {"left": {"model": "arm.urdf"}}}, "kinematics.arms.left lacks .'tool_frame'"),
        ({"arms": {"right": RAW["arms"]["left"], "middle": RAW["arms"]["left"]}}, "kinematics.arms.middle"),
        ({"arms": {"left": {**RAW["arms"]["left"], "joints": ["a"]}}}, "must name 6 joints"),
    ],
)
def test_what_is_wrong_is_said_by_key(change, message):
    with pytest.raises(ValueError, match=message):
        Embodiment.from_dict({**bimanual().to_dict(), "kinematics": {**RAW, **change}})
