"""A box repeated along its lattice vectors: energies multiply, forces stay, molecules and the structure of the liquid too."""

from __future__ import annotations

import mdtraj
import numpy as np
import pytest
import torch

from mlmd.cell import face_centred_cubic, wrap
from mlmd.forces import energy_forces
from mlmd.frames import Frames, bead_topology
from mlmd.md import Langevin, State, rest, simulate, thermal_velocities
from mlmd.md.supercell import enlarged
from mlmd.neighbors import neighbors
from mlmd.observables import RDF, rdf
from mlmd.potentials.bonded import Bonded, HarmonicBonds
from mlmd.potentials.internal import InternalCoordinates
from mlmd.potentials.pair import Excluding, LennardJones
from mlmd.system import System

CELL = torch.tensor([[9.0, 0.0, 0.0], [1.1, 9.5, 0.0], [-0.7, 1.3, 10.0]], dtype=torch.float64)


def dumbbells(n: int = 12, seed: int = 0) -> System:
    """Molecules of two beads of two types anywhere in a triclinic box, charges and masses unequal."""
    g = torch.Generator().manual_seed(seed)
    first = torch.rand(n, 1, 3, dtype=torch.float64, generator=g) @ CELL
    bond = torch.nn.functional.normalize(torch.randn(n, 1, 3, dtype=torch.float64, generator=g), dim=-1) * 1.5
    x = torch.cat([first, first + bond], 1).reshape(-1, 3)
    return System.single(x, [0, 1] * n, torch.arange(1.0, 2 * n + 1), CELL, charges=torch.linspace(-1, 1, 2 * n))


def law() -> torch.nn.Module:
    """Pairs without those in a molecule, and bonds: acts on molecules of two beads one after another."""
    coordinates = InternalCoordinates(2, torch.tensor([[0, 1]]))
    bonds = Bonded(coordinates, [HarmonicBonds([0], torch.tensor([3.0]), torch.tensor([1.4]))]).double()
    return Excluding(LennardJones(0.02, 2.0, 4.0), [(0, 1)], size=2) + bonds


@pytest.mark.parametrize("repeats", [(2, 1, 1), (1, 3, 2), (2, 2, 2)])
def test_the_energy_is_that_of_all_images_and_every_image_feels_the_forces_of_the_small_box(repeats: tuple[int, int, int]) -> None:
    small = System.stack([dumbbells(seed=0), dumbbells(seed=1)])
    large, k = small.enlarged(repeats), int(np.prod(repeats))
    one, many = (energy_forces(law(), s, neighbors(s, 4.0)) for s in (small, large))
    assert large.size == 24 * k
    assert torch.allclose(many.energy, k * one.energy, rtol=1e-12)
    forces = many.forces.reshape(2, k, 24, 3)
    assert torch.allclose(
        forces, one.forces.reshape(2, 1, 24, 3).expand_as(forces), atol=1e-9 * float(one.forces.detach().abs().max())
    )
    assert torch.allclose(torch.linalg.det(large.cell), k * torch.linalg.det(small.cell))
    for name in ("types", "masses", "charges"):
        values = large.dense(getattr(large, name)).reshape(2, k, 24)
        assert torch.equal(values, small.dense(getattr(small, name))[:, None].expand_as(values)), name


def test_systems_of_unequal_size_keep_their_images_together() -> None:
    s = System.stack([dumbbells(2), dumbbells(3)]).enlarged((1, 1, 2))
    assert s.batch.tolist() == [0] * 8 + [1] * 12
    assert torch.equal(s.select([1]).positions, dumbbells(3).enlarged((1, 1, 2)).positions)


def test_molecules_cut_by_wrapping_are_joined_before_they_are_repeated() -> None:
    whole = dumbbells()
    cut = whole.at(wrap(whole.positions, CELL))
    assert float((cut.positions[1::2] - cut.positions[::2]).norm(dim=1).max()) > 5.0
    large = cut.enlarged((2, 2, 2), bonds=[(i, i + 1) for i in range(0, 24, 2)])
    assert torch.allclose((large.positions[1::2] - large.positions[::2]).norm(dim=1), torch.tensor(1.5, dtype=torch.float64))
    energies = [energy_forces(law(), s, neighbors(s, 4.0)).energy for s in (whole, large)]
    assert float(energies[1].detach()) == pytest.approx(8 * float(energies[0].detach()), rel=1e-12)


def test_frames_are_enlarged_with_topology_forces_and_energies() -> None:
    s = dumbbells(3)
    x = torch.stack([wrap(s.positions, CELL), s.positions + 1.0])
    frames = Frames(x, bead_topology(["A", "B"], [(0, 1)], 3), 2 * x, torch.tensor([1.0, 2.0]), CELL.expand(2, 3, 3))
    large = frames.enlarged((1, 2, 2))
    assert large.positions.shape == (2, 24, 3)
    assert isinstance(large.topology, mdtraj.Topology)
    assert large.bonds == [(i, i + 1) for i in range(0, 24, 2)]
    assert large.topology.n_residues == 12
    assert torch.equal(large.energies, torch.tensor([4.0, 8.0]))
    assert torch.equal(large.forces[:, 18:], frames.forces)
    assert torch.equal(large.types, frames.types.repeat(4))
    assert float((large.positions[:, 1::2] - large.positions[:, ::2]).norm(dim=-1).max()) < 1.6
    assert torch.allclose(large.cell[1], torch.diag(torch.tensor([1.0, 2.0, 2.0], dtype=torch.float64)) @ CELL)


def test_positions_in_single_precision_go_with_a_cell_in_double_as_liquids_are_stored() -> None:
    system = dumbbells()
    top = bead_topology(["A", "B"], [(0, 1)], 12)
    stored = Frames(system.positions[None].float(), top, cell=system.cell)
    exact = Frames(system.positions[None], top, cell=system.cell).enlarged((2, 1, 1))
    large = stored.enlarged((2, 1, 1))
    assert large.positions.dtype == torch.float32
    torch.testing.assert_close(large.positions.double(), exact.positions, atol=1e-5, rtol=0)


def test_velocities_of_the_large_box_are_drawn_anew_at_rest_as_a_whole() -> None:
    state = enlarged(dumbbells(60), (2, 2, 2), kT=0.3, generator=torch.Generator().manual_seed(4))
    p = state.system.masses[:, None] * state.velocities
    assert float(p.sum(0).abs().max()) < 1e-9 * float(p.abs().sum())
    n = len(state.system)
    assert float(state.kT[0]) == pytest.approx(0.3, abs=4 * 0.3 * (2 / (3 * n)) ** 0.5)
    assert not torch.allclose(state.velocities[:120], state.velocities[120:240])


def test_the_liquid_in_the_large_box_has_the_structure_of_the_small_one() -> None:
    """Lennard-Jones fluid (reduced units, density 0.6, kT 1.5): g(r) of 108 particles and of 432 made from them."""
    kT, source = 1.5, torch.Generator().manual_seed(2)
    potential, integrator = LennardJones(1.0, 1.0, 2.5), Langevin(0.005, kT, 1.0)
    small = System.single(face_centred_cubic(3, (108 / 0.6) ** (1 / 3)).double(), cell=(108 / 0.6) ** (1 / 3))

    def run(state: State, steps: int, skip: int) -> tuple[State, RDF]:
        kept = list(simulate(state, potential, integrator, steps, every=20, generator=source, skin=0.4))[skip:]
        return kept[-1], rdf(torch.stack([s.system.positions for s in kept]), kept[-1].system.cell[0], r_max=2.5, bins=25)

    last, g = run(rest(small, thermal_velocities(small, kT, source)), 1000, 15)
    _, wide = run(enlarged(last.system, (2, 2, 1), kT, source), 240, 5)
    assert np.abs(wide.g - g.g).max() < 0.06
    assert np.abs(wide.g - g.g).mean() < 0.02


@pytest.mark.parametrize(
    ("pbc", "repeats", "word"),
    [
        (True, (2, 2), "three"),
        (True, (2, 0, 1), "three"),
        (True, (1.5, 1, 1), "whole"),
        ([True, True, False], (1, 1, 2), "periodic"),
    ],
)
def test_repeats_that_make_no_box_are_refused(pbc: object, repeats: tuple, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        System.single(torch.zeros(1, 3), cell=5.0, pbc=pbc).enlarged(repeats)


def test_frames_without_a_cell_are_refused() -> None:
    with pytest.raises(ValueError, match="no cell"):
        Frames(torch.zeros(1, 1, 3), bead_topology(["A"], [])).enlarged((2, 1, 1))
