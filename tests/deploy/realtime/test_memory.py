"""Run: pytest tests/deploy/realtime/test_memory.py"""

import multiprocessing
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
import pytest

from deploy.realtime import memory
from deploy.realtime.memory import Ring

DTYPE = np.dtype([("stamp", np.int64), ("values", np.float64, (5,))])


@pytest.fixture
def ring():
    ring = Ring.create(DTYPE, 4)
    yield ring
    ring.close()


def write(ring: Ring, number: int) -> None:
    record = ring.empty()
    record["stamp"], record["values"] = number, number
    ring.write(record)


def test_nothing_was_written_yet(ring):
    assert ring.newest() is None
    assert list(Ring(ring.spec).new()) == []


def test_a_reader_gets_each_record_once_and_the_newest_always(ring):
    reader = Ring(ring.spec)
    for number in range(3):
        write(ring, number)
    assert [int(record.value["stamp"]) for record in reader.new()] == [0, 1, 2]
    assert list(reader.new()) == []
    assert reader.newest().number == 2
    write(ring, 3)
    assert [record.number for record in reader.new()] == [3]
    reader.close()


def test_what_was_overwritten_is_missing_from_the_numbers(ring):
    reader = Ring(ring.spec)
    for number in range(10):
        write(ring, number)
    assert [record.number for record in reader.new()] == [6, 7, 8, 9]
    reader.close()


def test_a_record_is_a_copy(ring):
    write(ring, 1)
    kept = ring.newest()
    write(ring, 2)
    for _ in range(4):
        write(ring, 3)
    assert kept.value["stamp"] == 1


def test_half_a_record_is_no_record(ring):
    write(ring, 1)
    ring._bytes[0, 3] ^= 1  # as if the writer were in the middle of it
    assert ring.newest() is None


def test_where_the_last_record_is_broken_the_one_before_it_is_the_newest(ring):
    write(ring, 1)
    write(ring, 2)
    ring._bytes[1, 3] ^= 1
    assert ring.newest().value["stamp"] == 1


def test_a_record_that_changes_while_it_is_written_is_whole(ring, monkeypatch):
    """As that of a heartbeat, which two threads fill in."""
    record, checksum = ring.empty(), memory._checksum

    def late(content, number):
        record["stamp"] += 1
        return checksum(content, number)

    monkeypatch.setattr(memory, "_checksum", late)
    ring.write(record)
    assert ring.newest().value["stamp"] == 0


def hammer(spec, count):
    ring = Ring(spec)
    for number in range(count):
        record = ring.empty()
        record["stamp"], record["values"] = number, number
        ring.write(record)
    ring.close()


def test_a_reader_beside_a_fast_writer_never_sees_two_records_in_one(ring):
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=hammer, args=(ring.spec, 20_000))
    process.start()
    reader, seen = Ring(ring.spec), 0
    while process.is_alive():
        for record in reader.new():
            assert (record.value["values"] == record.value["stamp"]).all()
            seen += 1
    process.join()
    assert process.exitcode == 0
    assert reader.newest().number == 19_999
    assert seen > 0
    reader.close()


def test_the_maker_removes_the_memory():
    ring = Ring.create(DTYPE)
    name = ring.spec.name
    ring.close()
    with pytest.raises(FileNotFoundError):
        SharedMemory(name)
    assert not Path("/dev/shm", name).exists()
