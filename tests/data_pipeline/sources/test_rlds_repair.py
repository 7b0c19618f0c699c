"""pytest tests/data_pipeline/sources/test_rlds_repair.py"""

from __future__ import annotations

import json

import pytest

from data_pipeline.sources.raw import Fault
from data_pipeline.sources.rlds import RldsSource
from data_pipeline.sources.rlds_repair import repair_rlds
from data_pipeline.sources.tfrecord import read_records
from tests import sample_data


@pytest.fixture
def dataset(tmp_path):
    return sample_data.make_rlds(tmp_path)


def names(folder) -> list[str]:
    source = RldsSource(folder)
    found = [one for shard in source.shards() for one in source.read(shard)]
    assert not [one for one in found if isinstance(one, Fault)]
    return [one.name for one in found]


def test_a_whole_folder_comes_back(tmp_path, dataset):
    seen = []
    assert repair_rlds(tmp_path / "tiny_rlds", tmp_path / "out", progress=seen.append) == []
    assert seen == [path.name for path in dataset.files]
    for path in dataset.files:
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert names(tmp_path / "out") == names(tmp_path / "tiny_rlds")


@pytest.mark.parametrize("damage", ["payload", "length", "cut"])
def test_damaged_records_are_left_out_and_counted(tmp_path, dataset, damage):
    content = bytearray(dataset.files[0].read_bytes())
    first = len(next(iter(read_records(dataset.files[0])))) + 16
    if damage == "payload":
        content[200] ^= 1
    elif damage == "length":
        content[first] ^= 1
    else:
        del content[first + 100 :]
    dataset.files[0].write_bytes(content)
    (fault,) = repair_rlds(tmp_path / "tiny_rlds", tmp_path / "out")
    assert fault.kind == ("truncated" if damage == "cut" else "bad_crc")
    assert len(names(tmp_path / "out")) == 3
    info = json.loads((tmp_path / "out/dataset_info.json").read_text())
    assert info["splits"][0]["shardLengths"] == ["1", "2"]


def test_a_missing_file_is_told_and_becomes_an_empty_one(tmp_path, dataset):
    dataset.files[1].unlink()
    (fault,) = repair_rlds(tmp_path / "tiny_rlds", tmp_path / "out")
    assert fault.kind == "missing_file" and len(names(tmp_path / "out")) == 2


def test_a_folder_that_names_files_elsewhere_is_refused(tmp_path, dataset):
    info = dataset.files[0].with_name("dataset_info.json")
    raw = json.loads(info.read_text())
    raw["splits"][0]["filepathTemplate"] = "../../precious"
    info.write_text(json.dumps(raw))
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(ValueError, match=r"names a file '../../precious' outside its folder"):
        repair_rlds(tmp_path / "tiny_rlds/0.1.0", tmp_path / "deep/out")
    assert (tmp_path / "precious").read_text() == "mine"


def test_nothing_is_written_into_the_damaged_folder(tmp_path, dataset):
    with pytest.raises(ValueError, match=r"is, or lies in, .*which is left as it is"):
        repair_rlds(tmp_path / "tiny_rlds", tmp_path / "tiny_rlds/repaired")
