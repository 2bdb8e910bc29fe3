"""``compare``: a simulated bead model beside its reference, distribution by distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlmd.analysis.convergence import Verdict, halves, start_forgotten
from mlmd.analysis.coordinates import choose_torsions, term_name
from mlmd.analysis.divergence import JSFloor, jensen_shannon, js_floor
from mlmd.analysis.fes import FES, difference, spread, surface_of
from mlmd.analysis.populations import Population, Region, population, population_difference
from mlmd.cell import make_whole, widths
from mlmd.frames import Frames
from mlmd.observables.blocks import Array, as_array
from mlmd.observables.coordinates import Coordinate
from mlmd.observables.geometry import distances
from mlmd.observables.histogram import Density1D, density, overlap
from mlmd.observables.rdf import RDF, distance_density, rdf
from mlmd.observables.terms import Terms, internal_terms

__all__ = ["Comparison", "Overlay", "SurfaceComparison", "choose_torsions", "compare"]

TOO_SHORT = Verdict(False, "Cannot tell whether the run has converged: it holds fewer than 4 times.")


@dataclass(frozen=True, eq=False)
class Overlay:
    """One distribution twice on the same bins; ``kind`` is bond, angle, dihedral, rg, distance; ``quantity`` a key of units.SHOWN."""

    name: str
    kind: str
    quantity: str
    reference: Density1D
    simulated: Density1D

    @property
    def overlap(self) -> float:
        return overlap(self.reference, self.simulated)

    @property
    def js(self) -> float:
        """JS of the two; what lies outside the edges counts as one more bin."""
        return jensen_shannon(*(np.append(d.density * d.widths, d.outside) for d in (self.reference, self.simulated)))

    @property
    def js_noise(self) -> float:
        """JS to expect from the block errors alone: sum_b (se_ref^2 + se_sim^2) / (8 p_b), the second order of JS in the difference."""
        a, b, w = self.reference, self.simulated, self.reference.widths
        p = (a.density + b.density) / 2
        seen = p > 0
        return float((((a.error**2 + b.error**2) * w)[seen] / (8 * p[seen])).sum())


@dataclass(frozen=True, eq=False)
class SurfaceComparison:
    """Free energy over two coordinates: both surfaces, their difference (simulated - reference), JS and its floor."""

    coordinates: tuple[Coordinate, Coordinate]
    reference: FES
    simulated: FES
    difference: Array
    difference_error: Array
    js: float
    floor: JSFloor
    populations: tuple[tuple[Population, Population], ...]
    reference_halves: Verdict
    simulated_halves: Verdict
    start: Verdict | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything that is laid over the reference; ``surface`` is None for single-bead molecules, ``rdfs`` is empty without a box or with one molecule in it."""

    kT: float
    overlays: tuple[Overlay, ...]
    rdfs: dict[str, tuple[RDF, RDF]]
    surface: SurfaceComparison | None
    n_reference: int
    n_simulated: int
    replicas: int

    def overlay(self, name: str) -> Overlay:
        """The distribution of that name."""
        for o in self.overlays:
            if o.name == name:
                return o
        raise ValueError(f"no distribution is called {name!r}; there are {[o.name for o in self.overlays]}")

    def summary(self) -> dict[str, Any]:
        """Plain numbers with errors and sample sizes, ready for JSON."""
        out: dict[str, Any] = {"kT_eV": self.kT, "n_reference": self.n_reference, "n_simulated": self.n_simulated}
        out["replicas"] = self.replicas
        out["distributions"] = {o.name: _overlay_numbers(o) for o in self.overlays}
        out["rdf"] = {name: _rdf_numbers(*pair) for name, pair in self.rdfs.items()}
        if self.surface is not None:
            out["surface"] = _surface_numbers(self.surface)
        return out


def compare(
    reference: Frames,
    simulated: Tensor | Frames,
    *,
    kT: float | None = None,
    terms: Terms | None = None,
    cvs: tuple[Coordinate, Coordinate] | None = None,
    regions: Sequence[Region] | None = None,
    start: Region | None = None,
    cell: Tensor | None = None,
    r_max: float | None = None,
    discard: float = 0.0,
    bins: int = 60,
    n_blocks: int = 10,
    seed: int = 0,
) -> Comparison:
    """Lay a simulation of beads over reference bead frames.

    Identical molecules that lie one after the other are each taken as a replica for everything within a molecule.

    Args:
        reference: bead frames with bonds in their topology; kT: eV, default that of the reference.
        simulated: positions (T, R, n, 3) in A, time first, replicas second, unwrapped; or (T, n, 3), or Frames.
        terms: bonds, angles and dihedrals of one molecule, default those of the bonds.
        cvs: two coordinates of one molecule for the free energy surface, default :func:`choose_torsions`.
        regions: of the two coordinates, default each positive half (dihedrals) or upper half (others).
        start: region in which all replicas began, default the smallest region (or complement) that holds all first frames.
        cell: (3, 3) of the simulation, A, default that of the first reference frame; r_max: of g(r), A, default half the box width.
        discard: part of the simulated times left out at the beginning, 0 <= discard < 1; only the memory of the start is judged on all.

    Raises:
        ValueError: bead counts differ, no kT, positions not finite.
    """
    kT = reference.kT if kT is None else kT
    if kT is None:
        raise ValueError("kT is missing: give it in eV (300 * mlmd.units.kelvin) or set it in the reference frames")
    x, box = _simulated(simulated, reference, cell)
    ref = _reference_molecules(reference)
    whole = _molecules(x, box, reference)
    if not 0 <= discard < 1:
        raise ValueError(f"discard={discard}: the part of the run to leave out must be at least 0 and below 1")
    first = int(discard * len(x))
    x, sim, n = x[first:], whole[first:], ref.shape[-2]
    terms = internal_terms(n, [b for b in reference.bonds if max(b) < n]) if terms is None else terms
    names = [a.name for a in list(reference.topology.atoms)[:n]]
    overlays = _overlays(ref, sim, terms, names, bins, n_blocks)
    surface = None
    if n > 1:
        cvs = choose_torsions(ref, terms, names) if cvs is None else cvs
        surface = _surface(ref, whole, first, cvs, kT, regions, start, bins, n_blocks, seed)
    alone = n == reference.n_atoms and bool(reference.bonds)  # g(r) of one molecule in its box says nothing beyond its distances
    rdfs = _rdfs(reference, x, box, r_max, n_blocks) if reference.periodic and not alone else {}
    size = len(reference) * (reference.n_atoms // n)
    return Comparison(kT, tuple(overlays), rdfs, surface, size, x.shape[0] * x.shape[1] * (x.shape[2] // n), x.shape[1])


def _simulated(simulated: Tensor | Frames, reference: Frames, cell: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if isinstance(simulated, Frames):
        cell = simulated.cell[0] if cell is None and simulated.cell is not None else cell
        simulated = simulated.positions
    x = torch.as_tensor(simulated).detach().cpu()
    x = x[:, None] if x.ndim == 3 else x
    if x.ndim != 4 or x.shape[-1] != 3 or x.numel() == 0:
        raise ValueError(f"simulated has shape {tuple(x.shape)}, expected (times, replicas, beads, 3), not empty")
    if x.shape[2] != reference.n_atoms:
        raise ValueError(f"simulated holds {x.shape[2]} beads and the reference {reference.n_atoms}: they must be the same beads")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("simulated holds positions that are not finite: cut the run at the last good frame")
    cell = reference.cell[0] if cell is None and reference.cell is not None else cell
    return x, cell


def _reference_molecules(frames: Frames) -> Tensor:
    """(F, n, 3) of one molecule, or (F, M, n, 3) of M identical ones, whole."""
    x = frames.positions.detach().cpu().double()
    if frames.cell is not None and frames.bonds:
        x = make_whole(x, frames.cell.cpu().double(), frames.bonds)
    n = molecule_size(frames.n_atoms, frames.bonds)
    return x if n == frames.n_atoms else x.reshape(len(x), -1, n, 3)


def _molecules(x: Tensor, cell: Tensor | None, reference: Frames) -> Tensor:
    """(T, R M, n, 3): every molecule of every replica."""
    t, r, total, _ = x.shape
    x = x.double()
    if cell is not None and reference.bonds:
        flat = x.reshape(t * r, total, 3)
        x = make_whole(flat, torch.as_tensor(cell).double().cpu().expand(t * r, 3, 3), reference.bonds)
    n = molecule_size(total, reference.bonds)
    return x.reshape(t, r * (total // n), n, 3)


def molecule_size(n: int, bonds: Sequence[tuple[int, int]]) -> int:
    """Particles per molecule if all molecules are alike and lie one after the other, else ``n`` (taken as one)."""
    wanted = {(min(b), max(b)) for b in bonds}
    for size in (d for d in range(1, n) if n % d == 0):
        unit = [b for b in wanted if max(b) < size]
        if len(unit) * (n // size) == len(wanted) and {(i + s, j + s) for i, j in unit for s in range(0, n, size)} == wanted:
            return size if wanted or size == 1 else n
    return n


def _overlays(ref: Tensor, sim: Tensor, terms: Terms, names: list[str], bins: int, n_blocks: int) -> list[Overlay]:
    coordinates = [Coordinate("distance", tuple(t), term_name("bond", t, names)) for t in terms.bonds.tolist()]
    coordinates += [Coordinate("angle", tuple(t), term_name("angle", t, names)) for t in terms.angles.tolist()]
    coordinates += [Coordinate("dihedral", tuple(t), term_name("dihedral", t, names)) for t in terms.dihedrals.tolist()]
    out = [_overlay(c, ref, sim, bins, n_blocks) for c in coordinates]
    if ref.shape[-2] > 1:
        out.append(_overlay(Coordinate("rg", (), "radius of gyration"), ref, sim, bins, n_blocks))
    return out + _distance_overlays(ref, sim, terms, names, bins, n_blocks)


def _overlay(c: Coordinate, ref: Tensor, sim: Tensor, bins: int, n_blocks: int) -> Overlay:
    a, b = as_array(c(ref)), as_array(c(sim))
    limits = c.limits or shared_limits(a, b)
    both = [density(v, bins=bins, limits=limits, periodic=c.periodic, n_blocks=n_blocks) for v in (a, b)]
    kind = c.name.split()[0] if c.kind == "distance" else c.kind
    return Overlay(c.name, kind, c.quantity, *both)


def _distance_overlays(ref: Tensor, sim: Tensor, terms: Terms, names: list[str], bins: int, n_blocks: int) -> list[Overlay]:
    """Distances of beads at least three bonds apart, pooled by the names of the two beads."""
    near = {tuple(b) for b in terms.bonds.tolist()} | {(min(i, k), max(i, k)) for i, _, k in terms.angles.tolist()}
    groups: dict[str, list[tuple[int, int]]] = {}
    for i in range(len(names)):
        for j in range(i + 1, len(names)):
            if (i, j) not in near:
                groups.setdefault("distance " + "-".join(sorted((names[i], names[j]))), []).append((i, j))
    out = []
    for name, pairs in groups.items():
        limits = shared_limits(*(as_array(distances(x, pairs)) for x in (ref, sim)))
        both = [distance_density(x, pairs, bins=bins, limits=limits, n_blocks=n_blocks) for x in (ref, sim)]
        out.append(Overlay(name, "distance", "length", *both))
    return out


def shared_limits(reference: Array, simulated: Array) -> tuple[float, float]:
    """Range of both sets, but at most three times as wide as that of the reference: a runaway must not flatten the picture."""
    low, high = spread(reference)
    both = spread(reference, simulated)
    return max(both[0], 2 * low - high), min(both[1], 2 * high - low)


def _surface(
    ref: Tensor,
    whole: Tensor,
    first: int,
    cvs: tuple[Coordinate, Coordinate],
    kT: float,
    regions: Sequence[Region] | None,
    start: Region | None,
    bins: int,
    n_blocks: int,
    seed: int,
) -> SurfaceComparison:
    a, run = tuple(as_array(c(ref)) for c in cvs), tuple(as_array(c(whole)) for c in cvs)
    b = tuple(v[first:] for v in run)
    periodic = (cvs[0].periodic, cvs[1].periodic)
    ranges = tuple(None if turns else shared_limits(u, v) for u, v, turns in zip(a, b, periodic))
    grid: dict[str, Any] = dict(bins=bins, periodic=periodic, ranges=ranges)
    fes = [surface_of(v[0], v[1], kT=kT, n_blocks=n_blocks, **grid) for v in (a, b)]
    regions = default_regions(cvs, a) if regions is None else list(regions)
    start = _inferred_start(regions, a, run) if start is None else start
    replicas = run[0].shape[1] > 1 and len(run[0]) >= 8
    return SurfaceComparison(
        cvs,
        fes[0],
        fes[1],
        *_difference(fes[1], fes[0]),
        jensen_shannon(*(np.append(f.counts, v[0].size - f.counts.sum()) for f, v in zip(fes, (a, b)))),
        js_floor((a[0], a[1]), b[0].size, seed=seed, **grid),
        tuple((population(r, a, n_blocks=n_blocks), population(r, b, n_blocks=n_blocks)) for r in regions),
        _halves(a, regions, seed, grid),
        _halves(b, regions, seed, grid),
        start_forgotten(run, start) if replicas and start is not None else None,
    )


def _halves(values: tuple[Array, ...], regions: Sequence[Region], seed: int, grid: dict[str, Any]) -> Verdict:
    return halves(values[0], values[1], regions=regions, seed=seed, **grid) if len(values[0]) >= 4 else TOO_SHORT


def _difference(a: FES, b: FES) -> tuple[Array, Array]:
    """As :func:`difference`, all nan where the surfaces share no bin."""
    if not ((a.counts > 0) & (b.counts > 0)).any():
        return np.full(a.counts.shape, np.nan), np.full(a.counts.shape, np.nan)
    return difference(a, b)


def default_regions(cvs: tuple[Coordinate, Coordinate], values: Sequence[Array]) -> list[Region]:
    """The positive half of a dihedral, the upper half (above the reference median) of anything else."""
    out = []
    for k, (c, v) in enumerate(zip(cvs, values)):
        low = 0.0 if c.periodic else float(np.median(v))
        bound = (low, float(np.pi) if c.periodic else float("inf"))
        name = f"{c.name} > 0" if c.periodic else f"{c.name} > {low:.3g}"
        out.append(Region(name, (bound, None) if k == 0 else (None, bound)))
    return out


def _inferred_start(regions: Sequence[Region], ref: Sequence[Array], sim: Sequence[Array]) -> Region | None:
    """The region or complement, smallest in the reference, that holds every first frame; None if the starts are spread."""
    candidates = [*regions, *(c for r in regions if (c := r.complement()) is not None)]
    holding = [r for r in candidates if r.contains(*(v[0] for v in sim)).all()]
    return min(holding, key=lambda r: float(r.contains(*ref).mean())) if holding else None


def _rdfs(reference: Frames, x: Tensor, cell: Tensor | None, r_max: float | None, n_blocks: int) -> dict[str, tuple[RDF, RDF]]:
    assert reference.cell is not None and cell is not None
    cell = torch.as_tensor(cell).double()
    largest = 0.5 * min(float(widths(reference.cell.double()).min()), float(widths(cell).min()))
    r_max = largest * (1 - 1e-9) if r_max is None else r_max
    terms = internal_terms(reference.n_atoms, reference.bonds)
    exclude = [tuple(b) for b in terms.bonds.tolist()] + [(i, k) for i, _, k in terms.angles.tolist()]
    labels = [a.name for a in reference.topology.atoms]
    kinds = sorted(set(labels))
    types = torch.tensor([kinds.index(s) for s in labels])
    out = {}
    for a in range(len(kinds)):
        for b in range(a, len(kinds)):
            if not _pairs_left(types, a, b, exclude):
                continue
            both = [
                rdf(f, c, r_max=r_max, types=types, between=(a, b), exclude=exclude, n_blocks=n_blocks)
                for f, c in ((reference, None), (x, cell))
            ]
            out[f"{kinds[a]}-{kinds[b]}"] = (both[0], both[1])
    return out


def _pairs_left(types: Tensor, a: int, b: int, exclude: list[tuple[int, ...]]) -> bool:
    """Whether any pair of these two types remains without the excluded ones."""
    total = int((types == a).sum()) * int((types == b).sum())
    if a == b:
        total = (total - int((types == a).sum())) // 2
    left_out = {tuple(sorted(p)) for p in exclude if sorted((int(types[p[0]]), int(types[p[1]]))) == [a, b]}
    return total > len(left_out)


def _overlay_numbers(o: Overlay) -> dict[str, Any]:
    return {
        "kind": o.kind,
        "overlap": o.overlap,
        "js": o.js,
        "js_noise": o.js_noise,
        "n_reference": o.reference.n_samples,
        "n_simulated": o.simulated.n_samples,
    }


def _rdf_numbers(reference: RDF, simulated: RDF) -> dict[str, float]:
    """Mean and largest |g difference|, and the mean combined standard error."""
    d = np.abs(simulated.g - reference.g)
    error = np.hypot(reference.error, simulated.error)
    return {"mean_abs_difference": float(d.mean()), "max_abs_difference": float(d.max()), "mean_error": float(np.nanmean(error))}


def _surface_numbers(s: SurfaceComparison) -> dict[str, Any]:
    shared = np.isfinite(s.difference)
    weight = s.reference.probability[shared]
    rms = float(np.sqrt(np.average(s.difference[shared] ** 2, weights=weight))) if shared.any() else None
    populations = {}
    for a, b in s.populations:
        change, error = population_difference(b, a)
        populations[a.name] = {"reference": asdict(a), "simulated": asdict(b), "difference_points": change, "error_points": error}
    return {
        "coordinates": [c.name for c in s.coordinates],
        "js": s.js,
        "floor": asdict(s.floor),
        "rms_difference_eV": rms,
        "shared_bins": int(shared.sum()),
        "populations": populations,
        "reference_halves": asdict(s.reference_halves),
        "simulated_halves": asdict(s.simulated_halves),
        "start": None if s.start is None else asdict(s.start),
    }
