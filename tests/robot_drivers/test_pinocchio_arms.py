"""Two ViperX by Pinocchio, against MuJoCo's kinematics of the simulated ones.

Run: pytest tests/robot_drivers/test_pinocchio_arms.py
"""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.schema.embodiment import Embodiment
from deploy.bench_loop_parts import with_kinematics
from robot_drivers.bimanual import Bimanual
from robot_drivers.guarded_arm import GuardedArm
from robot_drivers.limits.chain import LimitSettings
from tests.robots import ObedientArm, bimanual

pytest.importorskip("pinocchio")
from robot_drivers.pinocchio_arms import PinocchioArms

T = 20_000_000
ROBOT = with_kinematics(bimanual())
HOME = np.tile([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.5], 2)


def changed(**rules):
    raw = ROBOT.to_dict()
    return Embodiment.from_dict({**raw, "kinematics": {**raw["kinematics"], **rules}})


@pytest.fixture(scope="module")
def arms():
    return PinocchioArms(ROBOT, ["left", "right"])


def test_tools_are_where_mujoco_finds_them(arms):
    pytest.importorskip("mujoco")
    from robot_drivers.sim.kinematics import ArmKinematics

    truth = [ArmKinematics(side) for side in ("left", "right")]
    rng = np.random.default_rng(0)
    for _ in range(50):
        native = rng.uniform(-1.2, 1.2, 14)
        expected = [arm.tool_pose(q)[0] for arm, q in zip(truth, (native[:6], native[7:13]), strict=True)]
        assert arms.tools(native) == pytest.approx(np.array(expected), abs=2e-5)


def test_room_is_the_distance_to_the_box_and_between_the_tools(arms):
    left, right = arms.tools(HOME)
    room = arms.room(HOME)
    assert room[0] == pytest.approx(min(left[2] - 0.02, 0.8 - left[2]))
    assert room[2] == pytest.approx(np.linalg.norm(left - right) - 0.08)


def test_links_that_cross_are_seen_where_tools_are_far_apart():
    near = changed(links_apart_m=0.0, link_radius_m=0.05)
    raw = near.to_dict()
    raw["kinematics"]["arms"]["right"]["base_m"] = [-0.469, 0.7, 0.0]  # 0.2 m beside the left one, facing away
    arms = PinocchioArms(Embodiment.from_dict(raw), ["left", "right"])
    assert arms.room(HOME)[3] == pytest.approx(0.2 - 2 * 0.05, abs=0.02)
    turned = HOME + np.where(np.arange(14) % 7 == 0, math.pi / 2, 0.0)
    assert arms.room(turned)[2] > 0.2
    turned[1] = turned[8] = 0.0
    assert arms.room(turned)[3] < arms.room(HOME)[3]


def test_one_arm_has_its_box_alone():
    one = PinocchioArms(ROBOT, ["right"])
    assert one.room(HOME[7:]).shape == (1,)
    assert one.sway.shape == (1, 7)
    assert one.tools(HOME[7:])[0] == pytest.approx(PinocchioArms(ROBOT, ["left", "right"]).tools(HOME)[1])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_no_joint_uses_up_more_room_than_its_sway(arms, seed):
    rng = np.random.default_rng(seed)
    here = rng.uniform(-1.5, 1.5, 14)
    step = rng.uniform(-0.3, 0.3, 14)
    assert (arms.room(here) - arms.room(here + step) <= arms.sway @ np.abs(step) + 1e-9).all()


def test_a_model_that_lacks_something_says_what_it_has():
    arm = ROBOT.to_dict()["kinematics"]["arms"]["left"]
    for key, value, message in (
        ("tool_frame", "gripper", "tool_frame: .*has .*'gripper_link'.*not 'gripper'"),
        ("joints", [*"abcdef"], "model has joints .*'waist'.*not 'a'"),
        ("model", "/nonexistent.urdf", "there is no file /nonexistent.urdf"),
    ):
        with pytest.raises(ValueError, match=message):
            PinocchioArms(changed(arms={"left": {**arm, key: value}}), ["left", "right"])


def test_joints_without_an_end_turn_alike_and_sliding_ones_are_refused(arms, tmp_path):
    arm = ROBOT.to_dict()["kinematics"]["arms"]["left"]
    text = Path(arm["model"]).read_text()
    file = tmp_path / "arm.urdf"
    file.write_text(text.replace('name="waist" type="revolute"', 'name="waist" type="continuous"'))
    turning = PinocchioArms(changed(arms={"left": {**arm, "model": str(file)}}), ["left", "right"])
    native = np.random.default_rng(1).uniform(-1, 1, 14)
    assert turning.tools(native)[0] == pytest.approx(arms.tools(native)[0])
    file.write_text(text.replace('name="waist" type="revolute"', 'name="waist" type="prismatic"'))
    with pytest.raises(ValueError, match="joint 'waist' slides"):
        PinocchioArms(changed(arms={"left": {**arm, "model": str(file)}}), ["left", "right"])


def test_the_kinematics_of_a_robot_switch_the_limit_on():
    body = Bimanual(ROBOT, {"left": ObedientArm(HOME[:7]), "right": ObedientArm(HOME[7:])})
    assert body._guard._limits[-1].name == "workspace"
    assert GuardedArm.of(ROBOT, "left", ObedientArm(HOME[:7]))._limits[-1].name == "workspace"
    assert GuardedArm.of(bimanual(), "left", ObedientArm(HOME[:7]))._limits[-1].name == "acceleration"


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_two_arms_under_wild_commands_stay_in_their_workspace(arms, seed):
    """Random goals for a while each: neither the table, nor the other arm."""
    fakes = {"left": ObedientArm(HOME[:7]), "right": ObedientArm(HOME[7:])}
    body = Bimanual(ROBOT, fakes, LimitSettings(approach_rad_s=math.inf))
    rng = np.random.default_rng(seed)
    for k in range(240):
        if k % 40 == 0:
            goal = HOME + rng.uniform(-1.5, 1.5, 14)
        for fake in fakes.values():
            fake.now_ns = k * T
        body.command(goal, (k + 1) * T)
        assert arms.room(body.set_point).min() >= -0.01
