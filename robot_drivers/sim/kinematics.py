"""Inverse kinematics of one ViperX arm: damped least squares on MuJoCo's Jacobian of the tool point.

The tool point (TCP) lies between the fingertips, `TOOL_OFFSET_M` along x of `gripper_link`; that offset is
what the mocap weld of ALOHA's end-effector scenes implies. The arm has six joints, but tool poses here spend
only five degrees of freedom: the tool's yaw follows the azimuth of its position from the arm's own base
(`radial_rotation`). A yaw held fixed while the hand crosses the workspace drives the arm through its wrist
singularity, where forearm_roll and wrist_rotate jump by pi; with the radial yaw both keep still, and the same
hand path always has the same joint path. No collision checking, no redundancy, no other robot.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from robot_drivers.sim.scene import JOINTS, import_mujoco, load_scene

TOOL_OFFSET_M = 0.135


class Solution(NamedTuple):
    """Joint angles and how far their tool pose is from the wanted one."""

    joints: np.ndarray  # (6,) rad
    position_error_m: float
    rotation_error_rad: float


def radial_rotation(base_xy: np.ndarray, position: np.ndarray, pitch: float, roll: float) -> np.ndarray:
    """Tool rotation (3, 3), tool to world: Rz(azimuth of `position` from the base) Ry(pitch) Rx(roll).

    x of the tool is the direction in which it reaches; a positive pitch (rad) points it down, a roll of 0
    closes the fingers horizontally.
    """
    azimuth = np.arctan2(position[1] - base_xy[1], position[0] - base_xy[0])
    (ca, cp, cr), (sa, sp, sr) = np.cos((azimuth, pitch, roll)), np.sin((azimuth, pitch, roll))
    return np.array(
        [
            [ca * cp, ca * sp * sr - sa * cr, ca * sp * cr + sa * sr],
            [sa * cp, sa * sp * sr + ca * cr, sa * sp * cr - ca * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


class ArmKinematics:
    """Forward and inverse kinematics of the `left` or `right` arm, on simulation data of its own."""

    def __init__(self, side: str) -> None:
        self._mujoco = import_mujoco()
        self._model = load_scene("transfer_cube").model  # the arms are the same in every scene
        self._data = self._mujoco.MjData(self._model)
        joints = [self._model.joint(f"vx300s_{side}/{name}") for name in JOINTS]
        self._qpos = np.array([j.qposadr[0] for j in joints])
        self._dofs = np.array([j.dofadr[0] for j in joints])
        self._body = self._model.body(f"vx300s_{side}/gripper_link").id
        self.limits = np.array([j.range for j in joints])  # (6, 2) rad
        self.base_xy = self._model.body(f"vx300s_{side}").pos[:2].copy()  # (2,) m, world

    def tool_pose(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tool position (3,) in m and rotation (3, 3) in the world for joint angles (6,) in rad."""
        self._data.qpos[self._qpos] = joints
        self._mujoco.mj_kinematics(self._model, self._data)
        rotation = self._data.xmat[self._body].reshape(3, 3).copy()
        return self._data.xpos[self._body] + TOOL_OFFSET_M * rotation[:, 0], rotation

    def solve(
        self,
        position: np.ndarray,
        rotation: np.ndarray,
        joints: np.ndarray,
        iterations: int = 3,
        damping: float = 0.01,
    ) -> Solution:
        """Joint angles for a tool pose, from the near-by guess `joints`.

        `iterations` steps of q += J^T (J J^T + damping^2 I)^-1 e with e = (position error in m, rotation
        error as an axis-angle vector in rad), each clipped to the joint limits. Three are enough from the
        solution of 20 ms ago; from far away ask for more. Whether the pose was reached is in the residual.
        """
        q = np.array(joints, dtype=np.float64)
        jacobian = np.empty((6, self._model.nv))
        for _ in range(iterations):
            tool, actual = self.tool_pose(q)
            self._mujoco.mj_comPos(self._model, self._data)  # mj_jac reads what it computes
            self._mujoco.mj_jac(self._model, self._data, jacobian[:3], jacobian[3:], tool, self._body)
            J = jacobian[:, self._dofs]
            error = np.concatenate([position - tool, _axis_angle(rotation @ actual.T)])
            q += J.T @ np.linalg.solve(J @ J.T + damping**2 * np.eye(6), error)
            q = np.clip(q, self.limits[:, 0], self.limits[:, 1])
        tool, actual = self.tool_pose(q)
        return Solution(
            q,
            position_error_m=float(np.linalg.norm(position - tool)),
            rotation_error_rad=float(np.linalg.norm(_axis_angle(rotation @ actual.T))),
        )


def _axis_angle(rotation: np.ndarray) -> np.ndarray:
    """Rotation vector (3,) of a rotation matrix, for angles below pi."""
    axis = np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]])
    sine, cosine = np.linalg.norm(axis) / 2, (np.trace(rotation) - 1) / 2
    return axis / 2 if sine < 1e-9 else axis * (np.arctan2(sine, cosine) / (2 * sine))
