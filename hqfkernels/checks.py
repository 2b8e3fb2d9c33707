"""Checks of arguments that more than one module takes."""

from __future__ import annotations

from typing import Any

import numpy as np


def positive(value: Any, what: str) -> int:
    """Returns ``value`` as an int; raises TypeError if it is not an integer, ValueError if it is below 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{what}: must be an int, got {value!r}")
    if value < 1:
        raise ValueError(f"{what}: must be at least 1, got {value}")
    return int(value)


def sides(value: Any, what: str) -> tuple[int, int]:
    """Returns ``value`` as (rows, columns); raises TypeError or ValueError if it is not a pair of positive ints."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"{what}: must be (rows, columns), got {value!r}")
    rows, columns = (positive(side, f"{what}: a side") for side in value)
    return rows, columns
