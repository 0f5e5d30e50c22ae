"""What this package raises when footage is bad.

A reader's likely mistake: catching ``MediaError`` around ``frames`` and calling it again with the next index. Frame
numbers never shift, and what a video builds from a damaged frame is lost with it; give ``frames`` an ``on_corrupt`` to be
told of each lost frame and go on with the sound ones.
"""

from __future__ import annotations


class MediaError(ValueError):
    """Footage cannot be read or written as asked.

    ``reason`` is a stable word a program may match on: NOT_MEDIA, TRUNCATED, NO_VIDEO, NO_FRAMES, CORRUPT_FRAME,
    UNSUPPORTED, AUDIO_LAYOUT, ENCODE_FAILED. The message is for people and says what to do. ``frame_index`` names the
    damaged frame of a CORRUPT_FRAME (where a whole keyframe is gone, it may be the frame just before, which the decoder
    loses with it); ``decodable_frames`` tells how many frames at the start of a TRUNCATED clip still decode.
    """

    def __init__(
        self, reason: str, message: str, *, frame_index: int | None = None, decodable_frames: int | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.frame_index = frame_index
        self.decodable_frames = decodable_frames
