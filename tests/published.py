"""Tiny encoders with random weights, in the files that the published ones come in."""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch

SIGLIP = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
SIGLIP_TOKENS = 4
T5_WIDTH = 32
SENTENCES = [
    "hand the red cube over from right to left",
    "pick up the cup",
    "pour water into the glass",
    "press it",
    "from right to left",
]


def published_by_size(folder: Path) -> list[str]:
    """SigLIP so400m and T5 v1.1 XXL by their sizes, all that building a policy reads of them: overrides of a config."""
    sizes = {
        "siglip": {"vision_config": {"hidden_size": 1152, "image_size": 384, "patch_size": 14}},
        "t5": {"d_model": 4096},
    }
    for name, content in sizes.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(content))
        for file in ("model.safetensors", "spiece.model"):
            (folder / name / file).touch()
    return ["--condition.vision_path", str(folder / "siglip"), "--condition.text_path", str(folder / "t5")]


def make_siglip(folder: Path, *, whole: bool = False, seed: int = 0, width: int = 32) -> Path:
    """The vision tower alone, or the whole model with its text tower, as it is released."""
    from transformers import SiglipConfig, SiglipModel, SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(seed)
    if whole:
        text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
        network = SiglipModel(SiglipConfig(vision_config=SIGLIP, text_config={**text, "vocab_size": 50}))
    else:
        network = SiglipVisionModel(SiglipVisionConfig(**{**SIGLIP, "hidden_size": width}))
    network.save_pretrained(folder)
    return folder


def make_t5(folder: Path, *, seed: int = 0, tokenizer: str = "spiece.model", width: int = T5_WIDTH) -> Path:
    """The whole T5, decoder too, as it is released; its tokenizer as a sentencepiece model or as a fast one."""
    import sentencepiece
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

    torch.manual_seed(seed)
    config = T5Config(
        d_model=width,
        d_ff=48,
        d_kv=8,
        num_heads=2,
        num_layers=2,
        vocab_size=100,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    words = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=words,
        vocab_size=60,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(words.getvalue())
    if tokenizer == "tokenizer.json":
        AutoTokenizer.from_pretrained(folder, local_files_only=True).save_pretrained(folder)
        (folder / "spiece.model").unlink()
    return folder
