"""A first potential from g(r) alone that knows the liquid: inversion of the hypernetted-chain equation."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlmd.cg.boltzmann_inversion import at_cutoff, at_knots, boltzmann_inversion
from mlmd.cg.pair_splines import PairSplines
from mlmd.cg.target_rdf import TargetRDF
from mlmd.system import System

Array = NDArray[np.float64]
PERIODS = 8  # length of the Fourier grid in units of the range of the target; what is beyond the target counts as h = 0


def hypernetted_chain_inversion(target: TargetRDF, basis: PairSplines, kT: float, system: System) -> Tensor:
    r"""Values (R, I) at the knots, in eV, of :math:`u(r)=kT\,[-\ln g(r)+h(r)-c(r)]`, shifted to zero at the cutoff.

    h = g - 1, and c is the direct correlation function of the Ornstein-Zernike equation at the densities of ``system``. To the
    Boltzmann inversion :math:`-kT\ln g` it adds what the neighbours of a pair do to it, and so begins near the answer in the smooth
    modes of long range in which Boltzmann iteration is slow, g hardly depending on them. Exact up to the bridge function
    (Hansen and McDonald, Theory of Simple Liquids (2013), sec. 4.3; as a start of iterations: Levesque, Weis and Reatto, Phys. Rev.
    Lett. 54, 451 (1985); Delbary, Hanke and Ivanizki, Inverse Probl. Sci. Eng. 28, 1166 (2020)).

    Args:
        target: g(r) of every pair of types in the system, of beads that no bonds join. basis: of the potential. kT: eV.
        system: one periodic box.

    Raises:
        ValueError: a pair of types without a target, or a target to which no liquid of this density belongs (a structure factor that
            is not positive), as when it is cut where it is not yet 1.
    """
    gamma = indirect_correlation(target, _densities(system, target))
    rows = []
    for g, correction in zip(target.g, kT * gamma):
        seen = g > 0
        rows.append(at_knots(target, basis, correction, seen) - at_cutoff(target, basis, correction, seen))
    return boltzmann_inversion(target, basis, kT) + torch.from_numpy(np.stack(rows))


def indirect_correlation(target: TargetRDF, densities: Array) -> Array:
    r"""(R, B) :math:`\gamma=h-c` on the bins of the target, from :math:`\hat\gamma=\hat h\,(1+\rho\hat h)^{-1}\rho\hat h`.

    This is the equation of Ornstein and Zernike; hats are Fourier transforms, for T types (T, T) matrices, and :math:`\rho` is the
    diagonal matrix of ``densities`` (T,) in 1/A^3. :math:`\hat\gamma` falls off faster than :math:`\hat h` and :math:`\hat c`, so that
    bins as wide as the core is steep will do.

    Raises:
        ValueError: a structure factor that is not positive.
    """
    r = target.r
    step = np.pi / (PERIODS * r[-1])
    k = step * np.arange(1, round(np.pi / (target.width * step)))
    waves = np.sin(np.outer(k, r))
    h = np.zeros((len(k), len(densities), len(densities)))
    for (a, b), row in zip(target.types, target.g - 1.0):
        h[:, a, b] = h[:, b, a] = 4 * np.pi * target.width / k * (waves @ (r * row))
    root = np.sqrt(densities)
    structure = np.eye(len(densities)) + root[:, None] * h * root  # S(k)
    _check_structure(k, structure)
    scaled = structure - np.eye(len(densities))
    gamma = scaled @ np.linalg.solve(structure, scaled) / np.outer(root, root)
    back = step / (2 * np.pi**2) * waves.T * k / r[:, None]
    return np.stack([back @ gamma[:, a, b] for a, b in target.types])


def _check_structure(k: Array, structure: Array) -> None:
    lowest = np.linalg.eigvalsh(structure)[:, 0]
    at = int(lowest.argmin())
    if lowest[at] <= 0:
        raise ValueError(
            f"the structure factor of the target is {lowest[at]:.3g} at k={k[at]:.3g} 1/A and has to be positive: measure g further out, "
            "where it is 1, check that box and target are of one density, or start from boltzmann_inversion"
        )


def _densities(system: System, target: TargetRDF) -> Array:
    """(T,) number of beads per A^3 of every type."""
    target.fits(system)
    number = torch.bincount(system.types.cpu()).double().numpy()
    listed = {tuple(sorted(pair)) for pair in target.types}
    present = np.flatnonzero(number)
    missing = [(int(a), int(b)) for a in present for b in present if a <= b and (int(a), int(b)) not in listed]
    if missing or len(present) < len(number):
        raise ValueError(
            f"the target has no g(r) for the pairs of types {missing}, or some types have no beads ({number.astype(int).tolist()} of each): "
            "the correlations of a liquid are coupled, give all of them, of types 0, 1, ..."
        )
    return np.asarray(number / float(torch.linalg.det(system.cell[0].double()).abs()))
