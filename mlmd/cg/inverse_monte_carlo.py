"""Inverse Monte Carlo: a Newton step on all bins of g(r) at once, made stable by a prior on its size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlmd.cg.boltzmann_inversion import VISIBLE, at_cutoff, at_knots
from mlmd.cg.liquid_sampler import Sample
from mlmd.cg.pair_splines import PairSplines
from mlmd.cg.structure_loop import limited
from mlmd.cg.target_rdf import TargetRDF

Array = NDArray[np.float64]


@dataclass(frozen=True)
class InverseMonteCarlo:
    r"""Lyubartsev and Laaksonen, Phys. Rev. E 52, 3730 (1995):

    .. math:: \langle S_a\rangle_{ref}-\langle S_a\rangle=-\beta\sum_b\mathrm{cov}(S_a,S_b)\,\Delta U_b

    with S_a the number of pairs in bin a. The covariance is nearly singular in the mode that changes the pressure and little else,
    so the equation is solved for the most probable correction if values of ``width`` kT are expected beforehand:
    :math:`(C+\lambda)\,\beta\Delta U=\langle S\rangle-\langle S\rangle_{ref}` with :math:`\lambda=1/(F\,width^2)` for F snapshots
    (Tikhonov; Rosenberger, Hanke and van der Vegt, Eur. Phys. J. Special Topics 225, 1323 (2016)).

    Args:
        kT: eV. width: expected size of a correction in kT. step: factor on it. largest: limit of a correction in kT.
    """

    kT: float
    width: float = 0.3
    step: float = 1.0
    largest: float = 1.0

    def __post_init__(self) -> None:
        check_newton(self.kT, self.width, self.step, self.largest)

    def __call__(self, sample: Sample, target: TargetRDF, basis: PairSplines) -> Tensor:
        """The next values (R, I) in eV."""
        seen = (sample.g > VISIBLE) & (target.r < basis.cutoff + target.width / 2)
        if not (seen & target.sampled).any():
            raise ValueError("g and its target overlap nowhere: start from the Boltzmann inversion of the target")
        counts = sample.counts[:, seen]
        excess = counts.mean(0) - (target.g * sample.ideal)[seen]
        solved = newton(sample.covariance(counts, counts), excess, len(counts), self.width)
        change = np.zeros(target.g.shape)
        change[seen] = self.kT * self.step * solved
        rows = [
            at_knots(target, basis, c, s) - at_cutoff(target, basis, c, s) if s.any() else np.zeros(basis.intervals)
            for c, s in zip(change, seen)
        ]
        return sample.values + limited(torch.from_numpy(np.stack(rows)), self.largest * self.kT)


def newton(covariance: Array, excess: Array, snapshots: int, width: float) -> Array:
    r"""Solve :math:`(C+\lambda)x=d` with :math:`\lambda=1/(F\,width^2)`: the most probable x if its values are normal with that width
    and d is known to within the noise :math:`C/F` of F independent snapshots."""
    return np.asarray(np.linalg.solve(covariance + np.eye(len(excess)) / (snapshots * width**2), excess), np.float64)


def check_newton(kT: float, width: float, step: float, largest: float) -> None:
    """Refuse arguments of a Newton step that are not positive."""
    if not (kT > 0 and width > 0 and step > 0 and largest > 0):
        raise ValueError(f"kT={kT}, width={width}, step={step}, largest={largest}: must be positive")
