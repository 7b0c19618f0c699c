"""`rdt robot`: the shipped robots, what a robot YAML maps to, and the doors to checking and describing one."""

from __future__ import annotations

import argparse

import numpy as np

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.layout import SLOT_NAMES, SLOT_UNITS
from data_pipeline.schema.registry import configs_dir, find_config, load_attribute

COMMANDS = {
    "check": "deploy.robot_check:command",
    "new": "deploy.robot_new:command",
}


def command(args: argparse.Namespace) -> int | None:
    if args.robot_command in COMMANDS:
        return load_attribute("robot command", args.robot_command, COMMANDS)(args)
    if args.robot_command == "list":
        for path in sorted((configs_dir() / "robots").glob("*.yaml")):
            robot = Embodiment.from_yaml(path)
            drivers = sorted({arm.driver for arm in robot.arms.values()})
            print(f"{robot.name:24s} {len(robot.arms)} arms, {robot.rate_hz:g} Hz, driver {', '.join(drivers)}")
    else:
        print(explain(Embodiment.from_yaml(find_config("robots", args.robot))))
    return None


def explain(robot: Embodiment) -> str:
    """The mapping as a table: native entry, unit, slot, and both gripper conversions."""
    lines = [
        f"{robot.name}: {robot.num_native} native entries at {robot.rate_hz:g} Hz, {robot.control} control, "
        f"action[t] is meant for step t + {robot.action_offset_steps}",
        f"{'native':>6s} {'name':24s} {'slot':>4s} {'slot name':28s} {'unit':18s} conversion",
    ]
    ones = np.eye(robot.num_native)
    zeros = np.zeros(robot.num_native)
    for i, (name, slot) in enumerate(zip(robot.native_names, robot.slots, strict=True)):
        rules = []
        for kind in ("state", "action"):
            offset = robot.to_unified(zeros, kind)[0][slot]
            scale = robot.to_unified(ones[i], kind)[0][slot] - offset
            rules.append(f"x {scale:g}" + (f" {offset:+g}" if offset else ""))
        rule = rules[0] if rules[0] == rules[1] else f"state {rules[0]}, action {rules[1]}"
        lines.append(f"{i:6d} {name:24s} {slot:4d} {SLOT_NAMES[slot]:28s} {SLOT_UNITS[slot]:18s} {rule}")
    for role, camera in robot.cameras.items():
        need = "required" if camera.required else "optional"
        lines.append(f"camera {role}: {camera.source}, {need}, latency {camera.latency_s * 1000:g} ms")
    return "\n".join(lines)
