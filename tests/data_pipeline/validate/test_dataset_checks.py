"""Checks of all episodes together, of metadata, and the words of findings.

Run: pytest tests/data_pipeline/validate/test_dataset_checks.py
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data_pipeline.mapping import mapping as mapping_module
from data_pipeline.sources.raw import Fault
from data_pipeline.validate.across import check_across, remember, spread
from data_pipeline.validate.findings import Finding, Where, grouped, of_fault
from data_pipeline.validate.lerobot import impossible
from data_pipeline.validate.records import of_episode
from tests.data_pipeline.validate.demonstrations import STEPS, changed, demonstration


def across(episodes):
    return list(check_across([remember(of_episode(episode)) for episode in episodes]))


def clean(number=4):
    return [demonstration(f"cups/e{seed}", seed) for seed in range(number)]


def test_clean_datasets_are_silent():
    assert across(clean()) == []
    assert across(clean(1)) == []
    assert across([]) == []


def test_a_copy_is_found():
    (finding,) = across([*clean(), demonstration("cups/again", 2)])
    assert finding.kind == "duplicate" and finding.where.episode == "cups/again" and "cups/e2" in finding.found


def test_lengths():
    (short,) = across([*clean(), demonstration("cups/short", 9, steps=20)])
    assert (short.kind, short.where.episode) == ("too_short", "cups/short")
    (wild,) = across([*clean(), demonstration("cups/long", 9, steps=20 * STEPS)])
    assert (wild.kind, wild.severity) == ("lengths_vary", "note")


def test_rates():
    (finding,) = across([*clean(), demonstration("cups/fast", 9, rate_hz=30.0)])
    assert (finding.kind, finding.where.episode) == ("rates_differ", "cups/fast")


def test_one_sentence_for_several_tasks():
    (finding,) = across([*clean(), demonstration("plates/one", 9)])
    assert finding.kind == "same_instruction" and "2 tasks" in finding.expected
    assert across([*clean(), demonstration("plates/one", 9, instructions=("take the plate",))]) == []


def test_dead_slots_and_grippers():
    dead = [changed(one, "state", "right_arm_joint_pos[2]", lambda v: 0 * v + 0.3) for one in clean()]
    (finding,) = across(dead)
    assert (finding.kind, finding.where.column) == ("constant", "state right_arm_joint_2_pos")
    assert "0.3 everywhere in 4 episodes" in finding.found
    assert across([*dead, demonstration("cups/alive", 9)]) == []
    stuck = [changed(one, "state", "right_gripper_pos[0]", lambda v: v * 0.01 + 0.9) for one in clean()]
    (finding,) = across(stuck)
    assert finding.kind == "gripper_still"


def test_episodes_of_other_slots():
    other = demonstration("cups/other", 9)
    mask = np.array(other.state_mask)
    mask[0] = False
    finding, masks = across([*clean(), replace(other, state_mask=mask, states=other.states * mask)])
    assert masks.kind == "masks_differ" and "1 of 5" in masks.found
    assert finding.kind == "columns_differ" and "right_arm_joint_0_pos" in finding.found


def test_other_slots_in_the_action_are_told_once():
    def without_position(episode):
        mask = np.array(episode.action_mask)
        mask[30:33] = False
        return replace(episode, action_mask=mask, actions=episode.actions * mask)

    (finding,) = across([without_position(one) for one in clean()])
    assert (finding.severity, finding.kind) == ("note", "masks_differ")
    assert "right_eef_pos_x" in finding.found and "4 of 4" in finding.found


def test_spread_takes_the_first_and_the_last():
    assert spread(10, None) == list(range(10)) == spread(10, 99)
    assert spread(10, 3) == [0, 4, 9]
    assert spread(0, 3) == []


IMPOSSIBLE = {
    "a deviation of": {"std": [-1.0]},
    "not finite": {"min": [float("nan")], "max": [1.0]},
    "minimum above": {"min": [1.0], "max": [0.0]},
    "mean outside": {"min": [0.0], "max": [1.0], "mean": [2.0]},
    "half the range": {"min": [0.0, 0.0], "max": [1.0, 1.0], "std": [0.1, 0.7]},
    "not numbers": {"min": [[0.0], [1.0, 2.0]], "max": [1.0]},
}


@pytest.mark.parametrize("told", IMPOSSIBLE)
def test_impossible_statistics(told):
    assert told in impossible(IMPOSSIBLE[told])


def test_statistics_of_numbers_are_possible():
    rng = np.random.default_rng(0)
    for values in (rng.normal(0, 1, (50, 3)), rng.integers(0, 2, (4, 3)), np.full((5, 1), 1e9), np.array([[0], [1]])):
        of = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
        assert impossible({key: value.astype(np.float32).tolist() for key, value in of.items()}) == ""
    assert impossible({"count": [5]}) == ""


def test_every_kind_of_fault_has_advice():
    documented = mapping_module.__doc__.partition("Kinds of fault:")[2].strip(" .\n").replace("\n", " ")
    for kind in documented.split(", "):
        assert of_fault(Fault(kind, "a", "b"), "set").advice != "see the message", kind


def test_a_repaired_fault_is_no_error():
    lost = of_fault(Fault("nan", "a.hdf5", "not finite at 3 of 50 steps, first at step 7"), "set")
    kept = of_fault(Fault("nan", "a.hdf5", "not finite at 3 of 50 steps, first at step 7", left_out=False), "set")
    assert of_fault(Fault("truncated", "a.hdf5", "key 'observations/qpos' is missing"), "set").severity == "error"
    assert (lost.severity, kept.severity, lost.where.steps) == ("error", "warning", (7, 7))


def test_groups_put_errors_first():
    place = Where("set", "a", steps=(3, 4))
    some = [Finding(severity, "x", place, "", severity, "") for severity in ("note", "error", "note", "warning")]
    assert [(group.severity, len(group.members)) for group in grouped(some)] == [
        ("error", 1),
        ("warning", 1),
        ("note", 2),
    ]
    assert str(some[0]) == "a, steps 3 to 4: note"
    assert some[0].to_dict()["where"]["steps"] == (3, 4)
