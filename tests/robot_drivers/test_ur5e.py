"""What a UR5e does when its controller says no. The controller is a stand-in at the driver's interface.

Run: pytest tests/robot_drivers/test_ur5e.py
"""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config, read_yaml
from robot_drivers.drivers import open_arm
from robot_drivers.errors import DriverError
from robot_drivers.types import ArmCommand
from robot_drivers.ur5e import UR5e, UR5eConnection

MS = 1_000_000
TARGET = np.array([0.1, -1.5, 1.2, -0.4, 0.3, 0.0])


class Controller:
    """Both RTDE interfaces of one arm, which jumps to its target at once."""

    def __init__(self) -> None:
        self.joints, self.seconds, self.connected, self.mode = [0.0] * 6, 100.0, True, 7
        self.safety, self.watchdog = 1, True
        self.protective = self.emergency = False
        self.running, self.accepts, self.uploads = True, True, True
        self.calls: list[tuple] = []

    def __call__(self) -> int:
        return round(self.seconds * 1e9)

    # receive
    def isConnected(self):
        return self.connected

    def getTimestamp(self):
        return self.seconds

    def getActualQ(self):
        return list(self.joints)

    def getRobotMode(self):
        return self.mode

    def getSafetyMode(self):
        return self.safety

    def isProtectiveStopped(self):
        return self.protective

    def isEmergencyStopped(self):
        return self.emergency

    def getSpeedScaling(self):
        return 0.5

    def getActualRobotVoltage(self):
        return 48.0

    def getJointTemperatures(self):
        return [30.0] * 6

    # control
    def isProgramRunning(self):
        return self.running

    def setWatchdog(self, hz):
        self.calls.append(("setWatchdog", hz))
        return self.watchdog

    def kickWatchdog(self):
        self.calls.append(("kickWatchdog",))
        return True

    def servoJ(self, joints, *rest):
        self.calls.append(("servoJ", *rest))
        if self.accepts:
            self.joints = joints
        return self.accepts

    def servoStop(self):
        self.calls.append(("servoStop",))
        return self.accepts

    def reuploadScript(self):
        self.running = self.uploads
        return self.uploads

    def stopScript(self):
        self.calls.append(("stopScript",))

    def disconnect(self):
        self.calls.append(("disconnect",))


@pytest.fixture
def controller():
    return Controller()


@pytest.fixture
def arm(controller):
    return UR5e(UR5eConnection(host="10.0.0.2", servo_hz=100), controller, controller, controller)


def test_opening_commands_nothing(controller, arm):
    assert controller.calls == []
    assert arm.state().positions.tolist() == [0.0] * 6


def test_the_stand_in_has_the_methods_of_the_real_interfaces():
    control, receive = pytest.importorskip("rtde_control"), pytest.importorskip("rtde_receive")
    real = {*dir(control.RTDEControlInterface), *dir(receive.RTDEReceiveInterface)}
    assert {name for name in vars(Controller) if not name.startswith("_")} <= real


def test_servoing_at_the_loops_rate_under_a_watchdog(controller, arm):
    arm.command(ArmCommand(TARGET, controller()))
    arm.command(ArmCommand(TARGET, controller()))
    assert controller.calls == [
        ("setWatchdog", 10.0),
        ("kickWatchdog",),
        ("servoJ", 0.0, 0.0, 0.01, 0.1, 300.0),
        ("kickWatchdog",),
        ("servoJ", 0.0, 0.0, 0.01, 0.1, 300.0),
    ]
    assert (arm.state().positions == TARGET).all()


def test_a_reduced_safety_mode_moves(controller, arm):
    controller.safety = 2
    arm.command(ArmCommand(TARGET, 0))
    assert controller.joints == TARGET.tolist()


def test_without_a_watchdog_nothing_is_commanded(controller, arm):
    controller.watchdog = False
    for _ in range(2):
        with pytest.raises(DriverError, match="refused the watchdog"):
            arm.command(ArmCommand(TARGET, 0))
    assert controller.calls == [("setWatchdog", 10.0)] * 2


def test_a_sample_that_repeats_grows_old(controller, arm):
    first = arm.state().stamp_ns
    real_now, frozen = controller.seconds + 0.2, controller.seconds
    arm._clock = lambda: round(real_now * 1e9)
    controller.seconds = frozen
    assert arm.state().stamp_ns == first
    controller.seconds = frozen + 0.002
    assert arm.state().stamp_ns == round(real_now * 1e9)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"protective": True}, r"protective stop.*unlock it at the pendant.*standing, held by its controller"),
        ({"emergency": True}, r"the emergency stop is pressed: release it"),
        ({"safety": 5}, r"safety mode is safeguard stop, expected normal or reduced: close the gate.*standing, held"),
        ({"safety": 12}, r"safety mode is 12, expected"),
        ({"mode": 5}, r"robot mode is idle, brakes on, expected running"),
        ({"connected": False}, r"connection to 10\.0\.0\.2 is lost.*unknown state"),
    ],
)
def test_whatever_the_controller_says_no_to_is_an_error(controller, arm, fault, words):
    vars(controller).update(fault)
    for act in (arm.state, arm.hold, lambda: arm.command(ArmCommand(TARGET, 0))):
        with pytest.raises(DriverError, match=words):
            act()
    assert controller.calls == []
    with pytest.raises(DriverError, match=words):
        UR5e(UR5eConnection(host="10.0.0.2"), controller, controller, controller)


def test_a_refused_target_is_an_error(controller, arm):
    controller.accepts = False
    with pytest.raises(DriverError, match="refused servoJ"):
        arm.command(ArmCommand(TARGET, 0))
    with pytest.raises(DriverError, match="refused servoStop"):
        arm.hold()


def test_an_ended_script_is_an_error_and_holding_starts_it_again(controller, arm):
    arm.command(ArmCommand(TARGET, 0))
    controller.running = False
    with pytest.raises(DriverError, match=r"control script has ended.*standing"):
        arm.command(ArmCommand(TARGET, 0))
    arm.hold()
    arm.command(ArmCommand(TARGET, 0))
    assert controller.calls.count(("setWatchdog", 10.0)) == 2
    controller.running, controller.uploads = False, False
    with pytest.raises(DriverError, match="is remote control on"):
        arm.hold()


def test_holding_stops_the_servoing(controller, arm):
    arm.hold()
    assert controller.calls == [("servoStop",)]


def test_closing_ends_the_script_and_both_connections(controller, arm):
    arm.close()
    assert controller.calls == [("stopScript",), ("disconnect",), ("disconnect",)]


def test_it_tells_of_itself(arm):
    assert arm.facts().lines == (
        "robot mode running, 48.0 V, joints 30, 30, 30, 30, 30, 30 C",
        "speed slider 50 %: the arm will lag behind its targets",
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [({"servo_hz": 5.0}, "servo_hz must be above 10"), ({"lookahead_s": 1.0}, "lookahead"), ({"gain": 1.0}, "gain")],
)
def test_settings_are_checked(given, words):
    with pytest.raises(ValueError, match=words):
        UR5eConnection(host="a", **given)


def test_targets_that_are_no_numbers_are_refused(arm):
    with pytest.raises(DriverError, match="6 finite targets"):
        arm.command(ArmCommand(TARGET * math.nan, 0))


def test_a_controller_that_is_not_there_says_what_to_look_for():
    pytest.importorskip("rtde_control")
    raw = read_yaml(find_config("robots", "ur5e_pair"))
    raw["arms"]["left"]["connection"]["host"] = "127.0.0.1"
    with pytest.raises(DriverError, match=r"controller at 127\.0\.0\.1 does not answer.*untouched"):
        open_arm(Embodiment.from_dict(raw), "left")


def opened_over(monkeypatch, controller, control):
    """`open_arm` over stand-ins for both modules of ur-rtde."""
    receiving = SimpleNamespace(RTDEReceiveInterface=lambda host: controller)
    monkeypatch.setitem(sys.modules, "rtde_receive", receiving)
    monkeypatch.setitem(sys.modules, "rtde_control", SimpleNamespace(RTDEControlInterface=control))
    return open_arm(Embodiment.from_yaml(find_config("robots", "ur5e_pair")), "left")


def test_what_was_open_is_let_go_of_when_opening_fails(monkeypatch, controller):
    def nobody(host):
        raise RuntimeError("timed out")

    with pytest.raises(DriverError, match=r"does not answer \(timed out\)"):
        opened_over(monkeypatch, controller, nobody)
    assert controller.calls == [("disconnect",)]
    controller.calls.clear()
    controller.protective = True
    with pytest.raises(DriverError, match="protective stop"):
        opened_over(monkeypatch, controller, lambda host: controller)
    assert controller.calls == [("stopScript",), ("disconnect",), ("disconnect",)]
    controller.calls.clear()
    controller.protective = False
    opened_over(monkeypatch, controller, lambda host: controller)
    assert controller.calls == []


def test_a_gripper_is_refused_and_the_sdk_asked_for_by_name(monkeypatch):
    raw = read_yaml(find_config("robots", "ur5e_pair"))
    monkeypatch.setitem(sys.modules, "rtde_control", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rdt-stack\[ur\]'"):
        open_arm(Embodiment.from_dict(raw), "left")
    raw["arms"]["left"]["gripper"] = {"slot": "left_gripper_open"}
    with pytest.raises(ValueError, match="no gripper of its own"):
        open_arm(Embodiment.from_dict(raw), "left")


def test_a_passive_arm_is_looked_at_and_left_as_it_is(controller):
    arm = UR5e(UR5eConnection(host="10.0.0.2"), None, controller, controller)
    assert arm.state().positions.tolist() == [0.0] * 6
    arm.hold()
    with pytest.raises(DriverError, match="passive"):
        arm.command(ArmCommand(TARGET, 0))
    arm.close()
    assert controller.calls == [("disconnect",)]
