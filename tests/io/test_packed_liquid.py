"""Packed liquids: molecules whole, atoms rounded by half a step however long the molecule, everything else as it was."""

from dataclasses import replace

import pytest
import torch

from mlmd.cell import wrap
from mlmd.datasets import trappe
from mlmd.frames import Frames
from mlmd.io.packed import load_any, pack, unpack


def liquid(seed: int = 0, n_frames: int = 3, n_molecules: int = 4, edge: float = 20.0) -> Frames:
    """Random walks of twelve sites that stick out of their box."""
    g = torch.Generator().manual_seed(seed)
    steps = torch.nn.functional.normalize(torch.randn(n_frames, n_molecules, 12, 3, generator=g, dtype=torch.float64), dim=-1)
    steps[:, :, 0] = edge * torch.rand(n_frames, n_molecules, 3, generator=g, dtype=torch.float64) - 30
    masses, types = trappe.sites(12, n_molecules)
    n = 12 * n_molecules
    return Frames(
        steps.cumsum(2).reshape(n_frames, n, 3), trappe.topology(12, n_molecules), torch.randn(n_frames, n, 3, generator=g),
        torch.randn(n_frames, generator=g, dtype=torch.float64) - 500, edge * torch.eye(3, dtype=torch.float64).repeat(n_frames, 1, 1),
        time=torch.arange(n_frames, dtype=torch.float64) * 200, masses=masses, types=types, kT=0.04, provenance={"seed": seed},
    )  # fmt: skip


@pytest.mark.parametrize("broken", [False, True])
def test_atoms_are_rounded_by_half_a_step_at_an_image_of_their_molecule(tmp_path, broken):
    a = liquid()
    assert a.cell is not None and a.forces is not None and a.energies is not None
    given = replace(a, positions=wrap(a.positions, a.cell)) if broken else a
    b = unpack(pack(given, tmp_path / "a.npz", position_step=1e-3, force_step=1e-3))
    shift = (b.positions - a.positions) / 20.0
    assert float((shift - shift.round()).abs().max()) * 20 <= 0.5e-3 + 3e-6
    moves = shift.round().reshape(3, 4, 12, 3)
    assert torch.equal(moves, moves[:, :, :1].expand_as(moves))  # whole
    first = b.positions.reshape(3, 4, 12, 3)[:, :, 0]
    assert float(first.min()) > -1e-3 and float(first.max()) < 20 + 1e-3
    assert b.forces is not None and b.energies is not None
    assert float((b.forces - a.forces).abs().max()) <= 0.5e-3 + 1e-6
    assert float((b.energies - a.energies).abs().max()) < 1e-5


def test_everything_else_is_kept(tmp_path):
    a = replace(liquid(), constraints=torch.tensor([[0, 1], [12, 13]]))
    b = load_any(pack(a, tmp_path / "a.npz", position_step=1e-3, force_step=1e-3))
    for name in ("cell", "time", "masses", "types", "constraints"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert (b.topology, b.kT, b.provenance) == (a.topology, a.kT, a.provenance)
    assert liquid().constraints is None
    assert unpack(pack(liquid(), tmp_path / "b.npz", position_step=1e-3, force_step=1e-3)).constraints is None


def test_steps_that_are_too_fine_name_one_that_is_not(tmp_path):
    with pytest.raises(ValueError, match=r"position_step=0\.0001 is too fine for 16 bits: take at least 0\.000"):
        pack(liquid(), tmp_path / "a.npz", position_step=1e-4)


def test_liquids_without_forces_are_not_packed(tmp_path):
    with pytest.raises(ValueError, match="positions, forces, energies and a cell"):
        pack(replace(liquid(), forces=None), tmp_path / "a.npz")


def test_files_are_less_than_half_of_the_numbers_in_single_precision(tmp_path):
    path = pack(liquid(n_frames=60, n_molecules=20), tmp_path / "a.npz", position_step=1e-3, force_step=2e-3)
    assert path.stat().st_size < 60 * 240 * 6 * 4 / 2
