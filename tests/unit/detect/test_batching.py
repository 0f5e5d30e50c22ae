"""Batches that halve when memory runs out."""

from __future__ import annotations

import pytest
import torch

from ml_common.detect.batching import AdaptiveBatch


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_running_out_of_memory_halves_the_batch_and_loses_nothing(error: type[Exception]) -> None:
    batch, tried = AdaptiveBatch(8), list[int]()

    def fits_three(part: slice) -> list[int]:
        tried.append(part.stop - part.start)
        if part.stop - part.start > 3:
            raise error("no memory")
        return list(range(part.start, part.stop))

    results = batch.run(20, fits_three)
    assert [number for part in results for number in part] == list(range(20))
    assert tried[:3] == [8, 4, 2]
    assert batch.size == 2
    tried.clear()
    batch.run(5, fits_three)
    assert tried == [2, 2, 1], "what failed once is not tried again"


def test_a_single_item_that_does_not_fit_is_the_callers_to_hear() -> None:
    def never(part: slice) -> None:
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError):
        AdaptiveBatch(4).run(4, never)


def test_other_errors_pass() -> None:
    def wrong(part: slice) -> None:
        raise RuntimeError("shape")

    batch = AdaptiveBatch(4)
    with pytest.raises(RuntimeError, match="shape"):
        batch.run(4, wrong)
    assert batch.size == 4


def test_nothing_to_do_and_no_size() -> None:
    assert AdaptiveBatch(4).run(0, lambda part: part) == []
    with pytest.raises(ValueError, match="at least 1"):
        AdaptiveBatch(0)
