"""What is written is what CPython and NumPy 1 would write, and loads where only the old names are known."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_common.dfl.jpeg_segments import APP15, read_structure
from ml_common.dfl.pickle_writer import EnumMember, dump_pickle, write_dict, write_list
from ml_common.dfl.restricted_pickle import iterate_pickle, read_pickle

GOLDEN = Path(__file__).parents[2] / "golden" / "dfl_faces"

ATOMS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([255, 256, 65535, 65536, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, -(2**63), -128, 2**2000])
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.sampled_from(["x" * 255, "x" * 256, "é" * 200, b"y" * 256, b"z" * 70_000, "w" * 70_000])
)
VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(st.text(max_size=6), inner, max_size=5)
    ),
    max_leaves=30,
)


NUMPY_1_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): np.array(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("facelib.FaceType", "FaceType"): lambda number: ("FaceType", number),
}


class OldReader(pickle.Unpickler):
    """What a NumPy 1 program can find, and nothing else."""

    def find_class(self, module: str, name: str) -> object:
        return NUMPY_1_NAMES[module, name]


def load_as_numpy_1(data: bytes) -> object:
    return OldReader(io.BytesIO(data)).load()


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_plain_values_are_written_as_cpython_writes_them(value) -> None:
    assert dump_pickle(value) == pickle.dumps(value, 4)


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_what_is_written_is_read(value) -> None:
    assert read_pickle(dump_pickle(value)) == value


@pytest.mark.parametrize("count", [0, 1, 2, 999, 1000, 1001, 2000, 2001])
def test_batches_and_streams_are_written_as_cpython_writes_them(count) -> None:
    items = [{"name": f"{index:05d}.jpg", "points": [[1.0, 2.0]] * 3} for index in range(count)]
    assert dump_pickle(items) == pickle.dumps(items, 4)
    pairs = {item["name"]: ((1, 2, 3), item) for item in items}
    assert dump_pickle(pairs) == pickle.dumps(pairs, 4)
    parts: list[bytes] = []
    write_list(parts.append, count, iter(items))
    assert read_pickle(b"".join(parts)) == items
    assert list(iterate_pickle(b"".join(parts))) == items
    parts.clear()
    write_dict(parts.append, count, iter(pairs.items()))
    assert read_pickle(b"".join(parts)) == pairs
    assert list(iterate_pickle(b"".join(parts))) == list(pairs.items())


def test_a_stream_of_fresh_items_is_the_pickle_of_their_list() -> None:
    items = [{"name": f"{index:05d}.jpg", "points": [[float(index), 2.0]]} for index in range(2500)]
    parts: list[bytes] = []
    write_list(parts.append, len(items), iter(items))
    assert b"".join(parts) == pickle.dumps(items, 4)


def test_a_stream_of_the_wrong_length_is_refused() -> None:
    for announced in (1, 3):
        with pytest.raises(ValueError, match=rf"{announced} entries were announced for the pickle, 2 came"):
            write_list(lambda data: None, announced, [1, 2])


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.jpg")), ids=lambda path: path.name)
def test_golden_metadata_is_written_with_the_same_bytes(path) -> None:
    data = path.read_bytes()
    payload = next(data[part.payload : part.stop] for part in read_structure(data).segments if part.marker == APP15)
    assert dump_pickle(read_pickle(payload)) == payload


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f4", "f8", "i1", ">i2", "i8", "u1", "u4", "?"])
def test_arrays_load_by_the_names_of_numpy_1(dtype) -> None:
    base = np.arange(24).reshape(2, 3, 4).astype(dtype)
    arrays = [base, np.asfortranarray(base), base[:, ::2], base[0, 0, 0:0], np.array(base[1, 1, 1]), base]
    data = dump_pickle(arrays)
    assert b"_core" not in data
    for loaded in (load_as_numpy_1(data), read_pickle(data)):
        for ours, given_ in zip(loaded, arrays, strict=True):
            assert ours.dtype == given_.dtype.newbyteorder("<") and ours.shape == given_.shape
            np.testing.assert_array_equal(ours, given_)
        assert loaded[5] is loaded[0]


def test_numpy_numbers_become_plain_and_members_keep_their_number() -> None:
    member = EnumMember("facelib.FaceType", "FaceType", 4)
    loaded = load_as_numpy_1(dump_pickle([np.float32(0.5), np.int64(3), np.bool_(True), member, member]))
    assert loaded == [0.5, 3, True, ("FaceType", 4), ("FaceType", 4)]
    assert [type(item) for item in loaded[:3]] == [float, int, bool]
    assert loaded[3] is loaded[4]


def test_what_deepfacelab_could_not_load_is_refused() -> None:
    deep: list[object] = []
    for _ in range(200):
        deep = [deep]
    cyclic: list[object] = []
    cyclic.append((cyclic,))
    for value in ({1, 2}, object(), np.array(["text"]), np.array([1j]), np.array([None]), 2**3000, deep):
        with pytest.raises(ValueError, match="pickled"):
            dump_pickle(value)
    assert isinstance(dump_pickle(cyclic), bytes)
