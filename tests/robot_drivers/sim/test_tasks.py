"""pytest tests/robot_drivers/sim/test_tasks.py"""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot_drivers.sim import tasks
from robot_drivers.sim.tasks import CUBE, ENVIRONMENTS, PEG, PIN, SOCKET, TABLE, TASKS, fingers

RIGHT_TO_LEFT, LEFT_TO_RIGHT = TASKS["transfer_right_to_left"], TASKS["transfer_left_to_right"]
HANDS = [*fingers("left"), *fingers("right"), "vx300s_left/7_gripper", "vx300s_right/7_gripper"]


def pairs(*names: str):
    return st.sets(st.frozensets(st.sampled_from(names), min_size=2, max_size=2))


def mirrored(contacts):
    """The contacts that a mirror at x = 0 shows: every arm's geom becomes its fellow on the other arm."""
    other = {"left": "right", "right": "left"}
    return {frozenset(re.sub("left|right", lambda m: other[m[0]], name) for name in pair) for pair in contacts}


@given(pairs(CUBE, TABLE, *HANDS), st.floats(0, 0.3))
def test_left_to_right_is_right_to_left_in_a_mirror(contacts, height):
    positions = {"box": np.array([0, 0.5, height])}
    assert LEFT_TO_RIGHT.reward(mirrored(contacts)) == RIGHT_TO_LEFT.reward(contacts)
    assert LEFT_TO_RIGHT.strict_success(mirrored(contacts), positions) == RIGHT_TO_LEFT.strict_success(
        contacts, positions
    )


@given(st.sampled_from(sorted(TASKS)), pairs(CUBE, PEG, PIN, *SOCKET, TABLE, *HANDS), st.floats(0, 0.3))
def test_strict_success_implies_full_reward(name, contacts, height):
    if TASKS[name].strict_success(contacts, {"box": np.array([0, 0.5, height])}):
        assert TASKS[name].reward(contacts) == 4


def contacts(*touching: tuple[str, str]):
    return {frozenset(pair) for pair in touching}


LEFT, RIGHT = fingers("left"), fingers("right")


@pytest.mark.parametrize(
    ("touching", "reward"),
    [
        ([(CUBE, TABLE)], 0),
        ([(CUBE, TABLE), (CUBE, RIGHT[1])], 0),  # the benchmark looks at one finger of each hand
        ([(CUBE, TABLE), (CUBE, RIGHT[0])], 1),
        ([(CUBE, RIGHT[0])], 2),
        ([(CUBE, TABLE), (CUBE, LEFT[0])], 3),
        ([(CUBE, RIGHT[0]), (CUBE, LEFT[0])], 4),
    ],
)
def test_the_stages_of_the_transfer(touching, reward):
    assert RIGHT_TO_LEFT.reward(contacts(*touching)) == reward


def test_strict_transfer_needs_the_other_hand_away_and_the_cube_up():
    held = [(CUBE, LEFT[0]), (CUBE, LEFT[1])]
    up, low = ({"box": np.array([0, 0.5, z])} for z in (0.2, 0.05))
    assert RIGHT_TO_LEFT.strict_success(contacts(*held), up)
    assert not RIGHT_TO_LEFT.strict_success(contacts(*held), low)
    assert not RIGHT_TO_LEFT.strict_success(contacts(*held, (CUBE, RIGHT[1])), up)
    assert not RIGHT_TO_LEFT.strict_success(contacts(held[0]), up)


@pytest.mark.parametrize(
    ("touching", "reward"),
    [
        ([(PEG, TABLE), (SOCKET[0], TABLE), (PEG, RIGHT[0])], 0),
        ([(PEG, TABLE), (SOCKET[0], TABLE), (PEG, RIGHT[0]), (SOCKET[2], LEFT[0])], 1),
        ([(PEG, RIGHT[0]), (SOCKET[2], LEFT[0])], 2),
        ([(PEG, RIGHT[0]), (SOCKET[2], LEFT[0]), (PEG, SOCKET[1])], 3),
        ([(PEG, PIN)], 4),
    ],
)
def test_the_stages_of_the_insertion(touching, reward):
    assert TASKS["insertion"].reward(contacts(*touching)) == reward


def test_strict_insertion_needs_both_hands_and_no_table():
    done = [(PEG, PIN), *((PEG, finger) for finger in RIGHT), *((SOCKET[2], finger) for finger in LEFT)]
    insertion = TASKS["insertion"]
    assert insertion.strict_success(contacts(*done), {})
    assert not insertion.strict_success(contacts(*done, (SOCKET[0], TABLE)), {})
    for missing in range(len(done)):
        assert not insertion.strict_success(contacts(*done[:missing], *done[missing + 1 :]), {})


def bigrams(*phrasings: str) -> set[tuple[str, str]]:
    return {pair for text in phrasings for pair in zip(text.split(), text.split()[1:], strict=False)}


def test_the_direction_is_in_the_set_of_bigrams_seen_in_training():
    own, other = bigrams(*RIGHT_TO_LEFT.instructions), bigrams(*LEFT_TO_RIGHT.instructions)
    for phrasing in RIGHT_TO_LEFT.instructions + RIGHT_TO_LEFT.held_out_instructions:
        assert len(bigrams(phrasing) & (own - other)) >= 2
        assert not bigrams(phrasing) & (other - own)
    assert not bigrams(tasks.CONTROL_INSTRUCTION) & (own ^ other)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_held_out_phrasings_are_new(task):
    assert len(set(task.instructions)) == len(task.instructions) >= 4
    assert len(set(task.held_out_instructions)) == len(task.held_out_instructions) >= 2
    assert not set(task.instructions) & set(task.held_out_instructions)


@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=lambda env: env.name)
def test_environments_name_tasks_and_distributions_that_exist(environment):
    for name in environment.tasks:
        distribution = environment.distribution or TASKS[name].distribution
        for position in tasks.draw_positions(distribution, seed=0).values():
            assert position.shape == (3,)


@given(st.integers(0, 2**32 - 1))
def test_boxes_lie_in_their_ranges_and_follow_from_the_seed(seed):
    x, y, z = tasks.draw_positions("centred_box", seed)["box"]
    assert -0.06 <= x <= 0.06 and 0.42 <= y <= 0.58 and z == 0.05
    np.testing.assert_array_equal(tasks.draw_positions("centred_box", seed)["box"], (x, y, z))


def test_the_benchmark_distributions_are_the_benchmarks():
    pytest.importorskip("gym_aloha")
    from gym_aloha.utils import sample_box_pose, sample_insertion_pose

    np.testing.assert_array_equal(tasks.draw_positions("benchmark_box", 5)["box"], sample_box_pose(5)[:3])
    ours = tasks.draw_positions("benchmark_insertion", 5)
    for ours_of_part, theirs in zip(ours.values(), sample_insertion_pose(5), strict=True):
        np.testing.assert_array_equal(ours_of_part, theirs[:3])


def test_an_unknown_name_answers_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'sim_handover'"):
        tasks.lookup(ENVIRONMENTS, "sim_handver")


def test_mirroring_joints_twice_changes_nothing():
    joints = np.random.default_rng(0).normal(size=(3, 5, 14))
    np.testing.assert_array_equal(tasks.mirror_joints(tasks.mirror_joints(joints)), joints)
