"""What one data file promises; writing and joining are tested with the store.

Run: pytest tests/data_pipeline/test_shards.py
"""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_pipeline.shards import DataFile, Profile, build_index, read_rows, read_staged, stage_episode, write_index


@pytest.fixture
def file(tmp_path, episode):
    path = tmp_path / "episode.parquet"
    staged = stage_episode(path, episode(num_steps=9), Profile(row_group_steps=4), source={"file": "x"})
    assert read_staged(path) == staged
    return path


def test_pictures_are_found_by_byte(file, tmp_path, episode):
    pictures = [p["bytes"] for p in pq.read_table(file)["observation.images.external"].to_pylist()]
    write_index(file, tmp_path / "index.arrow")
    for index in (tmp_path / "index.arrow", tmp_path / "none.arrow"):
        opened = DataFile(file, index)
        assert [opened.jpeg("observation.images.external", row) for row in range(9)] == pictures
        np.testing.assert_array_equal(opened.states, episode(num_steps=9).states)
        with pytest.raises(ValueError, match="read-only"):
            opened.actions[0] = 0


def test_row_groups_are_those_of_the_profile(file):
    metadata = pq.ParquetFile(file).metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [4, 4, 1]


@pytest.mark.parametrize(("start", "stop"), [(0, 9), (3, 5), (8, 9), (4, 8)])
def test_rows_are_read_across_groups(file, start, stop):
    assert read_rows(file, ["frame_index"], start, stop)["frame_index"].to_pylist() == list(range(start, stop))


@pytest.mark.parametrize("options", [{"compression": "zstd"}, {"compression": "none", "use_dictionary": True}])
def test_a_file_of_another_writer_is_told(file, options):
    pq.write_table(pq.read_table(file), file, **options)
    with pytest.raises(ValueError, match="another tool wrote it"):
        build_index(file)


@pytest.mark.parametrize(
    "wrong", [{"long_side_px": -1}, {"jpeg_quality": 0}, {"row_group_steps": 0}, {"file_megabytes": 0}]
)
def test_impossible_profiles_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        Profile(**wrong)


@pytest.mark.parametrize(
    ("fields", "source_fields", "message"),
    [
        ({}, {"depth": np.zeros((9, 0))}, "source field 'depth' has steps of no numbers"),
        ({"instructions": ("lift \ud83d",)}, {}, "no text that can be written"),
        ({"name": "caf\udce9"}, {}, "no text that can be written"),
    ],
)
def test_what_no_file_can_hold_is_refused(tmp_path, episode, fields, source_fields, message):
    with pytest.raises(ValueError, match=message):
        stage_episode(tmp_path / "episode.parquet", episode(**fields), Profile(), native=source_fields)
    assert not list(tmp_path.iterdir())
