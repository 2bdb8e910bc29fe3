"""Inverse Monte Carlo: a Newton step on all bins of g(r) at once, made stable by a prior on its size."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    and a short run makes it more so: see :class:`Covariance` for how it is regularised (Tikhonov; Rosenberger, Hanke and van der
    Vegt, Eur. Phys. J. Special Topics 225, 1323 (2016)).

    Give every sample several snapshots per bin, and for beads without bonds start from
    :func:`mlmd.cg.hypernetted_chain.hypernetted_chain_inversion`: far off, linear response errs, and few snapshots make noisy steps.

    Args:
        kT: eV. step: factor on a correction. largest: its limit in kT. covariance: how it is estimated, and what is remembered of it.
    """

    kT: float
    step: float = 1.0
    largest: float = 1.0
    covariance: Covariance = field(default_factory=lambda: Covariance())

    def __post_init__(self) -> None:
        check_newton(self.kT, self.step, self.largest)

    def __call__(self, sample: Sample, target: TargetRDF, basis: PairSplines) -> Tensor:
        """The next values (R, I) in eV."""
        inside = target.r < basis.cutoff + target.width / 2
        counts, g = sample.counts[:, :, inside], target.g[:, inside]
        seen = sample.g[:, inside] > VISIBLE
        if not (seen & (g > 0)).any():
            raise ValueError("g and its target overlap nowhere: start from the Boltzmann inversion of the target")
        mean, wanted = counts.mean(0), g * sample.ideal[:, inside]
        whole = self.covariance.regularised(sample.covariance(counts, counts), np.diag(mean.ravel()), len(counts))
        change, every = np.zeros(target.g.shape), np.zeros(target.g.shape, bool)
        every[:, inside] = seen
        change[every] = self.kT * self.step * np.linalg.solve(whole[np.ix_(seen.ravel(), seen.ravel())], (mean - wanted)[seen])
        rows = [
            at_knots(target, basis, c, s) - at_cutoff(target, basis, c, s) if s.any() else np.zeros(basis.intervals)
            for c, s in zip(change, every)
        ]
        return sample.values + limited(torch.from_numpy(np.stack(rows)), self.largest * self.kT)


class Covariance:
    r"""The covariance to solve with, :math:`(1-s)\,C+s\,D+1/(F\,w^2)`, from F snapshots of this iteration and the last ones.

    D is what C would be for independent pairs (Poisson numbers). A covariance of K numbers from F snapshots has small eigenvalues
    that are far too small unless F is many times K, and steps along them overshoot; shrinking it towards D bounds them (Ledoit and
    Wolf, J. Multivariate Anal. 88, 365 (2004)), here with :math:`s=K/(K+F)`; s = 1 is Boltzmann iteration to first order. C changes
    little from one potential to the next, so the correlations :math:`D^{-1/2}CD^{-1/2}` of the last iterations are averaged. The
    last term is a normal prior of width w (in kT) on the solution; it acts where there are hardly any pairs.

    Args:
        memory: iterations averaged over. shrink: s, None: as above. width: w.

    Raises:
        ValueError: a memory below 1, a share outside of [0, 1] or a width that is not positive.
    """

    def __init__(self, memory: int = 5, shrink: float | None = None, width: float = 1.0):
        if memory < 1 or not (shrink is None or 0 <= shrink <= 1) or not width > 0:
            raise ValueError(
                f"memory={memory}, shrink={shrink}, width={width}: memory must be at least 1, shrink in [0, 1], width positive"
            )
        self.memory, self.shrink, self.width = memory, shrink, width
        self._correlations: list[tuple[Array, int]] = []

    def regularised(self, covariance: Array, independent: Array, snapshots: int) -> Array:
        """The matrix for C and D (K, K) of this iteration, both in numbers of pairs squared."""
        scale = np.sqrt(np.diag(independent))
        inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
        self._correlations = [*self._correlations, (covariance * np.outer(inverse, inverse), snapshots)][-self.memory :]
        total = sum(n for _, n in self._correlations)
        pooled = sum(n * c for c, n in self._correlations) / total * np.outer(scale, scale)
        active = int((scale > 0).sum())
        share = active / (active + total) if self.shrink is None else self.shrink
        return np.asarray((1 - share) * pooled + share * independent + np.eye(len(scale)) / (total * self.width**2), np.float64)


def check_newton(kT: float, step: float, largest: float) -> None:
    """Refuse arguments of a Newton step that are not positive."""
    if not (kT > 0 and step > 0 and largest > 0):
        raise ValueError(f"kT={kT}, step={step}, largest={largest}: must be positive")
