"""Run: pytest tests/data_pipeline/annotation/eeg/test_reader.py"""

import numpy as np
import pytest

from data_pipeline.annotation.eeg.reader import read_raw, read_seed_features, read_seed_labels

scipy_io = pytest.importorskip("scipy.io")


@pytest.fixture
def seed_file(tmp_path):
    rng = np.random.default_rng(0)
    trials = {f"de_LDS{number}": rng.normal(size=(6, 3 + number, 5)) for number in range(1, 12)}
    trials |= {f"de_movingAve{number}": np.zeros((6, 4, 5)) for number in range(1, 12)}
    scipy_io.savemat(tmp_path / "1_20131027.mat", trials)
    return tmp_path / "1_20131027.mat", trials


def test_trials_come_in_the_order_of_their_numbers_with_windows_first(seed_file):
    path, written = seed_file
    read = read_seed_features(path)
    assert [trial.shape for trial in read] == [(3 + number, 6, 5) for number in range(1, 12)]
    np.testing.assert_array_equal(read[9][2, 4], written["de_LDS10"][4, 2])
    assert not any(trial.any() for trial in read_seed_features(path, "de_movingAve"))


def test_labels_are_those_of_the_file(tmp_path):
    scipy_io.savemat(tmp_path / "label.mat", {"label": np.array([[1, 0, -1, -1]])})
    assert read_seed_labels(tmp_path / "label.mat").tolist() == [1, 0, -1, -1]


def test_what_is_missing_is_told(seed_file, tmp_path):
    path, _ = seed_file
    with pytest.raises(ValueError, match=r"no features psd1, psd2, \.\.\.; it holds de_LDS, de_movingAve"):
        read_seed_features(path, "psd")
    with pytest.raises(ValueError, match="no array `label`"):
        read_seed_labels(path)
    (tmp_path / "text.mat").write_text("hello")
    with pytest.raises(ValueError, match="no MATLAB file"):
        read_seed_labels(tmp_path / "text.mat")
    with pytest.raises(FileNotFoundError, match="no EEG file"):
        read_seed_features(tmp_path / "none.mat")


def test_a_recording_is_read_through_mne(tmp_path):
    mne = pytest.importorskip("mne")
    signal = np.random.default_rng(0).normal(scale=2e-5, size=(4, 900))
    info = mne.create_info(["Fz", "Cz", "Pz", "eye"], 200.0, ["eeg", "eeg", "eeg", "eog"])
    path = tmp_path / "operator_raw.fif"
    mne.io.RawArray(signal, info, verbose="error").save(path, verbose="error")
    read = read_raw(path)
    assert read.channels == ("Fz", "Cz", "Pz") and read.rate_hz == 200
    np.testing.assert_allclose(read.signal, signal[:3], atol=1e-11)
    np.testing.assert_allclose(read_raw(path, ["Pz", "Fz"]).signal, signal[[2, 0]], atol=1e-11)
    with pytest.raises(ValueError, match=r"no channels \['Oz'\]; it has Fz, Cz, Pz, eye"):
        read_raw(path, ["Oz"])
