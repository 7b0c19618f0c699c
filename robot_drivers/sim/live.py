"""The embedded robot on the clock of whoever looks: a rehearsal of a real one.

`SimRobot` is stepped by its owner. Behind `open_arm` and `open_camera` its physics keeps up with the clock by
itself, as an arm on a table does, so that the commands for real robots work on it without knowing.
"""

from __future__ import annotations

from collections.abc import Callable

from data_pipeline.schema.embodiment import Embodiment
from robot_drivers.errors import PASSIVE, DriverError
from robot_drivers.sim.robot import TICK_NS, SimRobot
from robot_drivers.types import ArmCommand, ArmState, CameraFrame

LONGEST_CATCH_UP = 50  # ticks: while nobody looks, time stands still in the scene
IMAGE_SIZE = (240, 320)


class LiveRobot:
    """One scene that steps to the present whenever it is looked at; arms and cameras of a robot share it."""

    _open: dict[tuple[str, Callable[[], int]], LiveRobot] = {}  # noqa: RUF012 (shared on purpose, like a bus)

    def __init__(self, key: tuple[str, Callable[[], int]]) -> None:
        self._key, self._clock = key, key[1]
        self._robot = SimRobot("transfer_right_to_left", seed=0, image_size=IMAGE_SIZE)
        self._now_ns = self._clock()
        self._users = 0

    @classmethod
    def join(cls, robot: Embodiment, clock: Callable[[], int]) -> LiveRobot:
        """The scene that this robot's arms and cameras share on this clock."""
        key = (robot.name, clock)
        if key not in cls._open:
            cls._open[key] = cls(key)
        live = cls._open[key]
        live._users += 1
        return live

    def leave(self) -> None:
        self._users -= 1
        if self._users == 0:
            del self._open[self._key]
            self._robot.close()

    def present(self) -> tuple[SimRobot, int]:
        """The scene as it is now, and the stamp of its last tick."""
        ticks = (self._clock() - self._now_ns) // TICK_NS
        for _ in range(min(ticks, LONGEST_CATCH_UP)):
            self._robot.step()
        self._now_ns += ticks * TICK_NS
        return self._robot, self._now_ns


class LiveArm:
    """One arm of the scene."""

    def __init__(self, live: LiveRobot, side: str, passive: bool) -> None:
        self._live, self._side, self._passive = live, side, passive

    def state(self) -> ArmState:
        robot, stamp_ns = self._live.present()
        return ArmState(robot.state(self._side).positions, stamp_ns)

    def command(self, command: ArmCommand) -> None:
        if self._passive:
            raise DriverError(PASSIVE, "held by the simulated motors")
        robot, _ = self._live.present()
        robot.command(self._side, command)

    def hold(self) -> None:
        """The simulated motors keep their last targets by themselves."""

    def close(self) -> None:
        self._live.leave()


class LiveCamera:
    """One camera of the scene, drawn when asked for; between two ticks it is the same picture."""

    def __init__(self, live: LiveRobot, role: str, name: str) -> None:
        self._live, self._role, self._name = live, role, name
        self._last: CameraFrame | None = None

    def frame(self) -> CameraFrame:
        robot, stamp_ns = self._live.present()
        if self._last is None or self._last.stamp_ns != stamp_ns:
            self._last = CameraFrame(self._role, robot.frame(self._name).image, stamp_ns)
        return self._last

    def close(self) -> None:
        self._live.leave()


def open_arm(robot: Embodiment, side: str, clock: Callable[[], int], passive: bool = False) -> LiveArm:
    return LiveArm(LiveRobot.join(robot, clock), side, passive)


def open_camera(robot: Embodiment, role: str, clock: Callable[[], int]) -> LiveCamera:
    return LiveCamera(LiveRobot.join(robot, clock), role, robot.cameras[role].source)
