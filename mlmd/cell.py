"""Periodic cells: widths, minimum image, wrapping, making molecules whole. Rows of a cell are lattice vectors."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def widths(cell: Tensor) -> Tensor:
    """Distance between opposite faces, (..., 3); infinite where the cell has no volume.

    width_i = V / |a_j x a_k|
    """
    a, b, c = cell.unbind(-2)
    cross = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], -2)
    area = cross.norm(dim=-1)
    volume = torch.linalg.det(cell).abs()[..., None]
    return torch.where((area > 0) & (volume > 0), volume / area.clamp(min=1e-30), torch.full_like(area, torch.inf))


def completed(cell: Tensor, pbc: Tensor) -> Tensor:
    """Cells (S, 3, 3) whose rows without a period are replaced by unit vectors perpendicular to all others.

    So a slab or a rod, whose remaining rows may be zero or anything, has a volume, widths and fractional coordinates.
    """
    if bool(pbc.all()):
        return cell
    normals = torch.linalg.svd(cell * pbc[..., None])[2]  # the last rows span what the periodic rows do not
    order = (3 - torch.cumsum((~pbc).long(), -1)).clamp(max=2)
    normals = torch.gather(normals, -2, order[..., None].expand_as(cell))
    return torch.where(pbc[..., None], cell, normals)


def periodic_widths(cell: Tensor, pbc: Tensor) -> Tensor:
    """Distance between opposite faces in the periodic directions, (S, 3); infinite in the others.

    Raises:
        ValueError: if the lattice vectors of the periodic directions enclose no volume.
    """
    filled = completed(cell, pbc)
    if bool((torch.linalg.det(filled).abs() < 1e-9).any()):
        raise ValueError(
            "cell has zero volume but pbc is set: give a lattice vector in A for every periodic direction or set pbc=False"
        )
    return torch.where(pbc, widths(filled), torch.full_like(cell[..., 0], torch.inf))


def check_cutoff(cell: Tensor, pbc: Tensor, cutoff: float) -> None:
    """Refuse a box without volume, and a cutoff over half the width of a periodic box."""
    smallest = float(periodic_widths(cell, pbc).min())
    if smallest < 2 * cutoff:
        raise ValueError(
            f"cutoff={cutoff:g} A is more than half the smallest box width ({smallest:.4g} A): "
            f"use a cutoff below {smallest / 2:.4g} A or a larger box"
        )


def fractional(positions: Tensor, cell: Tensor) -> Tensor:
    """Coordinates in units of the lattice vectors: positions (..., n, 3), cell (..., 3, 3).

    Raises:
        ValueError: if the cell has no volume.
    """
    try:
        return positions @ torch.linalg.inv(cell)  # one 3 x 3 inverse: solving for every pair takes longer
    except torch.linalg.LinAlgError as error:
        raise ValueError("cell has zero volume: give three independent lattice vectors in A") from error


def wrap(positions: Tensor, cell: Tensor) -> Tensor:
    """Into the cell, every fractional coordinate in [0, 1)."""
    s = fractional(positions, cell)
    return (s - s.floor()) @ cell


def minimum_image(displacement: Tensor, cell: Tensor) -> Tensor:
    """Nearest image by rounding fractional coordinates; exact below half the smallest width."""
    s = fractional(displacement, cell)
    return displacement - s.round() @ cell


def make_whole(positions: Tensor, cell: Tensor, bonds: Iterable[tuple[int, int]]) -> Tensor:
    """Undo the cuts that wrapping makes through molecules, by walking along bonds from the first atom of each.

    Args:
        positions: (F, n, 3); cell: (F, 3, 3); bonds: pairs of atom indices.

    Returns:
        (F, n, 3) with every bonded pair at its nearest image. Molecules themselves stay where their first atom is.
    """
    x = positions.clone()
    for parent, child in spanning_tree(x.shape[1], bonds):
        d = x[:, child] - x[:, parent]
        x[:, child] = x[:, parent] + minimum_image(d[:, None], cell)[:, 0]
    return x


def spanning_tree(n: int, bonds: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """(parent, child) edges, breadth first, that reach every bonded atom once."""
    neighbours: list[list[int]] = [[] for _ in range(n)]
    for i, j in bonds:
        neighbours[i].append(j)
        neighbours[j].append(i)
    seen, edges = [False] * n, []
    for root in range(n):
        if seen[root]:
            continue
        seen[root], queue = True, [root]
        for i in queue:
            for j in neighbours[i]:
                if not seen[j]:
                    seen[j] = True
                    edges.append((i, j))
                    queue.append(j)
    return edges


def face_centred_cubic(cells: int, edge: float) -> Tensor:
    """Sites (4 cells^3, 3) of the face-centred cubic lattice that fills a cubic box of the given edge in A: a start for simple liquids.

    Raises:
        ValueError: fewer than one cell, or an edge that is not positive.
    """
    if cells < 1 or not edge > 0:
        raise ValueError(f"cells={cells}, edge={edge}: give at least one cell per direction and a positive edge in A")
    corner = torch.cartesian_prod(*[torch.arange(float(cells))] * 3).reshape(-1, 1, 3)
    face = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]])
    return ((corner + face) * (edge / cells)).reshape(-1, 3)
