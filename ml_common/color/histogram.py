"""Matching the histogram of one picture to another's, channel by channel.

What a reader would get wrong: the threshold is not a cut-off. It says which of the source's quantiles (of 255) the
target's brightest value is given; under 255 the result is darker and flatter than the source.

Shape legend: HWC = BGR float32. Specification: merge, section 6; golden numbers: tests/unit/color.
"""

import numpy as np
from numpy.typing import NDArray


def match_histogram(
    target_bgr_HWC: NDArray[np.float32], source_bgr_HWC: NDArray[np.float32], threshold: int = 255
) -> NDArray[np.float32]:
    """The target with every channel's values replaced by the source's values at the same quantile; float32.

    Exact: works on the values themselves, not on bins. `threshold` 0 to 255, see above. ValueError beyond.
    """
    if not 0 <= threshold <= 255:
        raise ValueError(f"the histogram threshold must be 0 to 255, got {threshold}")
    channels = [
        _match_channel(target_bgr_HWC[..., i], source_bgr_HWC[..., i], threshold)
        for i in range(target_bgr_HWC.shape[-1])
    ]
    return np.stack(channels, axis=-1)


def _match_channel(
    target_HW: NDArray[np.float32], source_HW: NDArray[np.float32], threshold: int
) -> NDArray[np.float32]:
    _, places, counts = np.unique(target_HW, return_inverse=True, return_counts=True)
    source_values, source_counts = np.unique(source_HW, return_counts=True)
    quantiles = np.cumsum(counts) * (threshold / target_HW.size)
    source_quantiles = np.cumsum(source_counts) * (255.0 / source_HW.size)
    mapped = np.interp(quantiles, source_quantiles, source_values).astype(np.float32)
    matched: NDArray[np.float32] = mapped[places].reshape(target_HW.shape)
    return matched
