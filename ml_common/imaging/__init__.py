"""Small conversions of pictures that several parts need. What a reader would get wrong: precision is lost here; what ends up in a film
never passes through."""

from ml_common.imaging.pixels import as_bgr_u8

__all__ = ["as_bgr_u8"]
