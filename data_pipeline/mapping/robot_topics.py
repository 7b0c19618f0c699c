"""The topics under which a robot's recordings stand, and the dataset YAML that reads them: both said once, here.

Steps are those of the instruction's topic, which a recorder writes once every step on an even grid: it never has a gap,
and what was not measured in time at a step is told and masked. Joints are in SI units with the robot's own signs,
grippers in their own unit.
"""

from __future__ import annotations

from typing import Any, Literal

import yaml

from data_pipeline.schema.embodiment import POSE, Embodiment, Entry, Gripper, Joint
from data_pipeline.schema.layout import SLOT_NAMES

MEASURED = "/joint_states"  # JointState, stamped when it was measured
COMMANDED = "/joint_commands"  # JointState: what was sent to the arms after all limits, stamped for when it was meant
PLANNED = "/rdt/planned"  # JointState: what the plan wanted before the limits
CHUNKS = "/rdt/chunks"  # JointTrajectory: what the policy answered
DECISIONS = "/rdt/decisions"  # String of JSON: modes with their reasons, who acts, limits, requests, answers, orders
INSTRUCTION = "/rdt/instruction"  # String, once every step
ACTOR = "/rdt/actor"  # String, once every step: who of `ACTORS` acts

MAX_AGE_S = 0.1
"""A joint state that is older counts for nothing, as for the loop (spec robot_ros2.md section 6)."""

ROTATION = POSE[3:]

_HEADER = """\
# How `rdt data convert` reads these recordings. Other ways to say what an action is, or which episodes count:
# docs/data.md; for instance filter: ["success == true"]
"""


def camera_topic(role: str, *, raw: bool = False) -> str:
    """CompressedImage, or Image for `raw` pictures."""
    return f"/cameras/{role}/" + ("image_raw" if raw else "compressed")


def dataset_yaml(robot: Embodiment, name: str, *, raw: bool = False) -> str:
    """The text of the dataset YAML for recordings of a robot in one folder.

    An action is the command that was meant for `action_offset_steps` later, in the words of the robot's YAML.
    """
    mapping: dict[str, Any] = {
        "schema": 1,
        "name": name,
        "source": {"format": "mcap", "glob": "*.mcap"},
        "robot": robot.name,
        "fps": {"from": "timestamps", "field": INSTRUCTION, "resample": robot.rate_hz},
        "state": _rules(robot, MEASURED, "state"),
        "action": {
            "mode": "recorded",
            "shift": robot.action_offset_steps,
            "rules": _rules(robot, COMMANDED, "action"),
        },
        "cameras": {role: camera_topic(role, raw=raw) for role in robot.cameras},
        "actor": f"{ACTOR}/data",
        "language": {"fields": [f"{INSTRUCTION}/data"], "capitalise": False, "full_stop": False},
        "faults": {"nan": "drop_steps"},  # before the first command there is no action
    }
    return _HEADER + yaml.safe_dump(mapping, sort_keys=False, default_flow_style=None, width=110)


def _rules(robot: Embodiment, topic: str, kind: Literal["state", "action"]) -> list[dict[str, Any]]:
    rules = []
    for place, entry in enumerate(robot.entries):
        to, source, ops = SLOT_NAMES[entry.slot], f"{place}", _ops(entry, kind)
        if entry.part is None and entry.name in ROTATION:  # six numbers, one rotation
            if entry.name != ROTATION[0]:
                continue
            to, source, ops = f"{entry.side}_eef_rot6d", f"{place}:{place + len(ROTATION)}", [{"rot": {"in": "rot6d"}}]
        rule = {"to": to, "from": f"{topic}/position[{source}]", "sync": {"how": "linear", "max_age_s": MAX_AGE_S}}
        rules.append({**rule, **({"ops": ops} if ops else {})})
    return rules


def _ops(entry: Entry, kind: Literal["state", "action"]) -> list[dict[str, Any]]:
    part = entry.part
    if isinstance(part, Gripper):
        return [{"range": list(part.state_range if kind == "state" else part.action_range)}]
    return [{"scale": -1.0}] if isinstance(part, Joint) and part.sign == -1 else []
