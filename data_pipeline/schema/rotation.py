"""Rotations: quaternion, Euler angles, axis-angle, matrix and the six numbers of the unified vector.

Everything is float64 and vectorised over leading axes; the matrix is the hub, so each form has one
function to it and one from it. Conventions (spec rdt.md section 7):

    quaternion   (x, y, z, w), normalised before use
    euler        (roll, pitch, yaw) about the FIXED axes x, y, z: R = Rz(yaw) Ry(pitch) Rx(roll)
    axis_angle   unit axis times angle in rad
    matrix       R, column vectors: the columns are the rotated x, y and z axes
    rot6d        first column of R, then its second (r11, r21, r31, r12, r22, r32)

Several forms name one rotation more than once (q and -q, Euler angles in gimbal lock): what survives a round
trip is the rotation.
"""

from __future__ import annotations

import numpy as np

_TINY = 1e-8  # the published decoder's floor under a vector's length


def _rows(value: np.ndarray, width: int, name: str) -> np.ndarray:
    value = np.asarray(value, dtype=np.float64)
    if value.shape[-1:] != (width,):
        raise ValueError(f"{name} has {width} numbers on its last axis, got shape {value.shape}")
    return value


def _matrices(value: np.ndarray) -> np.ndarray:
    value = np.asarray(value, dtype=np.float64)
    if value.shape[-2:] != (3, 3):
        raise ValueError(f"a rotation matrix is (..., 3, 3), got shape {value.shape}")
    return value


def matrix_from_quaternion(quaternion: np.ndarray) -> np.ndarray:
    """(..., 4) xyzw -> (..., 3, 3). Raises `ValueError` for a quaternion of length zero."""
    q = _rows(quaternion, 4, "a quaternion")
    length = np.linalg.norm(q, axis=-1, keepdims=True)
    if np.any(length < _TINY):
        raise ValueError("a quaternion of length zero is not a rotation")
    x, y, z, w = np.moveaxis(q / length, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def quaternion_from_matrix(matrix: np.ndarray) -> np.ndarray:
    """(..., 3, 3) -> (..., 4) xyzw of length 1 with w >= 0.

    Four ways to write 4 q q^T from R; the row with the largest pivot is taken: half turns lose nothing.
    """
    R = _matrices(matrix)
    xx, yy, zz = R[..., 0, 0], R[..., 1, 1], R[..., 2, 2]
    xy, xz, yz = R[..., 0, 1] + R[..., 1, 0], R[..., 0, 2] + R[..., 2, 0], R[..., 1, 2] + R[..., 2, 1]
    wx, wy, wz = R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]
    outer = np.stack(  # 4 q q^T, (..., 4, 4)
        [
            np.stack([1 + xx - yy - zz, xy, xz, wx], axis=-1),
            np.stack([xy, 1 - xx + yy - zz, yz, wy], axis=-1),
            np.stack([xz, yz, 1 - xx - yy + zz, wz], axis=-1),
            np.stack([wx, wy, wz, 1 + xx + yy + zz], axis=-1),
        ],
        axis=-2,
    )
    pivot = np.argmax(np.diagonal(outer, axis1=-2, axis2=-1), axis=-1)
    q = np.take_along_axis(outer, pivot[..., None, None], axis=-2)[..., 0, :]
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    return np.where(q[..., 3:] < 0, -q, q)


def matrix_from_euler(euler: np.ndarray) -> np.ndarray:
    """(..., 3) roll, pitch, yaw in rad -> (..., 3, 3) = Rz Ry Rx."""
    angles = _rows(euler, 3, "Euler angles")
    (sr, sp, sy), (cr, cp, cy) = (np.moveaxis(f(angles), -1, 0) for f in (np.sin, np.cos))
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def matrix_from_euler_sequence(angles: np.ndarray, sequence: str, *, intrinsic: bool) -> np.ndarray:
    """(..., 3) angles in rad, one for each letter of `sequence` in order -> (..., 3, 3).

    Extrinsic turns are about the fixed axes, "abc": R = Rc Rb Ra; intrinsic ones about the axes that the earlier
    turns have moved: R = Ra Rb Rc. Extrinsic "xyz" is `matrix_from_euler`.
    """
    angles = _rows(angles, 3, "Euler angles")
    if (
        len(sequence) != 3
        or not set(sequence) <= set("xyz")
        or sequence[0] == sequence[1]
        or sequence[1] == sequence[2]
    ):
        raise ValueError(
            f"an Euler sequence is three letters of x, y, z, no equal neighbours ('xyz', 'zyz'), got {sequence!r}"
        )
    turns = [_turn(angles[..., i], "xyz".index(axis)) for i, axis in enumerate(sequence)]
    return turns[0] @ turns[1] @ turns[2] if intrinsic else turns[2] @ turns[1] @ turns[0]


def _turn(angle: np.ndarray, axis: int) -> np.ndarray:
    """(...,) rad about one axis -> (..., 3, 3)."""
    R = np.zeros((*angle.shape, 3, 3))
    j, k = (axis + 1) % 3, (axis + 2) % 3
    R[..., axis, axis] = 1
    R[..., j, j] = R[..., k, k] = np.cos(angle)
    R[..., k, j] = np.sin(angle)
    R[..., j, k] = -R[..., k, j]
    return R


def euler_from_matrix(matrix: np.ndarray) -> np.ndarray:
    """(..., 3, 3) -> (..., 3) roll, pitch, yaw with pitch in [-pi/2, pi/2]; in gimbal lock roll is 0."""
    R = _matrices(matrix)
    cp = np.hypot(R[..., 0, 0], R[..., 1, 0])
    locked = cp < 1e-7
    pitch = np.arctan2(-R[..., 2, 0], cp)
    roll = np.where(locked, 0.0, np.arctan2(R[..., 2, 1], R[..., 2, 2]))
    yaw = np.where(locked, np.arctan2(-R[..., 0, 1], R[..., 1, 1]), np.arctan2(R[..., 1, 0], R[..., 0, 0]))
    return np.stack([roll, pitch, yaw], axis=-1)


def matrix_from_axis_angle(axis_angle: np.ndarray) -> np.ndarray:
    """(..., 3) axis times angle in rad -> (..., 3, 3), by way of the quaternion."""
    v = _rows(axis_angle, 3, "an axis-angle vector")
    half = np.linalg.norm(v, axis=-1, keepdims=True) / 2
    # sin(a)/a without 0/0: numpy's sinc is sin(pi x)/(pi x)
    return matrix_from_quaternion(np.concatenate([v * np.sinc(half / np.pi) / 2, np.cos(half)], axis=-1))


def axis_angle_from_matrix(matrix: np.ndarray) -> np.ndarray:
    """(..., 3, 3) -> (..., 3) axis times angle, angle in [0, pi]."""
    q = quaternion_from_matrix(matrix)
    sine = np.linalg.norm(q[..., :3], axis=-1, keepdims=True)
    half = np.arctan2(sine, q[..., 3:])
    return q[..., :3] * 2 / np.sinc(half / np.pi)


def matrix_from_rot6d(rot6d: np.ndarray) -> np.ndarray:
    """(..., 6) any two columns -> (..., 3, 3), the published decoding.

    x = a1 / max(|a1|, 1e-8), z = x cross a2 normalised likewise, y = z cross x; R = (x, y, z).
    A network's six numbers need not be orthogonal: the first column wins.
    """
    a = _rows(rot6d, 6, "a 6-D rotation")
    x = _unit(a[..., :3])
    z = _unit(np.cross(x, a[..., 3:]))
    return np.stack([x, np.cross(z, x), z], axis=-1)


def rot6d_from_matrix(matrix: np.ndarray) -> np.ndarray:
    """(..., 3, 3) -> (..., 6): the first column, then the second."""
    R = _matrices(matrix)
    return np.concatenate([R[..., :, 0], R[..., :, 1]], axis=-1)


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), _TINY)
