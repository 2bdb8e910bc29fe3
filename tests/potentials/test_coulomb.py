"""Charges interact as the lattice sums of crystals, the published formulas and other packages say."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mlmd.forces import Evaluation, energy_forces
from mlmd.neighbors import neighbors
from mlmd.potentials.compose import Potential
from mlmd.potentials.coulomb import Coulomb, CoulombDSF, erf_over
from mlmd.potentials.ewald import Ewald
from mlmd.potentials.pair import Excluding, LennardJones
from mlmd.system import System
from mlmd.units import coulomb_constant as k
from mlmd.units import kJ_mol

F64 = torch.float64
FCC = [[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]
BCC_CORNER = [[0.0, 0.0, 0.0]]


def evaluate(potential: Potential, system: System, **kwargs: bool) -> Evaluation:
    pairs = neighbors(system, potential.cutoff) if potential.cutoff else None
    with torch.no_grad():
        return energy_forces(potential, system, pairs, **kwargs)


def crystal(cations: list[list[float]], offset: list[float], edge: float) -> System:
    """A conventional cubic cell with +1 on a lattice and -1 on the same lattice moved by ``offset``."""
    plus = torch.tensor(cations, dtype=F64)
    x = torch.cat([plus, plus + torch.tensor(offset, dtype=F64)]) * edge
    return System.single(x, charges=[1.0] * len(plus) + [-1.0] * len(plus), cell=edge)


def melt(n: int = 2, width: float = 0.5, seed: int = 1) -> System:
    """Rock salt of n^3 conventional cells (5.64 A), every ion moved at random: charges in disorder."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.cartesian_prod(*[torch.arange(2 * n)] * 3)
    x = 2.82 * grid.to(F64)
    x = x + width * torch.randn(x.shape, generator=generator, dtype=F64)
    return System.single(x, charges=(1.0 - 2.0 * (grid.sum(1) % 2)).to(F64), cell=5.64 * n)


def molecules(seed: int = 2, rectangular: bool = False) -> System:
    """Four chains of three charges in a triclinic or rectangular cell, some cut by its faces."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.tensor([[1.0, 1, 1], [8, 2, 3], [2, 8.5, 7], [7, 7, 9.3]], dtype=F64)
    steps = torch.randn(4, 3, 3, generator=generator, dtype=F64)
    x = (corner[:, None] + (steps / steps.norm(dim=-1, keepdim=True)).cumsum(1)).reshape(-1, 3)
    cell = torch.tensor([[11.0, 0, 0], [2.0, 10.5, 0], [-1.5, 1.0, 12.0]], dtype=F64)
    return System.single(x, charges=[0.4, -0.8, 0.4] * 4, cell=cell.diagonal() if rectangular else cell)


CHAIN = [(0, 1), (1, 2)]


@pytest.mark.parametrize(
    ("system", "nearest", "madelung"),
    [
        (crystal(FCC, [0.5, 0.5, 0.5], 5.64), 5.64 / 2, 1.747564594633182),
        (crystal(BCC_CORNER, [0.5, 0.5, 0.5], 4.12), 4.12 * math.sqrt(3) / 2, 1.762674773070992),
        (crystal(FCC, [0.25, 0.25, 0.25], 5.41), 5.41 * math.sqrt(3) / 4, 1.638055053388794),
    ],
    ids=["NaCl", "CsCl", "zincblende"],
)
def test_the_lattice_energy_of_a_crystal_is_its_madelung_constant(system: System, nearest: float, madelung: float) -> None:
    """Constants: Sakamoto, J. Chem. Phys. 28, 164 (1958)."""
    out = evaluate(Ewald(6.0, accuracy=1e-10), system, stress=True)
    assert -float(out.energy) / (len(system) / 2) * nearest / k == pytest.approx(madelung, abs=1e-8)
    torch.testing.assert_close(out.forces, torch.zeros_like(out.forces), rtol=0, atol=1e-8)
    # E ~ 1/L: the pressure of a cubic crystal is E / 3V
    expected = out.energy / 3 / torch.linalg.det(system.cell)
    assert out.stress is not None
    torch.testing.assert_close(out.stress[0], -torch.eye(3, dtype=F64) * expected, rtol=0, atol=1e-9)


def test_a_charge_in_its_neutralising_background_has_the_energy_of_the_wigner_lattice() -> None:
    """E = -2.837297 q^2 / 2L: Cichocki, Felderhof and Hinsen, Phys. Rev. A 39, 5350 (1989)."""
    system = System.single(torch.zeros(1, 3, dtype=F64), charges=[2.0], cell=10.0)
    energy = evaluate(Ewald(4.0, accuracy=1e-10, background=True), system).energy
    assert float(energy) == pytest.approx(-2.8372974794 * 4.0 * k / 20.0, rel=1e-8)


def test_the_sum_does_not_depend_on_how_it_is_split() -> None:
    system = molecules()
    reference = evaluate(Ewald(5.0, accuracy=1e-13), system, stress=True)
    for cutoff, alpha in [(5.0, 1.3), (9.0, 0.7), (14.0, 0.45)]:  # longer than half the cell: several images of a pair
        out = evaluate(Ewald(cutoff, accuracy=1e-14, alpha=alpha), system, stress=True)
        torch.testing.assert_close(out.energy, reference.energy, rtol=1e-8, atol=0)
        torch.testing.assert_close(out.forces, reference.forces, rtol=0, atol=1e-7)
        torch.testing.assert_close(out.stress, reference.stress, rtol=0, atol=1e-9)


def test_systems_in_different_cells_are_summed_together_as_alone() -> None:
    potential = Ewald(4.0, accuracy=1e-11)
    alone = [molecules(), melt(1), molecules(rectangular=True)]
    together, each = evaluate(potential, System.stack(alone)), [evaluate(potential, s) for s in alone]
    torch.testing.assert_close(together.energy, torch.cat([e.energy for e in each]), rtol=1e-10, atol=0)
    torch.testing.assert_close(together.forces, torch.cat([e.forces for e in each]), rtol=0, atol=1e-8)


def test_a_changed_cell_is_noticed() -> None:
    potential, small, large = Ewald(2.5, accuracy=1e-10), melt(1), melt(2)
    first = evaluate(potential, small).energy
    evaluate(potential, large)
    torch.testing.assert_close(evaluate(potential, small).energy, first, rtol=0, atol=0)
    torch.testing.assert_close(evaluate(potential, large).energy, evaluate(Ewald(2.5, accuracy=1e-10), large).energy)


@pytest.mark.parametrize("accuracy", [1e-4, 1e-6, 1e-8])
def test_the_energy_is_as_accurate_as_wanted(accuracy: float) -> None:
    for system in (melt(), molecules()):
        exact = evaluate(Ewald(5.0, accuracy=1e-13), system)
        for cutoff in (3.5, 5.0):
            out = evaluate(Ewald(cutoff, accuracy), system)
            assert float(((out.energy - exact.energy) / exact.energy).abs()) < accuracy


def test_the_sum_can_be_differentiated_twice_by_positions_charges_and_cell() -> None:
    x = torch.tensor([[0.1, 0.2, 0.3], [1.5, 0.4, 0.2], [0.5, 2.1, 1.7]], dtype=F64)
    cell = torch.tensor([[5.0, 0, 0], [0.4, 5.2, 0], [-0.3, 0.6, 4.8]], dtype=F64)
    potential = Ewald(2.4, accuracy=1e-3, background=True)
    pairs = neighbors(System.single(x, cell=cell), 2.4)

    def energy(x: Tensor, q: Tensor, cell: Tensor) -> Tensor:
        like = System.single(x.detach(), charges=q.detach(), cell=cell.detach())
        return potential(System(x, like.types, like.masses, cell[None], like.pbc, like.batch, q, 3), pairs)

    inputs = [t.clone().requires_grad_() for t in (x, torch.tensor([0.5, -0.7, 0.4], dtype=F64), cell)]
    assert torch.autograd.gradcheck(energy, inputs)
    assert torch.autograd.gradgradcheck(energy, inputs)


def test_energies_and_forces_are_those_of_torch_pme() -> None:
    torchpme = pytest.importorskip("torchpme")
    for system in (melt(1), molecules()):
        ours = evaluate(Ewald(5.0, accuracy=1e-10), system)
        smearing, x = 0.8, system.positions.clone().requires_grad_()
        theirs = torchpme.EwaldCalculator(torchpme.CoulombPotential(smearing), lr_wavelength=0.5, full_neighbor_list=True).to(F64)
        pairs = neighbors(system, 8.0)
        at = system.at(x)
        v = theirs(system.charges[:, None], system.cell[0], x, pairs.index.T, pairs.distances(at))  # type: ignore[index]
        energy = k * (v[:, 0] * system.charges).sum()
        (gradient,) = torch.autograd.grad(energy, x)
        assert float(ours.energy) == pytest.approx(float(energy.detach()), rel=1e-7)
        torch.testing.assert_close(ours.forces, -gradient, rtol=0, atol=1e-6)


@pytest.mark.parametrize("hops", [0, 1, 2])
def test_energies_and_forces_are_those_of_openmm_with_pairs_left_out(hops: int) -> None:
    openmm = pytest.importorskip("openmm")
    from openmm import unit

    system = molecules(rectangular=True)  # OpenMM's Ewald sum knows no other cells
    potential = Excluding(Ewald(5.0, accuracy=1e-10), CHAIN, size=3, hops=hops)
    ours = evaluate(potential, system)
    force = openmm.NonbondedForce()
    force.setNonbondedMethod(openmm.NonbondedForce.Ewald)
    force.setCutoffDistance(0.5)
    force.setEwaldErrorTolerance(1e-8)
    assert system.charges is not None
    for q in system.charges.tolist():
        force.addParticle(q, 0.1, 0.0)
    for i, j in potential.excluded_pairs(system).index.T.tolist():
        force.addException(i, j, 0.0, 0.1, 0.0)
    theirs = openmm.System()
    for _ in range(len(system)):
        theirs.addParticle(1.0)
    theirs.setDefaultPeriodicBoxVectors(*(0.1 * system.cell[0]).tolist())
    theirs.addForce(force)
    context = openmm.Context(theirs, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions((0.1 * system.positions).tolist())
    state = context.getState(getEnergy=True, getForces=True)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) * kJ_mol
    forces = torch.tensor(state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.angstrom)) * kJ_mol
    assert float(ours.energy) == pytest.approx(energy, rel=1e-6)
    torch.testing.assert_close(ours.forces, forces, rtol=0, atol=1e-6 * float(forces.abs().max()))


def test_damped_shifted_force_is_the_published_formula() -> None:
    """Fennell and Gezelter 2006: the law and its derivative, written out for a pair, and the self-energy at contact."""
    a, rc, q = 0.25, 9.0, (0.7, -0.4)
    for r in (1.0, 3.3, 7.7, 8.999):
        gauss = 2 * a / math.sqrt(math.pi)
        slope_at_end = math.erfc(a * rc) / rc**2 + gauss * math.exp(-((a * rc) ** 2)) / rc
        v = math.erfc(a * r) / r - math.erfc(a * rc) / rc + slope_at_end * (r - rc)
        f = math.erfc(a * r) / r**2 + gauss * math.exp(-((a * r) ** 2)) / r - slope_at_end
        self_energy = -0.5 * (gauss + math.erfc(a * rc) / rc + slope_at_end * rc) * (q[0] ** 2 + q[1] ** 2)
        pair = System.single(torch.tensor([[0.0, 0, 0], [0, 0, r]], dtype=F64), charges=q)
        out = evaluate(CoulombDSF(rc, a), pair)
        assert float(out.energy) == pytest.approx(k * (q[0] * q[1] * v + self_energy), rel=1e-12)
        assert float(out.forces[1, 2]) == pytest.approx(k * q[0] * q[1] * f, rel=1e-9)


def test_damped_shifted_force_approaches_the_ewald_sum_with_its_cutoff() -> None:
    """Ions moved at random are no liquid, which screens: forces converge slowly here, the energy to a percent."""
    system = melt(4, width=0.4)
    exact = evaluate(Ewald(9.0, accuracy=1e-7), system)
    errors = []
    for cutoff, alpha in [(5.0, 0.25), (8.0, 0.2), (11.0, 0.2)]:
        out = evaluate(CoulombDSF(cutoff, alpha), system)
        energy = float(((out.energy - exact.energy) / exact.energy).abs())
        errors.append((energy, float((out.forces - exact.forces).norm() / exact.forces.norm())))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1][0] < 0.01


def test_open_charges_have_the_energy_of_all_pairs() -> None:
    x = torch.tensor([[0.0, 0, 0], [3.0, 0, 0], [0, 4.0, 0]], dtype=F64)
    out = evaluate(Coulomb(), System.single(x, charges=[1.0, -2.0, 0.5]))
    assert float(out.energy) == pytest.approx(k * (-2 / 3 + 0.5 / 4 - 1 / 5), rel=1e-12)
    water = evaluate(Coulomb(permittivity=78.4), System.single(x, charges=[1.0, -2.0, 0.5]))
    torch.testing.assert_close(water.forces * 78.4, out.forces)


def test_a_molecule_in_a_large_cell_is_a_molecule_in_the_open() -> None:
    """Quadrupoles remain: the difference falls as L^-5, and at 60 A it is below 1e-6 eV."""
    x = torch.tensor([[0.0, 0, 0], [1.1, 0, 0], [2.2, 0, 0]], dtype=F64)
    q, n = [0.4, -0.8, 0.4], 60.0
    for hops in (0, 1):
        alone = evaluate(Excluding(Coulomb(), CHAIN, size=3, hops=hops), System.single(x, charges=q))
        boxed = Excluding(Ewald(9.0, accuracy=1e-10), CHAIN, size=3, hops=hops)
        out = evaluate(boxed, System.single(x, charges=q, cell=n))
        torch.testing.assert_close(out.energy, alone.energy, rtol=0, atol=1e-6)


@pytest.mark.parametrize("law", [Coulomb(), CoulombDSF(7.0, 0.3)], ids=["Coulomb", "DSF"])
def test_leaving_out_pairs_removes_their_bare_interaction_and_nothing_else(law: Potential) -> None:
    x = torch.tensor([[0.0, 0, 0], [1.0, 0.2, 0], [1.3, 1.2, 0.1], [5.0, 0, 0], [5.9, 0.4, 0], [6.1, 1.4, 0.3]], dtype=F64)
    q = [0.4, -0.7, 0.3, 0.2, -0.6, 0.4]
    system = System.single(x, charges=q)
    removed = sum(k * q[i] * q[j] / float((x[i] - x[j]).norm()) for i, j in [(0, 1), (1, 2), (3, 4), (4, 5)])
    full, rest = evaluate(law, system).energy, evaluate(Excluding(law, CHAIN, size=3, hops=1), system).energy
    assert float(full - rest) == pytest.approx(removed, rel=1e-10)


def test_a_molecule_cut_by_the_cell_leaves_out_the_same_as_a_whole_one() -> None:
    system = molecules()
    potential = Excluding(Ewald(4.0, accuracy=1e-10), CHAIN, size=3, hops=2)
    images = torch.randint(-1, 2, (len(system), 3), generator=torch.Generator().manual_seed(5)).to(F64)
    cut = system.at(system.positions + images @ system.cell[0])
    a, b = evaluate(potential, system), evaluate(potential, cut)
    torch.testing.assert_close(b.energy, a.energy)
    torch.testing.assert_close(b.forces, a.forces, rtol=0, atol=1e-9)


def test_the_screening_function_is_finite_and_smooth_at_contact() -> None:
    r = torch.tensor([0.0, 1e-6, 0.019999, 0.020001, 0.5], dtype=F64, requires_grad=True)
    value = erf_over(r, 0.5)
    (slope,) = torch.autograd.grad(value.sum(), r)
    expected = [1 / math.sqrt(math.pi)] + [math.erf(0.5 * x) / x for x in r[1:].tolist()]
    torch.testing.assert_close(value.detach(), torch.tensor(expected, dtype=F64), rtol=1e-13, atol=0)
    assert abs(float(slope[2] - slope[3])) < 1e-6
    assert float(slope[0]) == 0.0


def test_what_cannot_be_summed_is_refused_with_the_reason() -> None:
    bare = System.single(torch.rand(2, 3, dtype=F64), cell=10.0)
    pairs = neighbors(bare, 3.0)
    for law in (Ewald(3.0), CoulombDSF(3.0), Coulomb()):
        with pytest.raises(ValueError, match="needs charges"):
            law(bare, pairs)
    x = torch.tensor([[0.0, 0, 0], [1.0, 0, 0]], dtype=F64)
    with pytest.raises(ValueError, match=r"net charge of 0\.5 e.*background=True"):
        Ewald(3.0)(System.single(x, charges=[1.0, -0.5], cell=10.0), pairs)
    with pytest.raises(ValueError, match="periodic in all three directions"):
        Ewald(3.0)(System.single(x, charges=[1.0, -1.0]), pairs)
    with pytest.raises(ValueError, match="use Ewald or CoulombDSF"):
        Coulomb()(System.single(x, charges=[1.0, -1.0], cell=10.0), None)
    with pytest.raises(ValueError, match="exclude from each part"):
        Excluding(LennardJones(0.1, 1.0, 3.0) + Ewald(3.0), CHAIN, size=3)
    with pytest.raises(ValueError, match="no multiple of the size=3"):
        Excluding(Coulomb(), CHAIN, size=3)(System.single(x, charges=[1.0, -1.0]), None)
    for wrong, name in [(dict(accuracy=2.0), "accuracy"), (dict(alpha=-1.0), "alpha"), (dict(permittivity=0.0), "permittivity")]:
        with pytest.raises(ValueError, match=name):
            Ewald(3.0, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="alpha"):
        CoulombDSF(3.0, alpha=-0.1)
    with pytest.raises(ValueError, match="cutoff"):
        Ewald(0.0)
