"""Run: pytest tests/rdt/encoders/test_t5.py"""

import copy
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

from rdt.encoders.condition import ConditionConfig
from rdt.encoders.t5 import CachedT5, embed_sentences
from tests.published import SENTENCES, T5_WIDTH, make_t5


@pytest.fixture
def config(t5, tmp_path) -> ConditionConfig:
    """T5 in a folder of the test's own, and an empty cache."""
    folder = shutil.copytree(t5, tmp_path / "t5")
    return ConditionConfig(text="t5", text_path=str(folder), text_cache=str(tmp_path / "cache"))


def make(config: ConditionConfig, **sizes) -> CachedT5:
    return CachedT5.from_config(config, **{"token_dim": T5_WIDTH, "max_tokens": 64, **sizes})


def by_transformers(folder, sentence: str) -> torch.Tensor:
    from transformers import AutoTokenizer, T5EncoderModel

    ids = AutoTokenizer.from_pretrained(folder)(sentence, return_tensors="pt").input_ids
    network = T5EncoderModel.from_pretrained(folder, torch_dtype=torch.bfloat16).eval()
    with torch.no_grad():  # with a graph, torch picks another attention kernel, which rounds otherwise
        return network(input_ids=ids).last_hidden_state[0]


@pytest.mark.parametrize("tokenizer", ["spiece.model", "tokenizer.json"])
def test_embeddings_are_the_last_hidden_states_of_transformers(tmp_path, tokenizer):
    folder = make_t5(tmp_path / "t5", tokenizer=tokenizer)
    config = ConditionConfig(text="t5", text_path=str(folder), text_cache=str(tmp_path / "cache"))
    embeddings = embed_sentences([*SENTENCES, "", SENTENCES[0]], config)
    assert list(embeddings) == [*SENTENCES, ""]
    for sentence, embedding in embeddings.items():
        expected = by_transformers(folder, sentence)
        assert embedding.dtype == torch.bfloat16
        # of one length and so of one batch, where a product may be rounded in another order
        assert (embedding - expected).norm() < 0.02 * expected.norm()
        alone = dataclasses.replace(config, text_cache=str(tmp_path / f"alone {len(sentence)}"))
        assert torch.equal(embed_sentences([sentence], alone)[sentence], expected)
    assert embeddings[""].shape == (1, T5_WIDTH)  # the end token alone


def test_the_second_call_needs_no_model(config):
    first = embed_sentences(SENTENCES, config)
    shutil.rmtree(config.text_path)
    second = embed_sentences(SENTENCES, config)
    assert all(torch.equal(first[s], second[s]) for s in SENTENCES)


def test_other_weights_miss_the_cache(config, tmp_path):
    first = embed_sentences(["pick up the cup"], config)
    shutil.rmtree(config.text_path)
    make_t5(tmp_path / "t5", seed=1)
    second = embed_sentences(["pick up the cup"], config)
    assert not torch.equal(first["pick up the cup"], second["pick up the cup"])


def test_a_killed_writer_leaves_whole_files_and_the_next_goes_on(config):
    code = f"""
        import os, signal
        import rdt.encoders.t5 as t5
        from rdt.encoders.condition import ConditionConfig
        from rdt.encoders.text_cache import TextCache
        put, done = TextCache.put, []
        def put_two(self, sentence, embedding):
            if len(done) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            put(self, sentence, embedding)
            done.append(sentence)
        TextCache.put = put_two
        t5.embed_sentences({SENTENCES!r}, {config!r})
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env={**os.environ, "PYTHONPATH": "."})
    assert killed.returncode == -signal.SIGKILL
    assert set(embed_sentences(SENTENCES, config)) == set(SENTENCES)


def test_sentences_are_padded_to_the_longest_or_as_asked(config):
    encoder = make(config)
    short, long = "", SENTENCES[0]
    features, mask = encoder.tokenize([short, long])
    length = len(encoder.embeddings[long])
    assert features.shape == (2, length, T5_WIDTH)
    assert mask.sum(1).tolist() == [1, length]
    assert (features[~mask] == 0).all()
    assert torch.equal(encoder(features, mask)[1], encoder.embeddings[long])
    padded, padded_mask = encoder.tokenize([short, long], pad_to=48)
    assert padded.shape == (2, 48, T5_WIDTH)
    assert torch.equal(padded[:, :length], features)
    assert torch.equal(padded_mask[:, :length], mask)
    assert not padded_mask[:, length:].any()


@pytest.mark.parametrize("pad_to", [3, 65])
def test_padding_that_does_not_fit_is_refused(config, pad_to):
    with pytest.raises(ValueError, match=f"cannot be padded to {pad_to}: the network reads at most 64"):
        make(config).tokenize([SENTENCES[0]], pad_to=pad_to)


def test_a_sentence_that_is_too_long_is_an_error_that_names_the_limit(config):
    with pytest.raises(ValueError, match=r"'pick up the cup pick .*\.\.\.' has \d+ tokens, RDT reads at most 1024"):
        embed_sentences(["pick up the cup " * 200], config)
    with pytest.raises(ValueError, match="the network reads at most 4"):
        make(config, max_tokens=4).tokenize(["", SENTENCES[0]])


def test_an_unknown_sentence_without_t5_says_what_to_do(config):
    make(config).prepare(["pick up the cup"])
    shutil.rmtree(config.text_path)
    encoder = make(config)
    encoder.tokenize(["pick up the cup"])  # from the cache
    with pytest.raises(ValueError) as error:
        encoder.tokenize(["pick up the cup", "press it"])
    for part in ("'press it'", config.text_cache, "embed_sentences", "spiece.model", "condition.text_path"):
        assert part in str(error.value)


def test_what_a_checkpoint_carried_needs_neither_cache_nor_t5(config):
    encoder = make(config)
    encoder.prepare(SENTENCES)
    features, _ = encoder.tokenize(SENTENCES)
    shutil.rmtree(config.text_path)
    shutil.rmtree(config.text_cache)
    robot = make(config)
    robot.add(encoder.embeddings)
    assert torch.equal(robot.tokenize(SENTENCES)[0], features)


def test_a_copy_knows_the_same_sentences(config):
    encoder = make(config)
    average = copy.deepcopy(encoder)
    encoder.prepare(SENTENCES)
    assert average.embeddings is encoder.embeddings


def test_another_width_than_the_networks_is_refused(config):
    with pytest.raises(ValueError, match=r"width 32, the network reads 4096 \(lang_token_dim\)"):
        make(config, token_dim=4096)
    shutil.rmtree(config.text_path)
    with pytest.raises(ValueError, match="width 32, the network reads 16"):
        make(config, token_dim=16).add({"go": torch.zeros(2, 32)})


@pytest.mark.gpu
def test_on_a_gpu_the_same_within_bfloat16(config, tmp_path):
    on_gpu = embed_sentences(SENTENCES, config, device="cuda")
    shutil.rmtree(tmp_path / "cache")
    on_cpu = embed_sentences(SENTENCES, config, device="cpu")
    for sentence in SENTENCES:
        assert on_gpu[sentence].device.type == "cpu"
        torch.testing.assert_close(on_gpu[sentence], on_cpu[sentence], atol=0.05, rtol=0.05)
