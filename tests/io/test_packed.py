"""Packed files keep positions and forces to half a step, energies to single precision, and everything else exactly."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmd import io
from mlmd.errors import BrokenCheckpoint
from mlmd.frames import Frames, bead_topology
from mlmd.io.packed import pack, unpack


def frames(seed: int = 0, n: int = 6, scale: float = 1.0) -> Frames:
    g = torch.Generator().manual_seed(seed)
    top = bead_topology(["A", "B", "C"], [(0, 1), (1, 2)])
    x = scale * torch.randn(n, 3, 3, generator=g, dtype=torch.float64) + 100
    return Frames(
        x, top, forces=torch.randn(n, 3, 3, generator=g), energies=-1e4 + torch.randn(n, generator=g, dtype=torch.float64),
        time=torch.arange(n, dtype=torch.float64) * 50, kT=0.0258, provenance={"seed": seed}, masses=torch.zeros(3),
    )  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), step=st.sampled_from([2.5e-4, 1e-3]))
def test_rounding_is_half_a_step(tmp_path_factory, seed, step):
    a = frames(seed)
    b = unpack(pack(a, tmp_path_factory.mktemp("p") / "a.npz", position_step=step, force_step=2 * step))
    centred = a.positions - a.positions.mean(1, keepdim=True)
    assert float((b.positions - centred).abs().max()) <= step / 2 + 1e-6
    assert float((b.forces - a.forces).abs().max()) <= step + 1e-6
    assert float((b.energies - a.energies).abs().max()) < 1e-6
    assert torch.equal(b.time, a.time)
    assert (b.topology, b.kT, b.provenance) == (a.topology, a.kT, a.provenance)


def test_a_step_that_is_too_fine_names_one_that_is_not(tmp_path):
    with pytest.raises(ValueError, match=r"position_step=0\.0001 is too fine.*needs position_step >= "):
        pack(frames(scale=10), tmp_path / "a.npz", position_step=1e-4)


def test_frames_without_forces_are_not_packed(tmp_path):
    with pytest.raises(ValueError, match="positions, forces and energies"):
        pack(replace(frames(), forces=None), tmp_path / "a.npz")


def test_packed_files_are_read_like_any_other(tmp_path):
    path = pack(frames(n=30), tmp_path / "a.npz")
    assert torch.equal(io.read(path, check=False).positions, unpack(path).positions)


def test_foreign_and_damaged_files_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", positions=np.zeros((2, 3, 3)))
    with pytest.raises(BrokenCheckpoint, match=r"a\.npz"):
        unpack(tmp_path / "a.npz")
