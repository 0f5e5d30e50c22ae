"""The contents of one DeepFaceLab weight file: variable name to array (spec: models, section 13.3).

Easy to get wrong: names carry TensorFlow's ":0" and lack the network's own name ("down1/downs_0/conv1/weight:0").
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ml_common.dfl.restricted_pickle import RefusedPickleError, read_pickle


def read_weight_file(data: bytes) -> dict[str, NDArray[np.generic]]:
    """Arrays by variable name, in the order and layout of the file; a step counter comes as an array of no dimensions.

    Raises RefusedPickleError if the data is not a pickled dictionary of arrays of numbers.
    """
    value = read_pickle(data)
    if not isinstance(value, dict):
        raise RefusedPickleError(f"a weight file holds a dictionary, this one a {type(value).__name__}")
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, array in value.items():
        if not isinstance(name, str):
            raise RefusedPickleError(f"a weight file names its arrays with text, not with {name!r}")
        if not isinstance(array, (np.ndarray, int, float)):
            raise RefusedPickleError(f"{name} is a {type(array).__name__}, not an array of numbers")
        arrays[name] = np.asarray(array)
    return arrays
