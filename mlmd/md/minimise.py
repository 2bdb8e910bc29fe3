r"""Energy minimisation of many systems at once: FIRE and L-BFGS, each system at its own pace and stopping by itself.

>>> *_, end = minimise(system, potential, LBFGS(), tolerance=0.01)  # doctest: +SKIP
>>> end.energy, end.converged  # doctest: +SKIP

The cell stays as it is, and so do distances that a simulation would constrain: minimise with springs in their place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mlmd.cell import widths
from mlmd.errors import Unstable
from mlmd.forces import Potential, energy_forces
from mlmd.neighbors import Pairs, neighbors
from mlmd.segment import segment_sum
from mlmd.system import System


@dataclass(frozen=True, eq=False)
class Relaxation:
    """Where a minimisation stands.

    system; energy (S,) in eV; forces (N, 3) in eV/A; largest (S,): longest force on a particle, in eV/A; converged (S,) bool;
    steps (S,): evaluations after the first that each system has used.
    """

    system: System
    energy: Tensor
    forces: Tensor
    largest: Tensor
    converged: Tensor
    steps: Tensor


class Point(NamedTuple):
    """Positions (N, 3) in A with energy (S,) in eV and forces (N, 3) in eV/A."""

    positions: Tensor
    energy: Tensor
    forces: Tensor


class Surface(Protocol):
    """The energy surface of a batch of systems."""

    def __call__(self, positions: Tensor) -> Point:
        """Energy and forces at ``positions``."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """(S,) sums of ``values`` (N, 3) over the components of each system."""
        ...

    def largest(self, values: Tensor) -> Tensor:
        """(S,) longest vector of ``values`` (N, 3) in each system."""
        ...

    def column(self, values: Tensor) -> Tensor:
        """(N, 1) of one value per system (S,)."""
        ...


class Minimiser(Protocol):
    """A method: its memory is a named tuple of tensors, one entry per system or particle."""

    def init(self, point: Point) -> Any:
        """Memory at the start."""
        ...

    def step(self, surface: Surface, point: Point, memory: Any, moving: Tensor) -> tuple[Point, Any]:
        """The next point of the systems ``moving`` (S,), at the cost of one evaluation; the others stay."""
        ...


@torch.no_grad()
def minimise(
    system: System,
    potential: Potential,
    method: Minimiser | None = None,
    *,
    tolerance: float = 0.01,
    steps: int = 1000,
    every: int = 10,
    skin: float = 0.5,
) -> Iterator[Relaxation]:
    """Move every system downhill until no force in it is longer than ``tolerance``; yield every ``every`` steps and at the end.

    A system that has converged stays where it is while others go on. Systems that have not within ``steps`` are told by
    ``converged`` of the last ``Relaxation``: nothing is raised.

    Args:
        system: start. potential: energy function.
        method: :class:`FIRE` (the default; robust far from a minimum) or :class:`LBFGS` (fewer evaluations near one).
        tolerance: longest force on a particle, in eV/A. steps: largest number of evaluations after the first.
        skin: extra range of the neighbour list in A.

    Raises:
        Unstable: when an energy or force is not finite; names the systems and carries the last good ``Relaxation``.
        ValueError: tolerance, skin or every not positive, or negative steps.
    """
    for name, value in (("tolerance", tolerance), ("every", every), ("skin", skin)):
        if not value > 0:
            raise ValueError(f"{name}={value}: must be positive (tolerance in eV/A, skin in A)")
    if steps < 0:
        raise ValueError(f"steps={steps}: must not be negative")
    method, surface = FIRE() if method is None else method, _Surface(potential, system, skin)
    point = surface(system.positions)
    used = torch.zeros(system.n_systems, dtype=torch.long, device=system.positions.device)
    now = _standing(surface, point, used, tolerance)
    _check_finite(surface, now, 0)
    memory, step = method.init(point), 0
    while step < steps and not bool(now.converged.all()):
        moving = ~now.converged
        point, memory = method.step(surface, point, memory, moving)
        step += 1
        _check_finite(surface, now, step)
        now = _standing(surface, point, now.steps + moving, tolerance)
        if step % every == 0 and step < steps and not bool(now.converged.all()):
            yield now
    yield now


def _standing(surface: _Surface, point: Point, used: Tensor, tolerance: float) -> Relaxation:
    largest = surface.largest(point.forces)
    system = replace(surface.system, positions=point.positions)
    return Relaxation(system, point.energy, point.forces, largest, largest <= tolerance, used)


def _check_finite(surface: _Surface, last_good: Relaxation, step: int) -> None:
    _, energy, forces = surface.last
    good = torch.isfinite(energy) & torch.isfinite(surface.largest(forces))
    if not bool(good.all()):
        raise Unstable(step, torch.nonzero(~good).flatten().tolist(), last_good, "energy or force not finite in a minimisation")


class _Surface:
    """A potential over a neighbour list that is renewed once a particle has moved half the skin."""

    def __init__(self, potential: Potential, system: System, skin: float):
        self.potential, self.system, self.skin = potential, system, skin
        self.pairs: Pairs | None = None
        self.origin = system.positions
        self.last: Point  # evaluated last, which a line search may have rejected

    def __call__(self, positions: Tensor) -> Point:
        system = replace(self.system, positions=positions)
        if self.potential.cutoff > 0 and bool(torch.isfinite(positions).all()):
            self._listed(system)
        out = energy_forces(self.potential, system, self.pairs)
        self.last = Point(positions, out.energy, out.forces)
        return self.last

    def _listed(self, system: System) -> None:
        if self.pairs is not None and float((system.positions - self.origin).square().sum(-1).max().sqrt()) <= self.skin / 2:
            return
        if system.periodic:
            room = float(torch.where(system.pbc, widths(system.cell), torch.full_like(system.cell[..., 0], torch.inf)).min()) / 2
            if self.potential.cutoff < room:  # a list of nearest images serves; do not reach beyond it
                self.skin = min(self.skin, room - self.potential.cutoff)
        self.pairs, self.origin = neighbors(system, self.potential.cutoff + self.skin), system.positions

    def sum(self, values: Tensor) -> Tensor:
        return segment_sum(values.sum(-1), self.system.batch, self.system.n_systems)

    def largest(self, values: Tensor) -> Tensor:
        out = values.new_zeros(self.system.n_systems)
        return out.scatter_reduce(0, self.system.batch, values.norm(dim=-1), "amax")

    def column(self, values: Tensor) -> Tensor:
        return values[self.system.batch][:, None]


def _chosen(surface: Surface, mask: Tensor, new: Point, old: Point) -> Point:
    """The point ``new`` for the systems of the mask (S,), ``old`` for the others."""
    column = surface.column(mask)
    return Point(
        torch.where(column, new.positions, old.positions),
        torch.where(mask, new.energy, old.energy),
        torch.where(column, new.forces, old.forces),
    )


def _capped(surface: Surface, displacement: Tensor, longest: float) -> Tensor:
    """A displacement shortened, in systems where a particle would move further than ``longest``."""
    return displacement * surface.column((longest / surface.largest(displacement).clamp(min=1e-30)).clamp(max=1.0))


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}={value}: must be positive")


class _Glide(NamedTuple):
    velocities: Tensor  # (N, 3)
    dt: Tensor  # (S,)
    mixing: Tensor  # (S,)
    downhill: Tensor  # (S,) steps downhill in a row
    age: Tensor  # (S,) steps in all


@dataclass(frozen=True)
class FIRE:
    r"""Fast inertial relaxation engine, version 2.0, with semi-implicit Euler steps and unit masses.

    Dynamics whose velocity is turned towards the force, :math:`v\leftarrow(1-\alpha)v+\alpha|v|F/|F|`, with a time step that
    grows while :math:`F\cdot v>0`; otherwise half a step back, velocity zero, and a shorter time step. Bitzek, Koskinen, Gaehler,
    Moseler and Gumbsch, Phys. Rev. Lett. 97, 170201 (2006); Guenole et al., Comput. Mater. Sci. 175, 109584 (2020), whose
    values of the other constants are used.

    Args:
        dt: first time step, in A eV^(-1/2) at mass 1; the longest is ten times that.
        longest: largest displacement of a particle in one step, in A.
    """

    dt: float = 0.1
    longest: float = 0.2

    def __post_init__(self) -> None:
        _positive(dt=self.dt, longest=self.longest)

    def init(self, point: Point) -> _Glide:
        one = torch.ones_like(point.energy)
        count = torch.zeros_like(point.energy, dtype=torch.long)
        return _Glide(torch.zeros_like(point.positions), self.dt * one, 0.25 * one, count, count)

    def step(self, surface: Surface, point: Point, memory: _Glide, moving: Tensor) -> tuple[Point, _Glide]:
        m = self._adapted(memory, surface.sum(point.forces * memory.velocities) > 0)
        uphill = surface.column((m.downhill == 0).to(m.dt.dtype))
        dt, mixing = surface.column(m.dt), surface.column(m.mixing) * (1 - uphill)
        back = -0.5 * dt * memory.velocities * uphill
        v = memory.velocities * (1 - uphill) + dt * point.forces
        speed, force = surface.sum(v * v).sqrt(), surface.sum(point.forces**2).sqrt().clamp(min=1e-30)
        v = (1 - mixing) * v + mixing * surface.column(speed / force) * point.forces
        move = _capped(surface, back + dt * v, self.longest) * surface.column(moving.to(dt.dtype))
        new = _chosen(surface, moving, surface(point.positions + move), point)
        return new, m._replace(velocities=v)

    def _adapted(self, m: _Glide, downhill: Tensor) -> _Glide:
        """Time step and mixing after a look at the power F.v; no shortening in the first 20 steps, which begin at rest."""
        count, age = torch.where(downhill, m.downhill + 1, 0), m.age + 1
        faster, slower = downhill & (count > 20), ~downhill & (age > 20)
        dt = torch.where(faster, (1.1 * m.dt).clamp(max=10 * self.dt), m.dt)
        dt = torch.where(slower, (0.5 * m.dt).clamp(min=0.02 * self.dt), dt)
        mixing = torch.where(faster, 0.99 * m.mixing, torch.where(downhill, m.mixing, 0.25))
        return _Glide(m.velocities, dt, mixing, count, age)


class _History(NamedTuple):
    steps: Tensor  # (M, N, 3) displacements, the newest last
    changes: Tensor  # (M, N, 3) changes of the gradient
    inverse: Tensor  # (M, S) 1 / (step . change), 0 where there is none
    scale: Tensor  # (S,) of the first guess of the inverse Hessian, A^2/eV
    fraction: Tensor  # (S,) of the step to try next


@dataclass(frozen=True)
class LBFGS:
    r"""Quasi-Newton steps :math:`-Hg` from the last ``memory`` displacements and changes of the gradient g, by the two-loop
    recursion (Nocedal 1980), with a backtracking line search.

    A step counts if the energy falls by Armijo's rule, or, where rounding hides that, does not rise while the slope along the
    step changes little (Hager and Zhang 2005); otherwise it is shortened by interpolation. Pairs without positive curvature are
    not stored.

    Args:
        memory: number of pairs kept; 20 of them hold 120 numbers per particle.
        longest: largest displacement of a particle in one step, in A.
        stiffness: guess of the curvature for the first step, in eV/A^2.
    """

    memory: int = 20
    longest: float = 0.2
    stiffness: float = 70.0

    def __post_init__(self) -> None:
        _positive(memory=self.memory, longest=self.longest, stiffness=self.stiffness)

    def init(self, point: Point) -> _History:
        none = torch.zeros_like(point.positions).repeat(self.memory, 1, 1)
        one = torch.ones_like(point.energy)
        return _History(none, none, torch.zeros_like(one).repeat(self.memory, 1), one / self.stiffness, one)

    def step(self, surface: Surface, point: Point, memory: _History, moving: Tensor) -> tuple[Point, _History]:
        way = self._direction(surface, point, memory)
        slope = -surface.sum(point.forces * way)
        t = memory.fraction
        trial = surface(point.positions + way * surface.column(t * moving))
        accepted = moving & self._good(surface, point, trial, way, slope, t)
        new = _chosen(surface, accepted, trial, point)
        memory = _remembered(surface, memory, point, new, accepted)
        rejected = moving & ~accepted
        shorter = _interpolated(trial.energy - point.energy, slope, t)
        forget = rejected & (shorter < 1e-4)  # the model is wrong: start again from the gradient
        memory = memory._replace(
            fraction=torch.where(rejected & ~forget, shorter, torch.ones_like(t)),
            inverse=memory.inverse * ~forget,
            scale=torch.where(forget, memory.scale.clamp(max=1 / self.stiffness) / 10, memory.scale),
        )
        return new, memory

    def _direction(self, surface: Surface, point: Point, h: _History) -> Tensor:
        """-H g (N, 3), capped; along the force where that would not lead downhill."""
        q, weights = -point.forces, []
        for s, y, rho in reversed(list(zip(h.steps, h.changes, h.inverse))):
            a = rho * surface.sum(s * q)
            q = q - surface.column(a) * y
            weights.append(a)
        r = surface.column(h.scale) * q
        for s, y, rho, a in zip(h.steps, h.changes, h.inverse, reversed(weights)):
            r = r + surface.column(a - rho * surface.sum(y * r)) * s
        downhill = surface.sum(r * point.forces) < 0
        plain = surface.column(h.scale) * point.forces
        return _capped(surface, torch.where(surface.column(downhill), -r, plain), self.longest)

    def _good(self, surface: Surface, old: Point, new: Point, way: Tensor, slope: Tensor, t: Tensor) -> Tensor:
        """(S,) whether a step counts."""
        armijo = new.energy <= old.energy + 1e-4 * t * slope
        level = new.energy <= old.energy + 1e-6 * old.energy.abs()
        flat = -surface.sum(new.forces * way) <= -0.8 * slope
        return armijo | (level & flat)


def _interpolated(rise: Tensor, slope: Tensor, t: Tensor) -> Tensor:
    """Minimum of the parabola through the energies and the slope, between a tenth and half of the step."""
    guess = -slope * t**2 / (2 * (rise - slope * t)).clamp(min=1e-300 if t.dtype == torch.float64 else 1e-30)
    return torch.minimum(torch.maximum(guess, 0.1 * t), 0.5 * t)


def _remembered(surface: Surface, h: _History, old: Point, new: Point, accepted: Tensor) -> _History:
    """The history with the last step in place of the oldest, for systems that took it."""
    s, y = new.positions - old.positions, old.forces - new.forces
    sy, yy = surface.sum(s * y), surface.sum(y * y)
    curved = accepted & (sy > 1e-8 * (surface.sum(s * s) * yy).sqrt())
    column = surface.column(curved)
    safe = torch.where(curved, sy, torch.ones_like(sy))
    return h._replace(
        steps=torch.where(column, torch.cat([h.steps[1:], s[None]]), h.steps),
        changes=torch.where(column, torch.cat([h.changes[1:], y[None]]), h.changes),
        inverse=torch.where(curved, torch.cat([h.inverse[1:], (1 / safe)[None]]), h.inverse),
        scale=torch.where(curved, sy / yy.clamp(min=1e-30), h.scale),
    )
