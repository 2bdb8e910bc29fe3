"""Angle distribution of triplets in periodic boxes: the angles under which a particle sees pairs of its neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mlmd.frames import Frames
from mlmd.neighbors import neighbors
from mlmd.observables.blocks import Array, block_labels, ratio
from mlmd.system import System

_FINE = 8  # fine bins per bin for Gaussian smoothing


@dataclass(frozen=True, eq=False)
class ADF:
    """p(theta) on bins: centres theta (B,) in radian, density (B,) in 1/rad that integrates to 1, its block standard error,
    triplets counted per bin, and the bin edges (B+1,)."""

    theta: Array
    density: Array
    error: Array
    count: Array
    edges: Array
    n_frames: int


def adf(frames: Frames | Tensor, cell: Tensor | None = None, *, r_max: float, bins: int = 180, n_blocks: int = 10) -> ADF:
    r"""Distribution of the angles j-i-k of all triplets with both neighbours j < k nearer than ``r_max`` to i.

    :math:`p_b=\sum_f n_b(f)/(\Delta\theta\sum_f\sum_bn_b(f))` with :math:`n_b(f)` angles of frame f in bin b of width
    :math:`\Delta\theta=\pi/B`; independent particles have :math:`p=\tfrac12\sin\theta`.

    Args:
        frames: Frames, or positions (F, N, 3) of one trajectory in A, wrapped or not.
        cell: (3, 3) or (F, 3, 3) in A; taken from Frames if absent.
        r_max: A. bins: B. n_blocks: of time, for the errors.

    Raises:
        ValueError: no cell, positions of another shape, fewer than one bin, or no triplet within reach in any frame.
    """
    x = frames.positions if isinstance(frames, Frames) else torch.as_tensor(frames)
    cell = frames.cell if cell is None and isinstance(frames, Frames) else cell
    if cell is None:
        raise ValueError("cell is missing: give the box of the frames in A")
    if x.ndim != 3 or x.shape[2] != 3 or not len(x):
        raise ValueError(f"positions has shape {tuple(x.shape)}, expected (frames, N, 3)")
    edges = np.linspace(0.0, np.pi, bins + 1)
    box = torch.as_tensor(cell).expand(len(x), 3, 3)
    counts = np.stack(
        [angle_counts(System.single(p, cell=c), r_max, bins)[0].numpy() for p, c in zip(x.detach(), box, strict=True)]
    )
    if not counts.sum():
        raise ValueError(f"r_max={r_max:g} A: no particle has two neighbours so near in any frame, take a larger one")
    labels = block_labels((len(x),), n_blocks)
    per_block = np.stack([counts[labels == b].sum(0) for b in range(labels.max() + 1)])
    density, error = ratio(per_block, per_block.sum(1) * edges[1])
    return ADF((edges[1:] + edges[:-1]) / 2, density, error, counts.sum(0), edges, len(x))


@torch.no_grad()
def angle_counts(system: System, r_max: float, bins: int) -> Tensor:
    """Number of triplets per bin of the angle and system, (S, bins), double; see :func:`adf`.

    Raises:
        ValueError: fewer than one bin, or a range ``r_max`` that is not positive.
    """
    if bins < 1:
        raise ValueError(f"bins={bins}: at least one bin is needed")
    theta, centre = neighbour_angles(system, r_max)
    index = (theta * (bins / np.pi)).long().clamp(max=bins - 1)
    flat = system.batch[centre] * bins + index
    return torch.bincount(flat, minlength=system.n_systems * bins).double().reshape(-1, bins)


@torch.no_grad()
def neighbour_angles(system: System, r_max: float) -> tuple[Tensor, Tensor]:
    r"""Angles :math:`\theta=\mathrm{atan2}(|u\times v|,u\cdot v)` (T,) in radian, in double precision, under which particles see
    every two of their neighbours nearer than ``r_max`` (A), and these particles (T,)."""
    pairs = neighbors(system, r_max)
    vectors, centre = pairs.vectors(system).double(), pairs.index[0]
    number = torch.bincount(centre, minlength=len(system))
    first = (number.cumsum(0) - number)[centre]  # pairs are sorted by receiver
    before = torch.arange(len(centre), device=centre.device) - first  # neighbours of the same particle listed earlier
    v = torch.repeat_interleave(before)
    start = before.cumsum(0) - before
    u = first[v] + torch.arange(len(v), device=v.device) - start[v]
    a, b = vectors[u], vectors[v]
    return torch.atan2(torch.linalg.cross(a, b).norm(dim=-1), (a * b).sum(-1)), centre[v]


@dataclass(frozen=True, eq=False)
class SmoothADF:
    r"""The angle distribution of every snapshot, each angle spread over a Gaussian one bin wide:

    .. math:: p_b\propto\sum_{triplets}e^{-(\theta_b-\theta)^2/2\Delta\theta^2},\qquad\Delta\theta\sum_bp_b=1

    as in the targets of Thaler and Zavadlav, Nat. Commun. 12, 6884 (2021). The cutoff is sharp: their radial smoothing of 0.01 nm
    enters their program as a width of (0.01)^2 nm.

    Args:
        r_max: range of the neighbours in A. bins: number of them from 0 to pi.

    Raises:
        ValueError: fewer than one bin.
    """

    r_max: float
    bins: int = 150

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise ValueError(f"bins={self.bins}: at least one bin is needed")

    @property
    def grid(self) -> Tensor:
        """(B,) centres of the bins in radian."""
        return (torch.arange(self.bins, dtype=torch.float64) + 0.5) * (torch.pi / self.bins)

    def __call__(self, system: System) -> Tensor:
        """(S, B) density in 1/rad, in double precision; zero for a snapshot without triplets."""
        fine = angle_counts(system, self.r_max, self.bins * _FINE)
        middles = (torch.arange(self.bins * _FINE, dtype=torch.float64) + 0.5) / _FINE - 0.5
        kernel = torch.exp(-0.5 * (torch.arange(self.bins)[:, None] - middles) ** 2)  # in units of a bin
        p = fine @ kernel.T.to(fine.device)
        return p / (p.sum(1, keepdim=True) * (torch.pi / self.bins)).clamp(min=1e-300)
