"""RDT_DATA_GOLDEN_DIR=... pytest tests/data_pipeline/test_data_golden.py

What the published code makes of one recording (spec rdt.md section 14.2), against ours, by two roads: the robot's
embodiment and the dataset's mapping `agilex`. `joints.*`, `rot.*`, and of each step state, actions, indicator, frames,
frame masks, pixel values, control frequency and the episode's state mean, deviation and norm; `randint_range`,
`episode_sample_weights`, `stat.*` and `interp.*`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.mapping.mapping import Mapping
from data_pipeline.sampling import make_sample
from data_pipeline.schema import rotation
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.schema.types import CAMERA_KEYS, CAMERA_ROLES, Episode
from data_pipeline.sources.hdf5 import SIDECAR_NAME, Hdf5Source, read_episode
from data_pipeline.stats import Moments, published_statistics
from data_pipeline.transforms.filters import episode_weights, usable_steps
from data_pipeline.transforms.images import BACKGROUND, pad_square, resize
from deploy.interpolate import rdt_linear

GOLDEN = Path(os.environ.get("RDT_DATA_GOLDEN_DIR", Path(__file__).parents[1] / "golden" / "data"))
ROBOT = Embodiment.from_yaml(find_config("robots", "agilex_cobot_magic"))


@pytest.fixture(scope="module")
def expected():
    with np.load(GOLDEN / "expected.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def episode():
    return read_episode(GOLDEN / "episode_0.hdf5", ROBOT, colour="bgr", instructions=["Pick up the cup."])


@pytest.fixture(scope="module")
def raw():
    source = Hdf5Source(GOLDEN)
    (record,) = source.read(source.shards()[0])
    return record


@pytest.fixture(scope="module")
def mapped(raw):
    source = Hdf5Source(GOLDEN)
    mapping = Mapping.from_yaml(find_config("datasets", "agilex"), source.fields())
    (result,) = mapping.apply(raw)
    return result


def test_joints_to_unified(expected):
    vector, mask = ROBOT.to_unified(expected["joints.in"], kind="state")
    np.testing.assert_allclose(vector, expected["joints.state"], atol=1e-6)
    np.testing.assert_array_equal(np.broadcast_to(mask, expected["joints.mask"].shape), expected["joints.mask"])


def test_unified_to_commands(expected):
    command = ROBOT.from_unified(expected["joints.action"], kind="action")
    np.testing.assert_allclose(command, expected["joints.command"], rtol=1e-6, atol=1e-6)


def test_rotations(expected):
    np.testing.assert_allclose(rotation.matrix_from_euler(expected["rot.euler"]), expected["rot.matrix"], atol=1e-6)
    np.testing.assert_allclose(rotation.rot6d_from_matrix(expected["rot.matrix"]), expected["rot.ortho6d"], atol=1e-6)
    np.testing.assert_allclose(
        rotation.matrix_from_rot6d(expected["rot.noisy6d"]), expected["rot.noisy_matrix"], atol=1e-6
    )


def samples(expected, episode):
    """(step, our sample, frame history) for each step of the file, the recording being cut at its lead-in."""
    first = int(expected["randint_range"][0])
    cut = _from_step(episode, first)
    for step in expected["step_ids"].tolist():
        horizon, history = len(expected[f"{step}.actions"]), len(expected[f"{step}.cam_high"])
        yield step, make_sample(cut, step - first, horizon=horizon, image_history=history), history


def _from_step(episode: Episode, first: int) -> Episode:
    images = {role: np.stack(list(frames))[first:] for role, frames in episode.images.items()}
    return dataclasses.replace(episode, states=episode.states[first:], actions=episode.actions[first:], images=images)


def test_states_and_actions(expected, episode):
    for step, sample, _ in samples(expected, episode):
        np.testing.assert_allclose(sample.observation.state[None], expected[f"{step}.state"], atol=1e-6)
        np.testing.assert_array_equal(sample.observation.state_mask, expected[f"{step}.state_indicator"])
        np.testing.assert_array_equal(sample.action_chunk.mask, expected[f"{step}.state_indicator"])
        np.testing.assert_allclose(sample.action_chunk.actions, expected[f"{step}.actions"], atol=1e-6)
        assert sample.observation.control_hz == expected[f"{step}.ctrl_freq"]


def test_frames(expected, episode):
    for step, _, history in samples(expected, episode):
        for role, key in CAMERA_KEYS.items():
            steps = np.arange(step - history + 1, step + 1).clip(0)
            frames = np.stack([episode.images[role][i] for i in steps])
            difference = frames.astype(int) - expected[f"{step}.{key}"]
            assert np.abs(difference).max() <= 2  # codecs differ by up to two levels


def test_frame_masks(expected, episode):
    for step, sample, _ in samples(expected, episode):
        np.testing.assert_array_equal(sample.observation.image_masks["external"], expected[f"{step}.cam_high_mask"])


def test_pixel_values(expected, episode):
    for step, _, _ in samples(expected, episode):
        pixels = expected[f"{step}.pixel_values"]
        side = pixels.shape[-1]
        # the file's own frames, so that a codec's two levels do not hide in the tolerance of the resize
        history = zip(*(expected[f"{step}.{CAMERA_KEYS[role]}"] for role in CAMERA_ROLES), strict=True)
        for frames, valid in zip(history, expected[f"{step}.cam_high_mask"], strict=True):
            ours = [
                resize(pad_square(frame if valid else np.full_like(frame, BACKGROUND)), side, side) for frame in frames
            ]
            normalised = (np.stack(ours).transpose(0, 3, 1, 2) / 255 - 0.5) / 0.5
            np.testing.assert_allclose(normalised, pixels[: len(ours)], atol=1e-5)
            pixels = pixels[len(ours) :]


def test_episode_statistics(expected, episode):
    stats = Moments.of(episode.states, episode.state_mask).finish()
    for step in expected["step_ids"]:
        np.testing.assert_allclose(stats.mean, expected[f"{step}.state_mean"], atol=1e-6)
        np.testing.assert_allclose(stats.std, expected[f"{step}.state_std"], atol=1e-6)
        np.testing.assert_allclose(np.hypot(stats.mean, stats.std), expected[f"{step}.state_norm"], atol=1e-6)


def test_the_mapping_cuts_the_still_start(expected, mapped, raw):
    first, stop = expected["randint_range"].tolist()
    assert mapped.steps.tolist() == list(range(first, stop))
    assert usable_steps(raw.fields["observations/qpos"], 1e-2) == range(first, stop)


def test_the_mapping_gives_states_actions_masks_and_rate(expected, mapped):
    first = int(expected["randint_range"][0])
    for step in expected["step_ids"].tolist():
        horizon, history = len(expected[f"{step}.actions"]), len(expected[f"{step}.cam_high"])
        sample = make_sample(mapped.episode, step - first, horizon=horizon, image_history=history)
        np.testing.assert_allclose(sample.observation.state[None], expected[f"{step}.state"], atol=1e-6)
        np.testing.assert_allclose(sample.action_chunk.actions, expected[f"{step}.actions"], atol=1e-6)
        np.testing.assert_array_equal(sample.observation.state_mask, expected[f"{step}.state_indicator"])
        np.testing.assert_array_equal(sample.action_chunk.mask, expected[f"{step}.state_indicator"])
        assert sample.observation.control_hz == expected[f"{step}.ctrl_freq"]
        for role, key in CAMERA_KEYS.items():
            valid = expected[f"{step}.cam_high_mask"]
            np.testing.assert_array_equal(sample.observation.image_masks[role], valid)
            difference = sample.observation.images[role].astype(int) - expected[f"{step}.{key}"]
            assert np.abs(difference[valid]).max() <= 2
    assert all(mask.all() for mask in mapped.episode.image_masks.values())


def test_the_mapping_draws_each_kind_of_phrasing_equally(mapped):
    groups = json.loads((GOLDEN / SIDECAR_NAME).read_text())
    shares = dict(zip(mapped.episode.instructions, mapped.episode.instruction_weights, strict=True))
    for texts in groups.values():
        texts = [texts] if isinstance(texts, str) else texts
        assert sum(shares[text] for text in texts) == pytest.approx(1 / len(groups))


def test_episode_weights(expected, mapped):
    np.testing.assert_allclose(episode_weights([mapped.episode.num_steps]), expected["episode_sample_weights"])


def test_published_statistics(expected, mapped):
    ours = published_statistics("agilex", [mapped.episode.states])
    for name in ("state_mean", "state_std", "state_min", "state_max"):
        np.testing.assert_allclose(ours[name], expected[f"stat.{name}"], atol=1e-6)


def test_published_interpolation(expected):
    per_arm = [0.01] * 6 + [0.2]
    max_step = np.array(per_arm * (len(expected["interp.prev"]) // len(per_arm)))
    rows = rdt_linear(expected["interp.prev"], expected["interp.cur"], max_step)
    np.testing.assert_allclose(rows, expected["interp.out"], atol=1e-6)
    target = expected["interp.small"][-1]
    np.testing.assert_allclose(
        rdt_linear(expected["interp.prev"], target, max_step), expected["interp.small"], atol=1e-6
    )
