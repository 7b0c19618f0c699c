"""pytest tests/rdt/alignment/test_toy_glyphs.py"""

import pytest
import torch

from rdt.alignment.toy_glyphs import NUM_CLASSES, NUM_TOKENS, SIDE, TEMPLATES, VOCABULARY, Glyphs, to_pixels, to_tokens

CLASSES = torch.arange(20_000) % NUM_CLASSES


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_tokens_and_pixels_round_trip():
    pixels = torch.rand(50, SIDE * SIDE, generator=generator()) < 0.5
    tokens = to_tokens(pixels)
    assert tokens.shape == (50, NUM_TOKENS) and tokens.max() < VOCABULARY
    assert torch.equal(to_pixels(tokens), pixels)


def test_a_token_is_a_patch():
    pixels = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    pixels[0, 2, 5] = True  # second row of patches, third of the row, its upper right pixel
    tokens = to_tokens(pixels.flatten(1))
    assert tokens[0, 4 + 2] == 4 and tokens.sum() == 4


def test_digits_are_all_different_and_stand_at_24_places():
    flat = TEMPLATES.flatten(0, 1)
    assert TEMPLATES.shape == (10, 24, 64)
    assert len(flat.unique(dim=0)) == 240


def test_the_truth_sums_to_one():
    """Each of its 240 parts does, over how many pixels differ."""
    truth = Glyphs(flip=0.2)
    counts = torch.arange(65, dtype=torch.float64)  # pictures that differ from a template in d of 64 pixels
    ways = (torch.lgamma(torch.tensor(65.0)) - torch.lgamma(counts + 1) - torch.lgamma(65 - counts)).exp()
    template = TEMPLATES[3, 7]
    logp = torch.stack(
        [truth.log_parts(to_tokens((template ^ (torch.arange(64) < d))[None]))[0, 3, 7].double() for d in range(65)]
    )
    assert (ways * logp.exp()).sum().item() == pytest.approx(1 / 24, rel=1e-4)


def test_pictures_are_as_likely_as_the_truth_says():
    """E under class a of p(x | b) / p(x | a) is one, for any b."""
    truth = Glyphs(flip=0.3)  # much noise, so that the ratio has little variance
    logp = truth.logp(truth.sample(torch.full((100_000,), 8), generator()))
    ratio = (logp - logp[:, 8:9]).exp().mean(dim=0)
    torch.testing.assert_close(ratio, torch.ones(10), atol=0.1, rtol=0)


def test_the_posterior_is_calibrated():
    truth = Glyphs()
    posterior = truth.posterior(truth.sample(CLASSES, generator()))
    torch.testing.assert_close(posterior.sum(dim=1), torch.ones(len(CLASSES)))
    sure, guess = posterior.max(dim=1)
    right = (guess == CLASSES).float()
    assert right.mean().item() == pytest.approx(sure.mean().item(), abs=0.01)
    open_ = sure < 0.7
    assert right[open_].mean().item() == pytest.approx(sure[open_].mean().item(), abs=0.03)


def test_places_are_found():
    truth = Glyphs(flip=1e-3)
    classes = torch.tensor([4, 7])
    tokens = to_tokens(TEMPLATES[classes, torch.tensor([5, 23])])
    assert truth.places(tokens, classes).argmax(dim=1).tolist() == [5, 23]
