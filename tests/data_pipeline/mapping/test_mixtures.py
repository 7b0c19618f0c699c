"""pytest tests/data_pipeline/mapping/test_mixtures.py"""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.mapping.mixtures import MixtureConfig, match_stores, read_mixture


def write(tmp_path, text):
    path = tmp_path / "mix.yaml"
    path.write_text(text)
    return path


def test_shares(tmp_path):
    mixture = read_mixture(write(tmp_path, "name: m\nweight_unit: step\ndatasets: {a: 1, b: 3}\n"))
    assert mixture.share("b") == 0.75 and mixture.weight_unit == "step"
    with pytest.raises(ValueError, match="unknown dataset 'c' in mixture 'm'"):
        mixture.share("c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: m\ndatasets: {a: 0}\n", "weight of a must be a number above 0"),
        ("name: m\n", "needs a name and datasets"),
        ("name: m\nweight_unit: steps\ndatasets: {a: 1}\n", "did you mean 'step'"),
        ("name: m\nweights: {a: 1}\n", "unknown key 'weights'"),
    ],
)
def test_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=f"mix.yaml: .*{message}"):
        read_mixture(write(tmp_path, text))


def test_datasets_are_stores_by_the_names_of_their_folders():
    mixture = MixtureConfig("m", {"b": 1, "a": 3})
    matched = match_stores(mixture, [Path("x/a"), Path("y/b"), Path("x/c")])
    assert matched.stores == {Path("y/b"): 1, Path("x/a"): 3}
    assert (matched.unread, matched.missing) == (("c",), ())


def test_a_dataset_without_a_store_is_an_error_that_names_it():
    mixture = MixtureConfig("m", {"bc_z": 1, "droid": 3})
    with pytest.raises(ValueError, match="unknown store 'bc_z' in mixture 'm': did you mean 'bcz'"):
        match_stores(mixture, [Path("x/bcz"), Path("x/droid")])
    left = match_stores(mixture, [Path("x/bcz"), Path("x/droid")], skip_missing=True)
    assert left.stores == {Path("x/droid"): 3} and left.missing == ("bc_z",)
    with pytest.raises(ValueError, match="no store of mixture 'm' is here"):
        match_stores(mixture, [Path("x/bcz")], skip_missing=True)


def test_two_stores_of_one_name_are_refused():
    with pytest.raises(ValueError, match="x/a and y/a have one name"):
        match_stores(MixtureConfig("m", {"a": 1}), [Path("x/a"), Path("y/a")])
