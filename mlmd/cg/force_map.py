r"""Force maps: which combination of atomic forces is an unbiased sample of the mean force on every bead.

For a linear map :math:`X=Mx`, any constant :math:`C` with

.. math:: C M^T = 1

gives :math:`-\nabla W(X) = E[\,C f \mid X\,]` (Noid et al., J. Chem. Phys. 128, 244114 (2008); Ciccotti, Kapral and
Vanden-Eijnden, ChemPhysChem 6, 1809 (2005)). Where atoms are held by rigid bonds, the forces of the constraints are missing from
:math:`f`; they cancel if the atoms of one rigid group have equal columns in :math:`C` (Kraemer et al., J. Phys. Chem. Lett. 14,
3970 (2023)). Among the maps that remain, the one with the least :math:`\langle|Cf|^2\rangle` has the least noise, because the mean force
is the same for all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from mlmd.cg.groups import components

Constraints = Iterable[tuple[int, int]] | Tensor


@dataclass(frozen=True)
class NoiseReport:
    """<|F|^2> in (eV/A)^2 per bead, before and after, on the frames used for the fit and on frames that were held out."""

    before: float
    after: float
    held_out_before: float
    held_out_after: float
    n_fit: int
    n_held_out: int


def rigid_groups(n: int, constraints: Constraints | None) -> Tensor:
    """(g, n) indicator of the sets of atoms that rigid bonds hold together; single atoms are sets of one."""
    pairs = constraints.tolist() if isinstance(constraints, Tensor) else list(constraints or ())
    out_of_range = [i for p in pairs for i in p if not 0 <= i < n]
    if out_of_range:
        raise ValueError(f"constraints name atom {out_of_range[0]}, but the molecule has {n} atoms")
    parts = components(n, [(int(i), int(j)) for i, j in pairs])
    out = torch.zeros(len(parts), n, dtype=torch.float64)
    for g, atoms in enumerate(parts):
        out[g, atoms] = 1.0
    return out


def aggregate(weights: Tensor, constraints: Constraints | None = None) -> Tensor:
    r"""Sum of the forces on the atoms of every bead, and on atoms rigidly bound to them.

    :math:`C_{Ij}=1` if j, or an atom that a rigid bond ties to j, has weight in bead I, else 0.

    Args:
        weights: (B, N), every atom in at most one bead; constraints: pairs of rigidly bound atoms.

    Raises:
        ValueError: if an atom or a rigid group has weight in two beads; then use :func:`least_norm` or :func:`optimal`.
    """
    groups = rigid_groups(weights.shape[1], constraints).to(weights.device)
    touched = ((weights != 0).double() @ groups.T > 0).double()  # (B, g)
    shared = torch.nonzero(touched.sum(0) > 1).flatten()
    if len(shared):
        atoms = torch.nonzero(groups[shared[0]]).flatten().tolist()
        raise ValueError(
            f"atoms {atoms} (one atom, or atoms joined by rigid bonds) belong to several beads, so forces cannot simply be added: "
            "use force_map.least_norm or force_map.optimal, or keep them in one bead"
        )
    return (touched @ groups).to(weights.dtype)


def least_norm(weights: Tensor, constraints: Constraints | None = None) -> Tensor:
    r"""The exact force map of least norm.

    Without constraints :math:`C=(MM^T)^{-1}M`. With them, equal columns within rigid groups: :math:`C=GR` with the indicator
    :math:`R` of the groups, :math:`\bar M=MR^T`, :math:`A=RR^T`, :math:`G=(\bar MA^{-1}\bar M^T)^{-1}\bar MA^{-1}`.

    Raises:
        ValueError: if no exact map exists (rigid groups tie the beads together).
    """
    groups = rigid_groups(weights.shape[1], constraints).to(weights.device)
    reduced = weights.double() @ groups.T
    scaled = reduced / groups.sum(1)
    _check_feasible(reduced)
    return (torch.linalg.solve(scaled @ reduced.T, scaled) @ groups).to(weights.dtype)


def default(weights: Tensor, constraints: Constraints | None = None) -> Tensor:
    """:func:`aggregate` where it is defined, else :func:`least_norm`."""
    try:
        return aggregate(weights, constraints)
    except ValueError:
        return least_norm(weights, constraints)


def optimal(weights: Tensor, forces: Tensor, constraints: Constraints | None = None, *, ridge: float = 1e-6) -> Tensor:
    r"""The exact force map of least noise on a sample: min over C of <|Cf|^2> + ridge, with C M^T = 1 and equal rigid columns.

    Write :math:`C=(G_0+YZ^T)R` with :math:`G_0` the default map, R the rigid groups, and Z an orthonormal basis of the null space of
    :math:`\bar M=MR^T`; then :math:`CM^T=1` holds for every Y. With the covariance :math:`A=\langle (Rf)(Rf)^T\rangle`,

    .. math:: Y = -G_0 A Z\,(Z^TAZ + \lambda 1)^{-1}, \qquad \lambda = \mathrm{ridge}\cdot \mathrm{tr}(A)/g .

    The ridge pulls towards the default map, so the result is never noisier than that map on the sample (Kraemer et al. 2023).

    Args:
        weights: (B, N); forces: (F, N, 3) sample in eV/A, or (F, n_molecules * N, 3); constraints: pairs of rigidly bound atoms.
        ridge: relative to the mean square force; raise it where few frames make the held-out noise larger.
    """
    n = weights.shape[1]
    groups = rigid_groups(n, constraints).to(weights.device)
    start = default(weights.double(), constraints)
    start = start @ groups.T / groups.sum(1)  # equal columns: the mean over a group is the value of the group
    grouped = torch.einsum("gn,fnc->fgc", groups, _per_molecule(forces, n).double())
    covariance = torch.einsum("fgc,fhc->gh", grouped, grouped) / len(grouped)
    null = _null_space(weights.double() @ groups.T)
    if null.shape[1] == 0:
        return (start @ groups).to(weights.dtype)
    inner = null.T @ covariance @ null
    inner = inner + ridge * covariance.trace() / len(covariance) * torch.eye(len(inner), dtype=inner.dtype, device=inner.device)
    shift = -torch.linalg.solve(inner, null.T @ covariance @ start.T).T
    return ((start + shift @ null.T) @ groups).to(weights.dtype)


def mean_square(force_weights: Tensor, forces: Tensor) -> float:
    """<|F_I|^2> over frames, molecules and beads (sum over x, y, z) in the square of the unit of ``forces``."""
    mapped = torch.einsum("bn,fnc->fbc", force_weights.to(forces), _per_molecule(forces, force_weights.shape[1]))
    return float(mapped.double().square().sum(-1).mean())


def optimise(
    weights: Tensor,
    forces: Tensor,
    constraints: Constraints | None = None,
    *,
    ridge: float = 1e-6,
    held_out: float = 0.2,
) -> tuple[Tensor, NoiseReport]:
    """:func:`optimal` on the first part of the frames, with the noise before and after on the last ``held_out`` part.

    Raises:
        ValueError: if either part would be empty.
    """
    n_fit = len(forces) - round(held_out * len(forces))
    if not 0 < n_fit < len(forces):
        raise ValueError(f"held_out={held_out:g} of {len(forces)} frames leaves nothing to fit or to test: give more frames")
    before = default(weights, constraints)
    after = optimal(weights, forces[:n_fit], constraints, ridge=ridge)
    fit, test = forces[:n_fit], forces[n_fit:]
    report = NoiseReport(
        mean_square(before, fit), mean_square(after, fit), mean_square(before, test), mean_square(after, test), n_fit, len(test)
    )
    return after, report


def check(weights: Tensor, force_weights: Tensor, tolerance: float = 1e-6) -> None:
    """Refuse a force map that is not exact, C M^T != 1: it would bias the forces.

    Raises:
        ValueError: naming the largest deviation.
    """
    if force_weights.shape != weights.shape:
        raise ValueError(f"force_weights has shape {tuple(force_weights.shape)}, expected that of weights, {tuple(weights.shape)}")
    product = force_weights.double() @ weights.double().T
    off = float((product - torch.eye(len(weights), dtype=product.dtype, device=product.device)).abs().max())
    if not off <= tolerance:
        raise ValueError(
            f"force_weights is not exact: C M^T deviates from the unit matrix by {off:.3g}; build it with "
            "force_map.aggregate, least_norm or optimal"
        )


def _per_molecule(forces: Tensor, n: int) -> Tensor:
    """(F, molecules * n, 3) -> (F * molecules, n, 3)."""
    if forces.ndim != 3 or forces.shape[1] % n or forces.shape[2] != 3:
        raise ValueError(f"forces has shape {tuple(forces.shape)}, expected (frames, multiple of {n}, 3)")
    return forces.reshape(-1, n, 3)


def _check_feasible(reduced: Tensor) -> None:
    if int(torch.linalg.matrix_rank(reduced)) < len(reduced):
        raise ValueError(
            "no exact force map exists: rigid bonds tie beads together (or two beads are linearly dependent); "
            "choose beads so that atoms joined by rigid bonds stay together"
        )


def _null_space(matrix: Tensor) -> Tensor:
    """(g, g - rank) orthonormal columns z with matrix @ z = 0."""
    _, s, vh = torch.linalg.svd(matrix, full_matrices=True)
    rank = int((s > 1e-12 * s.max()).sum())
    return vh[rank:].T
