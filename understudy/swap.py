"""The whole job as a client of the services: two clips in, one film out.

Everything is named after what it is made of (digests of the clips, settings), so the same call again finds what is done and goes on: no
state is kept here. Stages report through ``on_event``; the film appears at its path only when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from google.longrunning import operations_pb2
from google.protobuf import json_format, struct_pb2
from google.protobuf.message import Message

from understudy.client import Client
from understudy.errors import UnderstudyError
from understudy.media import add_clip, slug
from understudy.transfer import download
from understudy.v1 import (
    face_service_pb2,
    frame_service_pb2,
    merge_service_pb2,
    operation_pb2,
    project_service_pb2,
    training_service_pb2,
)

STAGES = ("upload", "extract src", "extract dst", "train", "merge", "encode", "download")
DEFAULT_ITERATIONS = 20_000  # for presets that would train for ever
ASK_WITHIN_S = 300.0  # the first question about training waits for the server's workers to start


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapOptions:
    """What a person may choose. ``train_options`` override the preset's, ``merge`` and ``encode`` are settings as the API names them.

    ``iterations`` 0: as many as the preset says, or DEFAULT_ITERATIONS where it says none.
    """

    preset: str = "quick96"
    iterations: int = 0
    train_options: dict[str, Any] = field(default_factory=dict)
    extraction: dict[str, Any] = field(default_factory=dict)
    merge: dict[str, Any] = field(default_factory=dict)
    encode: dict[str, Any] = field(default_factory=dict)
    project: str = ""
    workers: int = 1


@dataclass(frozen=True, slots=True)
class SwapEvent:
    """Something to show. ``kind``: `begin`, `progress`, `log` or `end` of a stage; ``total`` is 0 where nobody knows it.

    ``rate_per_s`` counts units, ``samples_per_s`` faces seen by a training run; 0 until known.
    """

    stage: str
    kind: Literal["begin", "progress", "log", "end"]
    done: int = 0
    total: int = 0
    unit: str = ""
    rate_per_s: float = 0.0
    samples_per_s: float = 0.0
    eta_s: float | None = None
    text: str = ""
    losses: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SwapResult:
    """What came of it: names of everything made, counts, and seconds a stage. ``failed_items``: failures by stage."""

    project: str
    src_faceset: str
    dst_faceset: str
    run: str
    session: str
    output: Path
    frames_in: int
    frames_out: int
    faces_found: dict[str, int]
    frames_without_face: int
    iterations: int
    losses: dict[str, float]
    seconds: dict[str, float]
    failed_items: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {**values, "output": str(self.output)}


def swap(
    client: Client,
    src: Path,
    dst: Path,
    output: Path,
    options: SwapOptions | None = None,
    on_event: Callable[[SwapEvent], None] = lambda event: None,
) -> SwapResult:
    """Puts the face of ``src`` onto the person in ``dst`` and writes the film to ``output`` (.mp4).

    ``src`` and ``dst`` are videos or folders of pictures. Calling it again with the same arguments continues, or finds everything done.
    Raises UnderstudyError with the reason of whatever stopped it.
    """
    return _Swap(client, options or SwapOptions(), on_event).run(src, dst, output)


def operation_event(stage: str, event: operation_pb2.WatchOperationResponse) -> SwapEvent | None:
    """What to show for an event of an operation; None for a heartbeat."""
    kind = event.WhichOneof("event")
    if kind == "log":
        return SwapEvent(stage, "log", text=event.log.text)
    if kind not in ("progress", "metadata"):
        return None
    progress = event.progress if kind == "progress" else event.metadata.progress
    return SwapEvent(
        stage,
        "progress",
        done=progress.done_units,
        total=progress.total_units,
        unit=progress.unit,
        rate_per_s=progress.rate_per_s,
        eta_s=progress.eta.ToMicroseconds() / 1e6 if progress.HasField("eta") else None,
    )


def run_event(stage: str, event: training_service_pb2.WatchRunResponse, target_iteration: int = 0) -> SwapEvent | None:
    """What to show for an event of a training run whose end is ``target_iteration`` (0: none); None for the others."""
    kind = event.WhichOneof("event")
    if kind == "report":
        report = event.report
        return SwapEvent(
            stage,
            "progress",
            done=report.iteration,
            total=target_iteration,
            unit="iterations",
            samples_per_s=report.samples_per_s,
            eta_s=report.eta.ToMicroseconds() / 1e6 if report.HasField("eta") else None,
            losses=dict(report.losses),
        )
    if kind == "checkpoint":
        return SwapEvent(stage, "log", text=f"saved at iteration {event.checkpoint.iteration}")
    if kind == "log":
        return SwapEvent(stage, "log", text=event.log.text)
    if kind == "run" and event.run.state == training_service_pb2.TrainingRun.STATE_PAUSED:
        return SwapEvent(stage, "log", text="paused until someone resumes it")
    return None


class _Swap:
    def __init__(self, client: Client, options: SwapOptions, on_event: Callable[[SwapEvent], None]) -> None:
        self._client = client
        self._options = options
        self._on_event = on_event
        self._seconds: dict[str, float] = {}
        self._failed_items: dict[str, int] = {}

    def run(self, src: Path, dst: Path, output: Path) -> SwapResult:
        if output.suffix.lower() != ".mp4":
            raise UnderstudyError(
                f"{output}: the film is written as .mp4", code="INVALID_ARGUMENT", reason="INVALID_INPUT"
            )
        for path in (src, dst):
            if not path.exists():
                raise UnderstudyError(f"there is no file or folder {path}", code="INVALID_ARGUMENT", reason="NOT_FOUND")
            if path.resolve() == output.resolve():
                raise UnderstudyError(
                    f"{output} is footage: give the film another name", code="INVALID_ARGUMENT", reason="INVALID_INPUT"
                )
        target_iteration = self._target_iteration()  # asked now: a wrong preset shall not cost an extraction first
        project = f"projects/{self._options.project or 'swap-' + _short(str(src.resolve()), str(dst.resolve()))}"
        started = time.monotonic()
        self._created(
            self._client.projects.CreateProject,
            project_service_pb2.CreateProjectRequest(
                project_id=project.partition("/")[2], project=project_service_pb2.Project()
            ),
            lambda: self._client.projects.GetProject(project_service_pb2.GetProjectRequest(name=project)),
        )
        src_clip, dst_clip = self._upload(project, src, dst)
        src_faces, dst_faces = self._extract(src_clip, dst_clip)
        run = self._train(project, src_faces.faceset, dst_faces.faceset, target_iteration)
        session, merged = self._merge(project, dst_clip, dst_faces.faceset, run)
        film = self._encode(session, merged)
        self._begin("download")
        download(self._client, project, film.video, output)
        self._end("download", str(output))
        self._seconds["total"] = time.monotonic() - started
        return SwapResult(
            project=project,
            src_faceset=src_faces.faceset,
            dst_faceset=dst_faces.faceset,
            run=run.name,
            session=session.name,
            output=output,
            frames_in=dst_clip.info.frame_count,
            frames_out=film.frame_count,
            faces_found={"src": src_faces.face_count, "dst": dst_faces.face_count},
            frames_without_face=merged.frames_without_face,
            iterations=run.iteration,
            losses={name: round(value, 6) for name, value in run.losses.items()},
            seconds={name: round(value, 2) for name, value in self._seconds.items()},
            failed_items=self._failed_items,
        )

    def _upload(self, project: str, src: Path, dst: Path) -> tuple[frame_service_pb2.Clip, frame_service_pb2.Clip]:
        self._begin("upload")
        clips = []
        for path in (src, dst):
            clip = add_clip(self._client, project, path)
            self._log("upload", f"{path.name}: {_described(clip.info)}")
            clips.append(clip)
        self._end("upload")
        return clips[0], clips[1]

    def _extract(
        self, src: frame_service_pb2.Clip, dst: frame_service_pb2.Clip
    ) -> tuple[face_service_pb2.ExtractFacesetResponse, face_service_pb2.ExtractFacesetResponse]:
        extraction = json_format.ParseDict(self._options.extraction, face_service_pb2.ExtractionOptions())
        operations = []
        for clip in (src, dst):
            request = face_service_pb2.ExtractFacesetRequest(
                clip=clip.name,
                faceset_id=f"{clip.name.rpartition('/')[2][:50]}-{_short(json.dumps(self._options.extraction, sort_keys=True))}",
                options=extraction,
            )
            operations.append(self._client.faces.ExtractFaceset(request))
        responses = []
        for stage, operation in zip(("extract src", "extract dst"), operations, strict=True):
            responses.append(self._awaited(stage, operation, face_service_pb2.ExtractFacesetResponse()))
        return responses[0], responses[1]

    def _target_iteration(self) -> int:
        """How long to train. Raises UnderstudyError for a preset or option that does not exist."""
        listed = self._client.training.ListPresets(training_service_pb2.ListPresetsRequest(), timeout=ASK_WITHIN_S)
        presets = {preset.name: dict(preset.options) for preset in listed.presets}
        name, asked = self._options.preset, self._options.train_options
        if name not in presets:
            raise _unknown("preset", "preset", name, presets)
        for option in asked:
            if option not in presets[name]:
                raise _unknown("train_options", "training option", option, presets[name])
        iterations, target = self._options.iterations, asked.get("target_iteration", 0)
        if not isinstance(target, int) or (iterations and target and iterations != target):
            raise UnderstudyError(
                f"target_iteration {target!r} must be a whole number, and the same as iterations where both are given",
                code="INVALID_ARGUMENT",
                reason="INVALID_INPUT",
            )
        return int(iterations or target or presets[name].get("target_iteration", 0) or DEFAULT_ITERATIONS)

    def _train(
        self, project: str, src_faceset: str, dst_faceset: str, target_iteration: int
    ) -> training_service_pb2.TrainingRun:
        self._begin("train")
        options = struct_pb2.Struct()
        options.update(self._options.train_options)
        wished = training_service_pb2.TrainingRun(
            src_faceset=src_faceset,
            dst_faceset=dst_faceset,
            preset=self._options.preset,
            options=options,
            target_iteration=target_iteration,
            workers=self._options.workers,
        )
        run_id = f"{slug(self._options.preset)}-{_short(json_format.MessageToJson(wished, sort_keys=True))}"
        run: training_service_pb2.TrainingRun = self._client.training.CreateRun(
            training_service_pb2.CreateRunRequest(parent=project, run_id=run_id, run=wished), timeout=ASK_WITHIN_S
        )
        if run.state in (training_service_pb2.TrainingRun.STATE_STOPPED, training_service_pb2.TrainingRun.STATE_FAILED):
            run = self._client.training.ResumeRun(training_service_pb2.ResumeRunRequest(name=run.name))
        if run.state != training_service_pb2.TrainingRun.STATE_COMPLETED:
            run = self._watch_run(run)
        if run.state != training_service_pb2.TrainingRun.STATE_COMPLETED:
            state = training_service_pb2.TrainingRun.State.Name(run.state).removeprefix("STATE_").lower()
            stopped = run.state == training_service_pb2.TrainingRun.STATE_STOPPED
            raise UnderstudyError(
                run.error_message or f"training was {state} before its target: the same command resumes it",
                code="CANCELLED" if stopped else "ABORTED",
                reason=run.error_reason or ("CANCELLED" if stopped else "WRONG_STATE"),
                work=run.name,
            )
        self._end("train", f"{run.iteration} iterations")
        return run

    def _watch_run(self, run: training_service_pb2.TrainingRun) -> training_service_pb2.TrainingRun:
        for event in self._client.watch_run(run.name):
            if event.WhichOneof("event") == "run":
                run = event.run
            shown = run_event("train", event, run.target_iteration)
            if shown:
                self._on_event(shown)
        latest: training_service_pb2.TrainingRun = self._client.training.GetRun(
            training_service_pb2.GetRunRequest(name=run.name)
        )
        return latest

    def _merge(
        self, project: str, clip: frame_service_pb2.Clip, faceset: str, run: training_service_pb2.TrainingRun
    ) -> tuple[merge_service_pb2.MergeSession, merge_service_pb2.MergeFramesResponse]:
        settings = json_format.ParseDict(self._options.merge, merge_service_pb2.MergeSettings())
        wished = merge_service_pb2.MergeSession(
            clip=clip.name,
            faceset=faceset,
            faceset_revision=1,
            model=run.checkpoint.name,
            settings=[merge_service_pb2.FrameSettings(settings=settings)],
        )
        session_id = f"merge-{_short(json_format.MessageToJson(wished, sort_keys=True))}"
        session: merge_service_pb2.MergeSession = self._client.merge.CreateSession(
            merge_service_pb2.CreateSessionRequest(parent=project, session_id=session_id, session=wished)
        )
        operation = self._client.merge.MergeFrames(merge_service_pb2.MergeFramesRequest(session=session.name))
        return session, self._awaited("merge", operation, merge_service_pb2.MergeFramesResponse())

    def _encode(
        self, session: merge_service_pb2.MergeSession, merged: merge_service_pb2.MergeFramesResponse
    ) -> merge_service_pb2.EncodeVideoResponse:
        settings = json_format.ParseDict(self._options.encode, merge_service_pb2.EncodeSettings())
        request = merge_service_pb2.EncodeVideoRequest(session=session.name, merged=merged.manifest, settings=settings)
        response: merge_service_pb2.EncodeVideoResponse = self._awaited(
            "encode", self._client.merge.EncodeVideo(request), merge_service_pb2.EncodeVideoResponse()
        )
        return response

    def _awaited(self, stage: str, operation: operations_pb2.Operation, response: Message) -> Any:
        """Shows an operation's events until it ends, and unpacks its response."""
        self._begin(stage)
        for event in () if operation.done else self._client.watch(operation.name):
            shown = operation_event(stage, event)
            if shown:
                self._on_event(shown)
        operation = self._client.operations.GetOperation(operations_pb2.GetOperationRequest(name=operation.name))
        result = self._client.result(operation, response)
        metadata = operation_pb2.OperationMetadata()
        operation.metadata.Unpack(metadata)
        if metadata.HasField("start_time") and metadata.HasField("end_time"):
            worked = (metadata.end_time.ToMicroseconds() - metadata.create_time.ToMicroseconds()) / 1e6
            self._seconds[stage] = worked  # stages that run side by side each count their own time
        if metadata.failed_items:
            self._failed_items[stage] = len(metadata.failed_items)
        self._end(stage, f"{metadata.progress.done_units} {metadata.progress.unit}")
        return result

    def _created(self, create: Callable[[Any], Any], request: Message, get: Callable[[], Any]) -> Any:
        try:
            return create(request)
        except UnderstudyError as error:
            if error.code != "ALREADY_EXISTS":
                raise
            return get()

    def _begin(self, stage: str) -> None:
        self._seconds[stage] = -time.monotonic()
        self._on_event(SwapEvent(stage, "begin"))

    def _end(self, stage: str, text: str = "") -> None:
        if self._seconds[stage] <= 0:
            self._seconds[stage] += time.monotonic()
        self._on_event(SwapEvent(stage, "end", text=text))

    def _log(self, stage: str, text: str) -> None:
        self._on_event(SwapEvent(stage, "log", text=text))


def _short(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


def _unknown(field_name: str, kind: str, name: str, known: Iterable[str]) -> UnderstudyError:
    choices = f"one of {', '.join(sorted(known))}"
    return UnderstudyError(
        f"there is no {kind} {name!r}: use {choices}",
        code="INVALID_ARGUMENT",
        reason="UNKNOWN_NAME",
        fields={field_name: choices},
    )


def _described(info: frame_service_pb2.MediaInfo) -> str:
    rate = info.frame_rate.num / info.frame_rate.den if info.frame_rate.den else 0
    sound = f", {info.audio[0].codec} {info.audio[0].layout}" if info.audio else ", no sound"
    return f"{info.frame_count} frames, {info.image.width}x{info.image.height}, {rate:.3f}/s{sound}"
