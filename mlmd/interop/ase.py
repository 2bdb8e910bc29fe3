"""ASE: any potential as a calculator. Units there are A, eV and e as here, so that nothing is converted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from mlmd import units
from mlmd.errors import require
from mlmd.forces import Potential
from mlmd.interop.evaluator import Evaluator
from mlmd.system import System

_calculator = require("ase.calculators.calculator", extra="formats")
_Base: Any = _calculator.Calculator
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


class Calculator(_Base):
    """``atoms.calc = Calculator(potential)``: energy (eV), forces (eV/A) and, in a periodic cell, stress (eV/A^3, Voigt order).

    The neighbour list is made for cutoff + skin and kept until an atom has moved half the skin or the cell changes.

    Args:
        potential: any potential of mlmd, learned or not.
        types: type of every atom, or of every atomic number; None takes atomic numbers as types.
        skin: in A.
        dtype, device: of the calculation.

    Raises:
        ValueError: on use, if ``types`` do not fit the atoms.
        MissingExtra: on import, if ASE is absent.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress"]

    def __init__(
        self,
        potential: Potential,
        types: Sequence[int] | Mapping[int, int] | None = None,
        *,
        skin: float = 1.0,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ):
        super().__init__()
        self.potential, self.types, self.skin, self.dtype, self.device = potential, types, float(skin), dtype, device
        self._evaluator: Evaluator | None = None

    def calculate(
        self, atoms: Any = None, properties: Sequence[str] = ("energy",), system_changes: Sequence[str] = _calculator.all_changes
    ) -> None:
        """What ASE calls; fills ``results``."""
        super().calculate(atoms, properties, system_changes)
        atoms = self.atoms
        if self._evaluator is None or {"numbers", "pbc", "initial_charges"} & set(system_changes):
            self._evaluator = Evaluator(self.potential, self.system(atoms), self.skin)
        cell = atoms.cell.array if "cell" in system_changes and atoms.pbc.any() else None
        stress = "stress" in properties
        out = self._evaluator(atoms.positions, cell, stress=stress)
        energy = float(out.energy)
        self.results = {"energy": energy, "free_energy": energy, "forces": out.forces.cpu().double().numpy()}
        if out.stress is not None:
            self.results["stress"] = np.array([float(out.stress[0, a, b]) for a, b in VOIGT])

    def system(self, atoms: Any) -> System:
        """The atoms of ASE as a system; masses in eV fs^2/A^2, charges those that ASE calls initial.

        Raises:
            ValueError: not one type per atom, or an atomic number without a type.
        """
        cell = atoms.cell.array if atoms.pbc.any() else None
        charges = atoms.get_initial_charges() if atoms.has("initial_charges") else None
        x = torch.as_tensor(atoms.positions, dtype=self.dtype, device=self.device)
        masses = atoms.get_masses() * units.amu
        return System.single(x, self._types(atoms), masses, cell=cell, pbc=atoms.pbc.tolist(), charges=charges)

    def _types(self, atoms: Any) -> list[int]:
        numbers = atoms.numbers.tolist()
        if self.types is None:
            return numbers
        if isinstance(self.types, Mapping):
            unknown = sorted(set(numbers) - set(self.types))
            if unknown:
                raise ValueError(f"types has no entry for the atomic numbers {unknown}: it knows {sorted(self.types)}")
            return [self.types[z] for z in numbers]
        if len(self.types) != len(numbers):
            raise ValueError(f"types holds {len(self.types)} types for {len(numbers)} atoms: give one each")
        return [int(t) for t in self.types]
