"""Which two coordinates of a molecule to look at, when nobody said."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mlmd.analysis.blocks import statistical_inefficiency
from mlmd.frames import Frames
from mlmd.observables.blocks import Array, as_array
from mlmd.observables.coordinates import Coordinate
from mlmd.observables.geometry import angles, dihedrals, distances
from mlmd.observables.terms import Terms, neighbours


def choose_torsions(reference: Frames | Tensor, terms: Terms, names: Sequence[str] | None = None) -> tuple[Coordinate, Coordinate]:
    """The two dihedrals of a bead graph that carry most slow or multimodal motion; with fewer, angles and distances.

    Every rotatable (central) bond is scored by g (V_between + V / 10) of its most telling dihedral, where V = 1 - |<e^{i phi}>|^2 is the
    circular variance, V_between the part of it between the basins of the smoothed density (zero if unimodal or uniform), and g the
    statistical inefficiency of e^{i phi} (1 for frames without order in time, cut at 20). The two best bonds are taken in the order of the
    chain; of the dihedrals about one bond the one whose ends lead to the longer branches stands for it, then the lowest indices.

    One dihedral: it and the angle of largest variance. None: the angle and the bond of largest variance. No angle: end-to-end
    distance and radius of gyration.

    Args:
        reference: bead frames of one molecule, or positions (F, n, 3) or (T, R, n, 3); names: of the beads, for labels.
    """
    x = (reference.positions if isinstance(reference, Frames) else reference).detach()
    n = x.shape[-2]
    if n < 2:
        raise ValueError("a single bead has no internal coordinate")
    if isinstance(reference, Frames) and names is None:
        names = [a.name for a in reference.topology.atoms]
    names = [str(i) for i in range(n)] if names is None else list(names)
    chosen = [Coordinate("dihedral", q, term_name("dihedral", q, names)) for q in _best_dihedrals(x, terms)]
    if len(chosen) < 2:
        chosen += [Coordinate("angle", t, term_name("angle", t, names)) for t in _widest(terms.angles, angles(x, terms.angles))[:1]]
    if len(chosen) < 2 and len(terms.angles):
        chosen += [
            Coordinate("distance", t, term_name("bond", t, names)) for t in _widest(terms.bonds, distances(x, terms.bonds))[:1]
        ]
    if len(chosen) < 2:
        chosen = [Coordinate("distance", (0, n - 1), "end-to-end distance"), Coordinate("rg", (), "radius of gyration")]
    return chosen[0], chosen[1]


def torsion_score(phi: Array) -> float:
    """g (V_between + V / 10) of samples (T,) or (T, R) of a dihedral in radian; see :func:`choose_torsions`."""
    z = np.exp(1j * phi)
    mean = z.mean()
    variance = 1 - abs(mean) ** 2
    between = 0.0
    basin = basins(phi)
    for k in range(int(basin.max()) + 1):
        members = z[basin == k]
        if members.size:
            between += members.size / z.size * abs(members.mean() - mean) ** 2
    flat = phi.reshape(len(phi), -1)
    g = min(20.0, statistical_inefficiency(np.stack([np.cos(flat), np.sin(flat)], -1)))
    return float(g * (between + 0.1 * variance))


def basins(phi: Array, *, bins: int = 72, width: float = 0.25, barrier: float = 0.5) -> np.ndarray:
    """Basin number of each sample: the circle cut at minima of the density smoothed by a Gaussian of ``width`` radian.

    Minima less than ``barrier`` kT below both neighbouring maxima do not count.
    """
    edges = np.linspace(-np.pi, np.pi, bins + 1)
    counts = np.histogram(np.mod(phi.ravel() + np.pi, 2 * np.pi) - np.pi, edges)[0]
    k = np.fft.rfftfreq(bins, 2 * np.pi / bins) * 2 * np.pi
    smooth = np.fft.irfft(np.fft.rfft(counts) * np.exp(-0.5 * (k * width) ** 2), bins)
    f = -np.log(np.maximum(smooth / smooth.max(), 1e-4))  # below 1e-4 of the peak one bin is as empty as another
    cuts = _barriers(f, barrier)
    index = np.clip(np.floor((np.mod(phi + np.pi, 2 * np.pi)) * bins / (2 * np.pi)).astype(int), 0, bins - 1)
    return np.searchsorted(cuts, index, side="right") % max(1, len(cuts)) if len(cuts) > 1 else np.zeros(phi.shape, dtype=int)


def _barriers(f: Array, height: float) -> np.ndarray:
    """Positions of the maxima of a periodic profile that remain after merging basins separated by less than ``height``."""
    n = len(f)
    tops = [i for i in range(n) if f[i] >= f[i - 1] and f[i] > f[(i + 1) % n]]
    while len(tops) > 1:
        depth = []
        for k, top in enumerate(tops):
            before, after = tops[k - 1], tops[(k + 1) % len(tops)]
            depth.append(f[top] - max(_lowest(f, before, top), _lowest(f, top, after)))
        worst = int(np.argmin(depth))
        if depth[worst] >= height:
            break
        tops.pop(worst)
    return np.array(tops, dtype=int)


def _lowest(f: Array, start: int, stop: int) -> float:
    span = np.arange(start, stop if stop > start else stop + len(f)) % len(f)
    return float(f[span].min())


def _best_dihedrals(x: Tensor, terms: Terms) -> list[tuple[int, ...]]:
    quads = [tuple(q) for q in terms.dihedrals.tolist()]
    if not quads:
        return []
    phi = as_array(dihedrals(x, quads))
    scores: dict[tuple[int, ...], float] = {}
    members: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for k, q in enumerate(quads):
        centre = q[1:3]
        scores[centre] = max(scores.get(centre, 0.0), torsion_score(phi[..., k]))
        members.setdefault(centre, []).append(q)
    best = sorted(sorted(scores, key=lambda c: (-scores[c], c))[:2])
    near = neighbours(x.shape[-2], [(int(i), int(j)) for i, j in terms.bonds.tolist()])
    return [min(members[c], key=lambda q: (-_branch(near, q[1], q[0]) - _branch(near, q[2], q[3]), q)) for c in best]


def _branch(near: list[list[int]], stem: int, first: int) -> int:
    """Particles reached from ``first`` without passing ``stem``."""
    seen, queue = {stem, first}, [first]
    for i in queue:
        new = [j for j in near[i] if j not in seen]
        seen.update(new)
        queue.extend(new)
    return len(queue)


def _widest(index: Tensor, values: Tensor) -> list[tuple[int, ...]]:
    """Terms by falling variance, ties by index."""
    if len(index) == 0:
        return []
    variance = values.double().reshape(-1, len(index)).var(0, unbiased=False)
    order = torch.sort(variance, descending=True, stable=True).indices
    return [tuple(index[k].tolist()) for k in order]


def term_name(kind: str, term: Sequence[int], names: Sequence[str]) -> str:
    """``kind A-B-C`` of the beads' names, numbered where a name is not unique."""
    shown = [names[i] if list(names).count(names[i]) == 1 else f"{names[i]}{i}" for i in term]
    return f"{kind} {'-'.join(shown)}"
