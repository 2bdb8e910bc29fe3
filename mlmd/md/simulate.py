"""The runner: blocks of steps over one neighbour list, reporters between them, and a guard against leaving the finite numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from mlmd.cell import completed, widths
from mlmd.errors import Unstable
from mlmd.forces import Evaluation, Potential, energy_forces
from mlmd.md.integrators import Integrator
from mlmd.md.state import State
from mlmd.neighbors import Pairs, neighbors
from mlmd.segment import segment_sum
from mlmd.system import System

BLOCK = 50  # steps between two looks at the largest displacement and at the finiteness of the energies


class Reporter(Protocol):
    """Something that wants the state every so many steps."""

    every: int

    def __call__(self, state: State) -> None: ...


@torch.no_grad()
def simulate(
    state: State,
    potential: Potential,
    integrator: Integrator,
    steps: int,
    *,
    every: int = 100,
    report: Sequence[Reporter] = (),
    generator: torch.Generator | None = None,
    skin: float = 1.0,
) -> Iterator[State]:
    """Advance ``state`` by ``steps`` steps and yield it every ``every`` steps; all systems of the batch move together.

    The neighbour list is built for cutoff + skin and used until a particle has moved further than skin/2. A block in which
    that happened is thrown away and repeated from its (immutable) start with a new list and the same noise, so the result
    does not depend on the block length.

    Args:
        state: start, for example ``rest(system, thermal_velocities(system, kT))``; forces are evaluated if they are missing.
        steps: time steps in all. every: steps between two yielded states.
        report: callables with an attribute ``every``.
        generator: source of the noise; the default generator if None.
        skin: extra range of the neighbour list in A.

    Raises:
        Unstable: when an energy or position stops being finite; carries the last good state and the systems concerned.
        ValueError: steps or every below 1.
    """
    if steps < 0 or every < 1:
        raise ValueError(f"steps={steps}, every={every}: steps must not be negative and every must be at least 1")
    engine = _Engine(potential, skin)
    state = integrator.init(engine.evaluated(state))
    start, last = state.step, state.step + steps
    periods = [every, *(r.every for r in report)]
    while state.step < last:
        due = min(last, *(p * (1 + (state.step - start) // p) + start for p in periods))
        state = engine.advance(state, integrator, min(due - state.step, BLOCK), generator)
        done = state.step - start
        for r in report:
            if done % r.every == 0:
                r(state)
        if done % every == 0 or state.step == last:
            yield state


@dataclass
class _Engine:
    """A potential with the neighbour list in use."""

    potential: Potential
    skin: float
    pairs: Pairs | None = None
    origin: System | None = None  # where the list was built

    @property
    def needs_pairs(self) -> bool:
        return self.potential.cutoff > 0

    def force(self, system: System, stress: bool = False) -> Evaluation:
        return energy_forces(self.potential, system, self.pairs, stress=stress)

    def rebuild(self, system: System) -> None:
        reach = self.potential.cutoff + self.skin
        if system.periodic:
            room = float(torch.where(system.pbc, widths(system.cell), torch.full_like(system.cell[..., 0], torch.inf)).min()) / 2
            if self.potential.cutoff <= room < reach:
                reach, self.skin = room, room - self.potential.cutoff
        self.pairs, self.origin = neighbors(system, reach), system

    def evaluated(self, state: State) -> State:
        if self.needs_pairs:
            self.rebuild(state.system)
        if bool(torch.isfinite(state.energy).all()):
            return state
        result = self.force(state.system)
        state = replace(state, forces=result.forces, energy=result.energy)
        _check_finite(state, state)
        return state

    def advance(self, state: State, integrator: Integrator, steps: int, generator: torch.Generator | None) -> State:
        if not self.needs_pairs:
            new, _ = self._block(state, integrator, steps, generator)
            _check_finite(new, state)
            return new
        while steps:
            block, replay = steps, _rewinder(generator, state.system.positions.device)
            while True:
                new, moved = self._block(state, integrator, block, generator)
                if moved <= self.skin / 2 or block == 1:
                    break
                replay()  # same noise again, from the start of the block, with a fresh list and half the steps
                self.rebuild(state.system)
                block = max(1, block // 2)
            _check_finite(new, state)
            state, steps = new, steps - block
            if moved > self.skin / 4:
                self.rebuild(state.system)
        return state

    def _block(self, state: State, integrator: Integrator, steps: int, generator: torch.Generator | None) -> tuple[State, float]:
        farthest = state.energy.new_zeros(())
        for _ in range(steps):
            state = integrator.step(state, self.force, integrator.noise(state, generator))
            if self.needs_pairs:
                farthest = torch.maximum(farthest, self._strayed(state.system))
        return state, float(farthest) if self.needs_pairs else 0.0

    def _strayed(self, system: System) -> Tensor:
        """How far any particle has come since the list was made; with a cell that changes, beyond moving along with it.

        A cell that shrinks by a share e brings pairs at the end of the list nearer by e (cutoff + skin): half of that counts too.
        """
        origin = self.origin
        assert origin is not None
        if system.cell is origin.cell:
            return (system.positions - origin.positions).square().sum(-1).max().sqrt()
        strain = torch.linalg.solve(completed(origin.cell, origin.pbc), completed(system.cell, system.pbc))
        along = torch.einsum("ni,nij->nj", origin.positions, strain[origin.batch])
        eye = torch.eye(3, dtype=strain.dtype, device=strain.device)
        nearer = torch.linalg.matrix_norm(strain - eye, ord=2).max() * (self.potential.cutoff + self.skin) / 2
        return (system.positions - along).square().sum(-1).max().sqrt() + nearer


def _rewinder(generator: torch.Generator | None, device: torch.device) -> Callable[[], object]:
    """A call that puts the source of noise back to where it is now."""
    if generator is not None:
        return partial(generator.set_state, generator.get_state())
    if device.type == "cuda":
        return partial(torch.cuda.set_rng_state, torch.cuda.get_rng_state(device), device)
    return partial(torch.set_rng_state, torch.get_rng_state())


def _check_finite(new: State, last_good: State) -> None:
    if bool(torch.isfinite(new.energy.sum() + new.system.positions.sum())):
        return
    bad_atoms = (~torch.isfinite(new.system.positions).all(-1)).to(new.energy.dtype)
    bad = (segment_sum(bad_atoms, new.system.batch, new.system.n_systems) > 0) | ~torch.isfinite(new.energy)
    raise Unstable(new.step, torch.nonzero(bad).flatten().tolist(), last_good)
