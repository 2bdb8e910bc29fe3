"""Message-passing potentials for liquids of molecules: a network of all beads, on top of bonded terms and of a repulsion between molecules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mlmd.cell import check_cutoff, widths
from mlmd.cg.force_matching import match_forces, predicted_forces
from mlmd.cg.liquid_molecules import LiquidMolecules
from mlmd.cg.rigid_motion_forces import InnerWeight
from mlmd.forces import energy_forces
from mlmd.frames import Frames
from mlmd.neighbors import neighbors
from mlmd.nn.painn import PaiNN
from mlmd.nn.radial import GaussianBasis
from mlmd.nn.schnet import SchNet
from mlmd.nn.tabulated import TabulatedSchNet
from mlmd.nn.tabulated_painn import TabulatedPaiNN
from mlmd.potentials.accelerated import accelerated
from mlmd.potentials.compose import Potential, Sum
from mlmd.potentials.pair import Excluding, PairPotential, SoftSphere
from mlmd.system import System

NETWORKS: dict[str, type[SchNet] | type[PaiNN]] = {"schnet": SchNet, "painn": PaiNN}
CLOSEST = 1e-3  # pairs per bead that are nearer than the radius of the repulsion
SAMPLED = 200  # frames that the radius is taken from
SEARCHED = 10.0  # A; whoever is not met within cannot be said to repel
REACH = 2.0  # of the repulsion, in radii: (1/2)^12 = 2e-4 of kT is left there


@dataclass(frozen=True, eq=False)
class LiquidNetwork:
    """A liquid of equal molecules whose beads are governed by a network beyond a fixed prior.

    The network sees every pair within its cutoff, bonded ones too: it is by their distances that it knows which beads belong
    together, and it may mend the bonded terms. The repulsion keeps the beads of different molecules apart where no data are.

    molecules: bonded terms, and the pairs that the repulsion leaves out. repulsion: fixed. network: a SchNet or PaiNN.
    """

    molecules: LiquidMolecules
    repulsion: PairPotential
    network: SchNet | PaiNN

    @cached_property
    def prior(self) -> Potential:
        """Bonded terms and repulsion, which training leaves as they are."""
        return self.repelled + self.molecules.bonded

    @property
    def repelled(self) -> Potential:
        """The repulsion, without the pairs that molecules leave out."""
        m = self.molecules
        return Excluding(self.repulsion, m.bonds, m.size, m.hops)

    @property
    def potential(self) -> Potential:
        """All of it, with the network as it is trained; this is what to save."""
        return self.prior + self.network

    def deployed(self, spacing: float = 0.01) -> Potential:
        """All of it for simulation, see :func:`deployed`."""
        return deployed(self.potential, spacing)

    def with_pairs(self, spacing: float = 0.01) -> MoleculesInField:
        """Molecules as structure-based methods take them, with the deployed network under the pair potential that they fit.

        Iterative Boltzmann inversion, inverse Monte Carlo and relative entropy, from values of zero, then mend what the network
        has wrong in g(r).
        """
        m = self.molecules
        return MoleculesInField(m.bonded, m.bonds, m.size, m.hops, field=deployed(self.repelled + self.network, spacing))


def deployed(potential: nn.Module, spacing: float = 0.01) -> Potential:
    """A sum of potentials for simulation: networks as frozen copies with their filters in a table of ``spacing`` A, the rest with
    compiled loops where there are any."""
    if isinstance(potential, Sum):
        return Sum(*(deployed(member, spacing) for member in potential.members))
    if isinstance(potential, SchNet):
        return TabulatedSchNet(potential, spacing)
    return TabulatedPaiNN(potential, spacing) if isinstance(potential, PaiNN) else accelerated(potential)  # type: ignore[return-value]


def liquid_network(
    frames: Frames,
    molecules: LiquidMolecules,
    *,
    kind: Literal["schnet", "painn"] = "schnet",
    cutoff: float = 7.0,
    features: int = 32,
    interactions: int = 2,
    radial: int = 30,
    kT: float | None = None,
    seed: int = 0,
) -> LiquidNetwork:
    """A fresh network for the liquid of ``frames``, with the repulsion of its beads.

    Args:
        frames: beads in a periodic box; molecules whole, one after another. molecules: their bonded terms.
        kind, features, interactions: of the network, see :class:`mlmd.nn.schnet.SchNet` and :class:`mlmd.nn.painn.PaiNN`.
        cutoff: range of one message in A. radial: number of Gaussians that resolve distances up to it.
        kT: eV; default: that of the frames. seed: of the first weights.

    Raises:
        ValueError: frames without a box, one narrower than twice the cutoff, no temperature, an unknown kind.
    """
    if kind not in NETWORKS:
        raise ValueError(f"kind={kind!r}: choose one of {sorted(NETWORKS)}")
    repulsion = fit_repulsion(frames, molecules, kT=kT)
    first = frames.system(0)
    check_cutoff(first.cell, first.pbc, cutoff)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        n_types = int(first.types.max()) + 1
        network: SchNet | PaiNN = NETWORKS[kind](cutoff, features, interactions, n_types, GaussianBasis(cutoff, radial))
    return LiquidNetwork(molecules, repulsion, network)


def fit_repulsion(frames: Frames, molecules: LiquidMolecules, *, kT: float | None = None, power: float = 12.0) -> SoftSphere:
    r"""The repulsion :math:`u=kT(\sigma_{ab}/r)^p` between beads of different molecules (or far along the same), without parameters to train.

    sigma of two types is the distance below which there is one pair for every thousand beads (of the rarer type) in the frames; pairs
    that ``molecules`` leave out do not count. It is switched off smoothly and ends at twice the largest sigma, or at half the box.

    Raises:
        ValueError: frames without a box or temperature, or two types of beads that never meet.
    """
    kT = kT if kT is not None else frames.kT
    if frames.cell is None:
        raise ValueError("frames have no cell: this is for liquids in a periodic box; see invariant_network for single molecules")
    if kT is None:
        raise ValueError("kT is unknown: the frames carry no temperature, give kT=300*kelvin for instance")
    sigma = _closest(frames[:: max(1, len(frames) // SAMPLED)], molecules)
    half = float(widths(frames.cell.double()).min()) / 2
    return SoftSphere(kT, sigma, min(REACH * float(sigma.max()), half), power, onset=0.0).requires_grad_(False)


def _closest(frames: Frames, molecules: LiquidMolecules) -> Tensor:
    """(T, T) distances in A that few pairs undercut; for types without beads the largest of the others."""
    systems = [frames.system(k) for k in range(len(frames))]
    reach = min(SEARCHED, 0.499 * min(float(widths(s.cell.double()).min()) for s in systems))
    others = Excluding(SoftSphere(1.0, 1.0, reach), molecules.bonds, molecules.size, molecules.hops)
    rows, distances = [], []
    for system in systems:
        left = others.remaining(neighbors(system, reach)).half
        distances.append(left.distances(system).double())
        rows.append(torch.sort(system.types[left.index], 0).values)
    low, high = torch.cat(rows, 1)
    r, counts = torch.cat(distances), torch.bincount(systems[0].types)
    out = r.new_full((len(counts), len(counts)), torch.nan)
    for a, b in torch.combinations(torch.nonzero(counts).flatten(), 2, with_replacement=True).tolist():
        near = r[(low == a) & (high == b)]
        if not len(near):
            raise ValueError(
                f"beads of the types ({a}, {b}) do not come within {reach:.3g} A of each other in the frames: check the unit of length"
            )
        few = max(1, round(CLOSEST * len(frames) * min(int(counts[a]), int(counts[b]))))
        out[a, b] = out[b, a] = near.kthvalue(min(few, len(near))).values
    return out.nan_to_num(nan=float(out[~out.isnan()].max()))


@dataclass(frozen=True, eq=False)
class MoleculesInField(LiquidMolecules):
    """Molecules on which another energy acts besides their bonds, whatever the pair law between them: a trained network for instance.

    field: of all beads, in eV.
    """

    field: Potential = field(kw_only=True)

    def potential(self, law: PairPotential) -> Potential:
        """The law between pairs that are not left out, the bonded terms and the field."""
        return super().potential(law) + self.field

    def virial(self, system: System) -> float:
        r""":math:`\sum x\cdot\partial E/\partial x` of bonded terms and field in eV: what stretching the box does to them."""
        pairs = neighbors(system, self.field.cutoff) if self.field.cutoff > 0 else None
        with torch.no_grad():
            stress = energy_forces(self.field, system, pairs, stress=True).stress
        assert stress is not None
        volume = float(torch.linalg.det(system.cell[0].double()).abs())
        return super().virial(system) + volume * float(stress.double().diagonal(dim1=-2, dim2=-1).sum())


def train_network(model: LiquidNetwork, frames: Frames, **settings: Any) -> Iterator[dict[str, float]]:
    """Match the mapped forces of the frames by gradient descent: :func:`mlmd.cg.force_matching.match_forces` of the network on what the
    prior leaves, with batches of few frames, and errors within molecules weighed down to the size of the others.

    The less noise is in the forces the better: see :func:`mlmd.cg.rigid_motion_forces.with_molecular_forces`.

    Args:
        settings: of ``match_forces``; default of batch: 4, steps: 5000, learning_rate: 2e-3, every: 500.

    Yields:
        as ``match_forces``; it ends after the given steps, and with a ``checkpoint`` an interrupted training continues.

    Raises:
        ValueError: if the frames have no forces.
    """
    chosen: dict[str, Any] = {"batch": 4, "steps": 5000, "learning_rate": 2e-3, "every": 500} | settings
    if frames.forces is not None and "weigh" not in chosen:
        chosen["weigh"] = inner_weight(model, frames)
    return match_forces(model.network, model.prior, frames, **chosen)


def inner_weight(model: LiquidNetwork, frames: Frames) -> InnerWeight:
    """The weight of force errors within molecules, from what the prior leaves of the forces of some frames."""
    some = frames[:: max(1, len(frames) // SAMPLED)]
    assert some.forces is not None
    left = some.forces.float() - predicted_forces(model.prior, some)
    return InnerWeight.of(some.positions.float(), left, model.molecules.size)
