"""Where a robot's arms stand and what they may reach: the optional section `kinematics` of a robot YAML.

Plain data; who computes with it is `robot_drivers/pinocchio_arms.py`. Like `connection` it belongs to one workplace.
The world is any frame that both arms' bases are told in; z is up.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.schema.fields import fields_of, mapping, number, plain, triple

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class ArmModel:
    """One arm as a file describes it, placed in the world."""

    model: str  # URDF, or MJCF (.xml) of this arm alone; in a YAML relative to it. Meshes are not read
    tool_frame: str  # link or frame of the file that holds the tool
    tool_offset_m: Vector = (0.0, 0.0, 0.0)  # tool point in that frame
    base_m: Vector = (0.0, 0.0, 0.0)  # of the file's root, in the world
    base_rpy_rad: Vector = (0.0, 0.0, 0.0)  # about the world's x, then y, then z
    joints: tuple[str, ...] | None = None  # names in the file, in the arm's order; None: the arm's own


@dataclass(frozen=True)
class Kinematics:
    """What the workspace limit keeps (spec robot_ros2.md section 6)."""

    arms: Mapping[str, ArmModel]
    box_low_m: Vector = (-math.inf, -math.inf, -math.inf)  # tool points stay inside; z: above the table
    box_high_m: Vector = (math.inf, math.inf, math.inf)
    tools_apart_m: float = 0.08  # between the tool points of both arms
    links_apart_m: float = 0.02  # between the surfaces of one arm's links and the other's
    link_radius_m: float = 0.05  # a link is a capsule of this radius from joint to joint

    def __post_init__(self) -> None:
        if not all(low < high for low, high in zip(self.box_low_m, self.box_high_m, strict=True)):
            raise ValueError(f"kinematics: box_low_m {self.box_low_m} must lie below box_high_m {self.box_high_m}")
        for name in ("tools_apart_m", "links_apart_m", "link_radius_m"):
            if number(f"kinematics.{name}", getattr(self, name)) < 0:
                raise ValueError(f"kinematics.{name} must not be negative, got {getattr(self, name)}")

    @classmethod
    def from_dict(cls, raw: Any) -> Kinematics:
        """From the mapping that a robot YAML holds."""
        values = fields_of(cls, "kinematics", raw)
        for key in ("box_low_m", "box_high_m"):
            if key in values:
                values[key] = triple(f"kinematics.{key}", values[key])
        arms = mapping("kinematics.arms", values["arms"])
        values["arms"] = {side: _arm(f"kinematics.arms.{side}", arm) for side, arm in arms.items()}
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The inverse of `from_dict`, of plain types."""
        return {**plain(self), "arms": {side: plain(arm) for side, arm in self.arms.items()}}

    def beside(self, folder: Path) -> Kinematics:
        """With the models' paths, where they are relative, from a folder on."""
        arms = {
            side: dataclasses.replace(arm, model=str((folder / arm.model).resolve())) for side, arm in self.arms.items()
        }
        return dataclasses.replace(self, arms=arms)


def _arm(where: str, raw: Any) -> ArmModel:
    values = fields_of(ArmModel, where, raw)
    for key in ("tool_offset_m", "base_m", "base_rpy_rad"):
        if key in values:
            values[key] = triple(f"{where}.{key}", values[key])
    if values.get("joints") is not None:
        values["joints"] = tuple(values["joints"])
    return ArmModel(**values)
