"""Charges: a law says how two charges see each other, v(r); the base class sums it over pairs and adds the self-energy."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mlmd.neighbors.pairs import Pairs, length
from mlmd.potentials.compose import Potential, need_pairs
from mlmd.potentials.pair import CORE
from mlmd.segment import segment_sum
from mlmd.store import configurable
from mlmd.system import System
from mlmd.units import coulomb_constant


def charges_of(system: System, who: nn.Module) -> Tensor:
    """The charges of a system, (N,), in e.

    Raises:
        ValueError: if it has none.
    """
    if system.charges is None:
        raise ValueError(f"{type(who).__name__} needs charges and the system has none: give System.single(..., charges=q), in e")
    return system.charges


def erf_over(r: Tensor, alpha: float) -> Tensor:
    r""":math:`\mathrm{erf}(\alpha r)/r` in 1/A for ``r`` in A, with its limit :math:`2\alpha/\sqrt\pi` at 0."""
    x = alpha * r
    small = x < 1e-2
    far = torch.where(small, torch.ones_like(x), x)
    square = x * x
    series = 2.0 / math.sqrt(math.pi) * (1.0 - square / 3.0 * (1.0 - 0.3 * square * (1.0 - square / 4.2)))
    return alpha * torch.where(small, series, torch.erf(far) / far)


class ChargePotential(Potential):
    r"""Charges that interact in pairs, :math:`E=k\sum_{i<j}q_iq_jv(r_{ij})+k\sum_iq_i^2\,\tfrac12w(0)`, :math:`w(r)=v(r)-1/r`.

    A new law is a subclass with two methods, :meth:`v` and :meth:`w`. ``w`` is what a law adds to the bare Coulomb interaction of
    one pair: it stays for pairs that are left out of the list (see :class:`mlmd.potentials.pair.Excluding`), and half of its
    value at contact is the self-energy of a charge.

    Args:
        cutoff: r_c in A, v is taken as zero beyond.
        permittivity: relative permittivity that divides all energies.

    Raises:
        ValueError: if cutoff or permittivity is not positive, or on a call with a system that has no charges.
    """

    def __init__(self, cutoff: float, permittivity: float = 1.0):
        super().__init__()
        self.cutoff = float(cutoff)
        if not 0 < self.cutoff < float("inf"):
            raise ValueError(f"cutoff={cutoff}: must be positive and finite, in A")
        self.constant = coulomb_constant / _permittivity(permittivity)

    def v(self, r: Tensor) -> Tensor:
        """Interaction of two unit charges in 1/A at distance ``r`` (P,) in A, for 0 < r <= cutoff."""
        raise NotImplementedError

    def w(self, r: Tensor) -> Tensor:
        """v(r) - 1/r in 1/A for every ``r`` >= 0 in A, finite at 0; -1/r beyond the range of v."""
        raise NotImplementedError

    def value(self, r: Tensor) -> Tensor:
        """v(r) (P,), 0 beyond the cutoff, constant below the core: finite with finite derivatives for every r >= 0."""
        v = self.v(r.clamp(CORE, self.cutoff))
        return torch.where(r < self.cutoff, v, torch.zeros_like(v))

    def forward(self, system: System, pairs: Pairs | None) -> Tensor:
        """Energy of every system, (S,), in eV."""
        half, weight = need_pairs(pairs, self).unordered()
        return weight * self._summed(self.value(half.distances(system)), system, half) + self.self_energy(system)

    def self_energy(self, system: System) -> Tensor:
        r"""What a charge does to itself, :math:`\tfrac k2w(0)\sum_iq_i^2`, (S,), in eV; it does not depend on the positions."""
        square = segment_sum(charges_of(system, self).square(), system.batch, system.n_systems)
        return 0.5 * self.constant * self.w(square.new_zeros(1)) * square

    def left_out(self, system: System, pairs: Pairs) -> Tensor:
        r"""What pairs missing in the list still contribute, :math:`k\sum q_iq_jw(r_{ij})`, (S,), in eV.

        So leaving out a pair removes its bare Coulomb interaction and nothing else (the masked pairs of an Ewald sum).
        """
        return self._summed(self.w(pairs.distances(system)), system, pairs)

    def _summed(self, v: Tensor, system: System, pairs: Pairs) -> Tensor:
        i, j = pairs.index
        q = charges_of(system, self)
        u = q.index_select(0, i) * q.index_select(0, j) * v
        return self.constant * segment_sum(u, system.batch.index_select(0, i), system.n_systems)

    def analytic(self, system: System, pairs: Pairs | None) -> tuple[Tensor, Tensor]:
        r"""Energy (S,) and forces (N, 3) from the slope of the law alone, :math:`F_i=k\sum_jq_iq_jv'(r_{ij})\,\hat r_{ij}`."""
        half, weight = need_pairs(pairs, self).unordered()
        i, j = half.index
        d = half.vectors(system)
        r = d.norm(dim=-1)
        v, slope = self._slope(r)
        q = charges_of(system, self)
        strength = weight * self.constant * q.index_select(0, i) * q.index_select(0, j)
        f = d * (strength * slope / r.clamp(min=1e-10))[:, None]
        forces = torch.zeros_like(system.positions).index_add(0, i, f).index_add(0, j, -f)
        energy = segment_sum(strength * v, system.batch.index_select(0, i), system.n_systems)
        return energy + self.self_energy(system), forces

    def _slope(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """v and dv/dr, (P,) each."""

        def total(r: Tensor) -> tuple[Tensor, Tensor]:
            v = self.value(r)
            return v.sum(), v

        if torch.compiler.is_compiling():
            slope, (_, v) = torch.func.grad_and_value(total, has_aux=True)(r)
            return v, slope
        with torch.enable_grad():
            r = r.detach().requires_grad_()
            summed, v = total(r)
            (slope,) = torch.autograd.grad(summed, r)
        return v.detach(), slope


def _permittivity(value: float) -> float:
    if not 0 < value < float("inf"):
        raise ValueError(f"permittivity={value}: must be positive and finite (1 in vacuum, 78.4 in water)")
    return float(value)


@configurable
class CoulombDSF(ChargePotential):
    r"""Damped shifted force: Coulomb in a condensed phase without a sum over images; energy and force end at zero.

    .. math:: v(r)=\frac{\mathrm{erfc}(\alpha r)}r-\frac{\mathrm{erfc}(\alpha r_c)}{r_c}
        +\Big[\frac{\mathrm{erfc}(\alpha r_c)}{r_c^2}+\frac{2\alpha}{\sqrt\pi}\frac{e^{-\alpha^2r_c^2}}{r_c}\Big](r-r_c)

    Fennell and Gezelter, J. Chem. Phys. 124, 234104 (2006), after Wolf et al., J. Chem. Phys. 110, 8254 (1999). The self-energy
    makes the total comparable with an Ewald sum, which it approaches as the cutoff grows.

    Args:
        cutoff: r_c in A, several times the distance of neighbouring charges.
        alpha: damping in 1/A, 0.2 is usual with 12 A; 0 shifts the bare Coulomb force, more damps forces that are real.
        permittivity: see :class:`ChargePotential`.

    Raises:
        ValueError: if alpha is negative.
    """

    def __init__(self, cutoff: float, alpha: float = 0.2, permittivity: float = 1.0):
        super().__init__(cutoff, permittivity)
        self.alpha = float(alpha)
        if not 0 <= self.alpha < float("inf"):
            raise ValueError(f"alpha={alpha}: must not be negative, in 1/A; 0 means no damping")
        x = self.alpha * self.cutoff
        self.height = math.erfc(x) / self.cutoff
        self.steepness = (self.height + 2.0 * self.alpha / math.sqrt(math.pi) * math.exp(-x * x)) / self.cutoff

    def v(self, r: Tensor) -> Tensor:
        """Damped, shifted 1/r in 1/A."""
        return torch.erfc(self.alpha * r) / r + self._shift(r)

    def w(self, r: Tensor) -> Tensor:
        """v(r) - 1/r in 1/A."""
        near = self._shift(r) - erf_over(r, self.alpha)
        return torch.where(r < self.cutoff, near, -1.0 / r.clamp(min=self.cutoff))

    def _shift(self, r: Tensor) -> Tensor:
        return self.steepness * (r - self.cutoff) - self.height


@configurable
class Coulomb(Potential):
    r"""All pairs of charges of an open system, :math:`E=k\sum_{i<j}q_iq_j/r_{ij}`, without a cutoff and without a list.

    Args:
        permittivity: relative permittivity that divides all energies.

    Raises:
        ValueError: on a call with a system that is periodic or has no charges.
    """

    def __init__(self, permittivity: float = 1.0):
        super().__init__()
        self.constant = coulomb_constant / _permittivity(permittivity)

    def forward(self, system: System, pairs: Pairs | None = None) -> Tensor:
        """Energy of every system, (S,), in eV."""
        q = charges_of(system, self)
        if not torch.compiler.is_compiling() and system.periodic:
            raise ValueError("Coulomb sums open systems and this one is periodic: use Ewald or CoulombDSF, or remove the cell")
        x, q = padded(system, system.positions), padded(system, q)
        i, j = torch.triu_indices(x.shape[1], x.shape[1], 1, device=x.device)
        r = length(x.index_select(1, j) - x.index_select(1, i))
        u = q.index_select(1, i) * q.index_select(1, j) / r.clamp(min=CORE)
        return self.constant * u.sum(1)

    def left_out(self, system: System, pairs: Pairs) -> Tensor:
        r"""Minus the interaction of the given pairs, :math:`-k\sum q_iq_j/r_{ij}`, (S,), in eV: the sum over all has them."""
        i, j = pairs.index
        q = charges_of(system, self)
        u = q.index_select(0, i) * q.index_select(0, j) / pairs.distances(system).clamp(min=CORE)
        return -self.constant * segment_sum(u, system.batch.index_select(0, i), system.n_systems)


def padded(system: System, values: Tensor) -> Tensor:
    """(S, n, ...) of a per-particle tensor (N, ...); systems smaller than the largest are filled with zeros."""
    if system.size is not None:
        return system.dense(values)
    counts = torch.bincount(system.batch, minlength=system.n_systems)
    n = int(counts.max())
    place = torch.arange(len(system), device=values.device) - (counts.cumsum(0) - counts)[system.batch]
    out = values.new_zeros(system.n_systems * n, *values.shape[1:])
    return out.index_copy(0, system.batch * n + place, values).reshape(system.n_systems, n, *values.shape[1:])
