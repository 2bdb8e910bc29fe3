"""Outer fields, restraints and biases: energies of places and of collective variables instead of distances.

A field acts on positions as they are. In a periodic cell it is not periodic itself, so keep positions unwrapped; a
:class:`PositionRestraint` alone measures to the nearest image. The exact models (:class:`Harmonic`, :class:`DoubleWell`,
:class:`MullerBrown`) are there to test integrators and samplers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mlmd.neighbors.pairs import Pairs, length
from mlmd.observables.coordinates import Coordinate, Kind
from mlmd.potentials.compose import Potential
from mlmd.potentials.coulomb import charges_of
from mlmd.potentials.pair import nearest_shift
from mlmd.segment import segment_sum
from mlmd.store import configurable
from mlmd.system import System


def _vector(value: Any, name: str) -> Tensor:
    v = torch.as_tensor(value, dtype=torch.float64)
    if tuple(v.shape) not in ((), (3,)) or not bool(torch.isfinite(v).all()):
        raise ValueError(f"{name}={value}: give one finite number or three, along x, y and z")
    return v.expand(3).clone()


def _positive(value: float, name: str) -> float:
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}={value}: must be positive and finite")
    return float(value)


class Field(Potential):
    """A sum over particles, E = sum_i u(x_i); a new field overrides :meth:`u` alone. It wants no pairs."""

    def u(self, x: Tensor) -> Tensor:
        """Energy (N,) in eV of particles at ``x`` (N, 3) in A."""
        raise NotImplementedError

    def forward(self, system: System, pairs: Pairs | None = None) -> Tensor:
        """Energy of every system, (S,), in eV."""
        return segment_sum(self.u(system.positions), system.batch, system.n_systems)


@configurable
class Harmonic(Field):
    r"""Every particle in a well, :math:`u=\tfrac12\sum_ak_a(x_a-c_a)^2`.

    Args:
        k: eV/A^2, a number or three (0 leaves an axis free); centre: c in A, a number or three.

    Raises:
        ValueError: if k is negative.
    """

    k: Tensor
    centre: Tensor

    def __init__(self, k: Any, centre: Any = 0.0):
        super().__init__()
        self.register_buffer("k", _vector(k, "k"))
        self.register_buffer("centre", _vector(centre, "centre"))
        if bool((self.k < 0).any()):
            raise ValueError(f"k={k}: must not be negative, in eV/A^2")

    def u(self, x: Tensor) -> Tensor:
        """Energy (N,) in eV."""
        return 0.5 * ((x - self.centre.to(x)).square() * self.k.to(x)).sum(-1)


@configurable
class DoubleWell(Field):
    r"""Two minima on the x axis, :math:`u=h\,[(x/a)^2-1]^2`: at x = -a and a, with a barrier of height h between; y, z are free.

    Args:
        height: h in eV; half_width: a in A.
    """

    def __init__(self, height: float, half_width: float = 1.0):
        super().__init__()
        self.height, self.half_width = _positive(height, "height"), _positive(half_width, "half_width")

    def u(self, x: Tensor) -> Tensor:
        """Energy (N,) in eV."""
        return self.height * ((x[:, 0] / self.half_width).square() - 1.0).square()


# Rows of A, a, b, c, x0, y0 (Mueller and Brown 1979, table 1).
_MULLER_BROWN = (
    (-200.0, -100.0, -170.0, 15.0),
    (-1.0, -1.0, -6.5, 0.7),
    (0.0, 0.0, 11.0, 0.6),
    (-10.0, -10.0, -6.5, 0.7),
    (1.0, 0.0, -0.5, -1.0),
    (0.0, 0.5, 1.5, 1.0),
)


@configurable
class MullerBrown(Field):
    r"""Three minima and two saddles in the x, y plane, :math:`u=\sum_{m=1}^4A_me^{a_m\xi^2+b_m\xi\eta+c_m\eta^2}`; z is free.

    :math:`\xi=x-x_m,\ \eta=y-y_m`. Mueller and Brown, Theor. Chim. Acta 53, 75 (1979).

    Args:
        energy: what one unit of the published energies is, in eV (their barriers are about 100 units); length: likewise, in A.
    """

    def __init__(self, energy: float = 0.01, length: float = 1.0):
        super().__init__()
        self.energy, self.length = _positive(energy, "energy"), _positive(length, "length")

    def u(self, x: Tensor) -> Tensor:
        """Energy (N,) in eV."""
        A, a, b, c, x0, y0 = (x.new_tensor(row) for row in _MULLER_BROWN)
        xi, eta = x[:, :1] / self.length - x0, x[:, 1:2] / self.length - y0
        return self.energy * (A * torch.exp(a * xi.square() + b * xi * eta + c * eta.square())).sum(-1)


@configurable
class SphericalWall(Field):
    r"""Flat inside a sphere, harmonic outside, :math:`u=\tfrac k2\max(0,|x-c|-R)^2`.

    Args:
        radius: R in A; k: eV/A^2; centre: c in A.
    """

    centre: Tensor

    def __init__(self, radius: float, k: float, centre: Any = 0.0):
        super().__init__()
        self.radius, self.k = _positive(radius, "radius"), _positive(k, "k")
        self.register_buffer("centre", _vector(centre, "centre"))

    def u(self, x: Tensor) -> Tensor:
        """Energy (N,) in eV."""
        return 0.5 * self.k * (length(x - self.centre.to(x)) - self.radius).clamp(min=0.0).square()


@configurable
class PlanarWall(Field):
    r"""Flat below a plane, harmonic above, :math:`u=\tfrac k2\max(0,n\cdot x-d)^2`; two of them make a slit.

    Args:
        normal: direction n into the wall, of any length but 0; offset: d in A, of the plane along n; k: eV/A^2.
    """

    normal: Tensor

    def __init__(self, normal: Any, offset: float, k: float):
        super().__init__()
        n = _vector(normal, "normal")
        if not float(n.norm()) > 0:
            raise ValueError(f"normal={normal}: must not be zero")
        self.register_buffer("normal", n / n.norm())
        self.offset, self.k = float(offset), _positive(k, "k")

    def u(self, x: Tensor) -> Tensor:
        """Energy (N,) in eV."""
        return 0.5 * self.k * (x @ self.normal.to(x) - self.offset).clamp(min=0.0).square()


@configurable
class UniformField(Potential):
    r"""A uniform electric field on charges, :math:`E=-\sum_iq_i\,\mathcal E\cdot x_i`.

    In a cell that repeats along the field the forces are right, but the energy jumps by :math:`q\,\mathcal E\cdot a` when a
    particle is wrapped and the stress depends on which image is meant: a warning says so.

    Args:
        field: three components in V/A = eV/(e A).

    Raises:
        ValueError: on a call with a system that has no charges.
    """

    field: Tensor

    def __init__(self, field: Any):
        super().__init__()
        if len(torch.as_tensor(field).reshape(-1)) != 3:
            raise ValueError(f"field={field}: give three components, in V/A")
        self.register_buffer("field", _vector(field, "field"))

    def forward(self, system: System, pairs: Pairs | None = None) -> Tensor:
        """Energy of every system, (S,), in eV."""
        q, field = charges_of(system, self), self.field.to(system.positions)
        if not torch.compiler.is_compiling() and self._repeats(system):
            warnings.warn(
                "UniformField along a periodic direction: keep positions unwrapped, energies of images differ", stacklevel=2
            )
        return -segment_sum(q * (system.positions @ field), system.batch, system.n_systems)

    def _repeats(self, system: System) -> bool:
        along = system.cell.detach() @ self.field.to(system.cell)
        return bool(((along != 0) & system.pbc).any())


@configurable
class PositionRestraint(Potential):
    r"""Chosen particles of every system held near places, :math:`E=\sum_p\tfrac{k_p}2|x_p-x^0_p|^2`, to the nearest image.

    Args:
        particles: P indices within a system; reference: x0 (P, 3) in A; k: eV/A^2, a number or (P,).

    Raises:
        ValueError: if shapes do not fit, k is negative, or on a call with a system that has not all these particles.
    """

    particles: Tensor
    reference: Tensor
    k: Tensor

    def __init__(self, particles: Sequence[int] | Tensor, reference: Any, k: Any):
        super().__init__()
        index = torch.as_tensor(particles).long().reshape(-1)
        places = torch.as_tensor(reference, dtype=torch.float64)
        strength = torch.as_tensor(k, dtype=torch.float64)
        if not len(index) or int(index.min()) < 0 or len(index.unique()) != len(index):
            raise ValueError(f"particles={index.tolist()}: give at least one index >= 0, each once")
        if tuple(places.shape) != (len(index), 3):
            raise ValueError(f"reference has shape {tuple(places.shape)}, expected ({len(index)}, 3): one place per particle")
        if tuple(strength.shape) not in ((), (len(index),)) or not bool((strength >= 0).all()):
            raise ValueError(f"k={k}: give one number or ({len(index)},), not negative, in eV/A^2")
        self.register_buffer("particles", index)
        self.register_buffer("reference", places.clone())
        self.register_buffer("k", strength.expand(len(index)).clone())

    def forward(self, system: System, pairs: Pairs | None = None) -> Tensor:
        """Energy of every system, (S,), in eV."""
        index = members(system, self.particles)
        d = (system.positions[index] - self.reference.to(system.positions)).reshape(-1, 3)
        k = system.batch[index.reshape(-1)]
        shift = nearest_shift(d, system, k)
        d = d + torch.einsum("pi,pij->pj", shift, system.cell[k])
        return 0.5 * (d.square().sum(-1).reshape(index.shape) * self.k.to(d)).sum(1)


def members(system: System, particles: Tensor) -> Tensor:
    """(S, P) indices in the batch of the given particles (P,) of every system.

    Raises:
        ValueError: if a system is too small to have them.
    """
    if system.size is not None:
        first, smallest = torch.arange(system.n_systems, device=particles.device) * system.size, system.size
    else:
        counts = torch.bincount(system.batch, minlength=system.n_systems)
        first, smallest = counts.cumsum(0) - counts, int(counts.min())
    if not torch.compiler.is_compiling() and len(particles) and int(particles.max()) >= smallest:
        raise ValueError(f"particle {int(particles.max())} is named, but a system has {smallest} particles (0 to {smallest - 1})")
    return first[:, None] + particles


@configurable
class Umbrella(nn.Module):
    r"""A harmonic function of a collective variable, :math:`f=\tfrac k2(\xi-c)^2`, along the shorter way round if it is periodic.

    Torrie and Valleau, J. Comput. Phys. 23, 187 (1977).

    Args:
        k: eV per A^2 or rad^2; centre: c in A or rad; period: 2 pi for dihedrals, None for others.
    """

    def __init__(self, k: float, centre: float, period: float | None = None):
        super().__init__()
        self.k, self.centre = _positive(k, "k"), float(centre)
        self.period = None if period is None else _positive(period, "period")

    def forward(self, xi: Tensor) -> Tensor:
        """Energy (S,) in eV of values (S,)."""
        d = xi - self.centre
        if self.period is not None:
            d = d - self.period * (d / self.period).detach().round()
        return 0.5 * self.k * d.square()


@configurable
class Bias(Potential):
    r"""A function of one internal coordinate of every system, :math:`E=f(\xi(x))`: an umbrella, or a spline to flatten a landscape.

    Each particle of the coordinate is taken at its image nearest to the one before; a radius of gyration needs whole molecules.

    Args:
        kind: of coordinate, particles: that define it, as in :class:`mlmd.observables.coordinates.Coordinate`.
        function: f, a module from values (S,) to energies (S,) in eV, such as :class:`Umbrella` or ``CubicSpline1D``.

    Raises:
        ValueError: if the coordinate does not exist, or on a call with a system that has not these particles.
    """

    particles: Tensor

    def __init__(self, kind: Kind, particles: Sequence[int], function: nn.Module):
        super().__init__()
        self.coordinate = Coordinate(kind, tuple(int(i) for i in particles))
        self.register_buffer("particles", torch.tensor(self.coordinate.particles, dtype=torch.long))
        self._own = Coordinate(kind, tuple(range(len(self.coordinate.particles))))
        self.function = function

    @staticmethod
    def on(coordinate: Coordinate, k: float, centre: float) -> Bias:
        """An umbrella of strength ``k`` around ``centre``, with the period of the coordinate."""
        period = 2.0 * math.pi if coordinate.periodic else None
        return Bias(coordinate.kind, coordinate.particles, Umbrella(k, centre, period))

    def values(self, system: System) -> Tensor:
        """The coordinate of every system, (S,), in A or rad; differentiable."""
        if self.coordinate.kind == "rg":
            return self._own(system.dense())
        x = system.positions[members(system, self.particles)]
        return self._own(self._whole(x, system))

    def _whole(self, x: Tensor, system: System) -> Tensor:
        """Particles (S, P, 3) at the images nearest to the one before."""
        steps = x.diff(dim=1)
        k = torch.arange(len(x), device=x.device).repeat_interleave(steps.shape[1])
        shift = nearest_shift(steps.reshape(-1, 3), system, k)
        moved = steps + torch.einsum("pi,pij->pj", shift, system.cell[k]).reshape(steps.shape)
        return torch.cat([x[:, :1], x[:, :1] + moved.cumsum(1)], 1)

    def forward(self, system: System, pairs: Pairs | None = None) -> Tensor:
        """Energy of every system, (S,), in eV."""
        return self.function(self.values(system))
