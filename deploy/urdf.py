"""What a URDF says of an arm's joints: names in the order of the chain, kinds, limits, speeds."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GRIPPER_WORDS = re.compile(r"grip|finger|jaw|claw|hand_joint", re.IGNORECASE)


@dataclass(frozen=True)
class UrdfJoint:
    """One joint that moves by its own motor. SI units; `nan` where the URDF says nothing."""

    name: str
    kind: str  # revolute | continuous | prismatic
    low: float
    high: float
    velocity: float

    @property
    def is_gripper(self) -> bool:
        """Whether it opens a hand: by its name, or because it slides at the end of arms that turn."""
        return self.kind == "prismatic" or GRIPPER_WORDS.search(self.name) is not None


def read_urdf(path: Path) -> list[UrdfJoint]:
    """The joints of a URDF from the base outwards, without fixed ones and those that mimic another.

    Raises `ValueError` that names the file, `ModuleNotFoundError` with the words that install the reader.
    """
    try:
        import yourdfpy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("reading a URDF needs yourdfpy: pip install 'rdt-stack[urdf]'") from error
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if path.suffix == ".xacro":
        raise ValueError(f"{path} is a macro: `xacro {path} > robot.urdf` makes the URDF of it")
    try:
        robot = yourdfpy.URDF.load(str(path), build_scene_graph=False, load_meshes=False).robot
    except Exception as error:  # lxml's, or the reader's own, by what is wrong
        raise ValueError(f"{path} is no URDF: {error}") from error
    parents = {joint.child: joint.parent for joint in robot.joints}

    def depth(link: str) -> int:
        steps = 0
        while link in parents and steps <= len(parents):
            link, steps = parents[link], steps + 1
        return steps

    moving = [joint for joint in robot.joints if joint.type in ("revolute", "continuous", "prismatic")]
    driven = [joint for joint in moving if joint.mimic is None]
    return [_joint(joint) for joint in sorted(driven, key=lambda joint: depth(joint.child))]


def _joint(joint: Any) -> UrdfJoint:
    limit = joint.limit

    def number(name: str) -> float:
        value = getattr(limit, name, None)
        return math.nan if value is None else float(value)

    low, high = number("lower"), number("upper")
    if joint.type == "continuous" or not low < high:
        low = high = math.nan
    velocity = number("velocity")
    return UrdfJoint(joint.name, joint.type, low, high, velocity if velocity > 0 else math.nan)
