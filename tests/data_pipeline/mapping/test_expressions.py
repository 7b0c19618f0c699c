"""pytest tests/data_pipeline/mapping/test_expressions.py"""

from __future__ import annotations

import numpy as np
import pytest

from data_pipeline.mapping.expressions import Condition
from data_pipeline.mapping.paths import EpisodeError
from data_pipeline.sources.raw import RawEpisode

RECORD = RawEpisode(
    "train/set_3/0",
    4,
    {"x": np.arange(4.0), "v": np.arange(8.0).reshape(4, 2), "t": np.array(["a", "b", "b", "b"], object)},
    metadata={"episode_metadata/path": "lab/success/1", "good": np.array([True]), "robot": b"ur5"},
)


def holds(text, texts=("Go.",)):
    return Condition.parse(text, {"short": "v"}).holds(RECORD, texts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x == 0", True),
        ("x > 0", False),
        ("x >= 3 at last", True),
        ("x == 2 at any", True),
        ("x < 3 at all", False),
        ("x != 5 at all", True),
        ("v[1] == 1", True),
        ("short[1] == 7 at last", True),
        ("t == a", True),
        ("t matches ^b$ at any", True),
        ("len >= 4", True),
        ("len < 4", False),
        ("episode_metadata/path matches success", True),
        ("path matches '^success'", False),
        ("good == true", True),
        ("good != true", False),
        ("robot == ur5", True),
        ('language == "Go."', True),
        ("language matches '(?i)stop'", False),
        ('name matches "^train/set_[1-5]/"', True),
    ],
)
def test_conditions(text, expected):
    assert holds(text) is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "'field op value"),
        (3, "'field op value"),
        ("x is 3", "unknown operator 'is'"),
        ("x > 3 at start", "unknown step 'start'"),
        ("x > big", "compares with a number"),
        ("x matches (", "regular expression"),
        ("len == long", "compared with a number"),
        ("x[a] > 1", "not a slice"),
    ],
)
def test_what_is_no_condition(text, message):
    with pytest.raises(ValueError, match=message):
        Condition.parse(text, {})


@pytest.mark.parametrize(
    ("text", "kind"),
    [("y > 1", "missing_field"), ("t > 1", "bad_value"), ("v > 1", "bad_value"), ("v[2] > 1", "wrong_width")],
)
def test_records_that_cannot_be_judged(text, kind):
    with pytest.raises(EpisodeError) as error:
        holds(text)
    assert error.value.kind == kind


def test_nothing_is_a_program():
    with pytest.raises(EpisodeError):
        holds("__import__('os') == 1")
