"""A periodic box of beads that keeps running while the pair potential changes, and what it measures on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlmd import jit
from mlmd.cell import check_cutoff
from mlmd.cg.liquid_molecules import LiquidMolecules
from mlmd.cg.pair_splines import PairSplines
from mlmd.cg.target_rdf import TargetRDF
from mlmd.md import Langevin, half_step_kT, rest, simulate, thermal_velocities
from mlmd.md.state import State
from mlmd.neighbors import Pairs, neighbors
from mlmd.observables.blocks import block_labels, ratio
from mlmd.potentials.accelerated import Accelerated
from mlmd.potentials.compose import Potential
from mlmd.potentials.spline import rows_of, type_table
from mlmd.system import System

Array = NDArray[np.float64]
FINE = 50  # parts of a bin: sums over pairs of smooth functions are taken from the middles of these
BLOCKS = 10  # of a run, for standard errors


@dataclass(frozen=True, eq=False)
class Sample:
    """F snapshots of one potential, reduced to sums over pairs; energies in eV, lengths in A.

    counts (F, R, B): pairs per bin of the target, each pair once; sums (F, R, I): of every function of the basis, so that the
    energy of the pairs is ``sums . values``; virial (F,): sum of r u'(r), of bonds too; ideal (R, B): pairs per bin of an ideal gas; n particles in
    ``volume``; kT: of the thermostat; temperature: kinetic, in units of kT; values (R, I): the potential; steps: made for them.
    """

    counts: Array
    sums: Array
    virial: Array
    ideal: Array
    n: int
    volume: float
    kT: float
    temperature: float
    values: Tensor
    steps: int

    @cached_property
    def g(self) -> Array:
        """(R, B) radial distribution function."""
        return self.counts.mean(0) / self.ideal

    @cached_property
    def g_error(self) -> Array:
        """(R, B) its standard error, from blocks of time."""
        return _block_error(self.counts) / self.ideal

    @property
    def pressure(self) -> float:
        r"""Virial pressure :math:`P=\frac{N kT}{V}-\frac1{3V}\langle\sum r\,u'(r)\rangle` in eV/A^3."""
        return self.n * self.kT / self.volume - float(self.virial.mean()) / (3 * self.volume)

    @property
    def pressure_error(self) -> float:
        """Standard error of the pressure in eV/A^3."""
        return float(_block_error(self.virial[:, None])[0]) / (3 * self.volume)

    @property
    def energies(self) -> Array:
        """(F,) energies of the pairs in eV; of another potential on the same snapshots: ``sums . values`` of that one."""
        return np.einsum("fri,ri->f", self.sums, self.values.numpy())

    def covariance(self, first: Array, second: Array) -> Array:
        """(P, Q) covariance over the snapshots of (F, ...) with (F, ...), each flattened; of ``counts`` or ``sums``."""
        a, b = (x.reshape(len(x), -1) - x.reshape(len(x), -1).mean(0) for x in (first, second))
        return a.T @ b / max(1, len(a) - 1)


class LiquidSampler:
    """Runs one box of beads under pair potential after pair potential; each run begins where the last one ended.

    Langevin dynamics in single precision with the law as a compiled table (:class:`mlmd.potentials.accelerated.Accelerated`).

    Args:
        system: one periodic box. target: whose bins g(r) is measured on. basis: of the potentials.
        kT: eV. dt: time step in fs. friction: 1/fs.
        molecules: what holds the beads together and which pairs are left out, of g(r) too; default: single beads.
        steps: time steps of a sample. every: steps between its snapshots. equilibration: steps before each sample.
        seed: of velocities and noise. skin: extra range of the neighbour list in A.

    Raises:
        ValueError: a box narrower than twice the range of the target or the cutoff, or to which the target does not belong; a target
            that ends before the cutoff; steps that hold fewer than two snapshots per block.
    """

    def __init__(
        self,
        system: System,
        target: TargetRDF,
        basis: PairSplines,
        *,
        kT: float,
        dt: float,
        friction: float,
        molecules: LiquidMolecules | None = None,
        steps: int = 5000,
        every: int = 25,
        equilibration: int = 500,
        seed: int = 0,
        skin: float = 1.0,
    ):
        if basis.cutoff > target.edges[-1] + 1e-9:
            target.basis(basis.cutoff)  # says what is wrong
        check_cutoff(system.cell, system.pbc, basis.cutoff)
        target.fits(system)
        if steps < 2 * BLOCKS * every:
            raise ValueError(
                f"steps={steps}, every={every}: an error from {BLOCKS} blocks needs at least {2 * BLOCKS * every} steps"
            )
        if basis.types != target.types:
            raise ValueError(
                f"basis is for the types {basis.types}, the target for {target.types}: make it with target.basis(cutoff)"
            )
        self.target, self.basis, self.kT = target, basis, float(kT)
        self.steps, self.every, self.equilibration, self.skin = int(steps), int(every), int(equilibration), float(skin)
        self.integrator = Langevin(dt, kT, friction)
        self.generator = torch.Generator().manual_seed(seed)
        start = system.to(torch.float32)
        self.state = rest(start, thermal_velocities(start, kT, self.generator))
        self.molecules = molecules
        self.ideal = target.pair_counts(system, 0.0 if molecules is None else molecules.numbers(system, basis.types))
        self.volume = float(torch.linalg.det(system.cell[0].double()).abs())
        self._counter = PairCounter(target, basis, molecules)

    def sample(self, values: Tensor, steps: int | None = None, watch: Callable[[System], None] | None = None) -> Sample:
        """Equilibrate with the potential of these values (R, I), then measure for ``steps`` (default: those of the sampler);
        ``watch`` is shown every snapshot that is measured.

        Raises:
            Unstable: if the potential drives the box apart; the sampler stays at the last configuration before.
        """
        steps = self.steps if steps is None else steps
        values = self.basis.checked(values)
        potential = self.potential(values)
        state = rest(self.state.system, self.state.velocities)  # the potential has changed: forces are evaluated anew
        if self.equilibration:
            (state,) = self._run(state, potential, self.equilibration, self.equilibration)
        measured, warmth, bonded = [], 0.0, list[float]()
        for now in self._run(state, potential, steps, self.every):
            measured.append(self._counter(now.system))
            if watch is not None:
                watch(now.system)
            bonded.append(0.0 if self.molecules is None else self.molecules.virial(now.system))
            warmth += float(half_step_kT(now)[0]) / self.kT
            self.state = now
        counts, sums, slopes = (np.stack(column) for column in zip(*measured, strict=True))
        virial = np.einsum("fri,ri->f", slopes, values.numpy()) + bonded
        return Sample(
            counts, sums, virial, self.ideal, len(state.system), self.volume, self.kT, warmth / len(measured), values, steps
        )

    def potential(self, values: Tensor) -> Potential:
        """What is simulated for the values (R, I): their pair law, and the bonded terms of molecules if there are any."""
        law = self.basis.law(values)
        return Accelerated(law) if self.molecules is None else self.molecules.potential(law)

    def _run(self, state: State, potential: Potential, steps: int, every: int) -> Iterator[State]:
        return simulate(state, potential, self.integrator, steps, every=every, generator=self.generator, skin=self.skin)


class PairCounter:
    """Sums over the pairs of a snapshot: numbers per bin, and sums of the functions of a basis and of r times their slopes.

    Distances are counted in bins ``FINE`` times as narrow as those of the target, and functions taken at the middles of these.
    Pairs that ``molecules`` leave out are taken off again.
    """

    def __init__(self, target: TargetRDF, basis: PairSplines, molecules: LiquidMolecules | None = None):
        self.molecules = molecules
        self.reach, self.bins = float(target.edges[-1]), len(target.r)
        self.low = self.reach - self.bins * target.width
        middles = torch.from_numpy(self.low + target.width / FINE * (np.arange(self.bins * FINE) + 0.5)).clamp(min=0.0)
        value, slope = basis.functions(middles)
        self.value, self.slope = value.numpy(), (middles[:, None] * slope).numpy()
        self.table, self.rows = type_table(basis.types), len(basis.types)

    def __call__(self, system: System) -> tuple[Array, Array, Array]:
        """Counts (R, B), sums (R, I), sums of r L'(r) (R, I)."""
        fine = self.fine_counts(system, neighbors(system, self.reach))
        if self.molecules is not None:
            fine = fine - self._binned(system, self.molecules.pairs(system))
        return fine.reshape(self.rows, self.bins, FINE).sum(2), fine @ self.value, fine @ self.slope

    def fine_counts(self, system: System, pairs: Pairs) -> Array:
        """(R, B FINE) pairs per narrow bin; what is nearer than the first is counted there."""
        n = self.bins * FINE
        per_length = n / (self.reach - self.low)
        if jit.available() and not system.positions.is_cuda:
            rows = pairs.rows
            out = np.zeros((self.rows + 1) * n)
            kind = rows_of(self.table, *_all_types(system, len(self.table))).reshape(len(self.table), -1)
            _count(
                system.positions.detach().double().contiguous().numpy(), system.cell[0].double().numpy(),
                rows.start, rows.sender, rows.parent, rows.image,
                system.types.clamp(max=len(self.table) - 1).numpy(), kind.numpy(), self.low, per_length, n, out,
            )  # fmt: skip
            return out.reshape(self.rows + 1, n)[:-1]
        return self._binned(system, pairs.half)

    def _binned(self, system: System, half: Pairs) -> Array:
        """The same of pairs that are listed once; in double precision as there, for a pair at the edge of a bin is taken off where it was counted."""
        n = self.bins * FINE
        per_length = n / (self.reach - self.low)
        r = half.distances(system.to(torch.float64))
        row = rows_of(self.table, system.types[half.index[0]], system.types[half.index[1]])
        at = ((r - self.low) * per_length).floor().long()
        inside = at < n
        at = (row * n + at.clamp(min=0))[inside]
        return torch.bincount(at.cpu(), minlength=(self.rows + 1) * n).double().numpy().reshape(self.rows + 1, n)[:-1]


def _all_types(system: System, size: int) -> tuple[Tensor, Tensor]:
    t = torch.arange(size)
    return t.repeat_interleave(size), t.repeat(size)


@jit.jit
def _count(x, cell, start, sender, parent, image, types, kind, low, per_length, n, out):
    """Add one to the bin of every pair; particles are used where they are, images by their lattice vectors."""
    at = np.empty((len(parent), 3))
    for k in range(len(parent)):
        for d in range(3):
            at[k, d] = x[parent[k], d] + image[k, 0] * cell[0, d] + image[k, 1] * cell[1, d] + image[k, 2] * cell[2, d]
    for i in range(len(start) - 1):
        for p in range(start[i], start[i + 1]):
            k = sender[p]
            dx, dy, dz = at[k, 0] - at[i, 0], at[k, 1] - at[i, 1], at[k, 2] - at[i, 2]
            b = int((np.sqrt(dx * dx + dy * dy + dz * dz) - low) * per_length)
            if b < n:
                out[kind[types[i], types[parent[k]]] * n + max(b, 0)] += 1.0


def _block_error(x: Array) -> Array:
    """Standard error of the mean of (F, ...) from blocks of time."""
    labels = block_labels((len(x),), BLOCKS)
    tops = np.stack([x[labels == b].sum(0) for b in range(labels.max() + 1)])
    return ratio(tops, np.bincount(labels).astype(np.float64))[1]
