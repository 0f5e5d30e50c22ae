"""Training-time augmentation: what is drawn for a sample, and how a whole batch is resampled with it on the device.

`spec` says what may be drawn; `parameters` draws numbers (NumPy, pure functions of a seed); `apply` turns numbers and
pixels into tensors (torch, batched). The one thing a reader would get wrong: an image is interpolated once. The warp and
the affine are composed into one sampling grid, they are not two passes.

Names are imported on first use, so that what needs only options (a server checking them) does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_common.lazy_names import lazy_names

if TYPE_CHECKING:
    from ml_common.augment.apply import AugmentedBatch, augment_batch, sampling_positions
    from ml_common.augment.hsv import shift_hsv
    from ml_common.augment.parameters import AugmentationBatch, SampleAugmentation, draw_augmentation
    from ml_common.augment.spec import AugmentSpec, Flavour

_HOMES = {
    "AugmentSpec": "spec",
    "AugmentationBatch": "parameters",
    "AugmentedBatch": "apply",
    "Flavour": "spec",
    "SampleAugmentation": "parameters",
    "augment_batch": "apply",
    "draw_augmentation": "parameters",
    "sampling_positions": "apply",
    "shift_hsv": "hsv",
}

__all__ = [
    "AugmentSpec",
    "AugmentationBatch",
    "AugmentedBatch",
    "Flavour",
    "SampleAugmentation",
    "augment_batch",
    "draw_augmentation",
    "sampling_positions",
    "shift_hsv",
]

__getattr__ = lazy_names(__name__, _HOMES)
