r"""Bead forces with less noise: the net force and the torque on a molecule from its atoms, where forces within it cancel.

A constant force map takes the motions that change one bead alone, and the stiff forces within the molecule act on these. But when
a molecule is moved or turned as a whole, atoms and beads move alike, and only its surroundings act: the mean of

.. math:: \sum_IF_I-\sum_jf_j \quad\text{and of}\quad \sum_I(X_I-\bar X)\times F_I-\sum_j(x_j-\bar X)\times f_j

over the atoms that belong to given beads is zero (the sums over atoms are the force along another vector field with the same effect on the
beads, without divergence and without change of rigid bonds; Ciccotti, Kapral and Vanden-Eijnden, ChemPhysChem 6, 1809 (2005)). Taking them off
as functions of the beads leaves the mean force on every bead as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mlmd.cg.mapping import Mapping
from mlmd.frames import Frames

AT_ONCE = 200_000  # atoms
STRAIGHT = 1e-5  # moments of inertia below this part of the largest belong to the axis of a straight molecule


def with_molecular_forces(beads: Frames, atoms: Frames, mapping: Mapping) -> Frames:
    r"""The bead frames with forces whose sum and torque over every molecule are those of its atoms, changed as little as possible:

    .. math:: F'_I=F_I+\tfrac1B\Delta F+\alpha\times(X_I-\bar X),\qquad \sum_I(X_I-\bar X)\times(\alpha\times(X_I-\bar X))=\Delta\tau

    with what the net force and the torque of the atoms have more. Of a torque along the axis of straight molecules, which does
    not move their beads, nothing is kept.

    Args:
        beads: ``mapping.apply(atoms)``. atoms: whole or wrapped, with forces in eV/A. mapping: of the molecules.

    Raises:
        ValueError: frames without forces, or that do not belong together.
    """
    if beads.forces is None or atoms.forces is None:
        raise ValueError("frames have no forces: there is nothing to take noise off")
    m, n, b = mapping.n_molecules, mapping.n_atoms, mapping.n_beads
    if len(beads) != len(atoms) or beads.n_atoms != m * b or atoms.n_atoms != m * n:
        raise ValueError(
            f"beads ({len(beads)} x {beads.n_atoms}) are not what the mapping makes of atoms ({len(atoms)} x {atoms.n_atoms}): "
            "give beads = mapping.apply(atoms)"
        )
    out = []
    for k in torch.arange(len(beads)).split(max(1, AT_ONCE // atoms.n_atoms)):
        x = atoms.positions[k] if atoms.cell is None else mapping.whole(atoms.positions[k], atoms.cell[k])
        fine = _Molecules(x, atoms.forces[k], m)
        coarse = _Molecules(mapping.positions(x), beads.forces[k], m)
        out.append((coarse.forces + _rigid(fine, coarse)).flatten(1, 2).to(beads.forces))
    note = {**beads.provenance, "molecular forces": "net force and torque of every molecule from its atoms"}
    return replace(beads, forces=torch.cat(out), provenance=note)


class _Molecules:
    """Positions and forces (F, M, n, 3) in double precision."""

    def __init__(self, x: Tensor, f: Tensor, molecules: int):
        self.x, self.forces = (v.double().unflatten(1, (molecules, -1)) for v in (x, f))

    def about(self, centre: Tensor) -> tuple[Tensor, Tensor]:
        """Net force and torque about the centres (F, M, 3), (F, M, 3) each."""
        arm = self.x - centre[:, :, None]
        return self.forces.sum(2), torch.linalg.cross(arm, self.forces).sum(2)


def _rigid(atoms: _Molecules, beads: _Molecules) -> Tensor:
    """(F, M, B, 3) smallest forces on the beads that add what net force and torque of the atoms have more."""
    centre = beads.x.mean(2)
    (force, torque), (mapped, turned) = atoms.about(centre), beads.about(centre)
    return _spread(beads.x - centre[:, :, None], force - mapped, torque - turned)


def rigid_part(x: Tensor, forces: Tensor, size: int) -> Tensor:
    r"""The part of bead forces (..., N, 3) that moves and turns molecules of ``size`` beads as they are: the orthogonal projection on

    .. math:: t+\alpha\times(X_I-\bar X)

    Args:
        x: (..., N, 3) positions in A, molecules whole, one after another.
    """
    arm, f = x.unflatten(-2, (-1, size)), forces.unflatten(-2, (-1, size))
    arm = arm - arm.mean(-2, keepdim=True)
    return _spread(arm, f.sum(-2), torch.linalg.cross(arm, f).sum(-2)).flatten(-3, -2)


def _spread(arm: Tensor, force: Tensor, torque: Tensor) -> Tensor:
    """(..., B, 3) smallest forces at ``arm`` (..., B, 3) from the centre with the given sum and torque (..., 3)."""
    alpha = (torch.linalg.pinv(_inertia(arm), rtol=STRAIGHT, hermitian=True) @ torque[..., None])[..., 0]
    return (force / arm.shape[-2])[..., None, :] + torch.linalg.cross(alpha[..., None, :].expand_as(arm), arm)


def _inertia(arm: Tensor) -> Tensor:
    """(..., 3, 3) of unit masses."""
    eye = torch.eye(3, dtype=arm.dtype, device=arm.device)
    return arm.square().sum((-2, -1))[..., None, None] * eye - arm.transpose(-1, -2) @ arm


@dataclass(frozen=True)
class InnerWeight:
    r"""Weights for force errors: within molecules of ``size`` beads they count ``share`` times as much as those of their rigid motions.

    .. math:: e\to Pe+s\,(1-P)e

    with the projection P of :func:`rigid_part`. Least squares with weights that depend on the beads alone has the mean force as its
    minimum as without, and less scatter where the noise within molecules is larger by 1/s (Aitken, Proc. R. Soc. Edinb. 55, 42 (1935)).
    """

    size: int
    share: float

    def __call__(self, x: Tensor, errors: Tensor) -> Tensor:
        """(..., N, 3) weighted errors at positions (..., N, 3)."""
        rigid = rigid_part(x, errors, self.size)
        return rigid + self.share * (errors - rigid)

    @staticmethod
    def of(x: Tensor, errors: Tensor, size: int) -> InnerWeight:
        """The share that makes the weighted errors (F, N, 3), per degree of freedom, as large within molecules as between; at most 1."""
        rigid = rigid_part(x, errors, size)
        arm = x.unflatten(-2, (-1, size))
        moments = torch.linalg.eigvalsh(_inertia(arm - arm.mean(-2, keepdim=True)))
        free = 3 * x.shape[0] * x.shape[1] // size + int((moments > STRAIGHT * moments[..., -1:]).sum())
        bound = 3 * x.shape[0] * x.shape[1] - free
        if bound <= 0:
            return InnerWeight(size, 1.0)
        outer, inner = float(rigid.square().sum()) / free, float((errors - rigid).square().sum()) / bound
        return InnerWeight(size, min(1.0, (outer / inner) ** 0.5) if inner > 0 else 1.0)
