"""A newcomer's first meeting, rehearsed on the embedded robot and on arms that are wrong.

Run: pytest tests/deploy/test_robot_check.py
"""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
from PIL import Image

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config, read_yaml
from deploy import robot_check
from deploy.bench_loop_parts import with_kinematics
from deploy.cli import main
from deploy.robot_check import MOST_RAD, Check, Person
from robot_drivers.arm import ArmFacts
from robot_drivers.errors import DriverError
from robot_drivers.types import ArmCommand, ArmState, CameraFrame
from tests.robot_drivers.emulators.dynamixel import TORQUE, ServoBank

ROBOT = Embodiment.from_yaml(find_config("robots", "sim_bimanual"))
HOME = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.5])
LIMITS = np.array([joint.limits for joint in ROBOT.arms["left"].joints])


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_ns = 10**9

    def __call__(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


class FakeArm:
    """Follows at once, by `gains` joint by joint; `order` mixes them up."""

    def __init__(self, clock: Clock, passive: bool) -> None:
        self.clock, self.passive = clock, passive
        self.positions, self.limits = HOME.copy(), LIMITS
        self.gains, self.order = np.ones(7), list(range(7))
        self.told, self.holds, self.closed, self.broken = [], 0, False, None

    def state(self) -> ArmState:
        if self.broken:
            raise self.broken
        return ArmState(self.positions.copy(), self.clock())

    def command(self, command: ArmCommand) -> None:
        assert not self.passive
        self.told.append(command.positions)
        self.positions = HOME + (self.gains * (command.positions - HOME))[self.order]

    def hold(self) -> None:
        self.holds += 1

    def close(self) -> None:
        self.closed = True

    def facts(self) -> ArmFacts:
        return ArmFacts(("motor 1: 12.1 V",), self.limits)


class FakeCamera:
    def __init__(self, clock: Clock) -> None:
        self.clock, self.fps, self.value = clock, 25, 120

    def frame(self) -> CameraFrame | None:
        if not self.fps:
            return None
        count = self.clock() * self.fps // 10**9
        return CameraFrame("external", np.full((8, 10, 3), self.value, np.uint8), count * 10**9 // self.fps)

    def close(self) -> None:
        pass


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """Opens fakes instead of drivers; `prepare` changes an arm before it is looked at."""

    class Bench:
        clock, said, arms, answers = Clock(), [], [], itertools.repeat("")
        camera, robot = None, ROBOT

        def prepare(self, arm):
            pass

        def ask(self, question):
            self.said.append(question)
            return next(self.answers)

        def run(self, **options):
            person = Person(self.said.append, self.ask)
            check = Check(self.robot, tmp_path, person=person, clock=self.clock, sleep=self.clock.sleep, **options)
            return {finding.what: finding for finding in check.run("left")}

    bench = Bench()
    bench.camera = FakeCamera(bench.clock)

    def open_arm(robot, side, clock, passive):
        arm = FakeArm(clock, passive)
        bench.prepare(arm)
        bench.arms.append(arm)
        return arm

    monkeypatch.setattr(robot_check, "open_arm", open_arm)
    monkeypatch.setattr(robot_check, "open_camera", lambda robot, role, clock: bench.camera)
    return bench


def test_a_sound_robot_moves_by_less_than_was_stated(bench, tmp_path):
    found = bench.run(wiggle=True, yes=True)
    assert {name: finding.verdict for name, finding in found.items()} == dict.fromkeys(
        ["left connection", "left readings", "left limits", "left gripper", "left directions", "camera external"], "ok"
    )
    (arm,) = bench.arms
    moved = np.abs(np.array(arm.told) - HOME)
    assert 0.02 < moved.max() <= MOST_RAD
    assert (moved[:, :6].max(axis=0) > 0.02).all()
    assert moved[:, 6].max() == 0  # the gripper stays
    assert ((moved > 1e-9).sum(axis=1) <= 1).all()  # one joint at a time
    assert arm.closed
    assert any("holds, with torque" in words for words in bench.said)
    assert "10x8, 25 fps" in found["camera external"].words
    assert Image.open(tmp_path / "external.png").size == (10, 8)
    assert "  motor 1: 12.1 V" in bench.said


def test_without_wiggle_nothing_is_told_to_any_motor(bench):
    found = bench.run(yes=True)
    (arm,) = bench.arms
    assert arm.passive
    assert arm.told == []
    assert found["left directions"].verdict == "not checked"


def test_a_no_is_a_no(bench):
    bench.answers = itertools.repeat("n")
    found = bench.run(wiggle=True)
    assert bench.arms[0].passive
    assert "did not agree" in found["left directions"].words
    assert any("at most 0.05 rad (2.9 deg)" in words for words in bench.said)


def test_a_joint_that_goes_the_wrong_way_and_two_that_are_swapped_are_named(bench):
    bench.prepare = lambda arm: arm.gains.__setitem__(3, -1.0)
    words = bench.run(wiggle=True, yes=True)["left directions"].words
    assert "forearm_roll did not go the way it was told" in words
    assert "waist" not in words
    bench.prepare = lambda arm: arm.order.__setitem__(slice(0, 2), [1, 0])
    words = bench.run(wiggle=True, yes=True)["left directions"].words
    assert "waist did not go the way it was told, while shoulder did" in words


def test_an_arm_that_goes_farther_than_stated_is_held(bench):
    bench.prepare = lambda arm: arm.gains.__setitem__(1, 3.0)
    found = bench.run(wiggle=True, yes=True)
    assert "shoulder moved by 0.05" in found["left arm"].words
    (arm,) = bench.arms
    last = np.array(arm.told)[-5:, 1]
    assert abs(last[-1] - last[-2]) < 1e-9  # braked to a stand
    assert arm.closed


def test_ctrl_c_holds_the_arm(bench):
    ticks = itertools.count()

    def interrupted(seconds):
        bench.clock.now_ns += round(seconds * 1e9)
        if next(ticks) == 60:
            raise KeyboardInterrupt

    bench.clock.sleep = interrupted
    with pytest.raises(KeyboardInterrupt):
        bench.run(wiggle=True, yes=True)
    (arm,) = bench.arms
    steps = np.abs(np.diff(np.array(arm.told), axis=0)).max(axis=1)
    assert steps[-1] == 0
    assert arm.closed


def test_hands_move_joints_and_the_check_says_what_it_saw(bench):
    joints = iter([0, 1, 2, 4, 4, 5])  # instead of joint 3, joint 4 is moved
    ends = iter([0.02, 0.6])

    def by_hand(question):
        bench.said.append(question)
        if "gripper" in question:
            bench.arms[0].positions[6] = next(ends)
            return ""
        joint = next(joints)
        bench.arms[0].positions[joint] += math.radians(-4.8 if joint == 2 else 4.8)
        return ""

    bench.ask = by_hand
    found = bench.run()
    words = found["left directions"].words
    assert "write [0.0200, 0.6000]" in found["left gripper range"].words
    assert "    I saw +4.8 deg on waist." in bench.said
    assert words == (
        "elbow runs backwards: set its `sign` to -1; "
        "forearm_roll was moved, wrist_angle was seen: the order of joints is wrong"
    )
    assert bench.arms[0].told == []


def test_nobody_at_the_terminal_is_no_answer(bench):
    def nobody(question):
        raise EOFError

    bench.ask = nobody
    assert bench.run()["left directions"].words == "0 of 6 joints were moved"
    assert bench.run(wiggle=True)["left directions"].verdict == "not checked"


def test_readings_limits_and_grippers_that_are_wrong_say_what_to_change(bench):
    def wrong(arm):
        arm.positions = np.degrees(HOME)
        arm.limits = LIMITS * 0.5

    bench.prepare = wrong
    found = bench.run(wiggle=True, yes=True)
    assert "shoulder -55.004 outside -1.850 to +1.257" in found["left readings"].words
    assert "narrow the YAML" in found["left limits"].words
    assert "2865 % open" in found["left gripper"].words
    assert "stands outside its limits" in found["left directions"].words
    assert bench.arms[0].told == []


def test_an_arm_that_fails_on_the_way_is_a_row_and_the_cameras_are_still_looked_at(bench):
    def fail(arm):
        arm.broken = DriverError("the bus is gone: check the cable", "in an unknown state")

    bench.prepare = fail
    found = bench.run(yes=True)
    assert "check the cable" in found["left arm"].words
    assert found["camera external"].verdict == "ok"


@pytest.mark.parametrize("wiggle", [False, True])
def test_limits_that_cannot_be_made_are_a_row_and_the_arm_is_let_go_of(bench, monkeypatch, wiggle):
    bench.robot = with_kinematics(ROBOT)
    monkeypatch.setitem(sys.modules, "pinocchio", None)
    found = bench.run(wiggle=wiggle, yes=True)
    assert "pip install 'rdt-stack[workspace]'" in found["left guard"].words
    assert found["left guard"].verdict == "failed"
    (arm,) = bench.arms
    assert (arm.told, arm.holds, arm.closed) == ([], 1, True)
    assert found["camera external"].verdict == "ok"


@pytest.mark.parametrize(
    ("change", "words"), [({"fps": 0}, "no picture within 5 s"), ({"value": 1}, "cap on the lens")]
)
def test_cameras_that_show_nothing(bench, change, words):
    vars(bench.camera).update(change)
    finding = bench.run(yes=True)["camera external"]
    assert finding.verdict == "failed"
    assert words in finding.words


def test_the_rehearsal_on_the_embedded_robot(tmp_path):
    """Real MuJoCo, with a clock that does not wait."""
    pytest.importorskip("mujoco")
    clock, said = Clock(), []
    check = Check(ROBOT, tmp_path, wiggle=True, yes=True, person=Person(said.append), clock=clock, sleep=clock.sleep)
    found = {finding.what: finding for finding in check.run()}
    assert found.pop("left limits").verdict == found.pop("right limits").verdict == "not checked"
    assert {finding.verdict for finding in found.values()} == {"ok"}
    assert len(found) == 9
    assert "6 joints follow" in found["right directions"].words
    assert Image.open(tmp_path / "external.png").size == (320, 240)


def test_a_viperx_on_an_emulated_bus(tmp_path):
    pytest.importorskip("dynamixel_sdk")
    raw = read_yaml(find_config("robots", "viperx_pair"))
    bank, clock = ServoBank(), Clock()
    raw["arms"]["left"]["connection"]["port"] = bank.port
    robot, person = Embodiment.from_dict(raw), Person(lambda words: None)
    check = Check(robot, tmp_path, wiggle=True, yes=True, person=person, clock=clock, sleep=clock.sleep)
    check.arm("left")
    assert [(finding.what, finding.verdict) for finding in check.findings] == [
        ("left connection", "ok"),
        ("left readings", "ok"),
        ("left limits", "ok"),
        ("left gripper", "ok"),
        ("left directions", "ok"),
    ]
    assert bank.get(range(1, 10), TORQUE, 1) == [1] * 9
    bank.unplug()


def test_drivers_that_do_not_exist_are_rows_with_the_nearest(capsys, tmp_path):
    assert main(["robot", "check", "aloha_viperx", "--yes", "--out", str(tmp_path)]) == 1
    assert "unknown" in capsys.readouterr().out
