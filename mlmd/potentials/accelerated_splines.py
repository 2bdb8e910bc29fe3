"""Splines of bonds, angles, cosines and dihedrals of whole molecules as one compiled loop, for long runs on a CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mlmd import jit
from mlmd.neighbors.pairs import Pairs
from mlmd.potentials.accelerated_bonded import SINE, fits_loops
from mlmd.potentials.bonded import (
    STRAIGHT,
    Bonded,
    SplineAngles,
    SplineBonds,
    SplineCosines,
    SplineDihedrals,
    SplineTorsions,
    _Spline,
)
from mlmd.potentials.compose import Potential
from mlmd.store import configurable
from mlmd.system import System

SPLINES = (SplineBonds, SplineAngles, SplineCosines, SplineDihedrals, SplineTorsions)  # by their number in the compiled loop


@dataclass(frozen=True, eq=False)
class _Table:
    """All terms of a molecule: law (K,) numbers as in ``SPLINES``, beads (K, 4), row of their first polynomial (K,), number of intervals
    (K,), start and 1 / spacing (K, 2), polynomials (., 4) of the place in an interval; what they are from."""

    law: NDArray[np.int64]
    beads: NDArray[np.int64]
    first: NDArray[np.int64]
    intervals: NDArray[np.int64]
    grid: NDArray[np.float64]
    polynomials: NDArray[np.float64]
    held: list[dict[str, Any]]
    seen: Tensor

    def fits(self) -> bool:
        """Whether the coefficients are still those it was made from; asked at every step, so all of them are compared at once."""
        now = _joined(self.held)
        return now.dtype == self.seen.dtype and torch.equal(now, self.seen)


@configurable
class AcceleratedSplines(Potential):
    r"""Splines of bonds, angles, their cosines and dihedrals, :math:`E=\sum\sum_kc_kB_k(q)`, summed by a compiled loop without a graph.

    With a graph, on a GPU and where numba is not installed it is the given potential itself. The polynomials are those of the
    splines: nothing is tabulated.

    Raises:
        ValueError: if the potential holds other laws.
    """

    def __init__(self, bonded: Bonded):
        super().__init__()
        if not all_splines(bonded):
            laws = [type(law).__name__ for law in bonded.laws]
            raise ValueError(f"laws={laws}: only {', '.join(s.__name__ for s in SPLINES)} have a compiled loop here")
        self.bonded = bonded
        self._table: _Table | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_table": None}  # type: ignore[misc]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._table = None
        super()._load_from_state_dict(*args, **kwargs)

    def forward(self, system: System, pairs: Pairs | None = None) -> Tensor:
        """Energy of every system, (S,), in eV."""
        return self.bonded(system, pairs)

    def analytic(self, system: System, pairs: Pairs | None = None) -> tuple[Tensor, Tensor]:
        """Energy (S,) and forces (N, 3), summed in double precision."""
        x, size = system.positions.detach(), self.bonded.coordinates.size
        if not fits_loops(system, size):
            return self.bonded.analytic(system, pairs)
        t = self._table
        if t is None or not t.fits():
            t = self._table = _table(self.bonded)
        energy, forces = np.zeros(system.n_systems), np.zeros((len(x), 3))
        _sum_splines(
            x.contiguous().numpy(), system.batch.numpy(), size,
            t.law, t.beads, t.first, t.intervals, t.grid, t.polynomials, SINE, STRAIGHT, energy, forces,
        )  # fmt: skip
        return torch.from_numpy(energy).to(x.dtype), torch.from_numpy(forces).to(x.dtype)


def all_splines(bonded: nn.Module) -> bool:
    """Whether a potential consists of splines of internal coordinates alone."""
    return isinstance(bonded, Bonded) and len(bonded.laws) > 0 and all(type(law) in SPLINES for law in bonded.laws)


def _table(bonded: Bonded) -> _Table:
    law, beads, first, intervals, grid, polynomials, made = [], [], [], [], [], [], 0
    places = (bonded.coordinates.pairs, bonded.coordinates.triples, bonded.coordinates.quads)
    for spline in bonded.laws:
        number = SPLINES.index(type(spline))  # type: ignore[arg-type]
        spline = spline.turn if isinstance(spline, SplineTorsions) else spline
        assert isinstance(spline, _Spline)
        knots, index = spline.knots, places[(0, 1, 1, 2, 2)[number]][spline.rows]
        beads.append(nn.functional.pad(index, (0, 4 - index.shape[1])).numpy())
        law += [number] * len(index)
        first += (made + spline.groups * knots.intervals).tolist()
        intervals += [knots.intervals] * len(index)
        grid += [(knots.start, 1.0 / knots.spacing)] * len(index)
        polynomials.append(knots.polynomials(spline.coefficients.detach().double()).numpy())
        made += len(polynomials[-1])
    held = [law._parameters for law in bonded.laws.modules() if isinstance(law, _Spline)]
    return _Table(
        np.array(law), np.concatenate(beads), np.array(first), np.array(intervals), np.array(grid), np.concatenate(polynomials),
        held, _joined(held).clone(),
    )  # fmt: skip


def _joined(held: list[dict[str, Any]]) -> Tensor:
    """All coefficients in one row."""
    return torch.cat([parameters["coefficients"].detach().reshape(-1) for parameters in held])


@jit.jit
def _sum_splines(x, batch, size, law, beads, first, intervals, grid, polynomials, floor, straight, energy, forces):
    """Energy per system and forces of splines of the coordinates of consecutive molecules.

    Gradients in closed form; those of dihedrals after Blondel and Karplus, J. Comput. Chem. 17, 1132 (1996).
    """
    place, u, v, w = np.empty((4, 3)), np.empty(3), np.empty(3), np.empty(3)
    n1, n2 = np.empty(3), np.empty(3)
    for m in range(len(x) // size):
        start, total = m * size, 0.0
        for t in range(len(law)):
            kind = law[t]
            width = 2 if kind == 0 else (4 if kind > 2 else 3)
            for b in range(width):
                for d in range(3):
                    place[b, d] = x[start + beads[t, b], d]
            cosine = sine = ru = rv = rw = s1 = s2 = b1 = b2 = uv = wv = length = 0.0
            if kind == 0:
                for d in range(3):
                    u[d] = place[1, d] - place[0, d]
                    ru += u[d] * u[d]
                ru = np.sqrt(ru)
                q = ru
            elif kind < 3:
                for d in range(3):
                    u[d], v[d] = place[0, d] - place[1, d], place[2, d] - place[1, d]
                    ru += u[d] * u[d]
                    rv += v[d] * v[d]
                ru, rv = np.sqrt(ru), np.sqrt(rv)
                for d in range(3):
                    u[d] /= ru
                    v[d] /= rv
                    cosine += u[d] * v[d]
                cosine = min(max(cosine, -1.0), 1.0)
                sine = np.sqrt(max(1.0 - cosine * cosine, floor))
                q = cosine if kind == 2 else np.arctan2(sine, cosine)
            else:
                for d in range(3):
                    u[d], v[d], w[d] = place[1, d] - place[0, d], place[2, d] - place[1, d], place[3, d] - place[2, d]
                for d in range(3):
                    e, f = (d + 1) % 3, (d + 2) % 3
                    n1[d], n2[d] = u[e] * v[f] - u[f] * v[e], v[e] * w[f] - v[f] * w[e]
                top = bottom = 0.0
                for d in range(3):
                    ru += u[d] * u[d]
                    rv += v[d] * v[d]
                    rw += w[d] * w[d]
                    uv += u[d] * v[d]
                    wv += w[d] * v[d]
                    s1 += n1[d] * n1[d]
                    s2 += n2[d] * n2[d]
                    top += u[d] * n2[d]
                    bottom += n1[d] * n2[d]
                length = np.sqrt(rv)
                q = np.arctan2(length * top, bottom)
                b1, b2 = s1, s2
                s1, s2 = max(s1, floor * ru * rv), max(s2, floor * rw * rv)
            s = (q - grid[t, 0]) * grid[t, 1]
            k = int(np.floor(s))
            if kind > 2:
                s -= k
                k %= intervals[t]
            else:
                k = min(max(k, 0), intervals[t] - 1)
                s -= k
            inside = min(max(s, 0.0), 1.0)
            row = first[t] + k
            c0, c1, c2, c3 = polynomials[row, 0], polynomials[row, 1], polynomials[row, 2], polynomials[row, 3]
            slope = c1 + inside * (2.0 * c2 + inside * 3.0 * c3)
            energy_here = c0 + inside * (c1 + inside * (c2 + inside * c3)) + slope * (s - inside)
            slope *= grid[t, 1]
            f1 = f2 = 1.0
            if kind == 4:
                bent1, bent2 = b1 / (ru * rv), b2 / (rw * rv)  # squared sines
                f1, f2 = bent1 / (bent1 + straight), bent2 / (bent2 + straight)
                slope *= f1 * f2
            total += f1 * f2 * energy_here
            i, j = start + beads[t, 0], start + beads[t, 1]
            if kind == 0:
                for d in range(3):
                    pull = slope * u[d] / ru
                    forces[i, d] += pull
                    forces[j, d] -= pull
            elif kind < 3:  # grad theta = (cos u - v) / (|u| sin), and grad cos = -sin grad theta
                o = start + beads[t, 2]
                slope = -slope if kind == 2 else slope / sine
                for d in range(3):
                    a, b = -slope * (cosine * u[d] - v[d]) / ru, -slope * (cosine * v[d] - u[d]) / rv
                    forces[i, d] += a
                    forces[o, d] += b
                    forces[j, d] -= a + b
            else:
                o, p = start + beads[t, 2], start + beads[t, 3]
                for d in range(3):
                    a, b = slope * length / s1 * n1[d], -slope * length / s2 * n2[d]  # forces on the two ends
                    inner = -(uv / rv) * a + (wv / rv) * b
                    forces[i, d] += a
                    forces[p, d] += b
                    forces[j, d] += -a + inner
                    forces[o, d] += -b - inner
                if kind == 4:  # the fading depends on the cosines at beads 1 and 2, -u.v/|u||v| and -v.w/|v||w|
                    lu, lv, lw = np.sqrt(ru), length, np.sqrt(rw)
                    cos1, cos2 = -uv / (lu * lv), -wv / (lw * lv)
                    e1 = -2.0 * cos1 * energy_here * f2 * straight / (bent1 + straight) ** 2
                    e2 = -2.0 * cos2 * energy_here * f1 * straight / (bent2 + straight) ** 2
                    for d in range(3):
                        du = e1 * (-v[d] / (lu * lv) - cos1 * u[d] / ru)
                        dw = e2 * (-v[d] / (lw * lv) - cos2 * w[d] / rw)
                        dv = e1 * (-u[d] / (lu * lv) - cos1 * v[d] / rv) + e2 * (-w[d] / (lw * lv) - cos2 * v[d] / rv)
                        forces[i, d] += du
                        forces[j, d] += dv - du
                        forces[o, d] += dw - dv
                        forces[p, d] -= dw
        energy[batch[start]] += total
