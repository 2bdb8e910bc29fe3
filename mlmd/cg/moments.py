"""Moment matching: the last, convex step of relative entropy, in the dihedral terms, which are linear in their parameters.

Stochastic descent can leave rare basins underpopulated: populations go with exp(-u/kT), so that an average over parameters that
fluctuate lies where the mean population is too low. One long sample of the averaged potential and a reweighting solve remove that, as
far as the sample is in equilibrium: replicas start from reference frames, and a basin that moves and dynamics leave more slowly than
the sample lasts keeps the population of the reference there and gets no correction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mlmd import units
from mlmd.cg.force_matching import batch_of
from mlmd.cg.replicas import PersistentReplicas, canonical, rungs_for
from mlmd.cg.reweighting import effective_share
from mlmd.frames import Frames
from mlmd.md import rest, thermal_velocities
from mlmd.potentials.bonded import Bonded, FourierDihedrals

NEWTON_STEPS = 100
ENOUGH = 0.5  # effective share of the sample above which reweighting is trusted without a fresh one


@dataclass(frozen=True, eq=False)
class Tilt:
    """The reweighting exp(-lam . f) of a sample: lam (K,), and the normalised weight of every sample, (S,)."""

    lam: Tensor
    weights: Tensor

    @property
    def effective_share(self) -> float:
        """Effective sample size as a share of the sample: :func:`mlmd.cg.reweighting.effective_share`."""
        return effective_share(self.weights)


def matching_tilt(features: Tensor, target: Tensor, ridge: float = 1e-6) -> Tilt:
    r"""The tilt of a sample that gives its features the wanted means, by Newton's method with step halving in double precision.

    .. math:: \min_\lambda\ \ln\langle e^{-\lambda\cdot f}\rangle+\lambda\cdot f_{ref}+\tfrac{r}{2}\lambda^2

    is convex (Jaynes 1957; the exponential family of relative entropy, Shell 2008); without the ridge r its minimum has
    :math:`\langle f\rangle_\lambda=f_{ref}` exactly.

    Args:
        features: (S, K), dimensionless. target: (K,). ridge: r, the precision of a Gaussian prior on lam per sample.

    Raises:
        ValueError: for shapes that do not fit, values that are not finite, or a ridge that is not positive.
    """
    if features.ndim != 2 or target.shape != features.shape[1:] or not len(features):
        raise ValueError(
            f"features has shape {tuple(features.shape)} and target {tuple(target.shape)}: expected (S, K) with S > 0, and (K,)"
        )
    if not ridge > 0:
        raise ValueError(f"ridge={ridge}: must be positive, or features that never vary have no solution")
    f = features.double() - target.double()
    if not bool(torch.isfinite(f).all()):
        raise ValueError("features or target hold values that are not finite: check the sample")
    eye = torch.eye(f.shape[1], dtype=f.dtype, device=f.device)

    def value(lam: Tensor) -> Tensor:
        return torch.logsumexp(-f @ lam, 0) + 0.5 * ridge * lam.square().sum()

    lam = f.new_zeros(f.shape[1])
    best = value(lam)
    for _ in range(NEWTON_STEPS):
        w = torch.softmax(-f @ lam, 0)
        mean = w @ f
        gradient = ridge * lam - mean
        if float(gradient.abs().max()) < 1e-10:
            break
        hessian = (f * w[:, None]).T @ f - torch.outer(mean, mean) + ridge * eye
        step, scale = torch.linalg.solve(hessian, gradient), 1.0
        while scale > 1e-6 and not bool(value(lam - scale * step) <= best):
            scale /= 2
        if scale <= 1e-6:  # no descent is left within rounding
            break
        lam = lam - scale * step
        best = value(lam)
    return Tilt(lam, torch.softmax(-f @ lam, 0))


def match_moments(
    model: nn.Module,
    frames: Frames,
    *,
    dt: float,
    kT: float,
    replicas: int = 300,
    snapshots: int = 80,
    discard: int = 10,
    steps: int = 40,
    rungs: int = 4,
    rounds: int = 2,
    friction: float = 5 / units.ps,
    seed: int = 0,
    every: int = 5,
) -> Iterator[dict[str, float]]:
    r"""Set the Fourier terms of the dihedrals so that the model has the reference's moments of all cos(n phi), sin(n phi).

    Replicas started from random reference frames are equilibrated by replica exchange; their snapshots are reweighted to the
    reference moments (:func:`matching_tilt`), and kT lam is added to the coefficients. Where the weights leave less than half of the
    sample effective, a fresh sample of the corrected potential is matched again. The ridge is a prior of 1 kT on every correction
    against as many independent samples as there are replicas.

    Args:
        model: the whole potential; only its :class:`FourierDihedrals` change.
        frames: reference beads. dt, friction: fs and 1/fs. kT: eV.
        replicas, snapshots, discard: size of the sample and how many snapshots before it are left out.
        steps: between snapshots. rungs: temperatures (see :func:`refine`). rounds: samples at most.

    Yields:
        ``{"step", "steps"}`` while sampling and ``{"step", "steps", "effective share", "largest correction"}`` (kT) after every solve.

    Raises:
        ValueError: if the model has no Fourier dihedrals. Unstable: when a replica is lost.
    """
    torsions = _Torsions.of(model)
    target = torsions.features(frames.positions.float()).mean(0)
    total = rounds * (discard + snapshots)
    for k in range(rounds):
        sampler = _sampler(model, frames, dt, kT, replicas, rungs_for(frames, rungs), steps, friction, seed + 7919 * k)
        kept = []
        for n in range(discard + snapshots):
            positions = sampler.advance()
            if n >= discard:
                kept.append(torsions.features(positions))
            done = k * (discard + snapshots) + n + 1
            if done % every == 0:
                yield {"step": float(done), "steps": float(total)}
        tilt = matching_tilt(torch.cat(kept), target, ridge=1 / replicas)
        torsions.add(kT * tilt.lam)
        done = total if tilt.effective_share >= ENOUGH else done
        yield {
            "step": float(done),
            "steps": float(total),
            "effective share": tilt.effective_share,
            "largest correction": float(tilt.lam.abs().max()),
        }
        if tilt.effective_share >= ENOUGH:
            return


@dataclass(frozen=True, eq=False)
class _Torsions:
    """The Fourier laws of a model with the bonded potential whose coordinates they use."""

    bonded: Bonded
    laws: list[FourierDihedrals]

    @staticmethod
    def of(model: nn.Module) -> _Torsions:
        for module in model.modules():
            if isinstance(module, Bonded):
                laws = [law for law in module.laws if isinstance(law, FourierDihedrals)]
                if laws:
                    return _Torsions(module, laws)
        raise ValueError("model has no FourierDihedrals: there are no dihedral moments to match; skip this step")

    @torch.no_grad()
    def features(self, positions: Tensor) -> Tensor:
        """(S, n, 3) -> (S, K) cos(n phi), then sin(n phi), of every dihedral and law, summed over the molecules of a snapshot."""
        device = self.laws[0].a.device
        values = self.bonded.coordinates(positions.to(device).reshape(-1, 3))[2]
        columns = []
        for law in self.laws:
            n = torch.arange(1, law.a.shape[1] + 1, dtype=torch.float64, device=device)
            angle = values.index_select(0, law.rows).double()[..., None] * n
            columns += [angle.cos(), angle.sin()]
        each = torch.cat([c.permute(1, 0, 2).flatten(1) for c in columns], 1)
        return each.reshape(len(positions), -1, each.shape[1]).sum(1)

    @torch.no_grad()
    def add(self, change: Tensor) -> None:
        """Add to the coefficients, in the order of the features."""
        parameters = [p for law in self.laws for p in (law.a, law.b)]
        for p, part in zip(parameters, change.split([p.numel() for p in parameters])):
            p += part.reshape(p.shape).to(p.dtype)


def _sampler(
    model: nn.Module, frames: Frames, dt: float, kT: float, replicas: int, rungs: int, steps: int, friction: float, seed: int
) -> PersistentReplicas:
    picked = torch.randint(len(frames), (replicas * rungs,), generator=torch.Generator().manual_seed(seed))
    system = batch_of(frames, torch.zeros(1, dtype=torch.long)).at(frames.positions[picked.to(frames.positions.device)].float())
    noise = torch.Generator(system.positions.device).manual_seed(seed + 1)
    integrator = canonical(dt, kT, friction, replicas, rungs)
    start = rest(system, thermal_velocities(system, integrator.kT, noise))  # type: ignore[attr-defined]
    return PersistentReplicas(model, start, integrator, noise, rungs=rungs, steps=steps, stride=steps, memory=1)  # type: ignore[arg-type]
