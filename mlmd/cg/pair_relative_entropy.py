"""Relative entropy for pair splines: Newton's method with the analytic Hessian of a potential that is linear in its coefficients."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.linalg import block_diag
from torch import Tensor

from mlmd.cg.inverse_monte_carlo import Covariance, check_newton
from mlmd.cg.liquid_sampler import FINE, Sample
from mlmd.cg.pair_splines import PairSplines
from mlmd.cg.structure_loop import limited
from mlmd.cg.target_rdf import TargetRDF


@dataclass(frozen=True)
class PairRelativeEntropy:
    r"""Newton's method on the relative entropy :math:`S_{rel}` (Shell, J. Chem. Phys. 129, 144108 (2008); Chaimovich and Shell,
    J. Chem. Phys. 134, 094112 (2011)) of :math:`U=\sum_kU_kS_k`, S_k the sum of the k-th function of the basis over all pairs:

    .. math:: \partial_kS_{rel}=\beta\left(\langle S_k\rangle_{ref}-\langle S_k\rangle\right),\qquad
        \partial_k\partial_lS_{rel}=\beta^2\,\mathrm{cov}(S_k,S_l)

    Second derivatives of U vanish, so the Hessian is positive and the minimum unique. With one function per bin this is inverse
    Monte Carlo; with fewer functions than bins it fits g in the sense of the basis. The reference enters through its g(r) alone:
    sums over it are taken bin by bin, with the mean of a function in a bin.

    Args:
        kT: eV. step: factor on a correction (chi). largest: its limit in kT. covariance: how it is estimated, as in inverse Monte Carlo.
    """

    kT: float
    step: float = 0.7
    largest: float = 1.0
    covariance: Covariance = field(default_factory=Covariance)

    def __post_init__(self) -> None:
        check_newton(self.kT, self.step, self.largest)

    def __call__(self, sample: Sample, target: TargetRDF, basis: PairSplines) -> Tensor:
        """The next values (R, I) in eV."""
        means, mean = bin_means(target, basis), sample.counts.mean(0)
        excess = (mean - target.g * sample.ideal) @ means
        independent = block_diag(*[means.T @ (row[:, None] * means) for row in mean])
        hessian = self.covariance.regularised(sample.covariance(sample.sums, sample.sums), independent, len(sample.counts))
        solved = np.linalg.solve(hessian, excess.ravel())
        change = torch.from_numpy(self.kT * self.step * solved).reshape(basis.shape)
        return sample.values + limited(change, self.largest * self.kT)


def bin_means(target: TargetRDF, basis: PairSplines) -> np.ndarray:
    """(B, I) mean of every function of the basis over the shell of every bin of the target."""
    parts = np.linspace(target.edges[:-1], target.edges[1:], FINE + 1, axis=1)
    volume = np.diff(parts**3, axis=1)
    middle = (parts[:, 1:] + parts[:, :-1]) / 2
    value = basis.functions(torch.from_numpy(middle.ravel()))[0].numpy().reshape(*middle.shape, -1)
    return (value * volume[..., None]).sum(1) / volume.sum(1)[:, None]
