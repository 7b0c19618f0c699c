"""Run: pytest tests/deploy/test_bench_eeg.py"""

import json

import numpy as np
import pytest

pytest.importorskip("sklearn")

from data_pipeline.annotation.eeg.synthetic import CLASSES, Setting, make_dataset, make_pattern
from deploy.bench_eeg import POOLED, WHOSE, accuracies, first_trials
from deploy.cli import main


def test_every_method_has_a_row_that_says_whose_it_is(tmp_path, capsys):
    words = ["--quick", "--out", str(tmp_path), "--json", str(tmp_path / "eeg.json")]
    assert main(["--debug", "bench", "eeg", *words]) == 0
    figures = json.loads((tmp_path / "eeg.json").read_text())
    assert list(figures["rows"]) == list(WHOSE) and figures["channel_model"] == "logistic"
    assert {row["whose"] for row in figures["rows"].values()} == {"baseline", "published rule", "ours"}
    for name, row in figures["rows"].items():
        assert row["worst person"] <= row["accuracy"] <= 1 and len(figures["accuracies"][name][0]) == 3
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("accuracy.png", "samples.png", "patterns.png"))
    said = capsys.readouterr().out
    assert "published rules: source, target" in said and "IEFDD" in said and "CCIEP" in said


def test_signed_weights_undo_what_runs_the_other_way():
    """Two repeats of the reference setting; docs/eeg.md has more of them."""
    found = [people for seed in range(2) for people in accuracies(Setting(), seed)]
    mean = {name: np.mean([person[name] for person in found]) for name in WHOSE}
    assert mean["WCMF signed"] >= mean[POOLED] + 0.20
    assert mean["WCMF signed"] > mean["WCMF agreement"] > mean["WCMF source"]
    assert mean["LogReg, calibration only"] > mean[POOLED] + 0.1  # a strong baseline, and in every table


def test_calibration_is_a_persons_first_trial_of_each_class():
    setting = Setting(num_people=2, segments_per_trial=3)
    people = make_dataset(setting, make_pattern(setting, np.random.default_rng(0)), np.random.default_rng(1))
    chosen = people.of(first_trials(people, 1))
    assert set(chosen.person.tolist()) == {1} and sorted(set(chosen.y.tolist())) == list(CLASSES)
    for label in CLASSES:
        own = people.trial[(people.person == 1) & (people.y == label)]
        assert set(chosen.trial[chosen.y == label].tolist()) == {own.min()}
