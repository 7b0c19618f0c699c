"""All arms of a robot as one body in the robot's native order, behind one guard.

One guard for the whole body, not one an arm: when an arm has to slow down or hold, the other does the same,
so what two hands carry together stays together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from data_pipeline.schema.embodiment import Embodiment
from robot_drivers.arm import Arm
from robot_drivers.guarded_arm import GuardedArm, geometry_of
from robot_drivers.limits.bounds import Bounds
from robot_drivers.limits.chain import LimitSettings
from robot_drivers.limits.limit import Change
from robot_drivers.types import ArmCommand, ArmState


class ArmGroup:
    """Several arms as one `Arm`. When one raises, the guard above tells the group to hold: all of them."""

    def __init__(self, arms: Mapping[str, Arm], slices: Mapping[str, slice]) -> None:
        self._arms = dict(arms)
        self._slices = dict(slices)

    def state(self) -> ArmState:
        """All positions, with the stamp of the oldest."""
        states = [arm.state() for arm in self._arms.values()]
        return ArmState(np.concatenate([state.positions for state in states]), min(state.stamp_ns for state in states))

    def command(self, command: ArmCommand) -> None:
        for side, arm in self._arms.items():
            arm.command(ArmCommand(command.positions[self._slices[side]], command.stamp_ns))

    def hold(self) -> None:
        self._each(lambda arm: arm.hold())

    def close(self) -> None:
        self._each(lambda arm: arm.close())

    def _each(self, action: Callable[[Arm], None]) -> None:
        """Reach every arm even if one raises, then raise the first error."""
        errors = []
        for arm in self._arms.values():
            try:
                action(arm)
            except Exception as error:  # noqa: PERF203
                errors.append(error)
        if errors:
            raise errors[0]


class Bimanual:
    """The body that a loop commands: native vectors in, native vectors out, limits always on.

    Native vectors are in the units of the robot's YAML; drivers speak SI.
    """

    def __init__(
        self,
        robot: Embodiment,
        arms: Mapping[str, Arm],
        settings: LimitSettings | None = None,
        rate_hz: float = 50.0,
    ) -> None:
        if set(arms) != set(robot.arms):
            raise ValueError(f"robot {robot.name!r} has arms {list(robot.arms)}, got drivers for {list(arms)}")
        bounds = Bounds.of(robot)
        group = ArmGroup(
            {side: arms[side] for side in robot.arms}, {side: robot.arm_slice(side) for side in robot.arms}
        )
        self._guard = GuardedArm(group, bounds, settings, rate_hz, geometry_of(robot, list(robot.arms)))
        self._unit = None if (bounds.unit == 1).all() else bounds.unit
        self._names = bounds.names

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the native entries, to read a report by."""
        return self._names

    @property
    def fault(self) -> str | None:
        return self._guard.fault

    @property
    def is_moving(self) -> bool:
        """Whether the set-points move: after the last command, or while braking."""
        return self._guard.is_moving

    @property
    def set_point(self) -> np.ndarray | None:
        """The native vector that was sent last, after all limits; `None` before the first command."""
        sent = self._guard.set_point
        return sent if sent is None or self._unit is None else sent / self._unit

    def state(self) -> tuple[np.ndarray, int]:
        """Measured native vector, float64 (num_native,), and its stamp: the older one of the arms'."""
        state = self._guard.state()
        return (state.positions if self._unit is None else state.positions / self._unit), state.stamp_ns

    def command(self, native: np.ndarray, stamp_ns: int) -> tuple[Change, ...]:
        """Send a native vector that is meant for `stamp_ns`. See `GuardedArm.command`."""
        positions = native if self._unit is None else native * self._unit
        return self._guard.command(ArmCommand(positions, stamp_ns))

    def hold(self) -> None:
        """Brake both arms and stay; once every period while holding."""
        self._guard.hold()

    def reset(self) -> None:
        """Leave a fault: the next command is limited from the measured positions."""
        self._guard.reset()

    def close(self) -> None:
        self._guard.close()
