"""The tools of clips over gRPC: pictures, cuts, denoising, scenes. Every frame of the footage says its own number."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from google.longrunning import operations_pb2

from ml_common.imaging.picture import decode_picture, encode_picture
from ml_common.media import open_source, probe
from services.kit.operations.keys import chunk_key
from services.kit.storage import ObjectStore, open_store
from tests.support.marked import damage, marked, number_in, write_clip
from understudy.client import Client, connect
from understudy.errors import UnderstudyError
from understudy.local import start_server, stop_server
from understudy.media import add_clip
from understudy.pictures import fetch_pictures
from understudy.transfer import download
from understudy.v1 import common_pb2, frame_service_pb2, operation_pb2, project_service_pb2

PROJECT = "projects/p"
FRAMES = 30
CUT_AT = 18
CHUNK = 8
NOISE = 12.0
SECOND_TONE_HZ = 2000
NOTICE = "This picture is AI-modified."
Operation = operations_pb2.Operation


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server keeps everything."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def client(workspace: Path) -> Iterator[Client]:
    """A client of a server that all tests of this file share."""
    process, address = start_server(
        workspace, "--set", "execution.kind=inline", "--set", f"execution.chunk_frames={CHUNK}"
    )
    with connect(address, token_file=workspace / "token") as connected:
        connected.projects.CreateProject(project_service_pb2.CreateProjectRequest(project_id="p"))
        yield connected
    stop_server(process)


@pytest.fixture(scope="module")
def store(workspace: Path, client: Client) -> ObjectStore:
    """The server's store, to look into and to damage."""
    return open_store("folder", root=workspace / "objects")


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes with two sound streams, a timecode and a notice."""
    images = [
        marked(number, colour_bgr=(60, 120, 180) if number < CUT_AT else (190, 90, 40), noise=NOISE)
        for number in range(FRAMES)
    ]
    return write_clip(
        tmp_path_factory.mktemp("footage") / "Shot 7.mp4",
        images,
        tones_hz=(400, SECOND_TONE_HZ),
        timecode="01:00:00:20",
        comment=NOTICE,
    )


@pytest.fixture(scope="module")
def clip(client: Client, footage: Path) -> frame_service_pb2.Clip:
    """The footage as a clip."""
    return add_clip(client, PROJECT, footage, clip_id="shot")


@pytest.fixture(scope="module")
def plates(client: Client, tmp_path_factory: pytest.TempPathFactory) -> frame_service_pb2.Clip:
    """16-bit pictures 1001 to 1012 without 1005."""
    folder = tmp_path_factory.mktemp("plates") / "plates"
    folder.mkdir()
    for number in range(1001, 1013):
        if number != 1005:
            deep = marked(number % 64, noise=NOISE).astype(np.uint16) * 257
            cv2.imwrite(str(folder / f"plate.{number}.png"), deep)
    return add_clip(client, PROJECT, folder, clip_id="plates")


def state_of(operation: Operation) -> str:
    """SUCCEEDED and so on."""
    return operation_pb2.OperationState.Name(metadata_of(operation).state).removeprefix("OPERATION_STATE_")


def metadata_of(operation: Operation) -> operation_pb2.OperationMetadata:
    metadata = operation_pb2.OperationMetadata()
    operation.metadata.Unpack(metadata)
    return metadata


def ended(client: Client, operation: Operation) -> Operation:
    """The operation once it has ended."""
    for _ in client.watch(operation.name):
        pass
    found: Operation = client.operations.GetOperation(operations_pb2.GetOperationRequest(name=operation.name))
    assert found.done
    return found


def extracted(client: Client, **request: Any) -> frame_service_pb2.ExtractFramesResponse:
    operation = client.frames.ExtractFrames(frame_service_pb2.ExtractFramesRequest(**request))
    return client.result(operation, frame_service_pb2.ExtractFramesResponse())


def cut(client: Client, first: int, last: int, **request: Any) -> frame_service_pb2.Clip:
    wished = frame_service_pb2.CutClipRequest(range=common_pb2.FrameRange(first=first, last=last), **request)
    return client.result(client.frames.CutClip(wished), frame_service_pb2.Clip())


def listed(client: Client, manifest: common_pb2.ObjectRef, folder: Path) -> dict[str, Path]:
    """The pictures of a manifest, fetched."""
    fetch_pictures(client, PROJECT, manifest, folder)
    return {path.name: path for path in sorted(folder.iterdir())}


def fetched(client: Client, clip: frame_service_pb2.Clip, path: Path) -> Path:
    download(client, PROJECT, clip.media, path)
    return path


def numbers_in(path: Path) -> list[int]:
    with open_source(path) as source:
        return [number_in(image) for _, image in source.frames(0, len(source))]


def forget_chunk(client: Client, store: ObjectStore, operation: Operation, clip: str, index: int) -> None:
    """What a kill leaves: no clip yet, and one chunk without a manifest."""
    client.frames.DeleteClip(frame_service_pb2.DeleteClipRequest(name=clip))
    store.delete(chunk_key(metadata_of(operation).action_key, index))


# Pictures


def test_pictures_are_the_frames_and_keep_origin_and_number(
    client: Client, clip: frame_service_pb2.Clip, footage: Path, tmp_path: Path
) -> None:
    ranges = [common_pb2.FrameRange(first=3, last=9, step=2), common_pb2.FrameRange(first=20, last=20)]
    response = extracted(client, clip=clip.name, ranges=ranges)
    assert response.frame_count == 5
    files = listed(client, response.manifest, tmp_path)
    assert list(files) == [f"Shot 7_{number:06d}.png" for number in (3, 5, 7, 9, 20)]
    with open_source(footage) as source:
        for number, path in zip((3, 5, 7, 9, 20), files.values(), strict=True):
            assert np.array_equal(cv2.imread(str(path)), source.frame(number))


def test_a_clip_can_be_made_of_the_pictures(client: Client, clip: frame_service_pb2.Clip) -> None:
    response = extracted(client, clip=clip.name, ranges=[common_pb2.FrameRange(first=4, last=8, step=2)])
    wished = frame_service_pb2.Clip(media=response.manifest, display_name="pictures")
    request = frame_service_pb2.CreateClipRequest(parent=PROJECT, clip_id="of-pictures", clip=wished)
    made = client.frames.CreateClip(request)
    assert (made.info.first_frame_number, made.info.frame_count) == (4, 3)
    assert list(made.info.missing_frame_numbers) == [5, 7]


def test_frames_are_chosen_evenly(client: Client, clip: frame_service_pb2.Clip, tmp_path: Path) -> None:
    rate = common_pb2.Rational(num=10, den=1)
    files = listed(client, extracted(client, clip=clip.name, frame_rate=rate).manifest, tmp_path)
    numbers = [number_in(cv2.imread(str(path))) for path in files.values()]
    assert numbers == [0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25, 28]


def test_variable_rates_go_by_the_times_of_frames(client: Client, tmp_path: Path) -> None:
    times_ms = [0, 20, 40, 500, 520, 1000, 1500, 1510, 1520, 2000]
    path = write_clip(tmp_path / "vfr.mp4", [marked(number) for number in range(10)], times_ms=times_ms)
    name = add_clip(client, PROJECT, path, clip_id="vfr").name
    rate = common_pb2.Rational(num=2, den=1)
    files = listed(client, extracted(client, clip=name, frame_rate=rate).manifest, tmp_path / "pictures")
    assert [number_in(cv2.imread(str(path))) for path in files.values()] == [0, 3, 5, 6, 9]


@pytest.mark.parametrize(
    ("picture_format", "depth"),
    [("jpg", "uint8"), ("tif", "uint8"), ("exr", "float32"), ("dpx", "uint16"), ("png", "uint8")],
)
def test_formats(client: Client, clip: frame_service_pb2.Clip, tmp_path: Path, picture_format: str, depth: str) -> None:
    ranges = [common_pb2.FrameRange(first=5, last=6)]
    response = extracted(client, clip=clip.name, ranges=ranges, format=picture_format, jpeg_quality=80)
    files = listed(client, response.manifest, tmp_path)
    assert list(files) == [f"Shot 7_{number:06d}.{picture_format}" for number in (5, 6)]
    images = [decode_picture(path.read_bytes(), path.name) for path in files.values()]
    assert [number_in(image) for image in images] == [5, 6]
    assert {image.dtype.name for image in images} == {depth}


def test_deep_pictures_stay_deep(client: Client, plates: frame_service_pb2.Clip, tmp_path: Path) -> None:
    files = listed(client, extracted(client, clip=plates.name).manifest, tmp_path)
    assert len(files) == 11
    assert "plates_001005.png" not in files
    image = cv2.imread(str(files["plates_001004.png"]), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(image, marked(1004 % 64, noise=NOISE).astype(np.uint16) * 257)


def test_what_is_in_the_folder_is_not_fetched_again(
    client: Client, clip: frame_service_pb2.Clip, tmp_path: Path
) -> None:
    manifest = extracted(client, clip=clip.name, ranges=[common_pb2.FrameRange(first=0, last=3)]).manifest
    seen: list[tuple[int, int]] = []
    assert fetch_pictures(client, PROJECT, manifest, tmp_path, lambda *count: seen.append(count)) == 4
    assert seen[-1] == (4, 4)
    (tmp_path / "Shot 7_000001.png").unlink()
    (tmp_path / "Shot 7_000002.png").write_bytes(b"cut off")
    assert fetch_pictures(client, PROJECT, manifest, tmp_path) == 2
    assert number_in(cv2.imread(str(tmp_path / "Shot 7_000002.png"))) == 2


def test_a_damaged_frame_is_reported_skipped_and_numbered(client: Client, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "damaged.mp4", [marked(number, noise=4) for number in range(12)], key_every=1)
    damage(path, 5)
    name = add_clip(client, PROJECT, path, clip_id="damaged").name
    operation = ended(client, client.frames.ExtractFrames(frame_service_pb2.ExtractFramesRequest(clip=name)))
    assert state_of(operation) == "PARTIALLY_SUCCEEDED"
    assert [item.name for item in metadata_of(operation).failed_items] == ["5"]
    response = client.result(operation, frame_service_pb2.ExtractFramesResponse())
    files = listed(client, response.manifest, tmp_path / "pictures")
    numbers = [number for number in range(12) if number != 5]
    assert list(files) == [f"damaged_{number:06d}.png" for number in numbers]
    assert [number_in(cv2.imread(str(path))) for path in files.values()] == numbers
    # A cut shows the frame before once more, so that numbers and sound stay.
    operation = client.frames.CutClip(
        frame_service_pb2.CutClipRequest(clip=name, range=common_pb2.FrameRange(first=3, last=8))
    )
    operation = ended(client, operation)
    assert state_of(operation) == "PARTIALLY_SUCCEEDED"
    made = client.result(operation, frame_service_pb2.Clip())
    assert numbers_in(fetched(client, made, tmp_path / "cut.mp4")) == [3, 4, 4, 6, 7, 8]


def test_equal_work_is_found_done(client: Client, clip: frame_service_pb2.Clip) -> None:
    request = frame_service_pb2.ExtractFramesRequest(
        clip=clip.name, ranges=[common_pb2.FrameRange(first=10, last=12)], request_id="11111111-aaaa"
    )
    first = ended(client, client.frames.ExtractFrames(request))
    request.format, request.jpeg_quality = "PNG", 33  # the default, and a quality that PNG does not have
    again = client.frames.ExtractFrames(request)
    assert again.done
    assert (again.name, metadata_of(again).from_cache) == (first.name, True)
    request.format = "jpg"
    with pytest.raises(UnderstudyError) as caught:
        client.frames.ExtractFrames(request)
    assert caught.value.reason == "REQUEST_ID_REUSED"


# Cuts


def test_a_cut_is_exact_and_keeps_rate_colours_timecode_notice_and_sound(
    client: Client, clip: frame_service_pb2.Clip, footage: Path, tmp_path: Path
) -> None:
    made = cut(client, 7, 21, clip=clip.name)
    assert (made.name, made.display_name) == (f"{PROJECT}/clips/shot-cut", "Shot 7-cut.mp4")
    film = fetched(client, made, tmp_path / "cut.mp4")
    info, before = probe(film), probe(footage)
    assert numbers_in(film) == list(range(7, 22))
    assert (info.rate, info.variable_rate, info.color) == (before.rate, False, before.color)
    assert info.timecode == "01:00:01:02"
    assert len(info.audio) == 1
    assert abs(info.audio[0].duration_s - 15 / 25) < 0.05
    with av.open(str(film)) as container:
        assert container.metadata["comment"] == NOTICE
    with open_source(footage) as source, open_source(film) as result:
        error = source.frame(10).astype(float) - result.frame(3)
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 38, "visually lossless, of footage full of noise"
    assert made.info.frame_count == 15
    stored = client.frames.GetClip(frame_service_pb2.GetClipRequest(name=made.name))
    assert stored == made
    original = client.frames.GetClip(frame_service_pb2.GetClipRequest(name=clip.name))
    assert original == clip


def test_the_wished_sound_is_kept(client: Client, clip: frame_service_pb2.Clip, tmp_path: Path) -> None:
    second = clip.info.audio[1].stream_index
    made = cut(client, 2, 27, clip=clip.name, clip_id="second", audio_stream_index=second, bitrate_mbit=1.5)
    with av.open(str(fetched(client, made, tmp_path / "cut.mp4"))) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    spectrum = np.abs(np.fft.rfft(sound))
    assert abs(np.argmax(spectrum) * 48000 / len(sound) - SECOND_TONE_HZ) < 20


def test_ten_bits_stay_ten_bits(client: Client, tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(20000, 24000, 96).astype(np.uint16)[None, :, None], (64, 1, 3))
    path = write_clip(tmp_path / "deep.mp4", [ramp] * 6, pixel_format="yuv420p10le")
    name = add_clip(client, PROJECT, path, clip_id="deep").name
    made = cut(client, 1, 4, clip=name)
    assert made.info.bit_depth == 10
    with open_source(fetched(client, made, tmp_path / "cut.mp4")) as source:
        assert len(np.unique(source.frame(2)[30])) > 40, "8 bits would leave 16 steps"


def test_a_cut_of_a_sequence_is_another_list_of_the_same_files(
    client: Client, plates: frame_service_pb2.Clip, store: ObjectStore
) -> None:
    made = cut(client, 1003, 1008, clip=plates.name, clip_id="plates-middle")
    assert (made.info.first_frame_number, made.info.frame_count) == (1003, 5)
    assert list(made.info.missing_frame_numbers) == [1005]
    assert made.info.frame_rate == plates.info.frame_rate
    files = json.loads(store.get(store.key_of(made.media.uri)))["files"]
    whole = json.loads(store.get(store.key_of(plates.media.uri)))["files"]
    assert [entry["name"] for entry in files] == [f"plate.{number}.png" for number in (1003, 1004, 1006, 1007, 1008)]
    assert {entry["uri"] for entry in files} <= {entry["uri"] for entry in whole}
    frame = client.frames.GetFrame(frame_service_pb2.GetFrameRequest(clip=made.name, frame_number=1006))
    assert frame.image.media_type == "image/png"


def test_a_deleted_cut_is_made_again_and_another_may_not_take_its_name(
    client: Client, clip: frame_service_pb2.Clip
) -> None:
    request = frame_service_pb2.CutClipRequest(
        clip=clip.name, range=common_pb2.FrameRange(first=0, last=5), clip_id="again"
    )
    first = client.result(client.frames.CutClip(request), frame_service_pb2.Clip())
    found = client.frames.CutClip(request)
    assert found.done
    assert metadata_of(found).from_cache
    client.frames.DeleteClip(frame_service_pb2.DeleteClipRequest(name=first.name))
    second = client.result(client.frames.CutClip(request), frame_service_pb2.Clip())
    assert second.media == first.media
    request.range.last = 6
    with pytest.raises(UnderstudyError) as caught:
        client.frames.CutClip(request)
    assert caught.value.code == "ALREADY_EXISTS"


# Denoising


def test_denoised_footage_keeps_frames_and_sound_and_has_less_noise(
    client: Client, clip: frame_service_pb2.Clip, footage: Path, tmp_path: Path
) -> None:
    operation = client.frames.DenoiseFrames(frame_service_pb2.DenoiseFramesRequest(clip=clip.name, factor=8))
    made = client.result(operation, frame_service_pb2.Clip())
    assert (made.name, made.info.frame_count) == (f"{PROJECT}/clips/shot-denoised", FRAMES)
    film = fetched(client, made, tmp_path / "denoised.mp4")
    assert numbers_in(film) == list(range(FRAMES))
    assert len(made.info.audio) == 1
    assert (made.info.timecode, made.info.pixel_format) == ("01:00:00:20", "yuv444p")
    clean = marked(9).astype(float)[20:]
    with open_source(footage) as source, open_source(film) as result:
        before, after = (np.std(opened.frame(9)[20:] - clean) for opened in (source, result))
    assert after < before * 0.8


def test_a_killed_chunk_is_done_again_and_nothing_else(
    client: Client, clip: frame_service_pb2.Clip, store: ObjectStore
) -> None:
    request = frame_service_pb2.DenoiseFramesRequest(clip=clip.name, factor=3, clip_id="resumed")
    operation = ended(client, client.frames.DenoiseFrames(request))
    whole = client.result(operation, frame_service_pb2.Clip())
    key = metadata_of(operation).action_key
    assert metadata_of(operation).chunks_total == 5, "four of frames, one that joins"
    kept = store.stat(chunk_key(key, 1)).modified_s
    forget_chunk(client, store, operation, whole.name, 2)
    store.delete(chunk_key(key, 4))
    store.delete(store.key_of(whole.media.uri))
    resumed = client.result(client.frames.DenoiseFrames(request), frame_service_pb2.Clip())
    assert resumed.media == whole.media, "byte for byte"
    assert store.stat(chunk_key(key, 1)).modified_s == kept


def test_a_denoised_sequence_is_a_sequence_of_the_same_depth_and_numbers(
    client: Client, plates: frame_service_pb2.Clip, store: ObjectStore
) -> None:
    request = frame_service_pb2.DenoiseFramesRequest(clip=plates.name, factor=5, clip_id="clean-plates")
    made = client.result(client.frames.DenoiseFrames(request), frame_service_pb2.Clip())
    assert (made.info.first_frame_number, made.info.frame_count, made.info.bit_depth) == (1001, 11, 16)
    assert list(made.info.missing_frame_numbers) == [1005]
    frame = client.frames.GetFrame(frame_service_pb2.GetFrameRequest(clip=made.name, frame_number=1012))
    image = decode_picture(store.get(store.key_of(frame.image.uri)), "frame.png")
    assert image.dtype == np.uint16
    assert number_in(image) == 1012 % 64


# Scenes


def test_scenes_have_no_gaps(client: Client, clip: frame_service_pb2.Clip) -> None:
    operation = client.frames.DetectScenes(frame_service_pb2.DetectScenesRequest(clip=clip.name))
    response = client.result(operation, frame_service_pb2.DetectScenesResponse())
    assert [(scene.first, scene.last) for scene in response.scenes] == [(0, CUT_AT - 1), (CUT_AT, FRAMES - 1)]
    pictures = extracted(client, clip=clip.name, ranges=response.scenes[1:])
    assert pictures.frame_count == FRAMES - CUT_AT


# One frame


def test_a_float_frame_is_given_whole(client: Client, store: ObjectStore, tmp_path: Path) -> None:
    folder = tmp_path / "hdr"
    folder.mkdir()
    bright = (marked(11).astype(np.float32) / 255) * 4
    (folder / "hdr.0001.exr").write_bytes(encode_picture(bright, ".exr"))
    name = add_clip(client, PROJECT, folder, clip_id="hdr").name
    frame = client.frames.GetFrame(frame_service_pb2.GetFrameRequest(clip=name, frame_number=1))
    assert frame.image.media_type == "image/x-exr"
    image = decode_picture(store.get(store.key_of(frame.image.uri)), "frame.exr")
    assert np.array_equal(image, bright)


# From the command line


def command(workspace: Path, *arguments: str) -> Any:
    """The JSON document of a command that succeeds."""
    line = [sys.executable, "-m", "understudy.cli", "--workspace", str(workspace), "--json", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_pictures_of_a_scene_come_into_a_folder(workspace: Path, clip: frame_service_pb2.Clip, tmp_path: Path) -> None:
    wanted = ("clip", "extract", clip.name, "--scenes", "2", "--rate", "5", "--format", "jpg", "-o", str(tmp_path))
    shown = command(workspace, *wanted)
    assert (shown["frame_count"], shown["fetched"]) == (3, 3)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"Shot 7_0000{at}.jpg" for at in (18, 20, 25)]
    assert command(workspace, *wanted)["fetched"] == 0


def test_a_cut_by_timecode(workspace: Path, clip: frame_service_pb2.Clip) -> None:
    wanted = ("clip", "cut", clip.name, "--first", "01:00:00:22", "--last", "0.48s", "--id", "by-timecode")
    made = command(workspace, *wanted)
    assert made["info"]["frame_count"] == 11, "frames 2 to 12"
    assert made["info"]["timecode"] == "01:00:00:22"


def test_a_project_is_emptied(workspace: Path, client: Client, store: ObjectStore, footage: Path) -> None:
    command(workspace, "project", "create", "gone")
    name = command(workspace, "clip", "add", str(footage), "-p", "gone", "--id", "c")["name"]
    action_key = metadata_of(
        ended(client, client.frames.DetectScenes(frame_service_pb2.DetectScenesRequest(clip=name)))
    ).action_key
    with pytest.raises(UnderstudyError, match="not in the trash"):
        request = project_service_pb2.PurgeProjectRequest(name="projects/gone", confirm_project_id="gone")
        client.projects.PurgeProject(request)
    command(workspace, "project", "delete", "gone")
    with pytest.raises(UnderstudyError, match="in the trash"):
        client.frames.DetectScenes(frame_service_pb2.DetectScenesRequest(clip=name, threshold=0.9))
    assert command(workspace, "project", "purge", "gone", "--yes") == {"name": "projects/gone", "purged": True}
    for prefix in ("projects/gone/", f"work/{action_key}/", "records/projects/gone/clips/"):
        assert not store.list(prefix).objects
    with pytest.raises(UnderstudyError) as caught:
        client.projects.GetProject(project_service_pb2.GetProjectRequest(name="projects/gone"))
    assert caught.value.code == "NOT_FOUND"


# What is refused


@pytest.mark.parametrize(
    ("method", "request_values", "field"),
    [
        ("ExtractFrames", {"format": "gif"}, "format"),
        ("ExtractFrames", {"jpeg_quality": 101}, "jpeg_quality"),
        ("ExtractFrames", {"ranges": [common_pb2.FrameRange(first=9, last=3)]}, "ranges"),
        ("ExtractFrames", {"ranges": [common_pb2.FrameRange(first=900, last=950)]}, "ranges"),
        ("ExtractFrames", {"frame_rate": common_pb2.Rational(num=-1, den=1)}, "frame_rate"),
        ("CutClip", {}, "range"),
        ("CutClip", {"range": common_pb2.FrameRange(first=9, last=3)}, "range"),
        ("CutClip", {"range": common_pb2.FrameRange(first=0, last=99)}, "range"),
        ("CutClip", {"range": common_pb2.FrameRange(first=0, last=9, step=2)}, "range"),
        ("CutClip", {"range": common_pb2.FrameRange(first=0, last=9), "audio_stream_index": 0}, "audio_stream_index"),
        ("CutClip", {"range": common_pb2.FrameRange(first=0, last=9), "bitrate_mbit": -1}, "bitrate_mbit"),
        ("CutClip", {"range": common_pb2.FrameRange(first=0, last=9), "clip_id": "No Id"}, "clip_id"),
        ("DenoiseFrames", {"factor": 0}, "factor"),
        ("DenoiseFrames", {"factor": 21}, "factor"),
        ("DetectScenes", {"threshold": 1.5}, "threshold"),
        ("DetectScenes", {"threshold": float("nan")}, "threshold"),
    ],
)
def test_bad_input_names_the_field(
    client: Client, clip: frame_service_pb2.Clip, method: str, request_values: dict[str, Any], field: str
) -> None:
    request = getattr(frame_service_pb2, f"{method}Request")(clip=clip.name, **request_values)
    with pytest.raises(UnderstudyError) as caught:
        getattr(client.frames, method)(request)
    assert caught.value.code == "INVALID_ARGUMENT"
    assert field in caught.value.fields


def test_an_unknown_clip_is_not_found(client: Client) -> None:
    with pytest.raises(UnderstudyError) as caught:
        client.frames.DetectScenes(frame_service_pb2.DetectScenesRequest(clip=f"{PROJECT}/clips/none"))
    assert caught.value.code == "NOT_FOUND"
