"""pytest tests/rdt/alignment/test_sequence_objectives.py"""

import copy

import pytest
import torch

from rdt.alignment.losses import cca
from rdt.alignment.sequence_model import SequenceConfig, SequenceModel, response_logp
from rdt.alignment.sequence_objectives import (
    Contrasted,
    Rated,
    Said,
    SequenceCCA,
    SequencePreference,
    candidate_log_ratios,
    fit,
    likelihood,
    log_ratios,
)

CONFIG = SequenceConfig(num_outputs=4, num_prompts=3, max_tokens=4, width=16, num_heads=2, num_blocks=1)
PROMPTS = torch.tensor([[4], [5], [4], [6]])
RESPONSES = torch.tensor([[0, 1, 2], [3, 3, 0], [1, 1, 1], [2, 0, 3]])
RATED = Rated(
    PROMPTS, torch.stack([RESPONSES, RESPONSES.flip(0), (RESPONSES + 1) % 4], dim=1), torch.rand(4, 3).sort(dim=1)[0]
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_model(seed):
    torch.manual_seed(seed)
    network = SequenceModel(CONFIG).double()
    torch.nn.init.normal_(network.head.weight)
    return network


MODEL, REFERENCE = random_model(0), random_model(1)


def test_a_model_has_no_ratio_to_itself():
    assert log_ratios(MODEL, MODEL, PROMPTS, RESPONSES).abs().max() == 0


def test_ratios_are_differences_of_log_probabilities():
    expected = response_logp(MODEL, PROMPTS, RESPONSES) - response_logp(REFERENCE, PROMPTS, RESPONSES)
    torch.testing.assert_close(log_ratios(MODEL, REFERENCE, PROMPTS, RESPONSES), expected)
    candidates = candidate_log_ratios(MODEL, REFERENCE, RATED)
    torch.testing.assert_close(candidates[:, 0], expected)
    torch.testing.assert_close(
        candidates[:, 2], log_ratios(MODEL, REFERENCE, PROMPTS, RATED.responses[:, 2]), atol=1e-12, rtol=0
    )


def test_no_gradient_reaches_the_reference():
    reference = random_model(1)
    loss, _ = SequencePreference(reference)(MODEL, RATED, generator())
    loss.backward()
    assert all(weight.grad is None for weight in reference.parameters())
    assert all(weight.grad is not None for weight in MODEL.parameters())


@pytest.mark.parametrize("kind", ["CCA", "unlearning"])
def test_cca_is_its_pure_loss_of_both_halves(kind):
    batch = Contrasted(PROMPTS, PROMPTS.roll(-1, 0), RESPONSES, torch.tensor([False, True, False, False]))
    positive, negative = (log_ratios(MODEL, REFERENCE, c, RESPONSES) for c in (batch.positive, batch.negative))
    loss, _ = SequenceCCA(REFERENCE, 0.5, 2.0, kind)(MODEL, batch, generator())
    torch.testing.assert_close(loss, cca(positive, negative, 0.5, 2.0, batch.same, kind))


def test_dpo_reads_the_best_and_the_worst_only():
    objective = SequencePreference(REFERENCE, 0.1, kind="DPO")
    loss, _ = objective(MODEL, RATED, generator())
    middle = RATED.responses.clone()
    middle[:, 1] = 0  # rewards rise from the first candidate to the third
    torch.testing.assert_close(objective(MODEL, RATED._replace(responses=middle), generator())[0], loss)


def test_infonca_of_two_without_temperature_is_dpo():
    pairs = Rated(PROMPTS, RATED.responses[:, [2, 0]], RATED.rewards[:, [2, 0]].double())
    found = []
    for objective in (
        SequencePreference(REFERENCE, 0.1, 1e-6, "InfoNCA"),
        SequencePreference(REFERENCE, 0.1, kind="DPO"),
    ):
        loss, _ = objective(MODEL, pairs, generator())
        found.append((loss, *torch.autograd.grad(loss, list(MODEL.parameters()))))
    for ours, dpo in zip(*found, strict=True):
        torch.testing.assert_close(ours, dpo, rtol=1e-6, atol=1e-12)


def test_fit_learns_what_is_said():
    model = SequenceModel(CONFIG)
    seen = []
    fit(
        model,
        likelihood,
        lambda g: Said(PROMPTS[1:], RESPONSES[1:]),
        60,
        1e-2,
        generator(),
        watch=lambda _, step: seen.append(step),
    )
    assert seen == list(range(61))
    assert response_logp(model, PROMPTS[1:], RESPONSES[1:]).exp().min() > 0.8


def test_cca_moves_a_model_towards_its_conditions():
    """The reference says 0 or 1 after both classes alike, the data say the class."""
    torch.manual_seed(0)
    config = SequenceConfig(num_outputs=2, num_prompts=2, max_tokens=2, width=8, num_heads=1, num_blocks=1)
    reference = SequenceModel(config)
    classes = torch.arange(64) % 2
    data = classes.where(torch.rand(64, generator=generator()) < 0.75, 1 - classes)[:, None]
    batch = Contrasted((2 + classes)[:, None], (3 - classes)[:, None], data)
    model = fit(copy.deepcopy(reference), SequenceCCA(reference, 1.0, 1.0), lambda g: batch, 200, 2e-2, generator())
    right = response_logp(model, torch.tensor([[2], [3]]), torch.tensor([[0], [1]])).exp()
    assert right.min() > 0.7
