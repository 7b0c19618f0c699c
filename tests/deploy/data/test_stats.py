"""`rdt data stats`: the same bits for any number of workers. Run: pytest tests/deploy/data/test_stats.py"""

from __future__ import annotations

import json

import numpy as np
import pytest

from data_pipeline.quantile_sketch import RELATIVE_ERROR
from data_pipeline.schema.layout import NUM_SLOTS
from data_pipeline.stats import published_statistics
from data_pipeline.storage import EpisodeStore
from deploy.cli import main
from deploy.data import stats
from tests.data_pipeline.validate.demonstrations import demonstration


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    for number, name in enumerate(("one", "two")):
        with EpisodeStore.create(folder / name, None, robot_type="arm") as store:
            for i in range(5):
                store.add(demonstration(f"{name}/{i}", 10 * number + i, steps=40 + i, images={}))
    return folder


def test_workers_change_nothing(stores, tmp_path, monkeypatch):
    monkeypatch.setattr(stats, "_EPISODES_A_JOB", 2)
    written = []
    for workers in (1, 2, 4):
        path = tmp_path / f"{workers}.json"
        assert main(["data", "stats", str(stores), "--workers", str(workers), "--json", str(path)]) == 0
        written.append(path.read_bytes())
    assert written[0] == written[1] == written[2]
    monkeypatch.setattr(stats, "_EPISODES_A_JOB", 64)
    assert main(["data", "stats", str(stores), "--json", str(tmp_path / "whole.json")]) == 0
    assert (tmp_path / "whole.json").read_bytes() == written[0]


def test_the_numbers_are_right(stores, tmp_path, capsys):
    assert main(["data", "stats", str(stores / "one"), "--json", str(tmp_path / "out.json")]) == 0
    told = json.loads((tmp_path / "out.json").read_text())["stores"][str(stores / "one")]
    store = EpisodeStore.open(stores / "one")
    assert list(told) == ["state", "action"] and len(told["state"]) == int(store[0].state_mask.sum())
    values = np.concatenate([episode.states for episode in store])[:, 2].astype(np.float64)
    of = told["state"]["right_arm_joint_2_pos"]
    assert of["count"] == len(values) == 210
    assert (of["min"], of["max"]) == (values.min(), values.max())
    np.testing.assert_allclose([of["mean"], of["std"]], [values.mean(), values.std()], rtol=1e-12)
    for name, q in {"q01": 0.01, "q50": 0.5, "q99": 0.99}.items():
        exact = np.quantile(values, q, method="inverted_cdf")
        assert abs(of[name] - exact) <= RELATIVE_ERROR * abs(exact)
    out = capsys.readouterr().out
    assert f"{stores / 'one'}, state: 22 slots" in out and "right_eef_angle_5" in out and "0.05%" in out


def test_the_published_form(stores, tmp_path):
    path = tmp_path / "dataset_stat.json"
    assert main(["data", "stats", str(stores), "--published", str(path)]) == 0
    told = json.loads(path.read_text())
    store = EpisodeStore.open(stores / "two")
    assert list(told) == ["one", "two"] and len(told["one"]["state_mean"]) == NUM_SLOTS
    assert told["two"] == published_statistics("two", (episode.states for episode in store))


def test_wrong_words(stores, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["data", "stats", str(stores), "--workers", "0"])
    assert main(["data", "stats", str(tmp_path)]) == 1
    assert "holds none" in capsys.readouterr().err
