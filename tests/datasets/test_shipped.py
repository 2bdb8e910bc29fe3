"""Shipped frames are what their provenance says: the engine gives the same energies and forces, to the rounding of the file."""

import mdtraj
import numpy as np
import pytest
import torch

from mlmd import datasets, units
from mlmd.datasets import alanine, alkanes, terphenyl
from mlmd.datasets.registry import RECIPES
from mlmd.frames import Frames, as_numpy

SOME = slice(0, None, 997)


def by_openmm(system, frames: Frames):
    mm = pytest.importorskip("openmm")
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    for x in as_numpy(frames.positions.double()):
        context.setPositions(x / 10)
        s = context.getState(getEnergy=True, getForces=True)
        yield s.getPotentialEnergy()._value * units.kJ_mol, s.getForces(asNumpy=True)._value * (units.kJ_mol / units.nm)


def by_tblite(frames: Frames):
    pytest.importorskip("tblite")
    forces = terphenyl.gfn2()
    for x in as_numpy(frames.positions.double()):
        yield forces(x)


def recomputed(name: str, frames: Frames):
    pytest.importorskip("tblite" if name == "o-terphenyl" else "openmm")
    if name == "propane":
        return by_openmm(alkanes.opls_system(frames.topology), frames)
    if name == "alanine-dipeptide":
        return by_openmm(alanine.openmm_system(), frames)
    return by_tblite(frames)


@pytest.mark.parametrize("name", [d.name for d in datasets.available() if d.ships and RECIPES[d.name].resized is None])
def test_energies_and_forces_are_those_of_the_engine(name):
    """Positions are rounded by 7e-5 A (rms); the stiffest bonds (50 eV/A^2) turn that into a few meV/A."""
    frames = datasets.load(name)[SOME]
    energies, forces = (np.array(a) for a in zip(*recomputed(name, frames), strict=True))
    assert np.abs(energies - as_numpy(frames.energies)).max() < 5e-3
    assert np.sqrt(((forces - as_numpy(frames.forces)) ** 2).mean()) < 5e-3
    assert np.abs(forces - as_numpy(frames.forces)).max() < 0.05


@pytest.fixture(scope="module")
def dipeptide() -> Frames:
    return datasets.load("alanine-dipeptide")


def test_every_frame_of_the_dipeptide_is_of_the_natural_hand(dipeptide):
    """L: seen with the hydrogen towards the eye, CO, R, N run clockwise; the triple product (N, C, CB) about CA is positive."""
    at = {(a.residue.name, a.name): a.index for a in dipeptide.topology.atoms}
    x = dipeptide.positions
    v = torch.stack([x[:, at["ALA", k]] - x[:, at["ALA", "CA"]] for k in ("N", "C", "CB")], 1)
    assert float(torch.linalg.det(v).min()) > 1.0


def test_phi_is_mostly_negative_but_both_sides_are_filled(dipeptide):
    phi = mdtraj.compute_phi(dipeptide.to_mdtraj())[1][:, 0]
    assert 0.005 < (phi > 0).mean() < 0.1
    assert (phi > 0).sum() >= 100


def test_peptide_bonds_stay_trans(dipeptide):
    at = {(a.residue.name, a.name): a.index for a in dipeptide.topology.atoms}
    quartets = [
        [("ACE", "CH3"), ("ACE", "C"), ("ALA", "N"), ("ALA", "CA")],
        [("ALA", "CA"), ("ALA", "C"), ("NME", "N"), ("NME", "C")],
    ]
    omega = mdtraj.compute_dihedrals(dipeptide.to_mdtraj(), [[at[k] for k in q] for q in quartets])
    assert omega.shape == (len(dipeptide), 2)
    assert (np.cos(omega) < 0).mean() > 0.999


def test_the_native_solvent_is_that_of_the_xml(dipeptide):
    pytest.importorskip("openmm")
    import openmm as mm
    from openmm import app

    top = app.PDBFile(str(alanine.STRUCTURE)).topology
    xml = app.ForceField("amber14-all.xml", "implicit/obc2.xml").createSystem(top, nonbondedMethod=app.NoCutoff, constraints=None)
    ours, theirs = (np.array([e for e, _ in by_openmm(s, dipeptide[:3])]) for s in (alanine.openmm_system(), xml))
    assert isinstance(xml, mm.System)
    assert ours == pytest.approx(theirs, abs=1e-5)


def test_terphenyl_is_three_rings_linked_in_ortho():
    top, x = terphenyl.topology(), terphenyl.built()
    assert (top.n_atoms, top.n_bonds) == (32, 34)
    d = np.linalg.norm(x[:, None] - x[None], axis=-1)
    lengths = sorted(d[a.index, b.index] for a, b in top.bonds)
    assert lengths == pytest.approx([terphenyl.CH] * 14 + [terphenyl.RING] * 18 + [terphenyl.LINK] * 2)
    assert np.sort(d[np.triu_indices(32, 1)])[34] > 1.9
    assert np.sort(terphenyl.sampling_masses())[13] == pytest.approx(3 * units.amu)


def test_gfn2_forces_are_minus_the_gradient():
    pytest.importorskip("tblite")
    forces, x = terphenyl.gfn2(), terphenyl.built()
    _, f = forces(x)
    h = np.zeros_like(x)
    h[7, 1] = 2e-3
    assert -(forces(x + h)[0] - forces(x - h)[0]) / 4e-3 == pytest.approx(f[7, 1], abs=2e-3)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_sampling_topology_has_bonds_between_all_atoms_of_a_molecule(name):
    """Every molecule is one residue, but the dipeptide, which is one molecule of three."""
    from mlmd.cell import spanning_tree

    top = RECIPES[name].topology()
    molecules = 1 if RECIPES[name].resized is None else top.n_residues
    assert len(spanning_tree(top.n_atoms, [(a.index, b.index) for a, b in top.bonds])) == top.n_atoms - molecules
