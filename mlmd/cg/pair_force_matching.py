"""Force matching for pair splines: linear least squares over blocks of frames, with error bars from the blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import block_diag
from torch import Tensor

from mlmd.cell import check_cutoff
from mlmd.cg.liquid_molecules import LiquidMolecules
from mlmd.cg.pair_splines import PairSplines
from mlmd.frames import Frames
from mlmd.neighbors import Pairs, neighbors
from mlmd.potentials.compose import in_closed_form
from mlmd.potentials.pair import Excluding
from mlmd.potentials.spline import TabulatedPair, rows_of, type_table
from mlmd.system import System

Array = NDArray[np.float64]
RANK = 1e-10  # directions of the normal equations below this part of the largest are not determined by the data


@dataclass(frozen=True, eq=False)
class MatchedBlocks:
    """Result after some blocks of frames.

    blocks: solved so far, of ``n_blocks``. values (R, I): mean over the blocks, eV; error (R, I): its standard error, NaN after one
    block; sampled (R, I): whether pairs came as near as the knot; residual: mean square force left, per component; force:
    mean square force to begin with (after bonded terms), both (eV/A)^2; law: the potential.
    """

    blocks: int
    n_blocks: int
    values: Tensor
    error: Tensor
    sampled: Tensor
    residual: float
    force: float
    law: TabulatedPair

    @property
    def explained(self) -> float:
        """Share of the mean square force that the potential explains; noise of the mapped forces is in the rest."""
        return 1 - self.residual / self.force

    def line(self) -> str:
        """The numbers in words."""
        error = self.error[self.sampled]
        largest = float(error.nan_to_num(0.0).max()) if len(error) else 0.0
        return (
            f"block {self.blocks} of {self.n_blocks}: {self.explained:.4f} of the force explained, largest error {largest:.3g} eV"
        )


def match_pair_forces(
    frames: Frames, basis: PairSplines, *, molecules: LiquidMolecules | None = None, n_blocks: int = 10
) -> Iterator[MatchedBlocks]:
    r"""Minimise :math:`\sum_{iF}|F_i-\sum_kU_k\,\sum_jL_k'(r_{ij})\hat r_{ij}|^2` in every block of frames, and average.

    (Izvekov and Voth, J. Phys. Chem. B 109, 2469 (2005); blocks as in Ruehle et al., J. Chem. Theory Comput. 5, 3211 (2009).)
    Blocks are contiguous in time, so the scatter of their solutions gives errors that know of correlations. In the core, where no
    pair comes, the potential goes on as a straight line, and ``sampled`` is false.

    Args:
        frames: beads in a periodic box, with forces. basis: of the potential. n_blocks: at most one per frame.
        molecules: whose bonded forces are taken off first, and whose pairs are left out; frames with whole molecules. Default: single beads.

    Yields:
        :class:`MatchedBlocks` after every block; the last has them all.

    Raises:
        ValueError: frames without forces or box, a box narrower than twice the cutoff, no pairs of the types of the basis.
    """
    if frames.forces is None:
        raise ValueError("frames have no forces: force matching needs them; relative entropy and inverse Monte Carlo do without")
    if frames.cell is None or frames.types is None:
        raise ValueError("frames have no cell: pair splines are fitted to liquids in a periodic box")
    if not 1 <= n_blocks <= len(frames):
        raise ValueError(f"n_blocks={n_blocks}: must be between 1 and the {len(frames)} frames")
    felt = _Felt(basis, molecules)
    core, sampled = _straight_core(frames, basis, felt)
    solved, pieces = list[Array](), list[_Normal]()
    for block in np.array_split(np.arange(len(frames)), n_blocks):
        pieces.append(_normal_equations(frames, basis, felt, core, block))
        solved.append(core @ _solve(pieces[-1]))
        yield _result(solved, pieces, sampled, basis, n_blocks)


class _Felt:
    """The pairs that feel the splines, and the forces that the splines shall give."""

    def __init__(self, basis: PairSplines, molecules: LiquidMolecules | None):
        self.cutoff, self.bonded, self.others = basis.cutoff, None, None
        if molecules is not None:
            self.bonded = molecules.bonded
            law = basis.law(torch.zeros(basis.shape))
            self.others = Excluding(law, molecules.bonds, molecules.size, molecules.hops)

    def half(self, system: System) -> Pairs:
        """Each once."""
        pairs = neighbors(system, self.cutoff)
        return pairs.half if self.others is None else self.others.remaining(pairs).half

    def forces(self, system: System, forces: Tensor) -> Array:
        """(3 N,) what bonded terms leave of the forces (N, 3)."""
        if self.bonded is not None:
            forces = forces - in_closed_form(self.bonded, system, None)[1].to(forces)
        return forces.double().numpy().ravel()


def _straight_core(frames: Frames, basis: PairSplines, felt: _Felt) -> tuple[Array, NDArray[np.bool_]]:
    """(R I, K) all values from those at the K knots that are determined, and which these are, (R, I).

    Determined are the knots from the last one below the nearest pair of all frames; the others lie on a line through the first two.
    """
    nearest = np.full(len(basis.types) + 1, np.inf)
    for f in range(len(frames)):
        system = frames.system(f)
        check_cutoff(system.cell, system.pbc, basis.cutoff)
        half = felt.half(system)
        row = rows_of(type_table(basis.types), system.types[half.index[0]], system.types[half.index[1]])
        np.minimum.at(nearest, row.numpy(), half.distances(system).double().numpy())
    spacing = (basis.cutoff - basis.start) / basis.intervals
    first = np.floor((nearest[:-1] - basis.start) / spacing)
    empty = [pair for pair, k in zip(basis.types, first) if not k <= basis.intervals - 2]
    if empty:
        raise ValueError(f"no pair of the types {empty} comes nearer than the cutoff {basis.cutoff:g} A: check types and units")
    blocks, sampled = [], np.zeros(basis.shape, bool)
    for number, k in enumerate(np.maximum(first, 0).astype(int)):
        block = np.eye(basis.intervals)
        before = np.arange(k)
        block[before] = 0.0
        block[before, k], block[before, k + 1] = 1.0 + k - before, before - float(k)
        blocks.append(block[:, k:])
        sampled[number, k:] = True
    return block_diag(*blocks), sampled


@dataclass(frozen=True, eq=False)
class _Normal:
    """Sums over a block: matrix G^T G (K, K), right side G^T F (K,), F^T F, and the number of force components."""

    matrix: Array
    right: Array
    square: float
    count: int


def _normal_equations(frames: Frames, basis: PairSplines, felt: _Felt, core: Array, block: NDArray[np.int64]) -> _Normal:
    size = core.shape[1]
    matrix, right, square, count = np.zeros((size, size)), np.zeros(size), 0.0, 0
    assert frames.forces is not None
    for f in block.tolist():
        system = frames.system(f).to(torch.float64)
        design = core.T @ design_forces_of(basis, system, felt.half(system)).reshape(len(core), -1).numpy()
        force = felt.forces(system, frames.forces[f])
        matrix += design @ design.T
        right += design @ force
        square += float(force @ force)
        count += force.size
    return _Normal(matrix, right, square, count)


def design_forces_of(basis: PairSplines, system: System, half: Pairs) -> Tensor:
    """Forces of every function of the basis between the given pairs, each listed once: (R, I, N, 3) per A; the forces of values U are
    their sum weighted by U."""
    i, j = half.index
    d = half.vectors(system).double()
    r = d.norm(dim=-1)
    row = rows_of(type_table(basis.types), system.types[i], system.types[j])
    n, size = len(system), basis.intervals + 3
    index, _, slope = basis._uniform.alive(r)
    out = d.new_zeros((len(basis.types) + 1) * size * n, 3)
    for k in range(4):
        f = slope[:, k, None] * d / r[:, None].clamp(min=1e-10)
        at = (row * size + index[:, k]) * n
        out.index_add_(0, at + i, f).index_add_(0, at + j, -f)
    by_spline = out.reshape(len(basis.types) + 1, size, n, 3)[:-1]
    return torch.einsum("ki,rknd->rind", basis._to_b_splines, by_spline)


def _solve(piece: _Normal) -> Array:
    """Least squares of least norm, from scaled normal equations: functions that hardly act are not drowned by those that do."""
    scale = np.sqrt(np.diag(piece.matrix))
    scale = np.where(scale > 0, scale, 1.0)
    return np.linalg.lstsq(piece.matrix / np.outer(scale, scale), piece.right / scale, rcond=RANK)[0] / scale


def _result(
    solved: list[Array], pieces: list[_Normal], sampled: NDArray[np.bool_], basis: PairSplines, n_blocks: int
) -> MatchedBlocks:
    mean = np.mean(solved, 0)
    error = np.std(solved, 0, ddof=1) / np.sqrt(len(solved)) if len(solved) > 1 else np.full_like(mean, np.nan)
    free = mean[sampled.ravel()]
    square = sum(p.square for p in pieces)
    left = sum(float(p.square - 2 * free @ p.right + free @ p.matrix @ free) for p in pieces)
    count = sum(p.count for p in pieces)
    values, errors = (torch.from_numpy(v).reshape(basis.shape) for v in (mean, error))
    law = basis.law(values)
    return MatchedBlocks(len(solved), n_blocks, values, errors, torch.from_numpy(sampled), left / count, square / count, law)
