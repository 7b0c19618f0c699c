"""pytest tests/data_pipeline/mapping/test_mixtures.py"""

from __future__ import annotations

import pytest

from data_pipeline.mapping.mixtures import read_mixture


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
