"""Where tools and links are, by Pinocchio: the room that a robot's arms have left in m, and the poses of their tools.

One model of all arms, each from its own file and standing where the robot's YAML says. A link is a capsule from joint
to joint: what a file says about meshes is not read. Links of one arm are not compared with each other, nor one hand
with the other: tool points have a distance of their own, and hands meet to hand something over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.kinematics import ArmModel


class PinocchioArms:
    """The arms of `sides` that the robot's `kinematics` names; positions are native vectors of those sides, in SI."""

    def __init__(self, robot: Embodiment, sides: Sequence[str]) -> None:
        """Raises `ModuleNotFoundError` with the words that install the library, `ValueError` for what a file lacks."""
        if robot.kinematics is None:
            raise ValueError(f"robot {robot.name!r} has no section `kinematics` in its YAML")
        self._pin, self._coal = _import_pinocchio()
        self._rules = robot.kinematics
        self._box = np.array([robot.kinematics.box_low_m, robot.kinematics.box_high_m])
        self._model = self._pin.Model()
        modelled = [side for side in sides if side in robot.kinematics.arms]
        starts, start = {}, 0  # of each side in the native vector
        for side in sides:
            starts[side], start = start, start + robot.arms[side].num_entries
        chains = {}  # side -> names of its joints in the model
        for side in modelled:
            arm = robot.kinematics.arms[side]
            self._add(side, arm)
            names = arm.joints or [joint.name for joint in robot.arms[side].joints]
            chains[side] = [self._joint_name(side, name) for name in names]
        self._lock_all_but({name for names in chains.values() for name in names})
        self._data = self._model.createData()
        self._q = self._pin.neutral(self._model)
        self.tool_frames = tuple(_tool(side) for side in modelled)
        self._tools = [self._tool_point(frame) for frame in self.tool_frames]

        joints = {side: [self._model.getJointId(name) for name in names] for side, names in chains.items()}
        numbers = [number for side in modelled for number in joints[side]]
        self.entries = np.array([starts[side] + i for side in modelled for i in range(len(joints[side]))])
        self._angles = np.array([self._model.joints[number].idx_q for number in numbers])
        self._circles = np.array([self._model.joints[number].nq == 2 for number in numbers])  # cos and sin in q
        self._distances = self._link_pairs(modelled, joints) if len(modelled) == 2 else None
        self.sway = np.zeros((len(modelled), start))
        for row, side in enumerate(modelled):
            self.sway[row, starts[side] : starts[side] + len(joints[side])] = self._reach(row, joints[side])
        if self._distances is not None:
            tools = self.sway.sum(axis=0)
            links = tools + np.where(tools > 0, robot.kinematics.link_radius_m, 0.0)
            self.sway = np.vstack([self.sway, tools, links])

    def room(self, positions: np.ndarray) -> np.ndarray:
        """How far every rule is from being broken, float64 (rules,) in m; negative: by how much it is.

        For each arm its tool point in the box; for two arms the tool points' distance, then the links'.
        """
        pin = self._pin
        pin.forwardKinematics(self._model, self._data, self.configuration(positions))
        tools = self._tool_points()
        inside = np.minimum(tools - self._box[0], self._box[1] - tools).min(axis=1)
        if self._distances is None:
            return inside
        model, data = self._distances
        pin.updateGeometryPlacements(self._model, self._data, model, data)
        links = data.distanceResults[pin.computeDistances(model, data)].min_distance  # it returns the closest pair
        apart = math.dist(tools[0], tools[1])
        return np.array([*inside, apart - self._rules.tools_apart_m, links - self._rules.links_apart_m])

    def tools(self, positions: np.ndarray) -> np.ndarray:
        """Tool points (arms, 3) in m, in the world."""
        self.room(positions)
        return self._tool_points()

    def poses(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tool points (arms, 3) in m and rotations (arms, 3, 3), tool to world."""
        self._pin.forwardKinematics(self._model, self._data, self.configuration(positions))
        rotations = [self._data.oMi[joint].rotation @ placement.rotation for joint, placement in self._tools]
        return self._tool_points(), np.array(rotations)

    def placements(self, points: np.ndarray, rotations: np.ndarray) -> list[Any]:
        """Poses as the library's own objects, by arm."""
        return [self._pin.SE3(rotation, point) for point, rotation in zip(points, rotations, strict=True)]

    def configuration(self, positions: np.ndarray) -> np.ndarray:
        """The model's q (nq,) for a native vector, in a buffer that the next call writes again."""
        q, values = self._q, positions[self.entries]
        if self._circles.any():
            q[self._angles] = np.where(self._circles, np.cos(values), values)
            q[self._angles[self._circles] + 1] = np.sin(values[self._circles])
        else:
            q[self._angles] = values
        return q

    def angles(self, q: np.ndarray, near: np.ndarray) -> np.ndarray:
        """The inverse: joints (entries,) of a q, those without an end in the turn that is nearest to `near`."""
        values = q[self._angles]
        if self._circles.any():
            turned = np.arctan2(q[np.minimum(self._angles + 1, len(q) - 1)], values) - near
            values = np.where(self._circles, near + np.arctan2(np.sin(turned), np.cos(turned)), values)
        return values

    def with_limits(self, low: np.ndarray, high: np.ndarray, speed: float) -> Any:
        """A copy of the model whose joints (entries,) have these ranges in rad and this speed in rad/s.

        Joints without an end have no range there: cos and sin know none.
        """
        model, ended = self._pin.Model(self._model), ~self._circles
        lowest, highest = np.full(model.nq, -np.inf), np.full(model.nq, np.inf)
        lowest[self._angles[ended]], highest[self._angles[ended]] = low[ended], high[ended]
        model.lowerPositionLimit, model.upperPositionLimit = lowest, highest
        model.velocityLimit = np.full(model.nv, speed)
        return model

    def _tool_points(self) -> np.ndarray:
        return np.array([self._data.oMi[joint].act(placement.translation) for joint, placement in self._tools])

    def _add(self, side: str, arm: ArmModel) -> None:
        """Append one arm, its names after its side."""
        file = Path(arm.model)
        if not file.is_file():
            raise ValueError(f"kinematics.arms.{side}.model: there is no file {file}")
        pin = self._pin
        try:
            read = pin.buildModelFromMJCF if file.suffix == ".xml" else pin.buildModelFromUrdf
            part = read(str(file))
        except Exception as error:  # whatever the reader raises
            raise ValueError(f"kinematics.arms.{side}.model: {file} is neither URDF nor MJCF: {error}") from error
        frames = [frame.name for frame in part.frames]
        if arm.tool_frame not in frames:
            raise ValueError(f"kinematics.arms.{side}.tool_frame: {file} has {frames}, not {arm.tool_frame!r}")
        for i in range(1, part.njoints):
            part.names[i] = f"{side}/{part.names[i]}"
        for frame, name in zip(list(part.frames)[1:], frames[1:], strict=True):
            frame.name = f"{side}/{name}"
            if name == arm.tool_frame:
                frame.name = _tool(side)
                frame.placement = frame.placement * pin.SE3(np.eye(3), np.array(arm.tool_offset_m))
        base = pin.SE3(pin.rpy.rpyToMatrix(*arm.base_rpy_rad), np.array(arm.base_m))
        self._model = pin.appendModel(self._model, part, 0, base)

    def _tool_point(self, name: str) -> tuple[int, Any]:
        """The joint that carries a tool, and the tool in that joint's frame."""
        frame = self._model.frames[self._model.getFrameId(name)]
        return frame.parentJoint, frame.placement

    def _lock_all_but(self, names: set[str]) -> None:
        """Fingers and whatever else no arm lists stay where the file puts them."""
        pin, model = self._pin, self._model
        others = [number for number in range(1, model.njoints) if model.names[number] not in names]
        self._model = pin.buildReducedModel(model, others, pin.neutral(model))

    def _joint_name(self, side: str, name: str) -> str:
        """The name in the model of all arms. Raises `ValueError` for a joint that is not there, or does not turn."""
        full = f"{side}/{name}"
        if not self._model.existJointName(full):
            known = [known.removeprefix(f"{side}/") for known in self._model.names if known.startswith(f"{side}/")]
            raise ValueError(f"kinematics.arms.{side}: the model has joints {known}, not {name!r}: see `joints` there")
        if self._model.joints[self._model.getJointId(full)].shortname().startswith("JointModelP"):
            raise ValueError(f"kinematics.arms.{side}: joint {name!r} slides; only joints that turn are known here")
        return full

    def _reach(self, row: int, chain: list[int]) -> np.ndarray:
        """For each joint of an arm, m: how far from its axis the arm behind it can be, stretched out."""
        hand = self._tools[row][1].translation
        links = [self._model.jointPlacements[joint].translation for joint in chain[1:]]
        return np.cumsum([np.linalg.norm(link) for link in (hand, *reversed(links))])[::-1]

    def _link_pairs(self, sides: Sequence[str], joints: dict[str, list[int]]) -> tuple[Any, Any]:
        """Capsules from joint to joint and from the last one to the tool, and all pairs of two arms but the hands."""
        pin, model, shapes = self._pin, self._model, self._pin.GeometryModel()
        numbers: dict[str, list[int]] = {}
        for side, hand in zip(sides, self._tools, strict=True):
            ends = [(model.parents[child], model.jointPlacements[child].translation) for child in joints[side]]
            ends.append((hand[0], hand[1].translation))
            origin = np.array(self._rules.arms[side].base_m)
            numbers[side] = []
            for i, (parent, end) in enumerate(ends):
                begin = origin if parent == 0 else np.zeros(3)
                numbers[side].append(shapes.addGeometryObject(self._capsule(f"{side}/link_{i}", parent, begin, end)))
        left, right = (numbers[side] for side in sides)
        for a in left:
            for b in right:
                if (a, b) != (left[-1], right[-1]):
                    shapes.addCollisionPair(pin.CollisionPair(a, b))
        return shapes, pin.GeometryData(shapes)

    def _capsule(self, name: str, parent: int, begin: np.ndarray, end: np.ndarray) -> Any:
        pin, along = self._pin, end - begin
        length = float(np.linalg.norm(along))
        turn = pin.Quaternion.FromTwoVectors(np.array([0.0, 0.0, 1.0]), along if length else np.array([0.0, 0.0, 1.0]))
        placement = pin.SE3(turn.toRotationMatrix(), (begin + end) / 2)
        return pin.GeometryObject(name, parent, placement, self._coal.Capsule(self._rules.link_radius_m, length))


def _tool(side: str) -> str:
    return f"{side}/tool of the robot"


def _import_pinocchio() -> tuple[Any, Any]:
    try:
        import coal
        import pinocchio
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the workspace limit of this robot's YAML (section `kinematics`) needs Pinocchio: "
            "pip install 'rdt-stack[workspace]'"
        ) from error
    return pinocchio, coal
