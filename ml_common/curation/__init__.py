"""Curation of a faceset: what is measured on a face, how faces are put in order, which are best, which are duplicates.

What a reader would get wrong: pictures are looked at once, in `measure_face`; everything after it works on columns and
answers with positions. Nothing here moves, renames or deletes a face.
"""

from ml_common.curation.best import best_faces
from ml_common.curation.columns import SOURCE_NAME, Columns, columns_from
from ml_common.curation.duplicates import (
    DUPLICATE_COLUMNS,
    STRENGTHS,
    DuplicateGroup,
    Likeness,
    find_duplicates,
)
from ml_common.curation.measures import MEASURE_COLUMNS, Measures, measure_face, measures_table
from ml_common.curation.ordering import Ordering
from ml_common.curation.orders import DEFAULT_TARGET_COUNT, ORDERS, PICTURE, Order, OrderOptions, sharpest_first

__all__ = [
    "DEFAULT_TARGET_COUNT",
    "DUPLICATE_COLUMNS",
    "MEASURE_COLUMNS",
    "ORDERS",
    "PICTURE",
    "SOURCE_NAME",
    "STRENGTHS",
    "Columns",
    "DuplicateGroup",
    "Likeness",
    "Measures",
    "Order",
    "OrderOptions",
    "Ordering",
    "best_faces",
    "columns_from",
    "find_duplicates",
    "measure_face",
    "measures_table",
    "sharpest_first",
]
