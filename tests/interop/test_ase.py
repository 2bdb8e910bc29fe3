"""The ASE calculator: energies, forces and stress against ASE's own Lennard-Jones and finite differences, and dynamics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlmd import units
from mlmd.nn.schnet import SchNet
from mlmd.potentials.pair import LennardJones
from tests.interop.cases import everything, liquid, ours

ase = pytest.importorskip("ase")

from ase.calculators.lj import LennardJones as AseLennardJones  # noqa: E402
from ase.md.verlet import VelocityVerlet  # noqa: E402
from ase.units import fs as ase_fs  # noqa: E402

from mlmd.interop.ase import Calculator  # noqa: E402
from mlmd.md import integrators, simulate  # noqa: E402
from mlmd.md.state import rest  # noqa: E402


def argon(seed: int = 0) -> ase.Atoms:
    """Thirty-two atoms near a slightly sheared cubic lattice."""
    atoms = ase.Atoms("Ar4", scaled_positions=[[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]], cell=3 * [5.4], pbc=True)
    atoms = atoms.repeat((3, 3, 3))
    atoms.set_cell(atoms.cell.array + np.array([[0, 0, 0], [0.8, 0, 0], [0.3, -0.5, 0]]), scale_atoms=True)
    atoms.rattle(0.15, seed=seed)
    return atoms


def network() -> SchNet:
    torch.manual_seed(1)
    out = SchNet(5.0, features=8, interactions=1, n_types=3).double()
    for p in out.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return out


def chains(periodic: bool = True) -> ase.Atoms:
    system = liquid(1, periodic)
    cell = system.cell[0].numpy() if periodic else None
    masses, charges = (system.masses / units.amu).numpy(), system.charges.numpy()
    return ase.Atoms(
        numbers=system.types.numpy() + 1,
        positions=system.positions.numpy(),
        cell=cell,
        pbc=periodic,
        masses=masses,
        charges=charges,
    )


def test_lennard_jones_is_that_of_ase() -> None:
    """Cut sharply here and shifted there: the energies differ by a constant per pair, forces and stress do not."""
    atoms, cutoff = argon(), 7.5
    law = LennardJones(0.0104, 3.4, cutoff, onset=cutoff)
    atoms.calc = AseLennardJones(epsilon=0.0104, sigma=3.4, rc=cutoff, smooth=False)
    forces, stress = atoms.get_forces(), atoms.get_stress()
    atoms.calc = Calculator(law)
    assert atoms.get_forces() == pytest.approx(forces, abs=1e-9)
    assert atoms.get_stress() == pytest.approx(stress, abs=1e-10)


def test_energy_and_forces_are_those_of_mlmd() -> None:
    for periodic in (True, False):
        atoms = chains(periodic)
        atoms.calc = Calculator(everything(), types={1: 0, 2: 1, 3: 2})
        energy, forces = ours(everything(), liquid(1, periodic))
        assert atoms.get_potential_energy() == pytest.approx(energy, rel=1e-12)
        assert atoms.get_forces() == pytest.approx(forces.numpy(), abs=1e-10)


def test_the_stress_of_a_network_is_the_derivative_by_strain() -> None:
    """ASE's own finite differences of the energy."""
    from ase.calculators.fd import calculate_numerical_stress

    atoms = argon()
    atoms.calc = Calculator(network(), types={18: 1})
    numerical = calculate_numerical_stress(atoms, eps=1e-5)
    assert atoms.get_stress() == pytest.approx(numerical, abs=1e-3 * np.abs(numerical).max())


def test_verlet_of_ase_follows_ours_and_conserves_the_energy() -> None:
    atoms = chains()
    atoms.calc = Calculator(everything(), types={1: 0, 2: 1, 3: 2}, skin=0.5)
    before = atoms.get_potential_energy()
    VelocityVerlet(atoms, timestep=1.0 * ase_fs).run(40)
    (*_, last) = simulate(rest(liquid(1)), everything(), integrators.VelocityVerlet(dt=1.0 * units.fs), 40)
    assert np.abs(atoms.positions - liquid(1).positions.numpy()).max() > 0.5
    assert atoms.positions == pytest.approx(last.system.positions.numpy(), abs=1e-5)
    kinetic = atoms.get_kinetic_energy()
    assert kinetic > 1.0
    assert before - atoms.get_potential_energy() == pytest.approx(kinetic, rel=2e-3)
    assert 1 < atoms.calc._evaluator.lists_made < 20


def test_another_cell_or_other_atoms_are_noticed() -> None:
    atoms = argon()
    atoms.calc = Calculator(LennardJones(0.0104, 3.4, 7.5), types={18: 0})
    one = atoms.get_potential_energy()
    atoms.set_cell(atoms.cell.array * 1.01, scale_atoms=True)
    other = Calculator(LennardJones(0.0104, 3.4, 7.5), types={18: 0})
    assert atoms.get_potential_energy() == pytest.approx(other.get_potential_energy(atoms), rel=1e-12)
    assert atoms.get_potential_energy() != one
    atoms.pop()
    assert atoms.get_potential_energy() == pytest.approx(other.get_potential_energy(atoms), rel=1e-12)


def test_types_that_do_not_fit_are_refused() -> None:
    atoms = argon()
    atoms.calc = Calculator(network(), types={6: 0})
    with pytest.raises(ValueError, match=r"no entry for the atomic numbers \[18\]"):
        atoms.get_potential_energy()
    atoms.calc = Calculator(network(), types=[0, 1])
    with pytest.raises(ValueError, match="types holds 2 types for 108 atoms"):
        atoms.get_potential_energy()
