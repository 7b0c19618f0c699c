"""pytest tests/data_pipeline/schema/test_rotation.py"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data_pipeline.schema import rotation

angles = st.floats(-4.0, 4.0)
leading = st.sampled_from([(), (3,), (2, 0), (2, 3)])


def vectors(width: int) -> st.SearchStrategy[np.ndarray]:
    return leading.flatmap(lambda shape: arrays(np.float64, (*shape, width), elements=angles))


PAIRS = {
    "quaternion": (rotation.quaternion_from_matrix, rotation.matrix_from_quaternion),
    "euler": (rotation.euler_from_matrix, rotation.matrix_from_euler),
    "axis_angle": (rotation.axis_angle_from_matrix, rotation.matrix_from_axis_angle),
    "rot6d": (rotation.rot6d_from_matrix, rotation.matrix_from_rot6d),
}


@pytest.mark.parametrize("form", PAIRS)
@given(euler=vectors(3))
def test_every_form_keeps_the_rotation(form, euler):
    matrix = rotation.matrix_from_euler(euler)
    from_matrix, to_matrix = PAIRS[form]
    np.testing.assert_allclose(to_matrix(from_matrix(matrix)), matrix, atol=1e-7)


@given(euler=vectors(3))
def test_matrices_are_rotations(euler):
    R = rotation.matrix_from_euler(euler)
    np.testing.assert_allclose(R @ R.swapaxes(-1, -2), np.broadcast_to(np.eye(3), R.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(R), 1.0, atol=1e-12)


@given(six=vectors(6))
def test_any_six_numbers_that_span_a_plane_decode_to_a_rotation(six):
    a, b = six[..., :3], six[..., 3:]
    spans = np.all(np.linalg.norm(np.cross(a, b), axis=-1) > 1e-3)
    R = rotation.matrix_from_rot6d(six)
    assert np.isfinite(R).all()
    if spans:
        np.testing.assert_allclose(R @ R.swapaxes(-1, -2), np.broadcast_to(np.eye(3), R.shape), atol=1e-9)
        first = np.linalg.norm(a, axis=-1, keepdims=True) * R[..., 0]
        np.testing.assert_allclose(first, a, atol=1e-9)  # the first column keeps its direction


@given(axis_angle=vectors(3))
def test_axis_angle_of_opposite_sign_is_the_inverse(axis_angle):
    R = rotation.matrix_from_axis_angle(axis_angle)
    np.testing.assert_allclose(rotation.matrix_from_axis_angle(-axis_angle), R.swapaxes(-1, -2), atol=1e-12)


def test_yaw_turns_x_to_y():
    R = rotation.matrix_from_euler(np.array([0.0, 0.0, np.pi / 2]))
    np.testing.assert_allclose(R @ [1, 0, 0], [0, 1, 0], atol=1e-15)


def test_euler_is_about_fixed_axes_roll_first():
    R = rotation.matrix_from_euler(np.array([np.pi / 2, 0.0, np.pi / 2]))
    np.testing.assert_allclose(R @ [0, 1, 0], [0, 0, 1], atol=1e-15)  # roll lifts y to z, yaw leaves z


def test_quaternion_is_xyzw():
    half = np.sqrt(0.5)
    R = rotation.matrix_from_quaternion(np.array([half, 0.0, 0.0, half]))
    np.testing.assert_allclose(R, rotation.matrix_from_euler(np.array([np.pi / 2, 0, 0])), atol=1e-15)


@given(scale=st.floats(1e-3, 1e3), q=arrays(np.float64, 4, elements=st.floats(0.1, 1.0)))
def test_quaternion_length_and_sign_do_not_matter(scale, q):
    R = rotation.matrix_from_quaternion(q)
    np.testing.assert_allclose(rotation.matrix_from_quaternion(-scale * q), R, atol=1e-12)


def test_axis_angle_of_half_turns():
    for axis in np.vstack([np.eye(3), np.full(3, 3**-0.5)]):
        R = rotation.matrix_from_axis_angle(np.pi * axis)
        np.testing.assert_allclose(np.abs(rotation.axis_angle_from_matrix(R)), np.pi * axis, atol=1e-7)


def test_rot6d_is_column_after_column():
    R = np.arange(9.0).reshape(3, 3)
    np.testing.assert_array_equal(rotation.rot6d_from_matrix(R), [0, 3, 6, 1, 4, 7])


def test_wrong_widths_are_refused():
    with pytest.raises(ValueError, match="a quaternion has 4 numbers"):
        rotation.matrix_from_quaternion(np.zeros(3))
    with pytest.raises(ValueError, match="length zero"):
        rotation.matrix_from_quaternion(np.zeros(4))
    with pytest.raises(ValueError, match=r"\(\.\.\., 3, 3\)"):
        rotation.rot6d_from_matrix(np.zeros((3, 4)))


@given(vectors(3))
def test_the_extrinsic_xyz_sequence_is_roll_pitch_yaw(euler):
    ours = rotation.matrix_from_euler_sequence(euler, "xyz", intrinsic=False)
    np.testing.assert_allclose(ours, rotation.matrix_from_euler(euler), atol=1e-12)


@given(vectors(3), st.sampled_from(["xyz", "zyx", "zyz", "xzx", "yxz"]))
def test_moving_axes_are_fixed_axes_in_reverse(angles, sequence):
    ours = rotation.matrix_from_euler_sequence(angles, sequence, intrinsic=True)
    reverse = rotation.matrix_from_euler_sequence(angles[..., ::-1], sequence[::-1], intrinsic=False)
    np.testing.assert_allclose(ours, reverse, atol=1e-12)


@pytest.mark.parametrize("sequence", ["xy", "xxy", "xyy", "abc", "XYZ"])
def test_what_is_no_euler_sequence(sequence):
    with pytest.raises(ValueError, match="three letters of x, y, z"):
        rotation.matrix_from_euler_sequence(np.zeros(3), sequence, intrinsic=False)
