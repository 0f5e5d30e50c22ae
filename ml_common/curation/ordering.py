"""What sorting answers. What a reader would get wrong: positions in the columns that were sorted, not positions in a faceset that
also holds trashed faces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ordering:
    """The faces to keep, in their new order, and those for the trash; every face is in one of the two, once.

    kept, trashed: positions, int64. method: how it was done, for people and for the revision's summary.
    """

    kept: NDArray[np.int64]
    trashed: NDArray[np.int64]
    method: str
