"""Run: pytest tests/rdt/train/test_gates.py"""

import dataclasses

import numpy as np
import pytest
import torch

from data_pipeline.stats import Moments
from rdt.train.gates import Gates, advice_before, constant_slots, mean_action_loss, small_batch


def told(gates: Gates, rows) -> list[tuple[int, str]]:
    return [(row["step"], line) for row in rows for line in gates(row)]


def curve(losses, held_out=()) -> list[dict]:
    rows = [{"step": 10 * (i + 1), "loss": loss} for i, loss in enumerate(losses)]
    for row, error in zip(rows, held_out, strict=False):
        row["overall_avg_sample_mse"] = error
    return rows


def test_a_loss_that_falls_is_left_alone():
    assert told(Gates(1000, 0, 0.1), curve(np.geomspace(0.1, 0.001, 100))) == []


def test_a_loss_that_stays_at_the_mean_action_is_told_once_when_it_should_have_fallen():
    said = told(Gates(1000, 100, 0.1), curve([0.1] * 100))
    assert [step for step, _ in said] == [300]  # warm-up, and a fifth of the run
    assert "predicting the mean action, 0.1" in said[0][1]


def test_a_long_run_is_judged_after_500_steps():
    assert [step for step, _ in told(Gates(100_000, 0, 0.1), curve([0.1] * 100))] == [500]


def test_without_a_mean_to_compare_with_nothing_is_said():
    assert told(Gates(1000, 0, None), curve([1.0] * 100)) == []


def test_overfitting_is_a_rising_error_under_a_falling_loss():
    falling = np.geomspace(0.1, 0.001, 8)
    said = told(Gates(80, 0, None), curve(falling, [0.5, 0.2, 0.1, 0.11, 0.13, 0.15, 0.2, 0.3]))
    assert [step for step, _ in said] == [60]
    assert "risen from 0.1 to 0.15" in said[0][1]


@pytest.mark.parametrize(
    ("losses", "held_out"),
    [
        (np.geomspace(0.1, 0.001, 8), np.geomspace(0.5, 0.1, 8)),  # both fall
        (np.geomspace(0.1, 0.001, 8), [0.5, 0.1, 0.2, 0.1, 0.2, 0.1, 0.2, 0.1]),  # noise
        (np.geomspace(0.01, 0.1, 8), np.geomspace(0.1, 0.5, 8)),  # both rise: not overfitting
    ],
)
def test_other_curves_are_not_overfitting(losses, held_out):
    assert told(Gates(80, 0, None), curve(losses, held_out)) == []


def stats_of(values: np.ndarray, mask: np.ndarray):
    return Moments.of(values.astype(np.float32), mask).finish()


def test_the_loss_of_the_mean_action_is_what_it_costs():
    rng = np.random.default_rng(0)
    mask = np.arange(128) < 3
    one = np.where(mask, rng.normal(2, 0.5, (4000, 128)), 0)
    other_mask = np.arange(128) < 2
    other = np.where(other_mask, rng.normal(2, 0.5, (4000, 128)), 0)
    actions = (Moments.of(one.astype(np.float32), mask) + Moments.of(other.astype(np.float32), other_mask)).finish()
    half_range = np.full(128, 2.0)
    scaled = torch.from_numpy(np.concatenate([one, other]) / half_range)
    live = torch.from_numpy(np.concatenate([np.tile(mask, (4000, 1)), np.tile(other_mask, (4000, 1))]))
    prediction = torch.where(live, torch.from_numpy(actions.mean / half_range), 0.0)
    by_hand = torch.nn.functional.mse_loss(prediction, scaled).item()
    assert mean_action_loss(actions, 8000, half_range) == pytest.approx(by_hand, rel=1e-6)


def test_a_constant_slot_is_named_with_its_value():
    mask = np.arange(128) < 11
    values = np.where(mask, np.random.default_rng(0).normal(size=(50, 128)), 0)
    assert constant_slots(stats_of(values, mask)) is None
    values[:, 10] = 0.25
    said = constant_slots(stats_of(values, mask))
    assert "right_gripper_joint_0_pos (0.25)" in said and "arm_joint" not in said


def test_many_constant_slots_are_counted():
    mask = np.arange(128) < 12
    assert "and 4 more" in constant_slots(stats_of(np.zeros((5, 128)), mask))


def test_a_batch_below_the_recipe_is_told():
    assert "a step sees 4 samples, the recipe of rdt_1b has 32" in small_batch("rdt_1b", 4)
    assert small_batch("rdt_1b", 32) is None
    assert small_batch("rdt_tiny", 4) is None


def test_nothing_is_said_before_a_sound_run():
    mask = np.arange(128) < 3
    stats = stats_of(np.where(mask, np.random.default_rng(0).normal(size=(50, 128)), 0), mask)
    assert advice_before("rdt_170m", 64, stats) == []
    still = dataclasses.replace(stats, max=stats.min)
    assert len(advice_before("rdt_170m", 8, still)) == 2
