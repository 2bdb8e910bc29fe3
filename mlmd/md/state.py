"""The state of a simulation, and how to begin one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mlmd.segment import segment_sum
from mlmd.system import System

T = TypeVar("T")


def replace(old: T, **fields: Any) -> T:
    """A copy with other fields, as ``dataclasses.replace`` but without its checks: a sixth of the time, several times a step."""
    if torch.compiler.is_compiling():
        return dataclasses.replace(old, **fields)  # type: ignore[type-var]
    new = object.__new__(type(old))
    new.__dict__.update(old.__dict__, **fields)
    return new


@dataclass(frozen=True, eq=False)
class State:
    """Everything a step needs; never modified, only replaced.

    system; velocities (N, 3) in A/fs; forces (N, 3) in eV/A and energy (S,) in eV at the positions; step count;
    memory: what an integrator keeps between steps, a nest of named tuples of tensors; owner: the integrator that made it.
    frozen: (S,) bool, systems stopped at their last good state; None: all of them move.
    """

    system: System
    velocities: Tensor
    forces: Tensor
    energy: Tensor
    step: int = 0
    memory: Any = None
    owner: Any = None
    frozen: Tensor | None = None

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
    """(S,) kinetic temperature of the velocities half a step on, v + (dt/2) F/m, in eV; without ``kick`` in the memory, ``kT``.

    With rigid bonds, whose forces a kick does not know: 2 K / (3 n - removed) of the velocities as they are.

    Splittings around velocity Verlet sample positions far better than full-step velocities, whose temperature falls short by a
    factor 1 - (dt omega)^2/4 for a mode omega; half-step velocities do not.
    """
    kick, removed = _named("kick", state.memory), _named("removed", state.memory)
    if removed is not None:
        free = segment_sum(3 * torch.ones_like(state.system.masses), state.system.batch, state.system.n_systems) - removed
        return 2 * state.kinetic_energy / free
    return state.kT if kick is None else replace(state, velocities=state.velocities + kick * state.forces).kT


def _named(name: str, memory: Any) -> Tensor | None:
    """The field ``name`` of a nest of named tuples."""
    if hasattr(memory, name):
        return getattr(memory, name)
    nested = (_named(name, m) for m in memory) if isinstance(memory, tuple) else ()
    return next((x for x in nested if x is not None), None)


def rest(system: System, velocities: Tensor | None = None) -> State:
    """A state whose forces are not evaluated yet (``simulate`` does that)."""
    zero = torch.zeros_like(system.positions)
    velocities = zero if velocities is None else velocities
    return State(system, velocities, zero, zero.new_full((system.n_systems,), torch.nan))


def moved(state: State, positions: Tensor) -> State:
    """The same state with the particles at other positions (forces not updated)."""
    return replace(state, system=replace(state.system, positions=positions))


def held(before: State, after: State) -> State:
    """``after``, with the frozen systems as they are in ``before``."""
    if before.frozen is None:
        return after
    systems = before.frozen
    atoms = systems[before.system.batch]

    def keep(old: Any, new: Any) -> Any:
        if not isinstance(new, Tensor) or new is old or new.ndim == 0:
            return new
        mask = {len(atoms): atoms, len(systems): systems}.get(len(new))
        return new if mask is None else torch.where(mask.reshape(-1, *[1] * (new.ndim - 1)), old, new)

    system = replace(
        after.system,
        positions=keep(before.system.positions, after.system.positions),
        cell=keep(before.system.cell, after.system.cell),
    )
    return replace(
        after,
        system=system,
        velocities=keep(before.velocities, after.velocities),
        forces=keep(before.forces, after.forces),
        energy=keep(before.energy, after.energy),
        memory=pytree.tree_map(keep, before.memory, after.memory),
        frozen=systems,
    )
