"""A trained PaiNN made fast for simulation: filters from a table, messages and their reverse by compiled loops over pairs."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from mlmd import jit
from mlmd.neighbors.pairs import Pairs
from mlmd.nn import kernels
from mlmd.nn.edges import edges_within
from mlmd.nn.painn import PaiNN, _messages, _update
from mlmd.nn.tabulated import NearSplines, intervals, spline_rows, spline_table, spline_weights
from mlmd.potentials.compose import Potential, in_closed_form, need_pairs
from mlmd.segment import segment_sum
from mlmd.store import configurable
from mlmd.system import System


class _Messenger:
    """Geometry of one configuration, and what the reverse of the messages collects about it."""

    def __init__(self, system: System, pairs: Pairs, cutoff: float, tables: Tensor):
        self.near, self.tables, self.positions = NearSplines(system, pairs, cutoff, tables), tables, system.positions.detach()
        count = self.near.count
        self.unit, self.dr, self.du = (tables.new_zeros(count, *more).numpy() for more in ((3,), (), (3,)))
        kernels.pair_directions(self.near.vector, count, self.unit)

    def where(self, t: int) -> tuple[Any, ...]:
        """Leading arguments of the loops of interaction t."""
        return (self.near.index, self.near.spline, self.near.count, self.unit, self.tables[t].numpy())

    def forces(self) -> Tensor:
        """(N, 3), after the reverse pass."""
        out = torch.zeros_like(self.positions)
        kernels.pair_vector_forces(self.near.index, self.near.vector, self.near.count, self.dr, self.du, out.numpy())
        return out


class _PairMessages(torch.autograd.Function):
    """Messages whose reverse hands on the gradients by features and leaves those by the geometry in the messenger."""

    @staticmethod
    def forward(ctx: Any, sent: Tensor, v: Tensor, messenger: _Messenger, t: int) -> tuple[Tensor, Tensor]:
        scalars, vectors = torch.zeros_like(v[:, 0]), torch.zeros_like(v)
        kernels.sum_vector_messages(*messenger.where(t), sent.numpy(), v.numpy(), scalars.numpy(), vectors.numpy())
        ctx.save_for_backward(sent, v)
        ctx.messenger, ctx.t = messenger, t
        return scalars, vectors

    @staticmethod
    def backward(ctx: Any, gs: Tensor, gv: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[override]
        sent, v = ctx.saved_tensors
        sent_grad, v_grad, m = torch.zeros_like(sent), torch.zeros_like(v), ctx.messenger
        grads = (gs.contiguous().numpy(), gv.contiguous().numpy(), sent_grad.numpy(), v_grad.numpy())
        kernels.pull_vector_messages(*m.where(ctx.t), sent.detach().numpy(), v.detach().numpy(), *grads, m.dr, m.du)
        return sent_grad, v_grad, None, None


@configurable
class TabulatedPaiNN(Potential):
    r"""A frozen copy of a :class:`~mlmd.nn.painn.PaiNN` whose filters are cubic splines of the distance.

    As :class:`~mlmd.nn.tabulated.TabulatedSchNet`: the forces are those of the splined energy; what differs from the network is
    measured by :func:`~mlmd.nn.tabulated.force_error`. Without a graph, on a CPU and with numba, loops over pairs make the messages
    and their reverse, and autograd only sees the layers that act on single particles; else all is done by torch.

    Args:
        net: the trained network; its precision is kept.
        spacing: of the table in A, rounded down to divide the cutoff.

    Raises:
        ValueError: if the spacing is not positive or leaves fewer than 8 intervals.
    """

    tables: Tensor

    def __init__(self, net: PaiNN, spacing: float = 0.005):
        super().__init__()
        self.cutoff, self.interactions = float(net.cutoff), int(net.interactions)
        copy, exact = deepcopy(net).requires_grad_(False), deepcopy(net).double().cpu().requires_grad_(False)
        cells = intervals(self.cutoff, spacing)
        table = spline_table(lambda r: exact.filter(exact.radial(r)) * exact.envelope(r)[:, None], self.cutoff, cells)
        table = torch.stack(table.chunk(self.interactions, 1))
        self.register_buffer("tables", table.to(net.embedding.weight).contiguous())
        self.embedding, self.messages, self.mixings = copy.embedding, copy.messages, copy.mixings
        self.updates, self.readout = copy.updates, copy.readout

    def forward(self, system: System, pairs: Pairs | None) -> Tensor:
        """Energy of every system, (S,), in eV."""
        edges = edges_within(system, need_pairs(pairs, self), self.cutoff)
        unit = (edges.vector / edges.r.clamp(min=1e-10)[:, None]).to(self.tables.dtype)
        rows, weights = spline_weights(edges.r.to(self.tables.dtype), self.cutoff, self.tables.shape[1] - 3)
        s, v = self.embedding(system.types), None
        for table, message, mixing, update in zip(self.tables.unbind(0), self.messages, self.mixings, self.updates):
            ds, dv = _messages(edges, unit, spline_rows(table, rows, weights), message(s), v)
            s, v = s + ds, dv if v is None else v + dv
            ds, dv = _update(s, mixing(v), update)
            s, v = s + ds, v + dv
        return self._energy(system, s)

    def analytic(self, system: System, pairs: Pairs | None) -> tuple[Tensor, Tensor]:
        """Energy (S,) and forces (N, 3) without a graph."""
        pairs = need_pairs(pairs, self)
        if not jit.available() or torch.compiler.is_compiling() or self.tables.device.type != "cpu":
            return in_closed_form(lambda s, p: self(s, p), system, pairs)
        messenger = _Messenger(system, pairs, self.cutoff, self.tables)
        with torch.enable_grad():
            s = self.embedding(system.types).requires_grad_()
            start, v = s, s.new_zeros(s.shape[0], 3, s.shape[1])
            for t, (message, mixing, update) in enumerate(zip(self.messages, self.mixings, self.updates)):
                ds, dv = _PairMessages.apply(message(s), v, messenger, t)
                s, v = s + ds, v + dv
                ds, dv = _update(s, mixing(v), update)
                s, v = s + ds, v + dv
            energy = self._energy(system, s)
            torch.autograd.grad(energy.sum(), start)
        return energy.detach(), messenger.forces()

    def _energy(self, system: System, s: Tensor) -> Tensor:
        energy = self.readout(s)[:, 0].to(system.positions.dtype)
        return segment_sum(energy, system.batch, system.n_systems)
