"""Backmapping without chance: linear decoders, the measure of what networks add."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from mlmd.backmap.molecule import Molecule
from mlmd.cg.autoencoder import linear_decoder
from mlmd.cg.mapping import Mapping
from mlmd.frames import Frames


class LinearBackmapper:
    r"""x = D X with the least-squares D whose rows sum to one, so that atoms move with the beads (Wang and Gomez-Bombarelli 2019).

    D is the best of all linear maps, :math:`D=SM^T(MSM^T)^+` of the centred second moments S; bonds are shortened wherever beads do
    not decide.
    """

    def fit(self, frames: Frames, mapping: Mapping) -> LinearBackmapper:
        """Solve for D on atomistic frames.

        Raises:
            ValueError: as :meth:`Molecule.of`.
        """
        self.molecule = Molecule.of(frames, mapping)
        self.decoder = linear_decoder(mapping, frames).float()
        return self

    def sample(self, beads: Frames | Tensor, n: int = 1, *, seed: int = 0) -> Tensor:
        """(n, F, atoms, 3): the same structure n times."""
        X = self.molecule.beads_of(beads) if isinstance(beads, Frames) else beads.float()
        frames = len(beads) if isinstance(beads, Frames) else len(X)
        return (self.decoder @ X).reshape(1, frames, -1, 3).expand(n, -1, -1, -1)


class EquivariantLinearBackmapper:
    r"""Atoms as fixed mixtures of vectors that turn with the beads,
    :math:`x_a=X_I+\sum_{J,K}(\alpha_{aJ}\,d_{IJ}+\beta_{aJK}\,d_{IJ}\times d_{IK})`, from the beads J, K nearest to the bead I of the atom; shifted
    with their bead so that M x = X.

    The cross products give what lies outside the plane of the beads its hand. Ridge least squares.

    Args:
        nearest: beads besides its own that an atom sees. ridge: relative to the mean square of the vectors.
    """

    def __init__(self, nearest: int = 8, ridge: float = 1e-4):
        self.nearest, self.ridge = nearest, ridge

    def fit(self, frames: Frames, mapping: Mapping) -> EquivariantLinearBackmapper:
        """Solve for all coefficients on atomistic frames.

        Raises:
            ValueError: as :meth:`Molecule.of`.
        """
        self.molecule = Molecule.of(frames, mapping)
        x = self.molecule.atoms_of(frames).double()
        X = self.molecule.beads(x)
        near = (X[:, None] - X[:, :, None]).norm(dim=-1).mean(0).argsort(dim=1)
        self.near = near[:, 1 : self.nearest + 1]
        self.coefficients = []
        for bead, atoms in enumerate(self.molecule.members):
            v = self._vectors(X, bead)
            normal = torch.einsum("fvd,fwd->vw", v, v)
            normal = normal + self.ridge * normal.diagonal().mean() * torch.eye(len(normal), dtype=normal.dtype)
            wanted = torch.einsum("fvd,fad->va", v, x[:, atoms] - X[:, bead : bead + 1])
            self.coefficients.append(torch.linalg.solve(normal, wanted).float())
        return self

    def _vectors(self, X: Tensor, bead: int) -> Tensor:
        """(F, V, 3)."""
        d = X[:, self.near[bead]] - X[:, bead : bead + 1]
        pairs = list(combinations(range(d.shape[1]), 2))
        if not pairs:
            return d
        i, j = torch.tensor(pairs).T
        return torch.cat([d, torch.linalg.cross(d[:, i], d[:, j], dim=-1)], 1)

    def sample(self, beads: Frames | Tensor, n: int = 1, *, seed: int = 0) -> Tensor:
        """(n, F, atoms, 3): the same structure n times."""
        X = self.molecule.beads_of(beads) if isinstance(beads, Frames) else beads.float()
        frames = len(beads) if isinstance(beads, Frames) else len(X)
        x = X.index_select(1, self.molecule.owner)
        for bead, (atoms, c) in enumerate(zip(self.molecule.members, self.coefficients, strict=True)):
            x[:, atoms] += torch.einsum("fvd,va->fad", self._vectors(X, bead), c)
        return self.molecule.onto(x, X).reshape(1, frames, -1, 3).expand(n, -1, -1, -1)
