"""pytest tests/rdt/alignment/test_sequence_model.py"""

import pytest
import torch

from rdt.alignment.sequence_model import Cache, FreeGuidance, SequenceConfig, SequenceModel, response_logp

CONFIG = SequenceConfig(num_outputs=4, num_prompts=3, max_tokens=7, width=16, num_heads=2)
PROMPTS = torch.tensor([[4, 6], [5, 6], [6, 4]])
NULL = torch.tensor([6, 6])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model():
    torch.manual_seed(0)
    network = SequenceModel(CONFIG).double()
    for weight in network.parameters():  # a fresh network says all tokens alike
        torch.nn.init.normal_(weight, std=0.5)
    return network


def test_a_fresh_network_says_all_tokens_alike():
    logp = response_logp(SequenceModel(CONFIG), PROMPTS, torch.zeros(3, 5, dtype=torch.long))
    torch.testing.assert_close(logp, torch.full((3,), -5 * torch.tensor(4.0).log().item()))


def test_probabilities_of_all_responses_sum_to_one(model):
    responses = torch.cartesian_prod(*[torch.arange(4)] * 3)
    for policy in (model, FreeGuidance(model, NULL, 2.5)):
        logp = response_logp(policy, PROMPTS[:1].expand(len(responses), -1), responses)
        assert logp.exp().sum().item() == pytest.approx(1)


def test_no_token_sees_a_later_one(model):
    tokens = torch.randint(4, (2, 7), generator=generator())
    changed = tokens.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % 4
    torch.testing.assert_close(model(tokens)[:, :4], model(changed)[:, :4])
    assert not torch.allclose(model(tokens)[:, 4:], model(changed)[:, 4:])


@pytest.mark.parametrize("parts", [[2, 1, 1, 1, 1, 1], [2, 3, 2], [7]])
def test_reading_in_parts_equals_reading_at_once(model, parts):
    tokens = torch.randint(7, (3, 7), generator=generator())
    cache = Cache(CONFIG, 3, model.head.weight)
    read = torch.cat([model(part, cache) for part in tokens.split(parts, dim=1)], dim=1)
    torch.testing.assert_close(read, model(tokens))


def slow_sample(policy, prompts, num_tokens, generator):
    """A full pass over everything said so far, for every token."""
    said = torch.zeros(len(prompts), 0, dtype=torch.long)
    for _ in range(num_tokens):
        padded = torch.cat([said, torch.zeros_like(prompts[:, :1])], dim=1)
        token = torch.multinomial(policy.logits(prompts, padded)[:, -1].softmax(-1), 1, generator=generator)
        said = torch.cat([said, token], dim=1)
    return said


@pytest.mark.parametrize("scale", [None, 1.0, 3.0])
def test_incremental_sampling_equals_full_passes(model, scale):
    policy = model if scale is None else FreeGuidance(model, NULL, scale)
    prompts = PROMPTS.repeat(50, 1)
    assert torch.equal(policy.sample(prompts, 5, generator()), slow_sample(policy, prompts, 5, generator()))


def test_guidance_of_scale_one_is_none(model):
    plain, guided = model, FreeGuidance(model, NULL, 1.0)
    responses = torch.randint(4, (3, 5), generator=generator())
    torch.testing.assert_close(response_logp(guided, PROMPTS, responses), response_logp(plain, PROMPTS, responses))
    assert torch.equal(guided.sample(PROMPTS, 5, generator()), plain.sample(PROMPTS, 5, generator()))
    assert (plain.passes, guided.passes) == (1, 2)


def test_guidance_of_the_null_prompt_changes_nothing(model):
    responses = torch.randint(4, (3, 5), generator=generator())
    prompts = NULL.expand(3, -1)
    guided = response_logp(FreeGuidance(model, NULL, 4.0), prompts, responses)
    torch.testing.assert_close(guided, response_logp(model, prompts, responses))


def test_samples_follow_the_probabilities(model):
    n, responses = 40_000, torch.cartesian_prod(torch.arange(4), torch.arange(4))
    chance = response_logp(model, PROMPTS[:1].expand(16, -1), responses).exp().detach()
    drawn = model.sample(PROMPTS[:1].expand(n, -1), 2, generator())
    share = torch.bincount(4 * drawn[:, 0] + drawn[:, 1], minlength=16) / n
    torch.testing.assert_close(share.double(), chance, atol=5 * 0.5 / n**0.5, rtol=0)
