"""`clip extract`, `cut`, `denoise`, `scenes` and `project purge`: what people write, what is asked of the server, what is shown."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import click
import pytest
from click.testing import Result
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2
from google.protobuf.message import Message

from services.frames.options import PICTURE_FORMATS as SERVED_FORMATS
from tests.unit.cli.conftest import FakeClient, document
from understudy.cli.commands.clip import PICTURE_FORMATS
from understudy.cli.values import moment, numbers
from understudy.v1 import common_pb2, frame_service_pb2, operation_pb2

NAME = "projects/p/clips/c"


def _run(run: Callable[..., Result], line: str) -> Result:
    return run(*line.split())


def _info(rate: Fraction, first: int = 0, timecode: str = "") -> frame_service_pb2.MediaInfo:
    return frame_service_pb2.MediaInfo(
        frame_rate=common_pb2.Rational(num=rate.numerator, den=rate.denominator),
        first_frame_number=first,
        timecode=timecode,
    )


@pytest.mark.parametrize(
    ("text", "info", "expected"),
    [
        ("1042", _info(Fraction(24)), 1042),
        ("00:00:01:12", _info(Fraction(24)), 36),
        ("00:00:01:12", _info(Fraction(24), first=1001), 1037),
        ("01:00:01:12", _info(Fraction(24), timecode="01:00:00:00"), 36),
        ("00:01:00;02", _info(Fraction(30000, 1001)), 1800),
        ("00:01:00:02", _info(Fraction(30000, 1001), timecode="00:00:59;29"), 1),
        ("00:01:00:00", _info(Fraction(30000, 1001), timecode="00:00:59:29"), 1),
        ("1.5s", _info(Fraction(24)), 36),
        ("00:00:01.500", _info(Fraction(24)), 36),
        ("00:00:01.499", _info(Fraction(24), timecode="01:00:00:00"), 35),
        ("01:30", _info(Fraction(25)), 2250),
        ("0.999s", _info(Fraction(1000, 1)), 999),
        ("2s", _info(Fraction(30000, 1001)), 59),
    ],
)
def test_moments(text: str, info: frame_service_pb2.MediaInfo, expected: int) -> None:
    assert moment(text).frame(info) == expected


@pytest.mark.parametrize("text", ["", "-1", "1.5", "x", "00:00:00:0", "1:2:3:4:5", "1s5"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(click.BadParameter):
        moment(text)


def test_moments_outside_of_the_clip_s_clock() -> None:
    with pytest.raises(click.BadParameter, match="first frame, which is 10:00:00:00"):
        moment("00:00:05:00").frame(_info(Fraction(24), timecode="10:00:00:00"))
    with pytest.raises(click.BadParameter, match="24 frames a second"):
        moment("00:00:00:24").frame(_info(Fraction(24)))


def test_numbers() -> None:
    assert numbers("2,4-6, 5") == [2, 4, 5, 6]
    for wrong in ("", "a", "6-4", "1-5x2", "-1"):
        with pytest.raises(click.BadParameter):
            numbers(wrong)


def test_formats_are_the_services() -> None:
    assert PICTURE_FORMATS == SERVED_FORMATS


def _done(response: Message, state: int = operation_pb2.OPERATION_STATE_SUCCEEDED) -> operations_pb2.Operation:
    operation = operations_pb2.Operation(name="projects/p/operations/o", done=True)
    operation.metadata.Pack(operation_pb2.OperationMetadata(state=state))
    operation.response.Pack(response)
    return operation


def test_cut_turns_timecodes_into_frames(client: FakeClient, run: Callable[..., Result]) -> None:
    client.frames.answers(
        "GetClip", frame_service_pb2.Clip(name=NAME, info=_info(Fraction(25), timecode="01:00:00:00"))
    )
    client.frames.answers("CutClip", _done(frame_service_pb2.Clip(name=f"{NAME}-cut")))
    result = _run(run, "clip cut c -p p --first 01:00:00:10 --last 2s --audio-stream 2 --bitrate 8 --json")
    assert result.exit_code == 0, result.stderr
    assert document(result)["name"] == f"{NAME}-cut"
    request = client.frames.requests[-1]
    assert (request.clip, request.range.first, request.range.last) == (NAME, 10, 50)
    assert (request.audio_stream_index, request.bitrate_mbit, request.clip_id) == (2, 8.0, "")


def test_a_cut_without_a_stream_takes_the_first(client: FakeClient, run: Callable[..., Result]) -> None:
    client.frames.answers("GetClip", frame_service_pb2.Clip(name=NAME, info=_info(Fraction(25))))
    client.frames.answers("CutClip", _done(frame_service_pb2.Clip(name="projects/p/clips/n")))
    assert _run(run, "clip cut c -p p --first 3 --last 9 --id n").exit_code == 0
    assert not client.frames.requests[-1].HasField("audio_stream_index")
    assert _run(run, "clip cut c -p p --first 01:00 --last nonsense").exit_code == 2


def test_denoise(client: FakeClient, run: Callable[..., Result]) -> None:
    client.frames.answers("DenoiseFrames", _done(frame_service_pb2.Clip(name=f"{NAME}-denoised")))
    assert _run(run, "clip denoise c -p p --factor 12").exit_code == 0
    assert client.frames.requests[-1].factor == 12
    assert _run(run, "clip denoise c -p p --factor 21").exit_code == 2


def _scenes() -> operations_pb2.Operation:
    ranges = [common_pb2.FrameRange(first=first, last=last) for first, last in ((0, 9), (10, 10), (11, 40))]
    return _done(frame_service_pb2.DetectScenesResponse(scenes=ranges))


def test_scenes_are_numbered_from_1(client: FakeClient, run: Callable[..., Result]) -> None:
    client.frames.answers("DetectScenes", _scenes())
    found = document(_run(run, "clip scenes c -p p --json"))["scenes"]
    assert found == [
        {"number": 1, "first": 0, "last": 9, "frames": 10},
        {"number": 2, "first": 10, "last": 10, "frames": 1},
        {"number": 3, "first": 11, "last": 40, "frames": 30},
    ]
    assert "SCENE" in _run(run, "clip scenes c -p p").stdout


def test_extract_asks_for_scenes_by_their_numbers(client: FakeClient, run: Callable[..., Result]) -> None:
    client.frames.answers("DetectScenes", _scenes())
    client.frames.answers("ExtractFrames", _done(frame_service_pb2.ExtractFramesResponse(frame_count=31)))
    result = _run(run, "clip extract c -p p --scenes 2-3 --rate 23.976 --format exr --json")
    assert document(result)["frame_count"] == 31
    request = client.frames.requests[-1]
    assert [(entry.first, entry.last) for entry in request.ranges] == [(10, 10), (11, 40)]
    assert (request.frame_rate.num, request.frame_rate.den, request.format) == (2997, 125, "exr")
    for wrong in ("--scenes 4", "--scenes 0", "--scenes 1 --frames 1-2", "--format gif"):
        assert _run(run, f"clip extract c -p p {wrong}").exit_code == 2


def test_extract_says_what_failed_after_fetching_the_rest(
    client: FakeClient, run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def fetched(_client: object, project: str, _manifest: object, folder: Path, _on_done: object) -> int:
        assert project == "projects/p"
        asked.append(folder)
        return 7

    monkeypatch.setattr("understudy.cli.pictures.fetch_pictures", fetched)
    operation = _done(
        frame_service_pb2.ExtractFramesResponse(frame_count=7), operation_pb2.OPERATION_STATE_PARTIALLY_SUCCEEDED
    )
    client.frames.answers("ExtractFrames", operation)
    result = _run(run, f"clip extract c -p p -o {tmp_path} --json")
    assert result.exit_code == 3
    assert document(result) | {"fetched": 7, "output": str(tmp_path)} == document(result)
    assert asked == [tmp_path]


def test_purge_wants_to_be_asked_twice(client: FakeClient, run: Callable[..., Result]) -> None:
    client.projects.answers("PurgeProject", empty_pb2.Empty())
    result = run("project", "purge", "shot")
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert not client.projects.requests
    assert run("project", "purge", "shot", "--yes").stdout == "projects/shot is gone\n"
    assert client.projects.requests[0].confirm_project_id == "shot"
    assert client.projects.requests[0].name == "projects/shot"


def test_a_whole_frame_of_float_footage_is_exr(
    client: FakeClient, run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    monkeypatch.setattr(
        "understudy.transfer.download", lambda _client, _project, _reference, path: written.append(path)
    )
    image = common_pb2.ObjectRef(uri="file:///x", media_type="image/x-exr")
    client.frames.answers("GetFrame", frame_service_pb2.GetFrameResponse(image=image))
    refused = _run(run, f"clip frame c 0 -p p -o {tmp_path / 'a.png'}")
    assert refused.exit_code == 2
    assert ".exr" in refused.stderr
    assert _run(run, f"clip frame c 0 -p p -o {tmp_path / 'a.exr'}").exit_code == 0
    assert written == [tmp_path / "a.exr"]
