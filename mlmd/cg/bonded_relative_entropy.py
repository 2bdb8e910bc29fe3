"""Relative entropy for bonded terms: Newton's step for all of them together, with their correlations within a molecule."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from mlmd.cg.liquid_bonded import BondedTarget, Coefficients, features

CHUNK = 8192  # molecules whose functions are evaluated at once
RIDGE = 1e-4  # of the mean variance, added to all: directions that were hardly sampled move little
BEND = (
    1e-2  # of the mean variance, on second differences of coefficients: a correction is smooth, and straight where nothing was seen
)


class BondedRelativeEntropy:
    r"""Coefficients c of energies :math:`u=\sum_kc_kb_k` that bring all means :math:`\langle b_k\rangle` to those of the reference:

    .. math:: c\leftarrow c+\chi\,kT\,C^{-1}\big(\langle b\rangle-\langle b\rangle_{ref}\big)

    with the functions b of a whole molecule (:func:`mlmd.cg.liquid_bonded.features`) and C the mean of their covariances over molecules in
    sample and reference. Terms that overlap, such as an angle and the distance of its ends, share the correction between them, where
    each by itself would make it twice. The response of other molecules is left out.

    Args:
        target: terms and their splines. reference: (F, N, 3) positions of the reference beads, molecules whole. kT: eV.
        step: chi. largest: limit, in units of kT, of the standard deviation over molecules of the change of energy; longer steps are
            shortened as a whole.

    Raises:
        ValueError: a step, limit or kT that is not positive.

    Source:
        Chaimovich and Shell, J. Chem. Phys. 134, 094112 (2011), eq. 18 with the Hessian of one molecule.
    """

    def __init__(self, target: BondedTarget, reference: Tensor, kT: float, *, step: float = 1.0, largest: float = 1.0):
        if not kT > 0 or not 0 < step <= 1 or not largest > 0:
            raise ValueError(f"kT={kT}, step={step}, largest={largest}: must be positive, step at most 1")
        self.target, self.kT, self.step, self.largest = target, float(kT), float(step), float(largest)
        self.mean, self.covariance = moments(target, reference)

    def __call__(self, coefficients: Coefficients, positions: Tensor) -> Coefficients:
        """Coefficients for the next iteration, in eV."""
        mean, covariance = moments(self.target, positions)
        shared = (covariance + self.covariance) / 2
        scale = float(shared.diagonal().mean())
        matrix = shared + scale * (BEND * self._bend + RIDGE * torch.eye(len(mean), dtype=torch.float64))
        change = self.step * self.kT * torch.linalg.solve(matrix, mean - self.mean)
        spread = float((change @ shared @ change).clamp(min=0).sqrt())
        change = change * min(1.0, self.largest * self.kT / max(spread, 1e-300))
        parts = change.split([len(c) for c in coefficients])
        return tuple(c + d for c, d in zip(coefficients, parts))

    @cached_property
    def _bend(self) -> Tensor:
        """(P, P) sum of squared second differences of the coefficients of every term."""
        blocks = []
        for n, turns in self.target.sizes:
            one = torch.eye(n, dtype=torch.float64)
            d = one.roll(-1, 0) - 2 * one + one.roll(1, 0)
            d = d if turns else d[1:-1]
            blocks.append(d.T @ d)
        return torch.block_diag(*blocks)


def moments(target: BondedTarget, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (P,) and covariance (P, P) over molecules and frames of the functions of a molecule."""
    molecules = positions.reshape(-1, target.coordinates.size, 3)
    total = square = torch.zeros(())
    for part in molecules.split(CHUNK):
        b = features(target, part)
        total, square = total + b.sum(0), square + b.T @ b
    mean = total / len(molecules)
    return mean, square / len(molecules) - mean[:, None] * mean
