"""What every backmapper can do."""

from __future__ import annotations

from typing import Any, Protocol, Self

from torch import Tensor

from mlmd.backmap.molecule import Molecule
from mlmd.cg.mapping import Mapping
from mlmd.frames import Frames


class Backmapper(Protocol):
    """From beads back to atoms: fitted to atomistic frames and the map that made the beads of them."""

    molecule: Molecule

    def fit(self, frames: Frames, mapping: Mapping) -> Self:
        """Learn from atomistic frames."""
        ...

    def sample(self, beads: Any, n: int = 1, *, seed: int = 0) -> Tensor:
        """n structures for each of F sets of beads (``Frames`` or positions (F, B, 3)): (n, F, atoms, 3) in A."""
        ...
