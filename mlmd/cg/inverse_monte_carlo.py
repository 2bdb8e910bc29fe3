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
    and a short run makes it more so: see :func:`newton` for how it is regularised (Tikhonov; Rosenberger, Hanke and van der Vegt,
    Eur. Phys. J. Special Topics 225, 1323 (2016)).

    Args:
        kT: eV. shrink: share s of independent pairs in the covariance. width: expected size of a correction in kT.
        step: factor on a correction. largest: its limit in kT.
    """

    kT: float
    shrink: float = 0.1
    width: float = 1.0
    step: float = 1.0
    largest: float = 1.0

    def __post_init__(self) -> None:
        check_newton(self.kT, self.shrink, self.width, self.step, self.largest)

    def __call__(self, sample: Sample, target: TargetRDF, basis: PairSplines) -> Tensor:
        """The next values (R, I) in eV."""
        seen = (sample.g > VISIBLE) & (target.r < basis.cutoff + target.width / 2)
        if not (seen & target.sampled).any():
            raise ValueError("g and its target overlap nowhere: start from the Boltzmann inversion of the target")
        counts = sample.counts[:, seen]
        mean, wanted = counts.mean(0), (target.g * sample.ideal)[seen]
        covariance = regularised(sample.covariance(counts, counts), np.diag(mean), len(counts), self.shrink, self.width)
        change = np.zeros(target.g.shape)
        change[seen] = self.kT * self.step * np.linalg.solve(covariance, mean - wanted)
        rows = [
            at_knots(target, basis, c, s) - at_cutoff(target, basis, c, s) if s.any() else np.zeros(basis.intervals)
            for c, s in zip(change, seen)
        ]
        return sample.values + limited(torch.from_numpy(np.stack(rows)), self.largest * self.kT)


def regularised(covariance: Array, independent: Array, snapshots: int, shrink: float, width: float) -> Array:
    r"""The covariance to solve with, :math:`(1-s)\,C+s\,D+1/(F\,w^2)`.

    D is what C would be for independent pairs (Poisson numbers). A covariance of K numbers from F snapshots has small eigenvalues
    that are far too small unless F is many times K; shrinking it towards D bounds them (Ledoit and Wolf, J. Multivariate Anal. 88,
    365 (2004)), and s = 1 is Boltzmann iteration to first order. The last term is a normal prior of width w (in kT) on the
    solution, with data known to within the noise C / F of F independent snapshots; it acts where there are hardly any pairs.
    """
    return (1 - shrink) * covariance + shrink * independent + np.eye(len(covariance)) / (snapshots * width**2)


def check_newton(kT: float, shrink: float, width: float, step: float, largest: float) -> None:
    """Refuse arguments of a Newton step that are not positive, and a share of independent pairs above 1."""
    if not (kT > 0 and 0 <= shrink <= 1 and width > 0 and step > 0 and largest > 0):
        raise ValueError(
            f"kT={kT}, shrink={shrink}, width={width}, step={step}, largest={largest}: must be positive, and shrink at most 1"
        )
