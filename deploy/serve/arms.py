"""A native vector arm by arm, for benchmarks that name each arm's joints and gripper apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data_pipeline.schema.embodiment import Embodiment


class ArmValues(NamedTuple):
    """One arm's part of a native vector, or of a chunk of them."""

    joints: np.ndarray  # (..., joints)
    gripper: np.ndarray | None  # (..., 1); None: the arm has none


def split(robot: Embodiment, native: np.ndarray) -> dict[str, ArmValues]:
    """(..., num_native) -> side -> its joints and gripper."""
    values = {}
    for side, arm in robot.arms.items():
        part = native[..., robot.arm_slice(side)]
        joints = len(arm.joints)
        values[side] = ArmValues(part[..., :joints], part[..., joints:] if arm.gripper else None)
    return values


def join(
    robot: Embodiment, joints: Callable[[str, int], np.ndarray], gripper: Callable[[str], np.ndarray]
) -> np.ndarray:
    """The inverse for one moment: `joints(side, count)` (count,) and `gripper(side)` (1,) -> (num_native,)."""
    parts = []
    for side, arm in robot.arms.items():
        parts.append(joints(side, len(arm.joints)))
        if arm.gripper:
            parts.append(gripper(side))
    return np.concatenate(parts)
