"""An arm that cannot be commanded past its limits.

The guard owns the driver: every command goes through the row of limits, and whatever is not a sound command
in time ends in holding. Holding means: brake at the joints' acceleration limit, then repeat the last
set-point, torque on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from data_pipeline.schema.embodiment import Embodiment
from robot_drivers.arm import Arm
from robot_drivers.errors import ArmFaultError, CommandError, DriverError, RobotError
from robot_drivers.limits.bounds import Bounds
from robot_drivers.limits.chain import LimitSettings, build_limits
from robot_drivers.limits.limit import Change, Limit, Motion
from robot_drivers.limits.workspace import Geometry
from robot_drivers.types import ArmCommand, ArmState

HOLDING = "holding where it is, torque on"
UNKNOWN = "in an unknown state: use the emergency stop"
GAP_PERIODS = 2
"""After this many periods without a command the arm has come to rest at its last set-point."""


class GuardedArm:
    """One arm behind its limits. Command it once every `1 / rate_hz` seconds.

    A command that comes later than that may still move no farther than in one period, and one that comes
    sooner moves less: the limits hold under jitter, too.
    """

    _limits: tuple[Limit, ...]
    _fault: str | None
    _sent: np.ndarray | None  # the last set-point, its velocity and the time it is meant for
    _velocity: np.ndarray
    _sent_ns: int
    _wanted: np.ndarray  # the last command before any limit
    _measured: np.ndarray  # the last finite measurement, in command units
    _measured_ns: int | None
    _stands: bool  # told to hold and at rest, or never commanded

    def __init__(
        self,
        arm: Arm,
        bounds: Bounds,
        settings: LimitSettings | None = None,
        rate_hz: float = 50.0,
        geometry: Geometry | None = None,
    ) -> None:
        if not rate_hz > 0:
            raise ValueError(f"rate_hz must be positive, got {rate_hz}")
        self._arm = arm
        self._bounds = bounds
        self._settings = settings or LimitSettings()
        self._geometry = geometry  # None: nobody knows where its tools are
        self._period_ns = round(1e9 / rate_hz)
        self.reset()

    @classmethod
    def of(
        cls,
        robot: Embodiment,
        side: str,
        arm: Arm,
        settings: LimitSettings | None = None,
        rate_hz: float = 50.0,
    ) -> GuardedArm:
        """Guard one arm with the limits in the robot's YAML."""
        return cls(arm, Bounds.of(robot.motors, side), settings, rate_hz, geometry_of(robot, [side]))

    @property
    def fault(self) -> str | None:
        """Why the arm takes no command; `None` while it does."""
        return self._fault

    @property
    def is_moving(self) -> bool:
        """Whether set-points still change: while holding, until the arm has been braked to a stand."""
        return bool(self._velocity.any())

    @property
    def set_point(self) -> np.ndarray | None:
        """What the arm has been told last, in SI units; `None` before the first command."""
        return self._sent

    def state(self) -> ArmState:
        """Measured positions. Raises `DriverError`, with the arm holding, when the driver raises."""
        try:
            state = self._arm.state()
        except Exception as error:
            raise self._driver_failed(f"the driver raised in state(): {_words(error)}") from error
        if state.positions.shape != self._measured.shape:
            raise self._driver_failed(
                f"the driver measured {state.positions.shape} positions for {list(self._bounds.names)}"
            )
        return state

    def command(self, command: ArmCommand) -> tuple[Change, ...]:
        """Send the nearest safe command. The report is empty if and only if it was sent as it came.

        A verdict "hold" in the report means that the arm brakes instead this time. Raises `ArmFaultError`
        when a limit gives up, and on every call after that until `reset()`; the arm then holds.
        """
        if self._fault is not None:
            self.hold()
            raise ArmFaultError(self._fault, self._arm_now())
        if command.positions.shape != self._measured.shape:
            self.hold()
            raise CommandError(
                f"a command for {list(self._bounds.names)} has {self._measured.size} positions, "
                f"got shape {command.positions.shape}",
                self._arm_now(),
            )
        state = self.state()
        if np.isfinite(state.positions).all():  # else the last one that was grows old
            self._measured, self._measured_ns = self._bounds.as_command(state.positions), state.stamp_ns
        wanted = command.positions.copy()  # the caller may write into its own again
        motion = self._motion(wanted, command.stamp_ns)
        positions, changes = wanted, []
        for limit in self._limits:
            positions, change = limit.apply(positions, motion)
            if change is None:
                continue
            changes.append(change)
            if change.verdict != "limited":
                if change.verdict == "fault":
                    self._fault = f"limit {change.limit!r} gave up ({change.amount:.3g})" + (
                        f" on {self._bounds.describe(change.entries)}" if change.entries else ""
                    )
                if motion.dt_s > 0:  # else it is not newer than what the arm has: nothing is sent
                    self._brake(command.stamp_ns)
                if self._fault is not None:
                    raise ArmFaultError(self._fault, self._arm_now())
                return tuple(changes)
        self._wanted = wanted
        self._stands = False
        self._send(positions, (positions - motion.sent) / motion.dt_s, command.stamp_ns)
        return tuple(changes)

    def hold(self) -> None:
        """Brake and stay. Call it every period while the arm shall hold. Allowed at any time."""
        self._brake(self._sent_ns + self._period_ns if self._velocity.any() else self._sent_ns)
        self._stands = not self._velocity.any()

    def reset(self) -> None:
        """Forget faults and set-points: the next command is limited from the measured position."""
        rest = np.zeros(self._bounds.num_entries)
        self._limits = build_limits(self._bounds, self._settings, self._geometry)
        self._fault = None
        self._sent, self._velocity, self._sent_ns = None, rest, 0
        self._wanted, self._measured, self._measured_ns = rest, rest, None
        self._stands = True

    def close(self) -> None:
        """Hold, then let go of the driver."""
        try:
            self.hold()
        finally:
            self._arm.close()

    def _motion(self, wanted: np.ndarray, stamp_ns: int) -> Motion:
        age_s = math.inf if self._measured_ns is None else (stamp_ns - self._measured_ns) * 1e-9
        if self._sent is None:
            start, period_s = self._measured, self._period_ns * 1e-9
            return Motion(start, self._velocity, wanted, start, start, age_s, period_s, True)
        elapsed_ns = stamp_ns - self._sent_ns
        if elapsed_ns > GAP_PERIODS * self._period_ns:
            self._velocity = np.zeros_like(self._velocity)
            self._wanted, self._stands = self._sent, True
        dt_s = min(elapsed_ns, self._period_ns) * 1e-9
        return Motion(self._sent, self._velocity, wanted, self._wanted, self._measured, age_s, dt_s, self._stands)

    def _brake(self, stamp_ns: int) -> None:
        """One period of braking at the joints' limit; at rest, the last set-point again."""
        if self._sent is None:
            self._driver_hold()
            return
        period_s = self._period_ns * 1e-9
        slower = np.maximum(np.abs(self._velocity) - self._bounds.acceleration * period_s, 0.0)
        velocity = np.copysign(slower, self._velocity)
        positions = self._sent + velocity * period_s
        self._wanted = positions
        self._send(positions, velocity, stamp_ns)

    def _send(self, positions: np.ndarray, velocity: np.ndarray, stamp_ns: int) -> None:
        try:
            self._arm.command(ArmCommand(positions, stamp_ns))
        except Exception as error:
            raise self._driver_failed(f"the driver raised in command(): {_words(error)}") from error
        self._sent, self._velocity, self._sent_ns = positions, velocity, stamp_ns

    def _driver_hold(self) -> None:
        try:
            self._arm.hold()
        except Exception as error:
            self._fault = f"the driver raised in hold(): {_words(error)}"
            raise DriverError(self._fault, _state_after(error)) from error

    def _driver_failed(self, what: str) -> DriverError:
        """Latch the fault and ask the driver to hold, so that the error can say what the arm does."""
        self._fault = what
        self._velocity = np.zeros_like(self._velocity)
        self._sent = None  # from here on holding is the driver's own hold
        try:
            self._arm.hold()
        except Exception as error:
            return DriverError(what, _state_after(error))
        return DriverError(what, HOLDING)

    def _arm_now(self) -> str:
        return "braking to a stand" if self.is_moving else HOLDING


def geometry_of(robot: Embodiment, sides: Sequence[str]) -> Geometry | None:
    """What the section `kinematics` of a robot's YAML says about these arms; `None` where it says nothing."""
    if robot.kinematics is None or not set(sides) & set(robot.kinematics.arms):
        return None
    from robot_drivers.pinocchio_arms import PinocchioArms

    return PinocchioArms(robot, sides)


def _words(error: Exception) -> str:
    """What happened; what the arm does now is said once, by whoever raises last."""
    return error.what if isinstance(error, RobotError) else repr(error)


def _state_after(error: Exception) -> str:
    """What the arm does when holding failed: only its driver can know."""
    return error.arm_now if isinstance(error, RobotError) else UNKNOWN
