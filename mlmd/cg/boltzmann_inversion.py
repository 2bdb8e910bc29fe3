"""Boltzmann inversion, direct and iterative, with a pressure correction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlmd.cg.liquid_sampler import Sample
from mlmd.cg.pair_splines import PairSplines
from mlmd.cg.target_rdf import TargetRDF

Array = NDArray[np.float64]
VISIBLE = 1e-4  # g below this is not compared: a few pairs in a long run


def boltzmann_inversion(target: TargetRDF, basis: PairSplines, kT: float) -> Tensor:
    r"""The potential of mean force :math:`u(r)=-kT\ln g(r)`, shifted to zero at the cutoff: values (R, I) at the knots, in eV.

    The exact answer for a dilute gas, the usual start for a liquid (Soper, Chem. Phys. 202, 295 (1996)); for a dense one without bonds
    :func:`mlmd.cg.hypernetted_chain.hypernetted_chain_inversion` is nearer.
    """
    rows = []
    for g in target.g:
        seen = g > 0
        u = at_knots(target, basis, -kT * np.log(np.where(seen, g, 1.0)), seen)
        rows.append(u - at_cutoff(target, basis, -kT * np.log(np.where(seen, g, 1.0)), seen))
    return torch.from_numpy(np.stack(rows))


@dataclass(frozen=True)
class IterativeBoltzmannInversion:
    r"""Reith, Puetz and Mueller-Plathe, J. Comput. Chem. 24, 1624 (2003):

    .. math:: u_{k+1}(r)=u_k(r)+\alpha\,kT\ln\frac{g_k(r)}{g_{ref}(r)}+A\,(1-r/r_c)

    with :math:`A=3r_c(P_{ref}-P)/(2\pi\rho^2\int_0^{r_c}r^3g\,dr)` times ``pressure_share`` if a pressure is wanted
    (Wang, Junghans and Kremer, Eur. Phys. J. E 28, 221 (2009)). A g below 1e-4 counts as 1e-4; where both are, the correction of
    the nearest bin is used in which one is not.

    It reproduces g soon, and smooth long-ranged parts of u, which g hardly feels, late (Jain, Garde and Kumar, Ind. Eng. Chem. Res. 45,
    5614 (2006)): what the start has wrong there stays for long.

    With a pressure: the correction of g undoes part of every ramp, so that the pressure levels off short of P_ref by what the ratio of
    ``damping`` to ``pressure_share`` allows (one-bead SPC/E water, from 8 250 bar: some 350 bar for 1 to 0.5, some 100 bar for 0.25 to 1).
    Fit g first, and begin from its result with a small ``damping`` and ``pressure_share=1``.

    Args:
        kT: eV. damping: alpha. pressure: P_ref in eV/A^3, None: whatever comes out. pressure_share: of A.
        largest_ramp: limit of A in units of kT.
    """

    kT: float
    damping: float = 1.0
    pressure: float | None = None
    pressure_share: float = 0.5
    largest_ramp: float = 0.1

    def __post_init__(self) -> None:
        if not self.kT > 0 or not 0 < self.damping <= 2 or not 0 < self.pressure_share <= 1 or not self.largest_ramp > 0:
            raise ValueError(
                f"kT={self.kT}, damping={self.damping}, pressure_share={self.pressure_share}, largest_ramp={self.largest_ramp}: must be "
                "positive, damping at most 2 and pressure_share at most 1"
            )

    def __call__(self, sample: Sample, target: TargetRDF, basis: PairSplines) -> Tensor:
        """The next values (R, I) in eV."""
        rows = []
        for g, reference in zip(sample.g, target.g):
            if not ((g > VISIBLE) & (reference > VISIBLE)).any():
                raise ValueError("g and its target overlap nowhere: start from the Boltzmann inversion of the target")
            seen = (g > VISIBLE) | (reference > VISIBLE)
            change = self.damping * self.kT * np.log(np.maximum(g, VISIBLE) / np.maximum(reference, VISIBLE))
            rows.append(at_knots(target, basis, change, seen) - at_cutoff(target, basis, change, seen))
        ramp = self._ramp(sample, target, basis) * (1 - basis.knots[:-1] / basis.cutoff)
        return sample.values + torch.from_numpy(np.stack(rows)) + ramp

    def _ramp(self, sample: Sample, target: TargetRDF, basis: PairSplines) -> float:
        """A, in eV; for a mixture every pair of types gets the same."""
        if self.pressure is None:
            return 0.0
        inside = target.r < basis.cutoff
        per_pair = (sample.counts.mean(0) * target.r)[:, inside].sum()  # sum over pairs of r: the virial of a ramp of unit slope
        ramp = 3 * sample.volume * basis.cutoff * (self.pressure - sample.pressure) / per_pair * self.pressure_share
        return float(np.clip(ramp, -self.largest_ramp * self.kT, self.largest_ramp * self.kT))


def at_knots(target: TargetRDF, basis: PairSplines, on_bins: Array, seen: NDArray[np.bool_]) -> Array:
    """(I,) a function known on the seen bins, at the knots: linear between, constant beyond."""
    return np.interp(basis.knots[:-1].numpy(), target.r[seen], on_bins[seen])


def at_cutoff(target: TargetRDF, basis: PairSplines, on_bins: Array, seen: NDArray[np.bool_]) -> float:
    """The same at the cutoff."""
    return float(np.interp(basis.cutoff, target.r[seen], on_bins[seen]))
