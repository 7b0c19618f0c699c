"""Two arms as one body: native order, one guard, no arm left moving alone.

Run: pytest tests/robot_drivers/test_bimanual.py
"""

import math

import numpy as np
import pytest

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from robot_drivers.bimanual import Bimanual
from robot_drivers.errors import DriverError
from robot_drivers.limits.chain import LimitSettings
from robot_drivers.types import ArmState

T = 20_000_000
ROBOT = Embodiment.from_yaml(find_config("robots", "sim_bimanual"))
HOME = np.tile([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.5], 2)


class FakeArm:
    def __init__(self, positions):
        self.positions, self.now_ns = positions, 0
        self.told, self.holds, self.closed, self.broken = [], 0, False, False

    def state(self):
        return ArmState(self.positions.copy(), self.now_ns)

    def command(self, command):
        if self.broken:
            raise OSError("bus gone")
        self.told.append(command)
        self.positions = command.positions

    def hold(self):
        self.holds += 1
        if self.broken:
            raise OSError("bus gone")

    def close(self):
        self.closed = True


@pytest.fixture
def arms():
    return {"right": FakeArm(HOME[7:] + 0.01), "left": FakeArm(HOME[:7])}  # not in native order


def test_native_order_and_the_older_stamp(arms):
    arms["left"].now_ns = 5
    arms["right"].now_ns = 3
    native, stamp_ns = Bimanual(ROBOT, arms).state()
    assert native.tolist() == [*HOME[:7], *(HOME[7:] + 0.01)]
    assert stamp_ns == 3


def test_a_command_reaches_both_arms(arms):
    body = Bimanual(ROBOT, arms)
    native, _ = body.state()
    assert body.command(native + 0.001, T) == ()
    assert (arms["left"].told[0].positions == native[:7] + 0.001).all()
    assert (arms["right"].told[0].positions == native[7:] + 0.001).all()
    assert arms["left"].told[0].stamp_ns == T


def test_the_set_point_is_what_the_limits_left_of_a_command(arms):
    body = Bimanual(ROBOT, arms)
    assert body.set_point is None
    native, _ = body.state()
    body.command(native + np.where(np.arange(14) == 0, 0.5, 0.0), T)
    assert (body.set_point == np.concatenate([arms["left"].positions, arms["right"].positions])).all()
    assert 0 < body.set_point[0] - native[0] < 0.5


def test_when_one_arm_is_too_fast_both_slow_down_alike(arms):
    body = Bimanual(ROBOT, arms, LimitSettings(approach_rad_s=math.inf))
    native, _ = body.state()
    native[0] += 0.5  # left waist: eight times too fast
    native[7] += 0.05  # right waist: slow enough by itself
    velocity, _ = body.command(native, T)
    assert velocity.limit == "velocity"
    assert velocity.entries == (0, 7)


def test_one_stale_arm_holds_both(arms):
    body = Bimanual(ROBOT, arms)
    native, _ = body.state()
    arms["left"].now_ns = 10 * T
    report = body.command(native, 11 * T)
    assert [(change.limit, change.verdict) for change in report] == [("staleness", "hold")]
    assert arms["left"].holds == arms["right"].holds == 1


@pytest.mark.parametrize("side", ["left", "right"])
def test_when_one_arm_raises_both_hold(arms, side):
    body = Bimanual(ROBOT, arms)
    native, _ = body.state()
    body.command(native, T)
    arms[side].broken = True
    with pytest.raises(DriverError, match="bus gone"):
        body.command(native, 2 * T)
    assert arms["left"].holds == arms["right"].holds == 1
    assert body.fault


def test_close_reaches_both(arms):
    Bimanual(ROBOT, arms).close()
    assert arms["left"].closed
    assert arms["right"].closed


def test_drivers_must_match_the_robot(arms):
    del arms["left"]
    with pytest.raises(ValueError, match=r"'sim_bimanual' has arms \['left', 'right'\]"):
        Bimanual(ROBOT, arms)


def test_drivers_speak_si_where_the_yaml_says_degrees():
    raw = {
        "name": "degrees",
        "rate_hz": 10,
        "arms": {
            "left": {
                "driver": "fake",
                "joints": [{"name": "j", "slot": "left_arm_joint_0_pos", "unit": "deg", "limits": [-1, 1]}],
            }
        },
    }
    arm = FakeArm(np.array([0.5]))
    body = Bimanual(Embodiment.from_dict(raw), {"left": arm}, LimitSettings(approach_rad_s=math.inf))
    assert body.state()[0] == pytest.approx(np.rad2deg([0.5]))
    report = body.command(np.array([90.0]), T)  # beyond 1 rad less the margin
    assert arm.told[0].positions == pytest.approx([0.95])
    assert report[0].limit == "position"
