"""Trajectories that do not jump at the boundary: whole molecules, and centres that are followed through the walls of the box."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mlmd.cell import make_whole, minimum_image, spanning_tree
from mlmd.frames import Frames


def unwrapped(positions: Tensor, cell: Tensor) -> Tensor:
    r"""Paths without jumps: every particle goes from frame to frame by the shortest way,

    .. math:: u_0=x_0,\qquad u_t=u_{t-1}+\mathrm{nearest}(x_t-x_{t-1};\,A_t)

    which also in a box that changes its size keeps diffusion as it is (lattice vectors of the later frame).

    Args:
        positions: (F, n, 3) in A, wrapped or not; cell: (3, 3) or (F, 3, 3), A. Nothing may move by half a box between frames.

    Raises:
        ValueError: shapes that do not belong together, or a cell without volume.

    Source:
        von Buelow, Bullerjahn and Hummer, J. Chem. Phys. 153, 021101 (2020), the "toroidal view preserving" scheme.
    """
    if positions.ndim != 3 or positions.shape[2] != 3:
        raise ValueError(f"positions has shape {tuple(positions.shape)}, expected (frames, particles, 3)")
    if tuple(cell.shape) not in ((3, 3), (len(positions), 3, 3)):
        raise ValueError(f"cell has shape {tuple(cell.shape)}, expected (3, 3) or ({len(positions)}, 3, 3)")
    cells = cell.to(positions).expand(len(positions), 3, 3)
    steps = minimum_image(positions[1:] - positions[:-1], cells[1:])
    return torch.cat([positions[:1], steps]).cumsum(0)


def molecules(frames: Frames) -> Tensor:
    """(N,) number of the molecule of every particle: 0, 1, ... in the order of their first particles; unbonded ones are alone."""
    label = torch.arange(frames.n_atoms)
    for parent, child in spanning_tree(frames.n_atoms, frames.bonds):
        label[child] = label[parent]
    return torch.unique(label, return_inverse=True)[1]


def centres(positions: Tensor, masses: Tensor, labels: Tensor) -> Tensor:
    """Centres of mass (F, M, 3) of whole molecules: positions (F, N, 3) in A, masses (N,), labels (N,) from :func:`molecules`."""
    n = int(labels.max()) + 1
    m = masses.to(positions)
    m = torch.where(m > 0, m, m.new_ones(())) if bool((m <= 0).all()) else m  # beads without elements: all alike
    total = m.new_zeros(n).index_add_(0, labels, m)
    weighted = positions.new_zeros(len(positions), n, 3).index_add_(1, labels, m[:, None] * positions)
    return weighted / total[:, None]


def followed(frames: Frames) -> Frames:
    """The frames with molecules whole along their bonds and their centres of mass going through the walls of the box.

    Distances inside molecules and mean square displacements are then plain differences of positions. Frames without a cell
    come back as they are.
    """
    if frames.cell is None or frames.masses is None:
        return frames
    x = make_whole(frames.positions.double(), frames.cell.double(), frames.bonds)
    labels = molecules(frames)
    c = centres(x, frames.masses, labels)
    moved = unwrapped(c, frames.cell.double()) - c
    return replace(frames, positions=x + moved[:, labels])


def without_drift(positions: Tensor, masses: Tensor) -> Tensor:
    r"""Positions (F, N, 3) less the motion of the common centre of mass, :math:`x_i(t)-[X(t)-X(0)]`.

    Newton's equations keep the centre where it is, Langevin dynamics lets it diffuse with 1/N of the friction of one particle:
    without it the two can be compared. N free particles lose the share 1/N of their diffusion by it.
    """
    one = torch.zeros(positions.shape[1], dtype=torch.long)
    x = centres(positions, masses, one)
    return positions - (x - x[:1])
