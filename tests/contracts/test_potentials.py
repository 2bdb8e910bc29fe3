"""What every potential must keep. A new one is a row in ``potentials.py``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mlmd.forces import Evaluation, energy_forces
from mlmd.neighbors import Pairs
from mlmd.potentials.bonded import Bonded, Law
from mlmd.potentials.compose import Potential
from mlmd.store import load, save
from mlmd.system import System
from tests.contracts.potentials import POTENTIALS, Row, pairs_for, system_for

pytestmark = pytest.mark.filterwarnings("ignore:UniformField along a periodic direction")
every_potential = pytest.mark.parametrize("row", POTENTIALS, ids=lambda row: row.name)
of_pairs = pytest.mark.parametrize("row", [r for r in POTENTIALS if not r.molecule], ids=lambda row: row.name)


def _with_boundaries(rows: list[Row], only: bool | None = None) -> pytest.MarkDecorator:
    """Every row in every boundary that it is defined in, or in the one given."""
    cases = [(r, p) for r in rows for p in r.boundaries if only is None or p == only]
    return pytest.mark.parametrize(("row", "periodic"), cases, ids=[f"{r.name}-{'periodic' if p else 'open'}" for r, p in cases])


in_both_boundaries = _with_boundaries(POTENTIALS)
pairs_in_both_boundaries = _with_boundaries([r for r in POTENTIALS if not r.molecule])
in_a_cell = _with_boundaries(POTENTIALS, only=True)
pairs_in_a_cell = _with_boundaries([r for r in POTENTIALS if not r.molecule], only=True)
in_the_open = _with_boundaries(POTENTIALS, only=False)
pairs_in_the_open = _with_boundaries([r for r in POTENTIALS if not r.molecule], only=False)


def any_system(row: Row, **kwargs: int) -> System:
    """In a cell where the potential allows it."""
    return system_for(row, periodic=True in row.boundaries, **kwargs)


def evaluate(potential: nn.Module, system: System, **kwargs: bool) -> Evaluation:
    """With a list made afresh, by autograd, without the graph of the parameters."""
    out = energy_forces(potential, system, pairs_for(potential, system), **kwargs)  # type: ignore[arg-type]
    return Evaluation(out.energy.detach(), out.forces.detach(), None if out.stress is None else out.stress.detach())


def rotation(seed: int = 0) -> Tensor:
    """A proper rotation."""
    q, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    return q * torch.linalg.det(q)


def close(a: Tensor, b: Tensor, rtol: float = 1e-9, atol: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


@in_both_boundaries
def test_forces_are_the_central_difference_of_the_energy(row: Row, periodic: bool) -> None:
    potential, system = row.make(), system_for(row, periodic=periodic)
    forces, h = evaluate(potential, system).forces, 1e-5
    assert forces.abs().max() > 1e-3
    for atom, axis in [(0, 0), (3, 1), (7, 2), (9, 0)]:
        step = torch.zeros_like(system.positions)
        step[atom, axis] = h
        up, down = (evaluate(potential, system.at(system.positions + s)).energy for s in (step, -step))
        close(forces[atom, axis], -((up - down) / (2 * h))[0], rtol=1e-6, atol=1e-7)


@in_both_boundaries
def test_forces_sum_to_zero_and_exert_no_torque_on_an_open_system(row: Row, periodic: bool) -> None:
    if not row.free:
        pytest.skip("an outer field")
    potential, system = row.make(), system_for(row, periodic=periodic)
    forces = evaluate(potential, system).forces
    close(forces.sum(0), torch.zeros(3, dtype=torch.float64))
    if not periodic:
        close(torch.linalg.cross(system.positions, forces).sum(0), torch.zeros(3, dtype=torch.float64))


@in_both_boundaries
def test_energy_follows_translations_and_rotations_and_forces_turn_along(row: Row, periodic: bool) -> None:
    if not row.free:
        pytest.skip("an outer field")
    potential, system = row.make(), system_for(row, periodic=periodic)
    R, move = rotation(), torch.tensor([3.0, -7.0, 11.0], dtype=torch.float64)
    turned = replace(system, positions=system.positions @ R.T + move, cell=system.cell @ R.T)
    a, b = evaluate(potential, system), evaluate(potential, turned)
    close(b.energy, a.energy)
    close(b.forces, a.forces @ R.T)


@in_the_open
def test_mirror_images_have_equal_energy_exactly_where_the_law_says_so(row: Row, periodic: bool) -> None:
    potential, system = row.make(), system_for(row, periodic=periodic)
    mirrored = system.at(-system.positions)
    same = torch.allclose(evaluate(potential, system).energy, evaluate(potential, mirrored).energy, rtol=1e-9)
    assert same == row.mirror


@pairs_in_both_boundaries
def test_exchanging_particles_with_their_types_permutes_the_forces(row: Row, periodic: bool) -> None:
    if not row.alike:
        pytest.skip("molecules have an order")
    potential, system = row.make(), system_for(row, periodic=periodic)
    assert system.charges is not None
    order = torch.randperm(len(system), generator=torch.Generator().manual_seed(2))
    shuffled = replace(system, positions=system.positions[order], types=system.types[order], charges=system.charges[order])
    a, b = evaluate(potential, system), evaluate(potential, shuffled)
    close(b.energy, a.energy)
    close(b.forces, a.forces[order])


@in_a_cell
def test_stress_is_the_derivative_of_the_energy_with_respect_to_strain(row: Row, periodic: bool) -> None:
    potential, system = row.make(), system_for(row, periodic=periodic)
    stress, h = evaluate(potential, system, stress=True).stress, 1e-5
    assert stress is not None
    close(stress[0], stress[0].T)
    volume = torch.linalg.det(system.cell[0])
    for a, b in [(0, 0), (1, 1), (2, 2), (0, 1), (1, 2)]:
        strain = torch.zeros(3, 3, dtype=torch.float64)
        strain[a, b] += 0.5 * h
        strain[b, a] += 0.5 * h
        up, down = (
            evaluate(potential, replace(system, positions=system.positions @ g, cell=system.cell @ g)).energy
            for g in (torch.eye(3) + strain, torch.eye(3) - strain)
        )
        close(stress[0, a, b], ((up - down) / (2 * h * volume))[0], rtol=1e-5, atol=1e-8)


@in_both_boundaries
def test_a_batch_of_unequal_systems_gives_what_each_gives_alone(row: Row, periodic: bool) -> None:
    potential = row.make()
    alone = [system_for(row, molecules=k, periodic=periodic, seed=k) for k in (1, 3, 2)]
    together = evaluate(potential, System.stack(alone))
    each = [evaluate(potential, s) for s in alone]
    close(together.energy, torch.cat([e.energy for e in each]))
    close(together.forces, torch.cat([e.forces for e in each]))


@pairs_in_a_cell
def test_moving_particles_by_lattice_vectors_changes_nothing(row: Row, periodic: bool) -> None:
    if not row.free:
        pytest.skip("an outer field")
    potential, system = row.make(), system_for(row, periodic=periodic)
    images = torch.randint(-2, 3, (len(system), 3), generator=torch.Generator().manual_seed(3)).double()
    a, b = evaluate(potential, system), evaluate(potential, system.at(system.positions + images @ system.cell[0]))
    close(b.energy, a.energy)
    close(b.forces, a.forces)


@in_a_cell
def test_a_doubled_cell_has_twice_the_energy(row: Row, periodic: bool) -> None:
    if not row.free or not row.extensive:
        pytest.skip("an outer field")
    potential, system = row.make(), system_for(row, periodic=periodic)
    a, edges = system.cell[0, 0], torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64)
    twin = System.stack([system, system.at(system.positions + a)])
    doubled = replace(
        twin, cell=system.cell * edges[:, None], pbc=system.pbc, batch=torch.zeros_like(twin.batch), size=2 * len(system)
    )
    one, two = evaluate(potential, system), evaluate(potential, doubled)
    close(two.energy, 2.0 * one.energy)
    close(two.forces, torch.cat([one.forces, one.forces]))


@every_potential
def test_pairs_beyond_the_cutoff_are_ignored(row: Row) -> None:
    potential, system = row.make(), any_system(row)
    if pairs_for(potential, system) is None:
        pytest.skip("wants no pairs")
    tight, wide = pairs_for(potential, system), pairs_for(potential, system, skin=1.0)
    assert tight is not None and wide is not None and len(wide) > len(tight)
    a, b = (energy_forces(potential, system, p) for p in (tight, wide))  # type: ignore[arg-type]
    close(b.energy, a.energy)
    close(b.forces, a.forces)


@pairs_in_the_open
def test_energy_and_force_are_continuous_where_a_particle_leaves_the_cutoff(row: Row, periodic: bool) -> None:
    potential = row.make()
    if not float(potential.cutoff) > 0:  # type: ignore[arg-type]
        pytest.skip("has no cutoff")
    others = torch.tensor([[0.0, 0, 0], [1.2, 0.9, 0], [50.0, 0, 0], [0, 50.0, 0]], dtype=torch.float64)
    rc, energies, forces = float(potential.cutoff), [], []  # type: ignore[arg-type]
    for r in (rc - 1e-6, rc + 1e-6):
        x = torch.cat([others, torch.tensor([[0.0, 0.0, r]], dtype=torch.float64)])
        out = evaluate(potential, System.single(x, types=[0, 1, 0, 0, 2], charges=[0.5, -0.3, 0.3, -0.2, -0.3]))
        energies.append(out.energy)
        forces.append(out.forces)
    close(energies[0], energies[1], rtol=0, atol=1e-9)
    close(forces[0], forces[1], rtol=0, atol=1e-4)


@pairs_in_the_open
def test_coinciding_particles_give_finite_numbers(row: Row, periodic: bool) -> None:
    potential = row.make().float()
    system = System.single(torch.zeros(5, 3), types=[0, 1, 2, 0, 1], charges=[0.5, -0.3, -0.2, 0.1, -0.1])
    i, j = torch.nonzero(~torch.eye(5, dtype=torch.bool), as_tuple=True)
    pairs = Pairs(torch.stack([i, j]), torch.zeros(20, 3, dtype=torch.long))
    out = energy_forces(potential, system, pairs)  # type: ignore[arg-type]
    (second,) = torch.autograd.grad(out.forces.square().sum() + out.energy.sum(), [_first_parameter(potential)], allow_unused=True)
    for value in (out.energy, out.forces, torch.zeros(1) if second is None else second):
        assert torch.isfinite(value).all()


def _first_parameter(potential: nn.Module) -> Tensor:
    trainable = [p for p in potential.parameters() if p.requires_grad]
    return trainable[0] if trainable else torch.zeros(1, requires_grad=True)


@every_potential
def test_a_single_particle_far_from_all_others_feels_nothing(row: Row) -> None:
    potential = row.make()
    if row.molecule or not row.free or not row.local:
        pytest.skip("acts on molecules, or at any distance")
    system = System.single(torch.tensor([[0.0, 0, 0], [50.0, 0, 0]], dtype=torch.float64), charges=[0.4, -0.4])
    pairs = pairs_for(potential, system)
    with torch.no_grad():
        simulated = energy_forces(potential, system, pairs)  # type: ignore[arg-type]
    learned = energy_forces(potential, system, pairs)  # type: ignore[arg-type]
    for out in (simulated, learned):
        assert out.energy.shape == (1,)
        assert torch.equal(out.forces.detach(), torch.zeros_like(system.positions))


@every_potential
def test_forces_can_be_differentiated_twice(row: Row) -> None:
    potential, system = row.make(), system_for(row, molecules=1, periodic=False not in row.boundaries)
    pairs = pairs_for(potential, system)
    target = torch.randn(system.positions.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    parameters = [p for p in potential.parameters() if p.requires_grad]

    def force_loss(x: Tensor, *_: Tensor) -> Tensor:
        return (energy_forces(potential, system.at(x), pairs).forces - target).square().sum()  # type: ignore[arg-type]

    x = system.positions.clone().requires_grad_()
    assert torch.autograd.gradcheck(force_loss, (x, *parameters), fast_mode=True, atol=1e-4, rtol=1e-4)


@in_both_boundaries
def test_simulation_without_a_graph_gives_the_same_energy_and_forces(row: Row, periodic: bool) -> None:
    potential, system = row.make(), system_for(row, periodic=periodic)
    a = evaluate(potential, system)
    with torch.no_grad():
        b = evaluate(potential, system)
    close(b.energy, a.energy)
    close(b.forces, a.forces)
    assert not b.energy.requires_grad and not b.forces.requires_grad


@every_potential
def test_single_precision_agrees_to_its_rounding(row: Row) -> None:
    system = any_system(row)
    a = evaluate(row.make(), system)
    b = evaluate(row.make().float(), system.to(torch.float32))
    assert b.energy.dtype == b.forces.dtype == torch.float32
    scale = float(a.forces.abs().max())
    close(b.energy.double(), a.energy, rtol=1e-5, atol=2e-5)
    close(b.forces.double(), a.forces, rtol=0, atol=2e-5 * max(scale, 1.0))


@every_potential
def test_parameters_travel_through_a_state_dict(row: Row) -> None:
    system = any_system(row)
    trained, fresh = row.make(), row.make()
    with torch.no_grad():
        for p in trained.parameters():
            p.mul_(1.05)
    fresh.load_state_dict(trained.state_dict())
    close(evaluate(fresh, system).energy, evaluate(trained, system).energy, rtol=0, atol=0)


@every_potential
def test_a_saved_potential_is_built_again_with_its_parameters(row: Row, tmp_path: Path) -> None:
    trained, system = row.make(), any_system(row)
    with torch.no_grad():
        for p in trained.parameters():
            p.mul_(1.05)
    again = load(save(tmp_path / "potential.npz", trained))
    close(evaluate(again, system).energy, evaluate(trained, system).energy, rtol=0, atol=0)


@of_pairs
def test_a_missing_list_is_refused_by_name(row: Row) -> None:
    if not float(row.make().cutoff) > 0:  # type: ignore[arg-type]
        pytest.skip("wants no list")
    with pytest.raises(ValueError, match="needs pairs"):
        row.make()(any_system(row), None)


@pytest.mark.slow
@every_potential
def test_compiled_and_eager_agree(row: Row) -> None:
    torch._dynamo.reset()
    potential, system = row.make(), any_system(row)
    pairs = pairs_for(potential, system)
    eager = evaluate(potential, system)

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        out = energy_forces(potential, replace(system, positions=x), pairs)  # type: ignore[arg-type]
        return out.energy, out.forces

    energy, forces = torch.compile(both, fullgraph=True)(system.positions)
    close(energy.detach(), eager.energy)
    close(forces.detach(), eager.forces)


def test_every_potential_of_the_library_has_a_row() -> None:
    def below(cls: type) -> set[type]:
        return {cls}.union(*(below(c) for c in cls.__subclasses__()))

    library = {c for base in (Potential, Law, Bonded) for c in below(base) if c.__module__.startswith("mlmd.")}
    concrete = {c.__name__ for c in library if not c.__name__.startswith("_")} - {
        "Potential",
        "PairPotential",
        "ChargePotential",
        "Field",
        "Law",
    }
    tested = {type(m).__name__ for row in POTENTIALS for m in row.make().modules()}
    assert concrete <= tested, f"without a row in potentials.py: {sorted(concrete - tested)}"
