"""The whole job through every service, killed in the middle, and with input that it must refuse.

One server a test where it is killed; one for all the rest.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from ml_common.media import open_source, probe
from tests.support.footage import head_clip
from understudy.client import Client, connect
from understudy.errors import UnderstudyError
from understudy.local import start_server, stop_server
from understudy.swap import SwapEvent, SwapOptions, SwapResult, swap
from understudy.v1 import faceset_service_pb2, training_service_pb2

SHARED_VIDEO = Path(__file__).resolve().parents[3] / "shared" / "data" / "video"
TINY = {"model": {"resolution": 32, "ae_dims": 16, "e_dims": 8, "d_dims": 8, "d_mask_dims": 8}, "batch_size": 2}


def tiny_options(**changes: object) -> SwapOptions:
    """A swap that proves the plumbing, not the picture."""
    values = {"preset": "demo", "iterations": 8, "train_options": TINY, "extraction": {"sizePx": 128}, **changes}
    return SwapOptions(**values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """src and dst of different people, lengths and audio layouts (stereo and mono)."""
    folder = tmp_path_factory.mktemp("clips")
    src = head_clip(folder / "src.mp4", identity="ada", frame_count=30, seed=1, channels=2)
    dst = head_clip(folder / "dst.mp4", identity="bruno", frame_count=40, seed=2, channels=1)
    return src, dst


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a server that all tests of this file share."""
    workspace = tmp_path_factory.mktemp("workspace")
    process, address = start_server(workspace, "--set", "execution.chunk_frames=16")
    with connect(address, token_file=workspace / "token") as connected:
        yield connected
    stop_server(process)


@pytest.fixture(scope="module")
def swapped(
    client: Client, clips: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[SwapResult, list[SwapEvent]]:
    """A finished swap and what it reported."""
    events: list[SwapEvent] = []
    output = tmp_path_factory.mktemp("out") / "film.mp4"
    return swap(client, *clips, output, tiny_options(), events.append), events


def test_every_frame_comes_out_once_with_sound_rate_tags_and_notice(
    swapped: tuple[SwapResult, list[SwapEvent]], clips: tuple[Path, Path]
) -> None:
    result, _ = swapped
    before, after = probe(clips[1]), probe(result.output)
    assert after.frame_count == before.frame_count == result.frames_out == 40
    assert after.rate == before.rate
    assert after.color == before.color
    assert [audio.channels for audio in after.audio] == [1]
    assert abs(after.audio[0].duration_s - before.audio[0].duration_s) < 1 / 25
    with av.open(str(result.output)) as container:
        assert "AI-modified" in container.metadata["comment"]


def test_frames_keep_their_order_and_the_background_stays(
    swapped: tuple[SwapResult, list[SwapEvent]], clips: tuple[Path, Path]
) -> None:
    with open_source(clips[1]) as before, open_source(swapped[0].output) as after:
        frames_before = [image for _, image in before.frames(0, len(before))]
        frames_after = [image for _, image in after.frames(0, len(after))]
    for index in (0, 17, 39):
        corner = np.abs(frames_after[index][:40, :40].astype(int) - frames_before[index][:40, :40]).mean()
        assert corner < 4, "outside the face only the encoder may change pixels"
        nearest = min(
            range(40), key=lambda other: np.abs(frames_before[other].astype(int) - frames_after[index]).mean()
        )
        assert abs(nearest - index) <= 1, "a frame stands at another's place"


def test_the_same_call_again_finds_everything_done(
    client: Client, clips: tuple[Path, Path], swapped: tuple[SwapResult, list[SwapEvent]], tmp_path: Path
) -> None:
    events: list[SwapEvent] = []
    again = swap(client, *clips, tmp_path / "again.mp4", tiny_options(), events.append)
    assert not [event for event in events if event.losses], "nothing may be trained again"
    assert (again.run, again.session, again.iterations) == (swapped[0].run, swapped[0].session, 8)
    assert (tmp_path / "again.mp4").read_bytes() == swapped[0].output.read_bytes()


def test_progress_is_told(swapped: tuple[SwapResult, list[SwapEvent]]) -> None:
    _, events = swapped
    begun = [event.stage for event in events if event.kind == "begin"]
    assert begun == ["upload", "extract src", "extract dst", "train", "merge", "encode", "download"]
    assert any(event.stage == "train" and event.losses.keys() >= {"src", "dst"} for event in events)


def test_faces_can_be_listed_page_by_page(client: Client, swapped: tuple[SwapResult, list[SwapEvent]]) -> None:
    faceset, token, numbers = swapped[0].dst_faceset, "", []
    while True:
        request = faceset_service_pb2.ListFacesRequest(parent=faceset, page_size=7, page_token=token)
        page = client.facesets.ListFaces(request)
        numbers += [face.record.source.frame_number for face in page.faces]
        token = page.next_page_token
        if not token:
            break
    assert numbers == list(range(40))
    face = client.facesets.GetFace(faceset_service_pb2.GetFaceRequest(name=page.faces[-1].name))
    assert len(face.record.frame_landmarks_px) == 136


# -- input that must be refused -------------------------------------------------------------------------------------------


def test_a_text_file_named_mp4_is_refused(client: Client, clips: tuple[Path, Path], tmp_path: Path) -> None:
    fake = tmp_path / "fake.mp4"
    fake.write_text("this is no video\n" * 100)
    _assert_refused(client, fake, clips[1], tmp_path, reason="NOT_MEDIA", says="fake.mp4")


def test_a_truncated_video_is_refused(client: Client, clips: tuple[Path, Path], tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(clips[0].read_bytes()[:-20000])
    _assert_refused(client, cut, clips[1], tmp_path, reason="TRUNCATED_MEDIA", says="cut.mp4")


def test_a_video_without_frames_is_refused(client: Client, clips: tuple[Path, Path], tmp_path: Path) -> None:
    silent = tmp_path / "soundonly.mp4"
    with av.open(str(silent), "w") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    _assert_refused(client, silent, clips[1], tmp_path, reason="NOT_MEDIA", says="soundonly.mp4")


def test_an_empty_file_and_a_missing_one_are_refused(client: Client, clips: tuple[Path, Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty.mp4"
    empty.touch()
    _assert_refused(client, empty, clips[1], tmp_path, reason="NOT_MEDIA", says="empty")
    _assert_refused(client, tmp_path / "absent.mp4", clips[1], tmp_path, reason="NOT_FOUND", says="absent.mp4")


def test_a_clip_without_a_face_says_so(client: Client, clips: tuple[Path, Path], tmp_path: Path) -> None:
    noise = tmp_path / "noise.mp4"
    rng = np.random.default_rng(5)
    with av.open(str(noise), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for _ in range(10):
            image = rng.integers(90, 160, (240, 320, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode(None))
    _assert_refused(client, clips[0], noise, tmp_path, reason="NO_FACE", says="no face")


def test_an_unknown_preset_is_refused_before_any_work(client: Client, clips: tuple[Path, Path], tmp_path: Path) -> None:
    events: list[SwapEvent] = []
    with pytest.raises(UnderstudyError) as caught:
        swap(client, *clips, tmp_path / "x.mp4", tiny_options(preset="quick69"), events.append)
    assert caught.value.reason == "UNKNOWN_NAME"
    assert "quick96" in caught.value.message
    assert not events


def _assert_refused(client: Client, src: Path, dst: Path, folder: Path, *, reason: str, says: str) -> None:
    output = folder / "film.mp4"
    with pytest.raises(UnderstudyError) as caught:
        swap(client, src, dst, output, tiny_options())
    assert caught.value.reason == reason
    assert says in caught.value.message
    assert not output.exists()
    assert not list(folder.glob(".film*")), "nothing half-written may stay"


# -- killed in the middle -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_server_killed_in_extraction_and_in_training_loses_little(clips: tuple[Path, Path], tmp_path: Path) -> None:
    workspace, output = tmp_path / "workspace", tmp_path / "film.mp4"
    options = tiny_options(iterations=400, train_options={**TINY, "save_every_iterations": 20})
    chunks_done = _killed_when(
        workspace, clips, output, options, lambda event: event.stage.startswith("extract") and event.done >= 16
    )
    assert chunks_done, "the first server was not killed in extraction"
    manifests_before = _extraction_manifests(workspace)
    saved = _killed_when(
        workspace, clips, output, options, lambda event: event.stage == "train" and event.text.startswith("saved")
    )
    assert saved, "the second server was not killed in training"
    manifests_after = _extraction_manifests(workspace)
    assert manifests_before, "a chunk was finished before the first kill"
    for path, written in manifests_before.items():
        assert manifests_after[path] == written, "a finished chunk was done again"

    process, address = start_server(workspace, "--set", "execution.chunk_frames=8")
    try:
        with connect(address, token_file=workspace / "token") as client:
            saves: list[str] = []
            result = swap(
                client, *clips, output, options, lambda e: saves.append(e.text) if "saved" in e.text else None
            )
            run = client.training.GetRun(training_service_pb2.GetRunRequest(name=result.run))
    finally:
        stop_server(process)
    assert run.attempt >= 2
    assert result.iterations == 400
    saved_at = [int(text.rpartition(" ")[2]) for text in saves]
    assert saved_at == sorted(set(saved_at)), "training began again from zero"
    assert saved_at[-1] == 400
    assert probe(output).frame_count == 40
    with open_source(output) as film, open_source(clips[1]) as plate:
        for index in range(0, 40, 5):
            difference = np.abs(film.frame(index)[:40].astype(int) - plate.frame(index)[:40]).mean()
            assert difference < 4, f"frame {index} is not the plate's"


def _killed_when(workspace: Path, clips: tuple[Path, Path], output: Path, options: SwapOptions, when) -> bool:  # type: ignore[no-untyped-def]
    """Runs the swap on a server that is killed with SIGKILL at the first event for which ``when`` holds; whether it came to that."""
    process, address = start_server(workspace, "--set", "execution.chunk_frames=8")
    killed = threading.Event()

    def watch(event: SwapEvent) -> None:
        if not killed.is_set() and when(event):
            os.kill(process.pid, signal.SIGKILL)
            killed.set()

    with connect(address, token_file=workspace / "token") as client, pytest.raises(UnderstudyError):
        swap(client, *clips, output, options, watch)
    process.wait(timeout=30)
    if process.stdin:
        process.stdin.close()
    assert not output.exists()
    _wait_for_orphans(process.pid)
    return killed.is_set()


def _wait_for_orphans(pid: int) -> None:
    """Ray's processes notice by themselves that the server is gone; a new server must not depend on it, so this waits only a moment."""
    end = time.monotonic() + 1
    while time.monotonic() < end and Path(f"/proc/{pid}").exists():
        time.sleep(0.05)


def _extraction_manifests(workspace: Path) -> dict[Path, float]:
    """Chunk manifests of extractions with their times."""
    found: dict[Path, float] = {}
    for plan in (workspace / "objects" / "work").glob("*/plan.json"):
        if "ExtractStage" in json.loads(plan.read_text())["stage"]:
            found |= {path: path.stat().st_mtime for path in (plan.parent / "chunks").glob("*.json")}
    return found


# -- the demo, and real people --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_brings_the_face_three_decibels_nearer_to_the_truth(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "understudy.demo",
        "--out",
        str(tmp_path),
        "--src-frames",
        "100",
        "--dst-frames",
        "60",
    ]
    subprocess.run([*command, "--iterations", "260"], check=True, timeout=580)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["psnr_swap_db"] - report["psnr_untouched_db"] >= 3
    assert report["frames_in"] == report["frames_out"] == 60
    assert report["faces_found"] == {"src": 100, "dst": 60}
    assert {"render", "upload", "extract src", "extract dst", "train", "merge", "encode", "total"} <= report[
        "seconds"
    ].keys()
    assert (tmp_path / "result.mp4").stat().st_size > 10_000
    assert "data:image/jpeg" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(
    not SHARED_VIDEO.is_dir(), reason="the folder shared/data/video with real footage is not beside the checkout"
)
def test_real_footage_goes_through(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "understudy.cli", "--workspace", str(tmp_path / "workspace"), "--json", "swap"]
    clips = [str(SHARED_VIDEO / "person_a.mp4"), str(SHARED_VIDEO / "person_b.mp4")]
    settings = ["--preset", "demo", "--iterations", "20"]
    done = subprocess.run(
        [*command, *clips, "-o", str(tmp_path / "out.mp4"), *settings],
        timeout=380,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    source, film = probe(SHARED_VIDEO / "person_b.mp4"), probe(tmp_path / "out.mp4")
    assert film.frame_count == source.frame_count == 216
    assert result["faces_found"]["dst"] == 216
    assert film.rate == source.rate
    assert abs(film.audio[0].duration_s - source.audio[0].duration_s) < 0.05
    shutil.rmtree(tmp_path / "workspace")
