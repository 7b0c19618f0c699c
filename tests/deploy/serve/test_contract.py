"""Run: pytest tests/deploy/serve/test_contract.py"""

import dataclasses

import numpy as np
import pytest

from data_pipeline.schema.embodiment import Embodiment
from deploy.serve.contract import Contract, ContractMismatchError, native_statistics
from deploy.serve.wire import WireError, pack, unpack
from tests.deploy.serve.policies import robot


def contract(of: Embodiment) -> Contract:
    return Contract(of, horizon=5, cameras=tuple(of.cameras), history=2, image_size=64, statistics={"num_steps": 3})


@pytest.mark.parametrize("name", ["aloha_viperx", "sim_bimanual", "agilex_cobot_magic"])
def test_it_survives_the_wire(name):
    sent = contract(robot(name))
    assert Contract.from_metadata(unpack(pack(sent.metadata()))) == sent


def test_the_metadata_are_those_of_the_protocol():
    metadata = contract(robot()).metadata()
    assert metadata["protocol"] == "rdt-ws/1"
    assert metadata["action_names"][:2] == ["left_waist", "left_shoulder"]
    assert metadata["cameras"] == ["cam_high", "cam_right_wrist", "cam_left_wrist"]
    assert (metadata["action_horizon"], metadata["control_hz"], metadata["history"]) == (5, 50.0, 2)


def changed(of: Embodiment, path: str, value) -> Embodiment:
    raw = of.to_dict()
    *way, last = path.split(".")
    place = raw
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place[step]
    place[last] = value
    return Embodiment.from_dict(raw)


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("rate_hz", 25, "rate_hz: the robot has 25 Hz, the policy 50 Hz"),
        ("action_offset_steps", 1, "action_offset_steps: the robot has 1 steps, the policy 0 steps"),
        (
            "arms.left.joints.1.sign",
            -1,
            "entry 1: the robot has left_shoulder (left_arm_joint_1_pos, rad, sign -1), "
            "the policy left_shoulder (left_arm_joint_1_pos, rad, sign +1)",
        ),
        ("arms.right.joints.0.unit", "deg", "entry 7: the robot has right_waist (right_arm_joint_0_pos, deg"),
        ("arms.right.gripper.state_range", [0.1, 0.9], "right_gripper (right_gripper_joint_0_pos, state 0.1..0.9"),
        ("arms.left.gripper", None, "the robot has 13 native entries, the policy 14"),
        ("control", "eef", "control: the robot has eef, the policy joint"),
        ("control", "eef", "entry 0: the robot has left_x (left_eef_pos_x), the policy left_waist ("),
        ("cameras", {}, "camera external: the policy needs it, the robot has none"),
    ],
)
def test_a_difference_that_moves_an_arm_is_told(path, value, line):
    with pytest.raises(ContractMismatchError) as raised:
        contract(robot()).check(changed(robot(), path, value))
    assert line in str(raised.value)
    assert "rdt robot explain" in str(raised.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", "our_aloha"),
        ("arms.left.driver", "viperx"),
        ("arms.left.joints.0.velocity_limit", 0.5),
        ("cameras.external.source", "/dev/video0"),
        ("cameras", {"external": {"source": "x"}}),  # wrist cameras are optional
    ],
)
def test_another_driver_source_or_limit_is_the_same_robot(path, value):
    contract(robot()).check(changed(robot(), path, value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "openpi/9"}, "this client speaks 'rdt-ws/1'"),
        ({"protocol": None}, "this client speaks"),
        ({"robot": {"name": "x"}}, "cannot be read"),
        ({"robot": 7}, "cannot be read"),
        ({"cameras": ["cam_moon"]}, "cannot be read"),
        ({"history": 0}, "history must be a whole number"),
        ({"action_horizon": 2.5}, "horizon must be a whole number"),
        ({"statistics": [1]}, "cannot be read"),
    ],
)
def test_a_damaged_contract_is_refused(change, message):
    with pytest.raises(WireError, match=message):
        Contract.from_metadata({**contract(robot()).metadata(), **change})


def test_no_metadata_at_all_is_another_stack():
    with pytest.raises(WireError, match="rdt serve"):
        Contract.from_metadata({})


def test_statistics_come_in_native_order():
    of = robot()
    table = {"mean": list(range(128))}
    sent = native_statistics(of, {"num_episodes": 2, "num_steps": 9, "state": table, "action": table})
    assert sent["state"]["mean"] == of.slots.tolist()
    assert sent["num_steps"] == 9


def test_the_contract_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        contract(robot()).horizon = np.int64(3)
