"""Run: pytest tests/rdt/train/test_metrics.py"""

import dataclasses
import math
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.layout import SLOT_UNITS, slot_index
from data_pipeline.schema.registry import find_config
from data_pipeline.stream import SampleStream
from rdt.batch import Batch
from rdt.random import SampleGenerator
from rdt.train.loader import BatchLoader
from rdt.train.metrics import (
    SLOT_GROUPS,
    SampleErrors,
    gathered,
    joint_figures,
    measure,
    sample_errors,
    sampling_figures,
)


def make_batch(truth, mask, *, valid=None, norm=None, store=None, index=None) -> Batch:
    """Of recorded chunks (batch, horizon, 128) and masks (batch, 128)."""
    size, horizon = truth.shape[:2]
    return Batch(
        observation=None,
        actions=truth,
        action_mask=mask,
        action_valid=torch.ones(size, horizon, dtype=torch.bool) if valid is None else valid,
        store=torch.zeros(size, dtype=torch.long) if store is None else store,
        sample_index=torch.arange(size) if index is None else index,
        state_norm=torch.ones(size, 128) if norm is None else norm,
    )


def live(*names: str) -> torch.Tensor:
    mask = torch.zeros(128)
    mask[[slot_index(name) for name in names]] = 1
    return mask


def random_batches(seed: int, sizes=(6, 6), horizon=4) -> list[tuple[torch.Tensor, Batch]]:
    generator = torch.Generator().manual_seed(seed)
    made, first = [], 0
    for size in sizes:
        mask = (torch.rand(size, 128, generator=generator) < 0.2).float()
        truth = torch.randn(size, horizon, 128, generator=generator) * mask[:, None]
        batch = make_batch(
            truth,
            mask,
            valid=torch.rand(size, horizon, generator=generator) < 0.7,
            norm=torch.rand(size, 128, generator=generator),
            store=torch.arange(size) % 2,
            index=torch.arange(first, first + size),
        )
        made.append((torch.randn(size, horizon, 128, generator=generator), batch))
        first += size
    return made


def measured(made) -> SampleErrors:
    return SampleErrors.joined([sample_errors(p, batch, number) for number, (p, batch) in enumerate(made)])


def part(batch: Batch, rows) -> Batch:
    changed = {
        f.name: value[rows]
        for f in dataclasses.fields(batch)
        if isinstance(value := getattr(batch, f.name), torch.Tensor)
    }
    return dataclasses.replace(batch, **changed)


def test_a_perfect_prediction_has_no_error():
    (_, batch), *_ = random_batches(0)
    figures = sampling_figures(sample_errors(batch.actions, batch), ["a", "b"])
    assert set(figures.values()) == {0.0}


def test_masked_slots_do_not_count():
    truth = torch.zeros(2, 3, 128)
    predicted = torch.full((2, 3, 128), 99.0)
    predicted[:, :, :2] = 2.0
    batch = make_batch(truth, torch.stack([live("arm_joint_0_pos", "arm_joint_1_pos"), live("arm_joint_0_pos")]))
    assert sampling_figures(sample_errors(predicted, batch), ["a"])["overall_avg_sample_mse"] == 4.0


def test_the_published_figures_by_hand():
    """Two samples with one and two live slots: the batch weighs slots, the dataset weighs samples."""
    truth, predicted = torch.zeros(2, 1, 128), torch.zeros(2, 1, 128)
    predicted[0, 0, 0], predicted[1, 0, :2] = 3.0, 1.0
    mask = torch.stack([live("arm_joint_0_pos"), live("arm_joint_0_pos", "arm_joint_1_pos")])
    norm = torch.full((2, 128), 0.999)
    figures = sampling_figures(sample_errors(predicted, make_batch(truth, mask, norm=norm)), ["aloha"])
    assert figures["overall_avg_sample_mse"] == pytest.approx((9 + 1 + 1) / 3)
    assert figures["aloha_sample_mse"] == pytest.approx((9 / 1 + 2 / 2) / 2)
    assert figures["overall_avg_sample_l2err"] == pytest.approx((3 + 1 + 1) / 3)
    assert figures["aloha_sample_l2err"] == pytest.approx((3 / 1 + 2 / 2) / 2)


def test_the_error_is_relative_to_the_size_of_the_state():
    batch = make_batch(torch.zeros(1, 1, 128), live("right_eef_pos_x")[None], norm=torch.full((1, 128), 0.009))
    figures = sampling_figures(sample_errors(torch.full((1, 1, 128), 0.02), batch), ["a"])
    assert figures["overall_avg_sample_l2err"] == pytest.approx(0.02 / 0.01, rel=1e-5)
    assert figures["sample_l2err/right_eef_pos"] == figures["overall_avg_sample_l2err"]


def test_batches_weigh_the_same_overall():
    mask = live("arm_joint_0_pos")[None]
    batches = [make_batch(torch.zeros(n, 1, 128), mask.expand(n, 128), index=torch.arange(n)) for n in (1, 3)]
    predicted = [torch.full((1, 1, 128), 1.0), torch.full((3, 1, 128), 2.0)]
    figures = sampling_figures(measured(zip(predicted, batches, strict=True)), ["a"])
    assert figures["overall_avg_sample_mse"] == (1 + 4) / 2
    assert figures["a_sample_mse"] == figures["valid_sample_mse"] == (1 + 3 * 4) / 4


def test_padding_counts_as_published_and_is_left_out_beside_it():
    truth, predicted = torch.zeros(1, 4, 128), torch.zeros(1, 4, 128)
    predicted[0, 3, 0] = 4.0  # off where the recording had ended
    batch = make_batch(truth, live("arm_joint_0_pos")[None], valid=torch.tensor([[True, True, True, False]]))
    figures = sampling_figures(sample_errors(predicted, batch), ["a"])
    assert figures["overall_avg_sample_mse"] == figures["a_sample_mse"] == 16 / 4
    assert figures["valid_sample_mse"] == figures["sample_mse/right_arm_joint_pos"] == 0
    whole = dataclasses.replace(batch, action_valid=torch.ones(1, 4, dtype=torch.bool))
    figures = sampling_figures(sample_errors(predicted, whole), ["a"])
    assert figures["valid_sample_mse"] == figures["overall_avg_sample_mse"]


def test_a_chunk_of_nothing_but_padding_has_only_the_published_figures():
    batch = make_batch(torch.zeros(1, 2, 128), live("base_vel_x")[None], valid=torch.zeros(1, 2, dtype=torch.bool))
    errors = sample_errors(torch.ones(1, 2, 128), batch)
    assert set(sampling_figures(errors, ["a"])) == {
        f"{name}_sample_{kind}" for name in ("overall_avg", "a") for kind in ("mse", "l2err")
    }
    assert joint_figures(errors, Embodiment.from_yaml(find_config("robots", "sim_bimanual"))) == {}


def test_groups_are_the_slots_that_have_a_meaning():
    slots = [slot for block in SLOT_GROUPS.values() for slot in block]
    assert sorted(slots) == [i for i, unit in enumerate(SLOT_UNITS) if unit != "reserved"]
    mask = live("left_gripper_open", "base_angular_vel")[None]
    predicted = torch.zeros(1, 1, 128)
    predicted[..., slot_index("left_gripper_open")], predicted[..., slot_index("base_angular_vel")] = 0.5, 2.0
    figures = sampling_figures(sample_errors(predicted, make_batch(torch.zeros(1, 1, 128), mask)), ["a"])
    assert {name: value for name, value in figures.items() if name.startswith("sample_mse/")} == {
        "sample_mse/left_gripper_pos": 0.25,
        "sample_mse/base_angvel": 4.0,
    }


def test_a_dataset_without_a_sample_is_left_out():
    figures = sampling_figures(measured(random_batches(0)), ["a", "b", "empty"])
    assert "b_sample_mse" in figures and "empty_sample_mse" not in figures


def test_joints_are_in_the_robots_own_units():
    robot = Embodiment.from_dict(
        {
            "name": "arm",
            "rate_hz": 10.0,
            "arms": {
                "right": {
                    "driver": "fake",
                    "joints": [{"name": "waist", "slot": "arm_joint_0_pos", "unit": "deg", "sign": -1}],
                    "gripper": {"slot": "gripper_open", "action_range": [0, 0.08]},
                }
            },
        }
    )
    truth, mask = robot.to_unified(np.array([[[30.0, 0.08]]]), "action")
    predicted, _ = robot.to_unified(np.array([[[32.0, 0.06]]]), "action")
    batch = make_batch(torch.from_numpy(truth), torch.tensor(mask).float()[None])
    figures = joint_figures(sample_errors(torch.from_numpy(predicted), batch), robot)
    assert figures == {
        "joint_error/right_waist": pytest.approx(2.0, rel=1e-5),
        "joint_error/right_gripper": pytest.approx(0.02, rel=1e-5),
    }


@pytest.mark.parametrize("world_size", [2, 3])
def test_any_number_of_ranks_gives_the_same_bits(world_size):
    made = random_batches(1)
    whole = measured(made)
    ranks = [
        measured(
            [(predicted[rank::world_size], part(batch, slice(rank, None, world_size))) for predicted, batch in made]
        )
        for rank in range(world_size)
    ]
    joined = SampleErrors.joined(ranks[::-1])
    assert sampling_figures(joined, ["a", "b"]) == sampling_figures(whole, ["a", "b"])


def test_processes_measure_for_each_other(tmp_path):
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    ranks = [context.Process(target=_measure_rank, args=(rank, tmp_path / "meeting", answers)) for rank in range(2)]
    for process in ranks:
        process.start()
    figures = [answers.get(timeout=120) for _ in ranks]
    for process in ranks:
        process.join()
    assert figures == [sampling_figures(measured(random_batches(1)), ["a", "b"])] * 2


def _measure_rank(rank: int, meeting: Path, answers) -> None:
    dist.init_process_group("gloo", init_method=meeting.as_uri(), rank=rank, world_size=2)
    own = [(predicted[rank::2], part(batch, slice(rank, None, 2))) for predicted, batch in random_batches(1)]
    answers.put(sampling_figures(gathered(measured(own)), ["a", "b"]))
    dist.destroy_process_group()


def test_a_model_is_measured_on_held_out_batches(store, robot, make_model):
    model = make_model().eval()
    stream = SampleStream([store], seed=0, horizon=model.horizon, image_history=1)
    plain, full = (BatchLoader(stream, model.condition, 8, with_state_norm=full) for full in (False, True))
    errors = measure(model, [full(0), full(1)], SampleGenerator(0))
    again = measure(model, [full(0), full(1)], SampleGenerator(0))
    figures = sampling_figures(errors, [store.path.name]) | joint_figures(errors, robot)
    assert figures == sampling_figures(again, [store.path.name]) | joint_figures(again, robot)
    assert all(math.isfinite(value) and value > 0 for value in figures.values())
    assert len([name for name in figures if name.startswith("joint_error/")]) == robot.num_native
    with pytest.raises(ValueError, match="with_state_norm=True"):
        measure(model, [plain(0)], SampleGenerator(0))
    for loader in (plain, full):
        loader.close()
