"""`rdt robot new`: a robot YAML from URDFs. What they say is read, the rest is asked for.

A URDF gives the joints, their order, limits and speeds. It does not say which side an arm is, how often it is
recorded and commanded, who drives it, how fast it may gain speed, what its gripper calls closed and which cameras
look on. Each of these is one question, and one key of an answers file.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_pipeline.schema.embodiment import SIDES, Embodiment
from data_pipeline.schema.layout import MAX_ARM_JOINTS
from data_pipeline.schema.registry import check_keys, read_yaml
from data_pipeline.schema.types import CAMERA_ROLES
from deploy.urdf import UrdfJoint, read_urdf
from robot_drivers.drivers import ARMS, CAMERAS

SPEED_SHARE = 0.5  # of what the URDF calls a joint's maximum (the safety layer's default)
HEADER = """\
# {name}, described by {files}.
# Joint limits are the URDF's; velocity_limit is half of its maximum, the safety layer's default.
# Next: fill in `connection` where it is missing, then `rdt robot check {out}`.
"""


@dataclass(frozen=True)
class Question:
    """Something that no URDF says."""

    key: str
    text: str
    default: Any = None  # taken for an empty answer; `None`: there is none


class Answers:
    """Answers from a file first, then from whoever sits at the terminal."""

    def __init__(self, given: Mapping[str, Any], ask: Callable[[str], str] | None) -> None:
        """`ask` of `None` asks nobody: what the file lacks takes its default or is an error."""
        self._given, self._ask = given, ask
        self.asked: list[str] = []

    def get(self, question: Question) -> Any:
        """The answer as YAML reads it. Raises `ValueError` that names the key of a missing one."""
        self.asked.append(question.key)
        if question.key in self._given:
            return self._given[question.key]
        if self._ask is not None:
            hint = "" if question.default is None else f" [{_shown(question.default)}]"
            try:
                text = self._ask(f"{question.text}{hint}: ").strip()
            except EOFError:
                raise ValueError(
                    f"nobody answers at the terminal: give an --answers file with {question.key!r} ({question.text})"
                ) from None
            if text:
                return yaml.safe_load(text)
        if question.default is None:
            raise ValueError(f"the URDF does not say {question.key!r} ({question.text}), and no answer was given")
        return question.default

    def check_all_used(self) -> None:
        """A key that nothing asked for is a typing error, or belongs to another robot."""
        check_keys("answers", self._given, self.asked)


def describe(name: str, urdfs: list[Path], answers: Answers) -> dict[str, Any]:
    """The mapping that a robot YAML holds, from one URDF (one arm, a pair of equal ones, or both in it) or two."""
    arms = _sides(urdfs, answers)
    robot: dict[str, Any] = {
        "name": name,
        "rate_hz": answers.get(Question("rate_hz", "steps a second of recordings and action chunks", 50)),
        "arms": {},
    }
    driver = answers.get(Question("driver", f"driver of the arms ({', '.join(ARMS)})"))
    acceleration = answers.get(Question("acceleration_limit", "how fast joints may gain speed, in rad/s^2", 8.0))
    for side, joints in arms.items():
        robot["arms"][side] = _arm(side, joints, driver, acceleration, answers)
    robot["cameras"] = _cameras(answers)
    return robot


def _sides(urdfs: list[Path], answers: Answers) -> dict[str, list[UrdfJoint]]:
    """Side -> joints."""
    chains = [read_urdf(path) for path in urdfs]
    for path, chain in zip(urdfs, chains, strict=True):
        if not any(not joint.is_gripper for joint in chain):
            raise ValueError(f"{path} has no joint that turns and is no gripper's")
    if len(chains) == 2:
        first = answers.get(Question("side", f"side of the arm in {urdfs[0].name} (left, right)", _side_of(urdfs[0])))
        if first not in SIDES:
            raise ValueError(f"side must be left or right, got {first!r}")
        other = SIDES[1 - SIDES.index(first)]
        found = {first: chains[0], other: chains[1]}
        return {side: found[side] for side in SIDES}
    (chain,) = chains
    by_name = {side: [joint for joint in chain if side in joint.name.lower()] for side in SIDES}
    if all(by_name.values()):
        lost = [joint.name for joint in chain if not any(joint in joints for joints in by_name.values())]
        if lost:
            raise ValueError(f"{urdfs[0]}: joints {lost} say neither left nor right: give one URDF an arm")
        return by_name
    sides = answers.get(Question("sides", "which arms this URDF describes (left, right, both: two alike)", "right"))
    if sides not in (*SIDES, "both"):
        raise ValueError(f"sides must be left, right or both, got {sides!r}")
    return {side: chain for side in SIDES if sides in (side, "both")}


def _side_of(path: Path) -> str | None:
    sides = [side for side in SIDES if side in path.stem.lower()]
    return sides[0] if len(sides) == 1 else None


def _arm(side: str, chain: list[UrdfJoint], driver: str, acceleration: float, answers: Answers) -> dict[str, Any]:
    turning = [joint for joint in chain if not joint.is_gripper]
    if len(turning) > MAX_ARM_JOINTS:
        raise ValueError(f"the {side} arm has {len(turning)} joints, the layout has {MAX_ARM_JOINTS} slots for an arm")
    joints = []
    for i, joint in enumerate(turning):
        limits, velocity = [joint.low, joint.high], SPEED_SHARE * joint.velocity
        if math.isnan(joint.low):
            question = Question(f"limits.{joint.name}", f"limits of {joint.name}, in rad", [-3.14159, 3.14159])
            limits = answers.get(question)
        if math.isnan(velocity):
            question = Question(f"velocity_limit.{joint.name}", f"how fast {joint.name} may turn, in rad/s", 1.5)
            velocity = answers.get(question)
        joints.append(
            {
                "name": joint.name,
                "slot": f"{side}_arm_joint_{i}_pos",
                "limits": limits,
                "velocity_limit": velocity,
                "acceleration_limit": acceleration,
            }
        )
    arm: dict[str, Any] = {"driver": driver, "joints": joints}
    gripper = _gripper(side, [joint for joint in chain if joint.is_gripper], answers)
    if gripper is not None:
        arm["gripper"] = gripper
    connection = answers.get(
        Question(f"connection.{side}", f"how to reach the {side} arm, as {{key: value}}; empty to fill it in later", {})
    )
    if connection:
        arm["connection"] = connection
    return arm


def _gripper(side: str, fingers: list[UrdfJoint], answers: Answers) -> dict[str, Any] | None:
    """One gripper of what the fingers of a URDF say; the driver's unit and the closed end are for a person."""
    said = [finger for finger in fingers if not math.isnan(finger.low)]
    default: Any = [said[0].low, said[0].high] if said else "none"
    question = Question(
        f"gripper.{side}", f"[closed, open] of the {side} gripper in its driver's unit, or none", default
    )
    ends = answers.get(question)
    if ends is None or ends == "none":
        return None
    if not isinstance(ends, list):
        raise ValueError(f"{question.key} must be [closed, open] or none, got {ends!r}")
    return {
        "slot": f"{side}_gripper_open",
        "state_range": list(ends),
        "action_range": list(ends),
        "velocity_limit": 3.0,
    }


def _cameras(answers: Answers) -> dict[str, Any]:
    text = f"cameras as {{role: source}}, of {', '.join(CAMERA_ROLES)} and {', '.join(CAMERAS)} or a ROS topic"
    sources = answers.get(Question("cameras", text, {}))
    if not isinstance(sources, Mapping):
        raise ValueError(f"cameras must be a mapping of roles to sources, got {sources!r}")
    return {
        role: entry if isinstance(entry, Mapping) else {"source": entry, "required": role == "external"}
        for role, entry in sources.items()
    }


def robot_text(robot: Mapping[str, Any], header: str) -> str:
    """The YAML as the shipped ones look: a line a joint. Raises `ValueError` where it is no robot."""
    lines = [f"{key}: {_flow(robot[key])}" for key in ("name", "rate_hz")] + ["arms:"]
    for side, arm in robot["arms"].items():
        lines += [f"  {side}:", f"    driver: {_flow(arm['driver'])}", "    joints:"]
        lines += [f"      - {_flow(joint)}" for joint in arm["joints"]]
        lines += [f"    {key}: {_flow(arm[key])}" for key in ("gripper", "connection") if key in arm]
    if robot["cameras"]:
        lines += ["cameras:", *(f"  {role}: {_flow(camera)}" for role, camera in robot["cameras"].items())]
    text = header + "\n".join(lines) + "\n"
    Embodiment.from_dict(yaml.safe_load(text))
    return text


def command(args: argparse.Namespace) -> None:
    """Write the YAML of a new robot."""
    if len(args.urdf) > 2:
        raise ValueError(f"a robot has one arm or two, got {len(args.urdf)} URDFs")
    out = Path(args.out or f"{args.name}.yaml")
    if out.exists():
        raise FileExistsError(f"{out} exists: choose another --out, or remove it")
    urdfs = [Path(path) for path in args.urdf]
    given = read_yaml(args.answers) if args.answers else {}
    answers = Answers(given, None if args.answers else input)
    robot = describe(args.name, urdfs, answers)
    answers.check_all_used()
    header = HEADER.format(name=args.name, files=" and ".join(path.name for path in urdfs), out=out)
    out.write_text(robot_text(robot, header), encoding="utf-8")
    print(f"wrote {out}; next: rdt robot explain {out}, then rdt robot check {out}")


def _flow(value: Any) -> str:
    dumped = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf)
    return dumped.removesuffix("...\n").strip()


def _shown(default: Any) -> str:
    return _flow(default) if default != {} else "none"
