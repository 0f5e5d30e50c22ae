"""Whatever bytes come: only data is built, in proportion to what was given, and only ValueErrors leave."""

from __future__ import annotations

import contextlib
import pickle
import pickletools
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_common.dfl.face_jpeg import read_face_jpeg, read_metadata
from ml_common.dfl.face_metadata import parse_metadata
from ml_common.dfl.jpeg_segments import APP15, read_structure
from ml_common.dfl.meta_dat import read_meta_dat
from ml_common.dfl.pak import ENUMS
from ml_common.dfl.pickle_recalls import recalled_indices
from ml_common.dfl.restricted_pickle import RefusedPickleError, check_extent, iterate_pickle, read_pickle

GOLDEN = Path(__file__).parents[2] / "golden" / "dfl_faces"
ATOMS = (type(None), bool, int, float, str, bytes)


def golden_pickles() -> list[bytes]:
    found = []
    for path in sorted(GOLDEN.glob("*.jpg")):
        data = path.read_bytes()
        found += [data[part.payload : part.stop] for part in read_structure(data).segments if part.marker == APP15]
    for path in sorted(GOLDEN.glob("*.pak")):
        data = path.read_bytes()
        found.append(data[16 : 16 + int.from_bytes(data[8:16], "little")])
    return found


PICKLES = golden_pickles()
PROTOCOL_2 = pickle.dumps({"landmarks": [[1.0, 2.0]] * 3 + [[3.0, 4.0] for _ in range(80)], "n": {"a": (1, b"xyz")}}, 2)


def assert_only_data(value: object) -> None:
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if type(item) is np.ndarray:
            assert item.dtype.kind in "biuf" and item.flags.owndata and item.base is None
        elif type(item) is dict:
            waiting += [*item.keys(), *item.values()]
        elif type(item) in (list, tuple, set, frozenset):
            waiting += list(item)
        else:
            assert type(item) in ATOMS, type(item)


def read_in_every_way(data: bytes) -> None:
    def streamed() -> list[object]:
        return list(iterate_pickle(data, enums=ENUMS))

    readers = (
        lambda: read_pickle(data),
        lambda: read_pickle(data, enums=ENUMS),
        lambda: parse_metadata(read_metadata(data)).other,
        lambda: [saved.metadata for saved in read_meta_dat(data)],
        streamed,
    )
    for reader in readers:
        try:
            assert_only_data(reader())
        except ValueError:
            continue


# Every opcode of every protocol, with arguments that often fit, so that streams get far.
OPCODES = st.sampled_from([bytes([code]) for code in range(256)])
PIECES = st.one_of(
    OPCODES,
    st.sampled_from(
        [
            b"\x80\x04",
            b"(",
            b"]",
            b"}",
            b")",
            b"\x94",
            b"q\x00",
            b"h\x00",
            b"h\x01",
            b"j\x02\x00\x00\x00",
            b"K\x00",
            b"K\x01",
            b"\x85",
            b"\x86",
            b"\x87",
            b"t",
            b"e",
            b"u",
            b"a",
            b"s",
            b"R",
            b"b",
            b"\x8f",
            b"\x90",
            b"\x91",
            b"C\x01b",
            b"C\x04abcd",
            b"\x8c\x02f4",
            b"\x8c\x01<",
            b"\x8c\x06latin1",
            b"NNN",
            b"\x89",
            b"\x88",
            b"G" + struct.pack(">d", 1.5),
            b"]\x94(G" + struct.pack(">d", 1.5) + b"G" + struct.pack(">d", 2.5) + b"e",
            b"]q\x00(G" + struct.pack(">d", 1.5) + b"G" + struct.pack(">d", 2.5) + b"e",
            b"cnumpy.core.multiarray\n_reconstruct\n",
            b"cnumpy.core.multiarray\nscalar\n",
            b"cnumpy\nndarray\n",
            b"cnumpy\ndtype\n",
            b"c_codecs\nencode\n",
            b"cbuiltins\ngetattr\n",
            b"cfacelib.FaceType\nFaceType\n",
            b"cos\nsystem\n",
            b"\x8c\x08builtins\x8c\x04eval\x93",
            b"cnumpy\ndtype\n\x8c\x02f4K\x00K\x01\x87R(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
            b".",
        ]
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes(data) -> None:
    read_in_every_way(data)
    read_in_every_way(b"\x80\x04" + data + b".")


@settings(max_examples=500, deadline=None)
@given(st.lists(PIECES, max_size=40))
def test_random_programs(pieces) -> None:
    read_in_every_way(b"\x80\x04" + b"".join(pieces) + b".")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_golden_pickles(data) -> None:
    mutated = bytearray(data.draw(st.sampled_from([*PICKLES, PROTOCOL_2])))
    # Near the interesting places: what names and builds things lies between the landmarks.
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.integers(0, len(mutated) - 1))
        match data.draw(st.sampled_from(["set", "insert", "delete", "repeat", "cut"])):
            case "set":
                mutated[position] = data.draw(st.integers(0, 255))
            case "insert":
                mutated[position:position] = data.draw(PIECES)
            case "delete":
                del mutated[position : position + data.draw(st.integers(1, 30))]
            case "repeat":
                mutated[position:position] = mutated[position : position + data.draw(st.integers(1, 60))]
            case "cut":
                del mutated[max(position, 1) :]
        if not mutated:
            break
    read_in_every_way(bytes(mutated))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_mutated_golden_jpegs(data) -> None:
    mutated = bytearray(data.draw(st.sampled_from([path.read_bytes() for path in sorted(GOLDEN.glob("*.jpg"))])))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, min(len(mutated), 8000) - 1))
        mutated[position] = data.draw(st.sampled_from([0, 0xFF, 0xD9, 0xDA, 0xEF, data.draw(st.integers(0, 255))]))
    with contextlib.suppress(ValueError):
        assert_only_data(read_face_jpeg(bytes(mutated)).metadata)


# How a class, a function or a stored reference would be reached, opcode by opcode.
HOSTILE = {
    "GLOBAL": b"cos\nsystem\n\x8c\x02id\x85R",
    "STACK_GLOBAL": b"\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R",
    "INST": b"(\x8c\x02idios\nsystem\n",
    "OBJ": b"(cos\nsystem\n\x8c\x02ido",
    "NEWOBJ": b"cbuiltins\nobject\n)\x81",
    "NEWOBJ_EX": b"cbuiltins\nobject\n)}\x92",
    "BUILD": b"}}b",
    "BUILD of a name": b"cnumpy\nndarray\n}b",
    "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\x00",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "PERSID": b"Pid\n",
    "BINPERSID": b"K\x01Q",
    "REDUCE of a number": b"K\x01)R",
    "REDUCE of ndarray": b"cnumpy\nndarray\nK\x05\x85\x85R",
    "getattr of data": b"cbuiltins\ngetattr\n\x8c\x01x\x8c\x09__class__\x86R",
    "getattr of a name": b"cbuiltins\ngetattr\ncnumpy\nndarray\n\x8c\x08__init__\x86R",
    "getattr of an enum": b"cbuiltins\ngetattr\ncfacelib.FaceType\nFaceType\n\x8c\x07__doc__\x86R",
    "an enum's strange number": b"cfacelib.FaceType\nFaceType\nK\x07\x85R",
    "an enum itself": b"cfacelib.FaceType\nFaceType\n",
    "dtype of objects": b"cnumpy\ndtype\n\x8c\x02O8K\x00K\x01\x87R",
    "NEXT_BUFFER": b"\x97",
    "BYTEARRAY8": b"\x96\x01\x00\x00\x00\x00\x00\x00\x00x",
    "LONG4": b"\x8b\x01\x00\x00\x00\x01",
    "protocol 0 text": b"S'x'\n",
    "a name without end": b"c" + b"a" * 1000,
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_every_way_to_reach_an_object_is_refused(name) -> None:
    for wrapped in (HOSTILE[name], b"](" + HOSTILE[name] + b"e", b"}\x8c\x01k" + HOSTILE[name] + b"s"):
        data = b"\x80\x04" + wrapped + b"."
        for enums in (None, ENUMS):
            with pytest.raises(RefusedPickleError):
                read_pickle(data, enums=enums)
            with pytest.raises(RefusedPickleError):
                list(iterate_pickle(data, enums=enums))


def test_getattr_is_not_even_a_name_where_no_enumeration_is_expected() -> None:
    data = b"\x80\x04cbuiltins\ngetattr\ncfacelib.FaceType\nFaceType\n\x8c\x04HEAD\x86R."
    assert read_pickle(data, enums=ENUMS) == 10
    with pytest.raises(RefusedPickleError, match=r"builtins\.getattr"):
        read_pickle(data)


FLOATS = b"cnumpy\ndtype\n\x8c\x02f4K\x00K\x01\x87R(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
EMPTY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"


def shaped(*sizes: bytes, raw: bytes = b"C\x00") -> bytes:
    """An array that claims this shape."""
    return EMPTY + b"(K\x01(" + b"".join(sizes) + b"t" + FLOATS + b"\x89" + raw + b"tb"


def bombs() -> Iterator[tuple[str, str, bytes]]:
    doubled = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))
    yield "a shape of two to the sixtieth", "impossible shape", EMPTY + b"(K\x01)" + doubled + FLOATS + b"\x89C\x00tb"
    yield "a shape nested deeply", "impossible shape", EMPTY + b"(K\x01)" + b"\x85" * 50_000 + FLOATS + b"\x89C\x00tb"
    yield "sizes beyond 64 bits", "impossible shape", shaped(b"K\x00", b"\x8a\x10" + b"\x7f" * 16)
    yield (
        "sizes that overflow",
        "0 bytes for an array",
        shaped(b"K\x00", b"J\xff\xff\xff\x7f", b"J\xff\xff\xff\x7f", b"J\xff\xff\xff\x7f"),
    )
    yield "a thousand dimensions", "1000 dimensions", shaped(*[b"K\x00"] * 1000)
    yield "enormous sizes multiplied", "200 dimensions", shaped(*[b"\x8a\xff" + b"\x7f" * 255] * 200)
    yield (
        "a code that is long",
        "of dtype 'fff",
        b"cnumpy\ndtype\nX" + struct.pack("<I", 100_000) + b"f" * 100_000 + b"K\x00K\x01\x87R",
    )
    shared = b"]C\xfc" + b"x" * 252 + b"q\x000" + FLOATS + b"q\x010" + EMPTY[:-1] + b"q\x0200"
    one = b"cnumpy.core.multiarray\n_reconstruct\nh\x02R(K\x01K\x3f\x85h\x01\x89h\x00tba"
    yield "one array's bytes used again and again", "more bytes of arrays", shared + one * 2000
    text = b"]X" + struct.pack("<I", 50_000) + b"x" * 50_000 + b"q\x000"
    yield (
        "one text encoded again and again",
        "more bytes of arrays",
        text + b"c_codecs\nencode\nh\x00\x8c\x06latin1\x86Ra" * 3000,
    )
    prime = (1 << 61) - 1
    keys = b"".join(b"\x8a\x0b" + (prime * n).to_bytes(11, "little") + b"N" for n in range(1, 30_000))
    yield "keys that collide", "keys that are not text", b"}(" + keys + b"u"
    wide = b"}(" + b"N" * 20_000 + b"tq\x000}" + b"h\x00Ns" * 20_000
    yield "a wide tuple as a key again and again", "keys that are not text", wide
    yield "a long key", "a key of 100000", b"}X" + struct.pack("<I", 100_000) + b"k" * 100_000 + b"Ns"


@pytest.mark.parametrize(("why", "body"), [bomb[1:] for bomb in bombs()], ids=[bomb[0] for bomb in bombs()])
def test_bombs_are_refused_before_they_cost_anything(why, body) -> None:
    data = b"\x80\x02" + body + b"."
    tracemalloc.start()
    try:
        for reader in (read_pickle, lambda raw: list(iterate_pickle(raw))):
            with pytest.raises(RefusedPickleError, match=why) as refusal:
                reader(data)
            assert len(str(refusal.value)) < 300
        assert tracemalloc.get_traced_memory()[1] < 20_000_000 + 100 * len(data)
    finally:
        tracemalloc.stop()


def test_values_that_unfold_without_end_are_noticed() -> None:
    level: list[object] = []
    for _ in range(60):
        level = [level, level]
    shared = read_pickle(pickle.dumps(level, 4))
    with pytest.raises(RefusedPickleError, match="unfolds to more than 1000 values"):
        check_extent(shared, max_depth=100, max_values=1000)
    cyclic: list[object] = []
    cyclic.append(cyclic)
    with pytest.raises(RefusedPickleError, match="more than 16 deep"):
        check_extent(read_pickle(pickle.dumps(cyclic, 4)), max_depth=16, max_values=1000)
    with pytest.raises(RefusedPickleError, match="more than 16 deep"):
        read_metadata(pickle.dumps({"other": cyclic}, 4))
    check_extent({"a": [1, (2, {3})], "b": np.zeros(10_000)}, max_depth=4, max_values=10)


def test_streams_hold_a_batch_at_a_time() -> None:
    def peak_bytes(count: int) -> int:
        faces = [{"name": f"{index:07d}", "points": [[float(index), 1.0] for _ in range(20)]} for index in range(count)]
        data = pickle.dumps(faces, 4)
        del faces
        tracemalloc.start()
        try:
            assert sum(1 for _ in iterate_pickle(data)) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # Twice the faces need hardly more: only the numbers of what is recalled, which is the same few keys.
    assert peak_bytes(4000) < 1.2 * peak_bytes(2000)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_streams_give_what_reading_gives(protocol) -> None:
    points = [[float(n), -float(n)] for n in range(300)]
    value = [
        {"points": points, "again": points[7], "array": np.arange(6.0), "n": [[1.0, 2.0]]},
        "text",
        None,
        [points[0]],
    ]
    data = pickle.dumps(value, protocol)
    read, streamed = read_pickle(data), list(iterate_pickle(data))
    for result in (read, streamed):
        np.testing.assert_array_equal(result[0].pop("array"), np.arange(6.0))
        assert result[0] == {"points": points, "again": points[7], "n": [[1.0, 2.0]]} and result[1:] == value[1:]
        assert result[0]["again"] is result[0]["points"][7] and result[3][0] is result[0]["points"][0]


def test_what_is_recalled_is_found() -> None:
    for data in [*PICKLES, PROTOCOL_2]:
        wanted = {
            argument if name in ("BINGET", "LONG_BINGET") else None
            for name, argument in ((op.name, argument) for op, argument, _ in pickletools.genops(data))
        } - {None}
        assert recalled_indices(memoryview(data)) == wanted


def test_a_stream_is_a_list_or_a_dictionary() -> None:
    for value in (1, "text", (1, 2), {1, 2}):
        with pytest.raises(RefusedPickleError):
            list(iterate_pickle(pickle.dumps(value, 4)))
    assert list(iterate_pickle(pickle.dumps([], 4))) == list(iterate_pickle(pickle.dumps({}, 4))) == []
