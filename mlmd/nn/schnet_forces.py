r"""Energy and forces of a SchNet without autograd, for simulation: the reverse pass written out, over pairs by compiled loops.

With :math:`y=C_th`, :math:`m_i=\sum_jf_c(r_{ij})W_t(r_{ij})\odot y_j` and :math:`\gamma=\partial E/\partial m`, the reverse of an interaction is
:math:`\partial E/\partial y_i=\sum_jf_cW_t\odot\gamma_j` and :math:`\partial E/\partial W_t=f_c(\gamma_i\odot y_j+\gamma_j\odot y_i)`; the latter goes
back through the filter network to the basis of distances, once for all interactions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from mlmd.neighbors.pairs import Pairs
from mlmd.nn import kernels
from mlmd.nn.near import Near
from mlmd.nn.radial import slope_of
from mlmd.segment import segment_sum
from mlmd.system import System

LOG2 = math.log(2.0)


def reverse_pass(net: Any, system: System, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Energy (S,) in eV and forces (N, 3) in eV/A of a :class:`~mlmd.nn.schnet.SchNet`, for tensors on a CPU.

    Raises:
        ValueError: if the list names particles that are not in the system.
    """
    near = Near(system, pairs, net.cutoff)
    h = net.embedding.weight.index_select(0, system.types)
    r = torch.from_numpy(near.distance[: near.count]).to(h.dtype)
    g, fc = net.radial(r), net.envelope(r)
    envelope, saved = fc.contiguous().numpy(), []
    layers = list(zip(net.filters, net.senders, net.updates))
    for filter, sender, update in layers:
        hidden, filters = _two_layers(filter, g)
        sent, messages = h @ sender.weight.T, torch.zeros_like(h)
        kernels.sum_filtered(near.index, filters.numpy(), envelope, sent.numpy(), messages.numpy())
        inner, change = _two_layers(update, messages)
        h = h + change
        saved.append((hidden, filters, sent, inner))
    last, energy = _two_layers(net.readout, h)

    outer, _, inner_layer = reversed(net.readout)
    grad = (torch.sigmoid(last) * outer.weight) @ inner_layer.weight
    by_basis, by_envelope = torch.zeros_like(g), torch.zeros_like(fc)
    for t in range(len(layers) - 1, -1, -1):
        (filter, sender, update), (hidden, filters, sent, inner) = layers[t], saved[t]
        grads, pulled, by_filter = _back(update, inner, grad), torch.zeros_like(sent), torch.empty_like(filters)
        kernels.pull_filtered(
            near.index, filters.numpy(), envelope, sent.numpy(), grads.numpy(), t > 0, pulled.numpy(), by_filter.numpy(), by_envelope.numpy()
        )  # fmt: skip
        grad = torch.addmm(grad, pulled, sender.weight) if t else grad
        by_basis += _back(filter, hidden, by_filter)
    dr = (by_basis * slopes(net.radial, r, g)).sum(1) + by_envelope * slopes(net.envelope, r, fc)
    forces = torch.zeros_like(system.positions)
    kernels.pair_forces(near.index, near.vector, near.count, dr.numpy(), forces.numpy())
    return segment_sum(energy[:, 0].to(forces.dtype), system.batch, system.n_systems), forces


def _two_layers(mlp: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The hidden layer of linear, ssp, linear before its ssp, and the result."""
    first, _, second = mlp
    hidden = torch.addmm(first.bias, x, first.weight.T)
    return hidden, torch.addmm(second.bias, softplus(hidden).sub_(LOG2), second.weight.T)


def _back(mlp: Any, hidden: Tensor, grad: Tensor) -> Tensor:
    """From the derivative by the result of linear, ssp, linear to that by its input."""
    first, _, second = mlp
    return (grad @ second.weight).mul_(torch.sigmoid(hidden)) @ first.weight


def slopes(function: nn.Module, r: Tensor, value: Tensor) -> Tensor:
    """dW/dr (P, ...) of a function of distances (P,) with values ``value`` (P, ...): its own ``slope`` where it has one."""
    return function.slope(r, value) if hasattr(function, "slope") else slope_of(function, r)  # type: ignore[operator]
