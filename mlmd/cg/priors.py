"""Prior potentials of a bead molecule by Boltzmann inversion, with the measure of every coordinate taken into account."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mlmd.cg.groups import components
from mlmd.frames import Frames
from mlmd.observables.terms import Terms, internal_terms, neighbours
from mlmd.potentials.bonded import Bonded, CosineAngles, FourierDihedrals, HarmonicAngles, HarmonicBonds, Law, PowerRepulsion
from mlmd.potentials.internal import InternalCoordinates

GRID = 2000  # quadrature points
MIN_FRAMES = 100
NEARLY_LINEAR = np.radians(170.0)


@dataclass(frozen=True, eq=False)
class PriorTerm:
    """One fitted term, for the diagnostic plots: the histogram of the data and the fitted density on ``q``."""

    name: str
    kind: str
    beads: tuple[int, ...]
    q: np.ndarray
    data_density: np.ndarray
    fit_density: np.ndarray
    parameters: dict[str, float]


@dataclass(frozen=True, eq=False)
class Priors:
    """The fitted potential, the coordinates it acts on, and a report of every term."""

    potential: Bonded
    terms: Terms
    report: list[PriorTerm] = field(default_factory=list)


def molecule_coordinates(n: int, bonds: list[tuple[int, int]]) -> tuple[InternalCoordinates, Terms]:
    """All distances of a molecule of n beads, the angles and dihedrals of its bead graph, and then one improper per branch.

    The rows of the dihedrals are first those of ``terms.dihedrals``, then those of :func:`impropers`.
    """
    terms = internal_terms(n, bonds)
    pairs = torch.combinations(torch.arange(n)) if n > 1 else torch.zeros(0, 2, dtype=torch.long)
    return InternalCoordinates(n, pairs, terms.angles, torch.cat([terms.dihedrals, impropers(n, terms.bonds)])), terms


def impropers(n: int, bonds: Tensor) -> Tensor:
    """(K, 4) signed out-of-plane dihedrals (centre, a, b, c) of every bead with three or more neighbours.

    Their sign is the handedness of the branch. Neighbours beyond the third repeat with the first two.
    """
    near = neighbours(n, bonds.tolist())
    rows = [[c, near[c][0], near[c][1], k] for c in range(n) for k in near[c][2:]]
    return torch.tensor(rows, dtype=torch.long).reshape(-1, 4)


def one_per_bond(terms: Terms) -> list[int]:
    """One proper dihedral per central bond, ending in the best-connected beads; the others follow from it by the angles.

    A Fourier term for each of them would count the same rotation several times.
    """
    degree = torch.bincount(terms.bonds.flatten(), minlength=int(terms.bonds.max()) + 1 if len(terms.bonds) else 0)
    best: dict[tuple[int, int], int] = {}
    for row, (i, j, k, l) in enumerate(terms.dihedrals.tolist()):
        axis = (min(j, k), max(j, k))
        rank = int(degree[i] + degree[l])
        if axis not in best or rank > int(degree[terms.dihedrals[best[axis]][[0, 3]]].sum()):
            best[axis] = row
    return sorted(best.values())


def fit_priors(frames: Frames, *, kT: float | None = None, repulsion_power: int = 10, fourier_order: int = 3) -> Priors:
    r"""Priors for bead frames: harmonic bonds and angles, Fourier dihedrals (one per bond) and impropers, and a repulsion between
    pairs more than three bonds apart.

    Every term is the maximum-likelihood member of its family,
    :math:`p(q)\propto J(q)\,e^{-u(q)/kT}` with the Jacobian J = r^2 for distances, sin(theta) for angles and 1 for dihedrals;
    that is, model and data agree in the moments that the parameters couple to. Angles that come close to pi get a
    harmonic in cos(theta), whose measure is flat and whose force is finite there.
    The repulsion :math:`kT(\sigma/r)^p` has sigma at the distance that one frame in a thousand undercuts.

    Args:
        frames: beads of one or several equal, whole molecules (topology with ``n_molecules`` equal residues or one).
        kT: in eV; default: that of the frames.

    Raises:
        ValueError: no temperature, fewer than 100 frames, a molecule of one bead, or one in pieces that no bond joins.
    """
    kT = kT if kT is not None else frames.kT
    if kT is None:
        raise ValueError("kT is unknown: the frames carry no temperature, give kT=300*kelvin for instance")
    n, bonds, x = single_molecules(frames)
    if len(x) < MIN_FRAMES:
        raise ValueError(f"{len(x)} frames are too few to fit priors: at least {MIN_FRAMES} are needed")
    if n < 2:
        raise ValueError(
            "the map has one bead a molecule (n_beads=1), which has no internal coordinates: nothing can be learned; "
            "use at least 2 beads, or another mapping"
        )
    pieces = components(n, bonds)
    if bonds and len(pieces) > 1:
        raise ValueError(
            f"the {n} beads of a molecule are in {len(pieces)} pieces that no bond joins (first: beads {pieces[0][:8]}): nothing would hold them "
            'together; select the atoms of one molecule or of equal ones (select="not water", for instance), or give a topology with all bonds'
        )
    coordinates, terms = molecule_coordinates(n, bonds)
    geometry = coordinates.geometry(x.reshape(-1, 3).double())
    beta = 1 / kT
    report: list[PriorTerm] = []
    laws: list[Law] = []
    row = {tuple(p): k for k, p in enumerate(coordinates.pairs.tolist())}

    bond_rows = [row[tuple(sorted(b))] for b in terms.bonds.tolist()]
    if bond_rows:
        fits = [fit_harmonic(geometry.distances[k].numpy(), beta, power=2) for k in bond_rows]
        report += [_term("bond", "distances", b, f, kT) for b, f in zip(terms.bonds.tolist(), fits)]
        laws.append(HarmonicBonds(bond_rows, *_columns(fits)))
    laws += _angle_laws(geometry.angles.numpy(), terms.angles.tolist(), beta, kT, report)
    turns = [*one_per_bond(terms), *range(len(terms.dihedrals), len(coordinates.quads))]
    if turns:
        series = [fit_fourier(geometry.dihedrals[k].numpy(), beta, fourier_order) for k in turns]
        report += [_dihedral_term(k < len(terms.dihedrals), coordinates.quads[k].tolist(), f) for k, f in zip(turns, series)]
        a, b = (torch.tensor(np.array([getattr(f, c) for f in series])) for c in "ab")
        laws.append(FourierDihedrals(turns, a, b))
    # pairs up to three bonds apart are governed by bonds, angles and dihedrals: a repulsion would count their closeness twice
    near = {tuple(sorted((t[0], t[-1]))) for kind in (terms.bonds, terms.angles, terms.dihedrals) for t in kind.tolist()}
    far = [k for p, k in row.items() if p not in near]
    if far:
        sigma = torch.quantile(_thinned(geometry.distances[far]), 1e-3, dim=1)
        laws.append(PowerRepulsion(far, sigma, epsilon=kT, power=repulsion_power))
    return Priors(Bonded(coordinates, laws).to(torch.float32), terms, report)


def single_molecules(frames: Frames) -> tuple[int, list[tuple[int, int]], Tensor]:
    """(beads per molecule, bonds of one molecule, positions (F * molecules, n, 3)) of frames of equal molecules."""
    molecules = frames.topology.n_residues
    n, rest = divmod(frames.n_atoms, molecules)
    if rest:
        raise ValueError(f"{frames.n_atoms} beads in {molecules} molecules: the molecules are not equal")
    bonds = [b for b in frames.bonds if max(b) < n]
    return n, bonds, frames.positions.reshape(-1, n, 3)


@dataclass(frozen=True, eq=False)
class Harmonic:
    """u = k/2 (q - q0)^2 fitted on a grid, with the two densities on it."""

    k: float
    q0: float
    q: np.ndarray
    data_density: np.ndarray
    fit_density: np.ndarray


def fit_harmonic(
    samples: np.ndarray, beta: float, *, power: int = 0, sine: bool = False, domain: tuple[float, float] | None = None
) -> Harmonic:
    """Maximum likelihood of p(q) ~ q^power [sin q] exp(-beta k/2 (q - q0)^2), by Newton's method on the two moments.

    A distribution broader than the family allows (k <= 0) is met with the softest admissible spring and a warning.
    """
    mean, std = float(samples.mean()), float(samples.std())
    std = max(std, 1e-4)
    low, high = domain or (max(1e-3, mean - 12 * std), mean + 12 * std)
    q = np.linspace(low, high, GRID)
    measure = q**power * (np.sin(q).clip(0) if sine else 1.0)
    stats = np.stack([(q - mean) / std, ((q - mean) / std) ** 2])
    target = np.array([0.0, 1.0])
    start = np.array([0.0, -0.5])
    lam = _newton_moments(stats, measure, target, start)
    if lam[1] >= -0.02:
        warnings.warn(
            f"a coordinate with mean {mean:.3g} and standard deviation {std:.3g} is too broad for a harmonic prior: the softest "
            "spring is used, and the network has to learn the rest",
            stacklevel=3,
        )
        lam[1] = -0.02
    k = -2 * lam[1] / (beta * std**2)
    q0 = mean - lam[0] * std / (2 * lam[1])
    density = measure * np.exp(lam @ stats - (lam @ stats).max())
    counts, edges = np.histogram(samples, bins=60, density=True)
    shown = 0.5 * (edges[1:] + edges[:-1])
    density = np.interp(shown, q, density / np.trapezoid(density, q))
    return Harmonic(float(k), float(q0), shown, counts, density)


@dataclass(frozen=True, eq=False)
class Fourier:
    """u = sum a_n cos n phi + b_n sin n phi, with the two densities on a grid."""

    a: np.ndarray
    b: np.ndarray
    q: np.ndarray
    data_density: np.ndarray
    fit_density: np.ndarray


def fit_fourier(samples: np.ndarray, beta: float, order: int) -> Fourier:
    """Maximum likelihood of p(phi) ~ exp(-beta sum a_n cos n phi + b_n sin n phi), a convex problem in 2 * order parameters."""
    phi = np.linspace(-np.pi, np.pi, GRID, endpoint=False)
    n = np.arange(1, order + 1)[:, None]
    stats = np.concatenate([np.cos(n * phi), np.sin(n * phi)])
    target = np.concatenate([np.cos(n * samples).mean(1), np.sin(n * samples).mean(1)])
    lam = _newton_moments(stats, np.ones(GRID), target, np.zeros(2 * order), ridge=1e-3)
    density = np.exp(lam @ stats - (lam @ stats).max())
    counts, edges = np.histogram(samples, bins=60, range=(-np.pi, np.pi), density=True)
    shown = 0.5 * (edges[1:] + edges[:-1])
    density = np.interp(shown, phi, density / (density.sum() * (phi[1] - phi[0])), period=2 * np.pi)
    return Fourier(-lam[:order] / beta, -lam[order:] / beta, shown, counts, density)


def _newton_moments(
    stats: np.ndarray, measure: np.ndarray, target: np.ndarray, start: np.ndarray, ridge: float = 1e-9
) -> np.ndarray:
    """Maximise target . lam - log sum(measure exp(lam . stats)) - ridge |lam|^2 / 2 with a step-halving Newton iteration."""

    def value(lam: np.ndarray) -> tuple[float, np.ndarray]:
        e = lam @ stats + np.log(measure + 1e-300)
        top = e.max()
        w = np.exp(e - top)
        return float(target @ lam - top - np.log(w.sum()) - 0.5 * ridge * lam @ lam), w / w.sum()

    lam, (best, p) = start, value(start)
    for _ in range(200):
        mean = stats @ p
        gradient = target - mean - ridge * lam
        if np.abs(gradient).max() < 1e-9:
            break
        hessian = (stats * p) @ stats.T - np.outer(mean, mean) + (ridge + 1e-12) * np.eye(len(lam))
        step, scale = np.linalg.solve(hessian, gradient), 1.0
        while scale > 1e-6:
            trial, p_trial = value(lam + scale * step)
            if trial >= best:
                break
            scale /= 2
        else:
            break
        lam, best, p = lam + scale * step, trial, p_trial
    return lam


def _angle_laws(angles: np.ndarray, triples: list, beta: float, kT: float, report: list[PriorTerm]) -> list[Law]:
    straight = [k for k, theta in enumerate(angles) if np.quantile(theta, 0.99) > NEARLY_LINEAR]
    bent = [k for k in range(len(angles)) if k not in straight]
    laws: list[Law] = []
    if bent:
        fits = [fit_harmonic(angles[k], beta, sine=True, domain=(1e-3, np.pi - 1e-3)) for k in bent]
        report += [_term("angle", "angles", triples[k], f, kT) for k, f in zip(bent, fits)]
        laws.append(HarmonicAngles(bent, *_columns(fits)))
    if straight:
        fits = [fit_harmonic(np.cos(angles[k]), beta, domain=(-1.0, 1.0)) for k in straight]
        report += [_term("cos(angle)", "cosines", triples[k], f, kT) for k, f in zip(straight, fits)]
        laws.append(CosineAngles(straight, *_columns(fits)))
    return laws


def _columns(fits: list[Harmonic]) -> tuple[Tensor, Tensor]:
    return torch.tensor([f.k for f in fits]), torch.tensor([f.q0 for f in fits])


def _term(name: str, kind: str, beads: list[int], f: Harmonic, kT: float) -> PriorTerm:
    return PriorTerm(name, kind, tuple(beads), f.q, f.data_density, f.fit_density, {"k": f.k, "q0": f.q0, "kT": kT})


def _dihedral_term(proper: bool, beads: list[int], f: Fourier) -> PriorTerm:
    values = {f"a{n + 1}": float(v) for n, v in enumerate(f.a)} | {f"b{n + 1}": float(v) for n, v in enumerate(f.b)}
    return PriorTerm("dihedral" if proper else "improper", "dihedrals", tuple(beads), f.q, f.data_density, f.fit_density, values)


def _thinned(values: Tensor, most: int = 200_000) -> Tensor:
    """At most ``most`` samples per row: torch.quantile refuses more than 16 million entries."""
    return values[:, :: max(1, values.shape[1] // most)]
