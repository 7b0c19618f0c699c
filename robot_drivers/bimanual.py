"""All arms of a robot as one body in the robot's native order, behind one guard.

One guard for the whole body, not one an arm: when an arm has to slow down or hold, the other does the same,
so what two hands carry together stays together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from data_pipeline.schema.embodiment import Embodiment
from robot_drivers.arm import Arm
from robot_drivers.errors import CommandError
from robot_drivers.guarded_arm import HOLDING, GuardedArm, geometry_of
from robot_drivers.limits.bounds import Bounds
from robot_drivers.limits.chain import LimitSettings
from robot_drivers.limits.limit import Change
from robot_drivers.tool_poses import ToolPoses, tool_poses_of
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

    Native vectors are in the units of the robot's YAML; drivers speak SI. Under `control: eef` native vectors are those
    of tools, and drivers are told joints (`tool_poses.py`).
    """

    def __init__(
        self,
        robot: Embodiment,
        arms: Mapping[str, Arm],
        settings: LimitSettings | None = None,
        rate_hz: float = 50.0,
        tool_poses: ToolPoses | None = None,
    ) -> None:
        """`tool_poses`: under control eef, other kinematics than those of the robot's YAML."""
        if set(arms) != set(robot.arms):
            raise ValueError(f"robot {robot.name!r} has arms {list(robot.arms)}, got drivers for {list(arms)}")
        motors, settings = robot.motors, settings or LimitSettings()
        self._tools = tool_poses or tool_poses_of(robot, settings)  # first: what it needs includes what limits need
        bounds = Bounds.of(motors)
        group = ArmGroup(
            {side: arms[side] for side in robot.arms}, {side: motors.arm_slice(side) for side in robot.arms}
        )
        self._guard = GuardedArm(group, bounds, settings, rate_hz, geometry_of(robot, list(robot.arms)))
        self._bounds = bounds
        self._unit = None if (bounds.unit == 1).all() else bounds.unit

    @property
    def names(self) -> tuple[str, ...]:
        """Names of what the motors are told, to read a report by."""
        return self._bounds.names

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
        return None if sent is None else self._native(sent)

    def state(self) -> tuple[np.ndarray, int]:
        """Measured native vector, float64 (num_native,), and its stamp: the older one of the arms'."""
        state = self._guard.state()
        return self._native(state.positions), state.stamp_ns

    def command(self, native: np.ndarray, stamp_ns: int) -> tuple[Change, ...]:
        """Send a native vector that is meant for `stamp_ns`. See `GuardedArm.command`; a tool that its arm cannot bring
        there is a hold, too."""
        if self._tools is None:
            positions = native if self._unit is None else native * self._unit
        elif native.shape != (self._tools.num_native,):
            self._guard.hold()
            raise CommandError(
                f"a command has {self._tools.num_native} numbers, tool poses first, got shape {native.shape}", HOLDING
            )
        else:
            positions, out_of_reach = self._tools.to_motors(native, self._start())
            if out_of_reach is not None:
                self._guard.hold()
                return (out_of_reach,)
        return self._guard.command(ArmCommand(positions, stamp_ns))

    def hold(self) -> None:
        """Brake both arms and stay; once every period while holding."""
        self._guard.hold()

    def reset(self) -> None:
        """Leave a fault: the next command is limited from the measured positions."""
        self._guard.reset()

    def close(self) -> None:
        self._guard.close()

    def _native(self, positions: np.ndarray) -> np.ndarray:
        if self._tools is not None:
            return self._tools.of_motors(positions)
        return positions if self._unit is None else positions / self._unit

    def _start(self) -> np.ndarray:
        """Where joints for a pose are looked for: at the present set-point, at first where the arms are."""
        sent = self._guard.set_point
        return self._bounds.as_command(self._guard.state().positions) if sent is None else sent
