r"""Structures from internal coordinates: every bead builds its atoms one after the other (in the manner of GenZProt, Yang and
Gomez-Bombarelli, ICML 2023, for any molecule with a bond graph).

An atom at distance d from p, angle theta at p to g, and dihedral tau about p-g to r is placed by

.. math:: x=x_p+d\,[\cos\theta\,\hat u+\sin\theta\,(\cos\tau\,\hat m+\sin\tau\,\hat n)],\quad
          \hat u=\widehat{g-p},\ \hat n=\widehat{(r-g)\times\hat u},\ \hat m=\hat u\times\hat n

(tau = 0: cis). The first atom of a bead is at the bead, the next ones refer to neighbouring beads where atoms do not suffice.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from mlmd.backmap.molecule import Molecule
from mlmd.cg.groups import neighbours


@dataclass(frozen=True, eq=False)
class Level:
    """Atoms (K,) that are placed together; parents, grandparents, references (K,) index atoms, and beads after them (N + bead)."""

    atoms: Tensor
    parents: Tensor
    grandparents: Tensor
    references: Tensor


@dataclass(frozen=True, eq=False)
class ZMatrix:
    """roots (B,): the first atom of every bead; levels in the order of placement."""

    roots: Tensor
    levels: tuple[Level, ...]

    @property
    def atoms(self) -> Tensor:
        """(N - B,) atoms with internal coordinates, in the order of the levels."""
        return torch.cat([level.atoms for level in self.levels]) if self.levels else torch.empty(0, dtype=torch.long)


@dataclass(frozen=True, eq=False)
class Skeleton:
    """A Z-matrix with what structures are like in the mean: ln(length / A) (N - B,) and direction (N - B, 3), shorter than 1 where it varies."""

    z: ZMatrix
    length: Tensor
    direction: Tensor

    @staticmethod
    def of(molecule: Molecule, x: Tensor, X: Tensor) -> Skeleton:
        """From structures (F, N, 3) and their beads (F, B, 3).

        Raises:
            ValueError: as :func:`zmatrix`.
        """
        z = zmatrix(molecule, X)
        c = measure(x, X, z, molecule.owner)
        return Skeleton(z, c[..., 0].log().mean(0), directions(c[..., 1], c[..., 2]).mean(0))


def directions(theta: Tensor, tau: Tensor) -> Tensor:
    """Unit vectors (..., 3): cos theta, sin theta cos tau, sin theta sin tau."""
    return torch.stack([theta.cos(), theta.sin() * tau.cos(), theta.sin() * tau.sin()], -1)


def zmatrix(molecule: Molecule, beads: Tensor) -> ZMatrix:
    """The order of placement for a molecule; reference beads are those that span the best angle in the bead structures (F, B, 3).

    Raises:
        ValueError: fewer than three beads, or beads on a line.
    """
    if molecule.n_beads < 3:
        raise ValueError(f"{molecule.n_beads} beads give no frame to place atoms in: internal coordinates need at least three")
    near, n = neighbours(molecule.n_atoms, molecule.bonds), molecule.n_atoms
    roots, rows = [], list[tuple[int, int, int, int, int]]()
    for bead, members in enumerate(molecule.members):
        first, second = _reference_beads(beads, bead)
        order = _order(members, near, molecule.weights[bead])
        roots.append(order[0][0])
        placed = list[int]()
        parent_of = dict(order)
        for atom, parent in order:
            if parent is not None:
                rows.append((_depth(atom, parent_of), atom, *_refer(parent, parent_of, placed, near, n + first, n + second)))
            placed.append(atom)
    # an atom may refer to a sibling that was placed just before it: levels go by the order in which everything is there
    known, levels, waiting = set(roots) | set(range(n, n + molecule.n_beads)), [], sorted(rows)
    while waiting:
        ready = [row for row in waiting if set(row[2:]) <= known]
        levels.append(Level(*(torch.tensor(column) for column in list(zip(*ready, strict=True))[1:])))
        known |= {row[1] for row in ready}
        waiting = [row for row in waiting if row[1] not in known]
    return ZMatrix(torch.tensor(roots), tuple(levels))


def measure(x: Tensor, X: Tensor, z: ZMatrix, owner: Tensor) -> Tensor:
    """(S, N - B, 3) distance in A, angle and dihedral in rad of structures (S, N, 3) with beads (S, B, 3), in the order of ``z.atoms``.

    Every bead (``owner`` (N,) says whose atoms are whose) is first shifted so that its first atom is at the bead, as :func:`place`
    does, which gives the structure back up to these shifts.
    """
    points = torch.cat([x + (X - x[:, z.roots]).index_select(1, owner), X], 1)
    found = []
    for level in z.levels:
        at, p, g, r = (points[:, k] for k in (level.atoms, level.parents, level.grandparents, level.references))
        d = at - p
        u, m, n = _frame(p, g, r)
        a, b, c = ((d * e).sum(-1) for e in (u, m, n))
        found.append(torch.stack([d.norm(dim=-1), torch.atan2((b * b + c * c).sqrt(), a), torch.atan2(c, b)], -1))
    return torch.cat(found, 1) if found else x.new_zeros(len(x), 0, 3)


def place(X: Tensor, z: ZMatrix, length: Tensor, direction: Tensor) -> Tensor:
    """(S, N, 3) atoms from lengths (S, N - B) and :func:`directions` (S, N - B, 3)."""
    B = X.shape[1]
    n = length.shape[1] + B
    points: dict[int, Tensor] = {n + b: X[:, b] for b in range(B)}
    points |= {int(root): X[:, b] for b, root in enumerate(z.roots)}
    start = 0
    for level in z.levels:
        k = slice(start, start + len(level.atoms))
        p, g, r = (torch.stack([points[int(i)] for i in ids], 1) for ids in (level.parents, level.grandparents, level.references))
        u, m, w = _frame(p, g, r)
        a, b, c = direction[:, k].unbind(-1)
        new = p + length[:, k, None] * (a[..., None] * u + b[..., None] * m + c[..., None] * w)
        points |= {int(i): new[:, row] for row, i in enumerate(level.atoms)}
        start = k.stop
    return torch.stack([points[i] for i in range(n)], 1)


def _frame(p: Tensor, g: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unit vectors: from p to g, in the plane of r towards it, and normal to both."""
    u = torch.nn.functional.normalize(g - p, dim=-1, eps=1e-6)
    n = torch.nn.functional.normalize(torch.linalg.cross(r - g, u, dim=-1), dim=-1, eps=1e-6)
    return u, torch.linalg.cross(u, n, dim=-1), n


def _order(members: list[int], near: list[list[int]], weights: Tensor) -> list[tuple[int, int | None]]:
    """Atoms of a bead with the atom that each is placed from, breadth first from the best connected (or the only mapped) one; what hangs
    together through other beads only is placed from the first atom."""
    inside = set(members)
    mapped = [a for a in members if weights[a] != 0]
    root = (
        mapped[0] if len(mapped) == 1 else max(members, key=lambda a: (len([b for b in near[a] if b in inside]), len(near[a]), -a))
    )
    order: list[tuple[int, int | None]] = [(root, None)]
    seen, queue = {root}, deque([root])
    while len(order) < len(members):
        if not queue:
            lost = next(a for a in members if a not in seen)
            order.append((lost, root))
            seen.add(lost)
            queue.append(lost)
            continue
        a = queue.popleft()
        for b in sorted(near[a], key=lambda k: (-len(near[k]), k)):
            if b in inside and b not in seen:
                order.append((b, a))
                seen.add(b)
                queue.append(b)
    return order


def _depth(atom: int, parent_of: dict[int, int | None]) -> int:
    depth = 0
    while (up := parent_of[atom]) is not None:
        atom, depth = up, depth + 1
    return depth


def _refer(
    parent: int, parent_of: dict[int, int | None], placed: list[int], near: list[list[int]], first: int, second: int
) -> tuple[int, int, int]:
    """Parent, grandparent and reference: atoms where there are some, preferably a sibling, else beads."""
    grand = parent_of[parent]
    siblings = [a for a in placed if parent_of[a] == parent]
    if grand is None:
        if siblings:
            return parent, siblings[0], first
        return parent, first, second
    if siblings:
        return parent, grand, siblings[0]
    great = parent_of[grand]
    others = [a for a in placed if parent_of[a] == grand and a != parent]
    return parent, grand, great if great is not None else others[0] if others else first


def _reference_beads(beads: Tensor, bead: int) -> tuple[int, int]:
    """The two beads of the best angle with this one: largest tenth percentile of its sine, near ones first among equals.

    Raises:
        ValueError: if all are on a line with it.
    """
    B = beads.shape[1]
    apart = beads - beads[:, bead : bead + 1]
    distance = apart.norm(dim=-1).mean(0)
    close = [k for k in torch.argsort(distance).tolist() if k != bead][:4]
    best, pair = 0.0, None
    for position, i in enumerate(close):
        for j in close[position + 1 :]:
            sine = torch.linalg.cross(apart[:, i], apart[:, j]).norm(dim=-1) / (
                apart[:, i].norm(dim=-1) * apart[:, j].norm(dim=-1)
            ).clamp(min=1e-6)
            value = float(sine.quantile(0.1)) / (1 + 0.1 * float(distance[i] + distance[j]))
            if value > best:
                best, pair = value, (i, j)
    if pair is None or B < 3:
        raise ValueError(f"bead {bead} lies on a line with its neighbours in all structures: there is no frame to place atoms in")
    return pair
