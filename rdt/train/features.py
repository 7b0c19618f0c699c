"""Encode a small set's pictures once, before the first step, where the vision encoder is frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data_pipeline.storage import EpisodeStore
from rdt.encoders.condition import SAME_TOWER, ConditionEncoder
from rdt.encoders.feature_cache import FeatureCache, free_bytes, read_signature, write_features
from rdt.encoders.frozen import serving_dtype

GB = 1e9


def cached_features(
    encoder: ConditionEncoder,
    stores: Sequence[EpisodeStore],
    folder: Path,
    device: torch.device,
    report: Callable[[str], None] = print,
) -> FeatureCache:
    """The features in `folder`, of all frames of the encoder's cameras; worked out first where they are not there, or
    are another encoder's.

    Raises `ValueError` where the disk has no room for them.
    """
    signature = encoder.background_features().float().mean(dim=0).cpu().numpy()
    if not _is_of(signature, read_signature(folder)):
        count = sum(sum(store.episode_lengths) for store in stores) * len(encoder.config.cameras)
        vision = encoder.vision
        needed = count * vision.tokens_per_image * vision.token_dim * serving_dtype(device).itemsize
        free = free_bytes(folder)
        size = f"features of up to {count} pictures, {needed / GB:.3g} GB"
        if needed > free:
            raise ValueError(
                f"{size}, do not fit into {folder}, where {free / GB:.3g} GB are free: set data.cache_features to "
                "false, or give another out"
            )
        report(f"{size}, go to {folder}")
        bar = tqdm(_pictures(encoder, stores), total=count, desc="encode", unit="picture", dynamic_ncols=True)
        write_features(folder, bar, encoder.encode_images, device, signature)
    return FeatureCache(folder)


def _is_of(signature: np.ndarray, known: np.ndarray | None) -> bool:
    """Whether two encoders see the same in a grey picture; types of devices round differently."""
    if known is None or known.shape != signature.shape:
        return False
    return float(known @ signature) >= SAME_TOWER * float(np.linalg.norm(known) * np.linalg.norm(signature))


def _pictures(encoder: ConditionEncoder, stores: Sequence[EpisodeStore]) -> Iterator[np.ndarray]:
    """As the encoder takes them. One that cannot be read is left to the loader, which names it when it is drawn."""
    collator = encoder.collator
    for store in stores:
        for episode in store:
            for role in encoder.config.cameras:
                frames = episode.images.get(role, ())
                for step in range(len(frames)):
                    try:
                        frame = frames[step]
                    except ValueError:
                        continue
                    yield collator.square(frame)
