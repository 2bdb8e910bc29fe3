"""Networks for liquids of molecules learn known forces, know the symmetries, and deploy; everything on a box of 64 dimers."""

from dataclasses import replace

import pytest
import torch

from mlmd import store, units
from mlmd.cg.boltzmann_inversion import IterativeBoltzmannInversion
from mlmd.cg.force_matching import predicted_forces, split
from mlmd.cg.liquid_molecules import LiquidMolecules
from mlmd.cg.liquid_networks import LiquidNetwork, deployed, fit_repulsion, liquid_network, train_network
from mlmd.cg.liquid_sampler import LiquidSampler
from mlmd.cg.priors import molecule_coordinates
from mlmd.cg.structure_loop import refine_pairs
from mlmd.forces import energy_forces
from mlmd.frames import Frames, bead_topology
from mlmd.md import Langevin, rest, simulate, thermal_velocities
from mlmd.neighbors import neighbors
from mlmd.potentials.bonded import Bonded, HarmonicBonds
from mlmd.potentials.pair import Excluding, LennardJones
from mlmd.system import System

KT, CELLS, EDGE, CUTOFF, BOND = 0.02, 4, 18.0, 6.0, 1.7
BONDS = [(2 * m, 2 * m + 1) for m in range(CELLS**3)]
TRUE_LAW = LennardJones(torch.tensor([[0.004, 0.007], [0.007, 0.01]]), 3.4, CUTOFF)


def true_molecules() -> LiquidMolecules:
    coordinates, _ = molecule_coordinates(2, [(0, 1)])
    return LiquidMolecules(Bonded(coordinates, [HarmonicBonds([0], torch.tensor([20.0]), torch.tensor([BOND]))]), ((0, 1),), 2)


@pytest.fixture(scope="module")
def frames() -> Frames:
    """Dimers of two types of beads, simulated with a known law, with its exact forces."""
    generator = torch.Generator().manual_seed(0)
    sites = torch.cartesian_prod(*[torch.arange(float(CELLS))] * 3) * (EDGE / CELLS)
    x = torch.stack([sites, sites + torch.tensor([BOND, 0.0, 0.0])], 1).reshape(-1, 3)
    types, masses = torch.arange(len(x)) % 2, torch.full((len(x),), 15 * units.amu)
    system = System.single(x, types, masses, cell=EDGE)
    truth = true_molecules().potential(TRUE_LAW)
    start = rest(system, thermal_velocities(system, KT, generator))
    run = simulate(start, truth, Langevin(4.0, KT, 1 / units.ps), 2500, every=20, generator=generator)
    x = torch.stack([s.system.positions for s in run])[25:]
    cell = (EDGE * torch.eye(3)).expand(len(x), 3, 3).clone()
    topology = bead_topology(["A", "B"], [(0, 1)], CELLS**3)
    bare = Frames(x, topology, cell=cell, masses=masses, types=types, kT=KT)
    return replace(bare, forces=predicted_forces(truth, bare))


@pytest.fixture(scope="module")
def molecules(frames) -> LiquidMolecules:
    return LiquidMolecules.of(frames)


@pytest.fixture(scope="module")
def trained(frames, molecules) -> tuple[LiquidNetwork, list[dict[str, float]]]:
    model = small_network(frames, molecules)
    return model, list(train_network(model, frames, steps=300, learning_rate=5e-3, every=150))


def small_network(frames, molecules, kind="schnet") -> LiquidNetwork:
    return liquid_network(frames, molecules, kind=kind, cutoff=CUTOFF, features=16, interactions=1, radial=30)


def energy_of(model: LiquidNetwork, system: System) -> float:
    with torch.no_grad():
        return float(model.potential(system, neighbors(system, model.potential.cutoff))[0])


def test_the_forces_of_a_known_law_are_recovered_on_frames_held_out(frames, trained):
    model, logs = trained
    held_out = frames[split(len(frames))[1]]
    left = (held_out.forces - predicted_forces(model.deployed(), held_out)).square().mean()
    before = (held_out.forces - predicted_forces(model.prior, held_out)).square().mean()
    assert [log["step"] for log in logs] == [150.0, 300.0]
    assert float(left) < 0.02 * float(before)


def test_it_is_blind_to_where_the_box_is_cut_how_it_lies_and_which_molecule_is_which(frames, trained):
    model, _ = trained
    system = frames.system(3)
    x = system.positions
    order = torch.randperm(CELLS**3, generator=torch.Generator().manual_seed(0))
    beads = (2 * order[:, None] + torch.arange(2)).flatten()
    image = EDGE * torch.randint(-2, 3, (CELLS**3, 3), generator=torch.Generator().manual_seed(1)).repeat_interleave(2, 0)
    turned = torch.stack([-x[:, 1], x[:, 0], -x[:, 2]], 1)  # a quarter turn and a mirror, which keep the cube
    energy = energy_of(model, system)
    for moved in (x + torch.tensor([0.3, -4.0, 27.0]), x + image, turned, x[beads]):
        assert energy_of(model, system.at(moved)) == pytest.approx(energy, abs=1e-3)


def test_the_network_sees_bonded_pairs_and_the_repulsion_does_not(frames, molecules):
    model = small_network(frames, molecules)
    lonely = System.single(torch.tensor([[0.0, 0, 0], [BOND, 0, 0]]), frames.types[:2], cell=20.0)
    longer = lonely.at(torch.tensor([[0.0, 0, 0], [1.1 * BOND, 0, 0]]))
    pairs = neighbors(lonely, CUTOFF)
    with torch.no_grad():
        bonds = [float(molecules.bonded(s, None)[0]) for s in (lonely, longer)]
        seen, prior = ([float(p(s, pairs)[0]) for s in (lonely, longer)] for p in (model.network, model.prior))
    assert abs(seen[1] - seen[0]) > 1e-4
    assert prior == pytest.approx(bonds)


def test_the_repulsion_begins_where_one_bead_in_a_thousand_has_a_nearer_neighbour(frames, molecules):
    repulsion = fit_repulsion(frames, molecules)
    counts = torch.zeros(2, 2)
    for k in range(len(frames)):
        system = frames.system(k)
        half = Excluding(TRUE_LAW, [(0, 1)], 2).remaining(neighbors(system, CUTOFF)).half
        i, j = system.types[half.index]
        near = half.distances(system) <= repulsion.sigma(i, j, torch.float32)
        counts.index_put_((torch.minimum(i, j)[near], torch.maximum(i, j)[near]), torch.ones(int(near.sum())), accumulate=True)
    expected = round(1e-3 * len(frames) * CELLS**3)
    for a, b in ((0, 0), (0, 1), (1, 1)):
        assert abs(int(counts[a, b]) - expected) <= 1
    assert not any(p.requires_grad for p in repulsion.parameters())
    assert 2.6 < float(repulsion.sigma.value.min()) < 3.2


def test_eight_boxes_in_one_have_eight_times_the_energy(frames, trained):
    model, _ = trained
    one = frames.system(0)
    eight = one.enlarged((2, 2, 2), bonds=frames.bonds)
    whole = model.deployed()
    with torch.no_grad():
        small, large = (energy_forces(whole, s, neighbors(s, whole.cutoff)) for s in (one, eight))
    assert float(large.energy[0]) == pytest.approx(8 * float(small.energy[0]), rel=1e-5)
    torch.testing.assert_close(large.forces.reshape(8, -1, 3), small.forces.expand(8, -1, 3), atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("kind", ["schnet", "painn"])
def test_deployed_networks_have_the_forces_of_the_trained_ones(frames, molecules, kind):
    model = small_network(frames, molecules, kind)
    some = frames[:3]
    exact, fast = predicted_forces(model.potential, some), predicted_forces(model.deployed(), some)
    torch.testing.assert_close(fast, exact, atol=1e-4 * float(exact.abs().max()), rtol=0)


def test_what_is_saved_can_be_deployed_again(frames, molecules, tmp_path):
    model = small_network(frames, molecules)
    again = deployed(store.load(store.save(tmp_path / "liquid.npz", model.potential)))
    assert torch.equal(predicted_forces(again, frames[:2]), predicted_forces(model.deployed(), frames[:2]))


def test_under_a_pair_law_the_network_and_the_repulsion_stay(frames, trained):
    model, _ = trained
    system, field = frames.system(0), model.with_pairs()
    pairs = neighbors(system, CUTOFF)
    with torch.no_grad():
        both = energy_forces(field.potential(TRUE_LAW), system, pairs)
        network = energy_forces(model.deployed(), system, pairs)
        law = energy_forces(Excluding(TRUE_LAW, [(0, 1)], 2), system, pairs)
    torch.testing.assert_close(both.forces, network.forces + law.forces, atol=1e-3, rtol=1e-4)
    assert float(both.energy[0]) == pytest.approx(float(network.energy[0] + law.energy[0]), rel=1e-5)


def test_the_virial_is_the_derivative_of_the_energy_by_stretching_the_box(frames, trained):
    model, _ = trained
    system, field = frames.system(0), model.with_pairs()
    whole = model.deployed()

    def energy(stretch: float) -> float:
        wide = replace(system, positions=system.positions * stretch, cell=system.cell * stretch).to(torch.float64)
        with torch.no_grad():
            return float(whole(wide, neighbors(wide, whole.cutoff))[0])

    h = 1e-3
    assert field.virial(system) == pytest.approx((energy(1 + h) - energy(1 - h)) / (2 * h), rel=1e-2, abs=0.5)


def test_structure_based_methods_mend_what_a_poor_network_has_wrong(frames, molecules):
    poor = small_network(frames, molecules)  # not trained
    one_type = replace(frames, types=torch.zeros_like(frames.types))
    target = molecules.target(one_type, r_max=8.0, bins=32)
    settings = dict(kT=KT, dt=4.0, friction=1 / units.ps, steps=1000, every=20, equilibration=200, seed=0)
    sampler = LiquidSampler(one_type.system(0), target, target.basis(CUTOFF), molecules=poor.with_pairs(), **settings)
    start = torch.zeros(sampler.basis.shape, dtype=torch.float64)
    logs = list(refine_pairs(IterativeBoltzmannInversion(KT), sampler, start, tolerance=0.3, iterations=3))
    assert logs[-1].rms < 0.5 * logs[0].rms


def test_an_interrupted_training_goes_on_bit_for_bit(frames, molecules, tmp_path):
    settings = dict(steps=12, every=1, seed=3)
    whole = small_network(frames, molecules)
    list(train_network(whole, frames, **settings))
    for _ in range(2):  # stopped after six steps, then from there to the end
        cut = small_network(frames, molecules)
        for log in train_network(cut, frames, checkpoint=str(tmp_path), **settings):
            if log["step"] == 6 and not (tmp_path / "seen").exists():
                (tmp_path / "seen").touch()
                break
    assert all(torch.equal(a, b) for a, b in zip(whole.network.parameters(), cut.network.parameters(), strict=True))


def test_bad_input_is_named(frames, molecules):
    with pytest.raises(ValueError, match="more than half"):
        liquid_network(frames, molecules, cutoff=9.5)
    with pytest.raises(ValueError, match="kind='cnn'"):
        liquid_network(frames, molecules, kind="cnn", cutoff=CUTOFF)
    with pytest.raises(ValueError, match="no cell"):
        fit_repulsion(replace(frames, cell=None), molecules)
    with pytest.raises(ValueError, match="kT is unknown"):
        fit_repulsion(replace(frames, kT=None), molecules)
    with pytest.raises(ValueError, match="no forces"):
        next(train_network(small_network(frames, molecules), replace(frames, forces=None)))
