"""pytest tests/data_pipeline/mapping/test_language.py"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.mapping.language import Language
from data_pipeline.mapping.paths import EpisodeError
from data_pipeline.sources.raw import RawEpisode


def language(defs=None, **raw):
    return Language.parse(raw, defs or {})


def record(fields=None, metadata=None, sidecar=None, steps=4):
    return RawEpisode("e", steps, fields or {}, {}, metadata or {}, None, sidecar or {})


def per_step(*texts):
    return np.array(texts, dtype=object)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pick up", "Pick up."),
        ("  pick_up 1f ", "Pick up."),
        ("Pick it UP.", "Pick it UP."),
        ("done?", "Done?"),
        ("", ""),
        ("_", ""),
    ],
)
def test_cleaning(text, expected):
    assert language(constant="x", replace={"_": " ", "1f": ""}).clean(text) == expected


@given(st.text(max_size=30))
def test_a_clean_text_is_a_sentence(text):
    clean = language(constant="x", replace={"_": " "}).clean(text)
    assert clean == "" or (clean[-1] in ".!?" and not clean[0].isspace() and "_" not in clean)


def test_cleaning_may_be_left_out():
    assert language(constant="x", capitalise=False, full_stop=False).clean(" move it ") == "move it"


def test_a_constant():
    assert language(constant="open the door").read(record()).texts == ("Open the door.",)


def test_the_first_text_there_is():
    found = language(fields=["a", "b"]).read(record({"a": per_step("", "", "", ""), "b": per_step(*["go"] * 4)}))
    assert (found.texts, found.weights, found.of_step) == (("Go.",), (1.0,), None)


def test_a_text_that_changes_on_the_way():
    found = language(fields=["a"]).read(record({"a": per_step("", "go", "stop", "stop")}))
    assert found.texts == ("Go.", "Stop.") and found.weights == (0.5, 0.5)
    assert found.of_step.tolist() == [0, 0, 1, 1]


def test_a_random_field_then_a_random_entry():
    files = {"original": "go", "simple": ["move"], "long": ["a", "b", "c"]}
    fields = ["sidecar:original", "sidecar:simple", "sidecar:long", "sidecar:absent"]
    found = language(fields=fields, choose="random").read(record(sidecar=files))
    assert found.texts == ("Go.", "Move.", "A.", "B.", "C.")
    np.testing.assert_allclose(found.weights, [1 / 3, 1 / 3, 1 / 9, 1 / 9, 1 / 9])


def test_equal_phrasings_of_two_fields_add_up():
    found = language(fields=["a", "b"], choose="random").read(record(metadata={"a": "go", "b": ["go", "walk"]}))
    assert dict(zip(found.texts, found.weights, strict=True)) == {"Go.": 0.75, "Walk.": 0.25}


def test_all_texts_alike():
    found = language(fields=["a", "b"], choose="all").read(record(metadata={"a": "go", "b": ["x", "y"]}))
    np.testing.assert_allclose(found.weights, [1 / 3] * 3)


def test_code_points():
    codes = np.zeros((4, 6), dtype=np.int32)
    codes[:, :2] = [ord("h"), ord("é")]
    assert language(fields=["a"], decode="codepoints").read(record({"a": codes})).texts == ("Hé.",)
    assert language(fields=["a"], decode="codepoints").read(record(metadata={"a": codes[0]})).texts == ("Hé.",)


@pytest.mark.parametrize("value", [["go", "walk"], np.array(["go", "walk"], dtype=object), ("go",)])
def test_one_entry_of_a_list(value):
    assert language(fields=["a[0]"]).read(record(metadata={"a": value})).texts == ("Go.",)


def test_bytes_and_metadata_by_its_short_name():
    assert language(fields=["task"]).read(record(metadata={"episode_metadata/task": b"go"})).texts == ("Go.",)
    assert language({"t": "episode_metadata/task"}, fields=["t"]).fields[0].path == "episode_metadata/task"


def test_no_text():
    assert language(fields=["a"]).read(record()).texts == ("",)
    with pytest.raises(EpisodeError, match="no text in a, b"):
        language(fields=["a", "b"], drop_if_empty=True).read(record(metadata={"a": ""}))


def test_what_is_no_text():
    with pytest.raises(EpisodeError, match="must hold text, got float"):
        language(fields=["a"]).read(record(metadata={"a": 1.5}))
