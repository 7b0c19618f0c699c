"""Run: pytest tests/rdt/alignment/test_chunks.py"""

import copy
import dataclasses

import pytest
import torch

from rdt.alignment.chunks import (
    TIMES,
    ClimbingStudent,
    CriticEnergy,
    CriticPolicy,
    ImitatingStudent,
    OutcomePolicy,
    RDTBehavior,
    WordsPolicy,
    another_task,
    candidates,
    compared,
    log_success,
    mean_chunk,
    seen,
)
from rdt.alignment.features import pooled_features
from rdt.alignment.heads import ChunkCritic, ChunkEnergy, ChunkStudent
from rdt.alignment.log_ratio import denoising_error
from rdt.alignment.models import BehaviorModel
from rdt.batch import TransitionBatch
from rdt.diffusion.continuous import draw_times, noised
from rdt.random import SampleGenerator
from tests.rdt.alignment.parts import SLOTS, condition_of, make_batch, make_head, make_policy, noise_of


@pytest.fixture
def model():
    return make_policy()


@pytest.fixture
def batch(model):
    return make_batch(model)


@pytest.fixture
def critic(model, batch):
    width = pooled_features(condition_of(model, batch)).shape[1]
    return make_head(ChunkCritic, width, num_actions=3).requires_grad_(False)


def trained(head_or_model, objective, batch, steps=30, lr=3e-3):
    """Losses and last metrics of a few steps on one batch."""
    optimizer = torch.optim.Adam(
        [parameter for parameter in head_or_model.parameters() if parameter.requires_grad], lr=lr
    )
    losses = []
    for _ in range(steps):
        loss, metrics = objective(head_or_model, batch, SampleGenerator(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, metrics


def trainable(model):
    copied = copy.deepcopy(model)
    copied.policy.requires_grad_(True)
    return copied


def test_rdt_is_a_behaviour_model_whose_eps_is_that_of_its_clean_chunk(model, batch):
    behaviour = RDTBehavior(model.policy, model.policy.encode_condition(**vars(condition_of(model, batch))))
    assert isinstance(behaviour, BehaviorModel)
    now = seen(model, batch)
    t, noise = torch.tensor([0.1, 0.4, 0.6, 0.9]), noise_of(4)
    a_t = noised(behaviour.schedule, now.chunk, t, noise)
    eps = behaviour.eps(a_t, t)
    clean = behaviour.clean(a_t, t) * now.mask
    rebuilt = noised(behaviour.schedule, clean, t, eps)
    torch.testing.assert_close(rebuilt, a_t, atol=1e-5, rtol=1e-5)
    assert eps.abs().sum() == eps[..., list(SLOTS)].abs().sum()


def test_several_chunks_of_a_row_are_asked_as_they_would_be_alone(model, batch):
    behaviour = RDTBehavior(model.policy, model.policy.encode_condition(**vars(condition_of(model, batch))))
    a_t, t = noise_of(12).unflatten(0, (4, 3)), torch.tensor([0.1, 0.4, 0.6, 0.9])
    together = behaviour.eps(a_t, t)
    alone = torch.stack([behaviour.eps(a_t[:, k], t) for k in range(3)], dim=1)
    torch.testing.assert_close(together, alone)


def test_a_policy_that_is_its_reference_has_no_ratio(model, batch):
    now, draw = seen(model, batch), torch.Generator().manual_seed(0)
    found = compared(model, model, now, now.chunk, draw, 2)
    assert found.ratio.abs().max() == found.shift.abs().max() == 0


def test_the_ratio_is_the_denoising_error_ratio_of_clean_chunks(model, batch):
    now, other = seen(model, batch), trainable(model)
    with torch.no_grad():
        other.policy.model.final_layer.ffn_final.fc2.weight.mul_(2)
    ours, theirs = (RDTBehavior(m.policy, m.policy.encode_condition(**vars(now.condition))) for m in (other, model))
    chunks = candidates(model, now.condition, 3, torch.Generator().manual_seed(0))
    found = compared(other, model, now, chunks, torch.Generator().manual_seed(1), 2).ratio
    draw = torch.Generator().manual_seed(1)
    times = [draw_times((4,), draw, *TIMES, stratified=True) for _ in range(2)]
    noises = [model.place_noise(torch.randn(4, 1, *chunks.shape[2:], generator=draw), now.mask[:, None]) for _ in times]
    g = denoising_error(
        ours, theirs, chunks, None, times, noises, weight=ours.error_weight, mask=ours.mask(chunks), event_ndim=2
    )
    torch.testing.assert_close(found / found.abs().max(), g.detach() / g.abs().max(), atol=1e-4, rtol=1e-4)


def test_the_ratio_is_in_units_of_the_references_own_error(model, batch):
    """Far from the reference it falls below -1; the other way round it stays within the reference's whole error."""
    now = seen(model, batch)
    opposite = trainable(model)
    with torch.no_grad():
        opposite.policy.model.final_layer.ffn_final.fc2.weight.mul_(30)
    near = compared(model, model, now, now.chunk, torch.Generator().manual_seed(0), 1).ratio
    far = compared(opposite, model, now, now.chunk, torch.Generator().manual_seed(0), 1).ratio
    turned = compared(model, opposite, now, now.chunk, torch.Generator().manual_seed(0), 1).ratio
    assert near.abs().max() == 0 and (far < -1).all()
    assert ((turned > 0) & (turned <= 1.5 * len(turned))).all()  # no better than perfect, in units of a mean


def test_critics_of_chunks_see_each_candidate_with_its_own_observation(model, batch, critic):
    now = seen(model, batch)
    chunks = candidates(model, now.condition, 3, torch.Generator().manual_seed(0))
    together = log_success(critic, now.features, chunks)
    alone = torch.stack([log_success(critic, now.features, chunks[:, k]) for k in range(3)], dim=1)
    torch.testing.assert_close(together, alone)
    assert (together < 0).all()


def test_an_energy_learns_to_rank_as_the_critic(model, batch, critic):
    width = critic.config.num_features
    energy = make_head(ChunkEnergy, width)
    losses, metrics = trained(energy, CriticEnergy(model, critic, temperature=0.05, num_candidates=4), batch)
    assert losses[-1] < losses[0]
    assert metrics["best_first"] >= 0.5


def test_a_policy_moves_towards_what_the_critic_likes(model, batch, critic):
    policy = trainable(model)
    objective = CriticPolicy(model, critic, temperature=0.001, num_candidates=4, hold=0.0)
    losses, _ = trained(policy, objective, batch, lr=1e-3)
    assert losses[-1] < losses[0]


def test_a_policy_that_is_held_shifts_less(model, batch, critic):
    shifts = []
    for hold in (0.0, 10.0):
        objective = CriticPolicy(model, critic, temperature=0.001, num_candidates=4, hold=hold)
        _, metrics = trained(trainable(model), objective, batch, lr=1e-3)
        shifts.append(float(metrics["shift"]))
    assert 0 < shifts[1] < 0.5 * shifts[0]


def test_successes_gain_and_failures_lose(model, batch):
    policy = trainable(model)
    batch = dataclasses.replace(batch, label=torch.tensor([2.0, 2.0, 0.0, 0.0]))
    losses, metrics = trained(policy, OutcomePolicy(model), batch, steps=60, lr=1e-3)
    assert losses[-1] < losses[0]
    assert metrics["ratio_of_success"] > 0 > metrics["ratio_of_failure"]


def test_chunks_of_which_the_data_say_nothing_are_held_where_they_are(model, batch):
    policy = trainable(model)
    batch = dataclasses.replace(batch, label=torch.ones(4))
    loss, _ = OutcomePolicy(model)(policy, batch, SampleGenerator(0))
    loss.backward()
    gradients = [p.grad.abs().max() for p in policy.parameters() if p.requires_grad and p.grad is not None]
    assert max(gradients) < 1e-6


def test_a_batch_of_failures_alone_is_no_division_by_zero(model, batch):
    batch = dataclasses.replace(batch, label=torch.zeros(4))
    loss, _ = OutcomePolicy(model)(trainable(model), batch, SampleGenerator(0))
    assert torch.isfinite(loss)


def test_own_words_gain_over_those_of_another_task(model, batch):
    policy = trainable(model)
    losses, metrics = trained(policy, WordsPolicy(model), batch, steps=60, lr=1e-3)
    assert losses[-1] < losses[0]
    assert metrics["ratio_of_own_words"] > metrics["ratio_of_others"]


def test_rows_of_one_task_are_no_negatives_of_each_other():
    task = torch.tensor([0.0, 0.0, 1.0, 0.0])
    rows, found = another_task(task, torch.Generator().manual_seed(0))
    assert found.all() and (task[rows] != task).all()
    _, found = another_task(torch.zeros(3), torch.Generator().manual_seed(0))
    assert not found.any()


def test_without_another_task_in_the_batch_there_is_no_negative(model, batch):
    batch = dataclasses.replace(batch, label=torch.zeros(4))
    loss, metrics = WordsPolicy(model)(trainable(model), batch, SampleGenerator(0))
    assert torch.isfinite(loss) and metrics["with_negative"] == 0


def test_a_student_imitates_and_then_climbs(model, batch, critic):
    student = make_head(ChunkStudent, critic.config.num_features)
    now = seen(model, batch)
    chunk = mean_chunk(model, now.condition, 2, torch.Generator().manual_seed(0))
    shown = TransitionBatch(now.features, chunk, torch.zeros(len(chunk)), batch.sample_index)
    losses, _ = trained(student, ImitatingStudent(), shown, steps=60)
    assert losses[-1] < 0.5 * losses[0]

    def hope():
        with torch.no_grad():
            return log_success(critic, now.features, student.act(now.features, 128)).mean()

    before = hope()
    trained(student, ClimbingStudent(model, critic, beta=50.0), batch)
    assert hope() > before
