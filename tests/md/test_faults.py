"""What goes wrong in long runs: kills, damaged files, full disks, lost permissions, runaways."""

import errno
import os
import signal
import subprocess
import time
import warnings

import mdtraj
import numpy as np
import pytest
import torch

from mlmd import cli
from mlmd.errors import BrokenCheckpoint, Unstable, WriteFailed
from mlmd.md import Checkpoint, VelocityVerlet, frames, produce, read_production, rest, resume, simulate
from mlmd.md.checkpoint import read_sealed, write_sealed
from mlmd.md.trajectory import TrajectoryReader
from tests.md import fault_jobs
from tests.md.test_integrators import Spring, oscillators
from tests.md.test_simulate import Pull, going_over_the_edge
from tests.md.worker import Worker


@pytest.fixture(scope="module")
def worker():
    one = Worker()
    yield one
    one.close()


def killed(worker, after, **job):
    """Whether a child was alive when it was killed after so many seconds."""
    child = worker.start(**job)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    return worker.status() == -signal.SIGKILL


# ---- killed and continued ----


def kill_and_continue(worker, folder, kills, steps):
    """Runs that are killed at random moments until ``kills`` kills have hit, each ending in the very files of the run left alone."""
    moments = np.random.default_rng(17)
    assert worker.run(job="production", folder=folder / "whole", steps=steps) == 0
    expected = {p.name: p.read_bytes() for p in (folder / "whole").iterdir()}
    hit = runs = 0
    while hit < kills:
        runs += 1
        cut = folder / f"cut{runs}"
        while hit < kills and killed(worker, moments.uniform(0.01, 0.4), job="production", folder=cut, steps=steps):
            hit += 1
        assert worker.run(job="production", folder=cut, steps=steps) == 0
        assert {p.name: p.read_bytes() for p in cut.iterdir()} == expected  # positions, cell, velocities, thermostat, noise, frames
    return runs


def test_a_run_killed_ten_times_ends_in_the_files_of_one_left_alone(worker, tmp_path):
    kill_and_continue(worker, tmp_path, kills=10, steps=400)


@pytest.mark.slow
def test_a_run_killed_a_hundred_times_ends_in_the_files_of_one_left_alone(worker, tmp_path):
    assert kill_and_continue(worker, tmp_path, kills=100, steps=1500) < 100


def readable_after_kills(worker, folder, kills, longest=0.15):
    """Kills that left all frames but at most one readable, in the own format and in DCD."""
    moments, good, good_dcd, hit = np.random.default_rng(18), 0, 0, 0
    while hit < kills:
        run = folder / f"run{hit}"
        run.mkdir(exist_ok=True)
        if (run / "run.mlmd").exists():
            (run / "run.mlmd").unlink()
        if not killed(worker, moments.uniform(0.01, longest), job="trajectories", folder=run, steps=10**6):
            continue
        hit += 1
        count = run / "count"
        written = int.from_bytes(count.read_bytes(), "little") if count.exists() else 0
        if not written:  # killed before its first frame: nothing to lose
            good, good_dcd = good + 1, good_dcd + 1
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            steps = np.concatenate([c.steps for c in frames(run / "run.mlmd", size=1000)])
        good += steps.tolist() == list(range(1, len(steps) + 1)) and written <= len(steps) <= written + 1
        with mdtraj.formats.DCDTrajectoryFile(str(run / "run.dcd")) as f:
            good_dcd += abs(len(f.read()[0]) - written) <= 1
    return good, good_dcd


def test_a_trajectory_is_readable_after_ten_of_ten_kills(worker, tmp_path):
    assert readable_after_kills(worker, tmp_path, 10) == (10, 10)


@pytest.mark.slow
def test_a_trajectory_is_readable_after_two_hundred_of_two_hundred_kills(worker, tmp_path):
    assert readable_after_kills(worker, tmp_path, 200) == (200, 200)


# ---- damaged files ----


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    fault_jobs.production(folder, 40)
    return folder


def damages(content, kind, n):
    """``n`` different ways to damage a file: one bit flipped, or the end cut off."""
    random = np.random.default_rng(19)
    places = random.choice(len(content) * (8 if kind == "bit flip" else 1), size=n, replace=False)
    for place in places:
        if kind == "truncation":
            yield content[:place]
        else:
            damaged = bytearray(content)
            damaged[place // 8] ^= 1 << (place % 8)
            yield bytes(damaged)


@pytest.mark.parametrize("kind", ["bit flip", "truncation"])
def test_a_thousand_damages_of_a_checkpoint_are_all_noticed_and_the_one_before_is_used(kind, two_checkpoints, tmp_path):
    old, new = sorted(two_checkpoints.glob("checkpoint_*.ckpt"))
    (tmp_path / old.name).write_bytes(old.read_bytes())
    for k, content in enumerate(damages(new.read_bytes(), kind, 1000)):
        (tmp_path / new.name).write_bytes(content)
        with pytest.raises(BrokenCheckpoint, match=new.name):
            read_sealed(tmp_path / new.name)
        if k % 20 == 0:
            with pytest.warns(UserWarning, match=rf"{new.name}.*using the checkpoint before"):
                (tree,) = Checkpoint(tmp_path, 1).intact()
            assert tree["step"] == 20
    with pytest.warns(UserWarning, match="using the checkpoint before"):
        assert resume(tmp_path, fault_jobs.liquid(), fault_jobs.piston()).step == 20


def test_flipped_bits_of_a_trajectory_cost_the_frame_they_hit_and_no_other(two_checkpoints, tmp_path):
    content = (two_checkpoints / "trajectory.mlmd").read_bytes()
    whole = TrajectoryReader(two_checkpoints / "trajectory.mlmd")
    (expected,) = whole.chunks()
    body = content[whole.start :]
    for damaged in damages(body, "bit flip", 200):
        (tmp_path / "trajectory.mlmd").write_bytes(content[: whole.start] + damaged)
        hit = next(i for i, (a, b) in enumerate(zip(body, damaged, strict=True)) if a != b) // whole.header.frame_bytes
        with pytest.warns(UserWarning, match=f"frame {hit} is damaged"):
            (chunk,) = frames(tmp_path)
        assert np.array_equal(chunk.positions, np.delete(expected.positions, hit, 0))
        assert np.array_equal(chunk.cells, np.delete(expected.cells, hit, 0))


def test_a_trajectory_cut_anywhere_gives_the_frames_before_the_cut(two_checkpoints, tmp_path):
    content = (two_checkpoints / "trajectory.mlmd").read_bytes()
    whole = TrajectoryReader(two_checkpoints / "trajectory.mlmd")
    for cut in np.random.default_rng(20).integers(whole.start, len(content), 100):
        (tmp_path / "trajectory.mlmd").write_bytes(content[:cut])
        expected = (cut - whole.start) // whole.header.frame_bytes
        assert sum(len(c.steps) for c in frames(tmp_path, size=7)) == expected


def test_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"something else altogether")
    with pytest.raises(BrokenCheckpoint, match="no checkpoint"):
        read_sealed(tmp_path / "a")
    with pytest.raises(BrokenCheckpoint, match="no trajectory"):
        TrajectoryReader(tmp_path / "a")


# ---- disks and permissions ----


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 KiB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def goes_on_where_there_is_room(folder, elsewhere, steps):
    """The files of a run that ran out of room, moved, continue to the end of the run left alone."""
    elsewhere.mkdir()
    for path in folder.iterdir():
        (elsewhere / path.name).write_bytes(path.read_bytes())
    fault_jobs.production(elsewhere, steps)
    whole = elsewhere.parent / "whole"
    fault_jobs.production(whole, steps)
    return {p.name: p.read_bytes() for p in whole.iterdir()} == {p.name: p.read_bytes() for p in elsewhere.iterdir()}


def test_a_full_disk_ends_the_run_cleanly_and_it_goes_on_elsewhere(small_disk, tmp_path):
    with pytest.raises(WriteFailed, match=r"No space left.*make room") as caught:
        fault_jobs.production(small_disk, 200)
    assert caught.value.errno == errno.ENOSPC
    kept = Checkpoint(small_disk, 1).intact()
    assert len(kept) >= 1 and len(read_production(small_disk)) >= kept[0]["step"] // fault_jobs.EVERY
    assert goes_on_where_there_is_room(small_disk, tmp_path / "roomy", 200)


def test_a_file_that_may_not_grow_ends_the_run_with_one_sentence_and_a_status(worker, tmp_path):
    error = tmp_path / "error"
    error.touch()
    status = worker.run(job="production", folder=tmp_path / "run", steps=200, file_limit=40_000, error=error)
    assert status == 1
    assert error.read_text().startswith("WriteFailed: ") and "trajectory.mlmd cannot be written" in error.read_text()
    kept = Checkpoint(tmp_path / "run", 1).intact()
    assert len(kept) == 2
    assert goes_on_where_there_is_room(tmp_path / "run", tmp_path / "roomy", 200)


def test_a_read_only_folder_is_refused_before_any_step(worker, tmp_path):
    error, folder = tmp_path / "error", tmp_path / "run"
    folder.mkdir()
    error.touch()
    error.chmod(0o666)
    folder.chmod(0o555)
    for parent in [tmp_path, *tmp_path.parents]:  # so that somebody else than root may look into it
        if parent.stat().st_uid == os.getuid() and len(parent.parts) > 2:
            parent.chmod(0o755)
    assert worker.run(job="production", folder=folder, steps=40, error=error, nobody=True) == 1
    assert "no folder can be written there (Permission denied)" in error.read_text()
    assert not list(folder.iterdir())


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(two_checkpoints, tmp_path, monkeypatch):
    path = write_sealed(tmp_path / "a.ckpt", {"step": 1})
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(WriteFailed, match="No space left"):
        write_sealed(path, {"step": 2})
    assert read_sealed(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


def test_the_command_line_ends_with_a_status_and_one_sentence(small_disk, monkeypatch, capsys):
    def register(subparsers):
        subparsers.add_parser("run").set_defaults(run=lambda args: fault_jobs.production(small_disk, 400))

    monkeypatch.setattr(cli, "COMMANDS", (register,))
    assert cli.main(["run"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mlmd: ") and "No space left" in said and said.count("\n") == 1


# ---- runaways ----


def test_a_potential_that_gives_nan_ends_a_production_with_the_last_good_state_on_disk(tmp_path):
    run = produce(tmp_path, going_over_the_edge(), Pull(float("nan")), VelocityVerlet(0.01), 400, every=10, snapshots_per_chunk=2)
    with pytest.raises(Unstable, match="atom 7") as caught:
        list(run)
    saved = read_sealed(tmp_path / "last_good.ckpt")
    assert saved["step"] == caught.value.step - 1
    assert torch.equal(saved["positions"], caught.value.last_good.system.positions)
    assert bool(torch.isfinite(saved["positions"]).all() & torch.isfinite(saved["forces"]).all())
    assert resume(tmp_path, going_over_the_edge(), VelocityVerlet(0.01)).step == 40
    assert len(read_production(tmp_path)) == caught.value.step // 10


def test_frozen_replicas_stay_frozen_when_a_production_goes_on(tmp_path):
    def run(folder, steps):
        potential, integrator = Pull(float("nan")), VelocityVerlet(0.01)
        list(
            produce(
                folder, going_over_the_edge(), potential, integrator, steps, every=10, snapshots_per_chunk=2, on_unstable="freeze"
            )
        )
        return read_production(folder)

    with pytest.warns(UserWarning, match=r"\[2\] stopped"):
        whole = run(tmp_path / "whole", 120)
    with pytest.warns(UserWarning, match=r"\[2\] stopped"):
        run(tmp_path / "cut", 80)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(run(tmp_path / "cut", 120), whole)


def test_a_start_that_is_not_finite_is_named_at_once():
    start = rest(oscillators(3).at(torch.tensor([[0.0, 0, 0], [torch.nan, 0, 0], [0, 0, 0]]).double()))
    with pytest.raises(Unstable, match=r"step 0.*system\(s\) 1") as caught:
        list(simulate(start, Spring(), VelocityVerlet(0.1), 5))
    assert caught.value.atom == 1
