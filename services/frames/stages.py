"""The worker's part of the frames tools: frames to pictures, cutting, denoising, scene signatures. No torch anywhere.

What a reader would get wrong: a damaged frame is an item that failed, not the end of the work. Pictures skip it and keep the numbers of the
others; films show the frame before it once more, so that frame numbers and sound stay where they were.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from ml_common.imaging.depth import as_depth
from ml_common.imaging.picture import encode_picture, lossless_suffix, media_type_of
from ml_common.media import (
    ClipInfo,
    EncodeSettings,
    SegmentWriter,
    encode_video,
    notes_in,
    read_segment,
    timecode_after,
)
from ml_common.media.denoise import SUPPORT_FRAMES, denoise
from ml_common.media.scenes import frame_signature, scene_cuts
from services.frames.clip_body import info_body, publish_clip, reference
from services.frames.options import DEFAULT_JPEG_QUALITY
from services.frames.pictures import picture_name, read_manifest, sequence_info, write_manifest
from services.frames.plans import pictures_key
from services.kit.clips import (
    SEQUENCE_MEDIA_TYPE,
    ClipFrames,
    CorruptFrames,
    MediaFile,
    media_errors,
    media_path,
    open_clip,
)
from services.kit.errors import AlreadyExists, Corrupt
from services.kit.operations.chunk import earlier_manifests
from services.kit.operations.keys import output_prefix
from services.kit.operations.plan import Chunk, ChunkManifest, Plan, chunk_frames
from services.kit.operations.stage import ChunkOutcome, Resources, Response, Stage, WorkerEnv
from services.kit.storage import ObjectInfo

PICTURES_PER_BATCH = 8
ENCODER_THREADS = 4
REPORT_EVERY = 8
SEGMENT_MEDIA_TYPE = "video/x-matroska"
VISUALLY_LOSSLESS_CRF = 12
# What formats hold; the last is taken for footage of another depth. TIFF holds all.
_DEPTHS = {"png": ("uint8", "uint16"), "jpg": ("uint8",), "exr": ("float32",), "dpx": ("uint16",)}


class ExtractFramesStage(Stage):
    """Frames of a clip to pictures and a manifest that lists them."""

    version = "1"
    resources = Resources(cpus=1)

    def process_chunk(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> ChunkOutcome:
        """See Stage."""
        params, damage = plan.params, CorruptFrames()
        with open_clip(env.store, MediaFile(**params["media"]), params["clip"]) as clip:
            frames = clip.read(chunk_frames(chunk), on_corrupt=damage)
            files = _store_pictures(env, plan, frames, report, params["format"], params["jpeg_quality"])
        return ChunkOutcome({"files": files}, damage.failures)

    def finish(self, env: WorkerEnv, plan: Plan, manifests: Sequence[ChunkManifest], actor: str) -> Response:
        """Lists the pictures."""
        files = _all_files(env, plan, manifests)
        info = write_manifest(env.store, pictures_key(plan.action_key), files)
        return Response(
            "understudy.v1.ExtractFramesResponse",
            {"manifest": reference(env.store, info), "frameCount": str(len(files))},
        )


class CutStage(Stage):
    """A range of a clip to a clip of its own: one chunk, since a film is written from its first frame to its last."""

    version = "1"
    resources = Resources(cpus=1)

    def process_chunk(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> ChunkOutcome:
        """See Stage. Of a sequence only the list is cut: its pictures stay where they are."""
        params = plan.params
        if params["media"]["media_type"] == SEQUENCE_MEDIA_TYPE:
            return ChunkOutcome(_cut_sequence(env, plan, chunk_frames(chunk)))
        damage, numbers = CorruptFrames(), chunk_frames(chunk)
        bitrate = params["bitrate_mbit"]
        with open_clip(env.store, MediaFile(**params["media"]), params["clip"]) as clip:
            film = _encode_film(
                env,
                plan,
                clip,
                numbers,
                clip.read(numbers, on_corrupt=damage),
                EncodeSettings(
                    crf=None if bitrate else VISUALLY_LOSSLESS_CRF,
                    bitrate_mbit=bitrate or None,
                    pixel_format=_film_format(clip.info, full_chroma="420" not in clip.info.pixel_format),
                ),
                report,
                audio_stream_index=params["audio_stream_index"],
            )
        return ChunkOutcome(film, damage.failures)

    def finish(self, env: WorkerEnv, plan: Plan, manifests: Sequence[ChunkManifest], actor: str) -> Response:
        """Registers the new clip."""
        return _published(env, plan, manifests[0].summary)


class DenoiseStage(Stage):
    """Frames to denoised ones: segments of a film that the last chunk joins, or pictures."""

    version = "1"
    resources = Resources(cpus=1)

    def process_chunk(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> ChunkOutcome:
        """See Stage."""
        if chunk.phase:
            return self._join(env, plan, chunk, report)
        params, damage, numbers = plan.params, CorruptFrames(), chunk_frames(chunk)
        own = set(numbers)
        with open_clip(env.store, MediaFile(**params["media"]), params["clip"]) as clip:
            low = max(clip.index(numbers[0]) - SUPPORT_FRAMES, 0)
            around = clip.numbers[low : clip.index(numbers[-1]) + SUPPORT_FRAMES + 1]
            # Damage beyond the chunk is for the neighbour to report.
            read = clip.read(around, on_corrupt=lambda number, error: damage(number, error) if number in own else None)
            indexed = ((clip.index(number), number, image) for number, image in read)
            cleaned = (
                (number, _denoised(window, centre, params["factor"]))
                for number, window, centre in windows(indexed, SUPPORT_FRAMES)
                if number in own
            )
            if params["output"] == "film":
                return ChunkOutcome(_store_segment(env, plan, chunk, cleaned, report), damage.failures)
            files = _store_pictures(env, plan, cleaned, report)
        return ChunkOutcome({"files": files}, damage.failures)

    def finish(self, env: WorkerEnv, plan: Plan, manifests: Sequence[ChunkManifest], actor: str) -> Response:
        """Registers the new clip."""
        if plan.params["output"] == "film":
            return _published(env, plan, manifests[-1].summary)
        files = _all_files(env, plan, manifests)
        return _published(env, plan, _listed(env, plan, files, Fraction(plan.params["rate"])))

    def _join(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> ChunkOutcome:
        manifests = earlier_manifests(env.store, plan, chunk)
        numbers = [number for other in plan.chunks if other.phase == 0 for number in chunk_frames(other)]
        with open_clip(env.store, MediaFile(**plan.params["media"]), plan.params["clip"]) as clip:
            settings = EncodeSettings(crf=0, preset="veryfast", pixel_format=_film_format(clip.info, full_chroma=True))
            frames = _segment_frames(env, manifests)
            return ChunkOutcome(_encode_film(env, plan, clip, numbers, frames, settings, report))


class ScenesStage(Stage):
    """Signatures of frames, and the cuts between them."""

    version = "1"
    resources = Resources(cpus=1)

    def process_chunk(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> ChunkOutcome:
        """See Stage."""
        params, damage = plan.params, CorruptFrames()
        numbers: list[int] = []
        signatures: list[np.ndarray] = []
        with open_clip(env.store, MediaFile(**params["media"]), params["clip"]) as clip:
            for number, image_bgr_HWC in clip.read(chunk_frames(chunk), on_corrupt=damage):
                numbers.append(number)
                signatures.append(frame_signature(image_bgr_HWC))
                _report_now_and_then(report, len(numbers))
        key = f"{output_prefix(plan.action_key)}{chunk.index:06d}.npz"
        if numbers:
            data = io.BytesIO()
            np.savez(data, numbers=np.array(numbers, np.int64), signatures=np.stack(signatures))
            env.store.put(key, data.getvalue(), media_type="application/x-npz")
        return ChunkOutcome({"signatures": key if numbers else ""}, damage.failures)

    def finish(self, env: WorkerEnv, plan: Plan, manifests: Sequence[ChunkManifest], actor: str) -> Response:
        """Finds the cuts over all chunks."""
        parts = []
        for manifest in manifests:
            if manifest.summary["signatures"]:
                data = io.BytesIO(env.store.get(manifest.summary["signatures"]))
                with np.load(data, allow_pickle=False) as part:
                    parts.append((part["numbers"], part["signatures"]))
        if not parts:
            raise _nothing_decodes(plan)
        numbers = [int(number) for part, _ in parts for number in part]
        signatures_NS = np.concatenate([part for _, part in parts])
        cuts = scene_cuts(signatures_NS, numbers, threshold=plan.params["threshold"])
        first, last = plan.params["first"], plan.params["last"]
        begins = [first, *(cut for cut in cuts if cut > first)]
        ends = [*(begin - 1 for begin in begins[1:]), last]
        scenes = [{"first": str(a), "last": str(b), "step": "1"} for a, b in zip(begins, ends, strict=True)]
        return Response("understudy.v1.DetectScenesResponse", {"scenes": scenes})


def windows(frames: Iterable[tuple[int, int, np.ndarray]], support: int) -> Iterator[tuple[int, list[np.ndarray], int]]:
    """For each of (index, number, image), indices rising: its number, the images at most ``support`` indices away, and which of those it
    is. An index that is not there is in no window, so windows do not depend on where reading began."""
    held: list[tuple[int, int, np.ndarray]] = []
    waiting = 0  # position in ``held`` of the next one to come out

    def out() -> tuple[int, list[np.ndarray], int]:
        index, number, _ = held[waiting]
        near = [position for position, other in enumerate(held) if abs(other[0] - index) <= support]
        return number, [held[position][2] for position in near], near.index(waiting)

    for frame in frames:
        while waiting < len(held) and frame[0] > held[waiting][0] + support:
            yield out()
            waiting += 1
        while waiting < len(held) and held[0][0] < held[waiting][0] - support:
            del held[0]
            waiting -= 1
        held.append(frame)
    while waiting < len(held):
        yield out()
        waiting += 1


def _denoised(window: Sequence[np.ndarray], centre: int, factor: int) -> np.ndarray:
    """The middle frame cleaned. Photos of one folder may be of several sizes and depths: others than its own tell nothing about it."""
    kind = (window[centre].shape, window[centre].dtype)
    alike = [index for index, image in enumerate(window) if (image.shape, image.dtype) == kind]
    return denoise([window[index] for index in alike], alike.index(centre), factor)


def _store_pictures(
    env: WorkerEnv,
    plan: Plan,
    frames: Iterable[tuple[int, np.ndarray]],
    report: Callable[[int], None],
    picture_format: str = "",
    jpeg_quality: int = 0,
) -> list[list[Any]]:
    """Writes pictures, in the format that keeps every bit unless one is given; returns [number, suffix, sha256, size] of each."""
    prefix = output_prefix(plan.action_key)
    files: list[list[Any]] = []

    def encoded(item: tuple[int, np.ndarray]) -> tuple[int, str, bytes]:
        number, image = item
        suffix = f".{picture_format}" if picture_format else lossless_suffix(image.dtype)
        fitting = as_depth(image, _fitting_depth(picture_format, image.dtype))
        return number, suffix, encode_picture(fitting, suffix, jpeg_quality=jpeg_quality or DEFAULT_JPEG_QUALITY)

    with ThreadPoolExecutor(ENCODER_THREADS) as pool:
        for batch in _batches(frames, PICTURES_PER_BATCH):
            made = list(pool.map(encoded, batch))
            stored = env.store.put_many(
                (f"{prefix}{number:08d}{suffix}", data, media_type_of(suffix)) for number, suffix, data in made
            )
            files += [
                [number, suffix[1:], info.sha256, info.size_bytes]
                for (number, suffix, _), info in zip(made, stored, strict=True)
            ]
            report(len(files))
    return files


def _fitting_depth(picture_format: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The depth that a format holds and that loses least of ``dtype``."""
    held = _DEPTHS.get(picture_format, ())
    return dtype if not held or dtype.name in held else np.dtype(held[-1])


def _all_files(env: WorkerEnv, plan: Plan, manifests: Sequence[ChunkManifest]) -> list[dict[str, Any]]:
    """Lines of a manifest for what chunks stored with ``_store_pictures``; Corrupt when it is nothing."""
    prefix, stem = output_prefix(plan.action_key), plan.params["stem"]
    files = [
        {
            "name": picture_name(stem, number, suffix),
            "uri": env.store.uri(f"{prefix}{number:08d}.{suffix}"),
            "sha256": sha256,
            "size_bytes": size_bytes,
        }
        for manifest in manifests
        for number, suffix, sha256, size_bytes in manifest.summary["files"]
    ]
    if not files:
        raise _nothing_decodes(plan)
    return files


def _cut_sequence(env: WorkerEnv, plan: Plan, numbers: Sequence[int]) -> dict[str, Any]:
    media, kept = plan.params["media"], set(numbers)
    frames = chunk_frames(Chunk(0, 0, {"frames": plan.params["all_frames"]}))
    files = [entry for number, entry in read_manifest(env.store, media["key"], frames) if number in kept]
    return _listed(env, plan, files, Fraction(plan.params["rate"]))


def _listed(env: WorkerEnv, plan: Plan, files: list[dict[str, Any]], rate: Fraction) -> dict[str, Any]:
    """Writes a manifest of pictures that becomes a clip."""
    media = write_manifest(env.store, pictures_key(plan.action_key), files)
    info = sequence_info(env, files, rate, plan.params["new_clip"])
    return {"media": reference(env.store, media), "info": info_body(info)}


def _published(env: WorkerEnv, plan: Plan, made: dict[str, Any]) -> Response:
    params = plan.params
    body = publish_clip(
        env.records,
        params["new_clip"],
        display_name=params["display_name"],
        media=made["media"],
        info=made["info"],
        action_key=plan.action_key,
    )
    return Response("understudy.v1.Clip", body)


def _store_segment(
    env: WorkerEnv,
    plan: Plan,
    chunk: Chunk,
    frames: Iterator[tuple[int, np.ndarray]],
    report: Callable[[int], None],
) -> dict[str, Any]:
    """Frames as one lossless file; ``numbers`` are those that it holds, and there is no file when it holds none."""
    numbers: list[int] = []
    key = f"{output_prefix(plan.action_key)}{chunk.index:06d}.mkv"
    with tempfile.TemporaryDirectory(dir=env.scratch_dir) as folder:
        path = Path(folder, "segment.mkv")
        first = next(frames, None)
        if first is not None:
            with SegmentWriter(path) as writer:
                for number, image_bgr_HWC in chain([first], frames):
                    writer.write(image_bgr_HWC)
                    numbers.append(number)
                    _report_now_and_then(report, len(numbers))
            _put_once(env, key, path, SEGMENT_MEDIA_TYPE)
    return {"segment": key, "numbers": numbers}


def _put_once(env: WorkerEnv, key: str, path: Path, media_type: str) -> ObjectInfo:
    """Encoders give other bytes on other machines: what is named first stays, whoever else was at the same chunk."""
    try:
        return env.store.put(key, path, media_type=media_type, if_absent=True)
    except AlreadyExists:
        return env.store.stat(key)


def _segment_frames(env: WorkerEnv, manifests: Sequence[ChunkManifest]) -> Iterator[tuple[int, np.ndarray]]:
    """The frames of all segments in order; Corrupt when one does not hold what its manifest says."""
    for summary in (manifest.summary for manifest in manifests if manifest.summary["numbers"]):
        with env.store.local_path(summary["segment"]) as path, media_errors(summary["segment"]):
            images = read_segment(path)
            for number in summary["numbers"]:
                image = next(images, None)
                if image is None:
                    key = summary["segment"]
                    raise Corrupt(f"the segment {key} ends before frame {number}", metadata={"uri": env.store.uri(key)})
                yield number, image


def _encode_film(
    env: WorkerEnv,
    plan: Plan,
    clip: ClipFrames,
    numbers: Sequence[int],
    frames: Iterator[tuple[int, np.ndarray]],
    settings: EncodeSettings,
    report: Callable[[int], None],
    *,
    audio_stream_index: int | None = None,
) -> dict[str, Any]:
    """Consecutive frames of a video as a film with its sound, rate, colour tags, timecode and notes (an AI notice is one of them)."""
    params, info = plan.params, clip.info
    with (
        tempfile.TemporaryDirectory(dir=env.scratch_dir) as folder,
        media_path(env.store, MediaFile(**params["media"])) as source,
        media_errors(params["clip"]),
    ):
        path = Path(folder, "film.mp4")
        made = encode_video(
            path,
            _without_holes(plan, numbers, frames),
            rate=info.rate,
            times_s=[clip.time_s(number) for number in numbers],
            color=info.color,
            settings=settings,
            audio_from=source if info.audio else None,
            audio_stream_index=audio_stream_index,
            metadata={**notes_in(source), "software": "Understudy"},
            timecode=_timecode(info, clip.index(numbers[0])),
            pixel_aspect=info.pixel_aspect,
            on_frame=lambda index: _report_now_and_then(report, index + 1),
        )
        film = _put_once(env, f"{output_prefix(plan.action_key)}film.mp4", path, "video/mp4")
    return {"media": reference(env.store, film), "info": info_body(made)}


def _without_holes(
    plan: Plan, numbers: Sequence[int], frames: Iterator[tuple[int, np.ndarray]]
) -> Iterator[np.ndarray]:
    """An image for each of ``numbers``: that of the sound frame before where ``frames`` has none, at the start that of the one after."""
    upcoming = next(frames, None)
    if upcoming is None:
        raise _nothing_decodes(plan)
    image = upcoming[1]
    for number in numbers:
        if upcoming is not None and upcoming[0] == number:
            image, upcoming = upcoming[1], next(frames, None)
        yield image


def _film_format(info: ClipInfo, *, full_chroma: bool) -> str:
    return ("yuv444p" if full_chroma else "yuv420p") + ("10le" if info.bit_depth > 8 else "")


def _timecode(info: ClipInfo, frames: int) -> str | None:
    """The clip's timecode ``frames`` later; None where it has none, or one that does not count frames at the clip's rate."""
    with suppress(ValueError):
        return timecode_after(info.timecode, frames, info.rate) if info.timecode else None
    return None


def _nothing_decodes(plan: Plan) -> Corrupt:
    clip = plan.params["clip"]
    return Corrupt(
        f"none of the frames of {clip} that were asked for can be decoded: get a sound copy",
        reason="CORRUPT_FRAME",
        metadata={"clip": clip},
    )


def _report_now_and_then(report: Callable[[int], None], done: int) -> None:
    if done % REPORT_EVERY == 0:
        report(done)


def _batches(frames: Iterable[tuple[int, np.ndarray]], size: int) -> Iterator[list[tuple[int, np.ndarray]]]:
    remaining = iter(frames)
    while batch := list(islice(remaining, size)):
        yield batch
