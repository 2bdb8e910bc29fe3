"""Frames keep what they are given and say what is wrong with it; files are whole or absent."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mlmd import datasets, units
from mlmd.errors import BrokenCheckpoint, MissingExtra, Unstable, require
from mlmd.frames import Frames, bead_topology
from mlmd.store import read_npz, write_atomic, write_npz


def frames(n_frames: int = 5, **kwargs: object) -> Frames:
    topology = bead_topology(["A", "B", "C"], [(0, 1), (1, 2)])
    x = torch.randn(n_frames, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return Frames(x, topology, **kwargs)  # type: ignore[arg-type]


def complete() -> Frames:
    cell = 20 * torch.eye(3, dtype=torch.float64).expand(5, 3, 3).contiguous()
    return frames(
        forces=torch.randn(5, 3, 3),
        energies=torch.randn(5),
        cell=cell,
        time=torch.arange(5) * 2 * units.ps,
        masses=torch.full((3,), 12 * units.amu),
        types=torch.tensor([0, 1, 0]),
        constraints=torch.tensor([[0, 1]]),
        kT=300 * units.kelvin,
        provenance={"engine": "by hand", "seed": 3, "frames": np.int64(5), "rate": np.float64(0.5)},
    )


def test_frames_come_back_from_a_file_as_they_were(tmp_path: Path) -> None:
    before = complete()
    after = Frames.load(before.save(tmp_path / "run.npz"))
    for name in ("positions", "forces", "energies", "cell", "time", "masses", "types", "constraints"):
        a, b = getattr(before, name), getattr(after, name)
        assert a.dtype == b.dtype and torch.equal(a, b), name
    assert after.topology == before.topology
    assert after.kT == before.kT
    assert after.provenance == before.provenance


@pytest.mark.parametrize(
    ("index", "count"),
    [(2, 1), (-1, 1), (np.int64(3), 1), (slice(1, 4), 3), ([0, 4], 2), (torch.tensor([True, False, True, False, True]), 3)],
)
def test_choosing_frames_keeps_all_their_properties(index: object, count: int) -> None:
    chosen = complete()[index]
    assert len(chosen) == count
    for name in ("forces", "energies", "cell", "time"):
        assert len(getattr(chosen, name)) == count
    assert chosen.n_atoms == 3


def test_every_frame_becomes_one_system_of_a_batch() -> None:
    s = complete().system(slice(None))
    assert (s.n_systems, s.size, s.periodic) == (5, 3, True)
    assert torch.equal(s.dense(), complete().positions)


def test_mdtraj_gets_nanometres_and_picoseconds() -> None:
    t = complete().to_mdtraj()
    assert t.xyz[2, 1, 0] == pytest.approx(float(complete().positions[2, 1, 0]) / 10, rel=1e-6)
    assert t.time.tolist() == pytest.approx([0, 2, 4, 6, 8])
    assert t.unitcell_lengths[0].tolist() == pytest.approx([2.0, 2.0, 2.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(positions=torch.zeros(5, 4, 3)), "4 atoms but topology has 3"),
        (dict(positions=torch.zeros(4, 3)), "expected \\(frames, atoms, 3\\)"),
        (dict(forces=torch.zeros(5, 3)), "forces has shape"),
        (dict(forces=torch.full((5, 3, 3), float("nan"))), "forces contains values that are not finite"),
        (dict(energies=torch.zeros(4)), "energies has shape"),
        (dict(cell=torch.zeros(3, 3)), "cell has shape"),
        (dict(masses=torch.ones(2)), "masses has shape"),
        (dict(constraints=torch.tensor([[0, 3]])), "constraints"),
        (dict(constraints=torch.tensor([0, 1])), "constraints"),
    ],
)
def test_contradictory_frames_are_refused_by_name(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(frames(), **change)


def test_the_first_frame_that_is_not_finite_is_named() -> None:
    x = frames().positions.clone()
    x[3, 1, 2] = torch.inf
    with pytest.raises(ValueError, match="first in frame 3"):
        replace(frames(), positions=x)


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = write_atomic(tmp_path / "a.txt", lambda name: Path(name).write_text("old"))

    def fail(name: str) -> None:
        Path(name).write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_written_files_can_be_read_by_others_as_far_as_the_umask_allows(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        path = write_atomic(tmp_path / "a.txt", lambda name: Path(name).write_text("x"))
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_file_cut_at_any_place_is_recognised(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "x.npz", {"a": np.arange(50.0)}, {"kind": "test"})
    whole = path.read_bytes()
    for cut in [0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:cut])
        with pytest.raises(BrokenCheckpoint, match=r"x\.npz"):
            read_npz(path, kind="test")


def test_changed_content_is_recognised_even_in_a_valid_archive(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "x.npz", {"a": np.arange(5.0)}, {"kind": "test"})
    with np.load(path) as z:
        content = {k: z[k] for k in z.files}
    content["a"] = content["a"] + 1e-9
    np.savez(path, **content)
    with pytest.raises(BrokenCheckpoint, match="altered"):
        read_npz(path, kind="test")


def test_files_of_another_kind_and_absent_files_are_named(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "x.npz", {"a": np.zeros(1)}, {"kind": "test"})
    with pytest.raises(BrokenCheckpoint, match=r"holds 'test', expected 'mlmd\.Frames'"):
        Frames.load(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        Frames.load(tmp_path / "nowhere.npz")


def test_stored_objects_are_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "evil.npz"
    np.savez(path, a=np.array([{"code": 1}], dtype=object))
    with pytest.raises(BrokenCheckpoint):
        read_npz(path, kind="test")


def test_reserved_names_and_foreign_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reserved"):
        write_npz(tmp_path / "x.npz", {"__meta__": np.zeros(1)}, {"kind": "test"})
    with pytest.raises(TypeError):
        write_npz(tmp_path / "x.npz", {}, {"kind": "test", "what": object()})
    assert not (tmp_path / "x.npz").exists()


def test_a_missing_package_names_the_extra() -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'mlmd\[notebooks\]'"):
        require("no_such_package_at_all", extra="notebooks")


def test_an_unstable_run_says_where_and_keeps_the_last_good_state() -> None:
    error = Unstable(17, list(range(10)), last_good="state")
    assert (error.step, error.last_good) == (17, "state")
    assert "step 17" in str(error) and "0, 1, 2, 3, 4, 5, 6, 7, ..." in str(error)


def test_a_selection_of_atoms_keeps_what_belongs_to_them():
    frames = datasets.load("alanine-dipeptide")[slice(0, 5)]
    backbone = frames.atoms("resname ALA and not element H")
    names = [a.name for a in backbone.topology.atoms]
    assert names == ["N", "CA", "CB", "C", "O"]
    index = [a.index for a in frames.topology.atoms if a.residue.name == "ALA" and a.element.symbol != "H"]
    assert torch.equal(backbone.positions, frames.positions[:, index])
    assert torch.equal(backbone.forces, frames.forces[:, index])
    assert torch.equal(backbone.masses, frames.masses[index])
    assert backbone.bonds == [(0, 1), (1, 2), (1, 3), (3, 4)]
    assert backbone.energies is None


@pytest.mark.parametrize("bad", ["resname NONE", "is this a selection"])
def test_a_selection_without_atoms_or_sense_is_refused(bad):
    with pytest.raises(ValueError, match=bad):
        datasets.load("alanine-dipeptide")[slice(0, 2)].atoms(bad)
