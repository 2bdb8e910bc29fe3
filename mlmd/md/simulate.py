"""The runner: steps over one neighbour list, reporters between them, and a guard against runaways."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from mlmd import jit
from mlmd.cell import completed, widths
from mlmd.errors import StopSimulation, Unstable
from mlmd.forces import Evaluation, Potential, energy_forces
from mlmd.md.compiled import compiled_step
from mlmd.md.integrators import Integrator
from mlmd.md.limits import Guard, Limits, Violation
from mlmd.md.state import State, held
from mlmd.neighbors import Pairs, neighbors
from mlmd.system import System

LOOK = 10  # steps between two looks at the limits
Step = Callable[[State, Tensor | None], State]


class Reporter(Protocol):
    """Something that wants the state every so many steps.

    It may end the simulation by returning True or raising ``StopSimulation``. An attribute ``fresh_list`` that is true asks
    for a new neighbour list after it was called, so that a run that begins there goes on bit for bit. A method ``finish`` is
    called when the simulation ends, in whatever way.
    """

    every: int

    def __call__(self, state: State) -> Any: ...


@torch.no_grad()
def simulate(
    state: State,
    potential: Potential,
    integrator: Integrator,
    steps: int,
    *,
    every: int = 100,
    report: Sequence[Reporter] = (),
    stop: Sequence[Callable[[State], Any]] = (),
    generator: torch.Generator | None = None,
    skin: float = 1.0,
    limits: Limits = Limits(),  # noqa: B008  (frozen)
    on_unstable: Literal["raise", "freeze"] = "raise",
    compile: bool = False,
) -> Iterator[State]:
    """Advance ``state`` by ``steps`` steps and yield it every ``every`` steps; all systems of the batch move together.

    The neighbour list is built for cutoff + skin and used until a particle has moved further than skin/2. A step in which
    that happened is repeated with a new list and the same noise, so which list a step uses depends on the trajectory alone.

    The limits are looked at every 10 steps. When one is passed, these steps are repeated one by one to name the first.

    Args:
        state: start, for example ``rest(system, thermal_velocities(system, kT))``; forces are evaluated if they are missing.
            A state that this same integrator made goes on with its memory (thermostat variables); otherwise memory is new.
        steps: time steps in all. every: steps between two yielded states.
        report: callables with an attribute ``every``. stop: callables that end the simulation by returning True, asked every
            ``every`` steps unless they have an attribute of that name; the state at that step is yielded.
        generator: source of the noise; the default generator if None.
        skin: extra range of the neighbour list in A.
        limits: what counts as a runaway.
        on_unstable: ``"raise"``, or ``"freeze"``: a system that passes a limit is stopped at its last good state and named in a
            warning and in ``state.frozen``, and the others go on, bit for bit as if it had behaved (as far as the potential
            treats systems apart: a matrix product may round differently for another number of rows).
        compile: compile the whole step by ``torch.compile``; pays for long runs, the first step takes tens of seconds.

    Raises:
        Unstable: a limit is passed or a number is not finite; carries the last good state, systems, atom, quantity and value.
        ValueError: steps below 0, every below 1, skin not positive, an unknown ``on_unstable``.
    """
    if steps < 0 or every < 1:
        raise ValueError(f"steps={steps}, every={every}: steps must not be negative and every must be at least 1")
    if not skin > 0:
        raise ValueError(f"skin={skin}: must be positive, in A")
    if on_unstable not in ("raise", "freeze"):
        raise ValueError(f"on_unstable={on_unstable!r}: must be 'raise' or 'freeze'")
    engine = _Engine(potential, integrator, skin, limits, on_unstable == "freeze", compile)
    state = engine.begin(state)
    start, last = state.step, state.step + steps
    asked: list[Callable[[State], Any]] = [*report, *stop]
    watchers = [(w, int(getattr(w, "every", every))) for w in asked]
    periods = {every, *(p for _, p in watchers)}
    if min(periods) < 1:
        raise ValueError(f"every={min(periods)} of a reporter: must be at least 1")
    try:
        while state.step < last:
            due = min(last, *(p * (1 + (state.step - start) // p) + start for p in periods))
            state = engine.advance(state, due - state.step, generator)
            done = state.step - start
            called = [w for w, period in watchers if done % period == 0]
            ends = [_ends(w, state) for w in called]
            if engine.needs_pairs and any(getattr(w, "fresh_list", False) for w in called):
                engine.rebuild(state.system)
            if done % every == 0 or state.step == last or any(ends):
                yield state
            if any(ends):
                return
    finally:
        engine.pairs = engine.origin = None
        for w, _ in watchers:
            getattr(w, "finish", _nothing)()


def _ends(watcher: Callable[[State], Any], state: State) -> bool:
    try:
        return watcher(state) is True
    except StopSimulation:
        return True


def _nothing() -> None:
    return None


@dataclass
class _Engine:
    """A potential and an integrator with the neighbour list in use."""

    potential: Potential
    integrator: Integrator
    skin: float
    limits: Limits
    freeze: bool
    compile: bool
    pairs: Pairs | None = None
    origin: System | None = None  # where the list was built
    slack: float = 0.0  # how far particles may stray from there
    measured: tuple[Tensor, float] | None = None  # a cell, and half of its smallest width
    age: int = 0  # steps since
    guard: Guard = field(init=False)
    compiled: Step | None = None

    @property
    def needs_pairs(self) -> bool:
        return self.potential.cutoff > 0

    def force(self, system: System, stress: bool = False) -> Evaluation:
        return energy_forces(self.potential, system, self.pairs, stress=stress)

    def begin(self, state: State) -> State:
        """Forces, memory, limits and the first list."""
        self.guard = Guard(self.limits, state.system, getattr(self.integrator, "kT", None))
        if self.needs_pairs:
            self.rebuild(state.system)
        if not bool(torch.isfinite(state.energy).all()):
            result = self.force(state.system)
            state = replace(state, forces=result.forces, energy=result.energy)
            bad = self.guard.violation(state, state)
            if bad is not None and not torch.isfinite(torch.tensor(bad.value)):
                raise _unstable(bad, state.step, state)
        if state.owner is not self.integrator:
            state = replace(self.integrator.init(state), owner=self.integrator)
        self.compiled = compiled_step(self, state) if self.compile else None
        return state

    def rebuild(self, system: System, slack: float | None = None) -> None:
        """A new list of pairs within cutoff + skin, or + 2 slack where a single step is longer than half the skin."""
        reach, self.slack = self.potential.cutoff + self.skin, self.skin / 2
        if slack is not None:
            reach, self.slack = self.potential.cutoff + 2 * slack, slack
        elif system.periodic:
            room = self._room(system)
            if self.potential.cutoff < room < reach:
                reach, self.slack = room, (room - self.potential.cutoff) / 2
        self.pairs, self.origin, self.age = neighbors(system, reach), system, 0

    def _room(self, system: System) -> float:
        """Half the smallest width of the periodic cells."""
        if self.measured is None or self.measured[0] is not system.cell:
            wide = torch.where(system.pbc, widths(system.cell), torch.full_like(system.cell[..., 0], torch.inf))
            self.measured = system.cell, float(wide.min()) / 2
        return self.measured[1]

    def advance(self, state: State, steps: int, generator: torch.Generator | None) -> State:
        """``steps`` steps on, looking at the limits wherever the step count is a multiple of 10, and at the end."""
        last = state.step + steps
        while state.step < last:
            block = min(last, (state.step // LOOK + 1) * LOOK) - state.step
            noise = [self.integrator.noise(state, generator) for _ in range(block)]
            listed = self.pairs, self.origin, self.slack, self.age
            before, after = self._run(state, noise)
            if not self.guard.healthy(before, after):
                self.pairs, self.origin, self.slack, self.age = listed
                after = self._one_by_one(state, noise)
            state = after
        return state

    def _one_by_one(self, state: State, noise: list[Tensor | None]) -> State:
        for xi in noise:
            before, (_, state) = state, self._run(state, [xi])
            bad = self.guard.violation(before, state)
            if bad is not None:
                if not self.freeze:
                    raise _unstable(bad, state.step, before)
                state = _frozen(before, state, bad)
        return state

    def _run(self, state: State, noise: list[Tensor | None]) -> tuple[State, State]:
        """The states before and after the last of the steps, each made with a list that holds for it."""
        before = state
        if not self.needs_pairs:
            for xi in noise:
                before, state = state, self.step(state, xi)
            return before, state
        ahead = LOOK if state.energy.is_cuda else 1  # reading a number costs nothing on a CPU and a step on a GPU
        while noise:
            states = [state]
            for xi in noise[:ahead]:
                states.append(self.step(states[-1], xi))
            valid, used_up = self._validity(states[1:])
            if valid == 0:
                if self.origin is state.system and not self.guard.healthy(state, states[1]):
                    return state, states[1]
                self.rebuild(state.system, self._wider(states[1]) if self.origin is state.system else None)
                continue
            before, state, noise = states[valid - 1], states[valid], noise[valid:]
            self.age += valid
            if used_up:
                self.rebuild(state.system)
        return before, state

    def _validity(self, states: list[State]) -> tuple[int, bool]:
        """How many of these states the list holds for, and whether it would not hold for the one after at the pace so far."""
        if len(states) == 1 and self._near(states[0].system):
            return 1, False
        for k, moved in enumerate(torch.stack([self._strayed(s.system) for s in states]).tolist()):
            if moved > self.slack:
                return k, False
            if moved * (1 + 1 / (self.age + k + 1)) > self.slack:
                return k + 1, True
        return len(states), False

    def _near(self, system: System) -> bool:
        """Whether the list is surely good for another step, from few operations."""
        assert self.origin is not None
        if system.cell is not self.origin.cell:
            return False
        reach = self.slack / (1 + 1 / (self.age + 1))
        x, y = system.positions, self.origin.positions
        if x.is_cuda or not jit.available():
            return float((x - y).abs_().max()) * 3**0.5 <= reach
        return not _any_beyond(x.detach().numpy(), y.detach().numpy(), reach**2)

    def _wider(self, state: State) -> float:
        return 1.1 * float(self._strayed(state.system))

    def step(self, state: State, noise: Tensor | None) -> State:
        """One time step; no attribute, which would keep an engine and its lists alive in a circle of references."""
        if self.compiled is not None:
            return self.compiled(state, noise)
        return held(state, self.integrator.step(state, self.force, noise))

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
        nearer = torch.linalg.matrix_norm(strain - eye, ord=2).max() * (self.potential.cutoff / 2 + self.slack)
        return (system.positions - along).square().sum(-1).max().sqrt() + nearer


@jit.jit
def _any_beyond(x, y, square):
    """Whether a row of x (N, 3) is further from that of y than the root of ``square``."""
    beyond = 0
    for i in range(len(x)):
        dx, dy, dz = x[i, 0] - y[i, 0], x[i, 1] - y[i, 1], x[i, 2] - y[i, 2]
        beyond += dx * dx + dy * dy + dz * dz > square
    return beyond > 0


def _frozen(before: State, after: State, bad: Violation) -> State:
    """Stop the systems that passed a limit where they were before the step."""
    mask = torch.zeros(before.system.n_systems, dtype=torch.bool, device=before.energy.device)
    mask[bad.systems] = True
    mask = mask if before.frozen is None else mask | before.frozen
    if bool(mask.all()):
        raise _unstable(bad, after.step, before)
    warnings.warn(f"system(s) {bad.systems} stopped at step {after.step}: {bad}; the others go on", stacklevel=2)
    return held(replace(before, frozen=mask), after)


def _unstable(bad: Violation, step: int, last_good: State) -> Unstable:
    return Unstable(step, bad.systems, last_good, str(bad), quantity=bad.quantity, value=bad.value, atom=bad.atom)
