"""Trajectory files: what is read is what was written, by mdtraj too, with bounded memory."""

import tracemalloc

import mdtraj
import numpy as np
import pytest
import torch

from mlmd import units
from mlmd.errors import BrokenCheckpoint
from mlmd.md import (
    CellRescaling,
    Langevin,
    Recorder,
    Trajectory,
    VelocityVerlet,
    export,
    frames,
    produce,
    rest,
    simulate,
    to_mdtraj,
)
from mlmd.md.trajectory import Header, TrajectoryReader, TrajectoryWriter
from mlmd.potentials.pair import LennardJones
from mlmd.system import System
from tests.md.test_integrators import Spring, oscillators
from tests.md.test_simulate import liquid


def topology(n):
    top = mdtraj.Topology()
    chain = top.add_chain()
    for _ in range(n):
        top.add_atom("B", None, top.add_residue("BEA", chain))
    return top


@pytest.fixture(scope="module")
def npt(tmp_path_factory):
    """A run of two boxes at constant pressure: the folder, and the states at the times of its frames."""
    folder = tmp_path_factory.mktemp("npt")
    law = LennardJones(0.05, 1.2, cutoff=2.2).double()

    def piston():
        return CellRescaling(Langevin(0.03, 0.05, 0.5), pressure=0.001, time=1.0, compressibility=2.0)

    list(produce(folder, liquid(), law, piston(), 80, every=10, seed=5))
    g = torch.Generator().manual_seed(5)
    states = list(simulate(liquid(), law, piston(), 80, every=10, generator=g))
    return folder, states


def test_frames_hold_positions_and_the_cells_of_a_barostat(npt):
    folder, states = npt
    (chunk,) = frames(folder)
    x = torch.stack([s.system.positions for s in states]).float().numpy()
    cells = torch.stack([s.system.cell for s in states]).float().numpy()
    assert np.array_equal(chunk.positions, x) and np.array_equal(chunk.cells, cells)
    assert np.ptp(chunk.cells[:, 1, 0, 0]) > 0.001
    assert chunk.steps.tolist() == list(range(10, 90, 10)) and np.allclose(chunk.times, 0.03 * chunk.steps)


def test_chunks_of_any_size_and_stride_are_the_same_frames(npt):
    folder, _ = npt
    (whole,) = frames(folder)
    for size, which in ((3, slice(None)), (1, slice(2, None, 3)), (100, slice(1, -2, 2))):
        parts = list(frames(folder, size, first=which.start or 0, last=which.stop, stride=which.step or 1))
        assert max(len(p.steps) for p in parts) <= size
        assert np.array_equal(np.concatenate([p.positions for p in parts]), whole.positions[which])


def test_mdtraj_gets_one_system_in_its_own_units(npt):
    folder, states = npt
    t = to_mdtraj(folder, topology(64), system=1)
    x = torch.stack([s.system.dense()[1] for s in states]).numpy()
    assert np.allclose(t.xyz, x / 10, atol=1e-6)
    assert np.allclose(t.unitcell_vectors, torch.stack([s.system.cell[1] for s in states]).numpy() / 10, atol=1e-6)
    assert np.allclose(t.time, 0.03 * np.arange(10, 90, 10) / (units.ps / units.fs))


@pytest.mark.parametrize(("ending", "precision"), [(".dcd", 1e-6), (".xtc", 6e-4)])  # XTC rounds to 1e-3 nm
def test_exported_files_are_what_mdtraj_reads(npt, tmp_path, ending, precision):
    folder, _ = npt
    out = export(folder, tmp_path / f"run{ending}", system=1, stride=2)
    read, direct = mdtraj.load(str(out), top=topology(64)), to_mdtraj(folder, topology(64), system=1, stride=2)
    assert np.allclose(read.xyz, direct.xyz, atol=precision)
    assert np.allclose(read.unitcell_lengths, direct.unitcell_lengths, atol=1e-5)
    assert np.allclose(read.unitcell_angles, 90, atol=1e-3)


def test_a_triclinic_cell_survives_the_export(tmp_path):
    cell = torch.tensor([[9.0, 0.0, 0.0], [1.5, 8.0, 0.0], [-1.0, 2.0, 7.0]]).double()
    state = rest(System.single(torch.rand(5, 3).double(), cell=cell))
    list(simulate(state, Spring(), VelocityVerlet(0.01), 20, report=[Trajectory(tmp_path / "a.mlmd", 10)]))
    read = mdtraj.load(str(export(tmp_path / "a.mlmd", tmp_path / "a.dcd")), top=topology(5))
    assert np.allclose(read.unitcell_vectors[0] * 10, cell.numpy(), atol=1e-4)


def test_systems_of_unequal_size_are_told_apart(tmp_path):
    system = System.stack([System.single(torch.rand(2, 3)), System.single(torch.rand(5, 3))])
    writer = TrajectoryWriter(tmp_path / "a.mlmd", Header.of(system, 0, 1), dt=1.0)
    writer.write(rest(system))
    assert np.allclose(to_mdtraj(tmp_path / "a.mlmd", topology(5), system=1).xyz[0] * 10, system.positions[2:], atol=1e-6)
    with pytest.raises(ValueError, match="has 5 atoms, system 0 has 2"):
        to_mdtraj(tmp_path / "a.mlmd", topology(5))
    with pytest.raises(ValueError, match="systems 0 to 1"):
        export(tmp_path / "a.mlmd", tmp_path / "a.dcd", system=2)


def test_a_long_file_is_read_in_little_memory(tmp_path):
    system = System.single(torch.rand(1000, 3)).replicate(2)
    writer = TrajectoryWriter(tmp_path / "a.mlmd", Header.of(system, 0, 1), dt=1.0)
    for _ in range(400):
        writer.write(rest(system))
    size = (tmp_path / "a.mlmd").stat().st_size
    tracemalloc.start()
    total = sum(float(c.positions[0, 0, 0]) for c in frames(tmp_path / "a.mlmd", size=10))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total > 0 and peak < size / 10


def test_a_reporter_that_appends_replaces_the_frames_that_come_again(tmp_path):
    start, recorder = rest(oscillators(2), torch.ones(2, 3).double()), Recorder(10)
    first = Trajectory(tmp_path / "a.mlmd", 10)
    states = list(simulate(start, Spring(), VelocityVerlet(0.1), 60, every=10, report=[first, recorder]))
    again = Trajectory(tmp_path / "a.mlmd", 10, append=True)
    list(simulate(states[2], Spring(), VelocityVerlet(0.1), 50, every=10, report=[again]))  # from step 30: 40, 50, 60 come again
    (chunk,) = frames(tmp_path / "a.mlmd")
    assert chunk.steps.tolist() == list(range(10, 90, 10))
    assert np.allclose(chunk.positions[:6], recorder.positions().reshape(6, 2, 3))
    late = Trajectory(tmp_path / "a.mlmd", 10, append=True)
    with pytest.raises(ValueError, match="do not lead to 15"):
        list(simulate(rest(start.system), Spring(), VelocityVerlet(0.1), 15, report=[_At(late, 15)]))


class _At:
    """A reporter called at other steps than it wants."""

    def __init__(self, inner, every):
        self.inner, self.every = inner, every

    def __call__(self, state):
        self.inner(state)


def test_a_file_of_other_systems_is_not_appended_to(tmp_path):
    list(simulate(rest(oscillators(2)), Spring(), VelocityVerlet(0.1), 30, report=[Trajectory(tmp_path / "a.mlmd", 10)]))
    (end,) = simulate(rest(oscillators(3)), Spring(), VelocityVerlet(0.1), 30)
    with pytest.raises(ValueError, match=r"holds 2 systems.*this run has 3 systems"):
        list(simulate(end, Spring(), VelocityVerlet(0.1), 10, report=[Trajectory(tmp_path / "a.mlmd", 10, append=True)]))


def test_what_is_no_trajectory_is_refused_with_the_reason(tmp_path):
    with pytest.raises(ValueError, match="nothing was simulated"):
        frames(tmp_path)
    (tmp_path / "a.mlmd").write_bytes(b"MLMDTRJ1" + bytes(40))
    with pytest.raises(BrokenCheckpoint, match="beginning is damaged"):
        TrajectoryReader(tmp_path / "a.mlmd")
    writer = TrajectoryWriter(tmp_path / "b.mlmd", Header.of(oscillators(1), 0, 1), dt=1.0)
    writer.close()
    with pytest.raises(ValueError, match="no frame yet"):
        to_mdtraj(tmp_path / "b.mlmd", topology(1))
    with pytest.raises(ValueError, match=r"must end with \.dcd or \.xtc"):
        export(tmp_path / "b.mlmd", tmp_path / "b.pdb")
