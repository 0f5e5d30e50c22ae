"""Plans of the clip tools: pure functions from a clip and checked options to chunks.

What a reader would get wrong: a film is joined by one more chunk, of a later phase, so that it is written where work is done and its
progress is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.frames.options import DEEPEST_FILM_BITS, ClipFacts, PictureOptions
from services.kit.operations.keys import output_prefix
from services.kit.operations.plan import Chunk, Plan, action_key, frame_chunks

EXTRACT_METHOD = "understudy.v1.FrameService/ExtractFrames"
CUT_METHOD = "understudy.v1.FrameService/CutClip"
DENOISE_METHOD = "understudy.v1.FrameService/DenoiseFrames"
SCENES_METHOD = "understudy.v1.FrameService/DetectScenes"
EXTRACT_STAGE = "services.frames.stages:ExtractFramesStage"
CUT_STAGE = "services.frames.stages:CutStage"
DENOISE_STAGE = "services.frames.stages:DenoiseStage"
SCENES_STAGE = "services.frames.stages:ScenesStage"
STAGE_VERSIONS = {
    EXTRACT_STAGE: "1",
    CUT_STAGE: "1",
    DENOISE_STAGE: "1",
    SCENES_STAGE: "1",
}  # of the stages, whose module a server does not import; a test compares


def pictures_key(action: str) -> str:
    """Where the list of the pictures lies that an action made."""
    return f"{output_prefix(action)}pictures.json"


def extract_plan(clip: ClipFacts, frames: Sequence[int], options: PictureOptions, chunk_frames: int) -> Plan:
    """Frames as pictures."""
    params = {"stem": clip.stem, **options.to_json()}
    return _plan(EXTRACT_METHOD, EXTRACT_STAGE, clip, params, frame_chunks(frames, chunk_frames))


def cut_plan(
    clip: ClipFacts, frames: Sequence[int], *, new_clip: str, audio_stream_index: int | None, bitrate_mbit: float
) -> Plan:
    """A range as a clip. Of a sequence it is another list of the same pictures, which has neither sound nor rate of bits."""
    params: dict[str, Any] = {"new_clip": new_clip, "rate": str(clip.rate)}
    if clip.is_sequence:
        whole = frame_chunks(clip.frames, len(clip.frames))[0]
        params |= {"display_name": f"{clip.stem}-cut", "all_frames": whole.data["frames"]}
    else:
        params |= {
            "display_name": f"{clip.stem}-cut.mp4",
            "audio_stream_index": audio_stream_index,
            "bitrate_mbit": bitrate_mbit,
        }
    return _plan(CUT_METHOD, CUT_STAGE, clip, params, frame_chunks(frames, len(frames)))


def denoise_plan(clip: ClipFacts, *, new_clip: str, factor: int, chunk_frames: int) -> Plan:
    """All frames, cleaned: a film of a video, pictures of a sequence, and of footage that is deeper than a film may be."""
    film = not clip.is_sequence and clip.bit_depth <= DEEPEST_FILM_BITS
    params = {
        "new_clip": new_clip,
        "display_name": f"{clip.stem}-denoised.mp4" if film else f"{clip.stem}-denoised",
        "stem": clip.stem,
        "factor": factor,
        "output": "film" if film else "pictures",
        "rate": str(clip.rate),
    }
    chunks = frame_chunks(clip.frames, chunk_frames)
    if film:
        chunks += (Chunk(len(chunks), len(clip.frames), {}, phase=1),)
    return _plan(DENOISE_METHOD, DENOISE_STAGE, clip, params, chunks)


def scenes_plan(clip: ClipFacts, *, threshold: float, chunk_frames: int) -> Plan:
    """Signatures of all frames."""
    params = {"threshold": threshold, "first": clip.frames[0], "last": clip.frames[-1]}
    return _plan(SCENES_METHOD, SCENES_STAGE, clip, params, frame_chunks(clip.frames, chunk_frames))


def _plan(method: str, stage: str, clip: ClipFacts, own: dict[str, Any], chunks: tuple[Chunk, ...]) -> Plan:
    """Everything that the result depends on is in the action key."""
    params = {"clip": clip.name, "media": clip.media.to_json(), **own}
    inputs = {**params, "media_sha256": clip.media_sha256, "chunks": [chunk.data for chunk in chunks]}
    key = action_key(method, stage, STAGE_VERSIONS[stage], inputs)
    return Plan(action_key=key, stage=stage, params=params, chunks=chunks, unit="frames")
