"""TFRecord framing and the wire format of tf.train.Example: round trips, and every kind of damage.

Run: pytest tests/data_pipeline/sources/test_tfrecord.py
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data_pipeline.sources.raw import Fault
from data_pipeline.sources.tfrecord import masked_crc32c, parse_example, read_records
from tests.data_pipeline.sources.rlds_files import example, field, framed, varint

PAYLOADS = [b"first", b"", b"third" * 100]
int64 = hnp.arrays(np.int64, st.integers(1, 30), elements=st.integers(-(2**63), 2**63 - 1))
float32 = hnp.arrays(np.float32, st.integers(1, 30), elements=st.floats(width=32))
values = st.one_of(int64, float32, st.lists(st.binary(max_size=300), min_size=1))


def records(tmp_path, content: bytes) -> list:
    path = tmp_path / "x.tfrecord"
    path.write_bytes(content)
    return list(read_records(path))


def test_known_crc():
    # crc32c("123456789") = 0xe3069283, the check value of the polynomial, then rotated by 15 and shifted
    crc = 0xE3069283
    assert masked_crc32c(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def test_records_come_back(tmp_path):
    assert records(tmp_path, b"".join(map(framed, PAYLOADS))) == PAYLOADS


def test_empty_file_has_no_records(tmp_path):
    assert records(tmp_path, b"") == []


def test_bad_payload_costs_its_record_alone(tmp_path):
    content = bytearray(b"".join(map(framed, PAYLOADS)))
    content[12] ^= 1  # the first byte of the first payload
    fault, *rest = records(tmp_path, bytes(content))
    assert fault.kind == "bad_crc"
    assert fault.where == "x.tfrecord, record 0"
    assert rest == PAYLOADS[1:]


def test_bad_length_ends_the_file(tmp_path):
    content = bytearray(b"".join(map(framed, PAYLOADS)))
    content[len(framed(PAYLOADS[0]))] ^= 1
    first, fault = records(tmp_path, bytes(content))
    assert first == PAYLOADS[0]
    assert fault.kind == "bad_crc"
    assert "not read on" in fault.message


@pytest.mark.parametrize("missing", [1, 5, 300, 500, 515])
def test_short_tail_is_told(tmp_path, missing):
    content = b"".join(map(framed, PAYLOADS))
    *rest, fault = records(tmp_path, content[:-missing])
    assert rest == PAYLOADS[:2]
    assert isinstance(fault, Fault)
    assert fault.kind == "truncated"


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=20), values, max_size=6))
def test_examples_come_back(features):
    parsed = parse_example(example(features))
    assert set(parsed) == set(features)
    for name, value in features.items():
        if isinstance(value, list):
            assert parsed[name] == value
        else:
            assert parsed[name].dtype == value.dtype
            np.testing.assert_array_equal(parsed[name], value)


def test_an_empty_feature_is_none():
    empty = {"nothing": None, "bytes": [], "floats": np.zeros(0, np.float32), "ints": np.zeros(0, np.int64)}
    assert parse_example(example(empty)) == dict.fromkeys(empty)


def test_numbers_that_are_not_packed():
    floats = b"".join(varint(1 << 3 | 5) + np.float32(x).tobytes() for x in (1.5, -2.5))
    integers = b"".join(varint(1 << 3) + varint(x) for x in (3, -4, 2**40))
    entries = {"floats": field(2, floats), "ints": field(3, integers)}
    message = field(1, b"".join(field(1, field(1, k.encode()) + field(2, v)) for k, v in entries.items()))
    parsed = parse_example(message)
    assert parsed["floats"].tolist() == [1.5, -2.5]
    assert parsed["ints"].tolist() == [3, -4, 2**40]


@given(st.binary(max_size=200))
def test_noise_is_refused_or_parsed_never_a_crash(noise):
    try:
        parse_example(noise)
    except ValueError as error:
        assert "no tf.train.Example" in str(error)


@given(st.integers(1, 380))
def test_a_cut_message_is_refused(cut):
    message = example({"text": [b"word" * 20], "ints": np.arange(100), "floats": np.ones(40, np.float32)})
    with pytest.raises(ValueError, match=r"no tf\.train\.Example"):
        parse_example(message[:-cut])
