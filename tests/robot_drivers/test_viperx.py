"""The real Dynamixel SDK against an emulated servo bank, sound and broken.

Run: pytest tests/robot_drivers/test_viperx.py
"""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config, read_yaml
from robot_drivers import dynamixel as dxl
from robot_drivers.drivers import open_arm
from robot_drivers.errors import ArmFaultError, DriverError
from robot_drivers.guarded_arm import GuardedArm
from robot_drivers.types import ArmCommand
from robot_drivers.viperx import finger_from_motor, motor_from_finger
from tests.robot_drivers.emulators.dynamixel import GOAL, HARDWARE_ERROR, POSITION, TORQUE, WATCHDOG, ServoBank

pytest.importorskip("dynamixel_sdk")

MS = 1_000_000
ALL = range(1, 10)
START = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.5])


class Clock:
    def __init__(self) -> None:
        self.now_ns = 1_000 * MS

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def bank():
    bank = ServoBank()
    yield bank
    bank.unplug()


@pytest.fixture
def clock():
    return Clock()


def robot(bank: ServoBank, **connection) -> Embodiment:
    raw = read_yaml(find_config("robots", "viperx_pair"))
    for arm in raw["arms"].values():
        arm["connection"] = {"port": bank.port, **connection}
    return Embodiment.from_dict(raw)


@pytest.fixture
def arm(bank, clock):
    arm = open_arm(robot(bank), "left", clock)
    yield arm
    arm.close()


def test_fingers_at_both_ends_and_back():
    # follower of the first ALOHA: motor -0.6213 rad is closed at 0.01844 m, 1.4910 is open at 0.05800 m
    assert finger_from_motor(-0.6213) == pytest.approx(0.01844, abs=1e-5)
    assert finger_from_motor(1.4910) == pytest.approx(0.05800, abs=2e-4)
    for angle in np.linspace(-math.pi / 2 + 1e-6, math.pi / 2 - 1e-6, 50):
        assert motor_from_finger(finger_from_motor(angle)) == pytest.approx(angle, abs=1e-6)
    with pytest.raises(ValueError, match=r"0\.014 to 0\.058 m out, got 0\.1"):
        motor_from_finger(0.1)


def test_opening_moves_nothing_and_gives_torque(bank, clock):
    bank.order(set=[(2, POSITION, 4, 1500), (2, GOAL, 4, 2500), (9, 11, 1, 3)])
    arm = open_arm(robot(bank), "left", clock)
    assert bank.get(ALL, TORQUE, 1) == [1] * 9
    assert bank.get([2], POSITION, 4) == [1500]
    assert bank.get([9], 11, 1) == [5]  # current-based position
    assert bank.get([9], 102, 2) == [297]  # 800 mA
    assert bank.get(ALL, 112, 4) == [131] * 9
    assert bank.get(ALL, WATCHDOG, 1) == [0] * 9  # nothing moves, nothing to watch
    arm.close()
    assert bank.get(ALL, TORQUE, 1) == [1] * 9


def test_commands_arrive_in_rad_at_joints_and_their_shadows(bank, clock, arm):
    arm.command(ArmCommand(START, clock()))
    assert arm.state().positions == pytest.approx(START, abs=0.001)
    assert arm.state().stamp_ns == clock()
    ticks = bank.get(ALL, GOAL, 4)
    assert ticks[1] == round(2048 - 0.96 * 4096 / (2 * math.pi))
    assert ticks[2] == ticks[1]
    assert bank.get(ALL, WATCHDOG, 1) == [5] * 9


def test_watchdogs_that_a_lost_packet_did_not_start_are_started_again_before_anything_moves(bank, clock, arm):
    bank.order(lose=1)
    arm.command(ArmCommand(START, clock()))
    assert bank.get(ALL, WATCHDOG, 1) == [5] * 9
    assert arm.state().positions == pytest.approx(START, abs=0.001)


def test_without_watchdogs_nothing_moves(bank, clock, arm):
    bank.order(lose=3)
    with pytest.raises(DriverError, match=r"watchdogs of the motors read \{1: 0.*after 5 was written, 3 times"):
        arm.command(ArmCommand(START, clock()))
    assert bank.get(ALL, GOAL, 4) == [2048] * 9
    arm.command(ArmCommand(START, clock()))  # it is not taken for watched
    assert bank.get(ALL, WATCHDOG, 1) == [5] * 9


def test_the_arms_own_limits_are_never_passed(bank, clock, arm):
    far = np.array([3.2, -3.0, 3.0, -3.2, 3.0, 0.0, 0.5])
    arm.command(ArmCommand(far, clock()))
    assert bank.get([1, 2, 4, 6, 7], GOAL, 4) == [4095, 841, 3094, 0, 3504]


def test_grippers_may_be_said_in_metres(bank, clock):
    arm = open_arm(robot(bank, gripper_unit="m"), "left", clock)
    goal = START.copy()
    goal[-1] = 0.0400
    arm.command(ArmCommand(goal, clock()))
    assert arm.state().positions[-1] == pytest.approx(0.0400, abs=1e-4)
    arm.close()


def test_it_tells_of_itself(arm):
    facts = arm.facts()
    assert "motor 2 shoulder: XM540-W270, firmware 47, 12.1 V, 31 C" in facts.lines
    assert facts.limits[1] == pytest.approx([-1.850, 1.257], abs=2e-3)


def test_a_late_or_broken_reply_is_asked_for_again(bank, arm):
    bank.order(swallow=1)
    arm.state()
    bank.order(corrupt=2)
    arm.state()


def test_a_reply_that_comes_late_is_not_taken_for_the_next_ones(bank, clock, arm, monkeypatch):
    arm.command(ArmCommand(START, clock()))
    bank.order(set=[(motor, GOAL, 4, 2000 + motor) for motor in ALL], late=7)
    settled, settle = [], arm._bus._settle
    monkeypatch.setattr(arm._bus, "_settle", lambda: (settled.append(True), settle()))
    assert arm.state().positions == pytest.approx(START, abs=0.001)  # asked again: seven answers too many come
    assert len(settled) == 1
    assert arm._bus.read([1, 2, 4], dxl.GOAL_POSITION) == {1: 2001, 2: 2002, 4: 2004}
    assert len(settled) == 2
    arm.state()
    assert len(settled) == 2


@pytest.mark.parametrize("fault", [{"silent": list(ALL)}, {"silent": [7]}, {"corrupt": 100}])
def test_what_stays_broken_is_an_error_that_says_what_the_arm_does(bank, arm, fault):
    bank.order(**fault)
    with pytest.raises(DriverError, match=r"motor \d.*3 times\. The arm is now in an unknown state.*Support the arm"):
        arm.state()
    bank.order(silent=[], corrupt=0)
    arm.state()


def test_a_missing_motor_is_named_when_opening(bank, clock):
    bank.order(silent=[5])
    with pytest.raises(DriverError, match=r"motor 5 on .*; 9 motors were expected"):
        open_arm(robot(bank), "left", clock)
    bank.order(silent=[])
    open_arm(robot(bank), "left", clock).close()  # the port was let go


def test_an_adapter_that_is_pulled_out_is_an_error(bank, clock):
    arm = open_arm(robot(bank), "left", clock)
    bank.unplug()
    with pytest.raises(DriverError, match="unknown state"):
        arm.state()
    with pytest.raises(DriverError, match="unknown state"):
        arm.command(ArmCommand(START, clock()))
    with pytest.raises(DriverError):
        arm.close()


def test_an_overloaded_motor_that_let_go_is_told_as_falling(bank, arm):
    bank.order(set=[(2, HARDWARE_ERROR, 1, 0b100000), (2, TORQUE, 1, 0)])
    with pytest.raises(DriverError, match=r"motor 2 shoulder: overload.*without torque at shoulder and falling"):
        arm.state()
    with pytest.raises(DriverError, match=r"torque is off at motor 2 shoulder \(overload\)"):
        arm.hold()


def test_a_warm_motor_that_still_holds_is_told_as_holding(bank, arm):
    bank.order(set=[(4, HARDWARE_ERROR, 1, 0b100)])
    with pytest.raises(DriverError, match=r"motor 4 elbow: overheating.*torque on"):
        arm.state()
    arm.hold()


def test_power_that_comes_back_does_not_pass_for_holding(bank, clock, arm):
    arm.command(ArmCommand(START, clock()))
    bank.order(silent=list(ALL))
    with pytest.raises(DriverError):
        arm.state()
    bank.order(silent=[], power_cycle=True)
    with pytest.raises(DriverError, match=r"torque is off at motor 1 waist.*support it"):
        arm.hold()


def test_a_silent_loop_is_stopped_by_the_motors_and_held_by_the_driver(bank, clock, arm):
    arm.command(ArmCommand(START, clock()))
    clock.now_ns += 200 * MS
    bank.order(quiet_ms=200)
    with pytest.raises(DriverError, match=r"silent for 200 ms.*watchdogs.*torque on"):
        arm.command(ArmCommand(START * 0.9, clock()))
    arm.hold()
    assert bank.get(ALL, WATCHDOG, 1) == [0] * 9
    assert bank.get(ALL, TORQUE, 1) == [1] * 9
    arm.command(ArmCommand(START * 0.9, clock()))
    assert arm.state().positions == pytest.approx(START * 0.9, abs=0.001)


def test_a_guard_that_asks_for_the_state_first_learns_of_the_pause_too(bank, clock):
    one = robot(bank)
    guard = GuardedArm.of(one, "left", open_arm(one, "left", clock))
    start = guard.state().positions
    guard.command(ArmCommand(start, clock() + 20 * MS))
    clock.now_ns += 90 * MS  # long, but no watchdog has stopped its motor
    guard.command(ArmCommand(start, clock() + 20 * MS))
    clock.now_ns += 200 * MS
    bank.order(quiet_ms=200)
    guard.state()
    with pytest.raises(DriverError, match=r"silent for 200 ms.*watchdogs.*The arm is now holding"):
        guard.command(ArmCommand(start, clock() + 20 * MS))
    guard.reset()
    guard.command(ArmCommand(start, clock() + 40 * MS))
    assert bank.get(ALL, WATCHDOG, 1) == [5] * 9
    guard.close()


def test_opening_clears_what_a_killed_program_left(bank, clock):
    killed = open_arm(robot(bank), "left", clock)
    killed.command(ArmCommand(START, clock()))
    killed._bus.close()  # as the system does
    bank.order(quiet_ms=1000)
    assert bank.get(ALL, WATCHDOG, 1) == [255] * 9
    bank.order(set=[(6, POSITION, 4, 1000)])  # stopped far from its goal, which it must not go on to
    arm = open_arm(robot(bank), "left", clock)
    assert bank.get(ALL, WATCHDOG, 1) == [0] * 9
    assert bank.get([6], GOAL, 4) == bank.get([6], POSITION, 4) == [1000]
    arm.close()


def test_holding_keeps_near_goals_and_the_grip_and_gives_up_far_ones(bank, clock, arm):
    arm.command(ArmCommand(START, clock()))
    goals = bank.get([1, 2, 9], GOAL, 4)
    bank.order(set=[(1, POSITION, 4, goals[0] - 20), (2, POSITION, 4, goals[1] - 300), (9, POSITION, 4, 2000)])
    arm.hold()
    assert bank.get([1, 2, 9], GOAL, 4) == [goals[0], goals[1] - 300, goals[2]]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ((2, 10, 1, 0), r"motor 2 shoulder has drive mode 0, expected bit 0 1: the joint would run backwards"),
        ((7, 10, 1, 5), r"motor 7 wrist_angle has drive mode 5, expected bit 2 .* 0: .* 131 ms; set register 10"),
        ((5, 10, 1, 4), r"motor 5 elbow \(shadow\) has drive mode 4, expected bit 2"),
        ((3, 12, 1, 255), r"motor 3 shoulder \(shadow\) follows id 255, expected 2: the two motors.*would fight"),
        ((4, POSITION, 4, 400), r"the elbow stands at tick 400, outside 898 to 3094.*move the arm by hand"),
    ],
)
def test_wiring_that_would_hurt_is_refused_before_torque(bank, clock, wrong, words):
    bank.order(set=[wrong])
    with pytest.raises(DriverError, match=words):
        open_arm(robot(bank), "left", clock)
    assert bank.get(ALL, TORQUE, 1) == [0] * 9


def test_a_mode_that_needs_torque_off_is_left_to_a_person(bank, clock):
    bank.order(set=[(6, 11, 1, 1), (6, TORQUE, 1, 1)])
    with pytest.raises(DriverError, match=r"motor 6 forearm_roll has torque in operating mode 1.*switch its power"):
        open_arm(robot(bank), "left", clock)


def test_other_joint_names_are_refused(bank):
    raw = robot(bank).to_dict()
    raw["arms"]["left"]["joints"][0]["name"] = "base"
    with pytest.raises(ValueError, match=r"a ViperX has joints \['waist'"):
        open_arm(Embodiment.from_dict(raw), "left")


def test_targets_that_are_no_numbers_are_refused(clock, arm):
    with pytest.raises(DriverError, match="7 finite targets were expected"):
        arm.command(ArmCommand(START * math.nan, clock()))


def test_behind_a_guard_a_dead_motor_latches_and_names_what_falls(bank, clock):
    one = robot(bank)
    guard = GuardedArm.of(one, "left", open_arm(one, "left", clock))
    start = guard.state().positions
    guard.command(ArmCommand(start, clock() + 20 * MS))
    bank.order(set=[(2, HARDWARE_ERROR, 1, 0b100000), (2, TORQUE, 1, 0)])
    with pytest.raises(DriverError, match=r"motor 2 shoulder.*The arm is now without torque at shoulder"):
        guard.command(ArmCommand(start, clock() + 40 * MS))
    with pytest.raises((ArmFaultError, DriverError)):
        guard.command(ArmCommand(start, clock() + 60 * MS))


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        (
            {"set": [(3, HARDWARE_ERROR, 1, 0b100000), (3, TORQUE, 1, 0)]},
            r"motor 3 shoulder \(shadow\): overload.*The arm is now without torque at shoulder \(shadow\) and falling",
        ),
        ({"set": [(5, TORQUE, 1, 0)]}, r"torque is off at motor 5 elbow \(shadow\) \(no error\)"),
        ({"power_cycle": True}, r"torque is off at motor 1 waist.*, 5 elbow \(shadow\).*The arm is now without torque"),
    ],
)
def test_behind_a_guard_torque_that_is_lost_between_two_answers_latches(bank, clock, lost, words):
    one = robot(bank)
    guard = GuardedArm.of(one, "left", open_arm(one, "left", clock))
    start = guard.state().positions
    guard.command(ArmCommand(start, clock() + 20 * MS))
    bank.order(**lost)
    since_ns = clock()

    def go_on() -> None:
        for _ in range(60):
            clock.now_ns += 20 * MS
            guard.command(ArmCommand(start, clock() + 20 * MS))

    with pytest.raises(DriverError, match=words):
        go_on()
    assert clock() - since_ns == 100 * MS
    assert guard.fault is not None


def test_the_sdk_is_asked_for_by_name(monkeypatch, bank):
    monkeypatch.setitem(sys.modules, "dynamixel_sdk", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rdt-stack\[viperx\]'"):
        open_arm(robot(bank), "left")


def test_a_passive_arm_is_looked_at_and_left_as_it_is(bank, clock):
    bank.order(set=[(2, POSITION, 4, 1500), (9, 11, 1, 3)])
    before = bank.get(ALL, TORQUE, 1) + bank.get([2, 9], GOAL, 4) + bank.get([9], 11, 1)
    arm = open_arm(robot(bank), "left", clock, passive=True)
    clock.now_ns += 1_000 * MS  # nobody asks it for torque
    assert arm.state().positions[1] == pytest.approx((1500 - 2048) * 2 * math.pi / 4096)
    arm.hold()
    with pytest.raises(DriverError, match=r"passive.*as it was"):
        arm.command(ArmCommand(START, clock()))
    arm.close()
    assert bank.get(ALL, TORQUE, 1) + bank.get([2, 9], GOAL, 4) + bank.get([9], 11, 1) == before


def test_after_ctrl_c_within_an_exchange_the_arm_can_still_be_held(bank, clock, arm, monkeypatch):
    arm.command(ArmCommand(START, clock()))

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(arm._bus._packets, "rxPacket", interrupted)
        with pytest.raises(KeyboardInterrupt):
            arm.state()
    arm.hold()
    assert bank.get(ALL, WATCHDOG, 1) == [0] * 9
    assert bank.get(ALL, TORQUE, 1) == [1] * 9
