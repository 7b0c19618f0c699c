"""Random numbers of training as a pure function of (seed, global sample index, purpose).

Augmentation, dropout, noise and timesteps draw from these generators and never from a worker's or a rank's:
any number of workers or GPUs, and any resumed run, then sees the same numbers for the same sample.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

import numpy as np

_WORD = 2**64


@lru_cache(maxsize=256)
def _key(seed: int, stream: str) -> np.ndarray:
    if not 0 <= seed < _WORD:
        raise ValueError(f"seed must be in [0, 2**64), got {seed}")
    digest = blake2b(stream.encode(), digest_size=8).digest()
    return np.array([seed, int.from_bytes(digest, "little")], dtype=np.uint64)


def sample_rng(seed: int, index: int, stream: str) -> np.random.Generator:
    """The generator of one purpose (`stream`, any name: "noise", "dropout") for one sample.

    Philox with key (seed, hash of the stream's name) and the index in the counter's third word: streams of
    different seeds, purposes or indices never overlap within 2**128 blocks, and none has to be wound forward.
    """
    counter = np.array([0, 0, index, 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=_key(seed, stream), counter=counter))
