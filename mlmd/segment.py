"""Sums and means over the atoms of a system, the pairs of an atom, the atoms of a bead."""

from __future__ import annotations

from torch import Tensor


def segment_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    """``out[k] = sum over i with index[i] == k of values[i]``; ``values`` (P, ...), ``index`` (P,), result (size, ...)."""
    out = values.new_zeros((size, *values.shape[1:]))
    return out.index_add(0, index, values)


def segment_mean(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Mean per segment; an empty segment gives zero."""
    ones = values.new_ones(index.shape[0])
    count = segment_sum(ones, index, size).clamp(min=1.0)
    return segment_sum(values, index, size) / count.view(-1, *([1] * (values.ndim - 1)))
