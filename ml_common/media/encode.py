"""The finished film: H.264 in MP4, with sound, exact times and honest colour tags.

What one would get wrong: 4:2:0 cannot store an odd width or height, and cutting or padding a row would move every
pixel's meaning. Such a film is written as 4:4:4 instead: every frame keeps its size and is never lost, but not every
player shows it.

Shapes: H height, W width, C channels (B, G, R).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream

from ml_common.media.audio import AudioSamples, AudioTrack, add_copied_or_encoded, add_samples
from ml_common.media.color import Image, YuvWriter, codes_of, yuv_tags
from ml_common.media.container import open_input, partial_path, time_base_of, worker_threads
from ml_common.media.errors import MediaError
from ml_common.media.info import ClipInfo, ColorTags
from ml_common.media.video import probe_video

PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
PIXEL_FORMATS = ("yuv420p", "yuv444p", "yuv420p10le", "yuv444p10le")
_VARIABLE_CLOCK_HZ = 90_000
# Times that stay this near to a constant rate are that rate, written by a clock of milliseconds.
_CONSTANT_WITHIN_S = 0.00101
_TIMECODE = re.compile(r"\d\d:\d\d:\d\d[:;.]\d\d")


@dataclass(frozen=True, slots=True)
class EncodeSettings:
    """How to encode. ``crf`` (0 lossless to 51 worst; 14 is hard to tell from the original) or ``bitrate_mbit``, not
    both. ``pixel_format`` of 10 bits (``yuv420p10le``) keeps what deeper footage has; not every player shows it."""

    codec: str = "h264"
    crf: int | None = 16
    bitrate_mbit: float | None = None
    preset: str = "medium"
    pixel_format: str = "yuv420p"

    def __post_init__(self) -> None:
        if self.codec != "h264":
            raise ValueError(f"codec {self.codec!r} is not written; use 'h264'")
        if (self.crf is None) == (self.bitrate_mbit is None):
            raise ValueError("give either crf or bitrate_mbit, and None for the other")
        if self.crf is not None and not 0 <= self.crf <= 51:
            raise ValueError(f"crf is 0 (lossless) to 51, not {self.crf}")
        if self.bitrate_mbit is not None and not 0 < self.bitrate_mbit <= 2000:
            raise ValueError(f"bitrate_mbit is over 0 and at most 2000, not {self.bitrate_mbit}")
        if self.preset not in PRESETS:
            raise ValueError(f"preset {self.preset!r} is unknown; use one of {', '.join(PRESETS)}")
        if self.pixel_format not in PIXEL_FORMATS:
            raise ValueError(
                f"pixel_format {self.pixel_format!r} is not written; use one of {', '.join(PIXEL_FORMATS)}"
            )


def encode_video(
    path: Path,
    frames: Iterable[Image],
    *,
    rate: Fraction,
    times_s: Sequence[float] | None = None,
    color: ColorTags,
    settings: EncodeSettings,
    audio_from: Path | None = None,
    audio_stream_index: int | None = None,
    audio: AudioSamples | None = None,
    metadata: Mapping[str, str] | None = None,
    timecode: str | None = None,
    pixel_aspect: Fraction = Fraction(1),
    on_frame: Callable[[int], None] | None = None,
) -> ClipInfo:
    """Write ``frames`` (``image_bgr_HWC``, uint8, uint16 or float32, all alike) to the MP4 file ``path``; say what is
    in it.

    ``rate`` in frames per second is written exactly. ``times_s`` (as many as frames, rising) are the times of the
    frames on the timeline of ``audio_from``: the first becomes 0 in the new file, sound follows, and variable spacing
    is kept to 1/90000 s; times that follow ``rate`` to a millisecond give a constant rate. Without ``times_s`` frame 0
    goes with the first frame of ``audio_from``. Sound is that of ``audio_from`` (the stream ``audio_stream_index``, None
    for the first; copied where MP4 takes it, else AAC) or ``audio``, and ends with the last frame. ``color`` is written
    as tags and decides the conversion to YUV, as reading does: so a clip's own tags bring its colours back; the matrix
    ``gbr`` becomes ``bt709``. Odd sizes are written as 4:4:4. ``metadata`` is stored under any keys. ``on_frame(i)`` is
    called when frame i was taken in.

    The file appears only when it is whole. ValueError for wrong arguments; MediaError NO_FRAMES, AUDIO_LAYOUT,
    UNSUPPORTED, ENCODE_FAILED, and what ``audio_from`` raises when opened; OSError from the disk.
    """
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"{path.name}: only .mp4 files are written; change the name")
    if audio is not None and audio_from is not None:
        raise ValueError("give audio_from or audio, not both")
    if rate <= 0:
        raise ValueError(f"rate must be positive, not {rate}")
    if timecode is not None and not _TIMECODE.fullmatch(timecode):
        raise ValueError(f"timecode {timecode!r} is not of the form 01:00:00:00")
    clock = _Clock(rate, times_s)

    partial = partial_path(path)
    try:
        with contextlib.ExitStack() as stack:
            output = av.open(
                str(partial), mode="w", format="mp4", container_options={"movflags": "+faststart+use_metadata_tags"}
            )
            stack.callback(output.close)
            output.metadata.update(metadata or {})
            film = _Film(output, clock, yuv_tags(color), settings, timecode, pixel_aspect)
            count = _write(film, _sound(stack, film, audio_from, audio_stream_index, audio, clock), frames, on_frame)
            clock.check_count(count)
        info = probe_video(partial)
        if info.frame_count != count:
            raise MediaError(
                "ENCODE_FAILED", f"{path.name} came out with {info.frame_count} of {count} frames; encode again"
            )
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)
    return info


class _Clock:
    """When each frame is shown in the new file, in ticks of ``time_base``."""

    def __init__(self, rate: Fraction, times_s: Sequence[float] | None) -> None:
        self.rate = rate
        self.time_base = 1 / rate
        self.origin_s = float(times_s[0]) if times_s is not None and len(times_s) else None
        self._count = None if times_s is None else len(times_s)
        self._ticks: list[int] | None = None
        if times_s is None or not len(times_s):
            return
        times_s_N = np.asarray(times_s, np.float64) - float(times_s[0])
        steps_s_N = np.arange(len(times_s_N)) / float(rate)
        if np.max(np.abs(times_s_N - steps_s_N)) > _CONSTANT_WITHIN_S:
            self.time_base = Fraction(1, _VARIABLE_CLOCK_HZ)
            self._ticks = [round(time_s * _VARIABLE_CLOCK_HZ) for time_s in times_s_N]
            if any(later <= earlier for earlier, later in zip(self._ticks, self._ticks[1:], strict=False)):
                raise ValueError("times_s must rise from frame to frame")

    @property
    def variable(self) -> bool:
        return self._ticks is not None

    def tick(self, index: int) -> int:
        if self._count is not None and index >= self._count:
            raise ValueError(f"there are more frames than the {self._count} times_s")
        return index if self._ticks is None else self._ticks[index]

    def duration(self, index: int) -> int:
        """Ticks for which frame ``index`` is shown; the last one as long as the rate says."""
        if self._ticks is None:
            return 1
        if index + 1 < len(self._ticks):
            return self._ticks[index + 1] - self._ticks[index]
        return round(_VARIABLE_CLOCK_HZ / self.rate)

    def end_s(self, index: int) -> float:
        """When frame ``index`` stops being shown."""
        return float((self.tick(index) + self.duration(index)) * self.time_base)

    def check_count(self, count: int) -> None:
        if self._count is not None and count != self._count:
            raise ValueError(f"there are {count} frames but {self._count} times_s")


class _Film:
    """The video stream under way. It takes its size from the first frame."""

    def __init__(
        self,
        output: OutputContainer,
        clock: _Clock,
        tags: ColorTags,
        settings: EncodeSettings,
        timecode: str | None,
        pixel_aspect: Fraction,
    ) -> None:
        self.output = output
        self.clock = clock
        self._tags = tags
        self._settings = settings
        self._pixel_aspect = pixel_aspect
        options = {"preset": settings.preset}
        if settings.crf is not None:  # crf 0 is lossless for 8 bits alone, qp 0 for 10 bits too
            options |= {"crf": str(settings.crf)} if settings.crf else {"qp": "0"}
        if clock.variable:
            options["bf"] = (
                "0"  # MP4 says how long frames last in decoding order: only without B-frames is that the shown one
            )
        self._stream: VideoStream = output.add_stream("libx264", rate=clock.rate, options=options)
        self._stream.codec_context.time_base = clock.time_base
        if settings.bitrate_mbit is not None:
            self._stream.bit_rate = round(settings.bitrate_mbit * 1_000_000)
        self._stream.thread_count = worker_threads()
        codes = codes_of(tags)
        context = self._stream.codec_context
        context.color_range, context.colorspace = codes.range, codes.matrix
        context.color_primaries, context.color_trc = codes.primaries, codes.transfer
        if timecode is not None:
            self._stream.metadata["timecode"] = timecode
        self._writer: YuvWriter | None = None
        self._shape: tuple[int, ...] = ()
        self._dtype: np.dtype[np.generic] | None = None

    def add(self, index: int, image_bgr_HWC: Image) -> None:
        if self._writer is None:
            self._writer = self._start(image_bgr_HWC)
        if (image_bgr_HWC.shape, image_bgr_HWC.dtype) != (self._shape, self._dtype):
            raise ValueError(
                f"frame {index} is {image_bgr_HWC.shape} {image_bgr_HWC.dtype}, "
                f"the film's frames are {self._shape} {self._dtype}"
            )
        frame = self._writer.write(image_bgr_HWC)
        frame.pts, frame.duration, frame.time_base = (
            self.clock.tick(index),
            self.clock.duration(index),
            self.clock.time_base,
        )
        self.output.mux(self._stream.encode(frame))

    def finish(self) -> None:
        self.output.mux(self._stream.encode(None))

    def _start(self, image_bgr_HWC: Image) -> YuvWriter:
        shape = image_bgr_HWC.shape
        if (
            len(shape) != 3
            or shape[2] != 3
            or 0 in shape
            or image_bgr_HWC.dtype.name not in ("uint8", "uint16", "float32")
        ):
            raise ValueError(f"frames are (H, W, 3) uint8, uint16 or float32, not {shape} {image_bgr_HWC.dtype}")
        height, width = shape[:2]
        odd = height % 2 or width % 2
        pixel_format = self._settings.pixel_format.replace("420", "444") if odd else self._settings.pixel_format
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, pixel_format
        if self._pixel_aspect != 1:
            self._stream.codec_context.sample_aspect_ratio = self._pixel_aspect
        self._shape, self._dtype = shape, image_bgr_HWC.dtype
        return YuvWriter(pixel_format, self._tags, height)


def _sound(
    stack: contextlib.ExitStack,
    film: _Film,
    audio_from: Path | None,
    stream_index: int | None,
    audio: AudioSamples | None,
    clock: _Clock,
) -> AudioTrack | None:
    if audio is not None:
        return add_samples(film.output, audio)
    if audio_from is None:
        return None
    source = stack.enter_context(open_input(audio_from))
    origin_s = clock.origin_s if clock.origin_s is not None else _start_s(source)
    return add_copied_or_encoded(film.output, source, origin_s, stream_index)


def _start_s(source: InputContainer) -> float:
    """When the first frame of ``source`` is shown; 0 where it has no picture."""
    for stream in source.streams.video:
        if stream.start_time is not None:
            return float(stream.start_time * time_base_of(stream))
    return 0.0


def _write(
    film: _Film, sound: AudioTrack | None, frames: Iterable[Image], on_frame: Callable[[int], None] | None
) -> int:
    """Encode all frames, and the sound in step with them; how many frames there were."""
    count = 0
    for index, image_bgr_HWC in enumerate(frames):
        film.add(index, image_bgr_HWC)
        if sound is not None:
            sound.write_until(film.clock.end_s(index))
        if on_frame is not None:
            on_frame(index)
        count = index + 1
    if count == 0:
        raise MediaError("NO_FRAMES", "there are no frames to encode")
    film.finish()
    if sound is not None:
        sound.finish()
    return count
