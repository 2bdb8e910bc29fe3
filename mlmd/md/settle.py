"""Rigid three-site water in closed form: SETTLE (Miyamoto and Kollman, J. Comput. Chem. 13, 952 (1992))."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mlmd.md.constraints import MatrixShake, RigidBonds, Solver
from mlmd.system import System


@dataclass(frozen=True, eq=False)
class Settle:
    """Rigid water molecules, or any three particles of which the last two are alike.

    molecules: (W, 3) particles: oxygen, hydrogen, hydrogen. bond: O-H distance in A. base: H-H distance in A.
    """

    molecules: Tensor
    bond: float
    base: float

    def __post_init__(self) -> None:
        if self.molecules.ndim != 2 or self.molecules.shape[1] != 3:
            raise ValueError(f"molecules has shape {tuple(self.molecules.shape)}, expected (W, 3): oxygen, hydrogen, hydrogen")
        if not 0 < self.base < 2 * self.bond:
            raise ValueError(f"bond={self.bond}, base={self.base}: these three distances make no triangle")

    @property
    def bonds(self) -> RigidBonds:
        """The same molecules as three distances each."""
        o, h, g = self.molecules.unbind(1)
        pairs = torch.stack([torch.stack([o, h], 1), torch.stack([o, g], 1), torch.stack([h, g], 1)], 1)
        d = torch.tensor([self.bond, self.bond, self.base], dtype=torch.float64, device=pairs.device)
        return RigidBonds(pairs.reshape(-1, 2), d.repeat(len(self.molecules)))

    def solver(self, system: System) -> Solver:
        """The closed form for the masses of ``system``.

        Raises:
            ValueError: if the hydrogens of a molecule, or the molecules, differ in mass.
        """
        masses = system.masses.double()[self.molecules.to(system.batch.device)]
        if len(masses) and (bool((masses[:, 1:] != masses[:1, 1:2]).any()) or bool((masses[:, 0] != masses[0, 0]).any())):
            raise ValueError("molecules: all oxygens must have one mass and all hydrogens one; give others to RigidBonds")
        heavy, light = (float(masses[0, 0]), float(masses[0, 1])) if len(masses) else (1.0, 1.0)
        return _Settle(self.molecules.to(system.batch.device), _Triangle.of(self, heavy, light), MatrixShake.of(self.bonds, system))


@dataclass(frozen=True)
class _Triangle:
    """The rigid triangle about its centre of mass: distances along the axis, half the base, share of a hydrogen in the mass."""

    ra: float
    rb: float
    rc: float
    share: float

    @staticmethod
    def of(water: Settle, heavy: float, light: float) -> _Triangle:
        height = (water.bond**2 - water.base**2 / 4) ** 0.5
        share = light / (heavy + 2 * light)
        ra = 2 * share * height
        return _Triangle(ra, height - ra, water.base / 2, share)


@dataclass(frozen=True, eq=False)
class _Settle:
    molecules: Tensor
    triangle: _Triangle
    rattle: MatrixShake

    def displacement(self, before: Tensor, after: Tensor) -> Tensor:
        x, y = before.double()[self.molecules], after.double()[self.molecules]
        out = torch.zeros_like(after, dtype=torch.float64)
        out[self.molecules] = _settled(self.triangle, x, y) - y
        return out

    def projection(self, positions: Tensor, velocities: Tensor) -> Tensor:
        return self.rattle.projection(positions, velocities)


def _settled(t: _Triangle, x: Tensor, y: Tensor) -> Tensor:
    """Positions (W, 3, 3) of rigid triangles that were at ``x`` and drifted freely to ``y``; NaN where there are none.

    The symbols are those of the paper: phi, psi, theta turn the triangle from the frame of the old plane into place.
    """
    b0, c0 = x[:, 1] - x[:, 0], x[:, 2] - x[:, 0]
    centre = y[:, :1] + t.share * (y[:, 1:] - y[:, :1]).sum(1, keepdim=True)
    frame = _frame(torch.linalg.cross(b0, c0), y[:, 0] - centre[:, 0])
    b0, c0 = (frame @ b0[..., None])[..., 0], (frame @ c0[..., None])[..., 0]
    a1, b1, c1 = ((y - centre) @ frame.mT).unbind(1)

    sin_phi = a1[:, 2] / t.ra
    cos_phi = (1 - sin_phi**2).sqrt()
    sin_psi = (b1[:, 2] - c1[:, 2]) / (2 * t.rc * cos_phi)
    cos_psi = (1 - sin_psi**2).sqrt()
    ya, xb = t.ra * cos_phi, -t.rc * cos_psi
    yb, yc = (-t.rb * cos_phi - sign * t.rc * sin_psi * sin_phi for sign in (1, -1))

    alpha = xb * (b0[:, 0] - c0[:, 0]) + b0[:, 1] * yb + c0[:, 1] * yc
    beta = xb * (c0[:, 1] - b0[:, 1]) + b0[:, 0] * yb + c0[:, 0] * yc
    gamma = b0[:, 0] * b1[:, 1] - b1[:, 0] * b0[:, 1] + c0[:, 0] * c1[:, 1] - c1[:, 0] * c0[:, 1]
    square = alpha**2 + beta**2
    sin = (alpha * gamma - beta * (square - gamma**2).sqrt()) / square
    cos = (1 - sin**2).sqrt()

    a = torch.stack([-ya * sin, ya * cos, a1[:, 2]], -1)
    b = torch.stack([xb * cos - yb * sin, xb * sin + yb * cos, b1[:, 2]], -1)
    c = torch.stack([-xb * cos - yc * sin, -xb * sin + yc * cos, c1[:, 2]], -1)
    return centre + torch.stack([a, b, c], 1) @ frame


def _frame(normal: Tensor, a: Tensor) -> Tensor:
    """Rows X', Y', Z' (W, 3, 3): Z' along the old normal, Y'Z' the plane that also holds the oxygen."""
    xs = torch.linalg.cross(a, normal)
    ys = torch.linalg.cross(normal, xs)
    return torch.nn.functional.normalize(torch.stack([xs, ys, normal], 1), dim=-1)
