r"""Message passing where every particle of a molecule sees every other: sums over neighbours as products of matrices.

With filters that are linear in a basis of the distance, :math:`W_c(r)=\sum_kw_{kc}g_k(r)`, the sum of messages is

.. math:: \sum_jW_c(r_{ij})\,h_{jc}=\sum_{(k,j)}g_k(r_{ij})\,(w_{kc}h_{jc}),

one product of an n x (K m) by a (K m) x C matrix per structure: no array of edges times channels is ever made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mlmd.nn.radial import BesselBasis, CosineEnvelope


@dataclass(frozen=True, eq=False)
class Geometry:
    """Distances and directions from m particles j to n particles i, of S structures.

    basis (S, n, K m): g_k(r_ij), zero beyond the cutoff and for a particle with itself; turned (S, 3 n, K m): times the unit vector from
    i to j.
    """

    basis: Tensor
    turned: Tensor


class Radial(nn.Module):
    """K Bessel functions within an envelope that ends them smoothly at the cutoff in A."""

    def __init__(self, cutoff: float, size: int = 8):
        super().__init__()
        self.size = size
        self.basis, self.envelope = BesselBasis(cutoff, size), CosineEnvelope(cutoff)

    def forward(self, at: Tensor, of: Tensor, mask: Tensor | None = None) -> Geometry:
        """Geometry of the particles ``of`` (S, m, 3) seen from ``at`` (S, n, 3); mask (n, m): 1 where there is a message."""
        d = of[:, None] - at[:, :, None]
        r = (d.square().sum(-1) + 1e-12).sqrt()
        S, n, m = r.shape
        g = (self.basis(r.reshape(-1)) * self.envelope(r.reshape(-1))[:, None]).reshape(S, n, m, self.size)
        if mask is not None:
            g = g * mask.to(g)[..., None]
        g = g.transpose(2, 3)  # S n K m
        unit = (d / r[..., None]).permute(0, 3, 1, 2)  # S 3 n m
        turned = g[:, None] * unit[:, :, :, None]
        return Geometry(g.reshape(S, n, -1), turned.reshape(S, 3 * n, -1))


def others(n: int) -> Tensor:
    """(n, n) mask of all pairs of different particles."""
    return 1.0 - torch.eye(n)


class Filters(nn.Module):
    """The weights w (K, C) of C filters."""

    def __init__(self, size: int, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, channels) / math.sqrt(size))

    def forward(self, sent: Tensor) -> Tensor:
        """Senders (S, m, ..., C) times every filter, (S, K m, ... C): what a basis is multiplied with."""
        K, C = self.weight.shape
        w = self.weight.view(1, K, *(1,) * (sent.ndim - 2), C)
        return (sent[:, None] * w).reshape(sent.shape[0], K * sent.shape[1], -1)


def gathered(geometry: Geometry, filtered: Tensor) -> Tensor:
    """(S, n, C) sums over all senders of filtered messages (S, K m, C)."""
    return torch.bmm(geometry.basis, filtered)


def gathered_along(geometry: Geometry, filtered: Tensor) -> Tensor:
    """(S, n, 3, C) the same, each times the unit vector to its sender."""
    S, n = geometry.basis.shape[:2]
    return torch.bmm(geometry.turned, filtered).reshape(S, 3, n, -1).transpose(1, 2)


def mlp(n_in: int, hidden: int, n_out: int) -> nn.Sequential:
    """Two layers with SiLU between."""
    return nn.Sequential(nn.Linear(n_in, hidden), nn.SiLU(), nn.Linear(hidden, n_out))


class Update(nn.Module):
    """Scalars (S, n, F) and vectors (S, n, 3, F) of one particle mix (PaiNN, eq. 9 and 10); returns what is to be added."""

    def __init__(self, features: int):
        super().__init__()
        self.mixing = nn.Linear(features, 2 * features, bias=False)
        self.weights = mlp(2 * features, features, 3 * features)

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        Uv, Vv = self.mixing(v).chunk(2, -1)
        norm = (Vv.square().sum(2) + 1e-8).sqrt()
        a, b, c = self.weights(torch.cat([s, norm], -1)).chunk(3, -1)
        return b * (Uv * Vv).sum(2) + c, a[:, :, None] * Uv


class Interaction(nn.Module):
    """Messages of scalars and vectors (PaiNN, eq. 7 and 8), from m particles to n."""

    def __init__(self, features: int, size: int):
        super().__init__()
        self.message = mlp(features, features, 3 * features)
        self.filters = nn.ModuleList(Filters(size, features) for _ in range(3))

    def forward(self, geometry: Geometry, s: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor]:
        """(S, n, F) and (S, n, 3, F) that arrive from senders s (S, m, F), v (S, m, 3, F); v None is zero."""
        a, b, c = self.message(s).chunk(3, -1)
        ds = gathered(geometry, self.filters[0](b))
        dv = gathered_along(geometry, self.filters[1](c))
        if v is not None:
            S, n, F = ds.shape
            dv = dv + gathered(geometry, self.filters[2](a[:, :, None] * v)).reshape(S, n, 3, F)
        return ds, dv
