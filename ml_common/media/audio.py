"""The sound track of an encoded film.

What one would get wrong: sound and picture share the source's timeline, and neither need start at its zero.
``origin_s`` is the time on that timeline which becomes 0 in the new file: sound before it is dropped, sound that starts
later starts later.

Shapes: T samples in time, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import av
import av.error
import numpy as np
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from numpy.typing import NDArray

from ml_common.media.errors import MediaError

_AAC_RATES_HZ = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
_AAC_DEFAULT_RATE_HZ = 48000
_AAC_BITS_PER_CHANNEL = 96_000
_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
# A clock of milliseconds makes blocks of sound overlap or part by less than this; more is a real gap.
_JITTER_S = 0.02


@dataclass(frozen=True, slots=True)
class AudioSamples:
    """Sound as numbers: ``samples`` (T, C) float32 in -1..1; its first sample is heard with the first frame."""

    samples: NDArray[np.float32]
    sample_rate_hz: int

    def __post_init__(self) -> None:
        if self.samples.ndim != 2 or self.samples.dtype != np.float32:
            raise ValueError(f"samples must be float32 (n, channels), not {self.samples.dtype} {self.samples.shape}")
        if self.sample_rate_hz <= 0:
            raise ValueError(f"sample_rate_hz must be positive, not {self.sample_rate_hz}")


class AudioTrack(Protocol):
    """A sound track under way in an output file."""

    def write_until(self, end_s: float) -> None:
        """Write all sound before ``end_s`` seconds of the new film that is not written yet."""
        ...

    def finish(self) -> None:
        """Write what the encoder still holds."""
        ...


def add_copied_or_encoded(
    output: OutputContainer, source: InputContainer, origin_s: float, stream_index: int | None = None
) -> AudioTrack | None:
    """A track with a sound stream of ``source`` (``AudioInfo.stream_index``; None: the first): its packets copied where
    the format takes them, else encoded as AAC.

    None where ``source`` has no sound. ValueError for a stream that is not there or no sound; MediaError UNSUPPORTED or
    AUDIO_LAYOUT where it can be neither copied nor encoded.
    """
    if not source.streams.audio and stream_index is None:
        return None
    streams = {stream.index: stream for stream in source.streams.audio}
    if stream_index is not None and stream_index not in streams:
        known = ", ".join(map(str, streams)) or "none"
        raise ValueError(f"{source.name} has no sound stream {stream_index}; its sound streams are {known}")
    stream = source.streams.audio[0] if stream_index is None else streams[stream_index]
    if stream.codec_context is None:
        raise MediaError(
            "UNSUPPORTED", f"the sound of {source.name} is in a codec that cannot be decoded; convert it first"
        )
    codec = stream.codec_context.name
    if codec in output.supported_codecs and not codec.startswith("pcm_"):  # MP4 can hold PCM, but few players play it
        return _CopiedTrack(output, source, stream, origin_s)
    rate_hz = stream.codec_context.sample_rate
    if rate_hz not in _AAC_RATES_HZ:
        rate_hz = _AAC_DEFAULT_RATE_HZ
    layout = _layout(stream.codec_context.layout)
    return _AacTrack(output, _aligned(source, stream, origin_s, rate_hz, layout), rate_hz, layout)


def add_samples(output: OutputContainer, audio: AudioSamples) -> AudioTrack:
    """A track with ``audio``, encoded as AAC. MediaError AUDIO_LAYOUT where that number of channels has no layout."""
    layout = _default_layout(audio.samples.shape[1])
    rate_hz = audio.sample_rate_hz if audio.sample_rate_hz in _AAC_RATES_HZ else _AAC_DEFAULT_RATE_HZ
    return _AacTrack(output, _resampled(audio, rate_hz, layout), rate_hz, layout)


def _layout(layout: av.AudioLayout) -> str:
    """The layout's name; where a file only says how many channels it has, the usual one."""
    if layout.name.endswith("channels"):
        return _default_layout(layout.nb_channels)
    return str(layout.name)


def _default_layout(channels: int) -> str:
    if channels not in _LAYOUTS:
        raise MediaError("AUDIO_LAYOUT", f"sound with {channels} channels cannot be stored; mix it down to stereo")
    return _LAYOUTS[channels]


class _CopiedTrack:
    """Packets as they are, shifted in time."""

    def __init__(self, output: OutputContainer, source: InputContainer, stream: AudioStream, origin_s: float) -> None:
        self._output = output
        self._target = output.add_stream_from_template(stream)
        self._packets = self._shifted(source, stream, origin_s)
        self._waiting = next(self._packets, None)

    def write_until(self, end_s: float) -> None:
        while self._waiting is not None and float((self._waiting.pts or 0) * self._waiting.time_base) < end_s:
            self._waiting.stream = self._target
            self._output.mux(self._waiting)
            self._waiting = next(self._packets, None)

    def finish(self) -> None:
        """Nothing is held back."""

    @staticmethod
    def _shifted(source: InputContainer, stream: AudioStream, origin_s: float) -> Iterator[Packet[AudioStream]]:
        rate_hz = stream.codec_context.sample_rate
        samples = stream.codec_context.frame_size  # in each packet; 0 where they differ
        origin, due = round(origin_s * rate_hz), None
        for packet in source.demux(stream):
            if not packet.size or packet.pts is None:
                continue
            start = round(packet.pts * packet.time_base * rate_hz) - origin
            # The same sound on a clock of samples: stamps in milliseconds, copied, would make every packet last a little wrong.
            if samples and due is not None and abs(start - due) <= packet.time_base * rate_hz:
                start = due
            due = start + samples
            duration = round((packet.duration or 0) * packet.time_base * rate_hz)
            packet.time_base = Fraction(1, rate_hz)
            packet.pts = packet.dts = start
            packet.duration = duration
            # One packet before the start is kept: a decoder needs it to get the first sound right, and does not play it.
            if start >= 0 or start > -2 * duration:
                yield packet


class _AacTrack:
    """Blocks of samples encoded as AAC; the first sample of the first block is heard at 0."""

    def __init__(
        self, output: OutputContainer, blocks_TC: Iterator[NDArray[np.float32]], rate_hz: int, layout: str
    ) -> None:
        self._output = output
        self._blocks_TC = blocks_TC
        self._rate_hz = rate_hz
        self._layout = layout
        self._stream: AudioStream = output.add_stream("aac", rate=rate_hz)
        self._stream.layout = layout
        self._stream.bit_rate = _AAC_BITS_PER_CHANNEL * self._stream.codec_context.channels
        try:
            self._stream.codec_context.open()
        except av.error.FFmpegError as error:
            raise MediaError(
                "AUDIO_LAYOUT", f"sound laid out as {layout} cannot be stored; mix it down to stereo"
            ) from error
        self._rest_TC: NDArray[np.float32] | None = None
        self._written = 0

    def write_until(self, end_s: float) -> None:
        end = round(end_s * self._rate_hz)
        while self._written < end:
            block_TC = self._rest_TC if self._rest_TC is not None else next(self._blocks_TC, None)
            if block_TC is None:
                return
            head_TC = block_TC[: end - self._written]
            self._rest_TC = block_TC[len(head_TC) :] if len(head_TC) < len(block_TC) else None
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(head_TC.T), format="fltp", layout=self._layout)
            frame.sample_rate = self._rate_hz
            frame.pts = self._written
            frame.time_base = Fraction(1, self._rate_hz)
            self._written += len(head_TC)
            self._output.mux(self._stream.encode(frame))

    def finish(self) -> None:
        self._output.mux(self._stream.encode(None))


def _aligned(
    source: InputContainer, stream: AudioStream, origin_s: float, rate_hz: int, layout: str
) -> Iterator[NDArray[np.float32]]:
    """Decoded sound without gaps from ``origin_s`` on: silence where the source has none, the rest at its own time."""
    resampler = AudioResampler(format="fltp", layout=layout, rate=rate_hz)
    written = 0
    for decoded in source.decode(stream):
        for frame in resampler.resample(decoded):
            block_TC = np.ascontiguousarray(frame.to_ndarray().T, np.float32)
            gap = round((float(frame.time or 0.0) - origin_s) * rate_hz) - written
            if written == 0 or abs(gap) > _JITTER_S * rate_hz:
                if gap > 0:
                    yield np.zeros((gap, block_TC.shape[1]), np.float32)
                    written += gap
                block_TC = block_TC[max(0, -gap) :]
            if len(block_TC):
                written += len(block_TC)
                yield block_TC


def _resampled(audio: AudioSamples, rate_hz: int, layout: str) -> Iterator[NDArray[np.float32]]:
    if audio.sample_rate_hz == rate_hz:
        yield audio.samples
        return
    resampler = AudioResampler(format="fltp", layout=layout, rate=rate_hz)
    whole = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio.samples.T), format="fltp", layout=layout)
    whole.sample_rate = audio.sample_rate_hz
    for frame in (*resampler.resample(whole), *resampler.resample(None)):
        yield np.ascontiguousarray(frame.to_ndarray().T, np.float32)
