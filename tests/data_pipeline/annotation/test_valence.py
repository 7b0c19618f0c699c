"""What is made of the operator's valence: steps, weights, labels, a report.

Run: pytest tests/data_pipeline/annotation/test_valence.py
"""

import dataclasses

import numpy as np
import pytest

from data_pipeline.annotation.valence import (
    CONFIDENCE,
    NOTE,
    VALENCE,
    annotated,
    curation,
    operator_states,
    relative_valence,
    resample,
    valence_ratio,
    valence_weights,
)
from data_pipeline.merge import Rename, merge
from data_pipeline.repair import repair_store
from data_pipeline.schema.layout import NUM_SLOTS
from data_pipeline.schema.types import Episode
from data_pipeline.selection import EpisodeSelection
from data_pipeline.storage import EpisodeStore

STEPS = 20


def make_store(path, rows):
    """`rows` are (operator or None, valence, confidence, source)."""
    mask = np.arange(NUM_SLOTS) == 0
    zeros = np.zeros((STEPS, NUM_SLOTS), dtype=np.float32)
    with EpisodeStore.create(path, None, robot_type="toy") as store:
        for number, (operator, valence, confidence, source) in enumerate(rows):
            episode = Episode(f"episode_{number}", zeros, mask, zeros, mask, {}, ("lift",), 10.0)
            if operator is not None:
                values = (np.full(STEPS, x, dtype=np.float32) for x in (valence, confidence))
                episode, source = annotated(episode, *values), {**source, NOTE: {"operator": operator, "model": "m"}}
            store.add(episode, source=source)
    return store


ROWS = [
    ("anna", 0.6, 1.0, {"success": True, "scene": "a"}),
    ("anna", 0.2, 1.0, {"success": False, "scene": "a"}),
    ("ben", -0.5, 0.5, {"scene": "b"}),
    ("ben", -0.9, 0.5, {"scene": "b"}),
    (None, 0, 0, {"scene": "b"}),
]


def test_windows_become_steps_linearly_and_nothing_is_said_outside_them():
    valence, confidence = resample(np.array([1.0, -1.0]), np.array([0.5, 1.0]), np.array([2.0, 6.0]), 4.0, 100, 10.0)
    assert valence.dtype == confidence.dtype == np.float32
    assert valence[20] == 1 and valence[60] == -1 and valence[40] == pytest.approx(0)
    assert (valence[:20] == 1).all() and (confidence[60:81] == 1).all()
    assert not valence[81:].any() and not confidence[81:].any()


def test_a_gap_between_windows_is_silent_and_their_order_does_not_matter():
    centres = np.array([30.0, 2.0])
    valence, confidence = resample(np.array([0.5, 0.5]), np.ones(2), centres, 4.0, 400, 10.0)
    assert (valence[:41] == 0.5).all() and not confidence[41:280].any() and (valence[280:321] == 0.5).all()


def test_an_episode_is_compared_with_the_same_operators_others(tmp_path):
    first, second, third, fourth, none = operator_states([make_store(tmp_path / "store", ROWS)])[0]
    assert none is None and first.operator == "anna" and first.valence == pytest.approx(0.6)
    assert first.relative == pytest.approx(1) and second.relative == pytest.approx(-1)
    assert third.relative == pytest.approx(0.5) and fourth.relative == pytest.approx(-0.5)  # shrunk by confidence


def test_people_are_compared_across_stores_and_parts_of_them(tmp_path):
    one, other = make_store(tmp_path / "one", ROWS[:1]), make_store(tmp_path / "other", ROWS[1:2])
    assert [of[0] for of in relative_valence([one, other])] == pytest.approx([1, -1])
    assert relative_valence([EpisodeSelection(one, [0])])[0].tolist() == [
        0
    ]  # an only episode has nothing to differ from


def test_steps_of_no_confidence_do_not_count(tmp_path):
    store = make_store(tmp_path / "store", [("anna", 0.3, 1.0, {}), ("anna", -1, 0.0, {}), ("anna", 0.5, 1.0, {})])
    assert relative_valence([store])[0] == pytest.approx([-1, 0, 1])


def test_weights_follow_valence_and_are_1_without_eeg(tmp_path):
    (weights,) = valence_weights([make_store(tmp_path / "store", ROWS)], 0.7)
    np.testing.assert_allclose(weights, np.exp([0.7, -0.7, 0.35, -0.35, 0]), rtol=1e-5)


def test_the_label_of_alignment_has_mean_1_in_each_scene(tmp_path):
    (ratio,) = valence_ratio([make_store(tmp_path / "store", ROWS)], temperature=0.5)
    assert ratio[:2].mean() == pytest.approx(1) and ratio[2:].mean() == pytest.approx(1)
    assert ratio[0] / ratio[1] == pytest.approx(np.exp(4), rel=1e-4) and ratio[2] > ratio[4] > ratio[3]


def test_the_report_begins_with_the_lowest(tmp_path):
    rows = curation([make_store(tmp_path / "store", ROWS)])
    assert [row["episode"] for row in rows] == ["episode_1", "episode_3", "episode_2", "episode_0"]
    assert [row["success"] for row in rows] == [False, None, None, True]


def test_stores_without_eeg_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"no episode of .*store says how its operator felt"):
        valence_weights([make_store(tmp_path / "store", ROWS[4:])], 1.0)


def test_merged_and_repaired_stores_keep_it(tmp_path):
    stores = [make_store(tmp_path / name, rows) for name, rows in (("one", ROWS[:3]), ("other", ROWS[3:]))]
    merged = merge(stores, tmp_path / "both", [Rename.parse("2:episodes:=other/")])
    np.testing.assert_allclose(relative_valence([merged])[0], np.concatenate(relative_valence(stores)))
    assert repair_store(merged.path, tmp_path / "repaired") == []
    repaired = EpisodeStore.open(tmp_path / "repaired")
    np.testing.assert_array_equal(relative_valence([repaired])[0], relative_valence([merged])[0])


def test_annotations_of_another_kind_stay(tmp_path):
    store = make_store(tmp_path / "store", ROWS)
    mark = np.ones(STEPS, dtype=np.float32)
    episode = annotated(dataclasses.replace(store[4], annotations={"mark": mark}), mark, mark)
    assert set(episode.annotations) == {"mark", VALENCE, CONFIDENCE}
