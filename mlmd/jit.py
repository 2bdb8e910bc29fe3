"""Loops compiled by numba where it is installed (extra ``fast``); callers ask :func:`available` and else take their torch path."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from mlmd.lanes import compile_lanes


@functools.cache
def available() -> bool:
    """Whether numba can be imported (looked up once, without importing it)."""
    return find_spec("numba") is not None


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled at its first call, for one thread, kept on disk between processes where a folder can be written.

    Floating-point sums may be reordered; NaN is still told from numbers. Arguments are numpy arrays and numbers.
    """

    @functools.cache
    def compiled() -> Callable[..., Any]:
        from numba import njit

        compile_lanes()
        options: dict[str, Any] = dict(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp", "nsz"})
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # no folder for the cache can be written
            return njit(**options)(function)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        return compiled()(*arguments)

    return call
