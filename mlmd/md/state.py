"""The state of a simulation, and how to begin one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mlmd.segment import segment_sum
from mlmd.system import System


@dataclass(frozen=True, eq=False)
class State:
    """Everything a step needs; never modified, only replaced.

    system; velocities (N, 3) in A/fs; forces (N, 3) in eV/A and energy (S,) in eV at the positions; step count;
    memory: what an integrator keeps between steps.
    """

    system: System
    velocities: Tensor
    forces: Tensor
    energy: Tensor
    step: int = 0
    memory: Any = None

    @property
    def kinetic_energy(self) -> Tensor:
        """(S,) sum of m v^2 / 2, in eV."""
        per_particle = 0.5 * self.system.masses * self.velocities.square().sum(-1)
        return segment_sum(per_particle, self.system.batch, self.system.n_systems)

    @property
    def kT(self) -> Tensor:
        """(S,) kinetic temperature 2 K / (3 n), in eV."""
        count = segment_sum(torch.ones_like(self.system.masses), self.system.batch, self.system.n_systems)
        return 2 * self.kinetic_energy / (3 * count)


def thermal_velocities(system: System, kT: float | Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Maxwell-Boltzmann velocities (N, 3): every component normal with variance kT/m."""
    x = system.positions
    noise = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
    return noise * (per_particle(kT, system) / system.masses[:, None]).sqrt()


def per_particle(value: float | Tensor, system: System) -> Tensor:
    """A number, or one per system (S,), as a column (N, 1) over the particles."""
    value = torch.as_tensor(value, dtype=system.positions.dtype, device=system.positions.device)
    if value.ndim == 0:
        return value.expand(len(system), 1)
    if value.shape != (system.n_systems,):
        raise ValueError(f"one value per system expected: shape {tuple(value.shape)} for {system.n_systems} systems")
    return value[system.batch][:, None]


def half_step_kT(state: State) -> Tensor:
    """(S,) kinetic temperature of the velocities half a step on, v + (dt/2) F/m, in eV; needs a state that was integrated.

    Splittings around velocity Verlet sample positions far better than full-step velocities, whose temperature falls short by a
    factor 1 - (dt omega)^2/4 for a mode omega; half-step velocities do not.
    """
    return replace(state, velocities=state.velocities + state.memory.kick * state.forces).kT


def rest(system: System, velocities: Tensor | None = None) -> State:
    """A state whose forces are not evaluated yet (``simulate`` does that)."""
    zero = torch.zeros_like(system.positions)
    velocities = zero if velocities is None else velocities
    return State(system, velocities, zero, zero.new_full((system.n_systems,), torch.nan))


def moved(state: State, positions: Tensor) -> State:
    """The same state with the particles at other positions (forces not updated)."""
    return replace(state, system=replace(state.system, positions=positions))
