"""Three-body potentials of Stillinger and Weber's form, in sums over neighbours alone, and monatomic water."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mlmd import jit, units
from mlmd.neighbors.pairs import Pairs, length
from mlmd.potentials.accelerated_bonded import NUMPY
from mlmd.potentials.compose import Potential, Sum, in_closed_form, need_pairs
from mlmd.potentials.pair import CORE, PairPotential
from mlmd.segment import segment_sum
from mlmd.store import configurable
from mlmd.system import System

NARROWEST = 1e-6  # A; distances nearer to the cutoff count as at it, where everything vanishes


@configurable
class StillingerWeberPair(PairPotential):
    r"""Phys. Rev. B 31, 5262 (1985): :math:`u(r)=A\epsilon\left[B(\sigma/r)^4-1\right]e^{\sigma/(r-a\sigma)}`, zero from
    :math:`a\sigma` on with all derivatives.

    Args:
        epsilon: eV. sigma: A. a: cutoff in units of sigma. A, B: of the shape, without unit.
    """

    def __init__(self, epsilon: float, sigma: float, a: float = 1.8, A: float = 7.049556277, B: float = 0.6022245584):
        super().__init__(a * sigma, a * sigma)
        self.epsilon, self.sigma, self.A, self.B = float(epsilon), float(sigma), float(A), float(B)

    def pair(self, r: Tensor, zi: Tensor, zj: Tensor) -> Tensor:
        """u(r), (P,), in eV."""
        gap = (self.cutoff - r).clamp(min=NARROWEST)
        return self.A * self.epsilon * (self.B * (self.sigma / r) ** 4 - 1.0) * torch.exp(-self.sigma / gap)


@configurable
class StillingerWeberAngles(Potential):
    r"""Three-body energies of every particle and two of its neighbours, in K channels:

    .. math:: U=\sum_i\sum_{j<k}\sum_nf_n(r_{ij})\,f_n(r_{ik})\left[c_{n0}+c_{n1}\cos\theta_{jik}+c_{n2}\cos^2\theta_{jik}\right],
        \qquad f_n(r)=e^{\gamma_n/(r-r_c)-\gamma_n/(r_1-r_c)}

    One channel with :math:`c=\lambda\epsilon f^2(\cos^2\theta_0,-2\cos\theta_0,1)` is the term of Stillinger and Weber, Phys. Rev. B 31,
    5262 (1985). A cosine is a scalar product, so the sum over pairs of neighbours is that of squared moments,
    :math:`\tfrac12[c_2\,Q_i\!:\!Q_i+c_1P_i\!\cdot\!P_i+c_0S_i^2]` with :math:`S=\sum_jf`, :math:`P=\sum_jf\,\hat r`,
    :math:`Q=\sum_jf\,\hat r\hat r^T`, less the terms j = k: the cost is linear in the number of neighbours. Particles of all types are alike.

    Args:
        coefficients: (K, 3) c in eV, the energy of a triplet with both neighbours at ``r_unit``. decay: (K,) gamma in A.
        cutoff: r_c in A. r_unit: r_1 in A, where f is 1; it serves to give coefficients a natural size.

    Raises:
        ValueError: for other shapes, decays that are not positive, or r_unit not between 0 and the cutoff.
    """

    def __init__(
        self, coefficients: Sequence[Sequence[float]] | Tensor, decay: Sequence[float] | Tensor, cutoff: float, r_unit: float
    ):
        super().__init__()
        c, gamma = (torch.as_tensor(v, dtype=torch.float64).clone() for v in (coefficients, decay))
        if gamma.ndim != 1 or tuple(c.shape) != (len(gamma), 3):
            raise ValueError(f"coefficients has shape {tuple(c.shape)} and decay {tuple(gamma.shape)}: expected (K, 3) and (K,)")
        if not bool((gamma > 0).all()):
            raise ValueError(f"decay={gamma.tolist()}: must be positive, in A, else neighbours leave the cutoff with a jump")
        if not 0 < r_unit < cutoff:
            raise ValueError(f"r_unit={r_unit}: must lie between 0 and cutoff={cutoff} A")
        self.cutoff, self.r_unit = float(cutoff), float(r_unit)
        self.coefficients, self.decay = nn.Parameter(c), nn.Parameter(gamma)

    def forward(self, system: System, pairs: Pairs | None) -> Tensor:
        """Energy of every system, (S,), in eV."""
        pairs = need_pairs(pairs, self)
        i, d = pairs.index[0], pairs.vectors(system)
        r = length(d)
        if not torch.compiler.is_compiling():  # a list with a skin is half as long again
            inside = (r < self.cutoff).nonzero()[:, 0]
            i, d, r = i[inside], d[inside], r[inside]
        f, c = self._f(r), self.coefficients.to(r.dtype)
        u = d / r.clamp(min=CORE)[:, None]
        products = (u[:, :, None] * u[:, None, :]).reshape(-1, 9)
        per_pair = torch.cat([torch.ones_like(r)[:, None], u, products], 1)
        moments = segment_sum((f[:, :, None] * per_pair[:, None]).flatten(1), i, len(system)).reshape(len(system), -1, 13)
        squared = moments.square()
        pieces = torch.stack([squared[..., 0], squared[..., 1:4].sum(-1), squared[..., 4:].sum(-1)], -1)
        itself = segment_sum((f.square() * c.sum(1)).sum(1), i, len(system))
        return segment_sum(0.5 * ((pieces * c).sum((1, 2)) - itself), system.batch, system.n_systems)

    def _f(self, r: Tensor) -> Tensor:
        """(P, K) f_n at distances (P,)."""
        gap = (self.cutoff - r).clamp(min=NARROWEST)
        inside = 1.0 / (self.cutoff - self.r_unit) - 1.0 / gap
        f = torch.exp(inside[:, None] * self.decay.to(r.dtype))
        return f * (r < self.cutoff)[:, None]

    def analytic(self, system: System, pairs: Pairs | None) -> tuple[Tensor, Tensor]:
        """Energy (S,) and forces (N, 3) without a graph, by a compiled loop over every pair once on a CPU with numba."""
        pairs, x = need_pairs(pairs, self), system.positions.detach()
        if torch.compiler.is_compiling() or x.is_cuda or x.dtype not in NUMPY or not jit.available():
            return in_closed_form(self.forward, system, pairs)
        rows = pairs.rows
        kind: type = NUMPY[x.dtype].type
        energy = np.zeros(system.n_systems)
        forces: NDArray[Any] = np.zeros((len(x), 3), kind)
        _sum_triplets(
            x.contiguous().numpy(), system.batch.numpy(), system.cell.detach().contiguous().numpy(),
            rows.start, rows.sender, rows.parent, rows.image,
            self.coefficients.detach().cpu().numpy().astype(kind), self.decay.detach().cpu().numpy().astype(kind),
            kind(self.cutoff), kind(1.0 / (self.cutoff - self.r_unit)), kind(NARROWEST), kind(CORE), energy, forces,
        )  # fmt: skip
        return torch.from_numpy(energy.astype(kind)), torch.from_numpy(forces)


def stillinger_weber(
    epsilon: float, sigma: float, strength: float, cos0: float, gamma: float = 1.2, a: float = 1.8, r_unit: float | None = None
) -> Sum:
    r"""The whole potential of Stillinger and Weber, its three-body term :math:`\lambda\epsilon(\cos\theta-\cos\theta_0)^2`.

    Args:
        epsilon: eV. sigma: A. strength: lambda. cos0: cosine of the preferred angle. gamma, a: in units of sigma.
        r_unit: see :class:`StillingerWeberAngles`; default: 2^(1/6) sigma, the minimum of the pair term.
    """
    cutoff = a * sigma
    r_unit = 2 ** (1 / 6) * sigma if r_unit is None else r_unit
    c = strength * epsilon * float(np.exp(2 * gamma * sigma / (r_unit - cutoff)))
    angles = StillingerWeberAngles([[c * cos0**2, -2 * c * cos0, c]], [gamma * sigma], cutoff, r_unit)
    return Sum(StillingerWeberPair(epsilon, sigma, a), angles)


def monatomic_water() -> Sum:
    """The mW model of Molinero and Moore, J. Phys. Chem. B 113, 4008 (2009): liquid water as one particle per molecule."""
    return stillinger_weber(6.189 * units.kcal_mol, 2.3925, 23.15, -1 / 3)


@jit.jit
def _sum_triplets(
    x, batch, cell, start, sender, parent, image, c, decay, cutoff, unit, narrowest, core, energy, forces
):  # fmt: skip
    """Moments of all particles from all pairs, then the derivative of their squares along every pair."""
    n, K, one = len(x), len(decay), x.dtype.type(1)
    at = np.empty((len(parent), 3), x.dtype)
    for k in range(len(parent)):
        j = parent[k]
        box = cell[batch[j]]
        for d in range(3):
            at[k, d] = x[j, d] + image[k, 0] * box[0, d] + image[k, 1] * box[1, d] + image[k, 2] * box[2, d]
    total = 0
    for i in range(len(start) - 1):
        for p in range(start[i], start[i + 1]):
            k = sender[p]
            dx, dy, dz = at[k, 0] - at[i, 0], at[k, 1] - at[i, 1], at[k, 2] - at[i, 2]
            total += dx * dx + dy * dy + dz * dz < cutoff * cutoff
    receivers, senders = np.empty(total, np.int32), np.empty(total, np.int32)
    unit_vectors, gaps, f = np.empty((total, 4), x.dtype), np.empty(total, x.dtype), np.empty((total, K), x.dtype)
    m = np.zeros((n, K, 10), x.dtype)  # S, P, and xx, yy, zz, xy, xz, yz of Q
    q = 0
    for i in range(len(start) - 1):
        for p in range(start[i], start[i + 1]):
            k = sender[p]
            dx, dy, dz = at[k, 0] - at[i, 0], at[k, 1] - at[i, 1], at[k, 2] - at[i, 2]
            s = dx * dx + dy * dy + dz * dz
            if s >= cutoff * cutoff:
                continue
            j = parent[k]
            r = np.sqrt(s)
            safe = max(r, core)
            ux, uy, uz = dx / safe, dy / safe, dz / safe
            gap = max(cutoff - r, narrowest)
            receivers[q], senders[q], gaps[q] = i, j, gap
            unit_vectors[q, 0], unit_vectors[q, 1], unit_vectors[q, 2], unit_vectors[q, 3] = ux, uy, uz, safe
            for h in range(K):
                w = np.exp(decay[h] * (unit - one / gap))
                f[q, h] = w
                for end, sign in ((np.int64(i), one), (np.int64(j), -one)):
                    a = m[end, h]
                    a[0] += w
                    a[1] += sign * w * ux
                    a[2] += sign * w * uy
                    a[3] += sign * w * uz
                    a[4] += w * ux * ux
                    a[5] += w * uy * uy
                    a[6] += w * uz * uz
                    a[7] += w * ux * uy
                    a[8] += w * ux * uz
                    a[9] += w * uy * uz
            q += 1
    for i in range(n):
        for h in range(K):
            a = m[i, h]
            square = a[4] * a[4] + a[5] * a[5] + a[6] * a[6] + 2 * (a[7] * a[7] + a[8] * a[8] + a[9] * a[9])
            energy[batch[i]] += 0.5 * (
                c[h, 0] * a[0] * a[0] + c[h, 1] * (a[1] * a[1] + a[2] * a[2] + a[3] * a[3]) + c[h, 2] * square
            )
    for q in range(total):
        i, j = receivers[q], senders[q]
        ux, uy, uz, r = unit_vectors[q, 0], unit_vectors[q, 1], unit_vectors[q, 2], unit_vectors[q, 3]
        gx = gy = gz = x.dtype.type(0)
        for h in range(K):
            w, a, b = f[q, h], m[i, h], m[j, h]
            slope = -decay[h] / (gaps[q] * gaps[q]) * w
            c0, c1, c2 = c[h, 0], c[h, 1], c[h, 2]
            px, py, pz = a[1] - b[1], a[2] - b[2], a[3] - b[3]
            xx, yy, zz, xy, xz, yz = a[4] + b[4], a[5] + b[5], a[6] + b[6], a[7] + b[7], a[8] + b[8], a[9] + b[9]
            qx, qy, qz = xx * ux + xy * uy + xz * uz, xy * ux + yy * uy + yz * uz, xz * ux + yz * uy + zz * uz
            along_p, along_q = px * ux + py * uy + pz * uz, qx * ux + qy * uy + qz * uz
            energy[batch[i]] -= (c0 + c1 + c2) * w * w
            radial = slope * (c0 * (a[0] + b[0]) + c1 * along_p + c2 * along_q - 2 * (c0 + c1 + c2) * w)
            radial -= w / r * (c1 * along_p + 2 * c2 * along_q)
            gx += radial * ux + w / r * (c1 * px + 2 * c2 * qx)
            gy += radial * uy + w / r * (c1 * py + 2 * c2 * qy)
            gz += radial * uz + w / r * (c1 * pz + 2 * c2 * qz)
        forces[i, 0] += gx
        forces[i, 1] += gy
        forces[i, 2] += gz
        forces[j, 0] -= gx
        forces[j, 1] -= gy
        forces[j, 2] -= gz
