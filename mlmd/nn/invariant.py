"""A small network on the internal coordinates of one molecule: the fast choice for molecules of a few beads."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from mlmd.potentials.bonded import Law, Values
from mlmd.store import configurable


@configurable
class InvariantNet(Law):
    r"""Multilayer perceptron on standardised invariants of a molecule, in the manner of CGnet (Wang et al. 2019).

    Features: all distances r; cos(theta); and for every dihedral
    :math:`\sin\theta_1\sin\theta_2\cos\phi` and :math:`\sin\theta_1\sin\theta_2\sin\phi`, where theta_1 and theta_2 are the two
    angles of its beads. The last one is a triple product of unit bond vectors: it changes sign under reflection, so that
    handedness can be learned, and stays smooth when three beads align.

    Args:
        n_distances, n_angles: numbers of coordinates of the molecule.
        angle_rows: (D, 2) rows of the two angles of the first D dihedrals; further dihedrals (impropers) are not used.
        width, depth: neurons per hidden layer, number of hidden layers.
    """

    angle_rows: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, n_distances: int, n_angles: int, angle_rows: Tensor, *, width: int = 128, depth: int = 3):
        super().__init__()
        angle_rows = torch.as_tensor(angle_rows).long().reshape(-1, 2)
        n = n_distances + n_angles + 2 * len(angle_rows)
        sizes = [n] + [width] * depth
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.out = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.out.weight)  # training starts from the prior alone
        self.register_buffer("angle_rows", angle_rows)
        self.register_buffer("mean", torch.zeros(n, 1))
        self.register_buffer("scale", torch.ones(n, 1))

    def features(self, distances: Tensor, angles: Tensor, dihedrals: Tensor) -> Tensor:
        """(features, M), not yet standardised."""
        weight = angles.sin()
        weight = weight.index_select(0, self.angle_rows[:, 0]) * weight.index_select(0, self.angle_rows[:, 1])
        proper = dihedrals[: len(self.angle_rows)]
        return torch.cat([distances, angles.cos(), weight * proper.cos(), weight * proper.sin()])

    @torch.no_grad()
    def standardise(self, distances: Tensor, angles: Tensor, dihedrals: Tensor) -> None:
        """Set the features' mean and standard deviation from data."""
        f = self.features(distances, angles, dihedrals)
        self.mean.copy_(f.mean(1, keepdim=True))
        self.scale.copy_(f.std(1, keepdim=True).clamp(min=1e-3))

    def forward(self, distances: Tensor, angles: Tensor, dihedrals: Tensor) -> Tensor:
        h = ((self.features(distances, angles, dihedrals) - self.mean) / self.scale).T
        for layer in self.hidden:
            h = torch.tanh(layer(h))
        return self.out(h)[:, 0]

    def add_slopes(self, values: Values, slopes: Values) -> Tensor:
        """Back-propagation written out: about half the cost of the autograd engine for networks this small."""
        distances, angles, dihedrals = values
        h = ((self.features(*values) - self.mean) / self.scale).T
        activations = []
        for layer in self.hidden:
            h = torch.tanh(layer(h))
            activations.append(h)
        g = self.out.weight.expand(len(h), -1)
        for layer, h in zip(reversed(self.hidden), reversed(activations)):
            g = (g - g * h * h) @ layer.weight  # type: ignore[operator]
        g = g.T / self.scale
        p, a, d = len(distances), len(angles), len(self.angle_rows)
        dr, dcos, dc, ds = g.split([p, a, d, d])
        slopes[0].add_(dr)
        sine, proper = angles.sin(), dihedrals[:d]
        slopes[1].addcmul_(dcos, sine, value=-1)
        if d:
            first, second = self.angle_rows.unbind(1)
            s1, s2, cos, sin = sine[first], sine[second], proper.cos(), proper.sin()
            weight_slope = dc * cos + ds * sin
            slopes[1].index_add_(0, first, weight_slope * s2 * angles[first].cos())
            slopes[1].index_add_(0, second, weight_slope * s1 * angles[second].cos())
            slopes[2][:d].addcmul_(s1 * s2, ds * cos - dc * sin)
        return self.out(activations[-1])[:, 0]
