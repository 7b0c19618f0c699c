"""State noise of training (spec rdt.md section 10): a robot never stands exactly where its sensors say."""

from __future__ import annotations

import numpy as np


def add_state_noise(
    state: np.ndarray, state_mask: np.ndarray, std: np.ndarray, snr_db: float, rng: np.random.Generator
) -> np.ndarray:
    """The state (128,), float32, with noise in every slot where it has a value:

        state + Normal(0, std / sqrt(10^(snr_db / 10)))

    `std` (128,) is each slot's standard deviation over the sample's episode; slots that never move there (0)
    stay exact. `snr_db` is the ratio of signal to noise power: at 40 dB, the published one of fine-tuning, the
    noise is std / 100. The number of draws depends on the count of slots alone. A state that dropout takes to
    the data set's mean gets none: noise comes before dropout.
    """
    noise = rng.standard_normal(len(state)) * std / 10 ** (snr_db / 20)
    return np.where(state_mask, state + noise, state).astype(np.float32)
