"""`rdt robot check`: a newcomer's first meeting with a robot, from the connection to the pictures.

Without `--wiggle` nothing is told to any motor: arms are opened to look only. With it every joint in turn goes
`WIGGLE_RAD` out and back behind a guard, and no joint ever moves more than `MOST_RAD`. Grippers stay.
Everything is looked at even where something failed; a table at the end says what to do.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from robot_drivers.arm import Arm, ArmFacts, TalkativeArm
from robot_drivers.drivers import open_arm, open_camera
from robot_drivers.errors import RobotError
from robot_drivers.guarded_arm import GuardedArm
from robot_drivers.limits.bounds import Bounds
from robot_drivers.limits.chain import LimitSettings
from robot_drivers.types import ArmCommand, CameraFrame

WIGGLE_RAD = 0.03  # what is asked of a joint; the rest is for sagging, as the set-point starts where the arm is
MOST_RAD = 0.05  # what no joint may move in all: past it the arm is held
WIGGLE_S = 2.0
RATE_HZ = 50.0
MOVED_RAD = math.radians(1.0)  # by hand: less is trembling
READ_S, FILM_S, FIRST_FRAME_S = 0.5, 1.0, 5.0
OUTSIDE_RAD = 0.02  # beyond its limit by more, a joint's zero, unit or sign is in doubt
GRIPPER_OFF = 0.1  # of its range
DARK = 4.0  # mean of 255 below which a picture shows nothing

Verdict = Literal["ok", "failed", "not checked"]
ERRORS = (RobotError, ValueError, ImportError)


@dataclass(frozen=True)
class Finding:
    """One row of the table."""

    what: str
    verdict: Verdict
    words: str  # what was seen and, where it failed, what to do


@dataclass(frozen=True)
class Person:
    """Whoever stands at the robot; tests answer for one."""

    say: Callable[[str], None] = print
    ask: Callable[[str], str] = input

    def answer(self, question: str) -> str | None:
        """Their answer, or `None` where nobody sits at the terminal."""
        try:
            return self.ask(question).strip().lower()
        except EOFError:
            return None


@dataclass
class Check:
    """One run over a robot."""

    robot: Embodiment
    out: Path  # folder for one picture a camera
    wiggle: bool = False
    yes: bool = False  # nobody is asked
    person: Person = field(default_factory=Person)
    clock: Callable[[], int] = time.monotonic_ns
    sleep: Callable[[float], None] = time.sleep
    findings: list[Finding] = field(default_factory=list)

    def run(self, side: str | None = None) -> list[Finding]:
        """Both arms or one, then the cameras."""
        if side is not None:
            self.robot.arm_slice(side)  # names the sides that exist
        for name in self.robot.arms if side is None else [side]:
            self.arm(name)
        for role in self.robot.cameras:
            self.camera(role)
        return self.findings

    def arm(self, side: str) -> None:
        driver = self.robot.arms[side].driver
        moving = self.wiggle and self._may_move(side)
        self.person.say(f"\n{side} arm, driver {driver}")
        try:
            arm = open_arm(self.robot, side, self.clock, passive=not moving)
        except ERRORS as error:
            self._note(f"{side} connection", "failed", str(error))
            return
        guard = self._guarded(side, arm)
        if guard is None:
            return
        try:
            facts = arm.facts() if isinstance(arm, TalkativeArm) else ArmFacts(())
            for line in facts.lines:
                self.person.say(f"  {line}")
            self._note(f"{side} connection", "ok", f"{driver} answers")
            positions = self._readings(side, arm)
            self._limits(side, facts)
            self._gripper(side, positions)
            if moving:
                self._wiggle(side, guard)
            elif not self.wiggle:
                self._by_hand(side, arm)
                self._gripper_by_hand(side, arm)
        except RobotError as error:
            self._note(f"{side} arm", "failed", str(error))
        finally:
            self._leave(guard, moving)

    def _guarded(self, side: str, arm: Arm) -> GuardedArm | None:
        """The arm behind its limits; where these cannot be made, the arm is let go of, and that is a row."""
        try:
            with ExitStack() as unguarded:
                unguarded.callback(arm.close)
                unguarded.callback(arm.hold)
                guard = GuardedArm.of(self.robot, side, arm, LimitSettings(margin_rad=0.0), RATE_HZ)
                unguarded.pop_all()
            return guard
        except ERRORS as error:
            self._note(f"{side} guard", "failed", f"{error}; the arm was told to hold and let go of")
            return None

    def camera(self, role: str) -> None:
        self.person.say(f"\ncamera {role}, {self.robot.cameras[role].source}")
        what = f"camera {role}"
        try:
            camera = open_camera(self.robot, role, self.clock)
        except ERRORS as error:
            self._note(what, "failed", str(error))
            return
        try:
            frames = self._film(camera.frame)
        finally:
            camera.close()
        if not frames:
            self._note(what, "failed", f"no picture within {FIRST_FRAME_S:g} s: another cable, another USB port")
            return
        last = frames[-1]
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / f"{role}.png"
        Image.fromarray(last.image).save(path)
        height, width = last.image.shape[:2]
        seconds = (last.stamp_ns - frames[0].stamp_ns) * 1e-9
        rate = f"{(len(frames) - 1) / seconds:.0f} fps" if seconds > 0 else "one picture only"
        words = f"{width}x{height}, {rate}, see {path}"
        if last.image.mean() < DARK:
            self._note(what, "failed", f"{words}: it is black; is there a cap on the lens, is there light")
        elif seconds <= 0:
            self._note(what, "failed", f"{words}: the picture stands still")
        else:
            self._note(what, "ok", words)

    def _readings(self, side: str, arm: Arm) -> np.ndarray:
        """Positions for a while: finite, fresh, where the YAML says a joint can be."""
        first, end_ns = arm.state(), self.clock() + round(READ_S * 1e9)
        state, stamps = first, {first.stamp_ns}
        while self.clock() < end_ns:
            self.sleep(1 / RATE_HZ)
            state = arm.state()
            stamps.add(state.stamp_ns)
        joints = self.robot.arms[side].joints
        for joint, value in zip(joints, state.positions, strict=False):
            self.person.say(f"  {joint.name:20s} {value:+8.4f} rad {math.degrees(value):+8.2f} deg")
        if not np.isfinite(state.positions).all():
            self._note(f"{side} readings", "failed", f"not all are numbers: {state.positions}")
            return state.positions
        bounds = Bounds.of(self.robot, side)
        outside = [
            f"{joint.name} {value:+.3f} outside {low:+.3f} to {high:+.3f}"
            for joint, value, low, high in zip(joints, state.positions, bounds.low, bounds.high, strict=False)
            if not low - OUTSIDE_RAD <= value <= high + OUTSIDE_RAD
        ]
        if outside:
            words = f"{'; '.join(outside)}: its zero, unit, sign or limits in the YAML are wrong"
            self._note(f"{side} readings", "failed", words)
        elif len(stamps) < 2:
            self._note(f"{side} readings", "failed", f"the same for {READ_S} s: nothing new comes from the arm")
        else:
            self._note(f"{side} readings", "ok", f"{len(stamps) / READ_S:.0f} fresh a second at {RATE_HZ:g} looks")
        return state.positions

    def _limits(self, side: str, facts: ArmFacts) -> None:
        """What the YAML allows lies within what the arm enforces by itself."""
        joints = self.robot.arms[side].joints
        endless = [joint.name for joint in joints if not np.isfinite([*joint.limits, joint.velocity_limit]).all()]
        if endless:
            words = f"the YAML has none for {', '.join(endless)}: give limits and velocity_limit"
            self._note(f"{side} limits", "failed", words)
            return
        if facts.limits is None:
            self._note(f"{side} limits", "not checked", "this arm does not tell its own: compare with its manual")
            return
        wide = [
            f"{joint.name} {joint.limits[0]:.3f} to {joint.limits[1]:.3f}, the arm {low:.3f} to {high:.3f}"
            for joint, (low, high) in zip(joints, facts.limits, strict=True)
            if joint.limits[0] < low - OUTSIDE_RAD or joint.limits[1] > high + OUTSIDE_RAD
        ]
        if wide:
            words = f"the YAML allows more than the arm: {'; '.join(wide)}: narrow the YAML"
            self._note(f"{side} limits", "failed", words)
        else:
            self._note(f"{side} limits", "ok", "within what the arm enforces by itself")

    def _gripper(self, side: str, positions: np.ndarray) -> None:
        gripper = self.robot.arms[side].gripper
        if gripper is None:
            return
        closed, opened = gripper.state_range
        share = (positions[-1] - closed) / (opened - closed)
        words = f"{positions[-1]:.4f} is {100 * share:.0f} % open"
        if -0.1 <= share <= 1.1:
            self._note(f"{side} gripper", "ok", words)
        else:
            words += f" of state_range {closed} to {opened}: read it closed and open, and write that down"
            self._note(f"{side} gripper", "failed", words)

    def _may_move(self, side: str) -> bool:
        if self.yes:
            return True
        question = (
            f"\nThe {side} arm gets torque, and each of its joints will move by at most {MOST_RAD} rad "
            f"({math.degrees(MOST_RAD):.1f} deg). Emergency stop in reach, nobody near? [y/N] "
        )
        if self.person.answer(question) in ("y", "yes"):
            return True
        self._note(f"{side} directions", "not checked", "you did not agree to the motion")
        return False

    def _wiggle(self, side: str, guard: GuardedArm) -> None:
        """Each joint out and back, away from its nearer limit; what is measured must go the same way."""
        bounds = Bounds.of(self.robot, side)
        start = bounds.as_command(guard.state().positions)
        joints = self.robot.arms[side].joints
        num = len(joints)
        if not ((bounds.low <= start) & (start <= bounds.high))[:num].all():
            words = "a joint stands outside its limits, where the guard would move it: see its readings"
            self._note(f"{side} directions", "failed", words)
            return
        wrong = []
        for i, joint in enumerate(joints):
            if joint.unit in ("m", "mm"):
                continue  # a lift has no angle to state
            sign = 1.0 if bounds.high[i] - start[i] >= start[i] - bounds.low[i] else -1.0
            moved = self._excursion(side, guard, start, i, sign)
            seen = float(moved[i]) * sign
            self.person.say(
                f"  {joint.name:20s} asked {math.degrees(sign * WIGGLE_RAD):+.1f} deg, "
                f"saw {math.degrees(moved[i]):+.1f} deg"
            )
            if seen < WIGGLE_RAD / 2:
                other = int(np.abs(moved).argmax())
                instead = f", while {joints[other].name} did" if abs(moved[other]) > WIGGLE_RAD / 2 else ""
                wrong.append(f"{joint.name} did not go the way it was told{instead}")
        if wrong:
            words = f"{'; '.join(wrong)}: check the order of joints and the drive modes of the motors"
            self._note(f"{side} directions", "failed", words)
        else:
            self._note(f"{side} directions", "ok", f"{num} joints follow, each by {WIGGLE_RAD} rad and back")

    def _excursion(self, side: str, guard: GuardedArm, start: np.ndarray, joint: int, sign: float) -> np.ndarray:
        """Measured motion (joints,) at the far end of one wiggle. Raises `RobotError` past the stated amount."""
        num, ticks = len(self.robot.arms[side].joints), round(WIGGLE_S * RATE_HZ)
        far = np.zeros(num)
        for tick in range(1, ticks + 1):
            target = start.copy()
            target[joint] += sign * WIGGLE_RAD * 0.5 * (1 - math.cos(2 * math.pi * tick / ticks))
            guard.command(ArmCommand(target, self.clock() + round(1e9 / RATE_HZ)))
            self.sleep(1 / RATE_HZ)
            moved = (guard.state().positions - start)[:num]
            if np.abs(moved).max() > MOST_RAD:
                name = self.robot.arms[side].joints[int(np.abs(moved).argmax())].name
                words = f"{name} moved by {np.abs(moved).max():.3f} rad, at most {MOST_RAD} were stated"
                raise RobotError(f"{words}: check its unit, and what pulls at it", "being held")
            if np.abs(moved).max() > np.abs(far).max():
                far = moved
        return far

    def _by_hand(self, side: str, arm: Arm) -> None:
        """Which joint moves when a person moves one, and whether that is its positive direction."""
        what = f"{side} directions"
        if self.yes:
            self._note(what, "not checked", "nobody was asked; `--wiggle` lets the joints move by themselves")
            return
        self.person.say("  Directions, by hand. An arm that is held firmly is for `--wiggle`; a loose one, support it.")
        joints, wrong, seen = self.robot.arms[side].joints, [], 0
        for i, joint in enumerate(joints):
            before = arm.state().positions
            answer = self.person.answer(
                f"  Move {joint.name} by a few degrees in its positive direction, then Enter (s: skip, q: no more) "
            )
            if answer is None or answer.startswith("q"):
                break
            if answer.startswith("s"):
                continue
            moved = (arm.state().positions - before)[: len(joints)]
            most = int(np.abs(moved).argmax())
            if abs(moved[most]) < MOVED_RAD:
                self.person.say("    I saw nothing move.")
                continue
            self.person.say(f"    I saw {math.degrees(moved[most]):+.1f} deg on {joints[most].name}.")
            seen += 1
            if most != i:
                wrong.append(f"{joint.name} was moved, {joints[most].name} was seen: the order of joints is wrong")
            elif moved[most] * joint.sign < 0:
                wrong.append(f"{joint.name} runs backwards: set its `sign` to {-joint.sign}")
        if wrong:
            self._note(what, "failed", "; ".join(wrong))
        elif seen < len(joints):
            self._note(what, "not checked", f"{seen} of {len(joints)} joints were moved")
        else:
            self._note(what, "ok", f"{seen} joints, each as the YAML names it")

    def _gripper_by_hand(self, side: str, arm: Arm) -> None:
        """Both ends of the gripper as a person finds them, against the YAML's."""
        gripper = self.robot.arms[side].gripper
        if gripper is None or self.yes:
            return
        seen = []
        for end in ("Close", "Open"):
            answer = self.person.answer(f"  {end} the gripper all the way by hand, then Enter (s: skip) ")
            if answer is None or answer.startswith("s"):
                return
            seen.append(float(arm.state().positions[-1]))
        span = abs(gripper.state_range[1] - gripper.state_range[0])
        off = max(abs(got - wanted) for got, wanted in zip(seen, gripper.state_range, strict=True))
        words = f"closed {seen[0]:.4f}, open {seen[1]:.4f}; state_range is {list(gripper.state_range)}"
        if off <= GRIPPER_OFF * span:
            self._note(f"{side} gripper range", "ok", words)
        else:
            words += f": write [{seen[0]:.4f}, {seen[1]:.4f}], if it was moved"
            self._note(f"{side} gripper range", "failed", words)

    def _leave(self, guard: GuardedArm, moving: bool) -> None:
        """Bring the arm to rest and let go of the bus, whatever happened before. Ctrl-C comes through here, too."""
        try:
            while moving and guard.fault is None and guard.is_moving:
                guard.hold()
                self.sleep(1 / RATE_HZ)
            guard.close()
        except RobotError as error:
            self._note("end", "failed", str(error))
        else:
            if moving:
                self.person.say("  The arm holds, with torque: to relax it, support it and switch its power off.")

    def _film(self, newest: Callable[[], CameraFrame | None]) -> list[CameraFrame]:
        """The different frames of a second, counted from the first one."""
        frames: list[CameraFrame] = []
        end_ns = self.clock() + round(FIRST_FRAME_S * 1e9)
        while self.clock() < end_ns:
            frame = newest()
            if frame is not None and not frames:
                end_ns = self.clock() + round(FILM_S * 1e9)
            if frame is not None and (not frames or frame.stamp_ns != frames[-1].stamp_ns):
                frames.append(frame)
            self.sleep(0.005)
        return frames

    def _note(self, what: str, verdict: Verdict, words: str) -> None:
        self.findings.append(Finding(what, verdict, words))
        self.person.say(f"  {verdict}: {what}: {words}")


def table(findings: list[Finding]) -> str:
    """What was looked at, one line each."""
    return "\n".join(f"{finding.verdict:12s} {finding.what:20s} {finding.words}" for finding in findings)


def command(args: argparse.Namespace) -> int:
    """Check a robot. Returns 1 where something failed."""
    robot = Embodiment.from_yaml(find_config("robots", args.robot)).motors  # joint by joint, whatever a policy says
    check = Check(robot, Path(args.out), wiggle=args.wiggle, yes=args.yes)
    findings = check.run(args.arm)
    print(f"\n{robot.name}\n{table(findings)}")
    return int(any(finding.verdict == "failed" for finding in findings))
