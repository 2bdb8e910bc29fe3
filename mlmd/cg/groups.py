"""Groups of atoms from a bond graph: molecules, fragments, and the partitions that people make by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import mdtraj

Bonds = Iterable[tuple[int, int]]


def neighbours(n: int, bonds: Bonds) -> list[list[int]]:
    """Bonded atoms of every atom, ascending."""
    out: list[set[int]] = [set() for _ in range(n)]
    for i, j in bonds:
        out[i].add(j)
        out[j].add(i)
    return [sorted(s) for s in out]


def components(n: int, bonds: Bonds) -> list[list[int]]:
    """Connected sets of atoms, each ascending, ordered by their first atom."""
    adjacent, seen, found = neighbours(n, bonds), [False] * n, []
    for root in range(n):
        if seen[root]:
            continue
        seen[root], members = True, [root]
        for i in members:
            fresh = [j for j in adjacent[i] if not seen[j]]
            for j in fresh:
                seen[j] = True
            members += fresh
        found.append(sorted(members))
    return found


def fragments(assignment: Sequence[int] | np.ndarray, bonds: Bonds) -> dict[int, int]:
    """Number of connected pieces of every bead; 1 means that its atoms hang together."""
    label = [int(a) for a in assignment]
    inside = [(i, j) for i, j in bonds if label[i] == label[j]]
    count: dict[int, int] = {}
    for piece in components(len(label), inside):
        if label[piece[0]] >= 0:
            count[label[piece[0]]] = count.get(label[piece[0]], 0) + 1
    return count


def identical_molecules(topology: mdtraj.Topology) -> int:
    """Number of molecules if they all are copies of the first, one after the other; else 1.

    Molecules are the connected sets of the bond graph. Copies have the same elements and bonds in the same order. A topology
    without any bond says nothing about molecules and counts as one.
    """
    bonds = [(min(a.index, b.index), max(a.index, b.index)) for a, b in topology.bonds]
    if not bonds:
        return 1
    n, parts = topology.n_atoms, components(topology.n_atoms, bonds)
    size = len(parts[0])
    if any(p != list(range(k * size, (k + 1) * size)) for k, p in enumerate(parts)):
        return 1
    kind = np.array([0 if a.element is None else a.element.number for a in topology.atoms]).reshape(-1, size)
    inside: list[set[tuple[int, int]]] = [set() for _ in range(n // size)]
    for i, j in bonds:
        inside[i // size].add((i % size, j % size))
    same = bool((kind == kind[0]).all()) and all(b == inside[0] for b in inside)
    return n // size if same else 1


def nearest_seed(n: int, bonds: Bonds, seeds: Sequence[int]) -> np.ndarray:
    """Index of the nearest seed along bonds for every atom (ties to the earlier seed), -1 where none can be reached."""
    adjacent, label = neighbours(n, bonds), np.full(n, -1)
    label[list(seeds)] = np.arange(len(seeds))
    queue = list(seeds)
    for i in queue:
        for j in adjacent[i]:
            if label[j] < 0:
                label[j] = label[i]
                queue.append(j)
    return label


def shortest_path(n: int, bonds: Bonds, start: int) -> dict[int, list[int]]:
    """A shortest path along bonds from ``start`` to every atom that can be reached."""
    adjacent, path, queue = neighbours(n, bonds), {start: [start]}, [start]
    for i in queue:
        for j in adjacent[i]:
            if j not in path:
                path[j] = [*path[i], j]
                queue.append(j)
    return path


def united_atoms(elements: Sequence[int], bonds: Bonds) -> list[tuple[int, int]]:
    """Bonds to hydrogens: pairs that make every hydrogen stay with its heavy atom."""
    return [(i, j) for i, j in bonds if (elements[i] == 1) != (elements[j] == 1)]


def sequence_groups(n: int, n_beads: int) -> list[list[int]]:
    """Runs of consecutive atoms, as equally long as possible."""
    return [list(map(int, part)) for part in np.array_split(np.arange(n), n_beads)]


def random_groups(n: int, n_beads: int, seed: int) -> list[list[int]]:
    """A random partition without empty beads: not connected, sizes multinomial above one."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(n)
    label = np.concatenate([np.arange(n_beads), rng.integers(n_beads, size=n - n_beads)])
    return _sorted_groups([sorted(int(a) for a in order[label == b]) for b in range(n_beads)])


def random_connected_groups(n: int, bonds: Bonds, n_beads: int, seed: int) -> list[list[int]]:
    """A random partition into connected beads: random bonds are contracted until ``n_beads`` pieces are left (Karger)."""
    rng, bonds = np.random.default_rng(seed), list(bonds)
    if len(components(n, bonds)) > n_beads:
        raise ValueError(f"n_beads={n_beads} is less than the number of molecules: connected beads cannot join them")
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    left = n
    for k in rng.permutation(len(bonds)):
        i, j = (root(a) for a in bonds[k])
        if left > n_beads and i != j:
            parent[j], left = i, left - 1
    return _sorted_groups([[a for a in range(n) if root(a) == r] for r in range(n) if root(r) == r])


def backbone_groups(elements: Sequence[int], bonds: Bonds, n_beads: int) -> list[list[int]]:
    """Pieces of the main chain with what hangs on it.

    The main chain is a longest shortest path between heavy atoms. Every other atom follows the chain atom that is nearest along
    bonds. Up to one bead per chain atom, the chain is cut into pieces of nearly equal numbers of atoms (least sum of squares).
    Beyond that, side atoms are split off one by one: heavy ones first, then polar hydrogens, then the others.

    Args:
        elements: (n,) atomic numbers; bonds: pairs of atoms; n_beads: how many groups.
    """
    n, bonds = len(elements), list(bonds)
    heavy = {i for i in range(n) if elements[i] != 1} or set(range(n))
    heavy_bonds = [b for b in bonds if b[0] in heavy and b[1] in heavy]
    ends = (max(shortest_path(n, heavy_bonds, i).values(), key=len) for i in sorted(heavy))
    chain = max(ends, key=len)
    unit = nearest_seed(n, bonds, chain)
    if (unit < 0).any():
        raise ValueError(
            f"atom {int(np.argmin(unit))} is not bonded to the main chain: backbone needs one connected molecule; select the atoms of one "
            'molecule or of equal ones (select="not water", for instance), or give a topology with all bonds'
        )
    if n_beads <= len(chain):
        piece = np.repeat(np.arange(n_beads), _balanced([int((unit == u).sum()) for u in range(len(chain))], n_beads))
        return [[a for a in range(n) if piece[unit[a]] == b] for b in range(n_beads)]
    return _split_off(chain, unit, elements, bonds, n_beads - len(chain))


def _split_off(chain: list[int], unit: np.ndarray, elements: Sequence[int], bonds: list, extra: int) -> list[list[int]]:
    n, adjacent = len(unit), neighbours(len(unit), bonds)
    polar = {a for a in range(n) if elements[a] == 1 and any(elements[b] != 6 for b in adjacent[a])}
    side = [a for a in range(n) if a not in chain]
    side.sort(key=lambda a: (0 if elements[a] != 1 else 1 if a in polar else 2, a))
    seeds = chain + side[:extra]
    owner = nearest_seed(n, bonds, seeds)
    return _sorted_groups([[a for a in range(n) if owner[a] == s] for s in range(len(seeds))])


def _balanced(sizes: list[int], k: int) -> list[int]:
    """Lengths of k runs of ``sizes`` with the least sum of squared totals (dynamic programming)."""
    n, prefix = len(sizes), np.concatenate([[0], np.cumsum(sizes)])
    best = np.full((k + 1, n + 1), np.inf)
    cut = np.zeros((k + 1, n + 1), dtype=int)
    best[0, 0] = 0
    for b in range(1, k + 1):
        for end in range(b, n + 1):
            cost = [best[b - 1, s] + (prefix[end] - prefix[s]) ** 2 for s in range(b - 1, end)]
            cut[b, end] = b - 1 + int(np.argmin(cost))
            best[b, end] = min(cost)
    ends = [n]
    for b in range(k, 0, -1):
        ends.append(int(cut[b, ends[-1]]))
    return [int(x) for x in np.diff(ends[::-1])]


def _sorted_groups(groups: list[list[int]]) -> list[list[int]]:
    return sorted(groups, key=lambda g: g[0])
