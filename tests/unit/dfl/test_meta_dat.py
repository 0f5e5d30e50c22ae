"""meta.dat: written as DeepFaceLab writes it, read without executing anything, damage named."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from ml_common.dfl.face_jpeg import metadata_payload, read_face_jpeg, without_metadata
from ml_common.dfl.meta_dat import SavedMetadata, read_meta_dat, restored_jpeg, write_meta_dat
from ml_common.dfl.restricted_pickle import RefusedPickleError

GOLDEN = Path(__file__).parents[2] / "golden" / "dfl_faces"


def saved_faces() -> list[SavedMetadata]:
    saved = []
    for path in sorted(GOLDEN.glob("*.jpg")):
        face = read_face_jpeg(path.read_bytes())
        size = {"width_px": face.structure.width_px, "height_px": face.structure.height_px}
        saved.append(SavedMetadata(file_name=path.name, metadata=face.metadata, **size))
    return saved


def test_there_and_back(tmp_path) -> None:
    faces = saved_faces()
    write_meta_dat(tmp_path / "meta.dat", len(faces), iter(faces))
    assert [file.name for file in tmp_path.iterdir()] == ["meta.dat"]
    data = (tmp_path / "meta.dat").read_bytes()
    for face, found in zip(faces, read_meta_dat(data), strict=True):
        assert (found.file_name, found.width_px, found.height_px) == (face.file_name, 128, 128)
        assert metadata_payload(found.metadata) == metadata_payload(face.metadata)


def test_the_form_is_deepfacelabs(tmp_path) -> None:
    metadata = {"face_type": "head", "landmarks": [[1.0, 2.0], [3.0, 4.0]]}
    theirs = {f"{n:05d}.jpg": ((120 + n, 128, 3), {**metadata, "n": n}) for n in range(3)}
    write_meta_dat(
        tmp_path / "meta.dat",
        3,
        (
            SavedMetadata(file_name=name, width_px=128, height_px=120 + n, metadata=theirs[name][1])
            for n, name in enumerate(theirs)
        ),
    )
    assert pickle.loads((tmp_path / "meta.dat").read_bytes()) == theirs
    for protocol in (2, 3, 4):
        found = list(read_meta_dat(pickle.dumps(theirs, protocol)))
        assert {face.file_name: ((face.height_px, face.width_px, 3), face.metadata) for face in found} == theirs


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (("x.jpg", ((1, 2), {})), None),
        ((7, ((1, 2, 3), {})), "at its beginning: it holds something"),
        (("x.jpg", {}), "holds something that is not the metadata"),
        (("x.jpg", ((0, 2, 3), {})), "x.jpg has an impossible size"),
        (("x.jpg", ((1, 70_000, 3), {})), "impossible size"),
        (("x.jpg", ((1, 2, 3), {1: 2})), "text for keys"),
        (("x.jpg", ((1, 2, 3), [[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]])), "deep"),
    ],
)
def test_entries_that_are_no_metadata_are_refused(entry, why) -> None:
    data = pickle.dumps(dict([entry]), 4)
    if why is None:
        assert next(read_meta_dat(data)).width_px == 2
        return
    with pytest.raises(RefusedPickleError, match=why):
        list(read_meta_dat(data))


def test_damage_is_named_after_the_last_file_that_was_whole() -> None:
    whole = pickle.dumps({f"{n:05d}.jpg": ((8, 8, 3), {"a": np.ones(3)}) for n in range(1500)}, 4)
    given: list[SavedMetadata] = []
    with pytest.raises(RefusedPickleError, match=r"meta.dat cannot be read behind 00999.jpg: .*cut short"):
        for face in read_meta_dat(whole[:-500]):
            given.append(face)  # noqa: PERF402  what was given before the error counts
    assert len(given) == 1000
    with pytest.raises(RefusedPickleError, match=r"os\.system"):
        list(read_meta_dat(b"\x80\x04}\x8c\x01xcos\nsystem\n\x8c\x02id\x85Rs."))


def test_writing_refuses_what_reading_could_not_tell_apart(tmp_path) -> None:
    face = saved_faces()[0]
    with pytest.raises(ValueError, match="repeats"):
        write_meta_dat(tmp_path / "meta.dat", 2, [face, face])
    with pytest.raises(ValueError, match="2 entries were announced"):
        write_meta_dat(tmp_path / "meta.dat", 2, [face])
    assert list(tmp_path.iterdir()) == []


def test_an_edited_picture_gets_its_metadata_back() -> None:
    path = sorted(GOLDEN.glob("*.jpg"))[0]
    data, saved = path.read_bytes(), saved_faces()[0]
    bare = without_metadata(data)
    assert restored_jpeg(bare, saved) == data
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    enlarged = cv2.resize(image, (384, 384), interpolation=cv2.INTER_CUBIC)
    back = restored_jpeg(cv2.imencode(".jpg", enlarged, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes(), saved)
    face = read_face_jpeg(back)
    assert (face.structure.width_px, face.structure.height_px) == (128, 128)
    assert metadata_payload(face.metadata) == metadata_payload(saved.metadata)
    decoded = cv2.imdecode(np.frombuffer(back, np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(decoded.astype(int) - image).mean() < 4
    with pytest.raises(ValueError, match="cut short"):
        restored_jpeg(data[:-9], saved)
