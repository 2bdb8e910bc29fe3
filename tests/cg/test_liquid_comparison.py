"""What is counted in a bead liquid: against positions of which everything is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mlmd import units
from mlmd.cg.liquid_bonded import BondedTarget
from mlmd.cg.liquid_comparison import BLOCKS, Structure, apart, motion_of, summary_of, velocity_correlations
from mlmd.cg.liquid_molecules import LiquidMolecules
from mlmd.frames import Frames, bead_topology
from mlmd.observables import RDF
from mlmd.potentials.bonded import Bonded, HarmonicBonds
from mlmd.potentials.internal import InternalCoordinates
from mlmd.potentials.pair import SoftSphere

KT = 300 * units.kelvin


def rods(frames: int = 60, molecules: int = 40, edge: float = 30.0, seed: int = 0) -> Frames:
    """Molecules a - b - a with bonds of 1.5 A at 120 degrees, thrown at random."""
    g = torch.Generator().manual_seed(seed)
    shape = torch.tensor([[0.0, 0, 0], [1.5, 0, 0], [1.5 + 0.75, 1.5 * 0.75**0.5, 0]], dtype=torch.float64)
    turned = torch.linalg.qr(torch.randn(frames, molecules, 3, 3, generator=g, dtype=torch.float64))[0]
    x = torch.einsum("ni,fmij->fmnj", shape, turned) + edge * torch.rand(frames, molecules, 1, 3, generator=g, dtype=torch.float64)
    x = x + 0.02 * torch.randn(x.shape, generator=g, dtype=torch.float64)  # a little soft
    cell = edge * torch.eye(3, dtype=torch.float64).expand(frames, 3, 3)
    masses, types = torch.tensor([1.0, 2.0, 1.0]).double().repeat(molecules) * units.amu, torch.tensor([0, 1, 0]).repeat(molecules)
    topology = bead_topology(["A", "B", "C"], [(0, 1), (1, 2)], molecules)
    return Frames(x.reshape(frames, -1, 3), topology, cell=cell, masses=masses, types=types, kT=KT)


@pytest.fixture(scope="module")
def counted():
    frames = rods()
    coordinates = InternalCoordinates(
        3, torch.tensor([[0, 1], [0, 2], [1, 2]]), torch.tensor([[0, 1, 2]]), torch.zeros(0, 4).long()
    )
    bonded = Bonded(coordinates, [HarmonicBonds([0, 2], torch.tensor([1.0, 1.0]), torch.tensor([1.5, 1.5]))])
    molecules = LiquidMolecules(bonded, ((0, 1), (1, 2)), 3, 3)
    return frames, Structure.of(frames, molecules, BondedTarget.of(frames), 12.0, 24)


def test_pairs_of_types_are_named_by_letters(counted):
    _, structure = counted
    assert structure.types == ((0, 0), (0, 1), (1, 1))
    assert structure.names == ("a–a", "a–b", "b–b")


def test_between_molecules_thrown_at_random_g_is_one(counted):
    frames, structure = counted
    rdfs = structure.rdfs(frames)
    assert set(rdfs) == {"a–a", "a–b", "b–b", "centres of mass"}
    for g in rdfs.values():
        far = g.r > 2.0
        assert abs(g.g[far].mean() - 1) < 0.05


def test_bonds_angles_and_sizes_are_those_of_the_shape(counted):
    frames, structure = counted
    overlays = {o.name: o for o in structure.overlays(frames, frames)}
    assert set(overlays) == {"bond a–b", "angle a–b–a", "radius of gyration", "end-to-end distance"}
    sizes = structure.sizes(frames)
    assert float(sizes["end-to-end distance"].mean()) == pytest.approx(1.5 * 3**0.5, rel=0.003)
    assert overlays["angle a–b–a"].reference.mean == pytest.approx(2 * np.pi / 3, abs=0.05)
    middle = 2 * 1.5 * 0.5 / 4  # of the apex, below which the centre of mass lies, for masses 1, 2, 1
    ends = (1.5 * 3**0.5 / 2) ** 2 + (0.75 - middle) ** 2
    assert float(sizes["radius of gyration"].square().mean()) == pytest.approx((2 * ends + 2 * middle**2) / 4, rel=0.01)
    (a, b) = structure.mean_squares(frames, frames)["end-to-end distance"]
    assert (a.value, b.value) == (pytest.approx(6.75, rel=0.005), pytest.approx(6.75, rel=0.005))


def test_equal_liquids_overlap_fully(counted):
    frames, structure = counted
    assert all(o.overlap == pytest.approx(1.0) for o in structure.overlays(frames, frames))


def test_differences_come_with_the_noise_to_expect():
    rng = np.random.default_rng(0)
    r, edges = np.arange(400) + 0.5, np.arange(401.0)
    make = lambda: RDF(r, 1 + 0.02 * rng.standard_normal(400), np.full(400, 0.02), np.ones(400), edges, 1)  # noqa: E731
    d = apart(make(), make())
    assert d["mean"] == pytest.approx(d["noise"], rel=0.1)
    assert d["noise"] == pytest.approx(0.02 * 2**0.5 * (2 / np.pi) ** 0.5)


def test_an_ideal_gas_has_the_ideal_pressure_and_no_energy():
    frames = rods(frames=20)
    run = summary_of(frames, SoftSphere(KT, 1e-3, 2.0), KT)
    assert run.pressure.value == pytest.approx(frames.n_atoms * KT / 30.0**3, rel=1e-6)
    assert run.energy.value == pytest.approx(0.0, abs=1e-9)


def test_pressure_is_the_change_of_energy_with_volume():
    frames, law, step = rods(frames=10), SoftSphere(KT, 3.0, 6.0), 1e-4
    run = summary_of(frames, law, KT)
    energies = []
    for scale in (1 - step, 1 + step):
        assert frames.cell is not None
        grown = replace(frames, positions=frames.positions * scale, cell=frames.cell * scale)
        energies.append(summary_of(grown, law, KT).energy.value * frames.n_atoms)
    volume = 30.0**3
    slope = (energies[1] - energies[0]) / (volume * ((1 + step) ** 3 - (1 - step) ** 3))
    assert run.pressure.value == pytest.approx(frames.n_atoms * KT / volume - slope, rel=2e-3)


def test_runs_that_are_too_short_for_motion_say_why():
    motion, notes = motion_of(rods(frames=8), rods(frames=8))
    assert motion is None
    assert "could not be compared" in notes[0]


def test_short_runs_are_compared_over_fewer_blocks():
    frames = rods(frames=4 * BLOCKS)
    steps = torch.randn(len(frames), 40, 1, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).cumsum(0)
    walk = (frames.positions[:1].reshape(1, 40, 3, 3) + 0.1 * steps).reshape(len(frames), -1, 3)
    motion, notes = motion_of(replace(frames, positions=walk), replace(frames, positions=walk))
    assert motion is not None
    assert motion.diffusion.value == pytest.approx(1.0)
    assert "blocks of time only" in notes[0]


def test_velocities_of_free_flight_are_told_and_frames_far_apart_have_none():
    frames = rods(frames=80)
    g = torch.Generator().manual_seed(2)
    flight = torch.randn(1, 40, 1, 3, generator=g, dtype=torch.float64) * 0.01  # A/fs, of whole molecules
    flight = flight - flight.mean(1, keepdim=True)
    time = 20.0 * torch.arange(80, dtype=torch.float64)
    x = frames.positions[:1].reshape(1, 40, 3, 3) + flight * time[:, None, None, None]
    straight = replace(frames, positions=x.reshape(80, -1, 3), time=time)
    found = velocity_correlations(straight, straight)
    curve, dt = found["simulated"]
    assert dt == 20.0
    assert np.allclose(curve.vacf, float(flight.square().sum(-1).mean()))
    assert velocity_correlations(replace(straight, time=10 * time), straight) == {}
