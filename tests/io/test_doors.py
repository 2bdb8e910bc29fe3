"""Every file format gives back, in internal units, what was written into it in the format's own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mlmd import datasets, io, units
from mlmd.cell import make_whole, wrap
from mlmd.datasets import alkanes
from mlmd.frames import Frames, as_numpy

KCAL = units.kcal_mol / units.angstrom
N = 60
# what the format itself rounds to, in A: XTC 0.001 nm, PDB 0.001 A, single precision in the others
ROUNDING = {"xtc": 0.0051, "pdb": 0.00051, "gro": 0.0051}


@pytest.fixture(scope="module", params=["propane", "alanine-dipeptide"])
def frames(request) -> Frames:
    return datasets.load(request.param)[:N]


@pytest.fixture(scope="module")
def top(frames, tmp_path_factory):
    path = tmp_path_factory.mktemp("top") / "top.pdb"
    frames[0].to_mdtraj().save(str(path))
    return path


def close(a, b, tolerance=2e-5):
    assert a.shape == b.shape
    assert float((a.double() - b.double()).abs().max()) < tolerance


def write_trr(path, frames: Frames, forces_every: int = 1) -> None:
    xdr = pytest.importorskip("MDAnalysis.lib.formats.libmdaxdr")
    x = as_numpy(frames.positions / units.nm).astype(np.float32)
    f = as_numpy(frames.forces / (units.kJ_mol / units.nm)).astype(np.float32)
    box = np.zeros((3, 3), np.float32) if frames.cell is None else as_numpy(frames.cell[0] / units.nm).astype(np.float32)
    with xdr.TRRFile(str(path), "w") as out:
        for k in range(len(frames)):
            out.write(x[k], None, f[k] if k % forces_every == 0 else None, box, k, k * 2.0, 0.0, frames.n_atoms)


@pytest.mark.parametrize("suffix", ["xtc", "dcd", "trr"])
def test_trajectory_formats_of_mdtraj_come_back_in_angstrom_and_fs(frames, top, tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    frames.to_mdtraj().save(str(path))
    if suffix == "trr":
        pytest.importorskip("MDAnalysis")
    back = io.read(top, path)
    close(back.positions, frames.positions, ROUNDING.get(suffix, 2e-5))
    assert back.cell is None
    assert back.forces is None
    assert back.bonds == frames.bonds
    assert torch.equal(back.types, frames.types)
    if suffix != "dcd":  # a DCD has no time
        close(back.time, frames.time, 1e-2)


@pytest.mark.parametrize("suffix", ["pdb", "gro"])
def test_a_file_with_its_own_atoms_is_read_alone(frames, tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    frames[:5].to_mdtraj().save(str(path))
    back = io.read(path)
    close(back.positions, frames.positions[:5], ROUNDING[suffix])
    assert back.bonds == frames.bonds  # GRO names no bonds: those of propane come from distances


def test_forces_in_a_trr_come_back(frames, top, tmp_path):
    write_trr(tmp_path / "a.trr", frames)
    back = io.read(top, tmp_path / "a.trr", temperature=300)
    close(back.positions, frames.positions)
    close(back.forces, frames.forces)
    close(back.time, torch.arange(N) * 2.0 * units.ps)
    assert back.kT == pytest.approx(300 * units.kelvin)


def test_frames_of_a_trr_without_forces_are_left_out_and_said(frames, top, tmp_path):
    write_trr(tmp_path / "a.trr", frames, forces_every=3)
    with pytest.warns(io.InputWarning, match=r"only 20 of 60 frames have forces"):
        back = io.read(top, tmp_path / "a.trr")
    close(back.positions, frames.positions[::3])


def test_extended_xyz_comes_back_with_forces_and_energies(frames, tmp_path):
    ase = pytest.importorskip("ase")
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    images = []
    for k in range(10):
        a = ase.Atoms(numbers=as_numpy(frames.types), positions=as_numpy(frames.positions[k]))
        a.calc = SinglePointCalculator(a, energy=float(frames.energies[k]), forces=as_numpy(frames.forces[k]))
        images.append(a)
    write(tmp_path / "a.xyz", images, format="extxyz")
    back = io.read(tmp_path / "a.xyz", temperature=300)
    close(back.positions, frames.positions[:10])
    close(back.forces, frames.forces[:10])
    close(back.energies, frames.energies[:10], 1e-6)
    assert back.bonds == frames.bonds


def test_arrays_are_read_in_the_unit_that_is_named(frames, top, tmp_path):
    np.save(tmp_path / "x.npy", as_numpy(frames.positions / units.nm))
    np.save(tmp_path / "f.npy", as_numpy(frames.forces / KCAL))
    back = io.read(top, tmp_path / "x.npy", tmp_path / "f.npy", length_unit="nm", force_unit="kcal/mol/A", temperature=300)
    close(back.positions, frames.positions)
    close(back.forces, frames.forces)


def test_arrays_in_memory_are_read_like_files(frames):
    x, f = as_numpy(frames.positions), as_numpy(frames.forces / KCAL)
    back = io.read(frames.topology, x, f, length_unit="A", force_unit="kcal/mol/A")
    close(back.forces, frames.forces)
    back = io.read(frames.topology, frames.to_mdtraj())
    close(back.positions, frames.positions)


@pytest.mark.parametrize("keys", [("R", "F", "E", "z"), ("coords", "forces", "energies", "nuclear_charges")])
def test_npz_of_others_is_read_without_a_topology(frames, tmp_path, keys):
    x, f, e, z = keys
    arrays = {
        x: as_numpy(frames.positions),
        f: as_numpy(frames.forces / KCAL),
        e: as_numpy(frames.energies / units.kcal_mol)[:, None],
    }
    np.savez(tmp_path / "a.npz", **arrays, **{z: as_numpy(frames.types)})
    back = io.read(tmp_path / "a.npz", length_unit="A", force_unit="kcal/mol/A", energy_unit="kcal/mol", temperature=300)
    close(back.positions, frames.positions)
    close(back.forces, frames.forces)
    close(back.energies, frames.energies, 1e-6)
    assert back.bonds == frames.bonds


def test_npz_with_a_topology_beside_it(frames, top, tmp_path):
    np.savez(tmp_path / "a.npz", positions=as_numpy(frames.positions))
    close(io.read(top, tmp_path / "a.npz", length_unit="A").positions, frames.positions)


def test_own_npz_comes_back_whole(frames, tmp_path):
    back = io.read(frames.save(tmp_path / "a.npz"))
    for name in ("positions", "forces", "energies", "time", "masses", "types"):
        assert torch.equal(getattr(back, name), getattr(frames, name)), name
    assert back.kT == frames.kT
    assert back.provenance == frames.provenance


def test_stride_keeps_positions_and_forces_together(frames, top, tmp_path):
    frames.to_mdtraj().save(str(tmp_path / "a.xtc"))
    np.save(tmp_path / "f.npy", as_numpy(frames.forces))
    back = io.read(top, tmp_path / "a.xtc", tmp_path / "f.npy", force_unit="eV/A", stride=7)
    close(back.positions, frames.positions[::7], ROUNDING["xtc"])
    close(back.forces, frames.forces[::7])
    write_trr(tmp_path / "a.trr", frames)
    close(io.read(top, tmp_path / "a.trr", stride=7).forces, frames.forces[::7])
    frames.save(tmp_path / "a.npz")
    close(io.read(tmp_path / "a.npz", stride=7).forces, frames.forces[::7])


def test_positions_in_the_wrong_unit_of_a_format_can_be_overridden(frames, top, tmp_path):
    slipped = frames.to_mdtraj()
    slipped.xyz = slipped.xyz * 10  # numbers in A in a format of nm
    slipped.save(str(tmp_path / "a.dcd"))
    slipped.save(str(tmp_path / "a.xtc"))
    close(io.read(top, tmp_path / "a.xtc", length_unit="A").positions, frames.positions, 0.0006)


@pytest.fixture(scope="module")
def box() -> Frames:
    """Two propane molecules in a small triclinic box, across its faces."""
    top = alkanes.topology(3, 2)
    one = torch.from_numpy(alkanes.positions(3))
    x = torch.cat([one, one + torch.tensor([5.0, 4.0, 6.0])])
    cell = torch.tensor([[14.0, 0, 0], [2.0, 13.0, 0], [1.0, -2.0, 15.0]], dtype=torch.float64)
    drift = torch.linspace(0, 20, 25, dtype=torch.float64)[:, None, None] * torch.tensor([1.0, 0.5, 0.7], dtype=torch.float64)
    return Frames(x[None] + drift, top, cell=cell.expand(25, 3, 3).clone())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("suffix", ["xtc", "trr", "dcd"])
def test_wrapped_molecules_in_a_periodic_box_can_be_made_whole(box, tmp_path, suffix):
    if suffix == "trr":
        pytest.importorskip("MDAnalysis")
    wrapped = replace(box, positions=wrap(box.positions, box.cell))
    assert _longest_bond(wrapped) > 8  # cut at the faces
    wrapped.to_mdtraj().save(str(tmp_path / f"a.{suffix}"))
    wrapped[0].to_mdtraj().save(str(tmp_path / "a.pdb"))
    box[0].to_mdtraj().save(str(tmp_path / "a.gro"))
    back = io.read(tmp_path / "a.gro", tmp_path / f"a.{suffix}")
    close(back.cell, box.cell, 2e-3)
    close(back.positions, wrapped.positions, 0.0051)
    whole = replace(back, positions=make_whole(back.positions.double(), back.cell.double(), box.bonds))
    assert _longest_bond(whole) == pytest.approx(_longest_bond(box), abs=0.02)


def test_bonds_are_found_across_the_faces_of_a_box(box, tmp_path):
    wrapped = replace(box, positions=wrap(box.positions, box.cell))
    wrapped = next(wrapped[k] for k in range(len(box)) if _longest_bond(wrapped[k]) > 8)
    wrapped.to_mdtraj().save(str(tmp_path / "a.gro"))
    assert io.read(tmp_path / "a.gro").bonds == box.bonds


def _longest_bond(frames: Frames) -> float:
    i, j = torch.tensor(frames.bonds).T
    return float((frames.positions[:, i] - frames.positions[:, j]).norm(dim=-1).max())
