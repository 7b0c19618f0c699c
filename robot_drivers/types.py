"""What passes between a driver and the loop: SI units, native joint order, a stamp on everything.

Native order of one arm is the order of its joints in the robot YAML, then its gripper in the gripper's native
unit. Stamps are integer nanoseconds of the clock that the loop was given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def _check_positions(owner: str, positions: np.ndarray) -> None:
    if not (isinstance(positions, np.ndarray) and positions.dtype == np.float64 and positions.ndim == 1):
        got = f"{positions.dtype} {positions.shape}" if isinstance(positions, np.ndarray) else type(positions).__name__
        raise ValueError(f"{owner}.positions must be float64 of shape (joints + gripper,), got {got}")


@dataclass(frozen=True)
class ArmState:
    """Measured positions of one arm. They may be non-finite: a limit answers that, not the constructor."""

    positions: np.ndarray  # float64 (joints + gripper,)
    stamp_ns: int

    def __post_init__(self) -> None:
        _check_positions("ArmState", self.positions)


@dataclass(frozen=True)
class ArmCommand:
    """Position targets for one arm. They may be non-finite: a limit answers that, not the constructor."""

    positions: np.ndarray  # float64 (joints + gripper,)
    stamp_ns: int  # time at which the target is meant to be reached

    def __post_init__(self) -> None:
        _check_positions("ArmCommand", self.positions)


@dataclass(frozen=True)
class CameraFrame:
    """One picture."""

    role: str  # external | right_wrist | left_wrist
    image: np.ndarray  # uint8 (height, width, 3), RGB
    stamp_ns: int

    def __post_init__(self) -> None:
        image = self.image
        if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3):
            got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ValueError(f"CameraFrame.image must be uint8 of shape (height, width, 3), got {got}")
