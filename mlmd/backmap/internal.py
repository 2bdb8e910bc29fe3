"""A decoder that predicts internal coordinates, so that bond lengths within beads are right by construction."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mlmd.backmap.cgvae import Trunk, invariants
from mlmd.backmap.molecule import Molecule
from mlmd.backmap.zmatrix import Skeleton, place

STRETCH = 0.1  # largest deviation of ln(length) from its mean: bonds vibrate by 2 to 3 %


class InternalDecoder(nn.Module):
    """Lengths, angles and dihedrals of every atom from the invariants of its bead; then placed, and shifted so that M x = X.

    Lengths are those of the reference, times a factor within 10 %; angles and dihedrals are a unit vector, so that nothing jumps where an
    angle wraps.

    Args:
        skeleton: the order of placement, and mean lengths and directions of the reference.
    """

    index: Tensor
    bead: Tensor
    length: Tensor
    direction: Tensor

    def __init__(self, molecule: Molecule, trunk: Trunk, features: int, skeleton: Skeleton, *, n_kinds: int, n_slots: int):
        super().__init__()
        self.trunk, self.molecule, self.z = trunk, molecule, skeleton.z
        z = skeleton.z
        self.register_buffer("length", skeleton.length)
        self.register_buffer("direction", skeleton.direction)
        self.register_buffer("bead", molecule.owner[z.atoms])
        self.register_buffer("index", molecule.kinds[self.bead] * n_slots + molecule.slots[z.atoms])
        self.hidden = nn.Sequential(
            nn.Linear(5 * features, 2 * features), nn.SiLU(), nn.Linear(2 * features, 2 * features), nn.SiLU()
        )
        self.weights = nn.Embedding(n_kinds * n_slots, 8 * features)
        nn.init.normal_(self.weights.weight, std=0.3 * (2 * features) ** -0.5)

    def forward(self, z: Tensor, X: Tensor) -> Tensor:
        """(S, N, 3)."""
        h = self.hidden(invariants(self.trunk(z, X))).index_select(1, self.bead)
        w = self.weights(self.index).reshape(len(self.index), -1, 4)
        out = torch.einsum("snf,nfc->snc", h, w)
        length = (self.length + STRETCH * torch.tanh(out[..., 0])).exp()
        direction = nn.functional.normalize(self.direction + out[..., 1:], dim=-1, eps=1e-6)
        return self.molecule.onto(place(X, self.z, length, direction), X)
