"""pytest tests/data_pipeline/validate/test_validate.py: which paths are taken, and what a report holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data_pipeline.storage import EpisodeStore
from data_pipeline.validate.validate import validate
from tests.data_pipeline.validate.demonstrations import changed, demonstration


@pytest.fixture
def store(tmp_path):
    """A function: episodes -> the path of a store."""

    def make(*episodes, name="store"):
        with EpisodeStore.create(tmp_path / name, None, robot_type="arm") as made:
            for episode in episodes:
                made.add(episode)
        return tmp_path / name

    return make


def test_clean_stores_are_silent(store, tmp_path):
    store(*(demonstration(f"cups/{i}", i) for i in range(3)), name="stores/one")
    store(*(demonstration(f"cups/{i}", 9 + i) for i in range(2)), name="stores/two")
    one, two = validate(tmp_path / "stores")
    assert one.findings == two.findings == []
    assert (one.kind, one.num_episodes, one.num_looked, one.num_steps) == ("store", 3, 3, 270)
    assert one.rates_hz == (20.0,)
    assert [(thumbnail.camera, thumbnail.frame.dtype) for thumbnail in one.thumbnails] == [("external", np.uint8)]


def test_findings_name_store_episode_and_column_and_keep_its_numbers(store):
    bad = changed(demonstration("cups/bad", 7), "state", "right_arm_joint_pos[1:2]", np.degrees)
    path = store(demonstration("cups/good", 1), bad)
    (report,) = validate(path)
    assert {finding.where.episode for finding in report.findings} == {"cups/bad"}
    (finding,) = [finding for finding in report.findings if finding.kind == "angle_units"]
    assert finding.where.dataset == str(path)
    series = report.series["cups/bad", finding.where.column]
    np.testing.assert_allclose(series.values, bad.states[:, 1])
    assert (series.unit, series.rate_hz) == ("rad", 20.0)


def test_some_episodes_evenly_spread(store):
    path = store(*(demonstration(f"cups/{i}", i) for i in range(5)))
    (report,) = validate(path, max_episodes=2)
    assert (report.num_looked, report.num_episodes) == (2, 5)
    seen = []
    validate(path, progress=lambda items, count, name: seen.append((count, name)) or items)
    assert seen == [(5, "store")]


def test_a_flagged_camera_has_its_picture(store):
    episodes = [demonstration(f"cups/{i}", i) for i in range(4)]
    swapped = replace(episodes[3], images={"external": episodes[3].images["external"][..., ::-1]})
    (report,) = validate(store(*episodes[:3], swapped))
    assert [finding.kind for finding in report.findings] == ["colour_order"]
    assert [thumbnail.episode for thumbnail in report.thumbnails] == ["cups/0", "cups/3"]


def test_a_damaged_store_is_a_finding_and_its_sibling_is_read(store, tmp_path):
    store(demonstration("cups/0", 1), name="stores/bad")
    store(demonstration("cups/0", 1), name="stores/good")
    for file in (tmp_path / "stores/bad").rglob("data/**/*.parquet"):
        file.write_bytes(file.read_bytes()[:500])
    bad, good = validate(tmp_path / "stores")
    assert [(finding.severity, finding.kind) for finding in bad.findings] == [("error", "damaged")]
    assert good.findings == []


def test_paths_that_are_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is not recognised"):
        validate(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no file"):
        validate(tmp_path / "absent" / "set")


def test_a_lerobot_folder_without_its_tables(tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text("{}")
    (report,) = validate(tmp_path)
    assert [(finding.severity, finding.kind) for finding in report.findings] == [("error", "damaged")]
