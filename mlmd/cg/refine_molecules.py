"""The loop that refines a liquid of molecules as a whole: pair potentials and bonded terms from the same samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mlmd.cg.liquid_bonded import BondedBoltzmannIteration, BondedCorrection, BondedTarget, Coefficients, Snapshots
from mlmd.cg.liquid_sampler import LiquidSampler
from mlmd.cg.structure_loop import ADVICE, Correction, Iteration, compared
from mlmd.errors import Diverging, Unstable
from mlmd.observables.histogram import Density1D

Array = NDArray[np.float64]
GROWTH = 3.0  # times the best deviation, which a later one may not exceed


@dataclass(frozen=True, eq=False)
class MoleculeIteration:
    """One potential and what it gave.

    pairs: values of the pairs and their sample. coefficients: of the bonded terms, eV. positions (F, N, 3): snapshots, A.
    densities: of the bonded terms.
    mean_deviation (R,): mean |g - g_ref| over the bins where g_ref is not zero, per pair of types. overlaps (G,): of the densities.
    """

    pairs: Iteration
    coefficients: Coefficients
    positions: Tensor
    densities: tuple[Density1D, ...]
    mean_deviation: Array
    overlaps: Array
    converged: bool

    @property
    def deviation(self) -> float:
        """The largest of the mean |g - g_ref|, and of 2 (1 - overlap), which is the same for densities whose mean is one."""
        return float(max(self.mean_deviation.max(), 2 * (1 - self.overlaps.min())))

    def line(self) -> str:
        """The numbers in words."""
        g = " ".join(f"{d:.4f}" for d in self.mean_deviation)
        q = " ".join(f"{o:.4f}" for o in self.overlaps)
        return f"{self.pairs.line()}; mean |g - g_ref| {g}; bonded overlaps {q}" + (", all converged" if self.converged else "")


def refine_molecules(
    method: Correction,
    sampler: LiquidSampler,
    target: BondedTarget,
    start: Tensor,
    coefficients: Coefficients,
    *,
    bonded: BondedCorrection | None = None,
    tolerance: float = 0.02,
    iterations: int = 20,
) -> Iterator[MoleculeIteration]:
    """Sample, compare g(r) and the densities of all bonded terms with the reference, correct all of them, until all agree.

    Bonded terms change so little of g(r), and pairs of them, that both can be corrected at once. The potential of an iteration is the one that was sampled.

    Args:
        method: how values of the pairs are corrected. sampler: box and target g(r), with ``molecules``. target: of bonded terms.
        start: (R, I) first values in eV. coefficients: first ones of the bonded terms.
        bonded: how coefficients of bonded terms are corrected; default Boltzmann iteration.
        tolerance: of mean |g - g_ref| per pair of types and of 2 (1 - overlap) per bonded term.

    Yields:
        :class:`MoleculeIteration`. The generator ends after the first that is converged, or after the last.

    Raises:
        ValueError: a sampler without molecules; a tolerance or number of iterations that is not positive.
        Diverging: when the deviation is above three times the best one, not finite, or the box explodes; carries the best iteration.
    """
    if sampler.molecules is None:
        raise ValueError("sampler has no molecules: refine single beads with refine_pairs")
    if not tolerance > 0 or iterations < 1:
        raise ValueError(f"tolerance={tolerance}, iterations={iterations}: must be positive")
    values, best = start, None
    bonded = BondedBoltzmannIteration(target, sampler.kT) if bonded is None else bonded
    for number in range(1, iterations + 1):
        try:
            now = _measured(sampler, target, values, coefficients, number, tolerance)
        except Unstable as error:
            raise Diverging(f"the box exploded in iteration {number} ({error.reason}): {ADVICE}", best) from error
        if not np.isfinite(now.deviation) or (best is not None and now.deviation > GROWTH * best.deviation + 3 * tolerance):
            raise Diverging(f"the deviation grows to {now.deviation:.3g}: {ADVICE}", best)
        best = now if best is None or now.deviation < best.deviation else best
        yield now
        if now.converged:
            return
        values = method(now.pairs.sample, sampler.target, sampler.basis)
        coefficients = bonded(coefficients, now.positions)


def _measured(
    sampler: LiquidSampler, target: BondedTarget, values: Tensor, coefficients: Coefficients, number: int, tolerance: float
) -> MoleculeIteration:
    assert sampler.molecules is not None
    sampler.molecules = replace(sampler.molecules, bonded=target.bonded(coefficients))
    seen = Snapshots()
    pairs = compared(sampler.sample(values, watch=seen), sampler, number, tolerance)
    densities = target.measured(seen.positions)
    wrong = np.array([np.abs(g - ref)[ref > 0].mean() for g, ref in zip(pairs.sample.g, sampler.target.g)])
    overlaps = target.overlaps(densities)
    good = bool((wrong < tolerance).all() and (2 * (1 - overlaps) < tolerance).all())
    return MoleculeIteration(pairs, coefficients, seen.positions, tuple(densities), wrong, overlaps, good)
