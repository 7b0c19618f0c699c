"""Run: pytest tests/rdt/encoders/test_text_cache.py"""

import json
import multiprocessing
from functools import partial

import pytest
import torch

from data_pipeline.atomic import is_temporary
from rdt.encoders.text_cache import TextCache, embeddings_bytes, read_embeddings, read_published

A, B = "a" * 16, "b" * 16


def embedding(seed: int = 0, length: int = 3) -> torch.Tensor:
    return torch.randn(length, 8, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)


@pytest.mark.parametrize("sentence", ["", "pick up the cup", "größer\n" * 500, "__metadata__", "../x/y"])
def test_what_is_put_is_got_by_any_later_cache(tmp_path, sentence):
    TextCache(tmp_path, "t5", A).put(sentence, embedding())
    assert torch.equal(TextCache(tmp_path, "t5", A).get(sentence), embedding())
    assert TextCache(tmp_path, "t5", A).get(sentence + ".") is None


def test_another_encoder_misses(tmp_path):
    TextCache(tmp_path, "t5", A).put("go", embedding())
    assert TextCache(tmp_path, "t5", B).get("go") is None
    assert TextCache(tmp_path, "t5-small", A).get("go") is None


def test_where_the_encoder_is_not_its_only_cache_is_meant(tmp_path):
    assert TextCache(tmp_path, "t5", None).get("go") is None
    TextCache(tmp_path, "t5", A).put("go", embedding())
    TextCache(tmp_path, "t5-small", B).put("go", embedding(1))
    assert torch.equal(TextCache(tmp_path, "t5", None).get("go"), embedding())
    TextCache(tmp_path, "t5", B).put("go", embedding(2))
    with pytest.raises(ValueError, match=f"2 versions of 't5' .*{A}.*{B}"):
        TextCache(tmp_path, "t5", None)


def test_imported_embeddings_serve_any_version(tmp_path):
    TextCache(tmp_path, "t5", None).put_imported({"go": embedding()})
    assert torch.equal(TextCache(tmp_path, "t5", None).get("go"), embedding())
    TextCache(tmp_path, "t5", A).put("go", embedding(1))
    assert torch.equal(TextCache(tmp_path, "t5", A).get("go"), embedding(1))  # what was made here comes first
    assert torch.equal(TextCache(tmp_path, "t5", B).get("go"), embedding())


def test_a_damaged_file_is_named(tmp_path):
    cache = TextCache(tmp_path, "t5", A)
    cache.put("go", embedding())
    (file,) = cache.folder.iterdir()
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(ValueError, match=rf"{file.name} holds no embeddings"):
        cache.get("go")


def _put_often(root, seed: int) -> None:
    torch.set_num_threads(1)
    cache = TextCache(root, "t5", A)
    for _ in range(20):
        cache.put("go", embedding())
        cache.put(f"go {seed}", embedding(seed))


def test_two_processes_may_write_the_same_sentence(tmp_path):
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        pool.map(partial(_put_often, tmp_path), [1, 2])
    cache = TextCache(tmp_path, "t5", A)
    assert torch.equal(cache.get("go"), embedding())
    assert torch.equal(cache.get("go 2"), embedding(2))
    assert not [path for path in cache.folder.iterdir() if is_temporary(path)]


def test_many_sentences_in_one_file(tmp_path):
    many = {"": embedding(0, 1), "go": embedding(1, 4), "stop": embedding(2, 2)}
    (tmp_path / "instructions.safetensors").write_bytes(embeddings_bytes(many))
    read = read_embeddings(tmp_path / "instructions.safetensors")
    assert list(read) == list(many)
    assert all(torch.equal(read[sentence], many[sentence]) for sentence in many)
    (tmp_path / "none.safetensors").write_bytes(embeddings_bytes({}))
    assert read_embeddings(tmp_path / "none.safetensors") == {}


def test_published_files_of_one_instruction(tmp_path):
    named = {"name": "pour", "instruction": "pour water", "embeddings": embedding()[None]}
    torch.save(named, tmp_path / "pour.pt")
    torch.save(embedding(1, 1), tmp_path / "empty_lang_embed.pt")
    torch.save(embedding(2), tmp_path / "text_embed_PickCube-v1.pt")
    assert torch.equal(read_published(tmp_path / "pour.pt")["pour water"], embedding())
    assert torch.equal(read_published(tmp_path / "empty_lang_embed.pt")[""], embedding(1, 1))
    assert torch.equal(read_published(tmp_path / "text_embed_PickCube-v1.pt", "pick")["pick"], embedding(2))
    with pytest.raises(ValueError, match="give the sentence too"):
        read_published(tmp_path / "text_embed_PickCube-v1.pt")


def test_published_files_of_a_task(tmp_path):
    phrasings = {"instruction": "pour", "simplified_instruction": "p", "expanded_instruction": ["pour it", "do pour"]}
    (tmp_path / "expanded_instruction_gpt-4-turbo.json").write_text(json.dumps(phrasings))
    for i in (0, 1, 3):
        torch.save(embedding(i), tmp_path / f"lang_embed_{i}.pt")
    found = read_published(tmp_path)
    assert set(found) == {"pour", "p", "do pour"}
    assert torch.equal(found["do pour"], embedding(3))


class Foreign:
    pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Foreign(), "more than tensors"),
        ({"a": 1}, "holds neither"),
        (torch.zeros(2, 3, 8), r"shape \(2, 3, 8\): expected"),
        (torch.zeros(3, dtype=torch.long), "holds neither"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=message):
        read_published(tmp_path / "x.pt", "go")
    with pytest.raises(ValueError, match="missing or damaged"):
        read_published(tmp_path / "nowhere.pt", "go")
    with pytest.raises(ValueError, match="which sentence each is"):
        read_published(tmp_path)
