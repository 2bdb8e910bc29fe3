"""A larger box to simulate, made of images of a small one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from mlmd.md.state import State, rest, thermal_velocities
from mlmd.segment import segment_sum
from mlmd.system import System


def enlarged(
    system: System,
    repeats: Sequence[int],
    kT: float | torch.Tensor,
    generator: torch.Generator | None = None,
    *,
    bonds: Iterable[tuple[int, int]] = (),
) -> State:
    """A state of the box ``repeats`` = (na, nb, nc) times as long, its velocities drawn anew and at rest as a whole.

    Fresh velocities, because images that also moved alike would stay images of each other for ever under Newton's equations.
    They part within a few collision times; what is measured earlier is that of the small box.

    Args:
        system: a periodic box whose molecules are whole, or are made so along ``bonds``; see :meth:`System.enlarged`.
        kT: eV, a number or one per system (S,). generator: source of the velocities.

    Raises:
        ValueError: repeats that are not three whole numbers of at least 1, or over 1 along an open direction.
    """
    large = system.enlarged(repeats, bonds)
    v = thermal_velocities(large, kT, generator)
    m, n = large.masses[:, None], large.n_systems
    drift = segment_sum(m * v, large.batch, n) / segment_sum(m, large.batch, n)
    return rest(large, v - drift[large.batch])
