import numpy as np
import pytest
import torch

from mlmd import datasets, units
from mlmd.cg import mapping
from mlmd.cg.boltzmann_inversion import IterativeBoltzmannInversion, boltzmann_inversion
from mlmd.cg.liquid_molecules import LiquidMolecules, centre_rdf
from mlmd.cg.liquid_sampler import LiquidSampler, PairCounter
from mlmd.cg.structure_loop import refine_pairs
from mlmd.cg.symmetry import with_equivalent_types
from mlmd.forces import energy_forces
from mlmd.frames import Frames, bead_topology
from mlmd.neighbors import neighbors
from mlmd.observables.rdf import rdf
from mlmd.potentials.bonded import Bonded, HarmonicAngles, HarmonicBonds
from mlmd.potentials.internal import InternalCoordinates
from mlmd.potentials.pair import Excluding
from mlmd.system import System
from tests.cg.liquids import flat_target, sampler_of, well_values

STIFFNESS, LENGTH = 50.0, 1.2
DIMER = Bonded(
    InternalCoordinates(2, torch.tensor([[0, 1]])), [HarmonicBonds([0], torch.tensor([STIFFNESS]), torch.tensor([LENGTH]))]
)
DIMERS = LiquidMolecules(DIMER, ((0, 1),), 2)


def dimers(rows: int = 5, spacing: float = 1.9, types: tuple[int, int] = (0, 0)) -> System:
    """Dimers along x on a square lattice whose sites lie twice as far apart along x."""
    sites = torch.cartesian_prod(*[torch.arange(float(k)) for k in (rows, 2 * rows, 2 * rows)])
    first = sites * spacing * torch.tensor([2.0, 1.0, 1.0])
    x = torch.stack([first, first + torch.tensor([LENGTH, 0.0, 0.0])], 1).reshape(-1, 3)
    return System.single(x, list(types) * len(sites), cell=2 * rows * spacing)


def frames_of(system: System, size: int = 2) -> Frames:
    count = len(system) // size
    bonds = [(k, k + 1) for k in range(size - 1)]
    return Frames(
        system.positions[None], bead_topology(["A", "B", "C"][:size], bonds, count), cell=system.cell, masses=system.masses, types=system.types
    )  # fmt: skip


@pytest.fixture(scope="module")
def gas():
    """Dimers that feel nothing but their bond."""
    sampler = sampler_of(flat_target(), dimers(), molecules=DIMERS, steps=3000, every=10)
    return sampler, sampler.sample(torch.zeros(sampler.basis.shape))


def test_dimers_without_pair_forces_have_the_pressure_of_an_ideal_gas_of_molecules(gas):
    _, sample = gas
    expected = sample.n / 2 * sample.kT / sample.volume
    assert sample.pressure == pytest.approx(expected, abs=4 * sample.pressure_error)
    assert sample.pressure_error < 0.05 * expected


def test_bonded_pairs_are_left_out_of_g_which_is_one_for_dimers_that_do_not_see_each_other(gas):
    _, sample = gas
    away = sample.counts.sum(2).mean() / sample.ideal.sum()
    assert away == pytest.approx(1.0, abs=0.02)
    assert np.abs((sample.g - 1) / sample.g_error).mean() < 1.5  # a bonded pair per molecule would be ten times the ideal count


@pytest.mark.parametrize("types", [(0, 0), (0, 1)])
def test_counts_energies_and_virial_of_a_snapshot_are_those_of_the_whole_potential(types):
    kinds = tuple(sorted({(0, 0), (0, types[1]), (types[1], types[1])}))
    sampler = sampler_of(flat_target(types=kinds), dimers(types=types), molecules=DIMERS, steps=200, every=10)
    sample = sampler.sample(well_values(sampler.basis))
    last = sampler.state.system
    edges, left_out = sampler.target.edges, frames_of(last).bonds
    for row, pair in enumerate(kinds):
        peer = rdf(
            frames_of(last), r_min=edges[1], r_max=edges[-1], bins=len(edges) - 2, between=pair, exclude=left_out, n_blocks=2
        )
        counts = sample.counts[-1, row, 1:]
        assert np.abs(counts - peer.count).sum() / 2 <= 2  # pairs at an edge of a bin in single precision
        assert sample.ideal[row, 1:] * peer.g == pytest.approx(peer.count)
    exact = last.to(torch.float64)
    pairs = neighbors(exact, sampler.basis.cutoff)
    law = Excluding(sampler.basis.law(sample.values), [(0, 1)], 2)
    energy = float(energy_forces(law, exact, pairs).energy.detach())
    assert sample.energies[-1] == pytest.approx(energy, abs=2e-4 * abs(energy) + 2e-2)
    whole = energy_forces(law + DIMER.double(), exact, pairs, stress=True)
    DIMER.float()
    virial = float(whole.stress.detach().diagonal(dim1=1, dim2=2).sum()) * sample.volume
    assert sample.virial[-1] == pytest.approx(virial, abs=3e-3 * 3 * len(last) * sample.kT)


def test_bonds_of_the_sampled_liquid_follow_their_law(gas):
    """p(r) ~ r^2 exp(-k (r - r0)^2 / 2 kT): its mean by quadrature."""
    sampler, _ = gas
    lengths = []
    for _ in range(4):
        sampler.sample(torch.zeros(sampler.basis.shape), steps=200)
        x = sampler.state.system.positions.unflatten(0, (-1, 2))
        lengths.append((x[:, 1] - x[:, 0]).norm(dim=1))
    r = np.linspace(0.3, 2.2, 2000)
    p = r**2 * np.exp(-STIFFNESS * (r - LENGTH) ** 2 / 2)
    mean, found = (p * r).sum() / p.sum(), torch.cat(lengths).double()
    assert float(found.mean()) == pytest.approx(mean, abs=4 * float(found.std()) / len(found) ** 0.5)


def test_terms_of_reference_frames_are_fitted_and_their_repulsion_left_to_the_pair_potential():
    g = torch.Generator().manual_seed(0)
    chain = torch.tensor([[0.0, 0, 0], [1.5, 0, 0], [2.2, 1.3, 0], [3.7, 1.3, 0.4], [4.4, 2.6, 0.2]])
    x = chain + 0.05 * torch.randn(200, 5, 3, generator=g)
    top = bead_topology(list("ABCDE"), [(k, k + 1) for k in range(4)], 1)
    made = LiquidMolecules.of(Frames(x, top, cell=20 * torch.eye(3).expand(200, 3, 3), kT=1.0))
    assert [type(law).__name__ for law in made.bonded.laws] == ["HarmonicBonds", "HarmonicAngles", "FourierDihedrals"]
    assert made.left_out(10).tolist()[-1] == [8, 9]
    assert [0, 4] not in made.left_out(10).tolist() and [0, 3] in made.left_out(10).tolist()


def test_trimers_leave_out_as_many_hops_as_they_are_told():
    laws = [HarmonicBonds([0, 1], torch.ones(2), torch.ones(2)), HarmonicAngles([0], torch.ones(1), torch.ones(1))]
    bent = Bonded(InternalCoordinates(3, torch.tensor([[0, 1], [1, 2]]), torch.tensor([[0, 1, 2]])), laws)
    short, long = (LiquidMolecules(bent, ((0, 1), (1, 2)), 3, hops).left_out(6).tolist() for hops in (1, 2))
    assert short == [[0, 1], [1, 2], [3, 4], [4, 5]]
    assert long == [[0, 1], [0, 2], [1, 2], [3, 4], [3, 5], [4, 5]]


def test_centres_of_dimers_on_a_lattice_are_at_lattice_distances():
    made = frames_of(dimers(rows=3))
    peer = rdf(made.positions[:, ::2], made.cell, r_max=5.5, bins=55, n_blocks=2)
    found = centre_rdf(made, r_max=5.5, bins=55, n_blocks=2)
    assert found.count.tolist() == peer.count.tolist()


def test_beads_that_make_no_whole_molecules_are_refused():
    with pytest.raises(ValueError, match="7 beads are no multiple of the size=2"):
        DIMERS.left_out(7)
    with pytest.raises(ValueError, match="hops=0"):
        LiquidMolecules(DIMER, ((0, 1),), 2, hops=0)


@pytest.mark.slow
def test_two_beads_of_ethane_have_the_structure_of_the_atoms_after_a_few_boltzmann_iterations():
    atoms = datasets.load("ethane")
    beads = with_equivalent_types(mapping.sequence(atoms, 2), atoms).apply(atoms)
    ethane, kT = LiquidMolecules.of(beads), float(beads.kT)
    target = ethane.target(beads, r_max=11.2, bins=112)
    basis = target.basis(10.0)
    settings = dict(kT=kT, dt=4 * units.fs, friction=1 / units.ps, molecules=ethane, steps=5000)
    sampler = LiquidSampler(beads.system(len(beads) - 1), target, basis, **settings, seed=0)
    start = boltzmann_inversion(target, basis, kT)
    *_, last = refine_pairs(IterativeBoltzmannInversion(kT), sampler, start, tolerance=0.04, iterations=6)
    assert last.converged
    again = LiquidSampler(beads.system(0), target, basis, **settings, seed=1).sample(last.values)
    assert np.abs(again.g - target.g)[0, target.r > 3].mean() < 0.03


def test_a_bond_as_long_as_the_edge_of_a_bin_is_taken_off_where_it_was_counted():
    """In single precision one of two bins would hold a pair too few: minus one, of which no covariance has a root."""
    system = dimers(3, spacing=8.0)  # bonded pairs are the only ones in reach
    generator = torch.Generator().manual_seed(0)
    first = system.positions[0::2] + torch.rand(len(system) // 2, 3, generator=generator)
    turned = torch.nn.functional.normalize(torch.randn(len(system) // 2, 3, generator=generator), dim=-1)
    target = flat_target()
    edge = float(target.edges[np.searchsorted(target.edges, LENGTH)])
    x = torch.stack([first, first + edge * turned], 1).reshape(-1, 3).float()
    counts, *_ = PairCounter(target, target.basis(float(target.edges[-1])), DIMERS)(system.to(torch.float32).at(x))
    assert not counts.any()
