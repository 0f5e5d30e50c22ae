"""faceset.pak: DeepFaceLab's own are read and written again; damage is named and the rest stays readable."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ml_common.dfl.face_jpeg import read_face_jpeg, without_metadata
from ml_common.dfl.pak import PakError, PakReader
from ml_common.dfl.pak_writer import PakEntry, write_pak

GOLDEN = Path(__file__).parents[2] / "golden" / "dfl_faces"
PAKS = [GOLDEN / "faceset.pak", GOLDEN / "faceset_persons.pak"]
NAMES = [path.name for path in sorted(GOLDEN.glob("*.jpg"))]


def golden_jpeg(entry: PakEntry) -> bytes:
    return (GOLDEN / entry.name).read_bytes()


def split(data: bytes) -> tuple[int, int]:
    """Where the offset table and where the data begin."""
    table = 16 + int.from_bytes(data[8:16], "little")
    return table, table + 5 * 8


@pytest.mark.parametrize("path", PAKS, ids=lambda path: path.stem)
def test_golden_paks_hold_their_files(path) -> None:
    with PakReader(path) as pak:
        assert len(pak) == 4 and pak.verify() == []
        assert sorted(face.name for face in pak.faces) == NAMES
        for face, data in pak:
            assert data == (GOLDEN / face.name).read_bytes()
        persons = [face.person for face in pak.faces]
        assert persons == (["person0"] * 2 + ["person1"] * 2 if "persons" in path.name else [""] * 4)
        assert pak.faces[0].path == ("person0/00000_0.jpg" if persons[0] else "00000_0.jpg")


def test_golden_configurations() -> None:
    expected = json.loads((GOLDEN / "faceset_expected.json").read_text())
    with PakReader(PAKS[0]) as pak:
        for face, found, wanted in zip(pak.faces, pak.configurations(), expected, strict=True):
            for key in ("filename", "face_type", "landmarks", "eyebrows_expand_mod", "source_filename", "person_name"):
                assert found[key] == wanted[key]
            assert list(found["shape"]) == wanted["shape"] and found["sample_type"] == 1
            assert (found["xseg_mask_compressed"] is not None) is wanted["has_xseg"]
            start, size = wanted["offset_size"]
            assert face.offset == start
            # What DeepFaceLab itself believes of the last size is too much by the data's start.
            assert face.size_bytes == (size if face is not pak.faces[-1] else size - pak.faces[0].offset)
            assert hashlib.sha1(pak.read_jpeg(pak.faces.index(face))).hexdigest() == wanted["sha1"]


@pytest.mark.parametrize("path", PAKS, ids=lambda path: path.stem)
def test_golden_paks_are_written_byte_for_byte_but_for_the_end_offset(path, tmp_path) -> None:
    with PakReader(path) as pak:
        entries = [PakEntry(face.name, face.person) for face in reversed(pak.faces)]
    write_pak(tmp_path / "faceset.pak", entries, golden_jpeg)
    assert [file.name for file in tmp_path.iterdir()] == ["faceset.pak"]
    theirs, ours = path.read_bytes(), (tmp_path / "faceset.pak").read_bytes()
    table, data = split(theirs)
    assert ours[: data - 8] == theirs[: data - 8] and ours[data:] == theirs[data:]
    assert struct.unpack("<Q", theirs[data - 8 : data])[0] == len(theirs)
    assert struct.unpack("<Q", ours[data - 8 : data])[0] == len(theirs) - data
    with PakReader(tmp_path / "faceset.pak") as pak:
        assert pak.verify() == [] and table < pak.faces[0].offset == data


def test_reading_is_random_and_concurrent(tmp_path) -> None:
    with PakReader(PAKS[0]) as pak, ThreadPoolExecutor(4) as pool:
        indices = [int(index) for index in np.random.default_rng(0).integers(0, 4, 200)]
        for index, data in zip(indices, pool.map(pak.read_jpeg, indices), strict=True):
            assert data == (GOLDEN / pak.faces[index].name).read_bytes()
        with pytest.raises(IndexError):
            pak.read_jpeg(4)


def test_many_faces_and_none(tmp_path) -> None:
    entries = [PakEntry(f"{number:05d}_0.jpg", f"p{number % 3}") for number in range(1003)]
    write_pak(tmp_path / "many.pak", entries, lambda entry: golden_jpeg(PakEntry(NAMES[int(entry.name[:5]) % 4])))
    with PakReader(tmp_path / "many.pak") as pak:
        assert [(face.person, face.name) for face in pak.faces] == sorted(
            (entry.person, entry.name) for entry in entries
        )
        assert pak.read_jpeg(1000) == (GOLDEN / NAMES[int(pak.faces[1000].name[:5]) % 4]).read_bytes()
    write_pak(tmp_path / "none.pak", [], golden_jpeg)
    with PakReader(tmp_path / "none.pak") as pak:
        assert len(pak) == 0 and pak.verify() == []


def test_what_cannot_be_packed_is_named_and_leaves_no_file(tmp_path) -> None:
    def bare(entry: PakEntry) -> bytes:
        return without_metadata(golden_jpeg(entry))

    def cut(entry: PakEntry) -> bytes:
        return golden_jpeg(entry)[:-20]

    calls: list[str] = []

    def changing(entry: PakEntry) -> bytes:
        calls.append(entry.name)
        return golden_jpeg(PakEntry(NAMES[len(calls) % 4]))

    one = [PakEntry(NAMES[0], "anna")]
    for entries, jpeg_of, why in (
        (one, bare, "anna/00000_0.jpg cannot be packed: the JPEG carries no metadata"),
        (one, cut, "anna/00000_0.jpg cannot be packed: the JPEG is cut short"),
        (one, changing, "anna/00000_0.jpg changed while"),
        (one * 2, golden_jpeg, "anna/00000_0.jpg repeats"),
        ([PakEntry("../x.jpg")], golden_jpeg, "cannot be a file name"),
        ([PakEntry("x.jpg", "..")], golden_jpeg, "cannot be a file name"),
        ([PakEntry("x.png")], golden_jpeg, "must end in .jpg"),
    ):
        with pytest.raises(ValueError, match=why):
            write_pak(tmp_path / "x.pak", entries, jpeg_of)
    assert list(tmp_path.iterdir()) == []


def damaged(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "damaged.pak"
    path.write_bytes(data)
    return path


def intact(path: Path) -> tuple[list[str], list[str]]:
    """Names of the faces that can be read, and the damage that was told."""
    told: list[PakError] = []
    with PakReader(path, on_error=told.append) as pak:
        names = []
        for face, data in pak:
            assert read_face_jpeg(data).metadata is not None
            names.append(face.path)
        return names, [str(error) for error in told]


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("whole", [0, 1, 2, 3])
def test_a_pak_cut_short_gives_its_first_faces(whole, ours, tmp_path) -> None:
    if ours:
        write_pak(tmp_path / "ours.pak", [PakEntry(name) for name in NAMES], golden_jpeg)
    data = (tmp_path / "ours.pak" if ours else PAKS[0]).read_bytes()
    with PakReader(PAKS[0]) as pak:
        last = pak.faces[whole]
    for length in (last.offset, last.offset + 1, last.offset + last.size_bytes - 1):
        path = damaged(tmp_path, data[:length])
        with pytest.raises(PakError, match=rf"damaged.pak: the file is cut short: it ends at byte {length}"):
            PakReader(path)
        names, told = intact(path)
        assert names == NAMES[:whole]
        assert len(told) == 1 + 4 - whole and f"{NAMES[whole]} (number {whole})" in told[1]


@pytest.mark.parametrize(
    ("length", "why"),
    [(0, "its header"), (15, "its header"), (100, "its configuration"), (11_940, "its offset table")],
)
def test_a_pak_cut_before_its_faces_holds_nothing(length, why, tmp_path) -> None:
    path = damaged(tmp_path, PAKS[0].read_bytes()[:length])
    for on_error in (None, lambda error: None):
        with pytest.raises(PakError, match=f"cut short within {why}"):
            PakReader(path, on_error=on_error)


def test_another_version_is_refused(tmp_path) -> None:
    path = damaged(tmp_path, b"\x02" + PAKS[0].read_bytes()[1:])
    with pytest.raises(PakError, match="version 2; only version 1"):
        PakReader(path, on_error=lambda error: None)


def replaced_configuration(payload: bytes) -> bytes:
    """The golden pak with another configuration."""
    data = PAKS[0].read_bytes()
    table, faces = split(data)
    offsets = data[table : faces - 8] + struct.pack("<Q", len(data) - faces)
    return struct.pack("<QQ", 1, len(payload)) + payload + offsets + data[faces:]


HOSTILE = b"\x80\x04](cos\nsystem\n\x8c\x02id\x85Re."


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (HOSTILE, r"os\.system, which is not data"),
        (b"\x80\x04garbage", "opcode"),
        (pickle.dumps([1, 2, 3, 4], 4), "entry 0 is a int"),
        (pickle.dumps("text", 4), "not a list"),
    ],
)
def test_faces_outlive_their_configuration(payload, why, tmp_path) -> None:
    path = damaged(tmp_path, replaced_configuration(payload))
    with pytest.raises(PakError, match=why):
        PakReader(path)
    names, told = intact(path)
    assert names == ["00000.jpg", "00001.jpg", "00002.jpg", "00003.jpg"]
    assert len(told) == 1 and told[0].startswith("damaged.pak: the configuration cannot be read")


def test_the_golden_form_of_the_end_is_found_without_a_configuration_too(tmp_path) -> None:
    data = bytearray(PAKS[0].read_bytes())
    data[16 + 20] ^= 0xFF
    data[16 + 63] = 0x52  # REDUCE without arguments
    names, told = intact(damaged(tmp_path, bytes(data)))
    assert len(names) == 4 and len(told) == 1


def test_names_that_lead_elsewhere_are_not_used(tmp_path) -> None:
    for bad in ("../../evil.jpg", "/etc/passwd", "a\\b.jpg", "", "..", None, 7, "x\0.jpg"):
        configurations = [{"filename": bad if number == 1 else name} for number, name in enumerate(NAMES)]
        path = damaged(tmp_path, replaced_configuration(pickle.dumps(configurations, 4)))
        with pytest.raises(PakError, match="entry 1 of the configuration has no usable file name"):
            PakReader(path)
        names, told = intact(path)
        assert names == [NAMES[0], "00001.jpg", *NAMES[2:]] and len(told) == 1


@pytest.mark.parametrize(
    ("value", "lost", "kept"),
    [
        (2**63, [1, 2], [0, 3]),  # the end of one face, the start of the next
        (60_000, [1, 2], [0, 3]),
        (0, [1, 2], [0, 3]),  # the third would be the first once more
        (10, [1, 2], [0, 3]),
    ],
)
def test_impossible_offsets_are_named(value, lost, kept, tmp_path) -> None:
    data = PAKS[0].read_bytes()
    table, _ = split(data)
    path = damaged(tmp_path, data[: table + 16] + struct.pack("<Q", value) + data[table + 24 :])
    with pytest.raises(PakError, match=rf"{NAMES[lost[0]]} \(number {lost[0]}\)"):
        PakReader(path)
    told: list[PakError] = []
    with PakReader(path, on_error=told.append) as pak:
        assert [face.name for face in pak.faces] == [NAMES[index] for index in kept]
        assert len(told) == len(lost) and pak.verify() == []


def test_verify_names_faces_that_are_damaged(tmp_path) -> None:
    with PakReader(PAKS[0]) as pak:
        second, third = pak.faces[1], pak.faces[2]
    data = bytearray(PAKS[0].read_bytes())
    data[second.offset] = 0
    start = data.index(b"\xff\xef", third.offset)
    data[start + 4 : start + 6] = b"cx"
    with PakReader(damaged(tmp_path, bytes(data))) as pak:
        problems = [str(problem) for problem in pak.verify()]
    assert len(problems) == 2
    assert problems[0].startswith("damaged.pak: 00001_0.jpg at byte") and "does not begin as a JPEG" in problems[0]
    assert problems[1] == "damaged.pak: 00002_0.jpg carries no metadata"


def test_verify_names_repeated_names(tmp_path) -> None:
    configurations = [{"filename": NAMES[0], "person_name": "a" if number < 2 else None} for number in range(4)]
    with PakReader(damaged(tmp_path, replaced_configuration(pickle.dumps(configurations, 4)))) as pak:
        assert [str(problem) for problem in pak.verify()] == [
            f"damaged.pak: the name {name} repeats" for name in ("a/00000_0.jpg", "00000_0.jpg")
        ]
