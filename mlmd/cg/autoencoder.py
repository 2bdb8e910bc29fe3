r"""Coarse-graining auto-encoder: learn which atoms share a bead (Wang and Gomez-Bombarelli, npj Comput. Mater. 5, 125 (2019)).

Every atom j chooses a bead by a Gumbel-softmax over logits :math:`\Phi`,
:math:`C_{Ij}=\mathrm{softmax}_I[(\Phi_{Ij}+g_{Ij})/\tau]`. The encoder
:math:`E_{Ij}=m_jC_{Ij}/\sum_k m_kC_{Ik}` (or with :math:`m=1`: centroids) gives the beads, a linear decoder D gives atoms back, and

.. math:: L = \tfrac1n\langle|x-DEx|^2\rangle + \rho\,\tfrac1B\sum_I\langle|\textstyle\sum_j C_{Ij}f_j|^2\rangle

is lowered while the temperature :math:`\tau` falls until the choice is one-hot.

**Why no frame is read during training.** With positions relative to the centre (of mass, or centroid), the data enter only through
:math:`S=\langle xx^T\rangle` and :math:`G=\langle ff^T\rangle` (n x n, summed over x, y, z, averaged over frames and molecules):

.. math:: \langle|x-DEx|^2\rangle=\mathrm{tr}[(1-DE)S(1-DE)^T], \qquad \textstyle\sum_I\langle|Cf|_I^2\rangle=\mathrm{tr}[CGC^T].

The best decoder for a given E is :math:`D=SE^T(ESE^T)^+`, and with it the first term is
:math:`\mathrm{tr}\,S-\mathrm{tr}[(ESE^T)^+ES^2E^T]`; its gradient with respect to E is exact (variable projection). Since
:math:`\sum_I m_IX_I=0` for centred atoms (:math:`m_I=\sum_k m_kC_{Ik}`), :math:`ESE^T` has the null vector :math:`m_I`, which is lifted by adding
:math:`kuu^T`, :math:`u\propto m_I`, without changing the result. No encoder and linear decoder of any kind reaches below the sum of the
eigenvalues of S beyond the largest B - 1: :attr:`AutoencoderResult.linear_bound`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mlmd.cg import groups as grouping
from mlmd.cg import mapping as maps
from mlmd.cg.force_map import rigid_groups
from mlmd.cg.mapping import Mapping, Weighting, molecule_of
from mlmd.cg.partition import count_pieces, improve, one_hot, repair
from mlmd.frames import Frames

MAX_SEARCHES = 16  # different ends of annealing from which the discrete search starts, the best ones first
TINY = 1e-10  # relative ridge that keeps ESE^T invertible when two beads coincide


@dataclass(frozen=True, eq=False)
class Statistics:
    """All that the losses need of the data.

    | field | shape | unit |
    |---|---|---|
    | positions | N N | A^2, S = <x x^T> of centred positions |
    | forces | N N | (eV/A)^2, G = <f f^T>, or None |
    | centre | N | weights of the centre: masses, or ones |
    | n_samples | | frames times molecules |
    | importance | N | weight of every atom in the reconstruction error, mean 1; default 1 |
    """

    positions: Float[Tensor, "N N"]
    forces: Float[Tensor, "N N"] | None
    centre: Float[Tensor, " N"]
    n_samples: int
    importance: Float[Tensor, " N"] | None = None

    def reconstruction(self, choice: Float[Tensor, "*batch B N"]) -> Float[Tensor, "*batch"]:
        """(1/N) <sum_j w_j |x - D E x|_j^2> with the best linear decoder, in A^2 per atom; empty beads count for nothing."""
        s, weighted = self.positions, choice * self.centre
        w = torch.ones_like(self.centre) if self.importance is None else self.importance
        mass = weighted.sum(-1)
        encoder = weighted / mass.clamp(min=1e-300)[..., None]
        compressed = encoder @ s
        a, b = compressed @ encoder.mT, (compressed * w) @ compressed.mT
        scale = a.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        null = mass / mass.norm(dim=-1, keepdim=True)
        lift = null[..., :, None] * null[..., None, :] + TINY * torch.eye(a.shape[-1], dtype=a.dtype)
        explained = torch.linalg.solve(a + scale * lift, b).diagonal(dim1=-2, dim2=-1).sum(-1)
        return (w @ s.diagonal() - explained) / len(s)

    def mean_square_force(self, choice: Float[Tensor, "*batch B N"]) -> Float[Tensor, "*batch"]:
        """(1/B) sum_I <|sum_j C_Ij f_j|^2>, sum over x, y, z, in (eV/A)^2.

        Raises:
            ValueError: without forces.
        """
        if self.forces is None:
            raise ValueError("frames hold no forces: give forces, or use rho=0")
        return ((choice @ self.forces) * choice).sum(-1).mean(-1)

    def linear_bound(self, n_beads: int) -> float:
        """The least (1/N) <|x - x'|^2> of any rank B - 1 linear projection of centred positions, in A^2 per atom."""
        eigenvalues = torch.linalg.eigvalsh(self.positions)
        return float(eigenvalues[: len(eigenvalues) - (n_beads - 1)].clamp(min=0).sum() / len(eigenvalues))


@dataclass(frozen=True, eq=False)
class Objective:
    """L = reconstruction + rho <F^2> + penalty (pieces - beads), for soft or hard choices of ``units`` of atoms.

    A unit is an atom, or a set of atoms that have to stay together. In a soft choice the pieces are estimated by
    N - sum over bonds of sum_I C_Ii C_Ij, which is exact for one-hot choices on a graph without rings.
    """

    statistics: Statistics
    units: Float[Tensor, "U N"]
    bonds: tuple[tuple[int, int], ...]
    rho: float
    penalty: float

    def atoms(self, choice: Tensor) -> Tensor:
        """Choice of every atom (..., B, N) from that of every unit (..., B, U)."""
        return choice @ self.units

    def soft(self, choice: Tensor, rho: float) -> Tensor:
        """Loss (...) of choices (..., B, U)."""
        c = self.atoms(choice)
        loss = self.statistics.reconstruction(c)
        if rho:
            loss = loss + rho * self.statistics.mean_square_force(c)
        if self.penalty and self.bonds:
            i, j = torch.tensor(self.bonds).T
            pieces = c.shape[-1] - (c[..., i] * c[..., j]).sum((-1, -2))
            loss = loss + self.penalty * (pieces - c.shape[-2]).clamp(min=0)
        return loss

    def hard(self, labels: Tensor, n_beads: int) -> Tensor:
        """Loss (...) of integer labels (..., U), with the exact number of pieces."""
        c = self.atoms(one_hot(labels, n_beads))
        loss = self.statistics.reconstruction(c)
        if self.rho:
            loss = loss + self.rho * self.statistics.mean_square_force(c)
        if self.penalty:
            loss = loss + self.penalty * (count_pieces(self.atom_labels(labels), self.bonds) - n_beads)
        return loss

    @cached_property
    def unit_bonds(self) -> list[tuple[int, int]]:
        """Bonds between units."""
        unit = self.units.argmax(0).tolist()
        return sorted({(min(unit[i], unit[j]), max(unit[i], unit[j])) for i, j in self.bonds if unit[i] != unit[j]})

    def atom_labels(self, labels: Tensor) -> Tensor:
        """Labels of the atoms (..., N) from those of the units (..., U)."""
        return labels[..., self.units.argmax(0)]


@dataclass(frozen=True, eq=False)
class AutoencoderResult:
    """A learned mapping with its decoder and how it was found.

    | field | shape | |
    |---|---|---|
    | mapping | | one-hot map |
    | decoder | N B | x = D X, least squares for this map; rows sum to 1, so atoms move with the beads |
    | loss | | value of the objective in A^2 |
    | reconstruction | | (1/N) <|x - D E x|^2>, A^2 per atom, all atoms alike, on the frames that were learned from |
    | mean_square_force | | (1/B) sum_I <|F_I|^2>, (eV/A)^2, or None without forces |
    | linear_bound | | least possible reconstruction of any linear encoder and decoder, A^2 per atom |
    | hardened | | whether annealing itself ended one-hot: the largest weight of every atom above 0.99 |
    | largest_weight | | smallest over atoms of the largest weight at the end of annealing |
    | annealed_loss | | loss of the annealed map as it came, before the discrete search |
    | annealed_assignment | N | that map |
    | start | | which start the discrete search won from: "annealing", "sequence", "backbone", ... |
    | hand_made_losses | | the same loss of the hand-made maps as people would use them |
    | connected | B | whether the atoms of each bead hang together along bonds |
    | steps, temperatures, losses | K | the course of the winning restart, noise-free |
    | assignment_history | K B N | soft assignments along it, rows in the order of the beads of ``mapping`` |
    | n_frames | | frames learned from |
    """

    mapping: Mapping
    decoder: Float[Tensor, "N B"]
    loss: float
    reconstruction: float
    mean_square_force: float | None
    linear_bound: float
    hardened: bool
    largest_weight: float
    annealed_loss: float
    annealed_assignment: Tensor
    start: str
    hand_made_losses: dict[str, float]
    connected: tuple[bool, ...]
    steps: Tensor
    temperatures: Tensor
    losses: Tensor
    assignment_history: Tensor
    n_frames: int

    @property
    def rmsd(self) -> float:
        """sqrt((1/N) <|x - D E x|^2>) in A, over all atoms, unaligned."""
        return self.reconstruction**0.5


@dataclass(frozen=True, eq=False)
class Log:
    """One look at the annealing; the last one carries the ``result``.

    Loss (A^2), reconstruction (A^2 per atom), mean_square_force ((eV/A)^2) and assignment (B, N) are those of the first
    restart without noise; ``losses`` (R,) are those of all restarts.
    """

    step: int
    steps: int
    phase: str
    temperature: float
    loss: float
    reconstruction: float
    mean_square_force: float | None
    largest_weight: float
    assignment: Tensor
    losses: Tensor
    result: AutoencoderResult | None = None


@dataclass(frozen=True)
class Annealing:
    """Schedule: ``steps`` of Adam on ``restarts`` sets of logits; tau falls geometrically; rho acts from ``force_from`` on.

    From ``quench_from`` on there is no Gumbel noise: it would keep shaking choices that are nearly made, so that whether an atom ends
    decided were a matter of the last few draws.
    """

    steps: int = 1000
    restarts: int = 32
    temperatures: tuple[float, float] = (4.0, 0.02)
    learning_rate: float = 0.2
    force_from: float = 0.25
    quench_from: float = 0.9
    snapshots: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 2 or self.restarts < 1:
            raise ValueError(f"steps={self.steps}, restarts={self.restarts}: at least two steps and one restart are needed")
        if not 0 < self.temperatures[1] <= self.temperatures[0]:
            raise ValueError(f"temperatures={self.temperatures}: give (start, end) with start >= end > 0")

    def temperature(self, step: int) -> float:
        """tau = T0 (T1/T0)^(step/(steps-1))."""
        first, last = self.temperatures
        return first * (last / first) ** (step / (self.steps - 1))


def statistics(frames: Frames, weighting: Weighting = "mass", *, n_molecules: int | None = None) -> Statistics:
    """Covariances of centred positions and of forces, averaged over frames and over molecules of the same kind.

    Raises:
        ValueError: unknown weighting; fewer than two samples; a periodic system of molecules of different kinds.
    """
    if weighting not in ("mass", "centroid"):
        raise ValueError(f"weighting={weighting!r}: choose 'mass' or 'centroid'")
    mol = molecule_of(frames, n_molecules)
    _check_one_kind(frames, mol)
    x = _molecules(frames, mol)
    if len(x) < 2:
        raise ValueError(f"frames hold {len(x)} sample(s) of the molecule: learning a mapping needs at least two")
    centre = mol.masses if weighting == "mass" else torch.ones(mol.n, dtype=torch.float64)
    x = x - torch.einsum("n,fnc->fc", centre / centre.sum(), x)[:, None]
    f = None if frames.forces is None else frames.forces.reshape(-1, mol.n, 3).double()
    return Statistics(_covariance(x), None if f is None else _covariance(f), centre, len(x))


def _check_one_kind(frames: Frames, mol: maps.Molecule) -> None:
    """Refuse what diffuses apart: several molecules in a box that are not copies of one."""
    if frames.cell is None or mol.copies > 1 or not mol.bonds:
        return
    parts = grouping.components(mol.n, mol.bonds)
    if len(parts) > 1:
        raise ValueError(
            f"frames hold {len(parts)} molecules that are not copies of one: one map serves molecules of one kind; "
            "take those of one kind first, frames.atoms('resname ...')"
        )


def learn_mapping(
    frames: Frames,
    n_beads: int,
    *,
    rho: float = 0.0,
    weighting: Weighting = "mass",
    importance: Tensor | Sequence[float] | None = None,
    steps: int = 1000,
    restarts: int = 32,
    seed: int = 0,
    temperatures: tuple[float, float] = (4.0, 0.02),
    learning_rate: float = 0.2,
    disconnected_penalty: float = 0.0,
    together: Iterable[tuple[int, int]] | None = None,
    hand_made: bool = True,
    search: bool = True,
    n_molecules: int | None = None,
) -> Iterator[Log]:
    """Learn which atoms share a bead; yields logs, the last with the result.

    Two phases: reconstruction only for the first quarter of the steps, then with the force term. All restarts run side by side.
    At the end every atom goes to its largest weight, and moves, swaps and regroupings of atoms lower the same loss as far as they
    can, starting from every restart and (``hand_made``) from the sequence, backbone and residue maps, so that the result is never
    worse than those. What annealing alone reached is kept in the result.

    Args:
        frames: positions (A) and, for ``rho`` > 0, forces (eV/A); identical molecules share one map.
        n_beads: beads per molecule.
        rho: weight of <F^2>, in A^2 / (eV/A)^2; a value c in A^2/(kcal/mol/A)^2 is ``c / kcal_mol**2``.
        weighting: bead at the centre of "mass" or the "centroid" of its atoms.
        importance: (N,) weights of the atoms in the reconstruction error, for instance 0 for hydrogens; scaled to a mean of 1.
        steps, restarts, seed, temperatures, learning_rate: see :class:`Annealing`.
        disconnected_penalty: A^2 for every piece beyond one per bead; 0 lets beads be any sets of atoms.
        together: pairs of atoms that must share a bead, for instance :func:`mlmd.cg.groups.united_atoms`; default: the rigid
            bonds of the frames.
        hand_made, search: which starts are searched, and whether at all.
        n_molecules: overrides what the bonds of the topology say.

    Raises:
        ValueError: n_beads < 1 or more than atoms (or than sets that stay together); rho < 0, or > 0 without forces.
    """
    stats = statistics(frames, weighting, n_molecules=n_molecules)
    mol = molecule_of(frames, n_molecules)
    units = rigid_groups(mol.n, mol.constraints if together is None else list(together))
    maps.check_n_beads(n_beads, mol.n)
    if n_beads > len(units):
        raise ValueError(
            f"n_beads={n_beads}: atoms that stay together (rigid bonds, hydrogens united with their heavy atoms) leave only {len(units)} "
            f"independent units: ask for at most {len(units)} beads, or let hydrogens go their own way (hydrogens='free')"
        )
    if rho < 0 or disconnected_penalty < 0:
        raise ValueError(f"rho={rho:g}, disconnected_penalty={disconnected_penalty:g}: weights must not be negative")
    if rho > 0 and stats.forces is None:
        raise ValueError(f"rho={rho:g} needs forces, but frames hold none: read a trajectory with forces, or use rho=0")
    if importance is not None:
        stats = replace(stats, importance=_check_importance(importance, mol.n))
    objective = Objective(stats, units, mol.bonds, rho, disconnected_penalty)
    schedule = Annealing(steps, restarts, temperatures, learning_rate, seed=seed)
    starts = hand_made_labels(frames, n_beads, units, n_molecules) if hand_made else {}
    return _learn(frames, objective, schedule, n_beads, weighting, starts, search, n_molecules)


def learn(frames: Frames, n_beads: int, **options: Any) -> AutoencoderResult:
    """Run :func:`learn_mapping` to its end."""
    last = None
    for log in learn_mapping(frames, n_beads, **options):
        last = log.result
    assert last is not None
    return last


def scan(
    frames: Frames, n_beads: Sequence[int], rho: Sequence[float] = (0.0,), **options: Any
) -> Iterator[tuple[int, float, AutoencoderResult]]:
    """Learn a map for every number of beads and every rho: (n_beads, rho, result) one by one."""
    for n in n_beads:
        for r in rho:
            yield n, r, learn(frames, n, rho=r, **options)


def anneal(objective: Objective, n_beads: int, schedule: Annealing) -> Iterator[tuple[int, float, Tensor]]:
    """Gumbel-softmax descent; yields (step, temperature, noise-free choices (R, B, U)) at every snapshot and at the end."""
    generator = torch.Generator().manual_seed(schedule.seed)
    shape = (schedule.restarts, n_beads, len(objective.units))
    logits = torch.rand(shape, generator=generator, dtype=torch.float64).requires_grad_()
    adam = torch.optim.Adam([logits], lr=schedule.learning_rate)
    every = max(1, schedule.steps // schedule.snapshots)
    for step in range(schedule.steps):
        tau = schedule.temperature(step)
        if step % every == 0:
            yield step, tau, torch.softmax(logits.detach() / tau, -2)
        rho = objective.rho if step >= schedule.force_from * schedule.steps else 0.0
        # a generator hands control back in the middle of its body, so gradients are switched on only for the update itself
        with torch.enable_grad():
            noise = gumbel(shape, generator) if step < schedule.quench_from * schedule.steps else 0.0
            choice = torch.softmax((logits + noise) / tau, -2)
            (gradient,) = torch.autograd.grad(objective.soft(choice, rho).sum(), logits)
        logits.grad = torch.nan_to_num(gradient)
        adam.step()
    yield schedule.steps, tau, torch.softmax(logits.detach() / tau, -2)


def gumbel(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise g = -ln(-ln u)."""
    u = torch.rand(tuple(shape), generator=generator, dtype=torch.float64)
    return -torch.log(-torch.log(u.clamp(1e-300, 1 - 1e-16)))


def hand_made_labels(frames: Frames, n_beads: int, units: Tensor, n_molecules: int | None = None) -> dict[str, Tensor]:
    """Labels (U,) of the hand-made maps that have this many beads and keep units together."""
    mol = molecule_of(frames, n_molecules)
    lists = {"sequence": grouping.sequence_groups(mol.n, n_beads)}
    residue: dict[int, list[int]] = {}
    for atom in mol.atoms:
        residue.setdefault(atom.residue.index, []).append(atom.index)
    lists["residue"] = list(residue.values())
    if len(grouping.components(mol.n, mol.bonds)) == 1:
        lists["backbone"] = grouping.backbone_groups(mol.elements, mol.bonds, n_beads)
    out = {}
    for name, parts in lists.items():
        label = torch.zeros(mol.n, dtype=torch.long)
        for k, atoms in enumerate(parts):
            label[atoms] = k
        of_unit = label[units.argmax(1)]
        whole = bool((of_unit[units.argmax(0)] == label).all())
        if len(parts) == n_beads and whole:
            out[name] = of_unit
    return out


def linear_decoder(mapping: Mapping, frames: Frames) -> Float[Tensor, "N B"]:
    r"""The linear map from beads to atoms with the least square error, among those that move with the beads.

    min over D of <|x - D X|^2> with :math:`D1=1`. Relative to the mean of the beads, :math:`D=\langle xX^T\rangle(\langle XX^T\rangle+k11^T)^{-1}`.
    """
    x = _molecules(frames, molecule_of(frames, mapping.n_molecules))
    beads = mapping.weights.double() @ x
    origin = beads.mean(1, keepdim=True)
    x, beads = x - origin, beads - origin
    a = torch.einsum("fic,fjc->ij", beads, beads) / len(x)
    b = torch.einsum("fic,fjc->ij", x, beads) / len(x)
    n = len(a)
    lift = torch.full_like(a, 1.0 / n) + TINY * torch.eye(n, dtype=a.dtype)
    scale = a.trace() / n if n > 1 else torch.ones((), dtype=a.dtype)
    decoder = torch.linalg.solve(a + scale * lift, b.T).T
    return decoder + (1 - decoder.sum(1, keepdim=True)) / n


def reconstruction_error(mapping: Mapping, decoder: Float[Tensor, "N B"], frames: Frames) -> Float[Tensor, " N"]:
    """<|x - D M x|^2> of every atom in A^2, over frames and molecules; the square root of a mean over atoms is an RMSD."""
    x = _molecules(frames, molecule_of(frames, mapping.n_molecules))
    return (x - decoder.double() @ (mapping.weights.double() @ x)).square().sum(-1).mean(0)


def _learn(
    frames: Frames,
    objective: Objective,
    schedule: Annealing,
    n_beads: int,
    weighting: Weighting,
    starts: dict[str, Tensor],
    search: bool,
    n_molecules: int | None,
) -> Iterator[Log]:
    history: list[tuple[int, float, Tensor]] = []
    for snapshot in anneal(objective, n_beads, schedule):
        history.append(snapshot)
        log = _log(objective, schedule, *snapshot)
        if snapshot[0] < schedule.steps:
            yield log
    found = _select(objective, history[-1][2], n_beads, starts, search)
    yield replace(log, phase="done", result=_result(frames, objective, history, found, weighting, n_molecules))


def _log(objective: Objective, schedule: Annealing, step: int, tau: float, choices: Tensor) -> Log:
    stats, c = objective.statistics, objective.atoms(choices)
    rho = objective.rho if step >= schedule.force_from * schedule.steps else 0.0
    return Log(
        step=step,
        steps=schedule.steps,
        phase="reconstruction and force" if rho else "reconstruction",
        temperature=tau,
        loss=float(objective.soft(choices[0], rho)),
        reconstruction=float(stats.reconstruction(c[0])),
        mean_square_force=None if stats.forces is None else float(stats.mean_square_force(c[0])),
        largest_weight=float(c[0].amax(0).min()),
        assignment=c[0],
        losses=objective.soft(choices, rho),
    )


@dataclass(frozen=True, eq=False)
class _Found:
    labels: Tensor
    loss: float
    start: str
    restart: int
    annealed: Tensor
    annealed_loss: float
    hand_made_losses: dict[str, float]


def _select(objective: Objective, choices: Tensor, n_beads: int, starts: dict[str, Tensor], search: bool) -> _Found:
    """The best labels over restarts and hand-made starts."""

    def loss(labels: Tensor) -> Tensor:
        return objective.hard(labels, n_beads)

    annealed = [repair(c.argmax(0), n_beads, loss) for c in choices]
    before = [float(loss(a)) for a in annealed]
    certainty = choices.amax(1).amin(1).numpy()
    equal = np.flatnonzero(np.isclose(before, min(before), rtol=1e-9, atol=0.0))
    restart = int(equal[certainty[equal].argmax()])  # of restarts that agree, the one that annealing decided most clearly
    distinct = {tuple(_by_first_atom(annealed[r])[0].tolist()): r for r in [*np.argsort(before)[::-1], restart]}
    promising = sorted(distinct.values(), key=lambda r: before[r])[:MAX_SEARCHES]
    named = [("annealing", int(r), annealed[r]) for r in promising] + [(name, restart, a) for name, a in starts.items()]
    ends = [improve(a, n_beads, loss, objective.unit_bonds) if search else a for _, _, a in named]
    values = [float(loss(a)) for a in ends]
    best = int(np.argmin(values))
    name, source, _ = named[best]
    return _Found(
        ends[best],
        values[best],
        name,
        source,
        annealed[restart],
        before[restart],
        {k: float(loss(v)) for k, v in starts.items()},
    )


def _result(
    frames: Frames, objective: Objective, history: list, found: _Found, weighting: Weighting, n_molecules: int | None
) -> AutoencoderResult:
    stats = objective.statistics
    label, order = _by_first_atom(objective.atom_labels(found.labels))
    b = len(order)
    hard = one_hot(label, b)
    course = torch.stack([objective.atoms(c[found.restart]) for _, _, c in history])
    course = course[:, _match(course[-1], hard)]
    pieces = grouping.fragments(label.numpy(), objective.bonds)
    equal = replace(stats, importance=None)
    reconstruction = float(equal.reconstruction(hard))
    force = None if stats.forces is None else float(stats.mean_square_force(hard))
    note = {
        "kind": "learned",
        "rho": objective.rho,
        "disconnected_penalty": objective.penalty,
        "reconstruction A^2": reconstruction,
        "start": found.start,
    }
    mapping = maps.from_assignment(frames, label, weighting, n_molecules=n_molecules, provenance=note)
    largest = float(course[-1].amax(0).min())
    return AutoencoderResult(
        mapping=mapping,
        decoder=linear_decoder(mapping, frames),
        loss=found.loss,
        reconstruction=reconstruction,
        mean_square_force=force,
        linear_bound=equal.linear_bound(b),
        hardened=largest > 0.99,
        largest_weight=largest,
        annealed_loss=found.annealed_loss,
        annealed_assignment=_by_first_atom(objective.atom_labels(found.annealed))[0],
        start=found.start,
        hand_made_losses=found.hand_made_losses,
        connected=tuple(pieces[k] == 1 for k in range(b)),
        steps=torch.tensor([s for s, _, _ in history]),
        temperatures=torch.tensor([t for _, t, _ in history]),
        losses=torch.stack([objective.soft(c[found.restart], objective.rho) for _, _, c in history]),
        assignment_history=course,
        n_frames=len(frames),
    )


def _check_importance(importance: Tensor | Sequence[float], n: int) -> Tensor:
    w = torch.as_tensor(importance, dtype=torch.float64)
    if w.shape != (n,) or not bool((w >= 0).all()) or not float(w.sum()) > 0:
        raise ValueError(f"importance has shape {tuple(w.shape)}: give {n} weights, none negative and not all zero")
    return w * n / w.sum()


def _by_first_atom(label: Tensor) -> tuple[Tensor, list[int]]:
    """Beads renumbered in the order of their first atoms."""
    order = list(dict.fromkeys(label.tolist()))
    return torch.tensor([order.index(k) for k in label.tolist()]), order


def _match(soft: Tensor, hard: Tensor) -> list[int]:
    """Rows of ``soft`` in the order that overlaps most with those of ``hard``."""
    rows, columns = linear_sum_assignment(-(hard @ soft.T).numpy())
    return [int(c) for _, c in sorted(zip(rows, columns, strict=True))]


def _molecules(frames: Frames, mol: maps.Molecule) -> Float[Tensor, "F n 3"]:
    """Every molecule of every frame as a sample, whole, in float64."""
    x = frames.positions.double()
    if frames.cell is not None:
        x = maps.make_molecules_whole(x, frames.cell, mol.n, mol.bonds)
    return x.reshape(-1, mol.n, 3)


def _covariance(x: Float[Tensor, "F n 3"]) -> Float[Tensor, "n n"]:
    flat = x.transpose(1, 2).reshape(-1, x.shape[1])
    return flat.T @ flat / len(x)
