"""Batches that fit the memory there is.

What a reader would get wrong: a size that ran out of memory is not tried again. Memory is shared with other work on the
device, so what failed once is likely to fail again, and failing is slow.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")

_LOG = logging.getLogger(__name__)


class AdaptiveBatch:
    """Runs a function over slices of at most ``size`` items; running out of memory halves ``size`` and goes on.

    ``size`` may be read at any time; it only falls. Not safe for concurrent threads.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a batch holds at least 1 item, not {size}")
        self.size = size

    def run(self, count: int, function: Callable[[slice], T]) -> list[T]:
        """``function(slice)`` for slices that cover 0 to ``count`` in order, as a list.

        Raises what the function raises; out of memory only when a single item does not fit.
        """
        results: list[T] = []
        start = 0
        while start < count:
            part = slice(start, min(start + self.size, count))
            try:
                results.append(function(part))
            except (torch.OutOfMemoryError, MemoryError):
                if part.stop - part.start == 1:
                    raise
                self.size = (part.stop - part.start) // 2
                _LOG.warning("out of memory: going on with batches of %d", self.size)
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            start = part.stop
        return results
