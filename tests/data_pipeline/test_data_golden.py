"""RDT_DATA_GOLDEN_DIR=... pytest tests/data_pipeline/test_data_golden.py

What the published code makes of one recording (spec rdt.md section 14.2), against ours. Asserted:
`joints.*`, `rot.*`, and of each step the state, mask, actions, decoded frames and control frequency. The
rest follows with the code that makes it: `randint_range`, `*_mask` and `state_std|mean|norm` with sampling
and statistics, `pixel_values` with the image transforms, `stat.*` with the published statistics export and
`interp.*` with the published interpolation.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.schema import rotation
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.sources.hdf5 import CAMERA_KEYS, read_episode

GOLDEN = Path(os.environ.get("RDT_DATA_GOLDEN_DIR", Path(__file__).parents[1] / "golden" / "data"))
ROBOT = Embodiment.from_yaml(find_config("robots", "agilex_cobot_magic"))
HORIZON = 64


@pytest.fixture(scope="module")
def expected():
    with np.load(GOLDEN / "expected.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def episode():
    return read_episode(GOLDEN / "episode_0.hdf5", ROBOT, colour="bgr", instructions=["Pick up the cup."])


def test_joints_to_unified(expected):
    vector, mask = ROBOT.to_unified(expected["joints.in"], kind="state")
    np.testing.assert_allclose(vector, expected["joints.state"], atol=1e-6)
    np.testing.assert_array_equal(
        np.broadcast_to(mask, expected["joints.mask"].shape), expected["joints.mask"]
    )


def test_unified_to_commands(expected):
    command = ROBOT.from_unified(expected["joints.action"], kind="action")
    np.testing.assert_allclose(command, expected["joints.command"], rtol=1e-6, atol=1e-6)


def test_rotations(expected):
    np.testing.assert_allclose(
        rotation.matrix_from_euler(expected["rot.euler"]), expected["rot.matrix"], atol=1e-6
    )
    np.testing.assert_allclose(
        rotation.rot6d_from_matrix(expected["rot.matrix"]), expected["rot.ortho6d"], atol=1e-6
    )
    np.testing.assert_allclose(
        rotation.matrix_from_rot6d(expected["rot.noisy6d"]), expected["rot.noisy_matrix"], atol=1e-6
    )


def test_states_and_actions(expected, episode):
    for step in expected["step_ids"]:
        np.testing.assert_allclose(episode.states[step : step + 1], expected[f"{step}.state"], atol=1e-6)
        np.testing.assert_array_equal(episode.state_mask, expected[f"{step}.state_indicator"])
        rows = np.minimum(step + np.arange(HORIZON), episode.num_steps - 1)
        np.testing.assert_allclose(episode.actions[rows], expected[f"{step}.actions"], atol=1e-6)
        assert episode.rate_hz == expected[f"{step}.ctrl_freq"]


def test_frames(expected, episode):
    for step in expected["step_ids"]:
        for role, key in CAMERA_KEYS.items():
            frames = np.stack([episode.images[role][max(step - 1, 0)], episode.images[role][step]])
            difference = frames.astype(int) - expected[f"{step}.{key}"]
            assert np.abs(difference).max() <= 2  # codecs differ by up to two levels
