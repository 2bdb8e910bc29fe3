"""Wrapped trajectories are followed through the walls: what was there before wrapping comes back."""

import numpy as np
import pytest
import torch

from mlmd.cell import wrap
from mlmd.frames import Frames, bead_topology
from mlmd.observables import centres, followed, molecules, unwrapped, without_drift

CELL = torch.tensor([[9.0, 0.0, 0.0], [1.1, 9.5, 0.0], [-0.7, 1.3, 10.0]], dtype=torch.float64)


def walk(frames: int, n: int, step: float = 1.0, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return step * torch.randn(frames, n, 3, dtype=torch.float64, generator=g).cumsum(0)


def test_a_wrapped_walk_comes_back_up_to_where_it_began() -> None:
    x = walk(200, 5)
    back = unwrapped(wrap(x, CELL.expand(200, 3, 3)), CELL)
    assert torch.allclose(back - back[:1], x - x[:1], atol=1e-9)
    assert torch.allclose(unwrapped(x, CELL), x, atol=1e-9)


def test_in_a_box_that_breathes_particles_take_the_steps_they_took() -> None:
    """Steps inside the box of the later frame are kept: the diffusion of a walk in a box that changes its size is its own."""
    scale = 1 + 0.05 * torch.sin(torch.arange(400.0, dtype=torch.float64))
    cells = scale[:, None, None] * 10 * torch.eye(3, dtype=torch.float64)
    steps = walk(400, 50, 0.4).diff(dim=0)
    x = [torch.zeros(50, 3, dtype=torch.float64)]
    for cell, d in zip(cells[1:], steps):  # moved, then wrapped: no scaling of positions with the box
        x.append(wrap((x[-1] + d)[None], cell[None])[0])
    u = unwrapped(torch.stack(x), cells)
    msd = float((u[-1] - u[0]).square().sum(-1).mean())
    free = float((steps.sum(0)).square().sum(-1).mean())
    assert msd == pytest.approx(free, rel=1e-9)


def dumbbells(frames: int) -> tuple[Frames, torch.Tensor]:
    first = walk(frames, 3)
    x = torch.stack([first, first + torch.tensor([1.5, 0.0, 0.0], dtype=torch.float64)], 2).reshape(frames, 6, 3)
    masses = torch.tensor([1.0, 3.0] * 3, dtype=torch.float64)
    top = bead_topology(["A", "B"], [(0, 1)], 3)
    cells = CELL.expand(frames, 3, 3)
    return Frames(wrap(x, cells), top, cell=cells, masses=masses, types=torch.tensor([0, 1] * 3)), x


def test_molecules_are_whole_and_their_centres_followed() -> None:
    wrapped, x = dumbbells(150)
    f = followed(wrapped)
    assert torch.allclose(f.positions[:, 1::2] - f.positions[:, ::2], x[:, 1::2] - x[:, ::2], atol=1e-9)
    assert torch.allclose(f.positions - f.positions[:1], x - x[:1], atol=1e-9)
    assert molecules(f).tolist() == [0, 0, 1, 1, 2, 2]
    c = centres(f.positions, f.masses, molecules(f))
    assert torch.allclose(c[:, 1], 0.25 * f.positions[:, 2] + 0.75 * f.positions[:, 3])


def test_molecules_are_numbered_by_their_first_particle_even_when_they_interlace() -> None:
    f = Frames(torch.zeros(1, 4, 3), bead_topology(["A", "B", "C", "D"], [(0, 2), (1, 3)]))
    assert molecules(f).tolist() == [0, 1, 0, 1]


def test_the_drift_of_the_common_centre_of_mass_is_taken_off() -> None:
    x, m = walk(50, 4), torch.tensor([1.0, 2.0, 3.0, 4.0])
    rest = without_drift(x + torch.arange(50.0)[:, None, None], m)
    centre = (m.double()[:, None] * rest).sum(1) / 10
    assert np.allclose(centre, centre[:1])
    assert torch.allclose(rest[:, 0] - rest[:, 1], x[:, 0] - x[:, 1])


@pytest.mark.parametrize(("x", "cell", "word"), [((5, 3), (3, 3), "positions"), ((5, 2, 3), (4, 3, 3), "cell")])
def test_shapes_that_do_not_belong_together_are_refused(x: tuple, cell: tuple, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        unwrapped(torch.zeros(x), torch.zeros(cell))
