r"""CGVAE: a variational auto-encoder of the atoms given the beads, equivariant under rotations (Wang et al., ICML 2022).

Latent variables z live on the beads. Encoder q(z | x, X), prior p(z | X) and decoder x(z, X) are networks of messages between all
atoms, or all beads, of one molecule. Atoms are told apart by the type of their bead and their place in it and beads by their type, not by
their index in one molecule.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mlmd.backmap.dense import Filters, Geometry, Interaction, Radial, Update, gathered, gathered_along, mlp, others
from mlmd.backmap.molecule import Molecule


class Gaussian(NamedTuple):
    """Mean and logarithm of the standard deviation, (S, B, Z) each."""

    mean: Tensor
    log_sigma: Tensor

    def draw(self, noise: Tensor) -> Tensor:
        """mean + sigma noise."""
        return self.mean + self.log_sigma.exp() * noise


def kl(q: Gaussian, p: Gaussian) -> Tensor:
    r""":math:`KL(q\|p)=\sum\ln\frac{\sigma_p}{\sigma_q}+\frac{\sigma_q^2+(\mu_q-\mu_p)^2}{2\sigma_p^2}-\frac12` per structure, (S,), in nats."""
    width = (2 * (q.log_sigma - p.log_sigma)).exp()
    shift = ((q.mean - p.mean) * (-p.log_sigma).exp()).square()
    return (p.log_sigma - q.log_sigma + 0.5 * (width + shift - 1)).sum((1, 2))


class Normal(nn.Module):
    """Features (S, B, F) to a Gaussian; log sigma is held between -6 and 2."""

    def __init__(self, features: int, latent: int):
        super().__init__()
        self.layers = mlp(features, features, 2 * latent)

    def forward(self, h: Tensor) -> Gaussian:
        mean, log_sigma = self.layers(h).chunk(2, -1)
        return Gaussian(mean, 4 * torch.tanh(log_sigma / 4) - 2)


class AtomIdentity(nn.Module):
    """Scalars of the atoms: their element, and their place in a bead of its type."""

    index: Tensor
    numbers: Tensor

    def __init__(self, molecule: Molecule, features: int, n_kinds: int, n_slots: int, n_elements: int = 119):
        super().__init__()
        self.element = nn.Embedding(n_elements, features)
        self.place = nn.Embedding(n_kinds * n_slots, features)
        self.register_buffer("numbers", molecule.numbers)
        self.register_buffer("index", molecule.kinds[molecule.owner] * n_slots + molecule.slots)

    def forward(self) -> Tensor:
        """(N, F)."""
        return self.element(self.numbers) + self.place(self.index)


class Encoder(nn.Module):
    """q(z | x, X): messages between atoms, then from the atoms of each bead to it, then between beads."""

    inside: Tensor
    kinds: Tensor

    def __init__(self, molecule: Molecule, features: int, latent: int, *, layers: int, cutoff: float, bead_cutoff: float, basis: int, n_kinds: int, n_slots: int):  # fmt: skip
        super().__init__()
        self.identity = AtomIdentity(molecule, features, n_kinds, n_slots)
        self.bead = nn.Embedding(n_kinds, features)
        self.register_buffer("inside", (molecule.owner == torch.arange(molecule.n_beads)[:, None]).float())
        self.register_buffer("kinds", molecule.kinds)
        self.radial, self.bead_radial = Radial(cutoff, basis), Radial(bead_cutoff, basis)
        self.atoms = nn.ModuleList(Interaction(features, basis) for _ in range(layers))
        self.atom_updates = nn.ModuleList(Update(features) for _ in range(layers))
        self.contraction, self.contracted = Interaction(features, basis), Update(features)
        self.between, self.settled = Interaction(features, basis), Update(features)
        self.normal = Normal(features, latent)

    def forward(self, x: Tensor, X: Tensor) -> Gaussian:
        s, v = self.identity().expand(len(x), -1, -1), None
        geometry = self.radial(x, x, others(x.shape[1]))
        for interaction, update in zip(self.atoms, self.atom_updates, strict=True):
            ds, dv = interaction(geometry, s, v)
            s, v = _updated(update, s + ds, dv if v is None else v + dv)
        ds, dv = self.contraction(self.radial(X, x, self.inside), s, v)
        H, V = _updated(self.contracted, self.bead(self.kinds) + ds, dv)
        dH, dV = self.between(self.bead_radial(X, X, others(X.shape[1])), H, V)
        H, V = _updated(self.settled, H + dH, V + dV)
        return self.normal(H)


def _updated(update: nn.Module, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    ds, dv = update(s, v)
    return s + ds, v + dv


class BeadState(NamedTuple):
    """Scalars s and pseudo-scalars t (S, B, F), vectors v and pseudo-vectors w (S, B, 3, F) of the beads."""

    s: Tensor
    t: Tensor
    v: Tensor
    w: Tensor


class PseudoInteraction(nn.Module):
    r"""Messages of scalars, pseudo-scalars, vectors and pseudo-vectors, so that a hand can arise (CGVAE, section 3.3).

    With :math:`\phi_{0..8}=\mathrm{MLP}(s_j)\,W(r_{ij})`, :math:`u` the unit vector to j, sums over j:

    | | |
    |---|---|
    | ds | :math:`\phi_0s_i` |
    | dt | :math:`v_i\cdot\sum w_j\phi` |
    | dv | :math:`\phi_1u+\phi_2v_j+\phi_3\,v_i\times w_j+\phi_4\,t_iw_j` |
    | dw | :math:`\phi_5w_j+\phi_6\,t_iv_j+\phi_7\,v_i\times v_j+\phi_8\,w_i\times w_j` |

    What belongs to i stands before the sums, so that these are products of matrices. A particle's own scalars enter ds and dt.
    """

    def __init__(self, features: int, size: int):
        super().__init__()
        self.features = features
        self.message = mlp(features, features, 10 * features)
        self.filters = nn.ModuleList(Filters(size, c * features) for c in (1, 1, 3, 5))
        self.update = Update(features)

    def forward(self, geometry: Geometry, state: BeadState) -> BeadState:
        s, t, v, w = state
        F = self.features
        phi = self.message(s).split([F, F, 3 * F, 5 * F], -1)
        a0 = gathered(geometry, self.filters[0](phi[0]))
        a1 = gathered_along(geometry, self.filters[1](phi[1]))
        of_v = self._sum(geometry, self.filters[2], phi[2], v)
        of_w = self._sum(geometry, self.filters[3], phi[3], w)
        v2, v6, v7 = of_v
        w3, w4, w5, w8, wt = of_w
        ds, dt = a0 * (1 + s), (v * wt).sum(2)
        dv = a1 + v2 + torch.linalg.cross(v, w3, dim=2) + t[:, :, None] * w4
        dw = w5 + t[:, :, None] * v6 + torch.linalg.cross(v, v7, dim=2) + torch.linalg.cross(w, w8, dim=2)
        s, t, v, w = s + ds, t + dt, v + dv, w + dw
        ds, dv = self.update(s, v)
        return BeadState(s + ds, t, v + dv, w)

    def _sum(self, geometry: Geometry, filters: nn.Module, phi: Tensor, vectors: Tensor) -> tuple[Tensor, ...]:
        """Sums over j of phi vector_j, one (S, B, 3, F) per group of F channels of phi."""
        S, B, _, F = vectors.shape
        groups = phi.shape[-1] // F
        sent = (phi.reshape(S, B, 1, groups, F) * vectors[:, :, :, None]).reshape(S, B, 3, groups * F)
        return gathered(geometry, filters(sent)).reshape(S, B, 3, groups, F).unbind(3)


class Trunk(nn.Module):
    """Beads X and scalars on them to scalars, pseudo-scalars, vectors and pseudo-vectors on the beads.

    Pseudo-scalars start from the types of the beads: the hand of a molecule belongs to its kind, and three beads, which lie in a
    plane, could have none otherwise. So what comes out turns with the beads, and a mirror image of a molecule is another molecule.
    """

    kinds: Tensor

    def __init__(self, molecule: Molecule, features: int, latent: int, *, layers: int, cutoff: float, basis: int, n_kinds: int):
        super().__init__()
        self.register_buffer("kinds", molecule.kinds)
        self.kind, self.hand = nn.Embedding(n_kinds, features), nn.Embedding(n_kinds, features)
        self.start = nn.Linear(latent, features) if latent else None
        self.radial = Radial(cutoff, basis)
        self.layers = nn.ModuleList(PseudoInteraction(features, basis) for _ in range(layers))

    def forward(self, z: Tensor | None, X: Tensor) -> BeadState:
        S, B = X.shape[:2]
        s = self.kind(self.kinds).expand(S, -1, -1)
        if self.start is not None and z is not None:
            s = s + self.start(z)
        zero = s.new_zeros(S, B, 3, s.shape[-1])
        state = BeadState(s, self.hand(self.kinds).expand(S, -1, -1), zero, zero)
        geometry = self.radial(X, X, others(B))
        for layer in self.layers:
            state = layer(geometry, state)
        return state


def invariants(state: BeadState) -> Tensor:
    """(S, B, 5 F) what does not turn: s, t, |v|, |w|, v . w."""
    s, t, v, w = state
    norms = [(x.square().sum(2) + 1e-8).sqrt() for x in (v, w)]
    return torch.cat([s, t, *norms, (v * w).sum(2)], -1)


class Prior(nn.Module):
    """p(z | X)."""

    def __init__(self, trunk: Trunk, features: int, latent: int):
        super().__init__()
        self.trunk, self.normal = trunk, Normal(5 * features, latent)

    def forward(self, X: Tensor) -> Gaussian:
        return self.normal(invariants(self.trunk(None, X)))


class VectorDecoder(nn.Module):
    r"""Atoms as mixtures of the vectors of their bead, :math:`x_a=X_I+\sum_cA_{ac}V_{Ic}`, then shifted with their bead so that M x = X.

    The mixing weights A belong to the type of the bead and the place in it.
    """

    index: Tensor
    owner: Tensor

    def __init__(self, molecule: Molecule, trunk: Trunk, features: int, *, n_kinds: int, n_slots: int):
        super().__init__()
        self.trunk, self.molecule = trunk, molecule
        self.mix = nn.Embedding(n_kinds * n_slots, 2 * features)
        nn.init.normal_(self.mix.weight, std=(2 * features) ** -0.5)
        self.register_buffer("index", molecule.kinds[molecule.owner] * n_slots + molecule.slots)
        self.register_buffer("owner", molecule.owner)

    def forward(self, z: Tensor, X: Tensor) -> Tensor:
        """(S, N, 3)."""
        state = self.trunk(z, X)
        vectors = torch.cat([state.v, state.w], -1).index_select(1, self.owner)
        x = X.index_select(1, self.owner) + torch.einsum("sncf,nf->snc", vectors, self.mix(self.index))
        return self.molecule.onto(x, X)
