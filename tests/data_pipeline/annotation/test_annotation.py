"""Labels of episodes: how they ended, and which of them did the same thing.

Run: pytest tests/data_pipeline/annotation/test_annotation.py
"""

import numpy as np
import pytest

from data_pipeline.annotation.outcome import episode_success, success_ratio
from data_pipeline.annotation.tasks import episode_tasks
from data_pipeline.schema.layout import NUM_SLOTS
from data_pipeline.schema.types import Episode
from data_pipeline.selection import EpisodeSelection
from data_pipeline.storage import EpisodeStore


def make_store(path, episodes):
    """`episodes` are (instructions, source)."""
    mask = np.arange(NUM_SLOTS) == 0
    zeros = np.zeros((2, NUM_SLOTS), dtype=np.float32)
    store = EpisodeStore.create(path, None, robot_type="toy")
    with store:
        for number, (instructions, source) in enumerate(episodes):
            episode = Episode(f"episode_{number}", zeros, mask, zeros, mask, {}, tuple(instructions), 10.0)
            store.add(episode, source=source)
    return store


def test_success_comes_from_each_episodes_source(tmp_path):
    store = make_store(tmp_path / "store", [(["a"], {"success": ended}) for ended in (True, False, True)])
    np.testing.assert_array_equal(episode_success(store), [1, 0, 1])
    np.testing.assert_array_equal(episode_success(EpisodeSelection(store, [2, 1])), [1, 0])


def test_only_scenes_that_ended_either_way_tell_good_from_bad(tmp_path):
    ends = {"a": [1, 1, 0, 0], "b": [1, 1], "c": [0, 0]}
    store = make_store(
        tmp_path / "store",
        [(["x"], {"success": bool(end), "scene": scene}) for scene, all_ends in ends.items() for end in all_ends],
    )
    np.testing.assert_array_equal(success_ratio(store), [2, 2, 0, 0, 1, 1, 1, 1])
    alone = make_store(tmp_path / "alone", [(["x"], {"success": end}) for end in (True, False)])
    np.testing.assert_array_equal(success_ratio(alone), [2, 0])


def test_episodes_that_say_nothing_are_named(tmp_path):
    store = make_store(tmp_path / "store", [(["a"], {"success": True}), (["a"], {})])
    with pytest.raises(ValueError, match=r"1 of 2 episodes do not say whether they succeeded \(episode_1\)"):
        episode_success(store)


def test_a_shared_phrasing_makes_one_task_through_others_and_across_stores(tmp_path):
    first = make_store(tmp_path / "first", [(["lift it", "raise it"], {}), (["push it"], {}), (["hoist it"], {})])
    second = make_store(tmp_path / "second", [(["hoist it", "raise it"], {}), (["pull it"], {})])
    tasks = np.concatenate(episode_tasks([first, second]))
    assert tasks[0] == tasks[2] == tasks[3]
    assert len(set(tasks.tolist())) == 3
