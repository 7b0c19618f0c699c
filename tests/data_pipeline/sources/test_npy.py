"""pytest tests/data_pipeline/sources/test_npy.py: pickled arrays are read as data, and nothing in them runs."""

from __future__ import annotations

import collections
import os
import pickle

import numpy as np
import pytest

from data_pipeline.sources.npy import UnsafeFileError, read_npy

SAVED = {
    "serial": [
        {"timestamp": np.int64(5), "tcp": np.arange(7.0)},
        {"timestamp": 6, "tcp": np.asfortranarray(np.eye(3))},
    ],
    "joint": {1_600_000_000_000: np.arange(6, dtype=">f4")},
    "plain": [1, 2.5, "text", None, True, b"\xff"],
    "texts": np.array(["left", "right"]),
    "objects": np.array([{"a": 1}, None], dtype=object),
    "ordered": collections.OrderedDict(a=np.float32(2)),
}


def write_pickled(path, value, protocol=4):
    """An .npy file whose object array is any pickle."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(value if isinstance(value, bytes) else pickle.dumps(value, protocol))


def test_what_numpy_saved_comes_back(tmp_path):
    np.save(tmp_path / "a.npy", SAVED, allow_pickle=True)
    found = read_npy(tmp_path / "a.npy")
    expected = np.load(tmp_path / "a.npy", allow_pickle=True).item()
    np.testing.assert_equal({**found, "objects": None}, {**expected, "objects": None})
    assert found["joint"][1_600_000_000_000].dtype == ">f4" and found["objects"] == [{"a": 1}, None]


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol(tmp_path, protocol):
    write_pickled(tmp_path / "a.npy", np.array(SAVED, dtype=object), protocol)
    np.testing.assert_equal(read_npy(tmp_path / "a.npy")["serial"], SAVED["serial"])


@pytest.mark.parametrize("array", [np.arange(6).reshape(2, 3), np.array([], dtype=np.float32), np.array("text")])
def test_arrays_need_no_pickle(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(read_npy(tmp_path / "a.npy"), array)


def test_an_object_array_is_a_list(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}, "b"], dtype=object), allow_pickle=True)
    assert read_npy(tmp_path / "a.npy") == [{"a": 1}, "b"]


class Program:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("program", "name"),
    [
        (lambda path: Program(os.system, f"touch {path}"), "system"),
        (lambda path: Program(eval, f"open({str(path)!r}, 'w')"), "builtins.eval"),
        (lambda path: Program(np.load, str(path)), "load"),
        (lambda path: Program(getattr, "", "join"), "builtins.getattr"),
    ],
)
def test_a_program_is_refused_by_name_and_does_not_run(tmp_path, program, name):
    ran = tmp_path / "ran"
    write_pickled(tmp_path / "a.npy", np.array({"joint": program(ran)}, dtype=object))
    with pytest.raises(UnsafeFileError, match=rf"a.npy: asks for .*{name}, which is no data"):
        read_npy(tmp_path / "a.npy")
    assert not ran.exists()


def test_bytes_cannot_pose_as_objects(tmp_path):
    """Raw bytes under an object type would be addresses; a type's state may not change what it is."""
    honest = pickle.dumps(np.array(np.arange(8), dtype=object), 2)
    lying = honest.replace(b"X\x02\x00\x00\x00O8", b"X\x02\x00\x00\x00i8")
    assert lying != honest
    write_pickled(tmp_path / "a.npy", lying)
    with pytest.raises(ValueError, match="cannot be read"):
        read_npy(tmp_path / "a.npy")
    posing = pickle.dumps(np.int64(7), 2).replace(b"X\x02\x00\x00\x00i8", b"X\x02\x00\x00\x00O8")
    write_pickled(tmp_path / "a.npy", posing)
    with pytest.raises(ValueError, match="bytes where objects are"):
        read_npy(tmp_path / "a.npy")


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98])
def test_a_file_that_is_cut_short_is_named(tmp_path, share):
    np.save(tmp_path / "a.npy", SAVED, allow_pickle=True)
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"a.npy: cannot be read, it is cut short or no .npy file"):
        read_npy(tmp_path / "a.npy")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*a.npy"):
        read_npy(tmp_path / "a.npy")


def test_a_few_bytes_that_stand_for_gigabytes_are_refused(tmp_path):
    value: list = [0]
    for _ in range(12):
        value = [value] * 10
    write_pickled(tmp_path / "a.npy", np.array([{"joint": value}], dtype=object)[0])
    assert (tmp_path / "a.npy").stat().st_size < 1000
    with pytest.raises(ValueError, match="more entries than it has bytes"):
        read_npy(tmp_path / "a.npy")


def test_entries_that_are_one_thing_may_be_many(tmp_path):
    np.save(tmp_path / "a.npy", np.array([None] * 1000, dtype=object), allow_pickle=True)
    assert read_npy(tmp_path / "a.npy") == [None] * 1000
