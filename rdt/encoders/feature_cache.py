"""Features of pictures that a frozen encoder has seen, on the disk: a small set is encoded once, not once an epoch.

    features.bin        the features, one picture after another, in the encoder's own type
    pictures.npz        `keys` int64 (picture, 2): which picture each one is of; `signature` (width,): the encoder's own
    cache.json          their number, tokens, width and type

A picture is recognised by its pixels, as the encoder takes them. What is changed by augmentation is another picture and
is encoded as ever. For SigLIP so400m a picture takes 1.7 MB: three cameras over a minute at 25 Hz take 7.6 GB.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from data_pipeline.atomic import atomic_folder, read_json, write_json
from rdt.encoders.frozen import serving_dtype

Pictures = UInt8[Tensor, "image size size 3"]
Features = Float[Tensor, "image token dim"]

CACHE_FILE = "cache.json"
_TOGETHER = 16  # pictures that go through the encoder at once
_KEYED_TOGETHER = 8  # pictures whose products are in memory at once


class FeatureCache:
    """Reads features where they lie; the system keeps in memory what is asked for often."""

    def __init__(self, folder: Path) -> None:
        """Open a folder that `write_features` made. Raises `ValueError` where it is damaged."""
        about = read_json(folder / CACHE_FILE, f"remove {folder}: the features are then worked out again")
        shape = (about["pictures"], about["tokens"], about["width"])
        dtype = getattr(torch, about["dtype"])
        file = folder / "features.bin"
        expected = int(np.prod(shape)) * dtype.itemsize
        if not file.is_file() or file.stat().st_size != expected:
            raise ValueError(
                f"{file} should hold {expected} bytes of features and does not: remove {folder}, and they are worked "
                "out again"
            )
        self._features = torch.from_file(str(file), shared=False, size=int(np.prod(shape)), dtype=dtype).view(shape)
        with np.load(folder / "pictures.npz") as pictures:
            self._rows = {(int(a), int(b)): row for row, (a, b) in enumerate(pictures["keys"])}

    def __len__(self) -> int:
        return len(self._rows)

    def __call__(self, images: Pictures, encode: Callable[[Pictures], Features]) -> Features:
        """Features of pictures, on their device: those that are here, and of all others what `encode` makes of them."""
        rows = [self._rows.get((a, b)) for a, b in picture_keys(images).tolist()]
        here = [place for place, row in enumerate(rows) if row is not None]
        others = [place for place, row in enumerate(rows) if row is None]
        if not here:
            return encode(images)
        # a cache that was made on another kind of device has that one's type
        found = self._features[[row for row in rows if row is not None]]
        known = found.to(images.device, serving_dtype(images.device))
        features = known.new_empty(len(rows), *known.shape[1:])
        features[here] = known
        if others:
            features[others] = encode(images[others]).to(known.dtype)
        return features

    def __deepcopy__(self, memo: dict[int, Any]) -> FeatureCache:
        return self  # copies of the encoder read the same file


def read_signature(folder: Path) -> np.ndarray | None:
    """The `signature` that a folder was written with; None where there is no folder."""
    if not (folder / "pictures.npz").is_file():
        return None
    with np.load(folder / "pictures.npz") as pictures:
        return pictures["signature"]


def write_features(
    folder: Path,
    pictures: Iterable[np.ndarray],
    encode: Callable[[Pictures], Features],
    device: torch.device,
    signature: np.ndarray,
) -> None:
    """Encode each distinct picture, uint8 (size, size, 3), and write `folder`; whole or not at all.

    `signature` is something that another encoder would give otherwise.

    Raises `WriteError` for a full disk.
    """
    keys: list[list[int]] = []
    shape, dtype = (0, 0), torch.float32
    with atomic_folder(folder, replace=True) as temporary:
        distinct = _distinct(pictures, keys)
        with (temporary / "features.bin").open("wb") as opened:
            while chunk := list(islice(distinct, _TOGETHER)):
                features = encode(torch.stack(chunk).to(device)).contiguous().cpu()
                shape, dtype = (features.shape[1], features.shape[2]), features.dtype
                opened.write(features.view(torch.uint8).numpy().data)
        np.savez(temporary / "pictures.npz", keys=np.array(keys, dtype=np.int64).reshape(-1, 2), signature=signature)
        about = {"pictures": len(keys), "tokens": shape[0], "width": shape[1]}
        write_json(temporary / CACHE_FILE, {**about, "dtype": str(dtype).removeprefix("torch.")})


def free_bytes(folder: Path) -> int:
    """What the disk of a folder, which need not be there yet, has left."""
    return shutil.disk_usage(next(parent for parent in [folder, *folder.absolute().parents] if parent.is_dir())).free


def picture_keys(images: Pictures) -> Int[Tensor, "image 2"]:
    """128 bits that tell pictures apart: two sums of all pixels with fixed random weights, modulo 2^64.

    Pictures that were not made to collide do so with a probability below 2^-100. On a GPU nothing has to go to the
    host for it, as it would for a digest.
    """
    pixels = images.flatten(1)
    weights = _weights(pixels.shape[1], images.device)
    parts = [(part.long()[:, None] * weights).sum(dim=2) for part in pixels.split(_KEYED_TOGETHER)]
    return torch.cat(parts) if len(images) else torch.empty(0, 2, dtype=torch.long, device=images.device)


@lru_cache(maxsize=4)
def _weights(count: int, device: torch.device) -> Int[Tensor, "2 pixel"]:
    random = np.random.default_rng(0).integers(-(2**63), 2**63, (2, count), dtype=np.int64)
    return torch.from_numpy(random).to(device)


def _distinct(pictures: Iterable[np.ndarray], keys: list[list[int]]) -> Iterator[Tensor]:
    """Each picture once, its key noted."""
    seen = set()
    for picture in pictures:
        image = torch.from_numpy(picture)
        key = picture_keys(image[None])[0].tolist()
        if tuple(key) not in seen:
            seen.add(tuple(key))
            keys.append(key)
            yield image
