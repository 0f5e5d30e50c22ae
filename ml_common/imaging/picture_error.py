"""What the picture codecs raise. What a reader would get wrong: a picture that opens can still be damaged; both are told by
``reason``, never by the message."""

from __future__ import annotations

from typing import Literal

PictureReason = Literal["NOT_MEDIA", "CORRUPT_FRAME", "UNSUPPORTED", "TOO_LARGE"]


class PictureError(ValueError):
    """A picture cannot be read.

    ``reason``: NOT_MEDIA (no picture format that is read), CORRUPT_FRAME (cut short or damaged), UNSUPPORTED (a kind of
    picture that is not read: deep, luminance-chroma, 32-bit integers), TOO_LARGE (over ``MAX_PICTURE_PIXELS``). The
    message is for people and says what to do.
    """

    def __init__(self, reason: PictureReason, message: str) -> None:
        super().__init__(message)
        self.reason: PictureReason = reason
