"""What a driver of one camera must be able to do."""

from __future__ import annotations

from typing import Protocol

from robot_drivers.types import CameraFrame


class Camera(Protocol):
    """One camera. `frame` never waits."""

    def frame(self) -> CameraFrame | None:
        """The newest frame, or `None` before the first one; its stamp tells how old it is."""
        ...

    def close(self) -> None:
        """Let go of the device."""
        ...
