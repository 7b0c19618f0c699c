"""pytest tests/data_pipeline/mapping/test_ops.py: each operation alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data_pipeline.mapping.op_syntax import OP_NAMES, parse_op
from data_pipeline.mapping.ops import unit_fits
from data_pipeline.schema import rotation
from data_pipeline.schema.layout import NUM_SLOTS

RATE = 10.0
values = hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 4)), elements=st.floats(-100, 100))


def op(raw, rate=RATE):
    return parse_op(raw, rate)


def turns(count=7, seed=0):
    """Rotations as matrices (count, 3, 3), from random axes and angles."""
    rng = np.random.default_rng(seed)
    axis = rng.normal(size=(count, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    return rotation.matrix_from_axis_angle(axis * rng.uniform(-3, 3, size=(count, 1)))


def columns(R):
    return np.concatenate([R[:, :, 0], R[:, :, 1]], axis=1)


@pytest.mark.parametrize(
    ("raw", "given_", "expected"),
    [
        ({"scale": 2}, [[1.0, 3.0]], [[2, 6]]),
        ({"scale": [2, -1]}, [[1.0, 3.0]], [[2, -3]]),
        ({"offset": 1}, [[1.0, 3.0]], [[2, 4]]),
        ({"offset": [0, 5]}, [[1.0, 3.0]], [[1, 8]]),
        ("invert01", [[0.25], [1.0]], [[0.75], [0]]),
        ({"range": [2, 4]}, [[2.0], [3.0], [5.0]], [[0], [0.5], [1.5]]),
        ({"range": [1, 0]}, [[0.25]], [[0.75]]),
        ({"clip": [0, 1]}, [[-1.0], [0.5], [2.0]], [[0], [0.5], [1]]),
        ({"threshold": {"op": ">", "value": 0.5, "true": 1, "false": -1}}, [[0.5], [0.6]], [[-1], [1]]),
        ({"threshold": {"op": "<=", "value": 0.5, True: 1, False: 0}}, [[0.5], [0.6]], [[1], [0]]),
        ({"cast": "f32"}, [[0.1]], [[float(np.float32(0.1))]]),
        ({"unit": "mm"}, [[1500.0]], [[1.5]]),
        ({"unit": "cm"}, [[150.0]], [[1.5]]),
        ({"unit": "deg"}, [[180.0]], [[np.pi]]),
        ("per_step_to_rate", [[0.1]], [[1]]),
        ("diff_to_velocity", [[1.0], [1.5], [1.0]], [[0], [5], [-5]]),
    ],
)
def test_known_answers(raw, given_, expected):
    np.testing.assert_allclose(op(raw)(np.array(given_)), expected, rtol=1e-12)


def test_clip_and_threshold_keep_what_is_not_a_number():
    nan = np.array([[np.nan]])
    assert np.isnan(op({"clip": [0, 1]})(nan)).all()
    assert np.isnan(op({"threshold": {"op": ">", "value": 0, "true": 1, "false": 0}})(nan)).all()


@given(values)
def test_inversions_undo_themselves(x):
    np.testing.assert_allclose(op("invert01")(op("invert01")(x)), x, atol=1e-9)
    np.testing.assert_allclose(op({"scale": 0.25})(op({"scale": 4})(x)), x)
    np.testing.assert_allclose(op({"range": [1, 0]})(x), op("invert01")(x), atol=1e-9)


@given(values)
def test_differences_sum_to_the_movement(x):
    velocity = op("diff_to_velocity")(x)
    np.testing.assert_allclose(x[0] + velocity.sum(axis=0) / RATE, x[-1], atol=1e-6)
    assert not velocity[0].any()


@given(values, st.floats(0.1, 4.9))
def test_lowpass_is_its_recursion(x, hz):
    keep = np.exp(-2 * np.pi * hz / RATE)
    expected = [x[0]]
    for row in x[1:]:
        expected.append(expected[-1] + (1 - keep) * (row - expected[-1]))
    np.testing.assert_allclose(op({"lowpass": {"hz": hz}})(x), expected, atol=1e-8)


@pytest.mark.parametrize("raw", ["diff_to_velocity", {"lowpass": {"hz": 1}}])
def test_nothing_is_taken_from_the_future(raw):
    x = np.random.default_rng(0).normal(size=(8, 2))
    np.testing.assert_allclose(op(raw)(x)[:5], op(raw)(x[:5]), atol=1e-12)


def test_quaternions_in_both_orders():
    R = turns()
    q = rotation.quaternion_from_matrix(R)
    np.testing.assert_allclose(op({"rot": {"in": "quat"}})(q * 2.5), columns(R), atol=1e-9)
    wxyz = q[:, [3, 0, 1, 2]]
    np.testing.assert_allclose(op({"rot": {"in": "quat", "order": "wxyz"}})(wxyz), columns(R), atol=1e-9)


def test_euler_angles_turn_about_fixed_or_moving_axes():
    quarter = np.pi / 2
    # fixed axes: x to y to z; a quarter about x first, then about z
    extrinsic = op({"rot": {"in": "euler", "seq": "xyz", "frame": "extrinsic"}})(np.array([[quarter, 0, quarter]]))
    np.testing.assert_allclose(extrinsic, [[0, 1, 0, 0, 0, 1]], atol=1e-12)
    intrinsic = op({"rot": {"in": "euler", "seq": "xyz", "frame": "intrinsic"}})(np.array([[quarter, 0, quarter]]))
    np.testing.assert_allclose(intrinsic, [[0, 0, 1, -1, 0, 0]], atol=1e-12)


def test_reversed_angles_are_an_intrinsic_zyx():
    angles = np.random.default_rng(0).uniform(-1.4, 1.4, size=(9, 3))
    expected = op({"rot": {"in": "euler"}})(angles[:, ::-1])
    np.testing.assert_allclose(
        op({"rot": {"in": "euler", "seq": "zyx", "frame": "intrinsic"}})(angles), expected, atol=1e-12
    )


def test_the_other_forms():
    R = turns()
    expected = columns(R)
    flat, homogeneous = R.reshape(-1, 9), np.zeros((len(R), 4, 4))
    homogeneous[:, :3, :3], homogeneous[:, :3, 3], homogeneous[:, 3, 3] = R, [1, 2, 3], 1
    transposed = R.swapaxes(1, 2).reshape(-1, 9), homogeneous.swapaxes(1, 2).reshape(-1, 16)
    cases = [
        ({"in": "axis_angle"}, rotation.axis_angle_from_matrix(R)),
        ({"in": "mat3", "layout": "row"}, flat),
        ({"in": "mat3", "layout": "column"}, transposed[0]),
        ({"in": "mat4", "layout": "row"}, homogeneous.reshape(-1, 16)),
        ({"in": "mat4", "layout": "column"}, transposed[1]),
        ({"in": "rot6d"}, expected),
        ({"in": "rot6d", "layout": "row"}, flat[:, :6]),
    ]
    for raw, numbers in cases:
        np.testing.assert_allclose(op({"rot": raw})(numbers), expected, atol=1e-9, err_msg=str(raw))
    for layout, numbers in (("row", homogeneous.reshape(-1, 16)), ("column", transposed[1])):
        np.testing.assert_allclose(op({"pos_of_mat4": {"layout": layout}})(numbers), [[1, 2, 3]] * len(R))
        other = {"row": "column", "column": "row"}[layout]
        with pytest.raises(ValueError, match=f"layout {layout}, not {other}"):
            op({"rot": {"in": "mat4", "layout": other}})(numbers)


def test_commands_relative_to_the_state():
    R, dR = turns(seed=1), turns(seed=2)
    states = np.zeros((len(R), NUM_SLOTS))
    states[:, 30:33], states[:, 33:39] = [0.5, 0, 0.25], columns(R)
    delta = np.random.default_rng(3).normal(size=(len(R), 3))
    base = op({"delta_to_absolute": {"base": "right_eef_pos"}})
    np.testing.assert_allclose(base(delta, states), delta + np.array([0.5, 0, 0.25]))
    tool = op({"delta_to_absolute": {"base": "right_eef_pos", "frame": "tool"}})
    np.testing.assert_allclose(tool(delta, states), (R @ delta[:, :, None])[:, :, 0] + [0.5, 0, 0.25], atol=1e-9)
    assert set(tool.needed_slots()) == set(range(30, 39))
    for frame, expected in (("base", dR @ R), ("tool", R @ dR)):
        raw = {"base": "right_eef_rot6d", "frame": frame, "rot": {"in": "axis_angle"}}
        turned = op({"delta_to_absolute": raw})
        numbers = rotation.axis_angle_from_matrix(dR)
        np.testing.assert_allclose(turned(numbers, states), columns(expected), atol=1e-9)
        assert turned.width(3) == 6


WIDTHS = {
    "scale": 2,
    "offset": 1,
    "invert01": None,
    "range": [0, 2],
    "clip": [0, 1],
    "threshold": {"op": ">", "value": 0, "true": 1, "false": 0},
    "cast": "f32",
    "unit": "mm",
    "per_step_to_rate": None,
    "rot": {"in": "euler"},
    "pos_of_mat4": {"layout": "row"},
    "delta_to_absolute": {"base": "right_eef_pos"},
    "diff_to_velocity": None,
    "lowpass": {"hz": 1},
}


@pytest.mark.parametrize("name", OP_NAMES)
def test_width_is_what_comes_out(name):
    made = op(name if WIDTHS[name] is None else {name: WIDTHS[name]})
    given_ = np.tile(np.eye(4).reshape(1, 16), (5, 1)) if name == "pos_of_mat4" else np.full((5, 3), 0.5)
    result = made(given_, np.zeros((5, NUM_SLOTS))) if made.needs_states else made(given_)
    assert result.shape == (5, made.width(given_.shape[1]))
    assert made.width(None) in (None, result.shape[1])


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("invert", "did you mean 'invert01'"),
        ({"scale": "two"}, "scale: takes a number, got 'two'"),
        ({"scale": float("nan")}, "takes a number"),
        ({"invert01": 3}, "takes no parameters"),
        ({"range": [1, 1]}, "must differ"),
        ({"range": 3}, r"takes \[low, high\]"),
        ({"clip": [1, 0]}, "low below high"),
        ({"threshold": {"op": "=>", "value": 0, "true": 1, "false": 0}}, "unknown op"),
        ({"threshold": {"op": ">", "value": 0}}, "needs true, false"),
        ({"cast": "f16"}, "unknown type 'f16'"),
        ({"unit": "inch"}, "unknown unit 'inch'"),
        ({"rot": {"in": "quaternion"}}, "did you mean 'quat'"),
        ({"rot": {"in": "quat", "seq": "xyz"}}, "quat has no 'seq'"),
        ({"rot": {"in": "euler", "seq": "xxy"}}, "Euler sequence"),
        ({"rot": {"in": "euler", "frame": "body"}}, "unknown frame"),
        ({"rot": {"in": "mat4"}}, "needs layout"),
        ({"lowpass": {"hz": 0}}, "must be positive"),
        ({"lowpass": {"herz": 1}}, "did you mean 'hz'"),
        ({"delta_to_absolute": {"base": "right_eef_rot6d"}}, "must go together"),
        ({"delta_to_absolute": {"base": "right_arm_joint_pos[0:7]", "frame": "tool"}}, "position"),
        ({"scale": 1, "offset": 2}, "one 'name: parameters'"),
    ],
)
def test_what_cannot_be_read(raw, message):
    with pytest.raises(ValueError, match=message):
        op(raw)


@pytest.mark.parametrize("raw", ["per_step_to_rate", "diff_to_velocity", {"lowpass": {"hz": 1}}])
def test_time_needs_a_rate(raw):
    with pytest.raises(ValueError, match="fixed rate"):
        op(raw, rate=None)


@pytest.mark.parametrize(
    ("raw", "unit", "message"),
    [
        ("invert01", "m", "ratio"),
        ({"unit": "mm"}, "m", "already"),
        ({"rot": {"in": "quat"}}, "rad", "own numbers"),
        ({"rot": {"in": "euler"}}, "m", "rad"),
        ("per_step_to_rate", "m/s", "position"),
        ("diff_to_velocity", "6-D rotation", "position"),
        ({"lowpass": {"hz": 1}}, "6-D rotation", "filter before rot"),
    ],
)
def test_units_that_do_not_fit(raw, unit, message):
    with pytest.raises(ValueError, match=message):
        op(raw).unit(unit)


def test_units_in_slots():
    assert unit_fits(None, "rad") and not unit_fits(None, "6-D rotation")
    assert unit_fits("m", "m/s") and not unit_fits("m", "rad")
    assert unit_fits("?/s", "rad/s") and not unit_fits("?/s", "rad")
    assert unit_fits("ratio", "opening in [0, 1]") and not unit_fits("ratio", "m")
