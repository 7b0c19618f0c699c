"""Run: pytest tests/data_pipeline/annotation/eeg/test_features.py"""

import numpy as np
import pytest

from data_pipeline.annotation.eeg.features import BANDS, band_entropies, differential_entropy, window_starts
from data_pipeline.annotation.eeg.synthetic import raw_signal

pytest.importorskip("scipy")

RATE = 200.0


def noise(seconds: float, channels: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(channels, round(seconds * RATE)))


def test_the_entropy_of_a_gaussian_is_the_formula():
    rng = np.random.default_rng(0)
    x = rng.normal(scale=3, size=400_000)
    density = np.exp(-(x**2) / 18) / np.sqrt(18 * np.pi)
    assert differential_entropy(x.var()) == pytest.approx(-np.log(density).mean(), abs=0.01)


def test_white_noise_has_in_each_band_the_variance_of_its_share_of_the_spectrum():
    features = band_entropies(noise(400), RATE)
    assert features.shape == (100, 2, len(BANDS))
    widths = np.array([high - low for low, high in BANDS.values()])
    expected = differential_entropy(widths / (RATE / 2))
    np.testing.assert_allclose(features.mean(axis=(0, 1)), expected, atol=0.12)


def test_twice_the_amplitude_adds_log_2():
    x = noise(16)
    np.testing.assert_allclose(band_entropies(2 * x, RATE) - band_entropies(x, RATE), np.log(2), atol=1e-9)


def test_a_sine_stands_in_its_own_band():
    x = np.sin(2 * np.pi * 10 * np.arange(round(20 * RATE)) / RATE)[None]
    assert (band_entropies(x, RATE).argmax(axis=2) == list(BANDS).index("alpha")).all()


def test_windows_begin_every_hop_and_are_whole():
    assert window_starts(1000, 100, 4.0).tolist() == [0, 400]
    assert window_starts(1000, 100, 4.0, 1.0).tolist() == [0, 100, 200, 300, 400, 500, 600]
    assert window_starts(399, 100, 4.0).tolist() == []


def test_a_hop_that_is_a_window_gives_the_same_windows_as_none():
    x = noise(20)
    dense = band_entropies(x, RATE, hop_s=1.0)
    np.testing.assert_array_equal(dense[::4], band_entropies(x, RATE))


def test_raw_signals_of_the_generator_have_the_entropies_they_were_made_of():
    rng = np.random.default_rng(1)
    wanted = rng.normal(scale=0.5, size=(12, 3, len(BANDS)))
    found = band_entropies(raw_signal(wanted, rng, RATE), RATE)
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.85
    assert np.abs(found - wanted)[:, :, 2:].mean() < 0.25  # narrow slow bands leak most


def test_a_channel_that_records_nothing_is_finite():
    assert np.isfinite(band_entropies(np.zeros((1, 1000)), RATE)).all()


@pytest.mark.parametrize(
    ("signal", "rate", "message"),
    [
        (np.zeros(800), RATE, r"\(channel, samples\)"),
        (np.zeros((2, 700)), RATE, "shorter than one window of 4 s"),
        (np.zeros((2, 800)), 90.0, "needs a rate of more than 100 Hz"),
    ],
)
def test_what_cannot_be_windowed_is_refused(signal, rate, message):
    with pytest.raises(ValueError, match=message):
        band_entropies(signal, rate)
