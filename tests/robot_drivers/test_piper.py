"""The real Piper SDK against an emulated arm on a virtual CAN bus, sound and broken.

Run: pytest tests/robot_drivers/test_piper.py
"""

from __future__ import annotations

import itertools
import math
import struct
import sys
import time

import numpy as np
import pytest

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config, read_yaml
from robot_drivers.drivers import open_arm
from robot_drivers.errors import DriverError
from robot_drivers.piper import LOST_NS, Piper, PiperConnection, rad_from_units, units_from_rad
from robot_drivers.types import ArmCommand

pytest.importorskip("piper_sdk")
pytest.importorskip("can")

from tests.robot_drivers.emulators.piper import PiperArm

TARGET = np.array([0.3, 1.2, -0.9, 0.1, -0.4, 1.0, 0.035])
CHANNELS = (f"piper{i}" for i in itertools.count())


def wait_until(true, seconds=10.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


def robot(channel: str) -> Embodiment:
    raw = read_yaml(find_config("robots", "piper_pair"))
    raw["arms"]["left"]["connection"] = {"can": channel, "interface": "virtual"}
    return Embodiment.from_dict(raw)


@pytest.fixture
def channel():
    return next(CHANNELS)  # the SDK keeps one interface a name


@pytest.fixture
def emulator(channel):
    emulator = PiperArm(channel)
    yield emulator
    emulator.close()


@pytest.fixture
def arm(emulator, channel):
    emulator.joints = [1000, 90_000, -90_000, 0, 0, 0]
    arm = open_arm(robot(channel), "left", time.monotonic_ns)
    yield arm
    arm.close()


def reaches(arm, positions) -> None:
    wait_until(lambda: np.allclose(arm.state().positions, positions, atol=2e-5))


def test_units_are_exact_at_both_ends_and_come_back():
    assert units_from_rad(np.array([-math.pi, 0, math.pi])).tolist() == [-180_000, 0, 180_000]
    assert units_from_rad(np.array([2.6179])).tolist() == [149_995]  # the vendor's node says 150_074
    units = np.arange(-180_000, 180_001, 7)
    assert (units_from_rad(rad_from_units(units)) == units).all()


def test_opening_enables_and_moves_nothing(emulator, arm):
    assert emulator.asks_before_enabling <= 0
    wait_until(lambda: 0x157 in emulator.heard)
    assert emulator.joints == [1000, 90_000, -90_000, 0, 0, 0]
    assert emulator.heard[0x151][:4] == bytes([1, 1, 50, 0])  # CAN, joints, half speed, position


def test_commands_arrive_in_the_arms_units(emulator, arm):
    arm.command(ArmCommand(TARGET, time.monotonic_ns()))
    reaches(arm, TARGET)
    assert emulator.joints == units_from_rad(TARGET[:6]).tolist()
    assert struct.unpack(">ihB", emulator.heard[0x159][:7]) == (35_000, 1000, 1)


def test_a_state_is_as_old_as_its_oldest_frame(emulator, arm):
    fresh = arm.state().stamp_ns
    emulator.lost = {0x2A6}
    wait_until(lambda: arm._arrived[0x2A7] - arm._arrived[0x2A6] > 50_000_000)
    stale = arm.state().stamp_ns
    seen = arm._arrived[0x2A7]
    wait_until(lambda: arm._arrived[0x2A7] > seen)
    assert arm.state().stamp_ns == stale  # joints 3 and 4 are not served as new
    assert fresh <= stale
    emulator.lost = set()
    wait_until(lambda: arm.state().stamp_ns > stale)


def test_it_tells_of_itself(arm):
    wait_until(lambda: arm.facts().limits is not None and "firmware S-V1.5-2" in arm.facts().lines)
    facts = arm.facts()
    assert "motor 3: 24.1 V, 32 C" in facts.lines
    assert np.degrees(facts.limits[2]) == pytest.approx([-170, 0])


def test_an_arm_that_falls_silent_is_an_error_and_is_told_to_stop(emulator, arm):
    emulator.silent = True
    with pytest.raises(DriverError, match=r"no frame 0x2a\d.*unheard: it has been told to stop quickly"):
        wait_until(lambda: arm.state() is None)
    wait_until(lambda: emulator.heard.get(0x150, b"\0")[0] == 1)
    with pytest.raises(DriverError, match="unheard"):
        arm.command(ArmCommand(TARGET, time.monotonic_ns()))
    with pytest.raises(DriverError, match="unheard"):
        arm.hold()


def test_frames_that_waited_while_the_program_paused_spare_the_arm_the_quick_stop(emulator, arm):
    emulator.silent = True
    wait_until(lambda: time.monotonic_ns() - max(arm._arrived.values()) > LOST_NS)

    def frames_come(seconds):
        emulator.silent, since_ns = False, time.monotonic_ns()
        wait_until(lambda: arm._sdk.isOk() and min(arm._arrived[frame] for frame in arm._needed) > since_ns)

    arm._sleep = frames_come
    arm.command(ArmCommand(TARGET, time.monotonic_ns()))
    reaches(arm, TARGET)
    assert 0x150 not in emulator.heard


def test_a_motor_that_lets_go_is_told_as_falling(emulator, arm):
    emulator.disabled, emulator.faults = {2}, {2: 0x04}
    with pytest.raises(DriverError, match=r"motors 2 are no longer enabled \(motor 2: too much current\).*falling"):
        wait_until(lambda: arm.state() is None)
    with pytest.raises(DriverError, match="falling"):
        arm.hold()


def test_a_collision_is_told_as_holding(emulator, arm):
    emulator.status = 7
    with pytest.raises(DriverError, match=r"the arm reports collision.*holding its last target"):
        wait_until(lambda: arm.state() is None)


def test_holding_keeps_near_targets_and_the_grip(emulator, arm):
    arm.command(ArmCommand(TARGET, time.monotonic_ns()))
    reaches(arm, TARGET)
    emulator.joints[1] -= 30_000  # it was pushed far away
    emulator.joints[2] += 500  # it sags a little
    emulator.gripper = 50_000  # something is between the fingers
    wait_until(lambda: abs(arm.state().positions[1] - TARGET[1]) > 0.1 and arm.state().positions[6] == 0.05)
    pushed = emulator.joints[1]
    del emulator.heard[0x159]
    arm.hold()
    wait_until(lambda: 0x159 in emulator.heard)
    assert emulator.joints[1] == pushed
    assert emulator.joints[2] == units_from_rad(TARGET[2])
    assert struct.unpack(">i", emulator.heard[0x159][:4]) == (35_000,)


class Hurry:
    """A sleep for waits that end in a time-out: it is short from `start` on."""

    def __init__(self, start=lambda: True):
        self._start, self.slept_s = start, 0.0

    def __call__(self, seconds):
        if self._start():
            self.slept_s += seconds
            seconds /= 20
        time.sleep(seconds)


def test_an_arm_that_does_not_enable_is_given_up_after_five_seconds(emulator, channel):
    emulator.asks_before_enabling = 10**9
    hurry = Hurry(lambda: 0x471 in emulator.heard)
    with pytest.raises(DriverError, match=r"motors 1, 2, 3, 4, 5, 6 were not enabled within 5 s.*without torque"):
        Piper(PiperConnection(can=channel, interface="virtual"), True, time.monotonic_ns, hurry)
    assert hurry.slept_s > 4.5


def test_a_link_without_an_arm_says_what_is_missing(channel):
    with pytest.raises(DriverError, match=r"did not send frames 0x261.*powered.*untouched"):
        Piper(PiperConnection(can=channel, interface="virtual"), True, time.monotonic_ns, Hurry())


def test_a_link_that_is_not_there_says_how_to_bring_it_up():
    with pytest.raises(DriverError, match=r"sudo ip link set can_none up type can bitrate 1000000"):
        Piper(PiperConnection(can="can_none"), True, time.monotonic_ns)


def test_an_arm_can_be_opened_again_but_not_twice(emulator, channel):
    one = robot(channel)
    arm = open_arm(one, "left", time.monotonic_ns)
    with pytest.raises(DriverError, match="already open in this program"):
        open_arm(one, "left", time.monotonic_ns)
    arm.close()
    again = open_arm(one, "left", time.monotonic_ns)
    again.command(ArmCommand(TARGET, time.monotonic_ns()))
    reaches(again, TARGET)
    again.close()


def test_targets_that_are_no_numbers_are_refused(arm):
    with pytest.raises(DriverError, match="7 finite targets were expected"):
        arm.command(ArmCommand(TARGET * math.nan, 0))


@pytest.mark.parametrize(
    ("given", "words"),
    [({"speed_percent": 0}, "speed_percent must be from 1"), ({"gripper_effort_nm": 9.0}, "gripper_effort_nm must")],
)
def test_settings_are_checked(given, words):
    with pytest.raises(ValueError, match=words):
        PiperConnection(can="can0", **given)


def test_the_sdk_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "piper_sdk", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rdt-stack\[piper\]'"):
        open_arm(robot("can0"), "left")


def test_a_passive_arm_is_looked_at_and_left_as_it_is(emulator, channel):
    emulator.joints[0] = 30_000
    arm = open_arm(robot(channel), "left", time.monotonic_ns, passive=True)
    wait_until(lambda: arm.state().positions[0] == pytest.approx(math.pi / 6))
    arm.hold()
    with pytest.raises(DriverError, match=r"passive.*as it was"):
        arm.command(ArmCommand(TARGET, time.monotonic_ns()))
    emulator.silent = True
    with pytest.raises(DriverError, match=r"no frame.*as it was"):
        wait_until(lambda: arm.state() is None)
    arm.close()
    assert not emulator.heard.keys() & {0x150, 0x151, 0x155, 0x159, 0x471}
