"""The preview grid: what the model makes of a few fixed faces, for a person to judge.

The one thing a reader would get wrong: the columns are S SS D DD SD, so a row pairs a src face with a dst face that
have nothing to do with each other; the swap to look at is SD beside D. Inputs are unwarped (models specification,
section 12.4).

Legend: N faces of a side, HWC rows, columns, channels (blue, green, red), uint8.
"""

from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ml_common.nets import SwapModel
from ml_common.training.data import PreviewFaces

COLUMNS = ("S  src", "SS  src-src", "D  dst", "DD  dst-dst", "SD  swap")
_HEADER_PX = 20
_MAX_HEIGHT_PX = 800
_MAX_ROWS = 4


class PreviewGrids(NamedTuple):
    """Two grids of the same faces, uint8 BGR HWC: as they are, and with what lies outside the masks in black."""

    plain_bgr_HWC: NDArray[np.uint8]
    masked_bgr_HWC: NDArray[np.uint8]


def preview_rows(resolution: int, batch_size: int) -> int:
    """How many faces a preview shows: at most 4, no more than a batch, and no taller than 800 pixels."""
    return max(1, min(_MAX_ROWS, batch_size, _MAX_HEIGHT_PX // resolution))


@torch.no_grad()
def render_preview(model: SwapModel, src: PreviewFaces, dst: PreviewFaces) -> PreviewGrids:
    """Renders both grids, with rows for as many faces as both sides have.

    Masked: src with its own mask, SS with its predicted one; D and DD likewise; SD with the product of the two masks
    predicted for dst.
    """
    rows = min(len(src.image_NCHW), len(dst.image_NCHW))
    src_NCHW, dst_NCHW = src.image_NCHW[:rows], dst.image_NCHW[:rows]
    was_training = model.training
    model.eval()
    outputs = model(src_NCHW, dst_NCHW, with_swap=True)
    model.train(was_training)
    plain = [src_NCHW, outputs.src_src, dst_NCHW, outputs.dst_dst, outputs.src_dst]
    masks = [
        src.mask_N1HW[:rows],
        outputs.src_src_mask,
        dst.mask_N1HW[:rows],
        outputs.dst_dst_mask,
        outputs.dst_dst_mask * outputs.src_dst_mask,
    ]
    masked = [image_NCHW * mask_N1HW for image_NCHW, mask_N1HW in zip(plain, masks, strict=True)]
    return PreviewGrids(_grid(plain), _grid(masked))


def _grid(columns: list[torch.Tensor]) -> NDArray[np.uint8]:
    stacked = torch.stack([column.float() for column in columns], dim=1).clamp(0.0, 1.0)  # rows, columns, C, H, W
    rows, count, channels, height, width = stacked.shape
    pixels = (stacked * 255.0).round().to(torch.uint8).cpu().numpy()
    body = pixels.transpose(0, 3, 1, 4, 2).reshape(rows * height, count * width, channels)
    header = np.full((_HEADER_PX, count * width, channels), 24, np.uint8)
    for index, label in enumerate(COLUMNS):
        text = label if width >= 96 else label.split()[0]
        place = (index * width + 4, _HEADER_PX - 6)
        cv2.putText(header, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (230, 230, 230), 1, cv2.LINE_AA)
    return np.concatenate([header, body])


def encode_preview(grid_bgr_HWC: NDArray[np.uint8]) -> bytes:
    """The grid as a JPEG."""
    encoded, jpeg = cv2.imencode(".jpg", grid_bgr_HWC, [cv2.IMWRITE_JPEG_QUALITY, 92])
    if not encoded:
        raise ValueError(f"a preview of shape {grid_bgr_HWC.shape} cannot be encoded as JPEG")
    return jpeg.tobytes()
