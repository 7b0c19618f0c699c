"""Run: pytest tests/deploy/serve/test_wire.py"""

import contextlib

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deploy.serve.wire import MAX_ENTRIES, WireError, as_map, pack, unpack

# spec interop.md section 8.3
GOLDEN = bytes.fromhex(
    "81a16184c40b5f5f6e6461727261795f5fc3c40464617461c4080000000000000000c4056474797065a33c6634c40573686170659102"
)

numbers = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?"),
    hnp.unicode_string_dtypes(endianness="?", min_len=1, max_len=5),
    hnp.byte_string_dtypes(min_len=1, max_len=5),
)
arrays = hnp.arrays(numbers, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
plain = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(), st.binary())
messages = st.recursive(
    st.one_of(plain, arrays), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


def same(left, right) -> bool:
    if isinstance(left, np.ndarray):
        fits = isinstance(right, np.ndarray) and left.dtype == right.dtype and left.shape == right.shape
        return fits and left.tobytes() == right.tobytes()
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and (left == right or left != left)


def test_the_bytes_are_those_of_the_protocol():
    assert pack({"a": np.zeros(2, np.float32)}) == GOLDEN
    assert same(unpack(GOLDEN), {"a": np.zeros(2, np.float32)})


@given(messages)
@settings(deadline=None)
def test_what_is_packed_comes_back(message):
    assert same(message, unpack(pack(message)))


@given(hnp.arrays(st.sampled_from(["<f4", ">i2", "|u1"]), (2, 3, 4)), st.permutations(range(3)))
@settings(deadline=None)
def test_memory_order_does_not_show(array, axes):
    turned = array.transpose(axes)
    assert same(np.ascontiguousarray(turned), unpack(pack(turned)))
    assert same(np.ascontiguousarray(array[:, ::-1]), unpack(pack(np.asfortranarray(array[:, ::-1]))))


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "float32", ">f4"])
def test_a_numpy_scalar_keeps_its_type(dtype):
    scalar = np.ones((), dtype)[()]
    back = unpack(pack(scalar))
    assert type(back) is type(scalar)
    assert back == scalar


def test_decoded_arrays_are_read_only():
    assert not unpack(pack(np.zeros(3))).flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        unpack(pack(np.zeros(3)))[0] = 1


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()]),
        np.zeros(2, "i4,f4"),
        np.zeros(2, complex),
        np.complex64(1),
        np.datetime64("2020-01-01"),
        object(),
        2**70,
        {1, 2},
    ],
)
def test_what_cannot_travel_is_refused_by_name(value):
    with pytest.raises(WireError, match=r"refused|cannot"):
        pack({"a": value})


def array_map(dtype="<f4", shape=(2,), data=bytes(8)):
    return {b"__ndarray__": True, b"dtype": dtype, b"shape": shape, b"data": data}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (array_map(dtype="O"), "refused"),
        (array_map(dtype="|O8"), "refused"),
        (array_map(dtype="i4,f4"), "refused"),
        (array_map(dtype="V8"), "refused"),
        (array_map(dtype="<c8"), "refused"),
        (array_map(dtype="nonsense"), "numpy name"),
        (array_map(dtype="S0"), "numpy name"),
        (array_map(dtype=7), "numpy name"),
        (array_map(shape=(3,)), "has 12 bytes, got 8"),
        (array_map(shape=(2**62, 2**62)), "bytes, got 8"),
        (array_map(shape=(-2,)), "whole numbers"),
        (array_map(shape=(True, 2)), "whole numbers"),
        (array_map(shape="22"), "whole numbers"),
        (array_map(shape=None), "whole numbers"),
        (array_map(shape=(0,) * 100, data=b""), "no array"),
        (array_map(shape=(0, 2**63), data=b""), "no array"),
        (array_map(data="text"), "must be bytes"),
        ({b"__ndarray__": True}, "numpy name"),
        ({b"__npgeneric__": True, b"dtype": "<f4", b"data": "1"}, "number"),
        ({b"__npgeneric__": True, b"dtype": "<M8[s]", b"data": 1}, "number"),
        ({b"__npgeneric__": True, b"dtype": "|u1", b"data": 300}, "cannot hold"),
        ([0] * (MAX_ENTRIES + 1), "not msgpack"),
        (msgpack.ExtType(5, b"x"), "extension"),
    ],
)
def test_an_array_that_cannot_be_one_is_refused(value, message):
    with pytest.raises(WireError, match=message):
        unpack(msgpack.packb({"a": value}))


@pytest.mark.parametrize("data", [b"", b"\xc1", GOLDEN[:-1], GOLDEN + b"\x00", b"\x91" * 5000, b"\xdd\xff\xff\xff\xff"])
def test_what_is_no_message_is_refused(data):
    with pytest.raises(WireError, match="not msgpack"):
        unpack(data)


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_no_bytes_do_anything_but_decode_or_be_refused(data):
    with contextlib.suppress(WireError):
        unpack(data)


def test_a_message_beyond_the_bound_is_refused():
    with pytest.raises(WireError, match="54 bytes, and 53 is the largest"):
        unpack(GOLDEN, max_bytes=53)


@pytest.mark.parametrize("message", [3, [1], {b"state": 1}, None])
def test_a_message_is_a_map_with_text_keys(message):
    with pytest.raises(WireError, match="map with text keys"):
        as_map(message)
