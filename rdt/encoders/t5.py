"""T5 as a frozen text encoder that is hardly ever loaded (spec rdt.md section 6.2).

An instruction's embedding depends on nothing but its words, so it is looked up: in memory (what a checkpoint carried,
what was asked before), then in the cache on disk. Only for sentences found in neither is the network loaded, once
for all of them, and released: T5-XXL, ten gigabytes in bfloat16, stays beside neither the trainer nor the robot.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from tqdm import tqdm

from rdt.encoders.hub import (
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    ModelName,
    check_installed,
    fetch_model,
    find_model,
    fingerprint,
    not_here,
    read_config,
)
from rdt.encoders.pretrained import load_t5, load_tokenizer, quiet
from rdt.encoders.text import check_padding
from rdt.encoders.text_cache import Embedding, TextCache, cache_root

if TYPE_CHECKING:
    from rdt.encoders.condition import ConditionConfig

XXL = "google/t5-v1_1-xxl"
MAX_TOKENS = 1024  # as published; longer sentences are an error, never cut
BATCH_SIZE = 32
GPU_HEADROOM = 1.2  # free memory over the size of the weights, for activations


class _Memory(dict[str, Tensor]):
    """Sentence -> embedding (token, dim), shared with the copies of a model, as the average of its weights."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Memory:
        return self


class CachedT5(nn.Module):
    """A `TextEncoder` without parameters: `tokenize` looks features up, `forward` hands them on."""

    def __init__(self, config: ConditionConfig, *, token_dim: int, max_tokens: int) -> None:
        super().__init__()
        self.config = config
        self.token_dim = token_dim
        self.max_tokens = max_tokens
        self.embeddings = _Memory()  # all that is known without asking the disk

    @classmethod
    def from_config(cls, config: ConditionConfig, *, token_dim: int, max_tokens: int) -> CachedT5:
        """Raises `ValueError` when an encoder that is on this machine has another width than the network reads."""
        folder = find_model(_name(config))
        width = read_config(folder)["d_model"] if folder else token_dim
        if width != token_dim:
            raise ValueError(_wrong_width(config, width, token_dim))
        return cls(config, token_dim=token_dim, max_tokens=max_tokens)

    def add(self, embeddings: Mapping[str, Embedding]) -> None:
        """Know these sentences from now on. Raises `ValueError` for another width than the network reads."""
        for embedding in embeddings.values():
            if embedding.shape[-1] != self.token_dim:
                raise ValueError(_wrong_width(self.config, embedding.shape[-1], self.token_dim))
        self.embeddings.update(embeddings)

    def prepare(self, sentences: Iterable[str]) -> None:
        """Know all these sentences, loading or even fetching T5 for those that no cache holds."""
        self.add(embed_sentences([s for s in sentences if s not in self.embeddings], self.config))

    def tokenize(
        self, sentences: Sequence[str], pad_to: int | None = None
    ) -> tuple[Float[Tensor, "instruction token dim"], Bool[Tensor, "instruction token"]]:
        """Features padded with zeros to the longest sentence, or to `pad_to`. T5 is loaded if it must, never fetched.

        Raises `ValueError` for a sentence that is nowhere, and for one that the network cannot read whole.
        """
        unknown = [s for s in sentences if s not in self.embeddings]
        if unknown:
            self.add(embed_sentences(unknown, self.config, fetch=False))
        found = [self.embeddings[s] for s in sentences]
        lengths = torch.tensor([len(e) for e in found])
        longest = int(lengths.max())
        if longest > self.max_tokens:
            sentence = sentences[int(lengths.argmax())]
            raise ValueError(
                f"the instruction {_cut(sentence)} has {longest} tokens, the network reads at most {self.max_tokens}: "
                "say it in fewer words"
            )
        width = longest if pad_to is None else pad_to
        check_padding(longest, width, self.max_tokens)
        features = torch.zeros(len(found), width, self.token_dim, dtype=found[0].dtype)
        for row, embedding in zip(features, found, strict=True):
            row[: len(embedding)] = embedding
        return features, torch.arange(width) < lengths[:, None]

    def forward(
        self, text: Float[Tensor, "instruction token dim"], mask: Bool[Tensor, "instruction token"]
    ) -> Float[Tensor, "instruction token dim"]:
        return text


def embed_sentences(
    sentences: Iterable[str], config: ConditionConfig, *, device: str = "auto", fetch: bool = True
) -> dict[str, Embedding]:
    """Embeddings of the sentences, bfloat16 (token, dim), from the cache or else made and put there.

    `device="auto"` is the GPU when T5 fits into its free memory, else the CPU. With `fetch=False` the hub is not
    asked for T5. Raises `ValueError` that says what to do for a sentence that can be neither found nor made.
    """
    sentences = list(dict.fromkeys(sentences))
    if not sentences:
        return {}
    name = _name(config)
    folder = find_model(name)
    cache = TextCache(cache_root(config.text_cache), name.short, fingerprint(folder) if folder else None)
    found = {s: embedding for s in sentences if (embedding := cache.get(s)) is not None}
    missing = [s for s in sentences if s not in found]
    if missing and folder is None:
        try:
            if not fetch:
                raise ValueError(not_here(name, "it is not fetched while a policy runs"))
            folder = fetch_model(name)
        except ValueError as error:
            raise ValueError(_unknown(missing, cache, str(error))) from None
        cache = TextCache(cache.root, name.short, fingerprint(folder))
    if missing:
        assert folder is not None
        with tqdm(total=len(missing), desc="embed", unit="sentence", dynamic_ncols=True) as bar:
            for sentence, embedding in embed(folder, missing, device):
                cache.put(sentence, embedding)
                found[sentence] = embedding
                bar.update()
    return {s: found[s] for s in sentences}


def embed(folder: Path, sentences: Sequence[str], device: str = "auto") -> Iterator[tuple[str, Embedding]]:
    """Each sentence with the encoder's last hidden states, in bfloat16 on the CPU; shorter sentences come first.

    Sentences of one length go together, so that no padding is ever computed. Raises `ValueError` for a sentence of
    more than 1024 tokens, before the network is read.
    """
    own = [] if (folder / "tokenizer.json").is_file() else ["sentencepiece", "google.protobuf"]
    check_installed("the T5 text encoder", ["transformers", *own])
    tokenizer = load_tokenizer(folder)
    by_length: dict[int, list[tuple[str, list[int]]]] = {}
    with quiet():
        for sentence in sentences:
            ids = tokenizer(sentence).input_ids
            if len(ids) > MAX_TOKENS:
                raise ValueError(
                    f"the instruction {_cut(sentence)} has {len(ids)} tokens, RDT reads at most {MAX_TOKENS}: "
                    "say it in fewer words"
                )
            by_length.setdefault(len(ids), []).append((sentence, ids))
    network = load_t5(folder, torch.bfloat16)
    on = _choose_device(network) if device == "auto" else torch.device(device)
    network = network.to(on)
    try:
        for _, group in sorted(by_length.items()):
            for start in range(0, len(group), BATCH_SIZE):
                batch = group[start : start + BATCH_SIZE]
                ids = torch.tensor([ids for _, ids in batch], device=on)
                mask = ids != 0  # a sentence that spells out the padding token loses it, as published
                with torch.no_grad():
                    hidden = network(input_ids=ids, attention_mask=mask).last_hidden_state
                for (sentence, _), states, kept in zip(batch, hidden.cpu(), mask.cpu(), strict=True):
                    yield sentence, states[kept]
    finally:
        del network
        if on.type == "cuda":
            torch.cuda.empty_cache()


def _name(config: ConditionConfig) -> ModelName:
    return ModelName("text encoder", config.text_path or XXL, "condition.text_path", (CONFIG, WEIGHTS, TOKENIZER))


def _choose_device(network: nn.Module) -> torch.device:
    size = sum(p.numel() * p.element_size() for p in network.parameters())
    if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > GPU_HEADROOM * size:
        return torch.device("cuda")
    return torch.device("cpu")


def _wrong_width(config: ConditionConfig, found: int, expected: int) -> str:
    return (
        f"the {_name(config)} makes tokens of width {found}, the network reads {expected} (lang_token_dim): "
        "choose the text encoder that the network was made for"
    )


def _unknown(missing: Sequence[str], cache: TextCache, why_not_made: str) -> str:
    others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    return (
        f"no embedding of the instruction {_cut(missing[0])}{others}: neither the checkpoint nor the cache "
        f"{cache.root / (cache.encoder + '-*')} has it. Make it where the encoder is, with "
        "rdt.encoders.t5.embed_sentences([...], config), and copy the cache here. It cannot be made here: "
        f"{why_not_made}"
    )


def _cut(sentence: str) -> str:
    return repr(sentence if len(sentence) <= 80 else sentence[:77] + "...")
