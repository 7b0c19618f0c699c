"""A running robot as one object: supervisor, cameras, and the words that a person or a ROS node has for it."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Any

from deploy.realtime.cameras import CameraPump
from deploy.realtime.process import undisturbed
from deploy.realtime.recorder import Recorder, RecordTo
from deploy.realtime.supervisor import RunSpec, Supervisor
from robot_drivers.drivers import open_camera


class Session:
    """Opens the cameras and starts the processes. Use it as a context manager; leaving brings the arms to a stand."""

    def __init__(
        self,
        spec: RunSpec,
        instruction: str = "",
        record: RecordTo | None = None,
        closing: threading.Event | None = None,
    ) -> None:
        """Returns when the network is warm and the control process ticks, arms holding.

        With `record` there is a recorder; its episodes begin and end by `recorder`. Raises `RuntimeError` when
        `closing` is set before that.
        """
        self.supervisor = Supervisor(spec, instruction)
        self.recorder: Recorder | None = None
        self._pump: CameraPump | None = None
        try:
            if record is not None:
                self.recorder = Recorder(record, self.supervisor.ring_specs())
            cameras = {role: open_camera(spec.robot, role) for role in spec.robot.cameras}
            self._pump = CameraPump(cameras, self.supervisor.push_frame)
            self.supervisor.wait_until_ready(closing=closing)
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
        """Come to a stand and end everything. An episode that is open ends here, where its pictures do."""
        with undisturbed(), ExitStack() as ends:  # the last that is named ends first, and each one whatever others do
            self.supervisor.stop()
            if self.recorder is not None:  # the arms stand: now there is time for the disk
                ends.callback(self.recorder.close)
            ends.callback(self.supervisor.close)
            if self._pump is not None:
                ends.callback(self._pump.close)
                self._pump = None
            if self.recorder is not None:
                ends.callback(self.recorder.pause)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
