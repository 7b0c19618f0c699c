"""EEG beside a store -> the valence of each step.

Run: pytest tests/data_pipeline/annotation/eeg/test_annotate.py
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import yaml

pytest.importorskip("sklearn")

from data_pipeline.annotation.eeg.annotate import Study, annotate, judge
from data_pipeline.annotation.eeg.features import WINDOW_S
from data_pipeline.annotation.eeg.synthetic import raw_signal
from data_pipeline.annotation.valence import CONFIDENCE, NOTE, VALENCE, operator_states
from data_pipeline.schema.layout import NUM_SLOTS
from data_pipeline.schema.types import Episode
from data_pipeline.storage import EpisodeStore
from tests.data_pipeline.annotation.eeg.sessions import NAMES, SETTING, make_operator, steps_of, write_study

RATE, WINDOWS = 5.0, 3
FELT = {"anna": [1, -1, 1, -1], "ben": [-1, -1, 1, 1]}


@pytest.fixture
def store(tmp_path):
    mask = np.arange(NUM_SLOTS) == 0
    steps = steps_of(WINDOWS, RATE)
    with EpisodeStore.create(tmp_path / "store", None, robot_type="toy") as store:
        for name in [f"{who}_{i}" for who, felt in FELT.items() for i in range(len(felt))] + ["unseen"]:
            vectors = np.where(mask, np.random.default_rng(0).normal(size=(steps, NUM_SLOTS)), 0).astype(np.float32)
            episode = Episode(name, vectors, mask, vectors, mask, {}, ("lift the cup",), RATE)
            store.add(episode, {"file": name}, native={"force": np.arange(steps)}, max_steps=7)
    return store


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "eeg", FELT, WINDOWS)


def test_episodes_get_the_valence_that_their_operators_felt_and_keep_all_else(store, study, tmp_path):
    written = annotate(store, Study.from_yaml(study), tmp_path / "out")
    for who, felt in FELT.items():
        for number, label in enumerate(felt):
            index = written.names.index(f"{who}_{number}")
            episode, before = written[index], store[index]
            assert set(episode.annotations) == {VALENCE, CONFIDENCE}
            assert np.sign(episode.annotations[VALENCE].mean()) == label
            assert episode.annotations[CONFIDENCE].min() >= 0 and np.abs(episode.annotations[VALENCE]).max() <= 1
            assert written.entry(index).source[NOTE]["operator"] == who
            assert written.entry(index).source["file"] == f"{who}_{number}"
            for field in dataclasses.fields(before):
                if field.name != "annotations":
                    np.testing.assert_array_equal(getattr(episode, field.name), getattr(before, field.name))
            np.testing.assert_array_equal(written.native(index)["force"], store.native(index)["force"])
    assert written.visit_lengths == store.visit_lengths


def test_an_episode_without_eeg_stays_as_it_was(store, study, tmp_path):
    written = annotate(store, Study.from_yaml(study), tmp_path / "out")
    assert written[8].annotations == {} and NOTE not in written.entry(8).source
    assert operator_states([written])[0][8] is None


def test_each_operator_has_a_model_of_their_own_with_a_name_that_lasts(study):
    seconds = dict.fromkeys([f"{who}_{i}" for who in FELT for i in range(4)], WINDOWS * WINDOW_S)
    first, again = (judge(Study.from_yaml(study), seconds) for _ in range(2))
    names = {name: judged.note["model"] for name, judged in first.items()}
    assert names == {name: judged.note["model"] for name, judged in again.items()}
    assert names["anna_0"] == names["anna_3"] != names["ben_0"]
    assert all(name.startswith("wcmf-signed-") for name in names.values())
    other = judge(dataclasses.replace(Study.from_yaml(study), fusion="source"), seconds)
    assert other["anna_0"].note["model"].startswith("wcmf-source-")


def test_a_stopped_annotation_goes_on_and_another_study_is_refused(store, study, tmp_path):
    calls = []

    def stop() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        annotate(store, Study.from_yaml(study), tmp_path / "out", progress=stop)
    whole = annotate(store, Study.from_yaml(study), tmp_path / "out")
    straight = annotate(store, Study.from_yaml(study), tmp_path / "straight")
    assert whole.names == store.names and whole.sources == straight.sources
    for one, other in zip(whole, straight, strict=True):
        for name in one.annotations:
            np.testing.assert_array_equal(one.annotations[name], other.annotations[name])
    another = write_study(tmp_path / "other", FELT, WINDOWS, seed=1)
    with pytest.raises(ValueError, match="'anna_0' was annotated by another study"):
        annotate(store, Study.from_yaml(another), tmp_path / "out")
    with pytest.raises(ValueError, match="left as it is"):
        annotate(store, Study.from_yaml(study), store.path)


def test_raw_recordings_are_cut_where_the_study_says(tmp_path):
    """One file a person, through MNE: labelled stretches first, then the episodes at their own starts."""
    mne = pytest.importorskip("mne")
    rng = np.random.default_rng(4)
    pattern = rng.normal(size=(SETTING.num_channels, 5, 3))
    labelled, episodes, rate = [], [], 200.0
    for who in ("anna", "ben", "carl"):
        felt = [1, -1, 1, -1] if who == "anna" else []
        operator = make_operator(pattern, felt, WINDOWS, rng)
        parts, at = [], 0.0
        for label, X in operator.labelled.items():
            stretch = {"start_s": at, "stop_s": at + len(X) * WINDOW_S}
            labelled.append({"person": who, "session": 1, "file": f"{who}_raw.fif", "label": NAMES[label], **stretch})
            parts.append(X)
            at += len(X) * WINDOW_S
        for number, X in enumerate(operator.episodes):
            place = {"person": who, "session": 1, "file": f"{who}_raw.fif", "start_s": at}
            episodes.append({**place, "episode": f"anna_{number}"})
            parts.append(X)
            at += len(X) * WINDOW_S
        signal = raw_signal(0.25 * np.concatenate(parts), rng, rate) * 1e-5
        info = mne.create_info(SETTING.num_channels, rate, "eeg")
        mne.io.RawArray(signal, info, verbose="error").save(tmp_path / f"{who}_raw.fif", verbose="error")
    content = {"labelled": labelled, "episodes": episodes, "hop_s": 2.0}
    (tmp_path / "eeg.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    judged = judge(Study.from_yaml(tmp_path / "eeg.yaml"), dict.fromkeys([f"anna_{i}" for i in range(4)], 12.0))
    assert [np.sign(judged[f"anna_{i}"].valence.mean()) for i in range(4)] == [1, -1, 1, -1]
    np.testing.assert_allclose(judged["anna_0"].centres_s, [2, 4, 6, 8, 10])


def test_a_lone_operator_is_calibrated_from_their_own_trials(study, tmp_path):
    content = yaml.safe_load(study.read_text())
    content["labelled"] = [part for part in content["labelled"] if part["person"] == "anna"]
    content["episodes"] = [part for part in content["episodes"] if part["person"] == "anna"]
    (study.parent / "alone.yaml").write_text(yaml.safe_dump(content))
    judged = judge(Study.from_yaml(study.parent / "alone.yaml"), {f"anna_{i}": 12.0 for i in range(4)})
    assert [np.sign(judged[f"anna_{i}"].valence.mean()) for i in range(4)] == FELT["anna"]


def changed(content, kind, **keys):
    content[kind][-1] = {k: v for k, v in {**content[kind][-1], **keys}.items() if v is not None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: changed(c, "episodes", episode="ben_9"), "unknown episode 'ben_9' in the study's `episodes`"),
        (lambda c: changed(c, "episodes", episode=None), "episodes 8 lacks `episode`"),
        (lambda c: changed(c, "episodes", episode="anna_0"), "'anna_0' is named twice"),
        (lambda c: changed(c, "episodes", trial=99), "has trials 1 to 7, asked for 99"),
        (lambda c: changed(c, "episodes", trial=None), r"say which one \(trial: N\)"),
        (lambda c: changed(c, "labelled", label="happy"), "unknown label 'happy'"),
        (lambda c: changed(c, "labelled", labels="s0_label.mat"), "has one of `label`"),
        (lambda c: changed(c, "labelled", label="neutral"), "'ben' has labelled parts of 2 classes"),
        (lambda c: changed(c, "labelled", persn="ben"), "did you mean 'person'"),
        (lambda c: c.update(fusion="sign"), "did you mean 'signed'"),
        (lambda c: c.update(weight="tt"), "unknown weight 'tt'"),
        (lambda c: c.update(window_s=0), "window_s must be positive"),
        (lambda c: c.update(episodes=[]), "expected a list of one part or more"),
        (lambda c: c["labelled"][0].update(labels="s1.mat"), "no array `label`"),
    ],
)
def test_what_a_study_gets_wrong_is_named(change, message, study):
    content = yaml.safe_load(study.read_text())
    change(content)
    study.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=message):
        judge(Study.from_yaml(study), {f"{who}_{i}": 12.0 for who in FELT for i in range(4)})
