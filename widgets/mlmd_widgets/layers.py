"""``Layer``: what both the painter and the viewer draw, a set of balls and sticks that moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from mlmd.observables import superpose
from mlmd_widgets import theme

if TYPE_CHECKING:
    import mdtraj

# Colours of the elements where atoms are not painted by bead: the customary ones, muted; carbon light enough for dark themes.
ELEMENT_COLORS = {"H": "#F2F2F2", "C": "#8C8C8C", "N": "#3B6FD4", "O": "#D9382E", "S": "#D9B22E", "P": "#E07B28", "F": "#7BC96F"}
OTHER_ELEMENT = "#B07AA1"
# Van der Waals radii, A (Bondi, J. Phys. Chem. 1964, 68, 441), scaled for balls and sticks where drawn.
ELEMENT_RADII = {"H": 1.20, "C": 1.70, "N": 1.55, "O": 1.52, "S": 1.80, "P": 1.80, "F": 1.47}
BALL_SCALE, STICK_RADIUS, BEAD_STICK_RADIUS = 0.24, 0.13, 0.16


@dataclass(frozen=True, eq=False)
class Layer:
    """Balls joined by sticks, for F frames.

    | field | shape | meaning |
    |---|---|---|
    | name | | shown beside the switch of the layer |
    | positions | F n 3 | A |
    | radii | n | A |
    | colors | n | "#RRGGBB" |
    | labels | n | name of each ball |
    | bonds | pairs | sticks |
    | stick | | radius of the sticks, A; 0: no sticks |
    | opacity | | 0 ... 1 |
    | visible | | whether it is shown at first |
    | labelled | | whether the labels are written on the balls |
    """

    name: str
    positions: np.ndarray
    radii: np.ndarray
    colors: tuple[str, ...]
    labels: tuple[str, ...]
    bonds: tuple[tuple[int, int], ...] = ()
    stick: float = STICK_RADIUS
    opacity: float = 1.0
    visible: bool = True
    labelled: bool = False

    def __post_init__(self) -> None:
        x = np.asarray(self.positions, dtype=np.float32)
        if x.ndim == 2:
            x = x[None]
        if x.ndim != 3 or x.shape[2] != 3:
            raise ValueError(f"positions of layer {self.name!r} has shape {x.shape}, expected (frames, balls, 3)")
        n = x.shape[1]
        for field in ("radii", "colors", "labels"):
            if len(getattr(self, field)) != n:
                raise ValueError(f"layer {self.name!r}: {field} has {len(getattr(self, field))} entries for {n} balls")
        if not np.isfinite(x).all():
            raise ValueError(f"positions of layer {self.name!r} are not finite: leave those frames out")
        object.__setattr__(self, "positions", x)
        object.__setattr__(self, "radii", np.asarray(self.radii, dtype=np.float32))

    def __len__(self) -> int:
        return len(self.positions)

    def frame(self, index: int) -> Layer:
        """The same layer with one frame."""
        return replace(self, positions=self.positions[index : index + 1])


def atom_layer(
    positions: np.ndarray, topology: mdtraj.Topology, beads: Sequence[int] | None = None, name: str = "atoms", opacity: float = 1.0
) -> Layer:
    """Atoms as balls and sticks, coloured by element, or by the bead (``beads[atom]``, -1: none) that they belong to."""
    symbols = [a.element.symbol if a.element is not None else "C" for a in topology.atoms]
    radii = [BALL_SCALE * ELEMENT_RADII.get(s, 1.6) for s in symbols]
    if beads is None:
        colors = [ELEMENT_COLORS.get(s, OTHER_ELEMENT) for s in symbols]
    else:
        if len(beads) != len(symbols):
            raise ValueError(f"beads has {len(beads)} entries for {len(symbols)} atoms")
        colors = [theme.bead_color(int(b)) if b >= 0 else theme.PALE for b in beads]
    labels = tuple(f"{a.residue.name}{a.residue.resSeq} {a.name}" for a in topology.atoms)
    bonds = tuple((a.index, b.index) for a, b in topology.bonds)
    return Layer(name, positions, np.array(radii), tuple(colors), labels, bonds, STICK_RADIUS, opacity)


def bead_layer(
    positions: np.ndarray,
    bonds: Sequence[tuple[int, int]] = (),
    radii: np.ndarray | float = 0.9,
    names: Sequence[str] | None = None,
    colors: Sequence[str] | None = None,
    name: str = "beads",
    opacity: float = 0.4,
) -> Layer:
    """Beads as translucent spheres, coloured by their index unless ``colors`` says otherwise."""
    x = np.asarray(positions)
    n = x.shape[-2]
    names = [str(i + 1) for i in range(n)] if names is None else list(names)
    colors = [theme.bead_color(i) for i in range(n)] if colors is None else list(colors)
    radii = np.broadcast_to(np.asarray(radii, dtype=np.float32), (n,)).copy()
    return Layer(
        name, x, radii, tuple(colors), tuple(names), tuple((i, j) for i, j in bonds), BEAD_STICK_RADIUS, opacity, labelled=True
    )


def bead_radii(atoms: np.ndarray, beads: np.ndarray, groups: Sequence[int]) -> np.ndarray:
    """Radius of each bead so that it hugs its atoms: 0.5 A plus their root-mean-square distance from it, A.

    atoms (F, n, 3), beads (F, N, 3), groups (n,): bead of each atom.
    """
    owner = np.asarray(groups)
    out = np.full(beads.shape[-2], 0.5, dtype=np.float32)
    for b in range(len(out)):
        members = np.flatnonzero(owner == b)
        if members.size:
            away = atoms[:, members] - beads[:, b : b + 1]
            out[b] += float(np.sqrt((away**2).sum(-1).mean()))
    return np.clip(out, 0.75, None)


def superposed(positions: np.ndarray, onto: np.ndarray | None = None, followers: np.ndarray | None = None) -> np.ndarray:
    """All frames turned and shifted, by least squares, onto ``onto`` (default: the first frame).

    positions (F, n, 3), onto (n, 3), A. With ``followers`` (F, m, 3), for instance the beads of the atoms, what comes back
    are the followers, turned as the positions were.
    """
    x = torch.as_tensor(np.asarray(positions), dtype=torch.float64)
    target = x[0] if onto is None else torch.as_tensor(np.asarray(onto), dtype=torch.float64)
    if followers is None:
        return superpose(x, target).numpy()
    y = torch.as_tensor(np.asarray(followers), dtype=torch.float64)
    weights = torch.cat([torch.ones(x.shape[1]), torch.zeros(y.shape[1])]).double()
    padded = torch.cat([target, torch.zeros_like(y[0])])
    return superpose(torch.cat([x, y], 1), padded, weights)[:, x.shape[1] :].numpy()
