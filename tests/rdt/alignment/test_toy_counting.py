"""pytest tests/rdt/alignment/test_toy_counting.py"""

import pytest
import torch

from rdt.alignment.sequence_model import SequenceConfig, SequenceModel, response_logp
from rdt.alignment.toy_counting import (
    NUM_PROMPTS,
    NUM_TOKENS,
    RING,
    Counting,
    answers,
    every_logp,
    questions,
    reward,
    right_answers,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_truth_sums_to_one():
    known = answers()
    assert known.shape == (3125, 5)
    for question in questions():
        logp = Counting().logp(question.expand(len(known), -1), known)
        assert logp.exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_samples_follow_the_truth():
    truth, n = Counting(slip=0.5), 100_000
    prompts = torch.tensor([[5 + 3, 10 + 4]])
    drawn = truth.sample(prompts.expand(n, -1), generator())
    number = drawn @ (RING ** torch.arange(NUM_TOKENS - 1, -1, -1))
    share = torch.bincount(number, minlength=3125) / n
    chance = truth.logp(prompts.expand(3125, -1), answers()).exp()
    assert 0.5 * (share - chance).abs().sum() < 1.2 * (2 * chance / (torch.pi * n)).sqrt().sum() / 2


def test_the_right_answer_counts_and_is_worth_one():
    prompts = torch.tensor([[5 + 3, 10 + 4], [5, 10]])  # from 3 by 4; from 0 by 0
    assert right_answers(prompts).tolist() == [[2, 1, 0, 4, 3], [0, 0, 0, 0, 0]]
    assert reward(prompts, right_answers(prompts)).tolist() == [1, 1]
    candidates = torch.tensor([[[2, 1, 0, 0, 0], [0] * 5], [[1] * 5, [0, 0, 0, 0, 1]]])
    torch.testing.assert_close(reward(prompts, candidates), torch.tensor([[0.6, 0.2], [0.0, 0.8]]))


def test_the_right_answer_is_the_likeliest():
    for prompt in questions():
        logp = Counting().logp(prompt.expand(3125, -1), answers())
        assert torch.equal(answers()[logp.argmax()], right_answers(prompt[None])[0])


def test_every_answer_of_a_network():
    config = SequenceConfig(num_outputs=RING, num_prompts=NUM_PROMPTS, max_tokens=7, width=8, num_heads=1)
    model = SequenceModel(config)
    torch.nn.init.normal_(model.head.weight)
    logp = every_logp(model)
    assert logp.shape == (25, 3125)
    torch.testing.assert_close(logp.exp().sum(dim=1), torch.ones(25))
    slow = response_logp(model, questions()[17].expand(3125, -1), answers())
    torch.testing.assert_close(logp[17], slow.detach(), atol=1e-4, rtol=0)
