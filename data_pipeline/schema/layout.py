"""The 128 slots of the physically interpretable unified action space: names, aliases, units.

One vector serves as state and as action for every robot (spec rdt.md section 7). The right arm holds slots
0-49, the left arm 50-99, the base 100-102; the rest is reserved and always 0. Names without a side are
aliases of the right arm: a single arm is always the right one.
"""

from __future__ import annotations

import re

from data_pipeline.schema.registry import unknown_name

NUM_SLOTS = 128
LEFT_OFFSET = 50
MAX_ARM_JOINTS = 10
MAX_GRIPPER_JOINTS = 5

_AXES = ("x", "y", "z")
_EULER = ("roll", "pitch", "yaw")

# name within a side -> (first slot, slot suffixes, unit); a block of k slots is written name[0:k]
_SIDE_BLOCKS: dict[str, tuple[int, tuple[str, ...], str]] = {
    "arm_joint_pos": (0, tuple(f"arm_joint_{i}_pos" for i in range(MAX_ARM_JOINTS)), "rad"),
    "gripper_pos": (
        10,
        tuple(f"gripper_joint_{i}_pos" for i in range(MAX_GRIPPER_JOINTS)),
        "opening in [0, 1]",
    ),
    "arm_joint_vel": (15, tuple(f"arm_joint_{i}_vel" for i in range(MAX_ARM_JOINTS)), "rad/s"),
    "gripper_vel": (25, tuple(f"gripper_joint_{i}_vel" for i in range(MAX_GRIPPER_JOINTS)), "1/s"),
    "eef_pos": (30, tuple(f"eef_pos_{a}" for a in _AXES), "m"),
    "eef_rot6d": (33, tuple(f"eef_angle_{i}" for i in range(6)), "6-D rotation"),
    "eef_vel": (39, tuple(f"eef_vel_{a}" for a in _AXES), "m/s"),
    "eef_angvel": (42, tuple(f"eef_angular_vel_{a}" for a in _EULER), "rad/s"),
}
_BASE_BLOCKS: dict[str, tuple[int, tuple[str, ...], str]] = {
    "base_vel": (100, ("base_vel_x", "base_vel_y"), "m/s"),
    "base_angvel": (102, ("base_angular_vel",), "rad/s"),
}


def _build() -> tuple[tuple[str, ...], tuple[str, ...], dict[str, int], dict[str, range]]:
    names = [f"reserved_{i}" for i in range(NUM_SLOTS)]
    units = ["reserved"] * NUM_SLOTS
    index: dict[str, int] = {}
    blocks: dict[str, range] = {}

    def add(block: str, first: int, members: tuple[str, ...], unit: str, prefixes: tuple[str, ...]) -> None:
        for prefix in prefixes:
            blocks[prefix + block] = range(first, first + len(members))
        for i, member in enumerate(members, start=first):
            names[i], units[i] = prefixes[0] + member, unit
            index.update({prefix + member: i for prefix in prefixes})

    for prefixes, offset in ((("right_", ""), 0), (("left_",), LEFT_OFFSET)):
        for block, (first, members, unit) in _SIDE_BLOCKS.items():
            add(block, first + offset, members, unit, prefixes)
        for prefix in prefixes:
            index[prefix + "gripper_open"] = offset + 10
            index[prefix + "gripper_open_vel"] = offset + 25
    for block, (first, members, unit) in _BASE_BLOCKS.items():
        add(block, first, members, unit, ("",))
    index.update({name: i for i, name in enumerate(names)})
    return tuple(names), tuple(units), index, blocks


SLOT_NAMES, SLOT_UNITS, SLOT_INDEX, SLOT_BLOCKS = _build()
"""Canonical name and unit of each slot; every name and alias -> slot; every block name -> its slots."""


def slot_index(name: str) -> int:
    """Slot of a canonical name or of any alias. Raises `ValueError` that names the nearest one."""
    try:
        return SLOT_INDEX[name]
    except KeyError:
        raise ValueError(unknown_name("slot", name, SLOT_INDEX)) from None


def slot_range(text: str) -> range:
    """Slots of a block: `right_arm_joint_pos[0:6]`, `left_eef_pos`, or the name of one slot.

    Raises `ValueError` for an unknown block and for a slice that leaves it.
    """
    match = re.fullmatch(r"\s*(\w+)\s*(?:\[\s*(\d+)\s*(?::\s*(\d+)\s*)?\])?\s*", text)
    if match is None:
        raise ValueError(f"{text!r} is not a slot block: write 'right_arm_joint_pos[0:6]', 'left_eef_pos[2]' or a slot")
    name, start, stop = match.groups()
    if name in SLOT_INDEX and start is None:
        return range(SLOT_INDEX[name], SLOT_INDEX[name] + 1)
    if name not in SLOT_BLOCKS:
        raise ValueError(unknown_name("slot block", name, {**SLOT_BLOCKS, **SLOT_INDEX}))
    block = SLOT_BLOCKS[name]
    low = 0 if start is None else int(start)
    high = len(block) if start is None else (low + 1 if stop is None else int(stop))
    if not 0 <= low < high <= len(block):
        raise ValueError(f"{text!r} leaves its block: {name} has {len(block)} slots, [0:{len(block)}]")
    return block[low:high]
