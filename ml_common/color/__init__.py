"""Making one picture's colours look like another's.

What a reader would get wrong: the target is the picture that changes, the source the one it shall look like.
"""

from ml_common.color.histogram import match_histogram
from ml_common.color.linear import lct, mkl, rct
from ml_common.color.registry import COLOR_TRANSFERS, ColorTransfer, reference_transfer_color, transfer_color

__all__ = [
    "COLOR_TRANSFERS",
    "ColorTransfer",
    "lct",
    "match_histogram",
    "mkl",
    "rct",
    "reference_transfer_color",
    "transfer_color",
]
