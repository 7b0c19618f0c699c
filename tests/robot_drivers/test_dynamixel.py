"""Units of Dynamixel motors.

Run: pytest tests/robot_drivers/test_dynamixel.py
"""

import math

import numpy as np
import pytest

from robot_drivers import dynamixel as dxl
from robot_drivers.errors import DriverError


def test_a_turn_is_4096_ticks_round_the_middle():
    assert dxl.rad_from_ticks(np.array([0, 1024, 2048, 3072])) == pytest.approx(
        [-math.pi, -math.pi / 2, 0, math.pi / 2]
    )
    assert dxl.ticks_from_rad(np.array([-math.pi, 0.0, math.pi])).tolist() == [0, 2048, 4096]


def test_every_tick_comes_back():
    ticks = np.arange(-5000, 5000)
    assert (dxl.ticks_from_rad(dxl.rad_from_ticks(ticks)) == ticks).all()


def test_hardware_errors_have_names():
    assert dxl.hardware_errors(0b100100) == "overheating, overload"
    assert dxl.hardware_errors(0) == "no error"


def test_a_port_that_is_not_there_says_what_to_look_for():
    pytest.importorskip("dynamixel_sdk")
    with pytest.raises(DriverError, match=r"/dev/ttyNONE cannot be opened.*plugged in.*arm is now untouched"):
        dxl.Bus("/dev/ttyNONE", 1_000_000)
