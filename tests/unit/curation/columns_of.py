"""Columns straight from measures, for tests that have no revision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from ml_common.curation import Columns, Measures


def columns_of(measures: Sequence[Measures], **others: np.ndarray[Any, Any]) -> Columns:
    """Every measure as a column, and the others beside them."""
    columns = {field.name: [getattr(face, field.name) for face in measures] for field in fields(Measures)}
    arrays = {
        name: np.array(values) for name, values in columns.items() if name not in ("pixel_digest", "perceptual_hash")
    }
    arrays["pixel_digest"] = np.array(columns["pixel_digest"], dtype=object)
    arrays["perceptual_hash"] = np.array(columns["perceptual_hash"], dtype=np.uint64)
    return Columns({**arrays, **others})
