"""A first dataset YAML for recordings of one's own: a guess by names and widths, to be checked line by line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from data_pipeline.sources.raw import FieldSpec

_STATE_NAMES = ("qpos", "joint_pos", "observation.state", "observation/state", "state", "joint")
_ACTION_NAMES = ("action", "actions")
_HEADER = """\
# A guess by names and widths. Check every line: which joint is which, radians, metres, 1 = open gripper, the colours.
#   rdt data inspect {name}.yaml      what each slot is filled with
#   rdt data validate {name}.yaml     what looks wrong in the recordings, read this way
# Slots, operations and all other keys: docs/data.md
"""


def starter_yaml(
    name: str, source_format: str, glob: str, fields: Mapping[str, FieldSpec], fps: float | None = None
) -> str:
    """The text of a YAML that `Mapping.from_yaml` reads, for recordings of these fields."""
    state = _best(fields, _STATE_NAMES)
    action = _best(fields, _ACTION_NAMES)
    lines = [
        _HEADER.format(name=name) + "schema: 1",
        f"name: {name}",
        f'source: {{format: {source_format}, glob: "{glob}"}}',
        "robot: unknown",
        f"fps: {fps:g}" if fps else "fps: 25  # of the recordings",
        "state:",
        *(_rules(state, _width(fields[state])) if state else ["  []  # no field looks like a state"]),
    ]
    if action and state and _width(fields[action]) == _width(fields[state]):
        lines += ["action:", "  mode: recorded  # next_state: the states that follow", "  rules:"]
        lines += ["  " + rule for rule in _rules(action, _width(fields[action]))]
    else:
        lines.append("action: {mode: next_state}")
    lines += ["cameras:", *_cameras([path for path, spec in fields.items() if spec.kind == "image"])]
    texts = [path for path, spec in fields.items() if spec.kind == "text"]
    lines.append(
        f'language: {{fields: ["{texts[0]}"]}}' if texts else 'language: {constant: "say here what the robot does"}'
    )
    unused = [
        f"{path} ({_width(spec)})"
        for path, spec in fields.items()
        if spec.kind == "array" and path not in (state, action)
    ]
    if unused:
        lines.append(f"# not used: {', '.join(unused)}")
    return "\n".join(lines) + "\n"


def _best(fields: Mapping[str, FieldSpec], names: Sequence[str]) -> str | None:
    """The vector whose path ends in one of the names, the earlier name the better."""
    vectors = [path for path, spec in fields.items() if spec.kind == "array" and _width(spec) > 1]
    for name in names:
        found = [path for path in vectors if path == name or path.endswith((f"/{name}", f".{name}"))]
        if found:
            return min(found, key=len)
    return None


def _width(spec: FieldSpec) -> int:
    """Numbers a step; 0 where that differs from record to record."""
    return 0 if None in spec.shape else prod(spec.shape)  # type: ignore[arg-type]


def _rules(path: str, width: int) -> list[str]:
    if width == 14:  # ALOHA's order
        parts = [("left_arm_joint_pos[0:6]", 0, 6), ("left_gripper_pos[0]", 6, 7)]
        parts += [("right_arm_joint_pos[0:6]", 7, 13), ("right_gripper_pos[0]", 13, 14)]
    elif width in (7, 8):
        parts = [(f"right_arm_joint_pos[0:{width - 1}]", 0, width - 1), ("right_gripper_pos[0]", width - 1, width)]
    else:
        joints = min(width or 6, 10)
        parts = [(f"right_arm_joint_pos[0:{joints}]", 0, joints)]
    return [f'  - {{to: "{to}", from: "{path}[{start}:{stop}]"}}' for to, start, stop in parts]


def _cameras(paths: Sequence[str]) -> list[str]:
    roles: dict[str, str] = {}
    extra = []
    for path in paths:
        low = path.lower()
        wrist = "wrist" in low or "hand" in low or "gripper" in low
        role = "external" if not wrist else "left_wrist" if "left" in low else "right_wrist"
        if role in roles:
            extra.append(path)
        else:
            roles[role] = path
    lines = [f"  {role}: {roles[role]}" for role in ("external", "right_wrist", "left_wrist") if role in roles]
    return lines + ([f"  extra: [{', '.join(extra)}]"] if extra else [])
