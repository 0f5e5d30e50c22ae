"""Putting predicted faces back into frames.

What a reader would get wrong: a merge is a pure function of one frame. Nothing here decodes, predicts or stores; the
caller makes the crop (`network_crop`), runs the model, and hands back a `Prediction` per face.
"""

from ml_common.merging.crop import network_crop, network_crops
from ml_common.merging.frame import MergedFrame, merge_frame
from ml_common.merging.layer import MergeFace, Prediction
from ml_common.merging.pixels import Frame
from ml_common.merging.settings import Flavour, MaskMode, MergeColorTransfer, MergeMode, MergeSettings

__all__ = [
    "Flavour",
    "Frame",
    "MaskMode",
    "MergeColorTransfer",
    "MergeFace",
    "MergeMode",
    "MergeSettings",
    "MergedFrame",
    "Prediction",
    "merge_frame",
    "network_crop",
    "network_crops",
]
