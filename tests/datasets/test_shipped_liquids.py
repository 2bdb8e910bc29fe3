"""Shipped liquids are what their provenance says: density, forces of the engine, whole molecules, structure as published."""

import numpy as np
import pytest
import torch

from mlmd import datasets, units
from mlmd.cg import mapping
from mlmd.datasets import alkanes, registry, tetracosane, trappe, water
from mlmd.frames import Frames, as_numpy
from mlmd.io import virial
from mlmd.observables.rdf import rdf

LIQUIDS = [d.name for d in datasets.available() if d.ships and registry.RECIPES[d.name].resized is not None]
# g/cm^3: saturated ethane (Friend, Ingham, Ely 1991), C24H50 by the correlation of Hankinson and Thomson (AIChE J. 25, 653 (1979)),
# SPC/E at 300 K (0.998: Berendsen, Grigera, Straatsma 1987), TIP4P/2005 at 298 K (0.9979: Abascal, Vega 2005)
DENSITY = {"ethane": 0.5439, "tetracosane": 0.655, "water-spce": 0.998, "water-tip4p2005": 0.9979}
TOLERANCE = {"tetracosane": 0.03}  # 1 % of the correlation, 2 % of the model; else 2 %
MODELS = {m.name: m for m in (water.SPCE, water.TIP4P2005)}


@pytest.fixture(scope="module", params=LIQUIDS)
def frames(request) -> Frames:
    return datasets.load(request.param)


@pytest.fixture(scope="module")
def chains() -> Frames:
    return datasets.load("tetracosane")


def shipped_or_generated(name: str) -> Frames:
    if registry.recipe(name).info.ships:
        return datasets.load(name)
    try:
        return datasets.generated(name)
    except ValueError as error:
        pytest.skip(str(error))


def name_of(frames: Frames) -> str:
    return frames.provenance["data set"]


def test_density_is_that_of_the_run_at_constant_pressure_and_near_experiment(frames):
    assert frames.cell is not None and frames.masses is not None
    volume = float(torch.linalg.det(frames.cell[0]))
    density = float(frames.masses.sum()) / units.amu * 1.66053906660 / volume
    ((told, error),) = frames.provenance["density at constant pressure / g/cm3"]
    assert density == pytest.approx(told, rel=1e-3)
    assert error < 0.01
    assert abs(density / DENSITY[name_of(frames)] - 1) < TOLERANCE.get(name_of(frames), 0.02)
    assert torch.equal(frames.cell, frames.cell[:1].expand_as(frames.cell))


def engine(frames: Frames):
    pytest.importorskip("openmm")
    assert frames.cell is not None
    edge, name = float(frames.cell[0, 0, 0]), name_of(frames)
    if name == "ethane":
        return alkanes.opls_liquid(frames.topology, edge=edge, cutoff=9.0)
    if name == "tetracosane":
        return trappe.system(24, frames.n_atoms // 24, edge=edge, cutoff=tetracosane.CUTOFF)
    return water.system(MODELS[name], frames.n_atoms // 3, edge=edge)


def with_virtual_sites(frames: Frames, k: int) -> np.ndarray:
    x = as_numpy(frames.positions[k].double())
    if name_of(frames) != "water-tip4p2005":
        return x
    x = x.reshape(-1, 3, 3)
    return np.concatenate([x, x[:, :1]], 1).reshape(-1, 3)  # the engine puts M in its place


def test_energies_and_forces_are_those_of_the_engine(frames):
    """To what rounding of positions (1.5e-4 A) makes of them, and single precision of the run: 5 meV in the energy of the box."""
    import openmm as mm

    system, atoms = engine(frames), slice(None)
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("CPU"), {"Threads": "1"})
    if name_of(frames) == "water-tip4p2005":
        atoms = np.arange(len(with_virtual_sites(frames, 0))).reshape(-1, 4)[:, :3].ravel()
    for k in (0, len(frames) - 1):
        context.setPositions(with_virtual_sites(frames, k) / 10)
        context.computeVirtualSites()
        s = context.getState(getEnergy=True, getForces=True)
        forces = s.getForces(asNumpy=True)._value[atoms] * (units.kJ_mol / units.nm)
        stored = as_numpy(frames.forces[k])
        assert abs(s.getPotentialEnergy()._value * units.kJ_mol - float(frames.energies[k])) < 0.03
        assert np.sqrt(((forces - stored) ** 2).mean()) < 0.02 * stored.std()


def test_molecules_are_whole_and_rigid_where_they_should_be(frames):
    x = frames.positions[::20]
    i, j = torch.tensor(frames.bonds).T
    assert float((x[:, i] - x[:, j]).norm(dim=-1).max()) < 1.9
    name = name_of(frames)
    if name == "tetracosane":
        assert frames.constraints is None
        return
    i, j = frames.constraints.T
    d = (x[:, i] - x[:, j]).norm(dim=-1)
    assert float(d.std(0).max()) < 5e-4
    hydrogen = {"ethane": 1.09, "water-spce": 1.0, "water-tip4p2005": 0.9572}[name]
    assert float((d.mean(0) - hydrogen).abs().min()) < 2e-4


def test_forces_of_chains_match_their_positions(chains):
    found = virial(chains)
    assert found is not None and chains.kT is not None
    assert abs(found.value / chains.kT - 1) < 3 * found.error / chains.kT
    assert found.error / chains.kT < 0.02


def test_forces_on_the_beads_of_ethane_match_their_positions():
    """Rigid bonds lie within the beads, so the forces of constraint cancel and the virial of beads is kT again."""
    ethane = datasets.load("ethane")
    beads = mapping.by_groups(ethane, [[0, 1, 2, 3], [4, 5, 6, 7]]).apply(ethane)
    found = virial(beads)
    assert found is not None and ethane.kT is not None
    assert abs(found.value / ethane.kT - 1) < 3 * found.error / ethane.kT
    assert found.error / ethane.kT < 0.1


def test_all_forces_add_up_to_nothing(frames):
    """Those on the massless sites of TIP4P/2005 too, which are spread over the atoms."""
    total = frames.forces.double().sum(1)
    assert float(total.norm(dim=-1).max()) < 0.02 * float(frames.forces.std()) * frames.n_atoms**0.5 + 0.1


def test_spce_water_has_the_published_structure(shared_data):
    """g(r) of centres of mass against 2 180 molecules of another engine, in the same bins of 0.1 A."""
    table = np.loadtxt(shared_data / "votca" / "spce" / "target_rdf.txt", usecols=(0, 1))
    frames = shipped_or_generated("water-spce")
    r, expected = table[:, 0] * 10, table[:, 1]
    centres = mapping.molecule(frames).apply(frames)
    found = rdf(centres, r_min=float(r[0]) - 0.05, r_max=float(r[-1]) + 0.05, bins=len(r))
    assert found.r == pytest.approx(r, abs=1e-6)
    assert np.abs(found.g - expected).mean() < 0.01
    assert np.abs(found.g - expected).max() < 0.06


def test_tip4p2005_water_has_the_published_structure(shared_data):
    table = np.loadtxt(shared_data / "water" / "tip4p2005_298K" / "COM_RDF.csv")
    frames = shipped_or_generated("water-tip4p2005")
    centres = mapping.molecule(frames).apply(frames)
    reach = table[:, 0] * 10 < 9.9
    r, expected = table[reach, 0] * 10, table[reach, 1]
    width = float(np.diff(r).mean())
    found = rdf(centres, r_min=0.0, r_max=len(r) * width, bins=len(r))
    far = (r > 2.4) & (r < 9.5)
    assert np.abs(found.g - expected)[far].mean() < 0.03


def test_chains_have_the_size_of_the_ideal_ones(chains):
    """<R^2>/<Rg^2> lies between the 12 of a rod and the 6 of a long random walk; bonds are at their rest length within their swing."""
    x = chains.positions.double().reshape(len(chains), -1, 24, 3)
    end = (x[:, :, -1] - x[:, :, 0]).square().sum(-1).mean()
    centred = x - x.mean(2, keepdim=True)
    gyration = centred.square().sum(-1).mean()
    assert 6.0 < float(end / gyration) < 12.0
    bonds = (x[:, :, 1:] - x[:, :, :-1]).norm(dim=-1)
    assert chains.kT is not None
    assert float(bonds.mean()) == pytest.approx(1.54, abs=0.02)
    assert float(bonds.std()) == pytest.approx((chains.kT / (96_500 * units.kelvin)) ** 0.5, rel=0.1)
