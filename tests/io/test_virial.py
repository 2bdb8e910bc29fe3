"""The virial of forces that belong to the positions is kT per relative degree of freedom."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mlmd import io, units
from mlmd.cell import wrap
from mlmd.frames import Frames, bead_topology
from mlmd.io.virial import standard_error

KT = 300 * units.kelvin


def harmonic_chains(molecules: int = 1, n_frames: int = 4000, cell: torch.Tensor | None = None, seed: int = 0) -> Frames:
    """Gaussian chains of three beads, U = k/2 sum (r_i - r_i+1)^2: exactly sampled, with exact forces."""
    rng, k = np.random.default_rng(seed), 0.5
    steps = rng.normal(size=(n_frames, molecules, 2, 3)) * np.sqrt(KT / k)
    x = np.concatenate([np.zeros((n_frames, molecules, 1, 3)), np.cumsum(steps, 2)], 2) + 10 * rng.random((1, molecules, 1, 3))
    f = np.stack([k * steps[:, :, 0], k * (steps[:, :, 1] - steps[:, :, 0]), -k * steps[:, :, 1]], 2)
    top = bead_topology(["A", "B", "C"], [(0, 1), (1, 2)], molecules)
    x, f = (torch.from_numpy(a.reshape(n_frames, -1, 3)) for a in (x, f))
    return Frames(x, top, forces=f, kT=KT, cell=None if cell is None else cell.expand(n_frames, 3, 3))


def test_exact_samples_give_kT_within_the_error():
    v = io.virial(harmonic_chains())
    assert abs(v.value - KT) < 3 * v.error
    assert v.error < 0.02 * KT


def test_molecules_in_a_box_are_counted_one_by_one():
    cell = 12.0 * torch.eye(3, dtype=torch.float64)
    v = io.virial(harmonic_chains(molecules=4, cell=cell))
    assert abs(v.value - KT) < 3 * v.error


def test_wrapping_does_not_change_the_virial():
    cell = 6.0 * torch.eye(3, dtype=torch.float64)
    frames = harmonic_chains(molecules=2, cell=cell, n_frames=200)
    wrapped = replace(frames, positions=wrap(frames.positions, frames.cell))
    assert not torch.allclose(wrapped.positions, frames.positions)
    assert io.virial(wrapped) == pytest.approx(io.virial(frames))


def test_an_external_field_that_acts_on_molecules_as_a_whole_is_said():
    frames = harmonic_chains()
    pushed = replace(frames, forces=frames.forces + torch.tensor([0.5, 0.0, 0.0]))
    assert io.virial(pushed).value == pytest.approx(io.virial(frames).value)
    assert "do not add up to zero" in io.audit(pushed)[-1].message
    assert "do not add up to zero" not in io.audit(frames)[-1].message


def test_single_atoms_and_short_runs_have_no_virial():
    frames = harmonic_chains(n_frames=50)
    assert io.virial(replace(frames, forces=None)) is None
    assert io.virial(frames[:5]) is None
    lone = Frames(torch.rand(50, 1, 3), bead_topology(["A"], []), forces=torch.rand(50, 1, 3))
    assert io.virial(lone) is None


def test_block_error_of_independent_numbers_is_sigma_over_root_n():
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert standard_error(x) == pytest.approx(100_000**-0.5, rel=0.5)


@pytest.mark.parametrize(("name", "consistent"), [("cgnet_ala2_cacb", True), ("cgnet_ala2", False)])
def test_published_bead_forces_pass_or_fail_as_known(shared_data, name, consistent):
    """The six-bead set has all forces; in the five-bead one those of constrained hydrogens were not added to their bead."""
    x = np.load(shared_data / "ala2" / f"{name}_coordinates.npy")
    f = np.load(shared_data / "ala2" / f"{name}_forces.npy")
    n = x.shape[1]
    top = bead_topology([f"B{i}" for i in range(n)], [(i, i + 1) for i in range(n - 1)])
    arguments = dict(length_unit="A", force_unit="kcal/mol/A", temperature=300)
    if consistent:
        io.read(top, x, f, **arguments)
    else:
        with pytest.warns(io.VirialWarning, match="missing forces"):
            io.read(top, x, f, **arguments)
