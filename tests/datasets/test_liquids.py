"""Reference liquids: energies and forces are those of the papers written out, molecules stay whole, runs survive a kill."""

import dataclasses

import mdtraj
import numpy as np
import pytest
import torch

from mlmd import datasets, units
from mlmd.datasets import alkanes, liquids, tetracosane, trappe, water
from mlmd.datasets.liquids import Protocol, lattice, measured_density, moved, sample_liquid
from tests.datasets.test_alkanes import plain_energy

KCAL = 332.0637  # kcal/mol A/e^2
BOLTZMANN = 8.31446261815324e-3  # kJ/mol/K


def openmm_point(system, x, platform="Reference"):
    mm = pytest.importorskip("openmm")
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName(platform))
    context.setPositions(np.asarray(x) / 10)
    context.computeVirtualSites()
    s = context.getState(getEnergy=True, getForces=True)
    return s.getPotentialEnergy()._value, s.getForces(asNumpy=True)._value / 10  # kJ/mol, kJ/mol/A


def minimum_image(d, edge):
    return d - edge * torch.round(d / edge)


def ewald(x, q, edge, alpha=0.6, waves=9):
    """Energy of charges and all images over the Coulomb constant, 1/A; the sum over pairs ends at half the box."""
    i, j = torch.triu_indices(len(x), len(x), 1)
    r = minimum_image(x[i] - x[j], edge).norm(dim=-1)
    real = (q[i] * q[j] * torch.erfc(alpha * r) / r).sum()
    n = torch.cartesian_prod(*[torch.arange(-waves, waves + 1)] * 3)
    k = 2 * torch.pi / edge * n[(n != 0).any(1)].double()
    k2 = k.square().sum(1)
    phase = x @ k.T
    structure = (q @ torch.cos(phase)).square() + (q @ torch.sin(phase)).square()
    reciprocal = 2 * torch.pi / edge**3 * (torch.exp(-k2 / (4 * alpha**2)) / k2 * structure).sum()
    return real + reciprocal - alpha / torch.pi**0.5 * q.square().sum()


def lennard_jones_tail(sigma, epsilon, cutoff, volume):
    """Energy beyond the cutoff at uniform density; arrays (n, n) of sigma and epsilon.

    The engine takes the mean over the n (n + 1) / 2 pairs i <= j times n^2 / 2, where a plain double sum has n^2 pairs: the same in
    a large system.
    """
    x = (sigma / cutoff) ** 3
    tails = 2 / 3 * np.pi / volume * 4 * epsilon * sigma**3 * (x**3 / 3 - x)
    n = len(tails)
    return float((tails.sum() + np.trace(tails)) * n / (n + 1))


def test_liquid_ethane_has_the_energy_of_the_paper_written_out():
    """27 molecules near the surface of each other: their own terms, Lennard-Jones within the cutoff, its tail, and a plain Ewald sum."""
    n, cutoff, edge = 27, 7.0, 15.0
    top, one = alkanes.topology(2, n), alkanes.topology(2)
    x, wide = lattice(alkanes.positions(2), n, seed=4)
    x = moved(x, wide, edge, 8)
    ours, _ = openmm_point(tightened(alkanes.opls_liquid(top, edge=edge, cutoff=cutoff)), x)
    own = sum(plain_energy(one, part) for part in x.reshape(n, 8, 3))
    symbols = [a.element.symbol for a in top.atoms]
    s, e = (np.array([alkanes.LENNARD_JONES[k][c] for k in symbols]) for c in (0, 1))
    sigma, epsilon = np.sqrt(np.outer(s, s)), np.sqrt(np.outer(e, e))
    d = minimum_image(torch.from_numpy(x[:, None] - x[None]), edge).norm(dim=-1).numpy()
    molecule = np.arange(len(x)) // 8
    apart = (molecule[:, None] < molecule[None]) & (d < cutoff)
    y = (sigma[apart] / d[apart]) ** 6
    pairs = (4 * epsilon[apart] * (y**2 - y)).sum() + lennard_jones_tail(sigma, epsilon, cutoff, edge**3)
    q = np.array([0.06 if k == "H" else -0.18 for k in symbols])
    inside = sum(q[i] * q[j] / np.linalg.norm(x[i] - x[j]) for i in range(len(x)) for j in range(i) if molecule[i] == molecule[j])
    charges = KCAL * (float(ewald(torch.from_numpy(x), torch.from_numpy(q), edge)) - inside)
    assert ours / 4.184 == pytest.approx(own + pairs + charges, rel=1e-4, abs=0.02)


def tightened(system):
    for force in system.getForces():
        if type(force).__name__ == "NonbondedForce":
            force.setEwaldErrorTolerance(1e-6)
    return system


def test_rigid_bonds_of_ethane_are_those_to_hydrogen_and_store_no_energy():
    pytest.importorskip("openmm")
    system = alkanes.opls_liquid(alkanes.topology(2, 2), edge=30.0)
    rigid = {tuple(sorted(system.getConstraintParameters(k)[:2])) for k in range(system.getNumConstraints())}
    assert rigid == set(alkanes.rigid_bonds(alkanes.topology(2, 2)))
    assert len(rigid) == 12


def test_united_atom_chains_have_the_energy_of_the_paper_written_out():
    """Two hexanes, displaced at random: bonds, angles, torsions, pairs more than three bonds apart, and the tail (in K)."""
    edge, cutoff, n = 26.0, 12.0, 6
    rng = np.random.default_rng(2)
    chain = trappe.conformation(n, rng)
    x = np.concatenate([chain, chain + np.array([0.0, 0.0, 4.2])]) + 0.1 * rng.normal(size=(12, 3))
    ours, _ = openmm_point(trappe.system(n, 2, edge=edge, cutoff=cutoff), x)
    energy = 0.0
    for c in (x[:n], x[n:]):
        energy += sum(96_500 / 2 * (np.linalg.norm(b) - 1.54) ** 2 for b in np.diff(c, axis=0))
        t = mdtraj.Trajectory(c[None] / 10, trappe.topology(n))
        theta = mdtraj.compute_angles(t, [[i, i + 1, i + 2] for i in range(n - 2)])[0].astype(float)
        phi = mdtraj.compute_dihedrals(t, [[i, i + 1, i + 2, i + 3] for i in range(n - 3)])[0].astype(float)
        energy += (62_500 / 2 * (theta - np.radians(114)) ** 2).sum()
        energy += (355.03 * (1 + np.cos(phi)) - 68.19 * (1 - np.cos(2 * phi)) + 791.32 * (1 + np.cos(3 * phi))).sum()
    s, e = (np.array([(3.75, 98.0), *[(3.95, 46.0)] * 4, (3.75, 98.0)] * 2)[:, k] for k in (0, 1))
    sigma, epsilon = (s[:, None] + s[None]) / 2, np.sqrt(np.outer(e, e))
    for i in range(12):
        for j in range(i):
            r = np.linalg.norm(x[i] - x[j])
            if (i // n != j // n or i - j > 3) and r < cutoff:
                energy += 4 * epsilon[i, j] * ((sigma[i, j] / r) ** 12 - (sigma[i, j] / r) ** 6)
    energy += lennard_jones_tail(sigma, epsilon, cutoff, edge**3)
    assert ours / BOLTZMANN == pytest.approx(energy, rel=2e-4)


@pytest.mark.parametrize("model", [water.SPCE, water.TIP4P2005], ids=lambda m: m.name)
def test_water_has_the_energy_of_the_paper_and_all_its_forces_on_the_three_atoms(model):
    """The sum written out in torch with M as a function of the atoms: minus its gradient are the forces, M's included."""
    n, edge, cutoff = 27, 11.0, 5.0
    x, wide = lattice(model.geometry, n, seed=1)
    x = moved(x, wide, edge, model.n_sites)
    energy, forces = openmm_point(water.system(model, n, edge=edge, cutoff=cutoff, tolerance=1e-7), x)
    atoms = torch.from_numpy(x.reshape(n, -1, 3)[:, :3].copy()).requires_grad_()
    expected = water_energy(model, atoms, edge, cutoff)
    assert energy == pytest.approx(float(expected.detach()), rel=2e-5)
    (gradient,) = torch.autograd.grad(expected, atoms)
    stored = forces.reshape(n, -1, 3)[:, :3]
    assert np.abs(stored + gradient.numpy()).max() < 2e-4 * np.abs(stored).max()


def water_energy(model, atoms, edge, cutoff):
    """kJ/mol of rigid water (n, 3, 3)."""
    q_h, k = {"SPC/E": 0.4238, "TIP4P/2005": 0.5564}[model.title], 1389.35457644
    a, b = 3.7122, 3.428  # SPC/E as in its paper: (b/r)^12 - (a/r)^6, (kJ/mol)^(1/6) A and (kJ/mol)^(1/12) A
    sigma, epsilon = {"SPC/E": (b**2 / a, (a / b) ** 12 / 4), "TIP4P/2005": (3.1589, 93.2 * BOLTZMANN)}[model.title]
    o, h1, h2 = atoms.unbind(1)
    assert {round(float((h - o).detach().norm(dim=-1).mean()), 4) for h in (h1, h2)} == {model.bond}
    bisector = (h1 + h2) / 2 - o
    assert float((bisector.detach().norm(dim=-1) - model.bond * np.cos(np.radians(model.angle / 2))).abs().max()) < 1e-6
    # linear in the atoms, as the force is spread: a fixed distance would put another part along the rigid bisector
    negative = o + {"SPC/E": 0.0, "TIP4P/2005": 0.1546}[model.title] / (model.bond * np.cos(np.radians(model.angle / 2))) * bisector
    sites = torch.stack([negative, h1, h2], 1).reshape(-1, 3)
    q = torch.tensor([-2 * q_h, q_h, q_h], dtype=torch.float64).repeat(len(atoms))
    charge = ewald(sites, q, edge)
    for one, other, qq in ((negative, h1, -2 * q_h**2), (negative, h2, -2 * q_h**2), (h1, h2, q_h**2)):
        charge = charge - (qq / (one - other).norm(dim=-1)).sum()
    i, j = torch.triu_indices(len(o), len(o), 1)
    r = minimum_image(o[i] - o[j], edge).norm(dim=-1)
    y = (sigma / r[r < cutoff]) ** 6
    depth = np.zeros(model.n_sites * len(o))
    depth[:: model.n_sites] = epsilon
    every = np.sqrt(np.outer(depth, depth))
    tail = lennard_jones_tail(sigma * np.ones_like(every), every, cutoff, edge**3)
    return k * charge + (4 * epsilon * (y**2 - y)).sum() + tail


def test_rigid_distances_of_water_fit_its_geometry():
    for model, angle in ((water.SPCE, 109.47), (water.TIP4P2005, 104.52)):
        o, h1, h2 = model.geometry[:3]
        cosine = (h1 - o) @ (h2 - o) / model.bond**2
        assert np.degrees(np.arccos(cosine)) == pytest.approx(angle)
    assert water.rigid_pairs(2) == [(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)]


@pytest.mark.parametrize(
    "build",
    [
        lambda: alkanes.opls_liquid(alkanes.topology(2, 2), edge=15.0),
        lambda: trappe.system(6, 2, edge=20.0),
        lambda: water.system(water.SPCE, 2, edge=10.0),
    ],
)
def test_boxes_smaller_than_twice_the_cutoff_are_refused(build):
    pytest.importorskip("openmm")
    with pytest.raises(ValueError, match=r"less than twice cutoff=.*take more molecules"):
        build()


def test_molecules_of_the_lattice_do_not_touch_and_keep_their_shape():
    one = alkanes.positions(2)
    x, edge = lattice(one, 10, seed=3)
    d = minimum_image(torch.from_numpy(x[:, None] - x[None]), edge).norm(dim=-1).numpy()
    molecule = np.arange(80) // 8
    assert d[molecule[:, None] != molecule[None]].min() > 0.2
    inner = np.linalg.norm(one[:, None] - one[None], axis=-1)
    for m in range(10):
        assert d[8 * m : 8 * m + 8, 8 * m : 8 * m + 8] == pytest.approx(inner, abs=1e-9)
    with pytest.raises(ValueError, match="n_molecules=0"):
        lattice(one, 0)


def test_moving_molecules_to_another_box_leaves_their_insides_alone():
    x = np.random.default_rng(0).normal(size=(12, 3))
    y = moved(x, 10.0, 8.0, 4)
    assert np.diff(y.reshape(3, 4, 3), axis=1) == pytest.approx(np.diff(x.reshape(3, 4, 3), axis=1))
    assert y.reshape(3, 4, 3).mean(1) == pytest.approx(0.8 * x.reshape(3, 4, 3).mean(1))


def test_chains_start_with_bonds_and_angles_at_rest_and_no_overlap():
    x = trappe.conformation(24, np.random.default_rng(0))
    assert np.linalg.norm(np.diff(x, axis=0), axis=1) == pytest.approx(1.54)
    t = mdtraj.Trajectory(x[None] / 10, trappe.topology(24))
    angles = np.degrees(mdtraj.compute_angles(t, [[i, i + 1, i + 2] for i in range(22)]))
    phi = np.degrees(mdtraj.compute_dihedrals(t, [[i, i + 1, i + 2, i + 3] for i in range(21)]))
    assert angles == pytest.approx(114, abs=0.01)
    assert set(np.abs(phi).round().ravel()) == {66.0, 180.0}
    d = np.linalg.norm(x[:, None] - x[None], axis=-1)
    assert d[np.triu_indices(24, 5)].min() > 3.5
    with pytest.raises(ValueError, match="n_carbons=1"):
        trappe.hydrogens(1)


SHORT = Protocol(temperature=300.0, dt_fs=4.0, frame_ps=0.02, equilibration_ps=10.0, settle_ps=0.1, frames_per_chunk=2)


def small_run(folder, stop_after=None, seed=5):
    """24 butanes."""
    pytest.importorskip("openmm")
    rng = np.random.default_rng(1)
    start, wide = lattice(np.stack([trappe.conformation(4, rng) for _ in range(24)]) / 10, 24)
    steps = sample_liquid(
        trappe.system(4, 24, edge=16.0, cutoff=6.0),
        start,
        wide,
        folder,
        SHORT,
        n_frames=6,
        seed=seed,
        sites_per_molecule=4,
        density=0.56,
    )
    for k, _ in enumerate(steps, start=1):
        if k == stop_after:
            steps.close()
            break


@pytest.fixture(scope="module")
def butane(tmp_path_factory):
    folder = tmp_path_factory.mktemp("butane")
    small_run(folder)
    return folder


@pytest.mark.parametrize("stop_after", [1, 3], ids=["after equilibration", "within production"])
def test_an_interrupted_liquid_goes_on_as_if_it_had_not_been(butane, tmp_path, stop_after):
    small_run(tmp_path, stop_after)
    small_run(tmp_path)
    a, b = (liquids_chunks(f) for f in (butane, tmp_path))
    assert set(a) == {"positions", "forces", "energies", "cell"}
    for key, value in a.items():
        assert np.array_equal(value, b[key]), key


def liquids_chunks(folder):
    from mlmd.datasets.chunks import read_chunks

    return read_chunks(folder)


def test_a_liquid_with_other_settings_is_not_continued(butane):
    with pytest.raises(ValueError, match=r"settings\.json was written with other settings"):
        small_run(butane, seed=6)


def test_the_box_of_the_frames_has_the_mean_volume_of_the_run_at_constant_pressure(butane):
    found = measured_density(butane)
    cell = liquids_chunks(butane)["cell"]
    assert cell[0] == pytest.approx(np.eye(3) * found.edge / 10, abs=1e-9)
    with np.load(butane / "equilibration_00000.npz") as z:
        volume = (z["edge"][25:] ** 3).mean()
    mass = 24 * (2 * 15.035 + 2 * 14.027) * 1.66053906660e-3  # g/cm^3 nm^3
    assert found.mean == pytest.approx(mass / volume, rel=1e-6)
    assert 0 < found.error < 0.05


def test_molecules_stay_whole_in_every_frame(butane):
    x = liquids_chunks(butane)["positions"].reshape(-1, 24, 4, 3) * 10
    bonds = np.linalg.norm(np.diff(x, axis=2), axis=-1)
    assert bonds.min() > 1.2 and bonds.max() < 1.9


def test_density_of_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="generate the liquid first"):
        measured_density(tmp_path)


def test_liquids_come_in_any_size_and_single_molecules_do_not():
    from mlmd.datasets.registry import recipe

    assert recipe("ethane", 1000).topology().n_atoms == 8000
    assert recipe("tetracosane", 100).info.atoms == 2400
    assert recipe("water-tip4p2005", 2180).topology().n_atoms == 6540
    with pytest.raises(ValueError, match="'propane' is a single molecule"):
        recipe("propane", 3)


def test_generated_frames_are_kept_in_the_cache_folder(tmp_path, monkeypatch, capsys, butane):
    """`mlmd data generate` without a folder, and reading it back; a chain of four stands for the melt."""
    from mlmd.cli import main

    monkeypatch.setenv("MLMD_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"mlmd data generate tetracosane --frames N"):
        datasets.generated("tetracosane")
    for module, name, value in (
        (tetracosane, "N_CARBONS", 4), (tetracosane, "CUTOFF", 6.0), (tetracosane, "START_DENSITY", 0.56),
        (tetracosane, "PROTOCOL", dataclasses.replace(SHORT, equilibration_ps=1)),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    assert main(["data", "generate", "tetracosane", "--molecules", "24", "--frames", "3"]) == 0
    out = capsys.readouterr().out
    assert str(tmp_path / "tetracosane-24" / "tetracosane.npz") in out and "g/cm3" in out
    frames = datasets.generated("tetracosane", 24)
    assert len(frames) == 3 and frames.n_atoms == 96
    assert frames.cell is not None and frames.constraints is None
    assert frames.masses is not None and float(frames.masses[:4].sum()) == pytest.approx(58.124 * units.amu)
    assert frames.types is not None and frames.types[:5].tolist() == [3, 2, 2, 3, 3]
    assert frames.provenance["runs"][0]["pressure"] == liquids.ATMOSPHERE
