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

LANES = 16  # molecules that the compiled loop moves along together: a vector register of single precision
SINE = 1e-6  # squared-sine floor, as in the closed-form gradients of the coordinates
NUMPY: dict[torch.dtype, np.dtype[Any]] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


def numbers_of(modules: list[nn.Module]) -> list[Tensor]:
    """All parameters and buffers as they are now; five times faster than ``parameters()``, as it is called at every step."""
    return [v for m in modules for held in (m._parameters, m._buffers) for v in held.values() if v is not None]


class Snapshot:
    """The parameters and buffers of modules as they were once, and whether they still are: asked at every step.

    Whatever may have happened to them is noticed: other tensors in their place, other memory, other numbers in it.
    """

    def __init__(self, modules: list[nn.Module]):
        self.modules, self.tensors = modules, numbers_of(modules)
        self.places = [v.data_ptr() for v in self.tensors]
        self.views = [v.detach().cpu().numpy() for v in self.tensors]
        self.bytes = [v.tobytes() for v in self.views]

    def holds(self) -> bool:
        """Whether all of them are the same tensors with the same numbers."""
        now = numbers_of(self.modules)
        return len(now) == len(self.tensors) and all(
            v is old and v.data_ptr() == place and view.tobytes() == number
            for v, old, place, view, number in zip(now, self.tensors, self.places, self.views, self.bytes)
        )


@dataclass(frozen=True, eq=False)
class _Terms:
    """Atoms (K, 2) and (K, 3), force constants and centres (K, 2) of all bonds and angles; which angles are cosines; what they are from."""

    bonds: NDArray[np.uint32]
    stretch: NDArray[Any]
    angles: NDArray[np.uint32]
    bend: NDArray[Any]
    cosine: NDArray[np.bool_]
    source: Snapshot


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
        if not fits_loops(system, size):
            return self.bonded.analytic(system, pairs)
        t = self._terms
        if t is None or t.stretch.dtype != NUMPY[x.dtype] or not t.source.holds():
            t = self._terms = _terms(self.bonded, NUMPY[x.dtype])
        energy, forces = np.zeros(system.n_systems), np.zeros((len(x), 3), NUMPY[x.dtype])
        _sum_bonded(
            x.contiguous().numpy(), system.batch.numpy(), size, t.bonds, t.stretch, t.angles, t.bend, t.cosine, energy, forces
        )
        return torch.from_numpy(energy.astype(forces.dtype)), torch.from_numpy(forces)


def fits_loops(system: System, size: int) -> bool:
    """Whether compiled loops over molecules of ``size`` particles can run: numba, the CPU, whole molecules, no tracing."""
    x = system.positions
    whole = len(x) % size == 0 and (system.size is None or system.size % size == 0)
    return whole and x.dtype in NUMPY and not x.is_cuda and not torch.compiler.is_compiling() and jit.available()


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
    return _Terms(bonds, stretch, angles, bend, cosine, Snapshot(list(bonded.laws)))


@jit.jit
def _sum_bonded(x, batch, size, bonds, stretch, angles, bend, cosine, energy, forces):
    """Energy per system and forces of bonds and angles in consecutive molecules, ``LANES`` molecules at a time.

    One number of all these molecules lies in a row, so that loops over ``LANES`` become vector instructions; they read and write few
    arrays each, because the compiler has to prove that none overlap.
    """

    def add(some, sign, rows):
        for k in range(len(some)):
            rows[k] += sign * some[k]

    L, n = LANES, len(x) // size
    half, one, zero, floor = x.dtype.type(0.5), x.dtype.type(1), x.dtype.type(0), x.dtype.type(SINE)
    at, pull = np.empty(3 * size * L, x.dtype), np.empty(3 * size * L, x.dtype)
    total, p, q = np.empty(L, x.dtype), np.empty(6 * L, x.dtype), np.empty(10 * L, x.dtype)
    for first in range(0, n, L):
        held = min(L, n - first)
        for k in range(L):
            m = first + min(k, held - 1)  # the last molecule fills up the lanes
            for atom in range(size):
                for d in range(3):
                    at[(3 * atom + d) * L + k] = x[m * size + atom, d]
        pull[:] = zero
        total[:] = zero
        for t in range(len(bonds)):
            i, j = 3 * L * np.int64(bonds[t, 0]), 3 * L * np.int64(bonds[t, 1])
            a, b, stiff, centre = at[i : i + 3 * L], at[j : j + 3 * L], stretch[t, 0], stretch[t, 1]
            for k in range(L):
                dx, dy, dz = b[k] - a[k], b[L + k] - a[L + k], b[2 * L + k] - a[2 * L + k]
                r = np.sqrt(dx * dx + dy * dy + dz * dz)
                w = stiff * (r - centre) / r
                p[k], p[L + k], p[2 * L + k], p[3 * L + k] = w * dx, w * dy, w * dz, half * stiff * (r - centre) * (r - centre)
            add(p[: 3 * L], one, pull[i : i + 3 * L])
            add(p[: 3 * L], -one, pull[j : j + 3 * L])
            add(p[3 * L : 4 * L], one, total)
        for t in range(len(angles)):
            i, j, o = 3 * L * np.int64(angles[t, 0]), 3 * L * np.int64(angles[t, 1]), 3 * L * np.int64(angles[t, 2])
            a, b, c, stiff, centre = at[i : i + 3 * L], at[j : j + 3 * L], at[o : o + 3 * L], bend[t, 0], bend[t, 1]
            for k in range(L):
                ux, uy, uz = a[k] - b[k], a[L + k] - b[L + k], a[2 * L + k] - b[2 * L + k]
                vx, vy, vz = c[k] - b[k], c[L + k] - b[L + k], c[2 * L + k] - b[2 * L + k]
                lu, lv = one / np.sqrt(ux * ux + uy * uy + uz * uz), one / np.sqrt(vx * vx + vy * vy + vz * vz)
                ux, uy, uz, vx, vy, vz = ux * lu, uy * lu, uz * lu, vx * lv, vy * lv, vz * lv
                cos = min(max(ux * vx + uy * vy + uz * vz, -one), one)
                q[k], q[L + k], q[2 * L + k], q[3 * L + k], q[4 * L + k], q[5 * L + k] = ux, uy, uz, vx, vy, vz
                q[6 * L + k], q[7 * L + k], q[8 * L + k], q[9 * L + k] = lu, lv, cos, np.sqrt(max(one - cos * cos, floor))
            for k in range(held):  # q[9 L + k] becomes minus slope / sine; the library's arctangent is no vector instruction
                cos, sine = q[8 * L + k], q[9 * L + k]
                off = cos - centre if cosine[t] else np.arctan2(sine, cos) - centre
                total[k] += half * stiff * off * off
                q[9 * L + k] = stiff * off if cosine[t] else -stiff * off / sine
            for k in range(L):  # minus the gradient: slope (c u - v) / (|u| sine) = -w lu (c u - v)
                ux, uy, uz, vx, vy, vz = q[k], q[L + k], q[2 * L + k], q[3 * L + k], q[4 * L + k], q[5 * L + k]
                w, cos = q[9 * L + k], q[8 * L + k]
                e, g = w * q[6 * L + k], w * q[7 * L + k]
                p[k], p[L + k], p[2 * L + k] = e * (cos * ux - vx), e * (cos * uy - vy), e * (cos * uz - vz)
                p[3 * L + k], p[4 * L + k], p[5 * L + k] = g * (cos * vx - ux), g * (cos * vy - uy), g * (cos * vz - uz)
            add(p[: 3 * L], one, pull[i : i + 3 * L])
            add(p[3 * L :], one, pull[o : o + 3 * L])
            add(p[: 3 * L], -one, pull[j : j + 3 * L])
            add(p[3 * L :], -one, pull[j : j + 3 * L])
        for k in range(held):
            m = first + k
            energy[batch[m * size]] += total[k]
            for atom in range(size):
                for d in range(3):
                    forces[m * size + atom, d] = pull[(3 * atom + d) * L + k]
