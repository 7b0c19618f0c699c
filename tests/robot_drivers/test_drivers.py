"""A robot YAML names its drivers, and what it says of the connection is checked by them.

Run: pytest tests/robot_drivers/test_drivers.py
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from robot_drivers.connection import read_connection
from robot_drivers.drivers import ARMS, CAMERAS, open_arm, open_camera
from robot_drivers.piper import PiperConnection
from robot_drivers.realsense import RealSenseConnection
from robot_drivers.types import ArmCommand
from robot_drivers.ur5e import UR5eConnection
from robot_drivers.v4l2 import V4L2Connection
from robot_drivers.viperx import ViperXConnection
from tests.robots import bimanual

MS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Wire:
    port: str
    baud: int = 1_000_000
    gain: float = 1.0
    unit: Literal["rad", "m"] = "rad"


class Clock:
    """Time that tests move."""

    def __init__(self) -> None:
        self.now_ns = 10_000 * MS

    def __call__(self) -> int:
        return self.now_ns


def test_a_connection_becomes_the_drivers_own_words():
    wire = read_connection(Wire, "arms.left.connection", {"port": "/dev/ttyUSB0", "gain": 2})
    assert wire == Wire(port="/dev/ttyUSB0", gain=2)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"prt": "/dev/ttyUSB0"}, r"arms\.left\.connection: unknown key 'prt': did you mean 'port'"),
        ({}, r"arms\.left\.connection lacks \['port'\]: it takes port, baud, gain, unit"),
        ({"port": 7}, r"connection\.port must be of kind str, got 7 \(put a number of digits in quotes\)"),
        ({"port": "a", "baud": True}, r"baud must be of kind int, got True"),
        ({"port": "a", "unit": "mm"}, r"unit must be one of rad, m, got 'mm'"),
    ],
)
def test_a_connection_that_does_not_fit_is_refused_by_name(given, words):
    with pytest.raises(ValueError, match=words):
        read_connection(Wire, "arms.left.connection", given)


def test_unknown_drivers_sides_and_roles_name_what_exists():
    raw = copy.deepcopy(bimanual().to_dict())
    raw["arms"]["left"]["driver"] = "simm"
    robot = Embodiment.from_dict(raw)
    with pytest.raises(ValueError, match="unknown arm driver 'simm': did you mean 'sim'"):
        open_arm(robot, "left")
    with pytest.raises(ValueError, match=r"has arms \['left', 'right'\], not 'middle'"):
        open_arm(robot, "middle")
    with pytest.raises(ValueError, match=r"has cameras \['external'\], not 'left_wrist'"):
        open_camera(robot, "left_wrist")


@pytest.mark.parametrize("entry", [*ARMS.values(), *CAMERAS.values()])
def test_every_entry_of_the_tables_is_there_without_its_sdk(entry):
    module, attribute = entry.split(":")
    assert callable(getattr(__import__(module, fromlist=[attribute]), attribute))


CONNECTIONS = {
    "viperx": ViperXConnection,
    "piper": PiperConnection,
    "ur5e": UR5eConnection,
    "realsense": RealSenseConnection,
    "v4l2": V4L2Connection,
}


@pytest.mark.parametrize("name", ["viperx_pair", "piper_pair", "ur5e_pair"])
def test_shipped_robots_say_how_to_reach_their_devices(name):
    robot = Embodiment.from_yaml(find_config("robots", name))
    for side, arm in robot.arms.items():
        read_connection(CONNECTIONS[arm.driver], side, arm.connection)
    for role, camera in robot.cameras.items():
        read_connection(CONNECTIONS[camera.source], role, camera.connection)


def test_the_guide_names_every_key_of_a_connection():
    guide = (Path(__file__).parents[2] / "docs/robots.md").read_text(encoding="utf-8").splitlines()
    for name, connection in CONNECTIONS.items():
        (row,) = [line for line in guide if f": {name}`" in line]
        assert {f.name for f in fields(connection)} == set(re.findall(r"`(\w+)`", row.split("|")[4]))


def test_the_embedded_robot_keeps_up_with_the_clock():
    pytest.importorskip("mujoco")
    clock, robot = Clock(), bimanual()
    left, right = open_arm(robot, "left", clock), open_arm(robot, "right", clock)
    start = left.state()
    left.command(ArmCommand(start.positions + np.array([0.1, 0, 0, 0, 0, 0, 0]), clock()))
    clock.now_ns += 500 * MS
    moved = left.state()
    assert moved.stamp_ns - start.stamp_ns == 500 * MS
    assert moved.positions[0] - start.positions[0] == pytest.approx(0.1, abs=0.02)
    assert right.state().stamp_ns == moved.stamp_ns  # one scene
    clock.now_ns += 3_600_000 * MS  # an hour in which nobody looked
    assert left.state().stamp_ns == clock.now_ns
    left.close()
    right.close()
    fresh = open_arm(robot, "left", clock)
    assert fresh.state().positions[0] == pytest.approx(start.positions[0], abs=1e-3)
    fresh.close()
