"""What extraction makes of its options and of footage that is deep, damaged or cut: through the stage itself, inline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ml_common.facesets import FaceRecord
from ml_common.imaging.picture import decode_picture, encode_picture
from ml_common.synthetic import IDENTITIES, performance, render
from services.faces.app import extraction_plan
from services.faces.options import ExtractionOptions
from services.faces.stages import ExtractStage
from services.kit.clip_messages import selected_frames
from services.kit.clips import SEQUENCE_MEDIA_TYPE, MediaFile
from services.kit.errors import InvalidInput
from services.kit.execution.executor import InlineExecutor, drop_env, open_settings_store, worker_env
from services.kit.faceset_store import FacesetStore
from services.kit.operations.plan import ChunkManifest, Plan
from services.kit.operations.stage import Response, WorkerEnv
from tests.support.contexts import settings_in
from tests.support.footage import RATE
from understudy.v1 import common_pb2, frame_service_pb2

WIDTH, HEIGHT = 320, 240
FACESET = "projects/p/facesets/f"


class Extraction:
    """A sequence of pictures, extracted: its faces, the response, what could not be done."""

    def __init__(self, folder: Path, pictures: dict[int, bytes], suffix: str, **options: Any) -> None:
        settings = settings_in(folder)
        self.store = open_settings_store(settings)
        debug = options.pop("debug_overlays", False)
        files = []
        for number, data in pictures.items():
            key = f"projects/p/uploads/{number:04d}{suffix}"
            self.store.put(key, data)
            files.append({"name": f"shot.{number:04d}{suffix}", "uri": self.store.uri(key)})
        self.store.put("projects/p/uploads/manifest", json.dumps({"schema": 1, "files": files}).encode())
        self.plan: Plan = extraction_plan(
            clip="projects/p/clips/c",
            clip_file="shot",
            media=MediaFile("projects/p/uploads/manifest", SEQUENCE_MEDIA_TYPE),
            media_sha256="0" * 64,
            faceset=FACESET,
            frames=sorted(pictures),
            options=ExtractionOptions(**{"size_px": 96, **options}),
            chunk_frames=4,
            debug_overlays=debug,
        )
        env: WorkerEnv = worker_env(settings, self.store, "cpu")
        stage, manifests = ExtractStage(), list[ChunkManifest]()
        InlineExecutor(env).run_chunks(
            self.plan,
            self.plan.chunks,
            on_done=manifests.append,
            on_progress=lambda index, units: None,
            on_retry=lambda index, why: None,
            check=lambda: None,
        )
        self.failures = [failure for manifest in manifests for failure in manifest.failures]
        try:
            self.response: Response = stage.finish(env, self.plan, manifests, "test")
        finally:
            drop_env(env)
        self.table = FacesetStore(self.store, env.records).table(FACESET)[1]

    @property
    def faces(self) -> list[FaceRecord]:
        return [FaceRecord.from_json_bytes(self.store.get(key)) for key in self.table.column("record_key")]

    def picture(self, record: FaceRecord) -> np.ndarray:
        assert record.image is not None
        return decode_picture(self.store.get(self.store.key_of(record.image.uri)), record.face_id)


def rendered(count: int, *, identity: str = "mei", seed: int = 4) -> list[np.ndarray]:
    return [
        render(IDENTITIES[identity], state, WIDTH, HEIGHT).image_bgr_HWC
        for state in performance(seed, count, rate=RATE)
    ]


def png(image: np.ndarray) -> bytes:
    return encode_picture(image, ".png")


def test_sixteen_bits_stay_sixteen_bits(tmp_path: Path) -> None:
    deep = [(image.astype(np.uint16) * 257) ^ 0x55 for image in rendered(2)]
    done = Extraction(
        tmp_path, {n: png(image) for n, image in enumerate(deep)}, ".png", image_format="IMAGE_FORMAT_LOSSLESS"
    )
    for record in done.faces:
        assert record.image is not None
        assert record.image.media_type == "image/png"
        crop = done.picture(record)
        assert crop.dtype == np.uint16
        assert len(np.unique(crop % 257)) > 2, "more than 8 bits are used"


def test_float_stays_float_beyond_white(tmp_path: Path) -> None:
    bright = [image.astype(np.float32) / 255 * 3 for image in rendered(1)]
    # Detection looks at what a display would show, so the face must be there as well.
    bright = [np.where(image > 2.4, image, image / 3).astype(np.float32) for image in bright]
    bright[0][:40] = 7.5
    done = Extraction(
        tmp_path,
        {0: encode_picture(bright[0], ".exr")},
        ".exr",
        image_format="IMAGE_FORMAT_LOSSLESS",
        face_type="FACE_TYPE_FRAME_SQUARE",
    )
    crop = done.picture(done.faces[0])
    assert crop.dtype == np.float32
    assert crop.max() == pytest.approx(7.5, rel=1e-2)


def test_native_size_is_the_size_in_the_frame(tmp_path: Path) -> None:
    images = rendered(1)
    large = cv2.resize(images[0], (WIDTH * 3, HEIGHT * 3), interpolation=cv2.INTER_CUBIC)
    sizes = []
    for name, image in (("small", images[0]), ("large", large)):
        done = Extraction(tmp_path / name, {0: png(image)}, ".png", native_size=True, size_px=2048)
        (record,) = done.faces
        assert np.linalg.norm(record.frame_to_face_2x3[0, :2]) == pytest.approx(1, abs=0.02), "one pixel for one pixel"
        assert done.picture(record).shape == (record.size_px, record.size_px, 3)
        sizes.append(record.size_px)
    assert sizes[1] / sizes[0] == pytest.approx(3, rel=0.05)
    limited = Extraction(tmp_path / "limited", {0: png(large)}, ".png", native_size=True, size_px=128)
    assert limited.faces[0].size_px == 128


def test_debug_pictures_of_every_frame(tmp_path: Path) -> None:
    pictures = {n: png(image) for n, image in enumerate(rendered(2))}
    pictures[2] = png(np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    done = Extraction(tmp_path, pictures, ".png", debug_overlays=True)
    manifest = json.loads(done.store.get(done.store.key_of(done.response.body["debugManifest"]["uri"])))
    assert [entry["frame_number"] for entry in manifest["files"]] == [0, 1, 2]
    drawn = [decode_picture(done.store.get(done.store.key_of(e["uri"])), "debug") for e in manifest["files"]]
    plain = [decode_picture(pictures[n], "frame") for n in range(3)]
    changed = [np.abs(a.astype(int) - b).max() for a, b in zip(drawn, plain, strict=True)]
    assert changed[0] > 100
    assert changed[2] < 10, "nothing is drawn where there is no face"
    assert done.response.body["framesWithoutFace"] == ["2"]


def test_a_cut_ends_a_track_and_two_people_have_two(tmp_path: Path) -> None:
    before, after = rendered(5, identity="mei"), rendered(5, identity="bruno", seed=9)
    side_by_side = [np.hstack([a, b[:, ::-1]]) for a, b in zip(before, after, strict=True)]
    other_scene = [np.hstack([255 - a // 2, a]) for a in before]
    pictures = {n: png(image) for n, image in enumerate([*side_by_side, *other_scene])}
    done = Extraction(tmp_path, pictures, ".png")
    tracks: dict[str, list[int]] = {}
    for record_frame, track in zip(done.table.column("frame_number"), done.table.column("track_id"), strict=True):
        tracks.setdefault(track, []).append(int(record_frame))
    spans = sorted((min(frames), max(frames)) for frames in tracks.values())
    assert (0, 4) in spans
    assert all(last < 5 or first >= 5 for first, last in spans), "no track runs across the cut"
    assert sum(span == (0, 4) for span in spans) == 2
    assert done.response.body["trackCount"] == str(len(tracks))


def test_damaged_frames_are_reported_and_all_others_keep_their_numbers(tmp_path: Path) -> None:
    pictures = {n + 1001: png(image) for n, image in enumerate(rendered(5))}
    del pictures[1003]
    pictures[1002] = pictures[1002][: len(pictures[1002]) // 2]
    done = Extraction(tmp_path, pictures, ".png")
    assert [(failure.name, failure.reason) for failure in done.failures] == [("1002", "CORRUPT_FRAME")]
    assert [record.source.frame_number for record in done.faces] == [1001, 1004, 1005]
    assert done.response.body["frameCount"] == "3"


@pytest.mark.parametrize(
    "face_type", ["FACE_TYPE_HEAD", "FACE_TYPE_HEAD_NOSE", "FACE_TYPE_FULL_NO_ALIGN", "FACE_TYPE_FRAME_SQUARE"]
)
def test_every_framing_can_be_put_back_into_its_frame(tmp_path: Path, face_type: str) -> None:
    (image,) = rendered(1)
    done = Extraction(tmp_path, {0: png(image)}, ".png", face_type=face_type, image_format="IMAGE_FORMAT_LOSSLESS")
    (record,) = done.faces
    back = cv2.warpAffine(
        done.picture(record), record.frame_to_face_2x3, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    inside = cv2.warpAffine(
        np.full((96, 96), 255, np.uint8), record.frame_to_face_2x3, (WIDTH, HEIGHT), flags=cv2.WARP_INVERSE_MAP
    )
    # At this size pixels are lost, but nothing may be out of place.
    difference = cv2.GaussianBlur(np.abs(back.astype(np.float32) - image), (0, 0), 3)[inside == 255]
    assert difference.mean() < 8


def test_frames_with_nothing_in_them_are_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no face was found in any of the 1 frames"):
        Extraction(tmp_path, {0: png(np.full((64, 64, 3), 90, np.uint8))}, ".png")


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 500, 3), (500, 1, 3)])
def test_pictures_of_a_pixel_hold_no_face(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match="no face"):
        Extraction(tmp_path, {0: png(np.zeros(shape, np.uint8))}, ".png")


def _clip(rate: tuple[int, int] = (24, 1), frames: int = 48, first: int = 1001) -> frame_service_pb2.Clip:
    clip = frame_service_pb2.Clip(name="projects/p/clips/c")
    clip.info.frame_count, clip.info.first_frame_number = frames, first
    clip.info.frame_rate.num, clip.info.frame_rate.den = rate
    return clip


def test_a_lower_rate_takes_evenly_spread_frames() -> None:
    rate = common_pb2.Rational(num=10, den=1)
    chosen = selected_frames(_clip(), [], rate)
    assert len(chosen) == 20
    assert chosen[:5] == [1001, 1004, 1006, 1009, 1011]
    assert selected_frames(_clip(), [common_pb2.FrameRange(first=1009, last=1012)], rate) == [1009, 1011]
    assert list(selected_frames(_clip(), [], common_pb2.Rational(num=60, den=1))) == list(range(1001, 1049))
    assert len(selected_frames(_clip((30000, 1001)), [], common_pb2.Rational(num=30000, den=2002))) == 24


def test_a_rate_must_be_a_rate() -> None:
    with pytest.raises(InvalidInput, match="over 0"):
        selected_frames(_clip(), [], common_pb2.Rational(num=-1, den=1))
