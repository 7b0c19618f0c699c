"""A robot's own words <-> the unified vector: joint order, slots, units, signs, gripper ranges, limits.

A constant of a robot stands once, in its YAML (`configs/robots/`); both directions of the conversion are read
from it here. Per entry the conversion is affine, `unified = native * scale + offset`:

    joint     scale = sign * unit in SI,     offset = 0
    gripper   scale = 1 / (open - closed),   offset = -closed / (open - closed)

so the round trip holds for every embodiment. Nothing is clipped here: limits live with the motors.

What a native vector says depends on `control`. By joints it is what the motors are told; by `eef` it is where each tool
shall be, in m and as the six numbers of `rotation.py`, and `motors` is the same robot as its drivers know it:

    joint     joints, gripper
    eef       tool pose (9), gripper, then the joints that have a slot: a policy sees them and does not move them

What a driver needs to connect (`connection`) belongs to one workplace, not to the robot: two robots that differ
in nothing else are equal, and recordings of both are recordings of one robot.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from data_pipeline.schema.fields import fields_of, mapping, number, pair, plain, positive
from data_pipeline.schema.kinematics import Kinematics
from data_pipeline.schema.layout import NUM_SLOTS, SLOT_BLOCKS, SLOT_NAMES, SLOT_UNITS, slot_index
from data_pipeline.schema.registry import read_yaml
from data_pipeline.schema.types import CAMERA_ROLES, check_action_offset

Kind = Literal["state", "action"]
SIDES = ("left", "right")
UNITS = {"rad": 1.0, "deg": math.pi / 180, "m": 1.0, "mm": 1e-3}
"""SI value of one native unit."""
POSE = ("x", "y", "z", "r11", "r21", "r31", "r12", "r22", "r32")
"""A tool's pose: its point in m, then the first and the second column of its rotation, in the world of `kinematics`."""


@dataclass(frozen=True)
class Joint:
    """One joint. Limits are in SI units and in the joint's native sign."""

    name: str
    slot: str | None = None  # any name or alias of layout.py; under control eef all joints of an arm may go without
    unit: str = "rad"
    sign: int = 1  # -1 where the robot's positive direction is the unified negative one
    limits: tuple[float, float] = (-math.inf, math.inf)  # rad
    velocity_limit: float = math.inf  # rad/s
    acceleration_limit: float = math.inf  # rad/s^2


@dataclass(frozen=True)
class Gripper:
    """One gripper; each range is (closed, open) in native units, apart for what is measured and commanded."""

    slot: str
    state_range: tuple[float, float] = (0.0, 1.0)
    action_range: tuple[float, float] = (0.0, 1.0)
    velocity_limit: float = math.inf  # openings per second


@dataclass(frozen=True)
class Arm:
    """One arm; its driver's vector is its joints in this order, then its gripper."""

    driver: str
    joints: tuple[Joint, ...]
    gripper: Gripper | None = None
    connection: Mapping[str, Any] = field(default_factory=dict, compare=False)  # port, address: see the driver

    @property
    def num_entries(self) -> int:
        return len(self.joints) + (self.gripper is not None)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(j.name for j in self.joints) + (("gripper",) if self.gripper else ())


class Entry(NamedTuple):
    """One number of the native vector."""

    side: str
    name: str
    slot: int
    part: Joint | Gripper | None  # None: it belongs to the tool's pose


@dataclass(frozen=True)
class Camera:
    """One camera: where its frames come from, and what its absence means."""

    source: str
    required: bool = True  # a missing required camera stops the policy; a missing optional one is masked
    latency_s: float = 0.0  # from exposure to arrival
    connection: Mapping[str, Any] = field(default_factory=dict, compare=False)  # device, size, rate: see the driver


@dataclass(frozen=True)
class Embodiment:
    """A robot as the data language sees it.

    Native order is the arms in the YAML's order, each with its entries as `control` says.
    """

    name: str
    rate_hz: float  # steps per second of its recordings and of its action chunks
    arms: Mapping[str, Arm]  # side -> arm
    cameras: Mapping[str, Camera] = field(default_factory=dict)  # role -> camera
    control: Literal["joint", "eef"] = "joint"
    action_offset_steps: int = 0  # action[t] is meant for step t + this; 1 where it is the next state
    compat: str | None = None  # a named deviation of published code that this robot's data needs
    kinematics: Kinematics | None = field(default=None, compare=False)  # where the arms stand; None: nobody knows

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def from_yaml(cls, path: str | Path) -> Embodiment:
        """Read a robot YAML (v1, `configs/robots/`). Raises `ValueError` that names file and key."""
        raw = read_yaml(path)
        try:
            robot = cls.from_dict(raw)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from None
        return replace(robot, kinematics=robot.kinematics and robot.kinematics.beside(Path(path).parent))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Embodiment:
        """The same from the mapping that a robot YAML holds, as stored in a checkpoint."""
        values = fields_of(cls, "robot", raw)
        values["arms"] = {side: _arm(side, arm) for side, arm in mapping("arms", values["arms"]).items()}
        values["cameras"] = {
            role: _camera(role, camera) for role, camera in mapping("cameras", values.get("cameras") or {}).items()
        }
        if values.get("kinematics") is not None:
            values["kinematics"] = Kinematics.from_dict(values["kinematics"])
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The inverse of `from_dict`, of plain types."""
        arms = {}
        for side, arm in self.arms.items():
            entry: dict[str, Any] = {"driver": arm.driver, "joints": [plain(joint) for joint in arm.joints]}
            if arm.gripper:
                entry["gripper"] = plain(arm.gripper)
            if arm.connection:
                entry["connection"] = dict(arm.connection)
            arms[side] = entry
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("arms", "cameras", "kinematics")}
        return {
            **rest,
            **({"kinematics": self.kinematics.to_dict()} if self.kinematics else {}),
            "arms": arms,
            "cameras": {role: plain(camera) for role, camera in self.cameras.items()},
        }

    @property
    def is_simulated(self) -> bool:
        """Whether all arms are the embedded simulator's."""
        return all(arm.driver == "sim" for arm in self.arms.values())

    @cached_property
    def motors(self) -> Embodiment:
        """This robot as its drivers and limits know it: the native vector is that of the joints."""
        return self if self.control == "joint" else replace(self, control="joint", arms=_with_slots(self.arms))

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """What each number of the native vector is."""
        return tuple(entry for side, arm in self.arms.items() for entry in _entries(side, arm, self.control))

    @property
    def num_native(self) -> int:
        """Length of the native vector of all arms together."""
        return len(self.entries)

    @cached_property
    def native_names(self) -> tuple[str, ...]:
        return tuple(f"{entry.side}_{entry.name}" for entry in self.entries)

    @cached_property
    def slots(self) -> np.ndarray:
        """Slot of each native entry, int64 (num_native,), read-only."""
        slots = np.array([entry.slot for entry in self.entries], dtype=np.int64)
        slots.flags.writeable = False
        return slots

    @cached_property
    def mask(self) -> np.ndarray:
        """Slots that this robot fills, bool (128,), read-only."""
        mask = np.zeros(NUM_SLOTS, dtype=bool)
        mask[self.slots] = True
        mask.flags.writeable = False
        return mask

    def arm_slice(self, side: str) -> slice:
        """Where one arm stands in the native vector."""
        here = [i for i, entry in enumerate(self.entries) if entry.side == side]
        if here:
            return slice(here[0], here[-1] + 1)
        raise ValueError(f"Embodiment {self.name!r} has arms {list(self.arms)}, not {side!r}")

    def to_unified(self, native: np.ndarray, kind: Kind = "state") -> tuple[np.ndarray, np.ndarray]:
        """Native vector(s) (..., num_native) -> (unified float32 (..., 128), mask bool (128,)).

        `kind` picks that kind's gripper range; recorded actions use "action".
        """
        native = np.asarray(native, dtype=np.float64)
        if native.shape[-1:] != (self.num_native,):
            got = native.shape[-1] if native.ndim else "a scalar"
            raise ValueError(
                f"Embodiment {self.name!r} has {self.num_native} native entries, got {got}: "
                f"the order is {list(self.native_names)}"
            )
        scale, offset = self._affine(kind)
        vector = np.zeros((*native.shape[:-1], NUM_SLOTS), dtype=np.float32)
        vector[..., self.slots] = native * scale + offset
        return vector, self.mask

    def from_unified(self, vector: np.ndarray, kind: Kind = "action") -> np.ndarray:
        """Unified vector(s) (..., 128) -> native float64 (..., num_native); other slots are not read."""
        vector = np.asarray(vector)
        if vector.shape[-1:] != (NUM_SLOTS,):
            raise ValueError(f"a unified vector has {NUM_SLOTS} slots on its last axis, got shape {vector.shape}")
        scale, offset = self._affine(kind)
        return (vector[..., self.slots].astype(np.float64) - offset) / scale

    @cached_property
    def _affines(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {kind: _affine(self, kind) for kind in ("state", "action")}

    def _affine(self, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
        if kind not in self._affines:
            raise ValueError(f"kind must be 'state' or 'action', got {kind!r}")
        return self._affines[kind]


def _affine(robot: Embodiment, kind: str) -> tuple[np.ndarray, np.ndarray]:
    scale, offset = np.ones(robot.num_native), np.zeros(robot.num_native)
    for i, entry in enumerate(robot.entries):
        if isinstance(entry.part, Joint):
            scale[i] = entry.part.sign * UNITS[entry.part.unit]
        elif isinstance(entry.part, Gripper):
            closed, opened = entry.part.state_range if kind == "state" else entry.part.action_range
            scale[i], offset[i] = 1.0 / (opened - closed), -closed / (opened - closed)
    return scale, offset


def _entries(side: str, arm: Arm, control: str) -> Iterator[Entry]:
    joints = [Entry(side, joint.name, slot_index(joint.slot), joint) for joint in arm.joints if joint.slot is not None]
    if control == "joint":
        yield from joints
    else:
        slots = (*SLOT_BLOCKS[f"{side}_eef_pos"], *SLOT_BLOCKS[f"{side}_eef_rot6d"])
        yield from (Entry(side, name, slot, None) for name, slot in zip(POSE, slots, strict=True))
    if arm.gripper:
        yield Entry(side, "gripper", slot_index(arm.gripper.slot), arm.gripper)
    if control == "eef":
        yield from joints


def _with_slots(arms: Mapping[str, Arm]) -> dict[str, Arm]:
    """Joints that no policy sees take their side's slots in order, so that the motors' vector has a place for each."""
    filled = {}
    for side, arm in arms.items():
        slots = (f"{side}_arm_joint_{i}_pos" for i in range(len(arm.joints)))
        joints = (replace(joint, slot=joint.slot or slot) for joint, slot in zip(arm.joints, slots, strict=True))
        filled[side] = replace(arm, joints=tuple(joints))
    return filled


def _arm(side: str, raw: Any) -> Arm:
    values = fields_of(Arm, f"arms.{side}", raw)
    if not isinstance(values["joints"], (list, tuple)):
        raise ValueError(f"arms.{side}.joints must be a list of joints, got {values['joints']!r}")
    joints = []
    for i, entry in enumerate(values["joints"]):
        joint = fields_of(Joint, f"arms.{side}.joints[{i}]", entry)
        if "limits" in joint:
            joint["limits"] = pair(f"arms.{side}.joints[{i}].limits", joint["limits"])
        joints.append(Joint(**joint))
    gripper = None
    if values.get("gripper") is not None:
        entry = fields_of(Gripper, f"arms.{side}.gripper", values["gripper"])
        for key in ("state_range", "action_range"):
            if key in entry:
                entry[key] = pair(f"arms.{side}.gripper.{key}", entry[key])
        gripper = Gripper(**entry)
    return Arm(values["driver"], tuple(joints), gripper, _connection(f"arms.{side}", values))


def _camera(role: str, raw: Any) -> Camera:
    values = fields_of(Camera, f"cameras.{role}", raw)
    return Camera(**{**values, "connection": _connection(f"cameras.{role}", values)})


def _connection(where: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return dict(mapping(f"{where}.connection", values.get("connection") or {}))


def _check(robot: Embodiment) -> None:
    if not robot.arms or set(robot.arms) - set(SIDES):
        raise ValueError(f"arms must be one or both of {list(SIDES)}, got {list(robot.arms)}")
    if set(robot.cameras) - set(CAMERA_ROLES):
        raise ValueError(f"cameras must be among {list(CAMERA_ROLES)}, got {list(robot.cameras)}")
    positive("rate_hz", robot.rate_hz)
    if robot.control not in ("joint", "eef"):
        raise ValueError(f"control must be joint or eef, got {robot.control!r}")
    check_action_offset("action_offset_steps", robot.action_offset_steps)
    for role, camera in robot.cameras.items():
        if number(f"cameras.{role}.latency_s", camera.latency_s) < 0:
            raise ValueError(f"cameras.{role}.latency_s must not be negative, got {camera.latency_s}")
    _check_kinematics(robot)
    taken: dict[int, str] = {}
    for side, arm in robot.arms.items():
        _check_arm(side, arm)
        _check_control(side, arm, robot.control)
        for where, name in _claims(side, arm, robot.control):
            try:
                slot = slot_index(name)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
            if SLOT_UNITS[slot] == "reserved":
                raise ValueError(f"{where}: slot {name!r} is reserved: it is always 0 and masked")
            if slot in taken:
                raise ValueError(f"slot {SLOT_NAMES[slot]!r} is used twice: by {taken[slot]} and by {where}")
            taken[slot] = where


def _claims(side: str, arm: Arm, control: str) -> Iterator[tuple[str, str]]:
    """Who fills which slot, in the words of the YAML."""
    if control == "eef":
        for block in ("eef_pos", "eef_rot6d"):
            yield from ((f"arms.{side}'s tool", SLOT_NAMES[slot]) for slot in SLOT_BLOCKS[f"{side}_{block}"])
    for joint in arm.joints:
        if joint.slot is not None:
            yield f"arms.{side}.joints {joint.name!r}", joint.slot
    if arm.gripper:
        yield f"arms.{side}.gripper", arm.gripper.slot


def _check_control(side: str, arm: Arm, control: str) -> None:
    without = [joint.name for joint in arm.joints if joint.slot is None]
    if without and (control == "joint" or len(without) < len(arm.joints)):
        raise ValueError(f"arms.{side}.joints lack a slot: {without}; only under control eef, and all of an arm's, may")
    if control == "eef" and not arm.joints:
        raise ValueError(f"arms.{side} has no joints to bring its tool anywhere: control eef needs them")


def _check_kinematics(robot: Embodiment) -> None:
    for side, model in (robot.kinematics.arms if robot.kinematics else {}).items():
        if side not in robot.arms:
            raise ValueError(f"kinematics.arms.{side}: the robot has arms {list(robot.arms)}")
        count = len(robot.arms[side].joints)
        if model.joints is not None and len(model.joints) != count:
            raise ValueError(f"kinematics.arms.{side}.joints must name {count} joints, got {list(model.joints)}")


def _check_arm(side: str, arm: Arm) -> None:
    if arm.num_entries == 0:
        raise ValueError(f"arms.{side} has neither joints nor a gripper")
    twice = [name for i, name in enumerate(arm.names) if name in arm.names[:i]]
    if twice:
        raise ValueError(f"arms.{side} names {twice[0]!r} twice")
    for joint in arm.joints:
        where = f"arms.{side}.joints {joint.name!r}"
        if joint.unit not in UNITS:
            raise ValueError(f"{where}: unit must be one of {list(UNITS)}, got {joint.unit!r}")
        if joint.sign not in (1, -1):
            raise ValueError(f"{where}: sign must be 1 or -1, got {joint.sign!r}")
        if not joint.limits[0] < joint.limits[1]:
            raise ValueError(f"{where}: limits must be [low, high] with low < high, got {list(joint.limits)}")
        positive(f"{where}: velocity_limit", joint.velocity_limit)
        positive(f"{where}: acceleration_limit", joint.acceleration_limit)
    if arm.gripper:
        positive(f"arms.{side}.gripper.velocity_limit", arm.gripper.velocity_limit)
        for key in ("state_range", "action_range"):
            closed, opened = getattr(arm.gripper, key)
            if closed == opened or not (math.isfinite(closed) and math.isfinite(opened)):
                raise ValueError(f"arms.{side}.gripper.{key} must be two different numbers, got {[closed, opened]}")
