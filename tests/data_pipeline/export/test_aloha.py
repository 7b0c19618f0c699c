"""pytest tests/data_pipeline/export/test_aloha.py"""

from __future__ import annotations

import numpy as np
import pytest

from data_pipeline.export.exports import export
from data_pipeline.sources.hdf5 import read_episode
from data_pipeline.storage import EpisodeStore


@pytest.mark.parametrize("compress", [True, False])
def test_episodes_come_back_from_hdf5(tmp_path, robot, episode, compress):
    with EpisodeStore.create(tmp_path / "store", robot) as store:
        for i in range(2):
            store.add(episode(num_steps=4 + i, seed=i, name=f"e{i}"))
    export(store, tmp_path / "out", "hdf5", compress=compress)
    for i, ours in enumerate(store):
        read = read_episode(tmp_path / "out" / f"episode_{i}.hdf5", robot)
        np.testing.assert_allclose(read.states, ours.states, rtol=1e-6)
        np.testing.assert_allclose(read.actions, ours.actions, rtol=1e-6)
        assert (read.instructions, read.rate_hz, read.action_offset_steps) == (ours.instructions, 12.5, 1)
        for one, other in zip(read.images["external"], ours.images["external"], strict=True):
            np.testing.assert_array_equal(one, other)
