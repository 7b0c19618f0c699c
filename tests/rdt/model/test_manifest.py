"""Run: pytest tests/rdt/model/test_manifest.py"""

import json

import pytest

from rdt.model.manifest import MANIFEST_FILE, entry, read_manifest, verify, write_manifest
from rdt.model.weights import CheckpointError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "weights").write_bytes(b"123456789")
    (tmp_path / "below" / "shard").write_bytes(b"")
    write_manifest(tmp_path)
    return tmp_path


def test_files_of_all_folders_are_listed(folder):
    assert read_manifest(folder) == {
        "below/shard": {"bytes": 0, "crc32c": "00000000"},
        "weights": {"bytes": 9, "crc32c": "e3069283"},  # the check value of CRC-32C in catalogues
    }
    verify(folder, ("weights", "below/shard", "not listed"))


def test_a_changed_file_is_found_by_its_content_and_one_cut_short_by_its_size_alone(folder):
    (folder / "weights").write_bytes(b"123456780")
    verify(folder, ("weights",), contents=False)
    with pytest.raises(CheckpointError, match=r"weights is damaged: expected checksum e3069283, found"):
        verify(folder, ("weights",))
    (folder / "weights").write_bytes(b"12345678")
    with pytest.raises(CheckpointError, match="expected 9 bytes, found 8"):
        verify(folder, ("weights",), contents=False)


def test_what_is_known_of_a_file_is_not_read_again(folder):
    known = {"weights": {"bytes": 9, "crc32c": "12345678"}}
    write_manifest(folder, known)
    assert read_manifest(folder)["weights"] == known["weights"]


def test_a_list_that_somebody_edited_is_damaged(folder):
    content = json.loads((folder / MANIFEST_FILE).read_text())
    content["files"]["weights"] = entry(folder / "below" / "shard")
    (folder / MANIFEST_FILE).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=rf"{MANIFEST_FILE} is damaged"):
        verify(folder, ("weights",))


def test_a_folder_without_a_list_passes(tmp_path):
    verify(tmp_path, ("weights",))
