"""Run: pytest tests/deploy/serve/test_observations.py"""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.types import CAMERA_KEYS, Observation
from deploy.serve.contract import Contract
from deploy.serve.observations import MAX_PROMPT, MAX_SIDE, ObservationReader
from deploy.serve.wire import WireError, pack, unpack
from tests.deploy.serve.policies import robot

PERIOD_S = 0.02  # aloha_viperx runs at 50 Hz


def reader(history: int = 2, of: Embodiment | None = None, prompt: str | None = None) -> ObservationReader:
    of = of or robot()
    return ObservationReader(Contract(of, 5, tuple(of.cameras), history, 64), prompt)


def picture(value: int, height: int = 4, width: int = 6) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def aloha(value: int = 1, **more) -> dict:
    images = {key: picture(value).transpose(2, 0, 1) for key in [*CAMERA_KEYS.values(), "cam_low"]}
    return {"state": np.linspace(0, 0.5, 14), "images": images, "prompt": "lift", **more}


def single_arm(joints: int) -> Embodiment:
    rows = [{"name": f"j{i}", "slot": f"right_arm_joint_{i}_pos"} for i in range(joints)]
    return Embodiment.from_dict(
        {
            "name": "single",
            "rate_hz": 15,
            "arms": {"right": {"driver": "x", "joints": rows, "gripper": {"slot": "right_gripper_open"}}},
            "cameras": {"external": {"source": "x"}, "right_wrist": {"source": "y"}},
        }
    )


def test_an_aloha_observation_is_in_unified_slots():
    seen = reader().read(unpack(pack(aloha())), arrived_s=2.0)
    assert np.allclose(robot().from_unified(seen.state, "state"), np.linspace(0, 0.5, 14), atol=1e-6)
    assert seen.images["external"].shape == (2, 4, 6, 3)
    assert (seen.images["left_wrist"][1] == 1).all()
    assert (seen.instruction, seen.control_hz, seen.stamp_ns) == ("lift", 50, 2_000_000_000)


@pytest.mark.parametrize(
    ("joints", "message"),
    [
        (
            7,
            {
                "observation/exterior_image_1_left": picture(3, 224, 224),
                "observation/wrist_image_left": picture(4, 224, 224),
                "observation/joint_position": np.arange(7.0),
                "observation/gripper_position": np.array([7.0]),
            },
        ),
        (
            7,
            {
                "observation/image": picture(3, 224, 224),
                "observation/wrist_image": picture(4, 224, 224),
                "observation/state": np.arange(8.0),
            },
        ),
    ],
    ids=["droid", "libero"],
)
def test_other_robots_have_other_keys(joints, message):
    of = single_arm(joints)
    seen = reader(1, of, prompt="pick").read(message, 0.0)
    assert np.allclose(of.from_unified(seen.state, "state"), np.arange(8))
    assert (seen.images["external"][0] == 3).all()
    assert (seen.images["right_wrist"][0] == 4).all()
    assert seen.instruction == "pick"


@pytest.mark.parametrize(
    ("periods", "used"), [(0.3, False), (0.5, True), (1.0, True), (1.5, True), (1.7, False), (8, False), (-1, False)]
)
@pytest.mark.parametrize("clock", ["t_obs", "arrival"])
def test_the_previous_observation_is_t_minus_1_when_it_is_about_a_period_old(periods, used, clock):
    hears = reader()
    for value, at in ((1, 5.0), (2, 5.0 + periods * PERIOD_S)):
        more = {"t_obs": at} if clock == "t_obs" else {}
        seen = hears.read(aloha(value, **more), arrived_s=77.0 if more else at)
    assert seen.image_masks["external"].tolist() == [used, True]
    assert seen.images["external"][:, 0, 0, 0].tolist() == [1 if used else 0, 2]


def test_the_first_observation_has_no_t_minus_1():
    assert reader().read(aloha(), 0.0).image_masks["external"].tolist() == [False, True]


def test_reset_forgets_what_was_seen():
    hears = reader()
    hears.read(aloha(t_obs=1.0), 0.0)
    seen = hears.read(aloha(t_obs=1.0 + PERIOD_S, reset=True), 0.0)
    assert seen.image_masks["external"].tolist() == [False, True]


def test_connections_do_not_share_what_they_have_seen():
    reader().read(aloha(t_obs=1.0), 0.0)
    assert not reader().read(aloha(t_obs=1.0 + PERIOD_S), 0.0).image_masks["external"][0]


def test_a_history_that_is_sent_counts_alone():
    hears = reader()
    hears.read(aloha(1, t_obs=1.0), 0.0)
    images = {"cam_high": picture(9)}
    seen = hears.read(aloha(2, t_obs=1.0 + PERIOD_S, history=[{"images": images}]), 0.0)
    assert seen.images["external"][:, 0, 0, 0].tolist() == [9, 2]
    assert seen.image_masks["right_wrist"].tolist() == [False, True]
    seen = hears.read(aloha(3, t_obs=1.0 + 2 * PERIOD_S, history=[]), 0.0)
    assert seen.image_masks["external"].tolist() == [False, True]


def test_longer_histories_reach_back_period_by_period():
    hears = reader(history=3)
    for value, periods in ((1, 0.0), (2, 1.1), (3, 2.0)):
        seen = hears.read(aloha(value, t_obs=periods * PERIOD_S), 0.0)
    assert seen.images["external"][:, 0, 0, 0].tolist() == [1, 2, 3]
    assert seen.image_masks["external"].all()


def test_an_earlier_picture_of_another_size_is_masked():
    hears = reader()
    hears.read(aloha(t_obs=1.0), 0.0)
    second = aloha(2, t_obs=1.0 + PERIOD_S)
    second["images"]["cam_high"] = picture(2, 8, 8)
    assert hears.read(second, 0.0).image_masks["external"].tolist() == [False, True]


def test_a_missing_optional_camera_is_masked_and_a_required_one_refused():
    message = aloha()
    del message["images"]["cam_left_wrist"]
    assert not reader().read(message, 0.0).image_masks["left_wrist"].any()
    del message["images"]["cam_high"]
    with pytest.raises(WireError, match=r"camera cam_high \(external\) is required .* came of \['right_wrist'\]"):
        reader().read(message, 0.0)


def test_without_any_instruction_the_request_is_refused():
    with pytest.raises(WireError, match="--prompt TEXT"):
        reader().read(aloha(prompt=None), 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": np.zeros(13)}, r"must be 14 numbers .* got 13: the order is \['left_waist'"),
        ({"state": np.zeros((1, 14))}, "numbers of shape"),
        ({"state": [0.0] * 14}, "got list"),
        ({"state": np.zeros(14, bool)}, "got |b1"),
        ({"state": np.full(14, np.nan)}, "is not finite"),
        ({"state": np.full(14, 1e300)}, "beyond 1e\\+09"),
        ({"images": {"cam_high": np.zeros((3, 4, 6))}}, "picture `cam_high` must be uint8"),
        ({"images": {"cam_high": np.zeros((4, 6), np.uint8)}}, "must be uint8"),
        ({"images": {"cam_high": np.zeros((4, 6, 4), np.uint8)}}, "must be uint8"),
        ({"images": {"cam_high": np.zeros((0, 6, 3), np.uint8)}}, "must be uint8"),
        ({"images": {"cam_high": np.zeros((1, MAX_SIDE + 1, 3), np.uint8)}}, "sides up to 4096"),
        ({"images": {"cam_high": b"jpeg"}}, "got bytes"),
        ({"images": [1]}, "`images` must be a map"),
        ({"prompt": 7}, "text of at most"),
        ({"prompt": "x" * (MAX_PROMPT + 1)}, "text of at most"),
        ({"t_obs": "now"}, "`t_obs` must be seconds"),
        ({"t_obs": float("nan")}, "`t_obs` must be seconds"),
        ({"t_obs": 1e300}, "`t_obs` must be seconds"),
        ({"t_obs": True}, "`t_obs` must be seconds"),
        ({"reset": "yes"}, "`reset` must be a truth value"),
        ({"reset": np.array([True, False])}, "`reset` must be a truth value"),
        ({"history": [{}, {}]}, "at most 1 maps"),
        ({"history": "frames"}, "at most 1 maps"),
        ({"history": [3]}, "an entry of `history`"),
        ({"history": [{"images": {"cam_high": 3}}]}, "picture `cam_high` must be uint8"),
    ],
)
def test_a_wrong_field_is_told_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        reader().read(aloha(**change), 0.0)


def test_an_observation_of_no_known_robot_is_refused():
    with pytest.raises(WireError, match="one of state, observation/joint_position, observation/state, got a map of x"):
        reader().read({"x": 1}, 0.0)


KEYS = ["state", "images", "prompt", "t_obs", "history", "reset", "observation/state", "observation/image"]
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=3),
    hnp.arrays(st.sampled_from(["<f4", "|u1", "<i8", "<U2"]), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0)),
    st.just(np.zeros(14)),
    st.just(picture(1)),
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from([*CAMERA_KEYS.values(), *KEYS]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(KEYS), values))
@settings(deadline=None, max_examples=200)
def test_whatever_comes_is_an_observation_or_a_value_error(message):
    hears = reader()
    for request in ({**aloha(), **message}, message):
        with contextlib.suppress(ValueError):
            assert isinstance(hears.read(request, 0.0), Observation)
