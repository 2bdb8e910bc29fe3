"""What every integrator must keep. A new one is a row in ``integrators.py``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mlmd.md import Langevin, State, rest, simulate, thermal_velocities
from mlmd.md.integrators import Force, Integrator
from mlmd.system import System
from tests.contracts.integrators import INTEGRATORS, Coupled, Row, force_of, liquid

every_integrator = pytest.mark.parametrize("row", INTEGRATORS, ids=lambda row: row.name)


def rows(quality: str) -> Any:
    return pytest.mark.parametrize("row", [r for r in INTEGRATORS if getattr(r, quality)], ids=lambda row: row.name)


KT = torch.tensor([0.02, 0.05, 0.08]).double()
DT = torch.tensor([0.02, 0.03, 0.04]).double()


def begin(integrator: Integrator, system: System, force: Force, kT: Tensor = KT) -> State:
    g = torch.Generator().manual_seed(3)
    state = rest(system, thermal_velocities(system, kT, g))
    result = force(system)
    return integrator.init(replace(state, forces=result.forces, energy=result.energy))


def roll(integrator: Integrator, state: State, force: Force, noises: list) -> Iterator[State]:
    for noise in noises:
        state = integrator.step(state, force, noise)
        yield state


def noises_of(integrator: Integrator, state: State, steps: int) -> list:
    g = torch.Generator().manual_seed(5)
    out = []
    for k in range(steps):
        out.append(integrator.noise(replace(state, step=k), g))
    return out


def tree(f: Any, value: Any) -> Any:
    """A function applied to every tensor of a tree of named tuples."""
    if isinstance(value, tuple):
        return type(value)(*(tree(f, v) for v in value))
    return None if value is None else f(value)


def tensors(state: State) -> list[Tensor]:
    found = [state.system.positions, state.system.cell, state.velocities, state.forces, state.energy]
    tree(found.append, state.memory)
    return found


@every_integrator
@torch.no_grad()
def test_a_batch_is_its_systems_one_by_one_with_the_same_noise(row: Row) -> None:
    potential, system = liquid(3)
    integrator, force = row.make(DT, KT), force_of(potential, system)
    start = begin(integrator, system, force)
    noises = noises_of(integrator, start, 7)
    *_, together = roll(integrator, start, force, noises)
    for k in range(3):
        mine = system.batch == k

        def own(x: Tensor, k: int = k, mine: Tensor = mine) -> Tensor:
            return x[mine] if len(x) == len(mine) else x[k : k + 1]

        single = system.select([k])
        alone, one = row.make(DT[k], KT[k]), force_of(potential, single)
        state = replace(rest(single, start.velocities[mine]), forces=start.forces[mine], energy=start.energy[k : k + 1])
        *_, apart = roll(alone, alone.init(state), one, [tree(own, n) for n in noises])
        for whole, part in zip(tensors(together)[:5], tensors(apart)[:5]):
            torch.testing.assert_close(own(whole), part, rtol=1e-12, atol=1e-12)


@every_integrator
@torch.no_grad()
def test_a_step_leaves_its_state_alone_and_gives_the_same_result_again(row: Row) -> None:
    potential, system = liquid(3)
    integrator, force = row.make(DT, KT), force_of(potential, system)
    start = begin(integrator, system, force)
    (noise,) = noises_of(integrator, start, 1)
    before = [x.clone() for x in tensors(start)]
    first, second = (integrator.step(replace(start, step=2), force, noise) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(before, tensors(start)))
    assert all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second)))
    assert first.step == 3


@every_integrator
def test_a_run_continued_from_any_state_is_bit_identical(row: Row) -> None:
    """The state taken apart into numbers and put together again, the generator at the place where it was."""
    potential, system = liquid(3)
    integrator = row.make(DT, KT)
    g = torch.Generator().manual_seed(1)
    start = rest(system, thermal_velocities(system, KT, g))
    middle, end = simulate(start, potential, integrator, 16, every=8, generator=g)
    g = torch.Generator().manual_seed(1)
    thermal_velocities(system, KT, g)
    (middle,) = simulate(start, potential, integrator, 8, every=8, generator=g)
    loaded = replace(middle, memory=tree(lambda x: torch.from_numpy(x.numpy().copy()), middle.memory))
    (again,) = simulate(loaded, potential, row.make(DT, KT), 8, every=8, generator=g)
    assert all(torch.equal(a, b) for a, b in zip(tensors(end), tensors(again)))


@rows("momentum")
def test_momentum_is_conserved(row: Row) -> None:
    potential, system = liquid(3)
    force = force_of(potential, system)
    integrator = row.make(DT, KT)
    v = begin(integrator, system, force).velocities
    (end,) = simulate(rest(system, v - _drift(system, v)), potential, integrator, 100, every=100)
    assert float(_drift(system, end.velocities).abs().max()) < 1e-10 * float(end.velocities.abs().max())


def _drift(system: System, v: Tensor) -> Tensor:
    """Velocity of the centre of mass of its system, for every particle."""
    m = system.masses.reshape(system.n_systems, -1, 1)
    mean = (m * v.reshape(system.n_systems, -1, 3)).sum(1) / m.sum(1)
    return mean[system.batch]


@every_integrator
def test_the_derivative_of_a_run_is_its_finite_difference(row: Row) -> None:
    """With respect to the depth of the potential and to a starting coordinate, through 12 steps."""
    potential, system = liquid(3)
    integrator = row.make(DT, KT)
    noises = noises_of(integrator, begin(integrator, system, force_of(potential, system)), 12)
    epsilon = dict(potential.named_parameters())["epsilon.value"]
    first = begin(integrator, system, force_of(potential, system)).velocities
    weights = torch.randn(system.positions.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def outcome(x: Tensor) -> Tensor:
        force = force_of(potential, system)
        result = force(replace(system, positions=x))
        state = replace(rest(replace(system, positions=x), first), forces=result.forces, energy=result.energy)
        *_, end = roll(integrator, integrator.init(state), force, noises)
        return (weights * end.system.positions).sum() + end.system.cell.sum() + (weights * end.velocities).sum()

    x = system.positions.clone().requires_grad_()
    by_depth, by_place = torch.autograd.grad(outcome(x), (epsilon, x))
    h = 1e-5
    place = torch.zeros_like(x)
    place[4, 1] = h
    with torch.no_grad():
        there, here = float(outcome(x + place)), float(outcome(x - place))
        value = epsilon.data.clone()
        epsilon.data = value + h
        deeper = float(outcome(x))
        epsilon.data = value - h
        shallower = float(outcome(x))
        epsilon.data = value
    assert float(by_place[4, 1]) == pytest.approx((there - here) / (2 * h), rel=1e-6)
    assert float(by_depth) == pytest.approx((deeper - shallower) / (2 * h), rel=1e-6)


def _coupled(systems: int, particles: int = 4) -> System:
    x = 0.3 * torch.randn(systems * particles, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    boxes = [System.single(part, masses=[1.0, 2.0, 1.5, 1.0]) for part in x.reshape(systems, particles, 3)]
    return System.stack(boxes)


@rows("conserved")
def test_the_error_of_the_conserved_quantity_is_of_second_order(row: Row) -> None:
    """Its spread over a fixed time falls to a quarter when the time step is halved; root mean square over replicas."""
    assert row.conserved is not None
    system, spread = _coupled(200), []
    for dt in (0.06, 0.03):
        g = torch.Generator().manual_seed(9)
        integrator = row.make(dt, 0.5)
        start = rest(system, thermal_velocities(system, 0.5, g))
        states = simulate(start, Coupled(), integrator, round(6 / dt), every=1, generator=g)
        spread.append(torch.stack([row.conserved(integrator, s) for s in states]).var(0).mean().sqrt())
    assert float(spread[0] / spread[1]) == pytest.approx(4.0, rel=0.25)


@rows("reversible")
def test_a_path_is_retraced_when_all_velocities_are_reversed(row: Row) -> None:
    system = _coupled(5)
    integrator = row.make(0.03, 0.5)
    start = rest(system, thermal_velocities(system, 0.5, torch.Generator().manual_seed(4)))
    (there,) = simulate(start, Coupled(), integrator, 100, every=100)
    memory = there.memory
    if hasattr(memory, "velocity"):
        memory = memory._replace(velocity=-memory.velocity)
    (back,) = simulate(replace(there, velocities=-there.velocities, memory=memory), Coupled(), integrator, 100, every=100)
    torch.testing.assert_close(back.system.positions, system.positions, rtol=0, atol=1e-9)
    torch.testing.assert_close(back.velocities, -start.velocities, rtol=0, atol=1e-9)


@rows("canonical")
def test_every_replica_has_the_moments_of_its_own_temperature(row: Row) -> None:
    """Exact for any potential: x . dU/dx has the mean 3 n kT, K the mean 3 n kT/2 and the variance 3 n kT^2/2."""
    kT = torch.tensor([0.2, 0.4, 0.8]).double().repeat_interleave(150)
    system = _coupled(len(kT))
    g = torch.Generator().manual_seed(6)
    integrator = row.make(0.03, kT)
    start = rest(system, thermal_velocities(system, kT, g))
    (warm,) = simulate(start, Coupled(), Langevin(0.04, kT, 1.0), 400, every=400, generator=g)
    states = list(simulate(warm, Coupled(), integrator, 1600, every=20, generator=g))[35:]
    for k in range(3):
        of = slice(150 * k, 150 * (k + 1))
        _is_mean(torch.stack([Coupled.virial(s)[of] / kT[of] for s in states]), 12)
        kinetic = torch.stack([s.kinetic_energy[of] / kT[of] for s in states])
        if row.velocities:
            _is_mean(kinetic, 6)
            _is_mean((kinetic - 6) ** 2, 6)
        else:
            assert float(kinetic.abs().max()) == 0


def _is_mean(samples: Tensor, expected: float) -> None:
    """Within 3.5 standard errors, from the means of the independent replicas."""
    replicas = samples.mean(0)
    error = float(replicas.std() / len(replicas) ** 0.5)
    assert float(replicas.mean()) == pytest.approx(expected, abs=3.5 * error), f"standard error {error:.3g}"
    assert error < 0.04 * expected


@pytest.mark.slow
@pytest.mark.parametrize("row", [r for r in INTEGRATORS if "Cell" not in r.name], ids=lambda row: row.name)
@torch.no_grad()
def test_a_step_is_traced_as_one_graph(row: Row) -> None:
    """No value is read by the host, no Python depends on data: what ``torch.compile`` needs to make one kernel of it."""
    system = _coupled(3)
    integrator, force = row.make(DT, KT), force_of(Coupled(), system)
    start = begin(integrator, system, force)
    (noise,) = noises_of(integrator, start, 1)

    def step(state: State, noise: Any) -> State:
        return integrator.step(state, force, noise)

    traced = torch.compile(step, backend="eager", fullgraph=True)(start, noise)
    for a, b in zip(tensors(traced), tensors(step(start, noise))):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_a_compiled_run_couples_to_pressure_as_often_as_the_eager_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced only, not translated to machine code, which takes a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    (row,) = [r for r in INTEGRATORS if r.name == "CellRescaling, CSVR"]
    potential, system = liquid(3)
    ends = []
    for compiled in (False, True):
        g = torch.Generator().manual_seed(1)
        start = rest(system, thermal_velocities(system, KT, g))
        (end,) = simulate(start, potential, row.make(DT, KT), 12, every=12, generator=g, compile=compiled)
        ends.append(tensors(end))
    for a, b in zip(*ends):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
