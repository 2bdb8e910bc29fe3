"""PaiNN: messages of scalars and vectors (Schuett, Unke and Gastegger, ICML 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mlmd.neighbors.pairs import Pairs
from mlmd.nn.edges import Edges, edges_within
from mlmd.nn.radial import BesselBasis, CosineEnvelope
from mlmd.potentials.compose import Potential, need_pairs
from mlmd.segment import segment_sum
from mlmd.store import configurable
from mlmd.system import System


@configurable
class PaiNN(Potential):
    r"""Energy from scalar features s (n, F) and vector features v (n, 3, F) that rotate with the molecule; mirror symmetric.

    | equation (of the paper) | |
    |---|---|
    | :math:`s_i=\mathrm{Embed}(z_i),\ v_i=0` | |
    | :math:`(m^0,m^1,m^2)_{ij}=\phi(s_j)\odot f_c(r_{ij})\,[Lg(r_{ij})+l]` | eq. 7, 8 |
    | :math:`s_i\leftarrow s_i+\sum_jm^1_{ij}` | eq. 7 |
    | :math:`v_i\leftarrow v_i+\sum_jm^0_{ij}\odot v_j+m^2_{ij}\otimes\hat r_{ij}` | eq. 8 |
    | :math:`(a_{vv},a_{sv},a_{ss})=\psi(s,\lVert Vv\rVert)` | eq. 9, 10 |
    | :math:`s\leftarrow s+a_{ss}+a_{sv}\odot\langle Uv,Vv\rangle,\ v\leftarrow v+a_{vv}\odot Uv` | eq. 9, 10 |

    Args:
        cutoff, features, interactions, n_types, radial, envelope: as for :class:`mlmd.nn.schnet.SchNet`; 20 Bessel functions.
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
        self.radial = BesselBasis(cutoff) if radial is None else radial
        self.envelope = CosineEnvelope(cutoff) if envelope is None else envelope
        self.embedding = nn.Embedding(n_types, features)
        F, T, size = features, interactions, int(self.radial.size)  # type: ignore[arg-type]
        self.filter = nn.Linear(size, 3 * F * T)  # of all interactions: they depend on the distance alone
        self.messages = nn.ModuleList(_mlp(F, F, 3 * F) for _ in range(T))
        self.mixings = nn.ModuleList(nn.Linear(F, 2 * F, bias=False) for _ in range(T))  # U and V
        self.updates = nn.ModuleList(_mlp(2 * F, F, 3 * F) for _ in range(T))
        self.readout = nn.Sequential(nn.Linear(F, F // 2), nn.SiLU(), nn.Linear(F // 2, 1))

    def forward(self, system: System, pairs: Pairs | None) -> Tensor:
        """Energy of every system, (S,), in eV."""
        edges = edges_within(system, need_pairs(pairs, self), self.cutoff)
        s = self.embedding(system.types)
        v: Tensor | None = None  # zero before the first message
        r = edges.r.to(s.dtype)
        unit = (edges.vector / edges.r.clamp(min=1e-10)[:, None]).to(s.dtype)
        filters = (self.filter(self.radial(r)) * self.envelope(r)[:, None]).chunk(self.interactions, 1)
        for w, message, mixing, update in zip(filters, self.messages, self.mixings, self.updates):
            ds, dv = _messages(edges, unit, w, message(s), v)
            s, v = s + ds, dv if v is None else v + dv
            ds, dv = _update(s, mixing(v), update)
            s, v = s + ds, v + dv
        energy = self.readout(s)[:, 0].to(system.positions.dtype)
        return segment_sum(energy, system.batch, system.n_systems)


def _messages(edges: Edges, unit: Tensor, weights: Tensor, sent: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor]:
    """Eq. 7 and 8: sums over the neighbours, in both directions of every edge."""
    n, F = sent.shape[0], sent.shape[1] // 3
    ds, dv = sent.new_zeros(n, F), sent.new_zeros(n, 3, F)
    directions = [(edges.i, edges.j, unit)] + ([(edges.j, edges.i, -unit)] if edges.once else [])
    for to, of, u in directions:
        m0, m1, m2 = (weights * sent.index_select(0, of)).chunk(3, 1)
        ds = ds.index_add(0, to, m1)
        vector = m2[:, None] * u[:, :, None]
        if v is not None:
            vector = torch.addcmul(vector, m0[:, None], v.index_select(0, of))
        dv = dv.index_add(0, to, vector)
    return ds, dv


def _update(s: Tensor, mixed: Tensor, update: nn.Module) -> tuple[Tensor, Tensor]:
    """Eq. 9 and 10: mix scalars and vectors of one particle; ``mixed`` (n, 3, 2 F) holds U v and V v."""
    Uv, Vv = mixed.chunk(2, 2)
    norm = ((Vv * Vv).sum(1) + 1e-15).sqrt()
    a_vv, a_sv, a_ss = update(torch.cat([s, norm], 1)).chunk(3, 1)
    return a_ss + a_sv * (Uv * Vv).sum(1), a_vv[:, None] * Uv


def _mlp(n_in: int, hidden: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, hidden), nn.SiLU(), nn.Linear(hidden, n_out))
