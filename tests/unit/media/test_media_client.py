"""What the client sends of footage: every kind of picture, under its own name, so that numbers and gaps stay."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from understudy import media
from understudy.errors import UnderstudyError


@pytest.fixture
def sent(monkeypatch):
    """(name, media type, content) of what is sent."""
    items = []

    def upload(client, project, path, *, media_type, digest=None):
        items.append((path.name, media_type, path.read_bytes()))
        return SimpleNamespace(
            uri=f"store://{path.name}", digest=SimpleNamespace(sha256=str(len(items))), media_type=media_type
        )

    monkeypatch.setattr(media, "upload", upload)
    return items


def _folder(tmp_path, *names):
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


@pytest.mark.parametrize(
    ("suffix", "media_type"),
    [
        ("exr", "image/x-exr"),
        ("dpx", "image/x-dpx"),
        ("tif", "image/tiff"),
        ("TIFF", "image/tiff"),
        ("png", "image/png"),
    ],
)
def test_a_sequence_with_gaps(tmp_path, sent, suffix, media_type):
    names = [f"shot.{number}.{suffix}" for number in (1001, 1002, 1005)]
    _folder(tmp_path, *names, "notes.txt", f".hidden.1003.{suffix}")
    reference = media.upload_media(None, "projects/p", tmp_path)
    assert reference.media_type == media.SEQUENCE_MEDIA_TYPE
    assert [(name, kind) for name, kind, _ in sent[:-1]] == [(name, media_type) for name in names]
    listed = json.loads(sent[-1][2])["files"]
    assert [entry["name"] for entry in listed] == names
    assert [entry["uri"] for entry in listed] == [f"store://{name}" for name in names]


def test_one_picture_is_a_sequence_of_one(tmp_path, sent):
    _folder(tmp_path, "plate.1007.exr", "plate.1008.exr")
    reference = media.upload_media(None, "projects/p", tmp_path / "plate.1007.exr")
    assert reference.media_type == media.SEQUENCE_MEDIA_TYPE
    assert [entry["name"] for entry in json.loads(sent[-1][2])["files"]] == ["plate.1007.exr"]
    assert media.upload_media(None, "projects/p", _folder(tmp_path / ".", "a.mov") / "a.mov").media_type == "video/mov"


@pytest.mark.parametrize(
    ("names", "reason", "message"),
    [
        ((), "NO_FRAMES", ".exr"),
        (("notes.txt",), "NO_FRAMES", "no pictures"),
        (("a.1.png", "cover.png"), "NOT_MEDIA", "cover.png has no frame number"),
        (("a.1001.exr", "a.1001.png"), "NOT_MEDIA", "same frame number"),
        (("a.1.exr", "b.01.exr"), "NOT_MEDIA", "a folder of its own"),
    ],
)
def test_what_is_refused_says_why(tmp_path, sent, names, reason, message):
    with pytest.raises(UnderstudyError) as caught:
        media.upload_media(None, "projects/p", _folder(tmp_path, *names))
    assert caught.value.reason == reason
    assert message in str(caught.value)
    assert not sent
