"""Accelerated pair laws: the table is the law, whatever the cell, the types and the precision, and it notices training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mlmd import jit
from mlmd.forces import Evaluation, energy_forces
from mlmd.md import VelocityVerlet, rest, simulate, thermal_velocities
from mlmd.neighbors import cell_pairs, dense_pairs, neighbors
from mlmd.potentials.accelerated import Accelerated, accelerated
from mlmd.potentials.accelerated_bonded import AcceleratedBonded
from mlmd.potentials.bonded import Bonded, HarmonicBonds
from mlmd.potentials.internal import InternalCoordinates
from mlmd.potentials.pair import WCA, Excluding, LennardJones, Morse, PairPotential, SoftSphere, Yukawa
from mlmd.potentials.spline import CubicSplinePair, TabulatedPair
from mlmd.store import load, save
from mlmd.system import System

pytestmark = pytest.mark.skipif(not jit.available(), reason="numba is not installed")
TRICLINIC = [[13.0, 0.0, 0.0], [2.5, 12.5, 0.0], [-1.5, 2.0, 13.5]]


def mixture(n: int = 5, cell: object = TRICLINIC, dtype: torch.dtype = torch.float64, seed: int = 0) -> System:
    """A shaken lattice of n^3 particles of types 2, 5 and 7, some of them periods away from the cell."""
    generator = torch.Generator().manual_seed(seed)
    lattice = torch.tensor(TRICLINIC, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(*[torch.arange(n) / n] * 3, indexing="ij"), -1).reshape(-1, 3).double()
    away = torch.randint(-2, 3, grid.shape, generator=generator) if cell is not None else 0
    x = (grid + away) @ lattice + 0.3 * torch.randn(grid.shape, generator=generator, dtype=torch.float64)
    types = torch.tensor([2, 5, 7])[torch.randint(0, 3, (len(x),), generator=generator)]
    return System.single(x.to(dtype), types=types, cell=cell)


def by_types(*values: float) -> torch.Tensor:
    """(8, 8) table with one value per pair of the types 2, 5, 7."""
    out = torch.ones(8, 8, dtype=torch.float64)
    for (a, b), v in zip([(2, 2), (2, 5), (2, 7), (5, 5), (5, 7), (7, 7)], values):
        out[a, b] = out[b, a] = v
    return out


def _spline() -> PairPotential:
    law = CubicSplinePair(1.8, 6.0, 20, types=[(2, 2), (2, 5), (7, 7)])
    law.coefficients.data = torch.randn(law.coefficients.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return law


LAWS = {
    "LennardJones": LennardJones(0.01, 2.4, 6.0),
    "LennardJones by types": LennardJones(by_types(0.1, 0.2, 0.1, 0.05, 0.1, 0.3), by_types(2.3, 2.2, 2.4, 2.3, 2.4, 2.5), 6.0),
    "LennardJones cut sharply": LennardJones(0.01, 2.4, 6.0, onset=6.0),
    "WCA": WCA(0.01, 2.6),
    "Morse": Morse(0.4, 1.3, 2.4, 6.0),
    "Yukawa": Yukawa(2.0, 0.4, 6.0),
    "SoftSphere": SoftSphere(0.2, 2.4, 6.0, power=9),
    "CubicSplinePair": _spline(),
    "TabulatedPair": TabulatedPair(r := torch.linspace(1.8, 6.0, 60, dtype=torch.float64), 20 / r**4 - 1 / r),
}


def simulated(potential: nn.Module, system: System, pairs: object = None) -> Evaluation:
    pairs = neighbors(system, float(potential.cutoff)) if pairs is None else pairs  # type: ignore[arg-type]
    with torch.no_grad():
        return energy_forces(potential, system, pairs)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 2e-5), (torch.float32, 5e-5)], ids=["double", "single"])
@pytest.mark.parametrize("cell", [TRICLINIC, None], ids=["periodic", "open"])
def test_energy_and_forces_are_those_of_the_law(name: str, dtype: torch.dtype, rtol: float, cell: object) -> None:
    system, law = mixture(cell=cell, dtype=dtype), LAWS[name]
    fast, exact = simulated(Accelerated(law), system), simulated(law, mixture(cell=cell))
    scale = float(exact.forces.abs().max())
    torch.testing.assert_close(fast.forces.double(), exact.forces, rtol=rtol, atol=rtol * scale)
    torch.testing.assert_close(fast.energy.double(), exact.energy, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize("name", ["LennardJones", "LennardJones by types", "LennardJones cut sharply", "Morse", "Yukawa"])
def test_smooth_laws_are_met_to_the_tolerance_asked_for(name: str) -> None:
    system, law = mixture(), LAWS[name]
    potential = Accelerated(law, tolerance=1e-8)
    fast, exact = simulated(potential, system), simulated(law, system)
    assert potential.error < 1e-8
    scale = float(exact.forces.abs().max())
    assert float((fast.forces - exact.forces).abs().max()) < 3e-8 * scale


def test_every_kind_of_list_gives_the_same_sums() -> None:
    system, potential = mixture(), Accelerated(LAWS["LennardJones by types"])
    results = [simulated(potential, system, build(system, 6.1)) for build in (dense_pairs, cell_pairs)]
    torch.testing.assert_close(results[0].forces, results[1].forces, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(results[0].energy, results[1].energy, rtol=1e-11, atol=1e-12)


def test_particles_without_neighbours_feel_nothing_wherever_they_stand_in_the_list() -> None:
    x = torch.tensor(
        [[0.2, 5.0, 5.0], [10.8, 5.0, 5.0], [5.0, 5.0, 5.0], [6.0, 6.5, 6.0], [1.0, 1.0, 0.5], [8.0, 1.0, 9.0]]
    ).double()
    system, law = System.single(x, cell=11.0), LennardJones(0.01, 1.2, 2.5)
    exact = simulated(law, system)
    assert float(exact.forces[4:].abs().max()) == 0 < float(exact.forces[0].abs().max())
    for build in (dense_pairs, cell_pairs):
        torch.testing.assert_close(
            simulated(Accelerated(law), system, build(system, 2.5)).forces, exact.forces, rtol=1e-5, atol=1e-9
        )


def test_cells_narrower_than_twice_the_cutoff_count_all_images() -> None:
    system, law = mixture(2, cell=[[6.0, 0, 0], [1.0, 7.0, 0], [0.5, -1.0, 6.5]]), LAWS["Yukawa"]
    torch.testing.assert_close(simulated(Accelerated(law), system).forces, simulated(law, system).forces, rtol=1e-5, atol=1e-7)


def test_a_batch_gives_what_each_system_gives_alone() -> None:
    potential = Accelerated(LAWS["LennardJones by types"])
    alone = [mixture(4, seed=1), mixture(5, seed=2), mixture(3, cell=None, seed=3)]
    together, each = simulated(potential, System.stack(alone)), [simulated(potential, s) for s in alone]
    torch.testing.assert_close(together.energy, torch.cat([e.energy for e in each]))
    torch.testing.assert_close(together.forces, torch.cat([e.forces for e in each]))


def test_the_table_follows_the_parameters_types_and_precision() -> None:
    law = LennardJones(0.01, 2.4, 6.0)
    potential, system = Accelerated(law), mixture()
    pairs = neighbors(system, 6.0)
    before = simulated(potential, system, pairs)
    law.epsilon.value.data *= 2.0
    torch.testing.assert_close(simulated(potential, system, pairs).forces, 2.0 * before.forces)
    law.epsilon.load_state_dict({"value": torch.tensor(0.03, dtype=torch.float64)}, assign=True)
    torch.testing.assert_close(simulated(potential, system, neighbors(system, 6.0)).forces, 3.0 * before.forces)
    assert simulated(potential, system.to(torch.float32), pairs).forces.dtype == torch.float32


def test_learning_sees_the_law_itself() -> None:
    potential, system = Accelerated(law := LennardJones(0.01, 2.4, 6.0)), mixture()
    pairs = neighbors(system, 6.0)
    out, exact = (energy_forces(p, system, pairs, stress=True) for p in (potential, law))
    assert torch.equal(out.forces, exact.forces)
    assert torch.equal(out.stress, exact.stress)  # type: ignore[arg-type]
    out.forces.square().sum().backward()
    assert law.epsilon.value.grad is not None


def test_energy_is_conserved_as_well_as_with_the_law() -> None:
    system = mixture(5, dtype=torch.float64)
    law = LennardJones(0.01, 2.2, 6.0)
    start = rest(system, thermal_velocities(system, 0.01, torch.Generator().manual_seed(0)))
    drift = []
    for potential in (law, Accelerated(law)):
        states = list(simulate(start, potential, VelocityVerlet(0.01), 300, every=10))
        total = torch.cat([s.energy + s.kinetic_energy for s in states])
        drift.append(float((total - total.mean()).abs().max()) / float(states[-1].kinetic_energy))
    assert drift[1] < 1.2 * drift[0] + 1e-9


def test_overlapping_particles_are_pushed_apart_by_finite_forces() -> None:
    system = System.single(torch.tensor([[0.0, 0, 0], [0.3, 0, 0], [0.3, 0, 0], [0.0, 0.004, 0]], dtype=torch.float64))
    law = LennardJones(0.01, 2.4, 6.0)
    fast, exact = simulated(Accelerated(law), system), simulated(law, system)
    assert bool(torch.isfinite(fast.forces).all())
    torch.testing.assert_close(fast.energy, exact.energy, rtol=1e-4, atol=0)


def test_a_law_that_jumps_is_refused() -> None:
    class Step(PairPotential):
        def pair(self, r: torch.Tensor, zi: torch.Tensor, zj: torch.Tensor) -> torch.Tensor:
            return torch.where(r < 3.0, 1.0 / r, 3.0 + 0.0 * r)

    with pytest.raises(ValueError, match="the law jumps below its cutoff 6 A"):
        simulated(Accelerated(Step(6.0)), mixture())
    with pytest.raises(ValueError, match="only pair laws"):
        Accelerated(nn.Linear(2, 2))  # type: ignore[arg-type]


def test_pair_laws_are_found_inside_of_other_potentials(tmp_path: object) -> None:
    bonds = Bonded(InternalCoordinates(5, torch.tensor([[0, 1], [1, 2]])), [HarmonicBonds([0, 1], torch.ones(2), torch.ones(2))])
    whole = Excluding(LAWS["LennardJones"], [(0, 1), (1, 2)], size=5) + 0.5 * LAWS["Yukawa"] + bonds.double()
    fast, system = accelerated(whole), mixture()
    assert sum(isinstance(m, Accelerated) for m in fast.modules()) == 2
    assert sum(isinstance(m, AcceleratedBonded) for m in fast.modules()) == 1
    assert not any(isinstance(m, Accelerated | AcceleratedBonded) for m in whole.modules())
    a, b = simulated(fast, system), simulated(whole, system)
    torch.testing.assert_close(a.forces, b.forces, rtol=1e-5, atol=1e-6)
    path = save(tmp_path / "law.npz", Accelerated(LAWS["Morse"], 1e-7))  # type: ignore[operator]
    torch.testing.assert_close(simulated(load(path), system).forces, simulated(LAWS["Morse"], system).forces, rtol=1e-5, atol=1e-6)
