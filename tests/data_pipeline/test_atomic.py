"""pytest tests/data_pipeline/test_atomic.py"""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest

from data_pipeline import atomic


def test_a_file_appears_whole(tmp_path):
    target = tmp_path / "deep" / "a.txt"
    with atomic.atomic_path(target) as temporary:
        temporary.write_text("half")
        assert not target.exists()
        assert temporary.parent == target.parent and temporary.suffix == ".txt"
        assert atomic.is_temporary(temporary)
    assert target.read_text() == "half"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("interrupt", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_write_changes_nothing(tmp_path, interrupt):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(interrupt), atomic.atomic_path(target) as temporary:
        temporary.write_text("new")
        raise interrupt
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_a_folder_appears_whole(tmp_path):
    target = tmp_path / "checkpoint"
    with atomic.atomic_folder(target) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "a").write_text("a")
        assert not target.exists()
    assert (target / "inner" / "a").read_text() == "a" and list(tmp_path.iterdir()) == [target]


def test_an_existing_folder_is_replaced_only_when_asked(tmp_path):
    target = tmp_path / "checkpoint"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(FileExistsError, match="exists already"), atomic.atomic_folder(target):
        pass
    with atomic.atomic_folder(target, replace=True) as temporary:
        (temporary / "new").touch()
    assert [p.name for p in target.iterdir()] == ["new"] and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("interrupt", [ValueError, KeyboardInterrupt])
def test_an_interrupted_folder_changes_nothing(tmp_path, interrupt):
    target = tmp_path / "checkpoint"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(interrupt), atomic.atomic_folder(target, replace=True) as temporary:
        (temporary / "new").touch()
        raise interrupt
    assert [p.name for p in target.iterdir()] == ["old"] and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_refusing_disk_gives_one_clear_message(tmp_path, code):
    message = r"cannot write .*a\.bin.*;.*choose another place"
    with (
        pytest.raises(atomic.WriteError, match=message) as caught,
        atomic.atomic_path(tmp_path / "a.bin") as temporary,
    ):
        temporary.write_bytes(b"half")
        raise OSError(code, os.strerror(code))
    assert caught.value.errno == code and not list(tmp_path.iterdir())


def test_other_errors_pass_unchanged(tmp_path):
    with pytest.raises(OSError, match="truncated") as caught, atomic.atomic_path(tmp_path / "a"):
        raise OSError("truncated image")
    assert not isinstance(caught.value, atomic.WriteError)
    elsewhere = tmp_path.parent / "source.hdf5"
    with pytest.raises(PermissionError) as caught, atomic.atomic_path(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "denied", str(elsewhere))
    assert not isinstance(caught.value, atomic.WriteError)


def test_a_file_in_the_way_is_explained(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(atomic.WriteError, match="a file where a folder was expected"):
        atomic.write_text(tmp_path / "file" / "inner" / "a.txt", "x")


def test_a_folder_in_the_way_of_a_file_is_explained(tmp_path):
    (tmp_path / "page.html").mkdir()
    with pytest.raises(atomic.WriteError, match=r"page.html: Is a directory; there is a folder of that name"):
        atomic.write_text(tmp_path / "page.html", "x")
    assert list((tmp_path / "page.html").iterdir()) == [] and len(list(tmp_path.iterdir())) == 1


def test_json_that_is_no_object_is_damaged(tmp_path):
    atomic.write_json(tmp_path / "a.json", {"a": [1]})
    assert atomic.read_json(tmp_path / "a.json", "copy it again") == {"a": [1]}
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"a.json is missing or damaged \(it must hold an object, got list\): copy it"):
        atomic.read_json(tmp_path / "a.json", "copy it again")


def test_what_is_read_is_not_written_over(tmp_path):
    atomic.check_apart(tmp_path / "out", tmp_path / "in", tmp_path / "outer")
    for out in ("in", "in/deep/out", "x/../in"):
        with pytest.raises(ValueError, match="which is left as it is: choose another place"):
            atomic.check_apart(tmp_path / out, tmp_path / "else", tmp_path / "in")


@pytest.mark.parametrize("name", ["a.npz", "episode_000000-1c6b1036", "a.hdf5-1c6b1036", ".hidden"])
def test_leftovers_of_a_killed_writer_are_removed(tmp_path, name):
    keep = tmp_path / ".hidden.tmp"
    keep.touch()
    killed = atomic.atomic_path(tmp_path / name)
    killed.__enter__().touch()
    assert len(atomic.remove_leftovers(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == [keep]


def test_numpy_writes_under_the_temporary_name(tmp_path):
    with atomic.atomic_path(tmp_path / "a.npz") as temporary:
        np.savez(temporary, x=np.arange(3))
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_json_is_readable_by_others(tmp_path):
    atomic.write_json(tmp_path / "a.json", {"x": [1, 2]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, 2]}
    with pytest.raises(ValueError, match="JSON compliant"):
        atomic.write_json(tmp_path / "b.json", {"x": float("inf")})
    assert not (tmp_path / "b.json").exists()
