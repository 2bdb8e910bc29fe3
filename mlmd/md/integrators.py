"""Integrators written as their splitting: velocity Verlet, BAOAB Langevin dynamics, and its limit without inertia.

Time step, temperature and friction may differ from system to system, as tensors of shape (S,). Thermostats that act on the whole
system are in :mod:`mlmd.md.thermostats`, pressure coupling in :mod:`mlmd.md.barostats`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mlmd.forces import Evaluation
from mlmd.md.state import State, moved, per_particle, replace
from mlmd.system import System


class Force(Protocol):
    """Evaluates the potential with the neighbour list in use; ``stress=True`` adds the stress tensor (for barostats)."""

    def __call__(self, system: System, stress: bool = False) -> Evaluation: ...


Noise = Any  # a tensor, a NamedTuple of tensors, or None: whatever ``noise`` of the same integrator returns


class Integrator(Protocol):
    """``init`` prepares a state, ``step`` advances it by one time step; noise comes from outside, so a step is a pure function.

    ``memory`` of the state is a NamedTuple of tensors (or of such): constants made by ``init``, and variables of the integrator.
    ``init`` of a state that this kind of integrator has left makes the constants anew and keeps the variables, so that a run
    continued from any state is bit-identical to one that never stopped.
    """

    @property
    def dt(self) -> float | Tensor:
        """Time step in fs, a number or (S,)."""
        ...

    def init(self, state: State) -> State:
        """The state with the integrator's constants in its memory."""
        ...

    def noise(self, state: State, generator: torch.Generator | None) -> Noise:
        """Random numbers of one step."""
        ...

    def step(self, state: State, force: Force, noise: Noise) -> State:
        """One time step; the state that comes in is not changed."""
        ...


class Halves(Protocol):
    """The factors (N, 3) of half a step, which every memory with velocities holds: dt / (2 m) and dt / 2."""

    @property
    def kick(self) -> Tensor: ...
    @property
    def half(self) -> Tensor: ...


class Columns(NamedTuple):
    """Per-particle factors (N, 3) that a step multiplies by: as large as the velocities, three times faster than columns (N, 1)."""

    kick: Tensor  # dt / (2 m)
    half: Tensor  # dt / 2
    keep: Tensor = torch.ones(())  # exp(-friction dt)
    shake: Tensor = torch.zeros(())  # sqrt((1 - keep^2) kT / m)


def halves(dt: float | Tensor, system: System) -> tuple[Tensor, Tensor]:
    """dt / (2 m) and dt / 2, (N, 3) each, for a time step dt in fs, a number or (S,)."""
    half = per_particle(dt, system) / 2
    return spread(half / system.masses[:, None]), spread(half)


def spread(column: Tensor) -> Tensor:
    """A column (N, 1) written out three times, (N, 3)."""
    return column.expand(-1, 3).contiguous()


def kick(state: State, c: Halves) -> State:
    """v <- v + (dt/2) F/m."""
    return replace(state, velocities=torch.addcmul(state.velocities, c.kick, state.forces))


def drift(state: State, c: Halves) -> State:
    """x <- x + (dt/2) v."""
    return moved(state, torch.addcmul(state.system.positions, c.half, state.velocities))


def whole_drift(state: State, c: Halves) -> State:
    """x <- x + dt v; two halves in single precision round positions twice, which doubles the random walk of the energy."""
    return moved(state, torch.addcmul(state.system.positions, c.half, state.velocities, value=2))


def ornstein_uhlenbeck(state: State, c: Columns, noise: Tensor) -> State:
    """v <- e^(-friction dt) v + sqrt((1 - e^(-2 friction dt)) kT/m) noise, exact for any time step."""
    return replace(state, velocities=torch.addcmul(c.keep * state.velocities, c.shake, noise))


def evaluate(state: State, force: Force) -> State:
    """Forces and energy at the present positions."""
    result = force(state.system)
    return replace(state, forces=result.forces, energy=result.energy)


@dataclass(frozen=True, eq=False)
class VelocityVerlet:
    """Newton's equations, energy conserving to second order: kick, drift, force, kick (Swope et al. 1982).

    dt: time step in fs, a number or (S,).
    """

    dt: float | Tensor

    def __post_init__(self) -> None:
        _positive(dt=self.dt)

    def init(self, state: State) -> State:
        return replace(state, memory=Columns(*halves(self.dt, state.system)))

    def noise(self, state: State, generator: torch.Generator | None) -> None:
        return None

    def step(self, state: State, force: Force, noise: Tensor | None = None) -> State:
        c = state.memory
        state = kick(state, c)
        state = whole_drift(state, c)
        state = evaluate(state, force)
        return replace(kick(state, c), step=state.step + 1)


@dataclass(frozen=True, eq=False)
class Langevin:
    r"""Langevin dynamics :math:`m\dot v=F-\gamma m v+\sqrt{2\gamma m kT}\,\xi` by the BAOAB splitting
    (Leimkuhler and Matthews 2013), whose configurational error is far smaller than its kinetic one.

    | symbol | argument | unit |
    |---|---|---|
    | Delta t | dt | fs |
    | kT | kT | eV |
    | gamma | friction | 1/fs |

    Each is a number or one per system (S,).
    """

    dt: float | Tensor
    kT: float | Tensor
    friction: float | Tensor

    def __post_init__(self) -> None:
        _positive(dt=self.dt, kT=self.kT, friction=self.friction)

    def init(self, state: State) -> State:
        system = state.system
        dt, kT, gamma = (per_particle(v, system) for v in (self.dt, self.kT, self.friction))
        keep = torch.exp(-gamma * dt)
        shake = ((1 - keep**2) * kT / system.masses[:, None]).sqrt()
        return replace(state, memory=Columns(*halves(self.dt, system), spread(keep), spread(shake)))

    def noise(self, state: State, generator: torch.Generator | None) -> Tensor:
        return _normal(state, generator)

    def step(self, state: State, force: Force, noise: Tensor) -> State:
        c = state.memory
        state = kick(state, c)
        state = drift(state, c)
        state = ornstein_uhlenbeck(state, c, noise)
        state = drift(state, c)
        state = evaluate(state, force)
        return replace(kick(state, c), step=state.step + 1)


class Overdamped(NamedTuple):
    """What :class:`Brownian` keeps: columns (N, 1), and the noise of the last step (N, 3)."""

    kick: Tensor  # 0: there are no velocities to kick
    slide: Tensor  # dt / (friction m)
    jump: Tensor  # sqrt(2 kT dt / (friction m))
    last: Tensor


@dataclass(frozen=True, eq=False)
class Brownian:
    r"""Overdamped Langevin dynamics :math:`\gamma m\dot x=F+\sqrt{2\gamma m kT}\,\xi`: positions alone, no velocities.

    :math:`x_{k+1}=x_k+\frac{\Delta t}{\gamma m}F(x_k)+\sqrt{\frac{2kT\Delta t}{\gamma m}}\,\tfrac12(R_k+R_{k+1})`, the limit of
    BAOAB for large friction (Leimkuhler and Matthews 2013), which samples positions to second order where Euler-Maruyama has
    first order, for one evaluation of the force as well. Velocities are set to zero: the state has no kinetic energy and no
    kinetic temperature. The diffusion coefficient of a free particle is kT/(friction m). A fresh run begins with
    :math:`R_0=0`: its first step jumps half as far.

    | symbol | argument | unit |
    |---|---|---|
    | Delta t | dt | fs |
    | kT | kT | eV |
    | gamma | friction | 1/fs |

    Each is a number or one per system (S,).
    """

    dt: float | Tensor
    kT: float | Tensor
    friction: float | Tensor

    def __post_init__(self) -> None:
        _positive(dt=self.dt, kT=self.kT, friction=self.friction)

    def init(self, state: State) -> State:
        dt, kT, gamma = (per_particle(v, state.system) for v in (self.dt, self.kT, self.friction))
        slide, rest = dt / (gamma * state.system.masses[:, None]), torch.zeros_like(state.velocities)
        last = state.memory.last if isinstance(state.memory, Overdamped) else rest
        return replace(state, velocities=rest, memory=Overdamped(torch.zeros_like(slide), slide, (2 * kT * slide).sqrt(), last))

    def noise(self, state: State, generator: torch.Generator | None) -> Tensor:
        return _normal(state, generator)

    def step(self, state: State, force: Force, noise: Tensor) -> State:
        c = state.memory
        there = state.system.positions + c.slide * state.forces + c.jump * 0.5 * (c.last + noise)
        state = evaluate(moved(state, there), force)
        return replace(state, memory=c._replace(last=noise), step=state.step + 1)


def _normal(state: State, generator: torch.Generator | None) -> Tensor:
    v = state.velocities
    return torch.randn(v.shape, dtype=v.dtype, device=v.device, generator=generator)


def _positive(**values: float | Tensor) -> None:
    for name, value in values.items():
        if not bool((torch.as_tensor(value) > 0).all()):
            raise ValueError(f"{name}={value}: must be positive (units: fs, eV, 1/fs; write dt=2*fs, kT=300*kelvin, friction=1/ps)")
