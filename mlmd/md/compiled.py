"""One time step as one compiled function of tensors: integrator, forces and all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mlmd.forces import Evaluation, Potential, energy_forces
from mlmd.md.barostats import CellRescaling
from mlmd.md.integrators import Force, Integrator, Noise
from mlmd.md.state import State, held
from mlmd.neighbors import Pairs
from mlmd.system import System

Numbers = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Any]


class Listed(Protocol):
    """What is compiled: a potential and an integrator, and the list in use, which changes."""

    @property
    def potential(self) -> Potential: ...
    @property
    def integrator(self) -> Integrator: ...
    @property
    def pairs(self) -> Pairs | None:
        """The list in use."""
        ...

    @property
    def force(self) -> Force:
        """The potential over that list."""
        ...


@dataclass(frozen=True)
class _Within:
    """The engine of the thermostat inside a barostat."""

    engine: Listed
    integrator: Integrator

    @property
    def potential(self) -> Potential:
        return self.engine.potential

    @property
    def pairs(self) -> Pairs | None:
        return self.engine.pairs

    @property
    def force(self) -> Force:
        return self.engine.force


def _between_couplings(engine: Listed, barostat: CellRescaling, state: State) -> Callable[[State, Noise], State]:
    """Compiled steps of the thermostat, and steps that change the cell as they are: those take the stress, and are few."""
    inner = compiled_step(_Within(engine, barostat.thermostat), replace(state, memory=state.memory.thermostat))

    def call(state: State, noise: Noise) -> State:
        if barostat.couples(state):
            return held(state, barostat.step(state, engine.force, noise))
        new = inner(replace(state, memory=state.memory.thermostat), noise.thermostat)
        return replace(new, memory=state.memory._replace(thermostat=new.memory))

    return call


def compiled_step(engine: Listed, state: State) -> Callable[[State, Tensor | None], State]:
    """``step(state, noise) -> state`` through ``torch.compile``, for states of the systems of ``state``.

    The number of pairs is a symbol in the compiled code, so that a new list needs no new code. On a GPU the step is
    recorded as a CUDA graph (mode ``reduce-overhead``) where there is no list; a list changes its length and so rules it out.
    Steps at which a barostat changes the cell are not compiled.

    The first call compiles, which takes seconds to tens of seconds.
    """
    if isinstance(engine.integrator, CellRescaling):
        return _between_couplings(engine, engine.integrator, state)
    template, integrator, potential = state.system, engine.integrator, engine.potential
    constants = replace(template, positions=template.positions[:0], cell=template.cell[:0])

    def step(numbers: Numbers, noise: Tensor | None, index: Tensor | None, shift: Tensor | None) -> Numbers:
        x, v, f, energy, cell, memory = numbers
        pairs = None if index is None or shift is None else Pairs(index, shift)

        def force(system: System, stress: bool = False) -> Evaluation:
            return energy_forces(potential, system, pairs, stress=stress)

        new = integrator.step(State(replace(constants, positions=x, cell=cell), v, f, energy, 0, memory), force, noise)
        return new.system.positions, new.velocities, new.forces, new.energy, new.system.cell, new.memory

    graphs = state.energy.is_cuda and potential.cutoff == 0
    fast = torch.compile(step, mode="reduce-overhead" if graphs else None)

    def call(state: State, noise: Tensor | None) -> State:
        index, shift = _listed(engine.pairs)
        numbers = (state.system.positions, state.velocities, state.forces, state.energy, state.system.cell, state.memory)
        if graphs:
            torch.compiler.cudagraph_mark_step_begin()
        x, v, f, energy, cell, memory = fast(numbers, noise, index, shift)
        if graphs:  # the next replay overwrites what this one returned
            x, v, f, energy, memory = pytree.tree_map_only(Tensor, torch.clone, (x, v, f, energy, memory))
        if cell.data_ptr() == state.system.cell.data_ptr():  # untouched: the same object says so to the neighbour list
            cell = state.system.cell
        new = replace(
            state, system=replace(state.system, positions=x, cell=cell), velocities=v, forces=f, energy=energy, memory=memory
        )
        return held(state, replace(new, step=state.step + 1))

    return call


def _listed(pairs: Pairs | None) -> tuple[Tensor | None, Tensor | None]:
    if pairs is None:
        return None, None
    torch._dynamo.mark_dynamic(pairs.index, 1)
    torch._dynamo.mark_dynamic(pairs.shift, 0)
    return pairs.index, pairs.shift
