"""Rows as columns: the vector instructions do what the functions say in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from mlmd import jit
from mlmd.lanes import LANES, add_to_row, keep_below, shifted_right, subtract_from_rows, take_rows

pytestmark = pytest.mark.skipif(not jit.available(), reason="numba is not installed")


@jit.jit
def _all_three(source, which, first, target, columns):
    take_rows(source, which, first, columns)
    subtract_from_rows(target, which, first, columns)
    add_to_row(target, which[first], columns)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_compiled_rows_and_columns_are_those_of_numpy(dtype: type) -> None:
    """With rows that occur twice, and integers, whose sums no order changes."""
    rng = np.random.default_rng(0)
    source, target = (rng.integers(-50, 50, (40, 4)).astype(dtype) for _ in range(2))
    which, first = rng.integers(0, 40, 3 * LANES).astype(np.uint32), 5
    expected, columns, found = target.copy(), np.full((5, LANES), 7, dtype), np.full((5, LANES), 7, dtype)
    take_rows(source, which, first, columns)
    subtract_from_rows(expected, which, first, columns)
    add_to_row(expected, int(which[first]), columns)
    _all_three(source, which, first, target, found)
    assert np.array_equal(found, columns)
    assert np.array_equal(target, expected)
    assert len(np.unique(which[first : first + LANES])) < LANES


@jit.jit
def _kept(values, limit, out):
    count = 0
    for first in range(0, len(values), LANES):
        count += keep_below(values, first, limit, first, out, count)
    return count


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("limit", [-1.0, 0.3, 0.5, 2.0])
def test_lanes_below_a_limit_are_those_of_numpy(dtype: type, limit: float) -> None:
    values = np.random.default_rng(0).random(20 * LANES).astype(dtype)
    values[[3, 40]], values[41] = np.nan, np.inf
    out = np.zeros(len(values) + LANES, np.uint32)
    count = _kept(values, limit, out)
    assert np.array_equal(out[:count], np.flatnonzero(values < dtype(limit)))


@jit.jit
def _shifted(bits, by, out):
    for k in range(len(bits)):
        out[k] = shifted_right(bits[k], by)


def test_bits_are_shifted_in_thirty_two() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 40, dtype=np.uint32)
    out = np.zeros_like(bits)
    _shifted(bits, np.uint32(11), out)
    assert np.array_equal(out, bits >> 11)
    assert shifted_right(bits[0], np.uint32(11)) == out[0]
