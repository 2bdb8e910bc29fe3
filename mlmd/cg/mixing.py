"""Convergence acceleration: a linear combination of the last corrections that leaves as little to correct as possible."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mlmd.cg.liquid_sampler import Sample
from mlmd.cg.pair_splines import PairSplines
from mlmd.cg.structure_loop import Correction, limited
from mlmd.cg.target_rdf import TargetRDF


class AndersonMixing:
    r"""A method with a memory of its last steps (Anderson, J. ACM 12, 547 (1965)).

    With the corrections :math:`f_j` that the method asked for at the values :math:`U_j`, and differences :math:`\Delta` between
    consecutive iterations,

    .. math:: U_{k+1}=U_k+f_k-\sum_j\gamma_j(\Delta U_j+\Delta f_j),\qquad
        \gamma=\arg\min\Big|f_k-\sum_j\gamma_j\Delta f_j\Big|_w^2

    The norm is weighted by the number of pairs at the knot in the target, the inverse variance of the noise of :math:`\ln g`. A slow
    collective mode, such as the one that Boltzmann iteration needs tens of steps for, is extrapolated after a few.

    Args:
        method: any correction. memory: steps remembered. ridge: weight of :math:`|\gamma|^2` relative to :math:`|\Delta f|^2`; against noise.
        largest: limit of a correction in eV.
    """

    def __init__(self, method: Correction, *, memory: int = 4, ridge: float = 0.01, largest: float = float("inf")):
        if memory < 1 or not ridge > 0 or not largest > 0:
            raise ValueError(f"memory={memory}, ridge={ridge}, largest={largest}: memory must be at least 1, the others positive")
        self.method, self.memory, self.ridge, self.largest = method, memory, ridge, largest
        self._values: list[Tensor] = []
        self._wanted: list[Tensor] = []

    def __call__(self, sample: Sample, target: TargetRDF, basis: PairSplines) -> Tensor:
        """The next values (R, I) in eV."""
        now = sample.values
        wanted = self.method(sample, target, basis) - now
        self._values = [*self._values, now][-self.memory - 1 :]
        self._wanted = [*self._wanted, wanted][-self.memory - 1 :]
        if len(self._values) < 2:
            return now + limited(wanted, self.largest)
        moved, gained = (torch.stack(x).diff(dim=0).flatten(1).numpy().T for x in (self._values, self._wanted))
        weight = np.sqrt(_pairs_at_knots(sample, target, basis)).ravel()[:, None]
        a, f = weight * gained, weight[:, 0] * wanted.flatten().numpy()
        normal = a.T @ a
        gamma = np.linalg.solve(normal + self.ridge * np.diag(np.diag(normal).clip(min=1e-300)), a.T @ f)
        mixed = wanted - torch.from_numpy((moved + gained) @ gamma).reshape(basis.shape)
        return now + limited(mixed, self.largest)


def _pairs_at_knots(sample: Sample, target: TargetRDF, basis: PairSplines) -> np.ndarray:
    """(R, I) pairs per bin of the target around every knot."""
    pairs = target.g * sample.ideal
    return np.stack([np.interp(basis.knots[:-1].numpy(), target.r, row) for row in pairs])
