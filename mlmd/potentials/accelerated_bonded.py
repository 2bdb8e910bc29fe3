"""Harmonic bonds and angles of whole molecules as one compiled loop, for long runs on a CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mlmd import jit
from mlmd.neighbors.pairs import Pairs
from mlmd.potentials.bonded import Bonded, CosineAngles, HarmonicAngles, HarmonicBonds
from mlmd.potentials.compose import Potential
from mlmd.store import configurable
from mlmd.system import System

SINE = 1e-6  # squared-sine floor, as in the closed-form gradients of the coordinates
NUMPY: dict[torch.dtype, np.dtype[Any]] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


def numbers_of(modules: list[nn.Module]) -> list[Tensor]:
    """All parameters and buffers as they are now; five times faster than ``parameters()``, as it is called at every step."""
    return [v for m in modules for held in (m._parameters, m._buffers) for v in held.values() if v is not None]


def unchanged(now: list[Tensor], before: list[Tensor]) -> bool:
    """Whether two lists of tensors hold the same numbers in the same precision."""
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(now, before, strict=True))


@dataclass(frozen=True, eq=False)
class _Terms:
    """Atoms (K, 2) and (K, 3), force constants and centres (K, 2) of all bonds and angles; which angles are cosines; what they are from."""

    bonds: NDArray[np.uint32]
    stretch: NDArray[Any]
    angles: NDArray[np.uint32]
    bend: NDArray[Any]
    cosine: NDArray[np.bool_]
    modules: list[nn.Module]
    seen: list[Tensor]


@configurable
class AcceleratedBonded(Potential):
    r"""Harmonic bonds, harmonic angles and cosine angles, :math:`E=\sum\frac k2(q-q_0)^2`, summed by a compiled loop without a graph.

    With a graph, on a GPU and where numba is not installed it is the given potential itself.

    Raises:
        ValueError: if the potential holds other laws.
    """

    def __init__(self, bonded: Bonded):
        super().__init__()
        if not can_be_accelerated(bonded):
            laws = [type(law).__name__ for law in bonded.laws]
            raise ValueError(f"laws={laws}: only HarmonicBonds, HarmonicAngles and CosineAngles have a compiled loop")
        self.bonded = bonded
        self._terms: _Terms | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_terms": None}  # type: ignore[misc]

    def forward(self, system: System, pairs: Pairs | None = None) -> Tensor:
        """Energy of every system, (S,), in eV."""
        return self.bonded(system, pairs)

    def analytic(self, system: System, pairs: Pairs | None = None) -> tuple[Tensor, Tensor]:
        """Energy (S,) and forces (N, 3)."""
        x, size = system.positions.detach(), self.bonded.coordinates.size
        whole = len(x) % size == 0 and (system.size is None or system.size % size == 0)
        if torch.compiler.is_compiling() or x.is_cuda or x.dtype not in NUMPY or not whole or not jit.available():
            return self.bonded.analytic(system, pairs)
        t = self._terms
        if t is None or t.stretch.dtype != NUMPY[x.dtype] or not unchanged(numbers_of(t.modules), t.seen):
            t = self._terms = _terms(self.bonded, NUMPY[x.dtype])
        energy, forces = np.zeros(system.n_systems), np.zeros((len(x), 3), NUMPY[x.dtype])
        _sum_bonded(
            x.contiguous().numpy(), system.batch.numpy(), size, t.bonds, t.stretch, t.angles, t.bend, t.cosine, energy, forces
        )
        return torch.from_numpy(energy.astype(forces.dtype)), torch.from_numpy(forces)


def can_be_accelerated(bonded: nn.Module) -> bool:
    """Whether a potential consists of harmonic bonds and angles alone."""
    return isinstance(bonded, Bonded) and all(type(law) in (HarmonicBonds, HarmonicAngles, CosineAngles) for law in bonded.laws)


def _terms(bonded: Bonded, dtype: np.dtype[Any]) -> _Terms:
    def gathered(kinds: tuple[type, ...], atoms: Tensor) -> tuple[NDArray[np.uint32], NDArray[Any], NDArray[np.bool_]]:
        laws: list[Any] = [law for law in bonded.laws if isinstance(law, kinds)]
        rows = [law.rows for law in laws]
        index = atoms[torch.cat(rows)] if rows else atoms[:0]
        values = [
            torch.cat([law.k, law.c0 if isinstance(law, CosineAngles) else law.centre], 1).expand(len(law.rows), 2) for law in laws
        ]
        table = torch.cat(values).detach().double().numpy() if values else np.zeros((0, 2))
        cosine = np.repeat([isinstance(law, CosineAngles) for law in laws], [len(r) for r in rows]).astype(bool)
        return np.ascontiguousarray(index.numpy().astype(np.uint32)), np.ascontiguousarray(table.astype(dtype)), cosine

    bonds, stretch, _ = gathered((HarmonicBonds,), bonded.coordinates.pairs)
    angles, bend, cosine = gathered((HarmonicAngles, CosineAngles), bonded.coordinates.triples)
    modules: list[nn.Module] = list(bonded.laws)
    return _Terms(bonds, stretch, angles, bend, cosine, modules, [v.detach().clone() for v in numbers_of(modules)])


@jit.jit
def _sum_bonded(x, batch, size, bonds, stretch, angles, bend, cosine, energy, forces):
    """Energy per system and forces of bonds and angles in consecutive molecules."""
    half, one, zero, floor = x.dtype.type(0.5), x.dtype.type(1), x.dtype.type(0), x.dtype.type(SINE)
    for m in range(len(x) // size):
        at, f = x[m * size : (m + 1) * size], forces[m * size : (m + 1) * size]
        total = zero
        for t in range(len(bonds)):
            i, j = bonds[t, 0], bonds[t, 1]
            dx, dy, dz = at[j, 0] - at[i, 0], at[j, 1] - at[i, 1], at[j, 2] - at[i, 2]
            r = np.sqrt(dx * dx + dy * dy + dz * dz)
            off = r - stretch[t, 1]
            slope = stretch[t, 0] * off
            total += half * slope * off
            w = slope / r
            f[i, 0] += w * dx
            f[i, 1] += w * dy
            f[i, 2] += w * dz
            f[j, 0] -= w * dx
            f[j, 1] -= w * dy
            f[j, 2] -= w * dz
        for t in range(len(angles)):
            i, j, k = angles[t, 0], angles[t, 1], angles[t, 2]
            ux, uy, uz = at[i, 0] - at[j, 0], at[i, 1] - at[j, 1], at[i, 2] - at[j, 2]
            vx, vy, vz = at[k, 0] - at[j, 0], at[k, 1] - at[j, 1], at[k, 2] - at[j, 2]
            lu, lv = one / np.sqrt(ux * ux + uy * uy + uz * uz), one / np.sqrt(vx * vx + vy * vy + vz * vz)
            ux, uy, uz, vx, vy, vz = ux * lu, uy * lu, uz * lu, vx * lv, vy * lv, vz * lv
            c = min(max(ux * vx + uy * vy + uz * vz, -one), one)
            s = np.sqrt(max(one - c * c, floor))
            if cosine[t]:
                off = c - bend[t, 1]
                total += half * bend[t, 0] * off * off
                w = bend[t, 0] * off  # minus slope / sine
            else:
                off = np.arctan2(s, c) - bend[t, 1]
                total += half * bend[t, 0] * off * off
                w = -bend[t, 0] * off / s
            a, b = w * lu, w * lv  # minus the gradient: slope (c u - v) / (|u| sine) = -w lu (c u - v)
            gix, giy, giz = a * (c * ux - vx), a * (c * uy - vy), a * (c * uz - vz)
            gkx, gky, gkz = b * (c * vx - ux), b * (c * vy - uy), b * (c * vz - uz)
            f[i, 0] += gix
            f[i, 1] += giy
            f[i, 2] += giz
            f[k, 0] += gkx
            f[k, 1] += gky
            f[k, 2] += gkz
            f[j, 0] -= gix + gkx
            f[j, 1] -= giy + gky
            f[j, 2] -= giz + gkz
        energy[batch[m * size]] += total
