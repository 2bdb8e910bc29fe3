"""Integrators written as their splitting: velocity Verlet, and BAOAB Langevin dynamics.

Time step, temperature and friction may differ from system to system, as tensors of shape (S,).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mlmd.forces import Evaluation
from mlmd.md.state import State, moved, per_particle
from mlmd.system import System


class Force(Protocol):
    """Evaluates the potential with the neighbour list in use; ``stress=True`` adds the stress tensor (for barostats)."""

    def __call__(self, system: System, stress: bool = False) -> Evaluation: ...


class Integrator(Protocol):
    """``init`` prepares a state, ``step`` advances it by one time step; noise comes from outside, so a step is a pure function."""

    @property
    def dt(self) -> float | Tensor:
        """Time step in fs, a number or (S,)."""
        ...

    def init(self, state: State) -> State:
        """The state with the integrator's constants in its memory."""
        ...

    def noise(self, state: State, generator: torch.Generator | None) -> Tensor | None:
        """Random numbers of one step."""
        ...

    def step(self, state: State, force: Force, noise: Tensor | None) -> State:
        """One time step; the state that comes in is not changed."""
        ...


class Columns(NamedTuple):
    """Per-particle columns (N, 1) that a step multiplies by."""

    kick: Tensor  # dt / (2 m)
    half: Tensor  # dt / 2
    keep: Tensor = torch.ones(())  # exp(-friction dt)
    shake: Tensor = torch.zeros(())  # sqrt((1 - keep^2) kT / m)


def kick(state: State, c: Columns) -> State:
    """v <- v + (dt/2) F/m."""
    return replace(state, velocities=state.velocities + c.kick * state.forces)


def drift(state: State, c: Columns) -> State:
    """x <- x + (dt/2) v."""
    return moved(state, state.system.positions + c.half * state.velocities)


def ornstein_uhlenbeck(state: State, c: Columns, noise: Tensor) -> State:
    """v <- e^(-friction dt) v + sqrt((1 - e^(-2 friction dt)) kT/m) noise, exact for any time step."""
    return replace(state, velocities=c.keep * state.velocities + c.shake * noise)


def evaluate(state: State, force: Force) -> State:
    """Forces and energy at the present positions."""
    result = force(state.system)
    return replace(state, forces=result.forces, energy=result.energy)


@dataclass(frozen=True, eq=False)
class VelocityVerlet:
    """Newton's equations, energy conserving to second order: kick, drift, drift, force, kick (Swope et al. 1982).

    dt: time step in fs, a number or (S,).
    """

    dt: float | Tensor

    def __post_init__(self) -> None:
        _positive(dt=self.dt)

    def init(self, state: State) -> State:
        dt = per_particle(self.dt, state.system)
        return replace(state, memory=Columns(dt / 2 / state.system.masses[:, None], dt / 2))

    def noise(self, state: State, generator: torch.Generator | None) -> None:
        return None

    def step(self, state: State, force: Force, noise: Tensor | None = None) -> State:
        c = state.memory
        state = kick(state, c)
        state = drift(drift(state, c), c)
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
        mass, keep = system.masses[:, None], torch.exp(-gamma * dt)
        return replace(state, memory=Columns(dt / 2 / mass, dt / 2, keep, ((1 - keep**2) * kT / mass).sqrt()))

    def noise(self, state: State, generator: torch.Generator | None) -> Tensor:
        v = state.velocities
        return torch.randn(v.shape, dtype=v.dtype, device=v.device, generator=generator)

    def step(self, state: State, force: Force, noise: Tensor | None) -> State:
        c = state.memory
        state = kick(state, c)
        state = drift(state, c)
        state = ornstein_uhlenbeck(state, c, noise)  # type: ignore[arg-type]
        state = drift(state, c)
        state = evaluate(state, force)
        return replace(kick(state, c), step=state.step + 1)


def _positive(**values: float | Tensor) -> None:
    for name, value in values.items():
        if not bool((torch.as_tensor(value) > 0).all()):
            raise ValueError(f"{name}={value}: must be positive (units: fs, eV, 1/fs; write dt=2*fs, kT=300*kelvin, friction=1/ps)")
