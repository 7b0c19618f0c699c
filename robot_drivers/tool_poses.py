"""What a policy says of tools <-> what motors are told: the words of a robot under `control: eef`.

    state      joints measured -> forward kinematics -> native: tool poses, grippers, the joints that a policy sees
    command    native -> inverse kinematics from the present set-point -> joints inside their range, for the guard

A pose that no joints within their range reach is no command: the arms hold. Limits of speed and acceleration come after
this and know joints alone, as for any robot. Who solves is behind `Solver`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

from data_pipeline.schema.embodiment import POSE, Embodiment, Gripper
from data_pipeline.schema.rotation import matrix_from_rot6d, rot6d_from_matrix
from robot_drivers.limits.bounds import Bounds
from robot_drivers.limits.chain import LimitSettings
from robot_drivers.limits.limit import Change

POINT, ROTATION = slice(0, 3), slice(3, 9)  # of the nine numbers of `POSE`


class Poses(NamedTuple):
    """Where tools are, in the world of the robot's `kinematics`, in the order of its arms."""

    points: np.ndarray  # float64 (arms, 3), in m
    rotations: np.ndarray  # float64 (arms, 3, 3), tool to world


class Solver(Protocol):
    """Kinematics of all arms of a robot; positions are motor vectors in SI units, which may not be finite."""

    def poses(self, positions: np.ndarray) -> Poses: ...

    def reach(self, wanted: Poses, start: np.ndarray) -> np.ndarray:
        """Joints inside their range that come as near to `wanted` as was found from `start` on; grippers as there."""
        ...


class ToolPoses:
    """Both directions for one robot. Native vectors are in native units, motor vectors in SI."""

    def __init__(self, robot: Embodiment, solver: Solver, settings: LimitSettings) -> None:
        self._solver = solver
        self._most_m, self._most_rad = settings.residual_m, settings.residual_rad
        self._sides = tuple(robot.arms)
        motors, entries = robot.motors.entries, list(enumerate(robot.entries))
        self._arm_entries = [tuple(i for i, entry in enumerate(motors) if entry.side == side) for side in robot.arms]
        places = {(entry.side, entry.name): i for i, entry in enumerate(motors)}
        shared = [(i, places[entry.side, entry.name]) for i, entry in entries if entry.part is not None]
        grippers = [(i, place) for i, place in shared if isinstance(robot.entries[i].part, Gripper)]
        self._shared, self._shared_motors = np.array(shared, dtype=np.int64).reshape(-1, 2).T
        self._grippers, self._gripper_motors = np.array(grippers, dtype=np.int64).reshape(-1, 2).T
        self._poses = np.array([i for i, entry in entries if entry.part is None]).reshape(-1, len(POSE))
        self._unit = Bounds.of(robot).unit

    @property
    def num_native(self) -> int:
        return len(self._unit)

    def of_motors(self, positions: np.ndarray) -> np.ndarray:
        """Motor vector -> native float64 (num_native,)."""
        native = np.empty(self.num_native)
        points, rotations = self._solver.poses(positions)
        native[self._poses[:, POINT]] = points
        native[self._poses[:, ROTATION]] = rot6d_from_matrix(rotations)
        native[self._shared] = positions[self._shared_motors] / self._unit[self._shared]
        return native

    def to_motors(self, native: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, Change | None]:
        """A native command -> motor vector, and a verdict "hold" where a pose is out of reach.

        A command that is not finite stays so: the guard has its own answer to that.
        """
        poses = native[self._poses]  # (arms, 9)
        if not (np.isfinite(poses).all() and np.isfinite(start).all()):
            return np.full_like(start, np.nan), None
        wanted = Poses(poses[:, POINT], matrix_from_rot6d(poses[:, ROTATION]))
        unsound = np.flatnonzero(np.linalg.det(wanted.rotations) < 0.5).tolist()  # 0 where two columns are one, or none
        if unsound:
            return start, self._hold(
                math.inf, dict.fromkeys(unsound, "is told no rotation: two equal or empty columns")
            )
        positions = self._solver.reach(wanted, start)
        positions[self._gripper_motors] = native[self._grippers]
        away_m, away_rad = distances(self._solver.poses(positions), wanted)
        far = np.flatnonzero((away_m > self._most_m) | (away_rad > self._most_rad)).tolist()
        if not far:
            return positions, None
        words = {i: f"stays {away_m[i]:.3f} m and {away_rad[i]:.2f} rad from its pose" for i in far}
        return positions, self._hold(float(away_m[far].max()), words)

    def _hold(self, amount: float, words: Mapping[int, str]) -> Change:
        """The verdict, with what is said of each arm that is the reason."""
        entries = tuple(entry for i in words for entry in self._arm_entries[i])
        said = ", ".join(f"the {self._sides[i]} tool {why}" for i, why in words.items())
        return Change("reach", entries, amount, "hold", said)


def distances(one: Poses, other: Poses) -> tuple[np.ndarray, np.ndarray]:
    """Between the tools of two poses: in m and, from |R - S| = 2 sqrt(2) sin(angle / 2), in rad, each (arms,)."""
    apart = np.linalg.norm(one.rotations - other.rotations, axis=(1, 2))
    return (
        np.linalg.norm(one.points - other.points, axis=1),
        2 * np.arcsin(np.minimum(apart / math.sqrt(8), 1.0)),
    )


def tool_poses_of(robot: Embodiment, settings: LimitSettings) -> ToolPoses | None:
    """For a robot under `control: eef`; `None` for one that is told joints.

    Raises `ValueError` where its YAML does not say where each arm stands.
    """
    if robot.control == "joint":
        return None
    lacking = [side for side in robot.arms if robot.kinematics is None or side not in robot.kinematics.arms]
    if lacking:
        raise ValueError(
            f"robot {robot.name!r} is controlled by the poses of its tools (control: eef), but its YAML has no "
            f"kinematics.arms for {lacking}: say which file describes each arm and where it stands"
        )
    from robot_drivers.pink_solver import PinkSolver

    return ToolPoses(robot, PinkSolver(robot, settings.margin_rad), settings)
