"""Energies and forces of one system for another program's loop, with a neighbour list that is kept while it is good."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mlmd.cell import periodic_widths
from mlmd.forces import Evaluation, Potential, energy_forces
from mlmd.neighbors import Pairs, neighbors
from mlmd.system import System


class Evaluator:
    """Calls ``potential`` at positions that come one after the other.

    The list of pairs within cutoff + skin is made again when a particle has moved more than half the skin, or the cell changes.

    Args:
        potential: any potential of mlmd.
        system: one system; its types, masses, charges, precision and device hold for all calls.
        skin: in A.

    Raises:
        ValueError: several systems in one batch, or a negative skin.
    """

    def __init__(self, potential: Potential, system: System, skin: float = 1.0):
        if system.n_systems != 1:
            raise ValueError(f"system holds {system.n_systems} systems: choose one, for instance system.select([0])")
        if not skin >= 0:
            raise ValueError(f"skin={skin}: must not be negative, in A")
        self.potential, self.system, self.skin = potential, system, float(skin)
        self.lists_made = 0
        self._pairs: Pairs | None = None
        self._origin: System | None = None
        self._room = 0.0  # how far particles may move before the list is made again

    @property
    def periodic(self) -> bool:
        """Whether any direction repeats."""
        return self.system.periodic

    @torch.no_grad()
    def __call__(self, positions: Any, cell: Any = None, *, stress: bool = False) -> Evaluation:
        """Energy (1,) in eV, forces (N, 3) in eV/A and on request stress (1, 3, 3) in eV/A^3.

        Args:
            positions: (N, 3) in A. cell: (3, 3) in A, if it is another one than in the last call.
        """
        like = self.system.positions
        x = torch.as_tensor(positions, dtype=like.dtype, device=like.device)
        if x.shape != like.shape:
            raise ValueError(f"positions has shape {tuple(x.shape)}, expected {tuple(like.shape)}")
        lattice = self.system.cell if cell is None else torch.as_tensor(cell, dtype=like.dtype, device=like.device)[None]
        self.system = replace(self.system, positions=x, cell=lattice)
        return energy_forces(self.potential, self.system, self._list(), stress=stress)

    def _list(self) -> Pairs | None:
        if not self.potential.cutoff > 0:
            return None
        if self._origin is None or self._strayed(self._origin):
            reach = self.potential.cutoff + self.skin
            if self.periodic:  # a list of nearest images only reaches half the width; wider ones are slower
                half = float(periodic_widths(self.system.cell, self.system.pbc).min()) / 2
                reach = max(self.potential.cutoff, min(reach, half))
            self._pairs, self._origin = neighbors(self.system, reach), self.system
            self._room = (reach - self.potential.cutoff) / 2
            self.lists_made += 1
        return self._pairs

    def _strayed(self, origin: System) -> bool:
        if not torch.equal(origin.cell, self.system.cell):
            return True
        moved: Tensor = (self.system.positions - origin.positions).square().sum(-1).max()
        return bool(moved > self._room**2) or self._room == 0.0
