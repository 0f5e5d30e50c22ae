"""Training-time augmentation: what is drawn for a sample, and how a whole batch is resampled with it on the device.

`parameters` draws numbers (NumPy, pure functions of a seed); `apply` turns numbers and pixels into tensors (torch,
batched). The one thing a reader would get wrong: an image is interpolated once. The warp and the affine are composed
into one sampling grid, they are not two passes.
"""

from ml_common.augment.apply import AugmentedBatch, augment_batch, sampling_positions
from ml_common.augment.hsv import shift_hsv
from ml_common.augment.parameters import AugmentationBatch, AugmentSpec, SampleAugmentation, draw_augmentation

__all__ = [
    "AugmentSpec",
    "AugmentationBatch",
    "AugmentedBatch",
    "SampleAugmentation",
    "augment_batch",
    "draw_augmentation",
    "sampling_positions",
    "shift_hsv",
]
