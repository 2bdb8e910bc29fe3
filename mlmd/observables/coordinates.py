"""``Coordinate``: one named internal coordinate of a molecule, to be histogrammed or used as a collective variable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from mlmd.observables.geometry import angles, dihedrals, distances, radius_of_gyration

Kind = Literal["distance", "angle", "dihedral", "rg"]
_SIZES = {"distance": 2, "angle": 3, "dihedral": 4, "rg": 0}


@dataclass(frozen=True)
class Coordinate:
    """A distance (A), angle, dihedral (radian) of given particles, or the radius of gyration (A, equal masses, no particles)."""

    kind: Kind
    particles: tuple[int, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        if self.kind not in _SIZES:
            raise ValueError(f"kind={self.kind!r}: choose one of {sorted(_SIZES)}")
        if len(self.particles) != _SIZES[self.kind]:
            raise ValueError(f"particles={self.particles}: a {self.kind} needs {_SIZES[self.kind]} of them")
        if not self.name:
            object.__setattr__(self, "name", " ".join([self.kind, "-".join(map(str, self.particles))]).strip())

    @property
    def periodic(self) -> bool:
        return self.kind == "dihedral"

    @property
    def limits(self) -> tuple[float, float] | None:
        """Natural range, where there is one."""
        return (-np.pi, np.pi) if self.kind == "dihedral" else None

    @property
    def quantity(self) -> str:
        """Key of ``mlmd.units.SHOWN``."""
        return "angle" if self.kind in ("angle", "dihedral") else "length"

    def __call__(self, x: Tensor, cell: Tensor | None = None) -> Tensor:
        """Values (...,) for positions (..., n, 3)."""
        if self.kind == "rg":
            return radius_of_gyration(x)
        measure = {"distance": distances, "angle": angles, "dihedral": dihedrals}[self.kind]
        return measure(x, [self.particles], cell)[..., 0]
