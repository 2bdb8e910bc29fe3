"""Runs into a folder: resumed bit for bit, damaged chunks noticed."""

import pytest
import torch

from mlmd.md import Langevin, produce, read_production, rest
from mlmd.system import System
from tests.md.test_integrators import Spring


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


def test_a_damaged_chunk_is_noticed_and_made_again(tmp_path):
    run(tmp_path, 100)
    before = read_production(tmp_path)
    path = sorted(tmp_path.glob("chunk_*.npz"))[2]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.warns(UserWarning, match=path.name):
        run(tmp_path, 100)
    assert torch.equal(read_production(tmp_path), before)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="nothing was simulated"):
        read_production(tmp_path)
