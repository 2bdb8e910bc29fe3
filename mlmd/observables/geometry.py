"""Internal coordinates of positions (..., n, 3) in A: distances, angles, signed dihedrals, size, superposition."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mlmd.cell import minimum_image


def distances(x: Tensor, pairs: Any, cell: Tensor | None = None) -> Tensor:
    """|x_j - x_i| of index pairs (K, 2): (..., K), A; nearest image if ``cell`` ((3, 3) or (..., 3, 3), A) is given."""
    i, j = _columns(x, pairs, 2, "pairs")
    return _bond(x, i, j, cell).norm(dim=-1)


def angles(x: Tensor, triples: Any, cell: Tensor | None = None) -> Tensor:
    """Angle at the middle particle of index triples (K, 3): (..., K), radian in [0, pi].

    theta = atan2(|u x v|, u . v), u = x_i - x_j, v = x_k - x_j; accurate also near 0 and pi.
    """
    i, j, k = _columns(x, triples, 3, "triples")
    u, v = _bond(x, j, i, cell), _bond(x, j, k, cell)
    return torch.atan2(torch.linalg.cross(u, v).norm(dim=-1), (u * v).sum(-1))


def dihedrals(x: Tensor, quads: Any, cell: Tensor | None = None) -> Tensor:
    """Signed dihedral angle of index quadruples (K, 4): (..., K), radian in [-pi, pi], 0 for cis, positive clockwise (IUPAC).

    phi = atan2(|b2| b1 . (b2 x b3), (b1 x b2) . (b2 x b3)), b1 = x_j - x_i, b2 = x_k - x_j, b3 = x_l - x_k.

    Source:
        Blondel and Karplus, J. Comput. Chem. 17, 1132 (1996).
    """
    i, j, k, l = _columns(x, quads, 4, "quads")
    b1, b2, b3 = _bond(x, i, j, cell), _bond(x, j, k, cell), _bond(x, k, l, cell)
    n1, n2 = torch.linalg.cross(b1, b2), torch.linalg.cross(b2, b3)
    return torch.atan2((b1 * n2).sum(-1) * b2.norm(dim=-1), (n1 * n2).sum(-1))


def radius_of_gyration(x: Tensor, masses: Tensor | None = None) -> Tensor:
    """Rg = sqrt(sum_i m_i |x_i - x_com|^2 / sum_i m_i): (...,), A; equal masses if none are given. Molecules must be whole."""
    w = _normalised(x, masses)
    centred = x - (w[:, None] * x).sum(-2, keepdim=True)
    return ((centred**2).sum(-1) * w).sum(-1).sqrt()


def superpose(x: Tensor, onto: Tensor, masses: Tensor | None = None) -> Tensor:
    """``x`` (..., n, 3) moved and rotated (never mirrored) onto ``onto`` with the least weighted square deviation.

    Source:
        Kabsch, Acta Cryst. A 32, 922 (1976).
    """
    w = _normalised(x, masses)[:, None]
    centred = x - (w * x).sum(-2, keepdim=True)
    return centred @ rotation_onto(x, onto, masses).transpose(-1, -2) + (w * onto).sum(-2, keepdim=True)


def rotation_onto(x: Tensor, onto: Tensor, masses: Tensor | None = None) -> Tensor:
    """(..., 3, 3) proper rotations R that turn ``x`` onto ``onto`` with the least weighted square deviation of R x_i (Kabsch 1976)."""
    w = _normalised(x, masses)[:, None]
    x0, y0 = x - (w * x).sum(-2, keepdim=True), onto - (w * onto).sum(-2, keepdim=True)
    u, _, vt = torch.linalg.svd((w * x0).transpose(-1, -2) @ y0)
    sign = torch.ones_like(u[..., 0, :])
    sign[..., 2] = torch.sign(torch.linalg.det(u @ vt))
    return ((u * sign[..., None, :]) @ vt).transpose(-1, -2)


def kabsch_rmsd(x: Tensor, y: Tensor, masses: Tensor | None = None) -> Tensor:
    """Root mean square deviation after the best proper rotation and shift: (...,), A; broadcasts over leading axes.

    Args:
        x, y: (..., n, 3) of the same n; masses: (n,) weights, equal if absent.
    """
    if x.shape[-2:] != y.shape[-2:]:
        raise ValueError(f"x holds {x.shape[-2]} particles and y {y.shape[-2]}: they must be the same particles")
    w = _normalised(x, masses)
    x, y = torch.broadcast_tensors(x, y)
    return (((superpose(x, y, masses) - y) ** 2).sum(-1) * w).sum(-1).sqrt()


def _bond(x: Tensor, i: Tensor, j: Tensor, cell: Tensor | None) -> Tensor:
    d = x[..., j, :] - x[..., i, :]
    return d if cell is None else minimum_image(d, cell.to(d))


def _columns(x: Tensor, index: Any, width: int, name: str) -> tuple[Tensor, ...]:
    if x.ndim < 2 or x.shape[-1] != 3:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected (..., particles, 3)")
    t = torch.as_tensor(index, dtype=torch.long, device=x.device)
    t = t.reshape(0, width) if t.numel() == 0 else t
    if t.ndim != 2 or t.shape[1] != width:
        raise ValueError(f"{name} has shape {tuple(t.shape)}, expected (terms, {width})")
    if not torch.compiler.is_compiling() and t.numel() and (int(t.min()) < 0 or int(t.max()) >= x.shape[-2]):
        raise ValueError(f"{name} refers to particle {int(t.max())} or {int(t.min())}, but x holds 0 to {x.shape[-2] - 1}")
    return t.unbind(1)


def _normalised(x: Tensor, masses: Tensor | None) -> Tensor:
    n = x.shape[-2]
    m = torch.ones(n, dtype=x.dtype, device=x.device) if masses is None else torch.as_tensor(masses).to(x)
    if m.shape != (n,) or not bool((m >= 0).all()) or not bool(m.sum() > 0):
        raise ValueError(f"masses has shape {tuple(m.shape)}, expected ({n},) of values that are not negative and not all zero")
    return m / m.sum()
