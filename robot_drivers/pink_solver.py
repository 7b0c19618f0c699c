"""Inverse kinematics of all arms by Pink, on the model of `pinocchio_arms.py`: a quadratic program a step.

    minimise  sum over tools |J dq - log(tool^-1 target)|^2 + damping |dq|^2    (Pink's frame tasks, m and rad alike)
    subject to  low + margin <= q + dq <= high - margin,  |dq| <= LARGEST_STEP_RAD

A few such steps from the present set-point, fewer where the tools are there sooner. Who asked judges what they leave.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from data_pipeline.schema.embodiment import Embodiment
from robot_drivers.limits.bounds import Bounds
from robot_drivers.limits.position import usable_range
from robot_drivers.pinocchio_arms import PinocchioArms
from robot_drivers.tool_poses import Poses

MAX_STEPS = 8
"""Steps of one command. From the set-point of a tick ago one or two are taken."""

THERE = 1e-5
"""m and rad: no step is taken for less."""

LARGEST_STEP_RAD = 0.5
"""The program is linear: farther than this it says little."""

DAMPING = 1e-6
"""Small against the square of a singular value of J of an arm that is not stretched out (0.1 m per rad)."""

QP_SOLVER = "daqp"


class PinkSolver:
    """A `Solver` for the robots whose YAML has `kinematics` of every arm."""

    def __init__(self, robot: Embodiment, margin_rad: float) -> None:
        """Raises `ModuleNotFoundError` with the words that install the library, `ValueError` for what a file lacks."""
        self._pink = _import_pink()
        self._arms = PinocchioArms(robot, list(robot.arms))
        low, high = usable_range(Bounds.of(robot.motors), margin_rad)
        self._low, self._high = low[self._arms.entries], high[self._arms.entries]
        model = self._arms.with_limits(self._low, self._high, LARGEST_STEP_RAD)
        self._tasks = [
            self._pink.tasks.FrameTask(frame, position_cost=1.0, orientation_cost=1.0)
            for frame in self._arms.tool_frames
        ]
        self._limits = [
            self._pink.limits.ConfigurationLimit(model, config_limit_gain=1.0),
            self._pink.limits.VelocityLimit(model),
        ]
        q = self._arms.configuration(np.zeros(robot.motors.num_native))
        self._configuration = self._pink.Configuration(model, model.createData(), q)

    def poses(self, positions: np.ndarray) -> Poses:
        return Poses(*self._arms.poses(positions))

    def reach(self, wanted: Poses, start: np.ndarray) -> np.ndarray:
        positions = start.copy()
        positions[self._arms.entries] = np.clip(start[self._arms.entries], self._low, self._high)
        configuration = self._configuration
        configuration.update(self._arms.configuration(positions))
        for task, pose in zip(self._tasks, self._arms.placements(*wanted), strict=True):
            task.set_target(pose)
        for _ in range(MAX_STEPS):
            if max(np.abs(task.compute_error(configuration)).max() for task in self._tasks) < THERE:
                break
            try:
                velocity = self._pink.solve_ik(
                    configuration, self._tasks, dt=1.0, solver=QP_SOLVER, damping=DAMPING, limits=self._limits
                )
            except self._pink.exceptions.NoSolutionFound:  # as far as this, then
                break
            configuration.integrate_inplace(velocity, 1.0)
        angles = self._arms.angles(configuration.q, positions[self._arms.entries])
        positions[self._arms.entries] = np.clip(angles, self._low, self._high)
        return positions


def _import_pink() -> Any:
    try:
        import daqp  # noqa: F401 (the solver that Pink is told to use)
        import pink
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a robot under control eef needs Pinocchio, Pink and the solver DAQP: pip install 'rdt-stack[eef]'"
        ) from error
    return pink
