"""Molecules of a bead liquid: the bonded terms that hold them together, and the pairs within them that pair potentials leave out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlmd.cg.priors import fit_priors, single_molecules
from mlmd.cg.target_rdf import TargetRDF
from mlmd.frames import Frames
from mlmd.neighbors import Pairs
from mlmd.observables.rdf import RDF, rdf
from mlmd.observables.unwrap import centres, molecules
from mlmd.potentials.accelerated import accelerated
from mlmd.potentials.bonded import Bonded, PowerRepulsion
from mlmd.potentials.compose import Potential, in_closed_form
from mlmd.potentials.pair import Excluding, PairPotential, bonded_within, nearest_shift
from mlmd.potentials.spline import rows_of, type_table
from mlmd.system import System

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LiquidMolecules:
    """Equal molecules that lie one after another, whole, in a periodic box.

    bonded: energy within them. bonds: of one molecule. size: beads of one. hops: beads up to so many bonds apart do not feel the
    pair potential and are not counted in g(r): 1 leaves out bonded pairs only, 3 also those of angles and dihedrals.
    """

    bonded: Bonded
    bonds: tuple[tuple[int, int], ...]
    size: int
    hops: int = 3

    def __post_init__(self) -> None:
        if self.hops < 1 or self.size < 2:
            raise ValueError(
                f"size={self.size}, hops={self.hops}: a molecule has at least two beads and leaves out at least bonded pairs (hops=1); "
                "single beads need no molecules"
            )
        bonded_within(self.bonds, self.size, self.hops)

    @staticmethod
    def of(frames: Frames, *, kT: float | None = None, hops: int = 3) -> LiquidMolecules:
        """Bonds, angles and dihedrals by Boltzmann inversion of bead frames (:func:`mlmd.cg.priors.fit_priors`), without its repulsion:
        what is further apart feels the pair potential.

        Raises:
            ValueError: as ``fit_priors``.
        """
        n, bonds, _ = single_molecules(frames)
        fitted = fit_priors(frames, kT=kT).potential
        laws = [law for law in fitted.laws if not isinstance(law, PowerRepulsion)]
        return LiquidMolecules(Bonded(fitted.coordinates, laws), tuple(bonds), n, hops)  # type: ignore[arg-type]

    def potential(self, law: PairPotential) -> Potential:
        """The whole liquid: the law between pairs that are not left out, and the bonded terms; with compiled loops where there are any."""
        whole = Excluding(law, self.bonds, self.size, self.hops) + self.bonded
        return accelerated(whole)  # type: ignore[return-value]

    @cached_property
    def _fast(self) -> Potential:
        return accelerated(self.bonded)  # type: ignore[return-value]

    @cached_property
    def _template(self) -> Tensor:
        """(2, K) pairs of one molecule that are left out."""
        return torch.nonzero(torch.triu(bonded_within(self.bonds, self.size, self.hops))).T

    def left_out(self, n: int) -> Tensor:
        """(M K, 2) pairs that are left out among ``n`` beads.

        Raises:
            ValueError: if the beads do not make whole molecules.
        """
        if n % self.size:
            raise ValueError(f"{n} beads are no multiple of the size={self.size} of a molecule: give whole molecules")
        first = torch.arange(0, n, self.size)[:, None, None]
        return (first + self._template.T).reshape(-1, 2)

    def pairs(self, system: System) -> Pairs:
        """The pairs that are left out, each once and at its nearest image."""
        i, j = self.left_out(len(system)).T
        shift = nearest_shift(system.positions[j] - system.positions[i], system, system.batch[i])
        return Pairs(torch.stack([i, j]), shift.long())

    def numbers(self, system: System, types: tuple[tuple[int, int], ...]) -> Array:
        """(R,) how many of them there are for every pair of types."""
        i, j = self.left_out(len(system)).T
        row = rows_of(type_table(types), system.types[i], system.types[j])
        return torch.bincount(row, minlength=len(types) + 1)[: len(types)].double().numpy()

    def virial(self, system: System) -> float:
        r""":math:`\sum_ix_i\cdot\partial E_b/\partial x_i` of the bonded terms in eV: what stretching the box does to them."""
        _, forces = in_closed_form(self._fast, system, None)
        return -float((forces.double() * system.positions.double()).sum())

    def target(self, frames: Frames, *, r_max: float, bins: int, types: tuple[tuple[int, int], ...] = ((0, 0),)) -> TargetRDF:
        """g(r) of reference bead frames for every pair of types, pairs left out not counted; r_max in A.

        Raises:
            ValueError: r_max over half the width of the box, or g that is empty.
        """
        rows = [self.rdf(frames, r_max=r_max, bins=bins, between=pair) for pair in types]
        return TargetRDF(rows[0].r, np.stack([row.g for row in rows]), types)

    def rdf(self, frames: Frames, *, r_max: float, bins: int, between: tuple[int, int] = (0, 0), n_blocks: int = 10) -> RDF:
        """g(r) between two types of beads, up to ``r_max`` in A, with block errors; pairs left out are not counted."""
        out = self.left_out(frames.n_atoms)
        return rdf(frames, r_max=r_max, bins=bins, between=between, exclude=out, n_blocks=n_blocks)


def centre_rdf(frames: Frames, *, r_max: float, bins: int, n_blocks: int = 10) -> RDF:
    """g(r) of the centres of mass of molecules, up to ``r_max`` in A; molecules whole.

    Raises:
        ValueError: frames without a cell, or r_max over half the width of the box.
    """
    masses = torch.ones(frames.n_atoms) if frames.masses is None else frames.masses
    middle = centres(frames.positions.double(), masses, molecules(frames))
    return rdf(middle, frames.cell, r_max=r_max, bins=bins, n_blocks=n_blocks)
