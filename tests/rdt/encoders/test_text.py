"""Run: pytest tests/rdt/encoders/test_text.py"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rdt.encoders.text import HashedBigrams


@given(st.text(max_size=200))
def test_any_text_gives_tokens_and_a_mask_that_starts_true(text):
    encoder = HashedBigrams(token_dim=4, max_tokens=8)
    ids, mask = encoder.tokenize([text])
    assert ids.shape == mask.shape == (1, 8)
    assert mask[0, 0]  # attention needs at least one token, also for the empty sentence
    assert ((ids != 0) == mask).all()


def test_word_order_tells_the_directions_apart():
    encoder = HashedBigrams()
    ids, _ = encoder.tokenize(["from right to left", "from left to right"])
    assert set(ids[0].tolist()) != set(ids[1].tolist())


def test_case_and_punctuation_do_not_matter():
    encoder = HashedBigrams()
    ids, _ = encoder.tokenize(["Hand the cube over.", "hand the cube, over"])
    assert (ids[0] == ids[1]).all()


def test_ids_are_padded_to_the_limit_or_as_asked():
    encoder = HashedBigrams(token_dim=4, max_tokens=8)
    ids, mask = encoder.tokenize(["", "pick the cube"])
    fewer, fewer_mask = encoder.tokenize(["", "pick the cube"], pad_to=5)
    assert fewer.shape == (2, 5)
    assert torch.equal(fewer, ids[:, :5])
    assert torch.equal(fewer_mask, mask[:, :5])
    for pad_to in (3, 9):
        with pytest.raises(ValueError, match=f"of up to 4 tokens cannot be padded to {pad_to}"):
            encoder.tokenize(["pick the cube"], pad_to=pad_to)


def test_padding_has_no_embedding():
    encoder = HashedBigrams(token_dim=4, max_tokens=8)
    ids, mask = encoder.tokenize(["cube"])
    tokens = encoder(ids, mask)
    assert tokens.shape == (1, 8, 4)
    assert (tokens[~mask] == 0).all()
    assert not torch.equal(tokens[0, 0], tokens[0, 1])
