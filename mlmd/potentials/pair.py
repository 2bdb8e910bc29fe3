"""Pair potentials: a law says u(r); the base class sums it, cuts it off smoothly and differentiates it."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mlmd.cell import completed
from mlmd.neighbors.pairs import Pairs
from mlmd.neighbors.rows import RowPairs
from mlmd.potentials.compose import Potential, in_closed_form, need_pairs
from mlmd.segment import segment_sum
from mlmd.store import configurable
from mlmd.system import System

CORE = 0.01  # A; laws are not evaluated at smaller distances, where r^-12 leaves single precision


def switch(r: Tensor, onset: float, cutoff: float) -> Tensor:
    r"""Smooth step from 1 at ``onset`` to 0 at ``cutoff`` with two continuous derivatives.

    :math:`S=1-10t^3+15t^4-6t^5,\ t=(r-r_{on})/(r_c-r_{on})` clipped to [0, 1].
    """
    t = ((r - onset) / (cutoff - onset)).clamp(0.0, 1.0)
    return 1.0 - t * t * t * (10.0 - t * (15.0 - 6.0 * t))


class PairPotential(Potential):
    r"""A potential of distances, :math:`E=\sum_{i<j}u_{z_iz_j}(r_{ij})\,S(r_{ij})`.

    A new law is a subclass with one method, :meth:`pair`. Every unordered pair is evaluated once.

    Args:
        cutoff: r_c in A, zero beyond.
        onset: where the switch S sets in, in A (default 0.9 r_c); ``onset=cutoff`` cuts sharply, for laws that end smoothly.
    """

    def __init__(self, cutoff: float, onset: float | None = None):
        super().__init__()
        self.cutoff = float(cutoff)
        self.onset = 0.9 * self.cutoff if onset is None else float(onset)
        if not 0 < self.cutoff < float("inf"):
            raise ValueError(f"cutoff={cutoff}: must be positive and finite, in A")
        if not 0 <= self.onset <= self.cutoff:
            raise ValueError(f"onset={onset}: must lie between 0 and cutoff={cutoff} A")

    def pair(self, r: Tensor, zi: Tensor, zj: Tensor) -> Tensor:
        """Energy u (P,) in eV of pairs at distance ``r`` (P,) in A between types ``zi`` and ``zj`` (P,)."""
        raise NotImplementedError

    def value(self, r: Tensor, zi: Tensor, zj: Tensor) -> Tensor:
        """The law cut off: u(r) S(r) inside the cutoff, 0 outside; finite with finite derivatives for every r >= 0."""
        safe = r.clamp(CORE, self.cutoff)  # derivatives vanish where the input is clamped
        u = self.pair(safe, zi, zj)
        if self.onset < self.cutoff:
            return u * switch(safe, self.onset, self.cutoff)  # exactly 0 at the cutoff
        return torch.where(r < self.cutoff, u, torch.zeros_like(u))

    def forward(self, system: System, pairs: Pairs | None) -> Tensor:
        """Energy of every system, (S,), in eV."""
        half, weight = need_pairs(pairs, self).unordered()
        i, j = half.index
        u = self.value(half.distances(system), system.types[i], system.types[j])
        energy = segment_sum(u, system.batch[i], system.n_systems)
        return energy if weight == 1.0 else weight * energy

    def analytic(self, system: System, pairs: Pairs | None) -> tuple[Tensor, Tensor]:
        r"""Energy (S,) and forces (N, 3) from the derivative of the law alone, :math:`F_i=\sum_j u'(r_{ij})\,\hat r_{ij}`."""
        half, weight = need_pairs(pairs, self).unordered()
        i, j = half.index
        d = half.vectors(system)
        r = d.norm(dim=-1)
        u, slope = self._slope(r, system.types[i], system.types[j])
        f = d * (weight * slope / r.clamp(min=1e-10))[:, None]
        forces = torch.zeros_like(system.positions).index_add(0, i, f).index_add(0, j, -f)
        return weight * segment_sum(u, system.batch[i], system.n_systems), forces

    def _slope(self, r: Tensor, zi: Tensor, zj: Tensor) -> tuple[Tensor, Tensor]:
        """u and du/dr, (P,) each."""

        def total(r: Tensor) -> tuple[Tensor, Tensor]:
            u = self.value(r, zi, zj)
            return u.sum(), u

        if torch.compiler.is_compiling():
            slope, (_, u) = torch.func.grad_and_value(total, has_aux=True)(r)
            return u, slope
        with torch.enable_grad():
            r = r.detach().requires_grad_()
            summed, u = total(r)
            (slope,) = torch.autograd.grad(summed, r)
        return u.detach(), slope


@configurable
class Smooth(PairPotential):
    """Another pair law with its own switch: C2 from ``onset`` to the law's cutoff (or to a shorter ``cutoff``)."""

    def __init__(self, law: PairPotential, onset: float, cutoff: float | None = None):
        super().__init__(law.cutoff if cutoff is None else cutoff, onset)
        if self.cutoff > law.cutoff:
            raise ValueError(f"cutoff={cutoff}: longer than the cutoff {law.cutoff} A of the law itself")
        self.law = law

    def pair(self, r: Tensor, zi: Tensor, zj: Tensor) -> Tensor:
        """The unswitched law."""
        return self.law.pair(r, zi, zj)


class Constants(nn.Module):
    """A trainable number, or a symmetric (T, T) table of one number for every pair of types."""

    def __init__(self, value: Any, name: str, positive: bool = False):
        super().__init__()
        x = torch.as_tensor(value, dtype=torch.float64)
        if x.ndim not in (0, 2) or (x.ndim == 2 and x.shape[0] != x.shape[1]):
            raise ValueError(f"{name} has shape {tuple(x.shape)}: give one number or a (types, types) table")
        if not bool(torch.isfinite(x).all()) or (positive and not bool((x > 0).all())):
            raise ValueError(f"{name}={value}: must be finite" + (" and positive" if positive else ""))
        if x.ndim == 2 and not torch.allclose(x, x.T):
            raise ValueError(f"{name} is not symmetric: entry (a, b) must equal entry (b, a)")
        self.value = nn.Parameter(x.clone())

    def forward(self, zi: Tensor, zj: Tensor, dtype: torch.dtype) -> Tensor:
        """() or (P,) values for the types (P,) of pairs."""
        x = self.value.to(dtype)
        if x.ndim == 0:
            return x
        x = 0.5 * (x + x.T)  # training moves both entries of a pair of types together
        return x.reshape(-1).index_select(0, zi * x.shape[0] + zj)

    def largest(self) -> float:
        """The largest entry."""
        return float(self.value.detach().max())


def inverse_power(s: Tensor, power: float, core: float = 0.3) -> Tensor:
    """``s**-power``, continued linearly (value and slope) below ``core``: overlapping particles feel a finite push."""
    far = s > core
    s_far = torch.where(far, s, torch.full_like(s, core))
    continued = core**-power * (1.0 + power * (1.0 - s / core))
    return torch.where(far, _power(s_far, power), continued)


def _power(s: Tensor, power: float) -> Tensor:
    """``s**-power``; the general power function costs ten times the products."""
    if power == 6:
        square = (s * s).reciprocal()
        return square * square * square
    return s.reciprocal() if power == 1 else s**-power


@configurable
class LennardJones(PairPotential):
    r""":math:`u=4\epsilon[(\sigma/r)^{12}-(\sigma/r)^6]`, switched off smoothly.

    Args:
        epsilon: depth in eV, a number or a symmetric (T, T) table over types.
        sigma: diameter in A, likewise.
        cutoff, onset: see :class:`PairPotential`.
    """

    def __init__(self, epsilon: Any, sigma: Any, cutoff: float, onset: float | None = None):
        super().__init__(cutoff, onset)
        self.epsilon, self.sigma = Constants(epsilon, "epsilon"), Constants(sigma, "sigma", positive=True)

    def pair(self, r: Tensor, zi: Tensor, zj: Tensor) -> Tensor:
        """u(r), (P,), in eV."""
        s = r / self.sigma(zi, zj, r.dtype)
        sixth = inverse_power(s, 6)
        return 4.0 * self.epsilon(zi, zj, r.dtype) * (sixth * (sixth - 1.0))


@configurable
class WCA(PairPotential):
    r"""The repulsive part of Lennard-Jones, :math:`u=4\epsilon[(\sigma/r)^{12}-(\sigma/r)^6]+\epsilon` for :math:`r<2^{1/6}\sigma`.

    Weeks, Chandler and Andersen, J. Chem. Phys. 54, 5237 (1971). It ends smoothly by itself; ``cutoff`` is 2^(1/6) times the
    largest sigma at construction, times ``1 + room`` if sigma is to be trained.
    """

    def __init__(self, epsilon: Any, sigma: Any, room: float = 0.0):
        diameters = Constants(sigma, "sigma", positive=True)
        cutoff = 2.0 ** (1.0 / 6.0) * diameters.largest() * (1.0 + room)
        super().__init__(cutoff, cutoff)
        self.epsilon, self.sigma = Constants(epsilon, "epsilon"), diameters

    def pair(self, r: Tensor, zi: Tensor, zj: Tensor) -> Tensor:
        """u(r), (P,), in eV."""
        s, epsilon = r / self.sigma(zi, zj, r.dtype), self.epsilon(zi, zj, r.dtype)
        sixth = inverse_power(s, 6)
        u = 4.0 * sixth * (sixth - 1.0) + 1.0
        return epsilon * torch.where(s < 2.0 ** (1.0 / 6.0), u, torch.zeros_like(u))


@configurable
class Morse(PairPotential):
    r""":math:`u=D[(1-e^{-a(r-r_0)})^2-1]`, minimum -D at r_0 (Morse, Phys. Rev. 34, 57 (1929)).

    Args:
        depth: D in eV; width: a in 1/A; distance: r_0 in A; numbers or symmetric (T, T) tables.
    """

    def __init__(self, depth: Any, width: Any, distance: Any, cutoff: float, onset: float | None = None):
        super().__init__(cutoff, onset)
        self.depth, self.width = Constants(depth, "depth"), Constants(width, "width", positive=True)
        self.distance = Constants(distance, "distance", positive=True)

    def pair(self, r: Tensor, zi: Tensor, zj: Tensor) -> Tensor:
        """u(r), (P,), in eV."""
        x = torch.exp(-self.width(zi, zj, r.dtype) * (r - self.distance(zi, zj, r.dtype)))
        return self.depth(zi, zj, r.dtype) * x * (x - 2.0)


@configurable
class Yukawa(PairPotential):
    r"""Screened charges, :math:`u=A\,e^{-\kappa r}/r`.

    Args:
        strength: A in eV A (e^2/(4 pi eps0) q_i q_j, or a symmetric (T, T) table); kappa: inverse screening length in 1/A.
    """

    def __init__(self, strength: Any, kappa: Any, cutoff: float, onset: float | None = None):
        super().__init__(cutoff, onset)
        self.strength, self.kappa = Constants(strength, "strength"), Constants(kappa, "kappa", positive=True)

    def pair(self, r: Tensor, zi: Tensor, zj: Tensor) -> Tensor:
        """u(r), (P,), in eV."""
        return self.strength(zi, zj, r.dtype) * torch.exp(-self.kappa(zi, zj, r.dtype) * r) * inverse_power(r, 1.0, 0.1)


@configurable
class SoftSphere(PairPotential):
    r""":math:`u=\epsilon(\sigma/r)^p`.

    Args:
        epsilon: eV; sigma: A; numbers or symmetric (T, T) tables; power: p > 0.
    """

    def __init__(self, epsilon: Any, sigma: Any, cutoff: float, power: float = 12.0, onset: float | None = None):
        super().__init__(cutoff, onset)
        if not power > 0:
            raise ValueError(f"power={power}: must be positive")
        self.epsilon, self.sigma = Constants(epsilon, "epsilon"), Constants(sigma, "sigma", positive=True)
        self.power = float(power)

    def pair(self, r: Tensor, zi: Tensor, zj: Tensor) -> Tensor:
        """u(r), (P,), in eV."""
        return self.epsilon(zi, zj, r.dtype) * inverse_power(r / self.sigma(zi, zj, r.dtype), self.power)


def bonded_within(bonds: Iterable[tuple[int, int]], n: int, hops: int) -> Tensor:
    """(n, n) bool: atoms joined by a path of at most ``hops`` bonds (1: bonded, 2: also over an angle, 3: over a dihedral)."""
    one = torch.zeros(n, n)
    for i, j in bonds:
        if not (0 <= i < n and 0 <= j < n):
            raise ValueError(f"bonds name the pair ({i}, {j}) but the molecule has {n} atoms")
        one[i, j] = one[j, i] = 1.0
    reached = torch.eye(n)
    for _ in range(hops):
        reached = ((reached + reached @ one) > 0).float()
    return (reached > 0) & ~torch.eye(n, dtype=torch.bool)


def nearest_shift(d: Tensor, system: System, k: Tensor) -> Tensor:
    """Whole numbers of lattice vectors (P, 3) that bring displacements ``d`` (P, 3), in A, in the systems ``k`` (P,) to their
    nearest image by rounding; 0 where a system does not repeat."""
    if not torch.compiler.is_compiling() and not system.periodic:
        return torch.zeros_like(d)
    cell = system.cell.detach()
    if torch.compiler.is_compiling():  # the general completion depends on data
        cell = cell + torch.diag_embed((~system.pbc).to(cell.dtype))
    else:
        cell = completed(cell, system.pbc)
    return -torch.einsum("pi,pij->pj", d.detach(), torch.linalg.inv(cell)[k]).round() * system.pbc[k]


@configurable
class Excluding(Potential):
    """A potential that does not see pairs within ``hops`` bonds of each other, in molecules of ``size`` atoms each.

    Particles ``m size ... (m + 1) size - 1`` are molecule ``m``, in every system of the batch: replicas of one molecule and
    liquids of equal molecules look alike. In a periodic cell every image of an excluded pair is left out, so the cell must be
    wider than a molecule plus the cutoff.

    A law of charges says by ``left_out(system, pairs)`` what an excluded pair still contributes, because an Ewald sum also sees it
    through its waves: the energy is that of all pairs minus the bare Coulomb interaction of the excluded ones.

    Args:
        law: the potential; a sum with charges in it is refused, exclude from each of its members instead.
        bonds: pairs of indices within one molecule.
        size: atoms per molecule.
        hops: longest excluded path, in bonds.
    """

    excluded: Tensor
    _template: Tensor

    def __init__(self, law: nn.Module, bonds: Iterable[tuple[int, int]], size: int, hops: int = 3):
        super().__init__()
        if size < 1 or hops < 0:
            raise ValueError(f"size={size}, hops={hops}: a molecule has at least one atom, a path no negative length")
        if any(hasattr(m, "left_out") for m in law.modules() if m is not law):
            raise ValueError(
                f"law={type(law).__name__} holds charges inside: exclude from each part, Excluding(a, ...) + Excluding(charges, ...)"
            )
        self.law, self.size = law, int(size)
        self.cutoff = float(law.cutoff)  # type: ignore[arg-type]
        self.register_buffer("excluded", bonded_within(bonds, size, hops), persistent=False)
        self.register_buffer("_template", torch.nonzero(torch.triu(self.excluded)).T.contiguous(), persistent=False)
        self._last: tuple[Any, Pairs] | None = None

    def remaining(self, pairs: Pairs) -> Pairs:
        """The list without the excluded pairs; remembered for the list seen last."""
        if self._last is not None and self._last[0]() is pairs:
            return self._last[1]
        kept = pairs.without(self.excluded) if isinstance(pairs, RowPairs) else pairs.where(self._allowed)
        if not torch.compiler.is_compiling():
            self._last = (weakref.ref(pairs), kept)
        return kept

    def _allowed(self, i: Tensor, j: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return ~self._within(i, j)
        allowed = torch.ones_like(i, dtype=torch.bool)
        near = torch.nonzero((i - j).abs() < self.size).flatten()  # few, and all others are in different molecules
        allowed[near] = ~self._within(i[near], j[near])
        return allowed

    def _within(self, i: Tensor, j: Tensor) -> Tensor:
        same = i.div(self.size, rounding_mode="floor") == j.div(self.size, rounding_mode="floor")
        return same & self.excluded[i % self.size, j % self.size]

    def forward(self, system: System, pairs: Pairs | None) -> Tensor:
        """Energy of every system, (S,), in eV."""
        if self.cutoff > 0:  # a sum over all pairs has no list to leave them out of
            pairs = self.remaining(need_pairs(pairs, self))
        energy = self.law(system, pairs)
        return energy + self._left_out(system, pairs) if self._charged else energy

    def analytic(self, system: System, pairs: Pairs | None) -> tuple[Tensor, Tensor]:
        """Energy (S,) and forces (N, 3)."""
        if self.cutoff > 0:
            pairs = self.remaining(need_pairs(pairs, self))
        energy, forces = in_closed_form(self.law, system, pairs)
        if not self._charged:
            return energy, forces
        more, pull = in_closed_form(self._left_out, system, pairs)
        return energy + more, forces + pull

    @property
    def _charged(self) -> bool:
        return hasattr(self.law, "left_out")

    def _left_out(self, system: System, pairs: Pairs | None) -> Tensor:
        return self.law.left_out(system, self.excluded_pairs(system))  # type: ignore[operator]

    def excluded_pairs(self, system: System) -> Pairs:
        """Every excluded pair once, at its nearest image, whatever its distance.

        Raises:
            ValueError: if the particles do not make whole molecules.
        """
        if len(system) % self.size:
            raise ValueError(f"{len(system)} particles are no multiple of the size={self.size} of the molecules that exclude pairs")
        a, b = self._template
        first = torch.arange(0, len(system), self.size, device=a.device)[:, None]
        i, j = (first + a).reshape(-1), (first + b).reshape(-1)
        shift = nearest_shift(system.positions[j] - system.positions[i], system, system.batch[i])
        return Pairs(torch.stack([i, j]), shift.long())
