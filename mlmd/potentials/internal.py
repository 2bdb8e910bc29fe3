"""Internal coordinates of molecules: distances, angles and signed dihedrals, with their gradients in closed form.

A template of n beads is applied to every molecule of a batch: the same code serves one molecule, a thousand replicas of it,
and a liquid of equal molecules. Arrays are laid out (component, coordinate, molecule), so that every operation runs over
contiguous molecules.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mlmd.store import configurable

SMALL = 1e-6  # squared-sine floor: the gradient of an angle has no limit at 0 and pi


@dataclass(frozen=True, eq=False)
class Geometry:
    """Values of all coordinates of M molecules and their gradients with respect to the beads that define them.

    values: distances (P, M), angles (A, M), dihedrals (D, M); gradients: per defining bead (3, K, M).
    """

    distances: Tensor
    angles: Tensor
    dihedrals: Tensor
    gradients: dict[str, list[Tensor]]

    def __getitem__(self, molecules: Tensor) -> Geometry:
        cut = {k: [g[..., molecules] for g in v] for k, v in self.gradients.items()}
        return Geometry(self.distances[:, molecules], self.angles[:, molecules], self.dihedrals[:, molecules], cut)


@configurable
class InternalCoordinates(nn.Module):
    """Distances r, angles theta in [0, pi] and dihedrals phi in (-pi, pi] (IUPAC sign) of a molecule of ``size`` beads.

    Args:
        size: beads per molecule.
        pairs: (P, 2), triples: (A, 3) with the apex in the middle, quads: (D, 4).
    """

    pairs: Tensor
    triples: Tensor
    quads: Tensor

    def __init__(self, size: int, pairs: Tensor, triples: Tensor | None = None, quads: Tensor | None = None):
        super().__init__()
        self.size = size
        for name, index, width in (("pairs", pairs, 2), ("triples", triples, 3), ("quads", quads, 4)):
            index = torch.zeros(0, width) if index is None else torch.as_tensor(index)
            index = index.reshape(-1, width).long()
            if len(index) and (int(index.max()) >= size or int(index.min()) < 0):
                raise ValueError(f"{name} refer to bead {int(index.max())}, but the molecule has beads 0 to {size - 1}")
            self.register_buffer(name, index)

    def molecules(self, positions: Tensor) -> Tensor:
        """(3, n, M) view of flat positions (N, 3), N a multiple of n."""
        if len(positions) % self.size:
            raise ValueError(f"{len(positions)} beads are no multiple of the {self.size} beads of the molecule template")
        return positions.reshape(-1, self.size, 3).permute(2, 1, 0).contiguous()

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values only, differentiable any number of times: (P, M), (A, M), (D, M)."""
        x = self.molecules(positions)
        d = _between(x, self.pairs[:, 0], self.pairs[:, 1])
        u, v = _between(x, self.triples[:, 1], self.triples[:, 0]), _between(x, self.triples[:, 1], self.triples[:, 2])
        b1, b2, b3 = (_between(x, self.quads[:, k], self.quads[:, k + 1]) for k in range(3))
        n1, n2 = torch.linalg.cross(b1, b2, dim=0), torch.linalg.cross(b2, b3, dim=0)
        sine = torch.linalg.cross(u, v, dim=0).square().sum(0)
        theta = torch.atan2((sine + SMALL * 1e-3).sqrt(), (u * v).sum(0))
        phi = torch.atan2(b2.square().sum(0).sqrt() * (b1 * n2).sum(0), (n1 * n2).sum(0))
        return d.square().sum(0).sqrt(), theta, phi

    def geometry(self, positions: Tensor) -> Geometry:
        r"""Values and gradients, for use without autograd.

        .. math:: \partial r/\partial x_j = \hat d,\quad
            \partial\theta/\partial x_i = (\hat u\cos\theta-\hat v)/(|u|\sin\theta),\quad
            \partial\phi/\partial x_i = -|b_2|\,n_1/n_1^2,\ \partial\phi/\partial x_l = |b_2|\,n_2/n_2^2

        (Blondel and Karplus 1996, eq. 27 for the inner beads of a dihedral).
        """
        x = self.molecules(positions.detach())
        d = _between(x, self.pairs[:, 0], self.pairs[:, 1])
        r = d.square().sum(0).sqrt()
        unit = d / r
        theta, angle_gradients = self._angle(x)
        phi, dihedral_gradients = self._dihedral(x)
        gradients = {"distances": [-unit, unit], "angles": angle_gradients, "dihedrals": dihedral_gradients}
        return Geometry(r, theta, phi, gradients)

    def _angle(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        if not len(self.triples):
            return x.new_zeros(0, x.shape[2]), []
        u, v = _between(x, self.triples[:, 1], self.triples[:, 0]), _between(x, self.triples[:, 1], self.triples[:, 2])
        lu, lv = u.square().sum(0).sqrt(), v.square().sum(0).sqrt()
        u, v = u / lu, v / lv
        cosine = (u * v).sum(0).clamp(-1, 1)
        sine = (1 - cosine.square()).clamp(min=SMALL).sqrt()
        gi, gk = (u * cosine - v) / (lu * sine), (v * cosine - u) / (lv * sine)
        return torch.atan2(sine, cosine), [gi, -gi - gk, gk]

    def _dihedral(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        if not len(self.quads):
            return x.new_zeros(0, x.shape[2]), []
        b1, b2, b3 = (_between(x, self.quads[:, k], self.quads[:, k + 1]) for k in range(3))
        n1, n2 = torch.linalg.cross(b1, b2, dim=0), torch.linalg.cross(b2, b3, dim=0)
        square = b2.square().sum(0)
        length = square.sqrt()
        phi = torch.atan2(length * (b1 * n2).sum(0), (n1 * n2).sum(0))
        gi = -n1 * (length / n1.square().sum(0).clamp(min=SMALL))
        gl = n2 * (length / n2.square().sum(0).clamp(min=SMALL))
        t, s = (b1 * b2).sum(0) / square, (b3 * b2).sum(0) / square
        gj = -(1 + t) * gi + s * gl
        return phi, [gi, gj, -gi - gj - gl, gl]

    def pull_back(self, geometry: Geometry, slopes: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Gradient with respect to positions, (N, 3), from dE/dr (P, M), dE/dtheta (A, M), dE/dphi (D, M); linear in them."""
        molecules = geometry.distances.shape[1]
        out = geometry.distances.new_zeros(3, self.size, molecules)
        for name, index, slope in zip(("distances", "angles", "dihedrals"), (self.pairs, self.triples, self.quads), slopes):
            for k, gradient in enumerate(geometry.gradients[name]):
                out.index_add_(1, index[:, k], gradient * slope)
        return out.permute(2, 1, 0).reshape(-1, 3)


def _between(x: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return x.index_select(1, j) - x.index_select(1, i)
