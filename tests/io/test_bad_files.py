"""Bad input at the door: an error that names file or argument, the value and the mend."""

import contextlib
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlmd import datasets, io
from mlmd.datasets import alkanes
from mlmd.frames import Frames, as_numpy

TOP = alkanes.topology(3)
X = alkanes.positions(3)[None] + 0.03 * np.random.default_rng(0).normal(size=(30, 11, 3))


@pytest.fixture
def top(tmp_path):
    Frames(torch.from_numpy(X[:1]), TOP).to_mdtraj().save(str(tmp_path / "top.pdb"))
    return tmp_path / "top.pdb"


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("suffix", ["xtc", "dcd", "trr"])
def test_atom_counts_that_differ_name_file_and_both_counts(top, tmp_path, suffix):
    if suffix == "trr":
        pytest.importorskip("MDAnalysis")
    ethane = Frames(torch.from_numpy(alkanes.positions(2))[None], alkanes.topology(2))
    ethane.to_mdtraj().save(str(tmp_path / f"a.{suffix}"))
    with pytest.raises(ValueError, match=rf"a\.{suffix} holds 8 atoms but top has 11.*same selection"):
        io.read(top, tmp_path / f"a.{suffix}")


def test_forces_of_another_shape_are_refused(top):
    with pytest.raises(ValueError, match=r"forces have shape \(30, 10, 3\).*positions have \(30, 11, 3\)"):
        io.read(top, X, X[:, :10], length_unit="A", force_unit="eV/A")
    with pytest.raises(ValueError, match=r"forces have shape \(29, 11, 3\)"):
        io.read(top, X, X[:29], length_unit="A", force_unit="eV/A")


def test_flat_positions_are_refused(top):
    with pytest.raises(ValueError, match=r"positions have shape \(30, 33\), expected \(frames, atoms, 3\)"):
        io.read(top, X.reshape(30, -1), length_unit="A")


@pytest.mark.parametrize("what", ["positions", "forces"])
def test_nan_names_file_and_frame(top, tmp_path, what):
    bad = X.copy()
    bad[17, 3, 1] = np.nan
    np.save(tmp_path / "x.npy", bad if what == "positions" else X)
    np.save(tmp_path / "f.npy", bad if what == "forces" else X)
    with pytest.raises(ValueError, match=rf"x\.npy: {what} are not finite in 1 of 30 frames \(first: frame 17\)"):
        io.read(top, tmp_path / "x.npy", tmp_path / "f.npy", length_unit="A", force_unit="eV/A")


def test_numbers_without_a_unit_need_one_and_a_guess_is_offered(top, tmp_path):
    np.save(tmp_path / "x.npy", X / 10)
    with pytest.raises(ValueError, match=r"x\.npy does not say in which unit.*length_unit.*suggest 'nm'"):
        io.read(top, tmp_path / "x.npy")
    with pytest.raises(ValueError, match=r"pass force_unit \(eV/A, kcal/mol/A"):
        io.read(top, tmp_path / "x.npy", X, length_unit="nm")


def test_unknown_units_are_listed(top):
    with pytest.raises(ValueError, match=r"length_unit='Angst' is not known: use one of A, nm, bohr"):
        io.read(top, X, length_unit="Angst")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": -3.0}, "temperature=-3"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"stride": 0}, "stride=0"),
        ({"min_frames": 31}, "30 frames, but min_frames needs at least 31"),
        ({"constraints": "all"}, "constraints='all'"),
        ({"constraints": [[0, 11]]}, "atoms between 0 and 10"),
        ({"periodic": True}, "periodic=True"),
    ],
)
def test_impossible_arguments_are_named(top, arguments, message):
    with pytest.raises(ValueError, match=message):
        io.read(top, X, length_unit="A", **arguments)


def test_missing_files_and_arguments_are_named(top, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.xtc"):
        io.read(top, tmp_path / "no.xtc")
    with pytest.raises(FileNotFoundError, match=r"no\.pdb"):
        io.read(tmp_path / "no.pdb", tmp_path / "no.xtc")
    with pytest.raises(ValueError, match="top and traj are both missing"):
        io.read()
    with pytest.raises(ValueError, match="top is missing"):
        io.read(None, X, length_unit="A")


def test_two_atoms_at_one_place_are_named(top):
    bad = X.copy()
    bad[:, 5] = bad[:, 2]
    with pytest.raises(ValueError, match=r"atoms 2 \(C31-H1B\) and 5 \(C31-H2A\) are at the same place in frame 0"):
        io.read(top, bad, length_unit="A")


@pytest.mark.parametrize("cell", [np.zeros((3, 3)), np.diag([20.0, 20.0, 0.0])])
def test_a_box_without_volume_is_refused(top, tmp_path, cell):
    path = save(tmp_path / "a.npz", positions=X, cell=cell)
    with pytest.raises(ValueError, match=r"a\.npz: the box has no volume in frame 0.*periodic=False"):
        io.read(top, path, length_unit="A")
    assert io.read(top, path, length_unit="A", periodic=False).cell is None


def test_npz_with_objects_is_refused(top, tmp_path):
    np.savez(tmp_path / "a.npz", positions=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"a\.npz cannot be read.*no Python objects"):
        io.read(top, tmp_path / "a.npz", length_unit="A")


def test_npz_without_positions_lists_what_it_holds(top, tmp_path):
    with pytest.raises(ValueError, match=r"holds \['q'\] but no positions"):
        io.read(top, save(tmp_path / "a.npz", q=X), length_unit="A")


def test_own_files_carry_their_units(tmp_path):
    path = Frames(torch.from_numpy(X), TOP).save(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="carries its units"):
        io.read(path, length_unit="nm")


@pytest.mark.parametrize("suffix", ["pdb", "xtc", "dcd", "trr", "npz", "npy", "xyz", "gro", "h5"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(min_size=0, max_size=400))
def test_random_bytes_give_an_error_that_names_the_file(top, tmp_path, suffix, content):
    pytest.importorskip("MDAnalysis")
    path = tmp_path / f"junk.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="junk"):
        io.read(top, path, length_unit="A")


@pytest.mark.parametrize("suffix", ["xtc", "dcd", "trr", "npz", "npy"])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.97])
def test_truncated_files_are_refused_or_give_whole_frames(top, tmp_path, suffix, kept):
    pytest.importorskip("MDAnalysis")
    path = tmp_path / f"cut.{suffix}"
    if suffix == "npz":
        save(path, positions=X)
    elif suffix == "npy":
        np.save(path, X)
    else:
        Frames(torch.from_numpy(X), TOP).to_mdtraj().save(str(path))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    read = partial(io.read, top, path, length_unit=None if suffix in ("xtc", "dcd", "trr") else "A", check=False)
    if suffix in ("npz", "npy"):
        with pytest.raises(ValueError, match="cut"):
            read()
    else:
        with contextlib.suppress(ValueError):
            back = read()
            assert len(back) < len(X)
            np.testing.assert_allclose(as_numpy(back.positions), X[: len(back)], atol=0.006)


def test_an_altered_own_file_is_refused(tmp_path):
    path = datasets.load("propane")[:20].save(tmp_path / "a.npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"a\.npz"):
        io.read(path)


@pytest.mark.parametrize("suffix", ["dcd", "trr"])
def test_a_file_copied_in_part_is_used_with_a_warning(top, tmp_path, suffix):
    pytest.importorskip("MDAnalysis")
    path = tmp_path / f"part.{suffix}"
    Frames(torch.from_numpy(X), TOP).to_mdtraj().save(str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        io.read(top, path, check=False)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 + 37])
    with pytest.warns(io.InputWarning, match=rf"part\.{suffix}.*copied in part"):
        assert 0 < len(io.read(top, path, check=False)) < len(X)


def test_a_box_that_mdtraj_makes_not_a_number_is_refused_as_a_box_without_volume(top):
    trajectory = Frames(torch.from_numpy(X), TOP).to_mdtraj()
    cells = np.tile(np.eye(3, dtype=np.float32) * 3, (len(X), 1, 1))
    trajectory.unitcell_vectors = cells
    trajectory.unitcell_lengths[4] = trajectory.unitcell_angles[4] = 0
    with pytest.raises(ValueError, match=r"no volume in frame 4.*periodic=False"):
        io.read(None, trajectory)
    assert io.read(None, trajectory, periodic=False, check=False).cell is None
