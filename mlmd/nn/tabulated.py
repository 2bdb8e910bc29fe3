"""A trained SchNet made fast for simulation: filters from a table, forces by a reverse pass written out.

The filters of SchNet are functions of one distance. Once training is over they can be tabulated, and an evaluation needs no
filter network, no autograd and no array of the size pairs x features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from scipy.linalg import solve_banded
from torch import Tensor, nn
from torch.nn.functional import softplus

from mlmd import jit
from mlmd.forces import energy_forces
from mlmd.neighbors.pairs import Pairs
from mlmd.nn import kernels
from mlmd.nn.edges import Edges, edges_within
from mlmd.nn.near import Near
from mlmd.nn.radial import slope_of
from mlmd.nn.schnet import SchNet
from mlmd.potentials.compose import Potential, need_pairs
from mlmd.segment import segment_sum
from mlmd.store import configurable
from mlmd.system import System

LOG2 = math.log(2.0)
FINEST = 0.00125  # A; below it single precision sets the error, and the table leaves the cache


@dataclass(frozen=True)
class ForceError:
    """Force components of a potential against those of a reference in double precision, eV/A: largest and RMS error, RMS force."""

    largest: float
    rms: float
    scale: float


def force_error(potential: Any, reference: nn.Module, system: System, pairs: Pairs) -> ForceError:
    """How far the forces of ``potential`` are from those of ``reference``, the latter evaluated in double precision."""
    with torch.no_grad():
        ours = energy_forces(potential, system, pairs).forces.double()
        exact = energy_forces(deepcopy(reference).double(), system.to(torch.float64), pairs).forces  # type: ignore[arg-type]
    error = ours - exact
    return ForceError(float(error.abs().max()), float(error.square().mean().sqrt()), float(exact.square().mean().sqrt()))


def spline_table(function: Callable[[Tensor], Tensor], cutoff: float, cells: int) -> Tensor:
    r"""Coefficients c (cells + 3, F) of the cubic spline through a function (P,) -> (P, F) on [0, cutoff], double precision.

    :math:`W(r)=\sum_{m=0}^3B_m(t)\,c_{k+m},\ k=\lfloor r/h\rfloor,\ t=r/h-k`, with the uniform cubic B-splines
    :math:`B_0=(1-t)^3/6,\ B_1=(3t^3-6t^2+4)/6,\ B_2(t)=B_1(1-t),\ B_3=t^3/6`. It meets the function at all nodes and its slope at both
    ends; two derivatives are continuous, the error is :math:`h^4/384` times the fourth derivative (de Boor, A Practical Guide to
    Splines, 1978).
    """
    r = torch.linspace(0.0, cutoff, cells + 1, dtype=torch.float64)
    value, slope = function(r).detach(), slope_of(function, r[[0, -1]])
    h = cutoff / cells
    bands = np.zeros((5, cells + 3))  # bands[2 + row - column, column]
    bands[1, 2:], bands[2, 1:-1], bands[3, :-2] = 1.0, 4.0, 1.0
    bands[2, 0], bands[1, 1], bands[0, 2] = -1.0, 0.0, 1.0
    bands[4, -3], bands[3, -2], bands[2, -1] = -1.0, 0.0, 1.0
    right = torch.cat([2 * h * slope[:1], 6 * value, 2 * h * slope[1:]])
    return torch.from_numpy(solve_banded((2, 2), bands, right.numpy()))


def spline_weights(r: Tensor, cutoff: float, cells: int) -> tuple[Tensor, Tensor]:
    """First coefficient (P,) and the four weights (P, 4) of the spline at distances (P,); zero from the cutoff on."""
    u = r * (cells / cutoff)
    k = u.detach().floor().clamp(0, cells - 1).nan_to_num()
    t = (u - k).clamp(max=1.0)
    s = 1.0 - t
    weights = torch.stack([s * s * s, t * t * (3.0 * t - 6.0) + 4.0, s * s * (3.0 * s - 6.0) + 4.0, t * t * t], 1) / 6.0
    return k.long(), torch.where((r >= cutoff)[:, None], torch.zeros_like(weights), weights)


def spline_slopes(r: Tensor, cutoff: float, cells: int) -> tuple[Tensor, Tensor]:
    """The same for the derivative of the spline by the distance."""
    u = r * (cells / cutoff)
    k = u.floor().clamp(0, cells - 1).nan_to_num()
    t = (u - k).clamp(max=1.0)
    s = 1.0 - t
    slopes = torch.stack([-0.5 * s * s, t * (1.5 * t - 2.0), -s * (1.5 * s - 2.0), 0.5 * t * t], 1) * (cells / cutoff)
    return k.long(), torch.where((r >= cutoff)[:, None], torch.zeros_like(slopes), slopes)


def spline_rows(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """(P, F) weighted sums of four consecutive rows of the table (cells + 3, F)."""
    out = weights[:, :1] * table.index_select(0, rows)
    for m in range(1, 4):
        out = out + weights[:, m : m + 1] * table.index_select(0, rows + m)
    return out


class _Filters(Protocol):
    """Tabulated filters of one configuration, as the two passes use them."""

    def push(self, t: int, sent: Tensor) -> Tensor:
        """Messages of interaction t."""
        ...

    def pull(self, t: int, sent: Tensor, grad: Tensor, need: bool) -> Tensor:
        """Gradient by ``sent``; collects the one by the distances."""
        ...

    def forces(self) -> Tensor:
        """(N, 3) from the collected slopes."""
        ...


class NearSplines(Near):
    """With the weights and slopes of the splines at every distance, (2, P, 4), and the first row of the table in ``index``."""

    def __init__(self, system: System, pairs: Pairs, cutoff: float, tables: Tensor):
        super().__init__(system, pairs, cutoff)
        cells = tables.shape[1] - 3
        self.spline = tables.new_empty(2, len(self.distance), 4).numpy()
        kernels.place_splines(self.distance, self.count, cells / cutoff, cells, self.index, self.spline)


class _Loops:
    """By compiled loops over the pairs, on a CPU."""

    def __init__(self, system: System, pairs: Pairs, cutoff: float, tables: Tensor):
        self.system, self.tables, self.near = system, tables, NearSplines(system, pairs, cutoff, tables)
        self.dr = tables.new_zeros(self.near.count).numpy()

    def push(self, t: int, sent: Tensor) -> Tensor:
        out = torch.zeros_like(sent)
        near = self.near
        kernels.sum_messages(near.index, near.spline, near.count, self.tables[t].numpy(), sent.numpy(), out.numpy())
        return out

    def pull(self, t: int, sent: Tensor, grad: Tensor, need: bool) -> Tensor:
        out, near = torch.zeros_like(sent), self.near
        where = (near.index, near.spline, near.count, self.tables[t].numpy())
        kernels.pull_messages(*where, sent.numpy(), grad.numpy(), need, out.numpy(), self.dr)
        return out

    def forces(self) -> Tensor:
        out = torch.zeros_like(self.system.positions)
        kernels.pair_forces(self.near.index, self.near.vector, self.near.count, self.dr, out.numpy())
        return out


class _Tensors:
    """By torch, on any device and inside ``torch.compile``."""

    def __init__(self, edges: Edges, cutoff: float, tables: Tensor):
        self.edges, self.tables = edges, tables
        r, cells = edges.r.to(tables.dtype), tables.shape[1] - 3
        self.rows, weights = spline_weights(r, cutoff, cells)
        self.slopes = spline_slopes(r, cutoff, cells)[1]
        self.filters = [spline_rows(table, self.rows, weights) for table in tables.unbind(0)]
        self.dr = torch.zeros_like(r)

    def push(self, t: int, sent: Tensor) -> Tensor:
        return self.edges.sum_messages(self.filters[t], sent)

    def pull(self, t: int, sent: Tensor, grad: Tensor, need: bool) -> Tensor:
        i, j = self.edges.i, self.edges.j
        both = grad.index_select(0, i) * sent.index_select(0, j)
        if self.edges.once:
            both = both + grad.index_select(0, j) * sent.index_select(0, i)
        self.dr = self.dr + (spline_rows(self.tables[t], self.rows, self.slopes) * both).sum(1)
        return self.edges.sum_messages(self.filters[t], grad) if need else grad

    def forces(self) -> Tensor:
        e = self.edges
        f = e.vector * (self.dr.to(e.r.dtype) / e.r.clamp(min=1e-10))[:, None]
        return torch.zeros_like(e.vector[:1]).expand(e.n, 3).index_add(0, e.i, f).index_add(0, e.j, -f)


def intervals(cutoff: float, spacing: float) -> int:
    """Number of intervals of a table, at most ``spacing`` wide.

    Raises:
        ValueError: if the spacing is not positive or leaves fewer than 8.
    """
    if not 0 < spacing <= cutoff / 8:
        raise ValueError(f"spacing={spacing}: give a positive fraction of the cutoff {cutoff} A, at most an eighth")
    return math.ceil(cutoff / spacing - 1e-9)


@configurable
class TabulatedSchNet(Potential):
    r"""A frozen copy of a :class:`~mlmd.nn.schnet.SchNet` whose filters :math:`W_t(r)` are cubic splines of the distance.

    Energy and forces belong together exactly: the forces are those of the splined energy, so that energy is conserved as with the
    network itself; what differs from the network is measured by :func:`force_error`. Without a graph the forces come from
    :meth:`analytic`, a reverse pass written out, in which loops compiled by numba (the extra ``fast``) visit every pair once;
    without numba or off the CPU the same sums are made by torch. With a graph, and for the stress, autograd is used.

    It has no parameters: later training of the network does not reach it.

    Args:
        net: the trained network; its precision is kept.
        spacing: of the table in A, rounded down to divide the cutoff.

    Raises:
        ValueError: if the spacing is not positive or leaves fewer than 8 intervals.
    """

    tables: Tensor
    embedding: Tensor
    first: Tensor
    senders: Tensor
    inner: Tensor
    inner_bias: Tensor
    outer: Tensor
    outer_bias: Tensor
    head: Tensor
    head_bias: Tensor
    weight: Tensor
    constant: Tensor
    measured: Tensor

    def __init__(self, net: SchNet, spacing: float = 0.005):
        super().__init__()
        self.cutoff, self.interactions = float(net.cutoff), int(net.interactions)
        dtype = net.embedding.weight.dtype
        cells = intervals(self.cutoff, spacing)
        for name, value in _weights(deepcopy(net).double().cpu().requires_grad_(False), cells).items():
            self.register_buffer(name, value.to(dtype).contiguous())
        self.register_buffer("measured", torch.full((3,), float("nan"), dtype=torch.float64))
        self.to(net.embedding.weight.device)

    @property
    def spacing(self) -> float:
        """Of the table in A."""
        return self.cutoff / (self.tables.shape[1] - 3)

    @property
    def error(self) -> ForceError | None:
        """What :func:`tabulated` measured against the network, None if nothing was measured."""
        return None if bool(self.measured.isnan().any()) else ForceError(*self.measured.tolist())

    def forward(self, system: System, pairs: Pairs | None) -> Tensor:
        """Energy of every system, (S,), in eV."""
        filters = _Tensors(edges_within(system, need_pairs(pairs, self), self.cutoff), self.cutoff, self.tables)
        return self._push(system, filters)[0]

    def analytic(self, system: System, pairs: Pairs | None) -> tuple[Tensor, Tensor]:
        r"""Energy (S,) and forces (N, 3) without autograd.

        With :math:`\gamma=\partial E/\partial m^t` and :math:`y=C_th`, the reverse of an interaction is
        :math:`\partial E/\partial y_i=\sum_jW_t(r_{ij})\odot\gamma_j` and
        :math:`\partial E/\partial r_{ij}\mathrel{+}=W_t'(r_{ij})\cdot(\gamma_i\odot y_j+\gamma_j\odot y_i)`.
        """
        filters = self._filters(system, need_pairs(pairs, self))
        energy, last, saved = self._push(system, filters)
        grad = (torch.sigmoid(last) * self.weight) @ self.head
        senders, inner, outer = (w.unbind(0) for w in (self.senders, self.inner, self.outer))
        for t in range(self.interactions - 1, -1, -1):
            sent, hidden = saved[t]
            message_grad = ((grad @ outer[t]) * torch.sigmoid(hidden)) @ inner[t]
            pulled = filters.pull(t, sent, message_grad, t > 0)
            if t > 0:
                grad = torch.addmm(grad, pulled, senders[t])
        return energy, filters.forces()

    def _filters(self, system: System, pairs: Pairs) -> _Filters:
        if jit.available() and not torch.compiler.is_compiling() and self.tables.device.type == "cpu":
            return _Loops(system, pairs, self.cutoff, self.tables)
        return _Tensors(edges_within(system, pairs, self.cutoff), self.cutoff, self.tables)

    def _push(self, system: System, filters: _Filters) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        """Energy (S,), the hidden layer of the readout, and per interaction what was sent and the hidden layer of the update."""
        h, sent = self.embedding.index_select(0, system.types), self.first.index_select(0, system.types)
        layers = (self.senders, self.inner, self.inner_bias, self.outer, self.outer_bias)
        saved = []
        for t, (sender, inner, inner_bias, outer, outer_bias) in enumerate(zip(*(w.unbind(0) for w in layers))):
            sent = h @ sender.T if t else sent
            hidden = torch.addmm(inner_bias, filters.push(t, sent), inner.T)
            h = torch.addmm(outer_bias, softplus(hidden), outer.T) + h
            saved.append((sent, hidden))
        last = torch.addmm(self.head_bias, h, self.head.T)
        energy = (softplus(last) @ self.weight + self.constant).to(system.positions.dtype)
        return segment_sum(energy, system.batch, system.n_systems), last, saved


def _weights(net: SchNet, cells: int) -> dict[str, Tensor]:
    """All that an evaluation needs; the shift of the softplus, ln 2, is moved into the bias of the layer that follows."""
    updates: Any = net.updates
    head, last = net.readout[0], net.readout[2]
    senders = torch.stack([s.weight for s in net.senders])  # type: ignore[misc]

    def tabulated(filter: nn.Module) -> Tensor:
        return spline_table(lambda r: filter(net.radial(r)) * net.envelope(r)[:, None], net.cutoff, cells)

    return {
        "tables": torch.stack([tabulated(filter) for filter in net.filters]),
        "embedding": net.embedding.weight,
        "first": net.embedding.weight @ senders[0].T,
        "senders": senders,
        "inner": torch.stack([u[0].weight for u in updates]),
        "inner_bias": torch.stack([u[0].bias for u in updates]),
        "outer": torch.stack([u[2].weight for u in updates]),
        "outer_bias": torch.stack([u[2].bias - LOG2 * u[2].weight.sum(1) for u in updates]),
        "head": head.weight,  # type: ignore[dict-item]
        "head_bias": head.bias,  # type: ignore[dict-item]
        "weight": last.weight[0],  # type: ignore[index]
        "constant": last.bias[0] - LOG2 * last.weight.sum(),  # type: ignore[index, operator]
    }


def tabulated(net: SchNet, system: System, pairs: Pairs, tolerance: float = 1e-4) -> TabulatedSchNet:
    """The network with the coarsest table whose largest force error on ``system`` is at most ``tolerance`` times the RMS force.

    Spacings 0.02, 0.01 ... 0.00125 A are tried; the error against the network in double precision, rounding included, is kept in
    ``.error``. ``system`` should hold configurations as the simulation will meet them, a hundred frames of the data for instance.

    Raises:
        ValueError: if no spacing reaches the tolerance, naming the error of the finest.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance={tolerance}: must be positive, a fraction of the RMS force")
    spacing = min(0.02, net.cutoff / 8)
    while True:
        potential = TabulatedSchNet(net, spacing)
        error = force_error(potential, net, system, pairs)
        potential.measured.copy_(torch.tensor([error.largest, error.rms, error.scale], dtype=torch.float64))
        if error.largest <= tolerance * error.scale:
            return potential
        if spacing <= FINEST:
            reached = error.largest / error.scale if error.scale > 0 else float("inf")
            raise ValueError(
                f"tolerance={tolerance}: a table of {potential.spacing:.4g} A reaches {reached:.1e} of the RMS force; "
                "raise the tolerance, or tabulate net.double()"
            )
        spacing = max(0.5 * spacing, FINEST)
