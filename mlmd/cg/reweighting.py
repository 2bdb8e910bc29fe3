"""Reweighting: averages of one potential from snapshots of another, and how many of these still count."""

from __future__ import annotations

import torch
from torch import Tensor


def boltzmann_weights(energy: Tensor, reference: Tensor, kT: float) -> Tensor:
    r"""Weights of snapshots of one potential in the ensemble of another (Torrie and Valleau 1977), which add up to one:

    .. math:: w_i=\frac{e^{-(U(x_i)-U_{ref}(x_i))/kT}}{\sum_je^{-(U(x_j)-U_{ref}(x_j))/kT}}

    Differentiable in both energies, so that :math:`\sum_iw_iO(x_i)` has the gradient
    :math:`-(\langle O\,\nabla U\rangle-\langle O\rangle\langle\nabla U\rangle)/kT` of an average (Thaler and Zavadlav 2021).

    Args:
        energy, reference: (n,) of the snapshots with the potential of interest, and with the one they were sampled with, eV.
        kT: eV.

    Returns:
        (n,) in double precision.

    Raises:
        ValueError: for shapes that differ or are empty, energies that are not finite, or kT that is not positive.
    """
    if energy.ndim != 1 or energy.shape != reference.shape or not len(energy):
        raise ValueError(
            f"energy has shape {tuple(energy.shape)} and reference {tuple(reference.shape)}: expected (n,) each with n > 0"
        )
    if not kT > 0:
        raise ValueError(f"kT={kT}: must be positive, in eV")
    difference = energy.double() - reference.double()
    if not bool(torch.isfinite(difference).all()):
        raise ValueError(
            "energy or reference hold values that are not finite: the potential cannot be evaluated on these snapshots"
        )
    return torch.softmax(-difference / kT, 0)


def reweighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    r""":math:`\sum_iw_iO_i`, (...), of values (n, ...) per snapshot with normalised weights (n,).

    Raises:
        ValueError: unless there is one weight per snapshot.
    """
    if weights.ndim != 1 or not values.ndim or len(values) != len(weights):
        raise ValueError(
            f"values has shape {tuple(values.shape)} and weights {tuple(weights.shape)}: one weight per snapshot is needed"
        )
    return torch.tensordot(weights, values.to(weights.dtype), 1)


def effective_share(weights: Tensor) -> float:
    r"""Effective sample size as a share of the sample, :math:`1/(n\sum_iw_i^2)` for normalised weights (n,) (Kish 1965).

    It is 1 for equal weights and 1/n when one snapshot stands for all, and never above the share :math:`e^{-\sum_iw_i\ln w_i}/n` that
    is used instead by Carmichael and Shell (2012); where weights vary little, its distance from 1 is twice as large.
    """
    return float(1 / (len(weights) * weights.detach().square().sum()))


def worn_out(weights: Tensor, least: float = 0.9) -> bool:
    """Whether the snapshots no longer represent the potential, so that new ones have to be made: effective share below ``least``.

    Raises:
        ValueError: if least is not between 0 and 1.
    """
    if not 0 <= least <= 1:
        raise ValueError(f"least={least}: must lie between 0 (never sample anew) and 1 (always)")
    return effective_share(weights) < least
