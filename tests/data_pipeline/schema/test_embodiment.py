"""pytest tests/data_pipeline/schema/test_embodiment.py"""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.schema.embodiment import SIDES, UNITS, Arm, Embodiment, Gripper, Joint
from data_pipeline.schema.layout import NUM_SLOTS, SLOT_NAMES
from data_pipeline.schema.registry import configs_dir

SHIPPED = sorted((configs_dir() / "robots").glob("*.yaml"))
FREE_SLOTS = [name for name in SLOT_NAMES if not name.startswith("reserved")]

TWO_JOINTS = """
name: tiny
rate_hz: 10
arms:
  right:
    driver: fake
    joints:
      - {name: a, slot: arm_joint_0_pos, unit: deg, sign: -1, limits: [-1, 1]}
      - {name: b, slot: arm_joint_1_pos, velocity_limit: 2}
    gripper: {slot: gripper_open, state_range: [0.2, 1.2], action_range: [10, 0]}
cameras:
  external: {source: cam}
"""


@st.composite
def ranges(draw) -> tuple[float, float]:
    """(closed, open), of either direction, not absurdly narrow for their size."""
    closed = draw(st.floats(-100, 100))
    width = draw(st.floats(0.01, 100)) * draw(st.sampled_from([1, -1]))
    return closed, closed + width


@st.composite
def robots(draw) -> Embodiment:
    """Any embodiment: one arm or two, any free slots, units, signs and gripper ranges."""
    sides = draw(st.permutations(SIDES))[: draw(st.integers(1, 2))]
    slots = draw(st.permutations(FREE_SLOTS))
    arms = {}
    for side in sides:
        num_joints = draw(st.integers(0, 7))
        joints = tuple(
            Joint(
                name=f"joint{i}",
                slot=slots.pop(),
                unit=draw(st.sampled_from(sorted(UNITS))),
                sign=draw(st.sampled_from([1, -1])),
            )
            for i in range(num_joints)
        )
        gripper = None
        if num_joints == 0 or draw(st.booleans()):
            gripper = Gripper(slot=slots.pop(), state_range=draw(ranges()), action_range=draw(ranges()))
        arms[side] = Arm(driver="fake", joints=joints, gripper=gripper)
    return Embodiment(name="any", rate_hz=draw(st.floats(1, 500)), arms=arms)


@given(robot=robots(), seed=st.integers(0, 99), kind=st.sampled_from(["state", "action"]))
def test_native_to_unified_and_back(robot, seed, kind):
    native = np.random.default_rng(seed).uniform(-200, 200, (2, 3, robot.num_native))
    vector, mask = robot.to_unified(native, kind=kind)
    assert vector.dtype == np.float32 and vector.shape == (2, 3, NUM_SLOTS)
    assert np.isfinite(vector).all() and not vector[..., ~mask].any()
    # float32 slots hold seven digits of the value and of the gripper's offset (|closed| <= 100)
    np.testing.assert_allclose(robot.from_unified(vector, kind=kind), native, atol=1e-4)


@given(robot=robots(), seed=st.integers(0, 99), kind=st.sampled_from(["state", "action"]))
def test_unified_to_native_and_back(robot, seed, kind):
    vector = np.random.default_rng(seed).uniform(-3, 3, (4, NUM_SLOTS)).astype(np.float32) * robot.mask
    again, mask = robot.to_unified(robot.from_unified(vector, kind=kind), kind=kind)
    np.testing.assert_allclose(again, vector, atol=1e-6)
    assert mask.sum() == robot.num_native == len(robot.native_names)


@given(robot=robots())
def test_yaml_and_json_keep_a_robot(robot):
    plain = robot.to_dict()
    assert Embodiment.from_dict(yaml.safe_load(yaml.safe_dump(plain))) == robot
    assert Embodiment.from_dict(json.loads(json.dumps(plain, allow_nan=False))) == robot


@given(robot=robots())
def test_arm_slices_tile_the_native_vector(robot):
    covered = [i for side in robot.arms for i in range(*robot.arm_slice(side).indices(robot.num_native))]
    assert covered == list(range(robot.num_native))


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_shipped_robots_load(path):
    robot = Embodiment.from_yaml(path)
    assert robot.name == path.stem
    assert Embodiment.from_dict(robot.to_dict()) == robot
    assert set(robot.cameras) and all(np.isfinite(j.limits).all() for a in robot.arms.values() for j in a.joints)


@pytest.mark.parametrize("name", ["sim_bimanual", "aloha_viperx", "agilex_cobot_magic"])
def test_bimanual_robots_fill_the_published_slots(name):
    robot = Embodiment.from_yaml(configs_dir() / "robots" / f"{name}.yaml")
    assert robot.slots.tolist() == [50, 51, 52, 53, 54, 55, 60, 0, 1, 2, 3, 4, 5, 10]


def test_agilex_grippers_differ_between_state_and_action():
    robot = Embodiment.from_yaml(configs_dir() / "robots" / "agilex_cobot_magic.yaml")
    native = np.ones(14)
    state, _ = robot.to_unified(native, kind="state")
    action, _ = robot.to_unified(native, kind="action")
    np.testing.assert_allclose([state[60], state[10]], [1 / 4.7908, 1 / 4.7888], rtol=1e-6)
    np.testing.assert_allclose([action[60], action[10]], [1 / 11.8997, 1 / 13.9231], rtol=1e-6)


def test_units_signs_and_ranges():
    robot = Embodiment.from_dict(yaml.safe_load(TWO_JOINTS))
    state, mask = robot.to_unified(np.array([180.0, 0.5, 0.7]))
    np.testing.assert_allclose(state[[0, 1, 10]], [-np.pi, 0.5, 0.5], rtol=1e-6)
    action, _ = robot.to_unified(np.array([0.0, 0.0, 10.0]), kind="action")
    assert action[10] == 0 and np.flatnonzero(mask).tolist() == [0, 1, 10]


def test_mask_and_slots_cannot_be_written():
    robot = Embodiment.from_dict(yaml.safe_load(TWO_JOINTS))
    for array in (robot.mask, robot.slots, robot.to_unified(np.zeros(3))[1]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_wrong_width_names_the_order():
    robot = Embodiment.from_dict(yaml.safe_load(TWO_JOINTS))
    with pytest.raises(ValueError, match=r"has 3 native entries, got 2.*right_a.*right_gripper"):
        robot.to_unified(np.zeros((5, 2)))
    with pytest.raises(ValueError, match="got a scalar"):
        robot.to_unified(np.float64(1))
    with pytest.raises(ValueError, match="128 slots"):
        robot.from_unified(np.zeros(3))
    with pytest.raises(ValueError, match="kind must be"):
        robot.to_unified(np.zeros(3), kind="command")
    with pytest.raises(ValueError, match="has arms"):
        robot.arm_slice("left")


def _set(path: str, value):
    """An edit of the robot mapping: `arms.right.joints.0.unit` = value."""

    def edit(raw):
        *parents, last = (int(key) if key.isdigit() else key for key in path.split("."))
        for key in parents:
            raw = raw[key]
        raw[last] = value

    return edit


BROKEN = {
    "unknown key": (_set("rate", 10), "unknown key 'rate'.*did you mean 'rate_hz'"),
    "unknown joint key": (_set("arms.right.joints.0.units", "rad"), r"joints\[0\].*did you mean 'unit'"),
    "unknown slot": (
        _set("arms.right.joints.0.slot", "arm_joint_0_poss"),
        "'a'.*did you mean 'arm_joint_0_pos'",
    ),
    "reserved slot": (_set("arms.right.joints.0.slot", "reserved_45"), "is reserved"),
    "slot twice": (_set("arms.right.joints.1.slot", "right_arm_joint_0_pos"), "used twice.*'a'.*'b'"),
    "name twice": (_set("arms.right.joints.1.name", "a"), "names 'a' twice"),
    "unit": (_set("arms.right.joints.0.unit", "grad"), "unit must be one of"),
    "sign": (_set("arms.right.joints.0.sign", 2), "sign must be 1 or -1"),
    "limits turned": (_set("arms.right.joints.0.limits", [1, -1]), "low < high"),
    "limits single": (_set("arms.right.joints.0.limits", 1), "two numbers"),
    "limits text": (_set("arms.right.joints.0.limits", ["a", 1]), "must be a number"),
    "speed text": (
        _set("arms.right.joints.1.velocity_limit", "1e3"),
        "must be a number, got '1e3'.*exponents",
    ),
    "speed zero": (_set("arms.right.joints.1.velocity_limit", 0), "must be positive"),
    "gripper range": (_set("arms.right.gripper.state_range", [1, 1]), "two different numbers"),
    "gripper infinite": (_set("arms.right.gripper.action_range", [0, float("inf")]), "two different numbers"),
    "joints missing": (_set("arms.right.joints", None), "must be a list of joints"),
    "empty arm": (_set("arms.right", {"driver": "fake", "joints": []}), "neither joints nor a gripper"),
    "third arm": (_set("arms.middle", {"driver": "fake", "joints": []}), "neither|one or both"),
    "role": (_set("cameras.overhead", {"source": "x"}), "cameras must be among"),
    "latency": (_set("cameras.external.latency_s", -1), "must not be negative"),
    "rate": (_set("rate_hz", -5), "rate_hz must be positive"),
    "control": (_set("control", "torque"), "control must be joint or eef"),
    "offset": (_set("action_offset_steps", -1), "whole number of steps"),
    "missing driver": (_set("arms.right", {"joints": []}), r"arms.right lacks \['driver'\]"),
    "no arms": (_set("arms", None), "arms must be a mapping"),
    "cameras in a list": (_set("cameras", ["external"]), "cameras must be a mapping"),
    "not a mapping": (_set("arms.right", 3), "must be a mapping"),
}


@pytest.mark.parametrize(("edit", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_yaml_names_file_and_key(tmp_path, edit, message):
    raw = copy.deepcopy(yaml.safe_load(TWO_JOINTS))
    edit(raw)
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    with pytest.raises(ValueError, match=f"robot.yaml.*({message})"):
        Embodiment.from_yaml(path)


def test_text_that_is_not_yaml(tmp_path):
    path = tmp_path / "robot.yaml"
    path.write_text("name: [", encoding="utf-8")
    with pytest.raises(ValueError, match=r"robot.yaml is not valid YAML"):
        Embodiment.from_yaml(path)
    path.write_text("- a", encoding="utf-8")
    with pytest.raises(ValueError, match="must hold a mapping"):
        Embodiment.from_yaml(path)


def test_a_connection_comes_through_and_does_not_make_another_robot():
    raw = yaml.safe_load(TWO_JOINTS)
    bare = Embodiment.from_dict(raw)
    raw["arms"]["right"]["connection"] = {"port": "/dev/ttyUSB0"}
    raw["cameras"]["external"]["connection"] = {"fps": 30}
    robot = Embodiment.from_dict(Embodiment.from_dict(raw).to_dict())
    assert robot.arms["right"].connection == {"port": "/dev/ttyUSB0"}
    assert robot.cameras["external"].connection == {"fps": 30}
    assert robot == bare
    assert "connection" not in str(bare.to_dict())


def test_a_connection_must_be_a_mapping():
    raw = yaml.safe_load(TWO_JOINTS)
    raw["arms"]["right"]["connection"] = "/dev/ttyUSB0"
    with pytest.raises(ValueError, match=r"arms\.right\.connection must be a mapping"):
        Embodiment.from_dict(raw)


def test_a_robot_is_simulated_only_if_all_of_it_is():
    raw = yaml.safe_load((configs_dir() / "robots" / "sim_bimanual.yaml").read_text(encoding="utf-8"))
    assert Embodiment.from_dict(raw).is_simulated
    raw["arms"]["left"]["driver"] = "viperx"
    assert not Embodiment.from_dict(raw).is_simulated


def _eef() -> dict:
    raw = yaml.safe_load(TWO_JOINTS)
    raw["control"] = "eef"
    for joint in raw["arms"]["right"]["joints"]:
        del joint["slot"]
    return raw


def test_under_control_eef_native_vectors_are_tool_poses():
    robot = Embodiment.from_dict(_eef())
    assert robot.native_names[:3] == ("right_x", "right_y", "right_z")
    assert robot.native_names[-1] == "right_gripper"
    assert robot.slots.tolist() == [*range(30, 39), 10]
    native = np.arange(10, dtype=np.float64)
    vector, _ = robot.to_unified(native, "action")
    np.testing.assert_allclose(vector[30:39], native[:9])
    np.testing.assert_allclose(robot.from_unified(vector), native, atol=1e-6)
    assert Embodiment.from_dict(robot.to_dict()) == robot


def test_the_motors_of_a_robot_under_eef_are_told_joints():
    robot = Embodiment.from_dict(_eef())
    assert robot.motors.native_names == ("right_a", "right_b", "right_gripper")
    assert robot.motors.slots.tolist() == [0, 1, 10]
    joints = Embodiment.from_dict(yaml.safe_load(TWO_JOINTS))
    assert joints.motors is joints


def test_joints_with_slots_are_part_of_what_a_policy_sees():
    robot = Embodiment.from_dict({**yaml.safe_load(TWO_JOINTS), "control": "eef"})
    assert robot.native_names[-3:] == ("right_gripper", "right_a", "right_b")
    assert robot.slots.tolist() == [*range(30, 39), 10, 0, 1]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_set("control", "joint"), r"joints lack a slot: \['a', 'b'\]"),
        (_set("arms.right.joints.0.slot", "arm_joint_0_pos"), r"joints lack a slot: \['b'\].*all of an arm's"),
        (_set("arms.right.joints", []), "no joints to bring its tool anywhere"),
        (_set("arms.right.gripper.slot", "eef_pos_x"), "used twice.*right's tool.*gripper"),
    ],
)
def test_what_control_and_slots_must_agree_on(edit, message):
    raw = _eef()
    edit(raw)
    with pytest.raises(ValueError, match=message):
        Embodiment.from_dict(raw)
