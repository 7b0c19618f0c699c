"""The one file where transformers enters: networks and tokenizers from folders of published files.

The library is imported when a network is read. Everything is read from a folder, never from the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn


def load_siglip(folder: Path, dtype: torch.dtype) -> nn.Module:
    """The vision tower without its pooling head, from its own files or those of the whole SigLIP."""
    from transformers import SiglipVisionConfig, SiglipVisionModel
    from transformers.models.siglip.modeling_siglip import SiglipVisionEmbeddings

    config = SiglipVisionConfig.from_pretrained(folder, local_files_only=True)
    config.vision_use_head = False
    network = _load(SiglipVisionModel, folder, dtype, config=config)
    for module in network.modules():
        if isinstance(module, SiglipVisionEmbeddings):
            # a transposed convolution: every residual sum of the tower would keep its strides, and every norm copy it
            module.register_forward_hook(lambda module, args, tokens: tokens.contiguous())
    return network


def save_random_siglip(folder: Path, sizes: dict[str, Any]) -> None:
    """A vision tower of these sizes with random weights, in files that `load_siglip` reads: for benchmarks."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(**sizes, vision_use_head=False, dtype="bfloat16")
    SiglipVisionModel(config).bfloat16().save_pretrained(folder)


def load_t5(folder: Path, dtype: torch.dtype) -> nn.Module:
    """The encoder of a T5, from its own files or those of the whole network, weight by weight: the decoder is as
    large again, and float32 twice as large as bfloat16.
    """
    from transformers import T5EncoderModel

    return _load(T5EncoderModel, folder, dtype, low_cpu_mem_usage=True)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder that holds `spiece.model` or `tokenizer.json`."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what transformers says of weights that were not asked for, and of sentences over 512 tokens."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _load(cls: Any, folder: Path, dtype: torch.dtype, **options: Any) -> nn.Module:
    """Raises `ValueError` unless every weight of the network was found."""
    with quiet():
        network, info = cls.from_pretrained(
            folder, torch_dtype=dtype, local_files_only=True, output_loading_info=True, **options
        )
    lost = [*map(str, info["missing_keys"]), *map(str, info["mismatched_keys"])]
    if lost:
        raise ValueError(
            f"{folder} lacks {len(lost)} weights of the encoder, or has them in another shape "
            f"({', '.join(sorted(lost)[:4])}): fetch it again"
        )
    return network.eval()
