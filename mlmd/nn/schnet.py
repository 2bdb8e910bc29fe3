"""SchNet: continuous-filter convolutions (Schuett et al., NeurIPS 2017; J. Chem. Phys. 148, 241722 (2018))."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mlmd import jit
from mlmd.neighbors.pairs import Pairs
from mlmd.nn.edges import edges_within
from mlmd.nn.radial import CosineEnvelope, GaussianBasis
from mlmd.nn.schnet_forces import reverse_pass
from mlmd.potentials.compose import Potential, in_closed_form, need_pairs
from mlmd.segment import segment_sum
from mlmd.store import configurable
from mlmd.system import System


class ShiftedSoftplus(nn.Module):
    r""":math:`\mathrm{ssp}(x)=\ln(\frac12e^x+\frac12)`: smooth, zero at zero."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return nn.functional.softplus(x) - math.log(2.0)


@configurable
class SchNet(Potential):
    r"""Energy as a sum over particles of a network on distances alone; invariant under every isometry, mirrors included.

    | equation | |
    |---|---|
    | :math:`h_i^0=\mathrm{Embed}(z_i)` | |
    | :math:`W_t(r)=f_c(r)\,[B_t\,\mathrm{ssp}(A_tg(r)+a_t)+b_t]` | filter: basis g, envelope f_c, smooth to zero at the cutoff |
    | :math:`h_i\leftarrow h_i+U_t(\sum_jW_t(r_{ij})\odot C_th_j)` | interaction t, U = linear, ssp, linear |
    | :math:`E=\sum_iw\cdot\mathrm{ssp}(Vh_i+v)+w_0` | |

    Filters are evaluated once per unordered pair.

    Args:
        cutoff: range of the messages in A.
        features: F, length of h and of the filters.
        interactions: number of rounds of messages.
        n_types: types are 0 ... n_types - 1 (119 holds the atomic numbers).
        radial: basis of distances, (P,) -> (P, radial.size), default 50 Gaussians; envelope: (P,) -> (P,), default cosine.
    """

    def __init__(
        self,
        cutoff: float,
        features: int = 64,
        interactions: int = 3,
        n_types: int = 119,
        radial: nn.Module | None = None,
        envelope: nn.Module | None = None,
    ):
        super().__init__()
        self.cutoff, self.features, self.interactions = float(cutoff), features, interactions
        self.radial = GaussianBasis(cutoff) if radial is None else radial
        self.envelope = CosineEnvelope(cutoff) if envelope is None else envelope
        self.embedding = nn.Embedding(n_types, features)
        F, T, ssp = features, interactions, ShiftedSoftplus
        self.filters = nn.ModuleList(_mlp(int(self.radial.size), F, F) for _ in range(T))  # type: ignore[arg-type]
        self.senders = nn.ModuleList(nn.Linear(F, F, bias=False) for _ in range(T))
        self.updates = nn.ModuleList(_mlp(F, F, F) for _ in range(T))
        self.readout = nn.Sequential(nn.Linear(F, F // 2), ssp(), nn.Linear(F // 2, 1))

    def analytic(self, system: System, pairs: Pairs | None) -> tuple[Tensor, Tensor]:
        """Energy (S,) and forces (N, 3) without a graph: on a CPU with numba by a reverse pass written out, else by autograd."""
        on_cpu = self.embedding.weight.device.type == "cpu" and system.positions.device.type == "cpu"
        if on_cpu and jit.available() and not torch.compiler.is_compiling():
            return reverse_pass(self, system, need_pairs(pairs, self))
        return in_closed_form(self.forward, system, pairs)

    def forward(self, system: System, pairs: Pairs | None) -> Tensor:
        """Energy of every system, (S,), in eV."""
        edges = edges_within(system, need_pairs(pairs, self), self.cutoff)
        h = self.embedding(system.types)
        r = edges.r.to(h.dtype)
        g, fc = self.radial(r), self.envelope(r)[:, None]
        for filter, sender, update in zip(self.filters, self.senders, self.updates):
            h = h + update(edges.sum_messages(filter(g) * fc, sender(h)))
        energy = self.readout(h)[:, 0].to(system.positions.dtype)
        return segment_sum(energy, system.batch, system.n_systems)


def _mlp(n_in: int, hidden: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, hidden), ShiftedSoftplus(), nn.Linear(hidden, n_out))
