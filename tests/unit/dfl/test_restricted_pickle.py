"""The reader builds what weight files hold and refuses, by name, whatever could do something."""

from __future__ import annotations

import collections
import os
import pickle
import random
import struct

import numpy as np
import pytest

from ml_common.dfl.restricted_pickle import RefusedPickleError, read_pickle
from ml_common.dfl.weight_file import read_weight_file


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_plain_values_come_back(protocol) -> None:
    shared = [1, 2]
    value = {
        "numbers": [0, -1, 255, 65535, 2**31, -(2**40), 2**100, 1.5, float("inf"), True, False, None],
        "text": ["", "é", "x" * 300, "\ud800"],
        "bytes": [b"", b"\x00\xff" * 200],
        "containers": [(), (1,), (1, 2, 3, 4), {3, 4}, frozenset({5}), {"a": {"b": []}}, {(1, "x"): 2}],
        "shared": [shared, shared],
    }
    if protocol < 4:
        value["containers"] = [item for item in value["containers"] if not isinstance(item, (set, frozenset))]
    result = read_pickle(pickle.dumps(value, protocol))
    assert result == value
    assert result["shared"][0] is result["shared"][1]


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["f2", "f4", ">f4", "f8", "i1", "i8", "u2", "?"])
def test_arrays_come_back(protocol, dtype) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    values = [array, np.asfortranarray(array), array[:, ::2], np.zeros((0, 5), dtype), array[0, 0, 0], array]
    result = read_pickle(pickle.dumps(values, protocol))
    for ours, theirs in zip(result[:4], values[:4], strict=True):
        assert ours.dtype == theirs.dtype.newbyteorder("=") and ours.dtype.isnative
        assert ours.flags.c_contiguous and ours.flags.writeable and ours.flags.owndata
        np.testing.assert_array_equal(ours, theirs)
    assert result[4] == array[0, 0, 0].item()
    assert type(result[4]) in (bool, int, float)
    assert result[5] is result[0]


class Exploding:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("echo this must never run",)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Exploding(), "posix.system|nt.system"),
        ({"a": [Exploding()]}, "posix.system|nt.system"),
        (eval, "builtins.eval"),
        (collections.OrderedDict(a=1), "collections.OrderedDict"),
        (np.ma.masked_array([1.0]), "numpy.ma"),
        (complex(1, 2), "builtins.complex"),
        (np.array([{}], dtype=object), "dtype 'O8'"),
        (np.array(["text"]), "dtype 'U4'"),
        (np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]), "dtype 'V8'"),
        (np.float32, "numpy.float32"),
        (bytearray(b"x"), "builtins.bytearray"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_everything_else_is_refused_by_name(value, named, protocol) -> None:
    if protocol == 2:
        named = named.replace("builtins", "(builtins|__builtin__)")
    with pytest.raises(RefusedPickleError, match=named):
        read_pickle(pickle.dumps(value, protocol))


def global_opcode(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


NDARRAY = global_opcode("numpy", "ndarray")
RECONSTRUCT = global_opcode("numpy.core.multiarray", "_reconstruct")
EMPTY_ARRAY = RECONSTRUCT + NDARRAY + b"K\x00\x85C\x01b\x87R"
FLOAT32 = global_opcode("numpy", "dtype") + b"\x8c\x02f4K\x00K\x01\x87R"


@pytest.mark.parametrize(
    "body",
    [
        NDARRAY,
        EMPTY_ARRAY,
        b"]" + EMPTY_ARRAY + b"a",
        b"]" + EMPTY_ARRAY + b"\x85a",
        b"}\x8c\x01k" + NDARRAY + b"s",
        b"(" + FLOAT32 + b"t",
        NDARRAY + b"K\x05\x85R",  # ndarray called directly
        NDARRAY + b"}b",  # a state for a name
        FLOAT32 + b"(K\x03\x8c\x01<" + FLOAT32 + b"NNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",  # a sub-array dtype
        EMPTY_ARRAY + b"(K\x01K\xff\x85" + FLOAT32 + b"\x89C\x04abcdtb",  # 255 floats in 4 bytes
        EMPTY_ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + FLOAT32 + b"\x89C\x00tb",  # a negative size
        EMPTY_ARRAY + b"(K\x01K\x01\x85" + FLOAT32 + b"\x89]tb",  # a list for bytes
        b"]h\x07a",  # a memo entry that does not exist
        b"K\x01K\x02a",
        b"t",
        b"}]K\x01s",  # a list as a key
        b"\x82\x01",  # the extension registry
        b"Pid\n",  # a persistent id
    ],
)
def test_makings_and_tricks_are_refused(body) -> None:
    with pytest.raises(RefusedPickleError):
        read_pickle(b"\x80\x04" + body + b".")


def test_damaged_data_is_refused_and_never_breaks_the_reader() -> None:
    data = pickle.dumps({"a/weight:0": np.arange(6, dtype=np.float32), "iters:0": np.int64(3), "t": (1.5, "x")}, 4)
    for length in range(len(data)):
        with pytest.raises(RefusedPickleError):
            read_pickle(data[:length])
    draw = random.Random(0)
    for _ in range(3000):
        damaged = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        try:
            read_pickle(bytes(damaged))
        except RefusedPickleError:
            continue


def test_claimed_sizes_cost_nothing() -> None:
    for opcode, size in ((b"\x8e", struct.pack("<Q", 2**62)), (b"B", struct.pack("<I", 2**32 - 1))):
        with pytest.raises(RefusedPickleError, match="cut short"):
            read_pickle(b"\x80\x04" + opcode + size + b"x.")
    assert read_pickle(b"\x80\x04K\x01r\xff\xff\xff\xff.") == 1  # an enormous memo index is only a key


def test_deep_nesting_is_no_recursion() -> None:
    assert isinstance(read_pickle(b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b"."), list)
    assert isinstance(read_pickle(b"\x80\x04)" + b"\x85" * 100_000 + b"."), tuple)


def test_a_tuple_that_contains_itself_a_billion_times_is_cheap() -> None:
    doubled = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))
    assert isinstance(read_pickle(b"\x80\x04)" + doubled + b"]q\xff0h\xffK\x01a."), list)


def test_weight_files() -> None:
    weights = {"down1/conv1/weight:0": np.ones((2, 3), np.float32), "iters:0": np.int64(6)}
    arrays = read_weight_file(pickle.dumps(weights, 4))
    assert list(arrays) == list(weights)
    assert arrays["iters:0"].shape == () and arrays["iters:0"] == 6
    for wrong in ([1.0], {1: np.ones(2)}, {"a": "text"}):
        with pytest.raises(RefusedPickleError):
            read_weight_file(pickle.dumps(wrong, 4))
