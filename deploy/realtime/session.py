"""A running robot as one object: supervisor, cameras, and the words that a person or a ROS node has for it."""

from __future__ import annotations

from typing import Any

from deploy.realtime.cameras import CameraPump
from deploy.realtime.supervisor import RunSpec, Supervisor
from robot_drivers.drivers import open_camera


class Session:
    """Opens the cameras and starts the processes. Use it as a context manager; leaving brings the arms to a stand."""

    def __init__(self, spec: RunSpec, instruction: str = "") -> None:
        """Returns when the network is warm and the control process ticks, arms holding."""
        self.supervisor = Supervisor(spec, instruction)
        self._pump: CameraPump | None = None
        try:
            cameras = {role: open_camera(spec.robot, role) for role in spec.robot.cameras}
            self._pump = CameraPump(cameras, self.supervisor.push_frame)
            self.supervisor.wait_until_ready()
        except BaseException:
            self.close()
            raise

    def status(self) -> dict[str, Any]:
        """What the supervisor knows, and what is wrong with cameras."""
        return {**self.supervisor.status(), "cameras": self.camera_problems()}

    def camera_problems(self) -> dict[str, str]:
        """Camera role -> what it raised, of those that are silent for it."""
        return dict(self._pump.problems) if self._pump else {}

    def close(self) -> None:
        if self._pump is not None:
            self._pump.close()
            self._pump = None
        self.supervisor.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
