"""Runs into a folder: resumed bit for bit, damaged chunks noticed."""

import pytest
import torch

from mlmd.md import Langevin, Tempering, frames, ladder, produce, read_production, rest, thermal_velocities
from mlmd.system import System
from tests.md.test_integrators import Spring
from tests.md.test_tempering import FAR, KT, butane
from tests.md.test_tempering import start as chain


def start():
    return rest(System.single(torch.ones(4, 3)).replicate(5))


def run(folder, steps):
    return list(produce(folder, start(), Spring(), Langevin(0.1, 0.5, 0.3), steps, every=5, seed=3, snapshots_per_chunk=4))


def test_a_resumed_run_is_bit_identical_to_one_that_was_never_stopped(tmp_path):
    run(tmp_path / "whole", 100)
    run(tmp_path / "cut", 40)
    run(tmp_path / "cut", 100)
    whole, cut = read_production(tmp_path / "whole"), read_production(tmp_path / "cut")
    assert whole.shape == (20, 5, 4, 3)
    assert torch.equal(whole, cut)


def test_a_finished_run_is_not_run_again(tmp_path):
    run(tmp_path, 40)
    assert run(tmp_path, 40) == []


def test_swaps_between_frames_are_resumed_bit_for_bit_too(tmp_path):
    kT = ladder(KT, 2 * KT, 2).repeat(3)
    tempering = Tempering(Langevin(1.0, kT, 0.01), 3, every=5)

    def tempered(folder, steps):
        state = rest(chain(6), thermal_velocities(chain(6), kT, torch.Generator().manual_seed(1)))
        list(produce(folder, state, butane(), tempering, steps, every=5, snapshots_per_chunk=4, limits=FAR))

    tempered(tmp_path / "whole", 200)
    tempered(tmp_path / "cut", 45)
    tempered(tmp_path / "cut", 200)
    whole = read_production(tmp_path / "whole")
    assert torch.equal(whole, read_production(tmp_path / "cut"))
    jump = whole.diff(dim=0).norm(dim=-1).amax((1, 2))
    assert (jump > 0.3).any(), "5 fs of dynamics move no bead this far: configurations changed places"


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_used(tmp_path):
    run(tmp_path, 100)
    before = read_production(tmp_path)
    path = sorted(tmp_path.glob("checkpoint_*.ckpt"))[-1]
    flip(path, path.stat().st_size // 2)
    with pytest.warns(UserWarning, match=path.name):
        logs = run(tmp_path, 100)
    assert [log["step"] for log in logs] == [100]
    assert torch.equal(read_production(tmp_path), before)


def test_damaged_frames_after_the_checkpoint_before_are_made_again(tmp_path):
    run(tmp_path, 100)
    before = read_production(tmp_path)
    flip(tmp_path / "trajectory.mlmd", -10)
    with pytest.warns(UserWarning, match="frame 19 is damaged"):
        run(tmp_path, 100)
    assert torch.equal(read_production(tmp_path), before)


def test_a_damaged_frame_of_long_ago_is_left_out_and_named(tmp_path):
    run(tmp_path, 100)
    before = read_production(tmp_path)
    flip(tmp_path / "trajectory.mlmd", 500)
    with pytest.warns(UserWarning, match="frame 1 is damaged"):
        assert run(tmp_path, 100) == []
    with pytest.warns(UserWarning, match="frame 1 is damaged"):
        after = read_production(tmp_path)
    assert torch.equal(after, before[[0, *range(2, 20)]])


def test_both_checkpoints_lost_means_to_begin_anew_with_the_same_result(tmp_path):
    run(tmp_path, 60)
    before = read_production(tmp_path)
    for path in tmp_path.glob("checkpoint_*.ckpt"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="begins anew") as caught:
        run(tmp_path, 60)
    said = " ".join(str(w.message) for w in caught)
    assert "truncated" in said
    assert torch.equal(read_production(tmp_path), before)
    (kept,) = frames(tmp_path / "trajectory.before.mlmd")
    assert len(kept.steps) == 12


def test_a_run_cut_between_checkpoints_and_made_longer_is_as_if_made_in_one_go(tmp_path):
    run(tmp_path / "whole", 100)
    run(tmp_path / "cut", 45)  # checkpoints are due every 20 steps
    assert len(read_production(tmp_path / "cut")) == 9
    assert run(tmp_path / "cut", 45) == []
    run(tmp_path / "cut", 100)
    assert torch.equal(read_production(tmp_path / "whole"), read_production(tmp_path / "cut"))


def test_steps_that_are_no_multiple_of_the_frame_distance_are_refused(tmp_path):
    with pytest.raises(ValueError, match="for example 40"):
        run(tmp_path, 42)


def test_a_folder_of_another_system_is_refused(tmp_path):
    run(tmp_path, 40)
    other = rest(System.single(torch.ones(4, 3)).replicate(6))
    with pytest.raises(ValueError, match="another folder"):
        list(produce(tmp_path, other, Spring(), Langevin(0.1, 0.5, 0.3), 60, every=5))


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="nothing was simulated"):
        read_production(tmp_path)
