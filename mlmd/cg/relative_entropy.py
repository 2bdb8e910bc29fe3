"""Relative entropy: make the ensemble of the bead potential, not only its forces, that of the mapped atoms."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mlmd import units
from mlmd.cg.force_matching import batch_of
from mlmd.cg.replicas import PersistentReplicas, canonical, rungs_for
from mlmd.forces import energy_forces
from mlmd.frames import Frames
from mlmd.learn import Average, Checkpoint, cosine, fit
from mlmd.md import half_step_kT, rest, thermal_velocities
from mlmd.neighbors import neighbors
from mlmd.potentials.bonded import Bonded, FourierDihedrals


def refine(
    model: Any,
    frames: Frames,
    *,
    dt: float,
    kT: float | None = None,
    updates: int = 700,
    replicas: int = 150,
    steps_per_update: int = 50,
    rungs: int = 4,
    stride: int = 25,
    memory: int = 20,
    reference_batch: int = 2000,
    friction: float = 5 / units.ps,
    learning_rate: float = 1e-4,
    torsion_rate: float = 2e-4,
    average: float = 0.997,
    start: Tensor | None = None,
    seed: int = 0,
    every: int = 10,
    checkpoint: str | None = None,
    checkpoint_every: int | None = None,
    callbacks: Sequence[Any] = (),
    watch: Callable[[Tensor], object] | None = None,
) -> Iterator[dict[str, float]]:
    r"""Descend the relative entropy :math:`S=\langle\ln p_{ref}/p_{model}\rangle_{ref}` (Shell 2008) in the trainable parameters:

    .. math:: \nabla_\theta S=\beta\left(\langle\nabla_\theta U\rangle_{ref}-\langle\nabla_\theta U\rangle_{model}\right)

    The second mean is over the last ``memory`` snapshots of replicas that never restart. Momentum is off (it oscillates against
    the lag of the replicas) and the final parameters are an exponential moving average.

    Args:
        model: the whole potential (a module); parameters that shall stay (priors) have ``requires_grad=False``.
        replicas, rungs: at kT, and temperatures of the ladder above each (:class:`mlmd.md.Tempering`), without which slow torsions
            would not reach equilibrium during the fit; molecules in a box have none.
        steps_per_update: time steps; stride: between snapshots.
        frames: reference beads. dt, friction: of the replicas, fs and 1/fs.
        learning_rate, torsion_rate: of Adam, for parameters in general and for the Fourier terms of dihedrals (eV).
        start: (replicas x rungs, n, 3) positions to start from; default: random reference frames (training only: production runs should
            start in one basin).
        watch: receives the newest snapshot (replicas, n, 3) after every update.
        checkpoint, checkpoint_every: folder from which an interrupted run continues, written every so many updates (default:
            every 3 seconds).

    Yields:
        ``{"step", "relative entropy gradient": beta (<U>_ref - <U>_model), "temperature"}`` every ``every`` updates.

    Raises:
        ValueError: without a temperature. Unstable: when a replica is lost.
    """
    kT = kT if kT is not None else frames.kT
    if kT is None:
        raise ValueError("kT is unknown: the frames carry no temperature, give kT=300*kelvin for instance")
    generator = torch.Generator().manual_seed(seed)
    rungs = rungs_for(frames, rungs)
    if start is None:
        start = frames.positions[torch.randint(len(frames), (replicas * rungs,), generator=generator)]
    system = batch_of(frames, torch.zeros(1, dtype=torch.long)).at(start.float())
    noise = torch.Generator(system.positions.device).manual_seed(seed + 1)
    integrator = canonical(dt, kT, friction, replicas, rungs)
    sampler = PersistentReplicas(
        model,
        rest(system, thermal_velocities(system, integrator.kT, noise)),  # type: ignore[attr-defined]
        integrator,
        noise,
        rungs=rungs,
        steps=steps_per_update,
        stride=stride,
        memory=memory,
    )
    reference = _energy_of_frames(model, frames)
    count = min(reference_batch, len(frames))

    def batch(step: int) -> tuple[Tensor, Tensor]:
        picked = torch.Generator().manual_seed((seed << 24) + step)
        snapshots = sampler.advance()
        if watch:
            watch(sampler.snapshots[-1])
        return torch.randint(len(frames), (count,), generator=picked), snapshots

    def loss(_: nn.Module, data: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        index, snapshots = data
        return {"relative entropy gradient": (reference(index).mean() - _energies(model, system, snapshots).mean()) / kT}

    few = [p for law in model.modules() if isinstance(law, FourierDihedrals) for p in law.parameters() if p.requires_grad]
    many = [p for p in model.parameters() if p.requires_grad and not any(p is q for q in few)]
    groups = [{"params": group, "lr": rate} for group, rate in ((many, learning_rate), (few, torsion_rate)) if group]
    optimizer = torch.optim.Adam(groups, betas=(0.0, 0.99))
    mean = Average(average)
    extra: list[Any] = [mean, *callbacks]
    if checkpoint:
        extra.append(Checkpoint(checkpoint, every=checkpoint_every, companions=(mean, sampler)))
    loop = fit(model, loss, batch, steps=updates, optimizer=optimizer, schedule=cosine(updates), callbacks=extra, every=every)
    for log in loop:
        yield {**log, "temperature": float(half_step_kT(sampler.state)[::rungs].mean()) / units.kelvin}


def _energy_of_frames(model: nn.Module, frames: Frames) -> Callable[[Tensor], Tensor]:
    """index -> energies with a graph to the parameters; coordinates of a Bonded potential are computed once."""
    if isinstance(model, Bonded) and frames.n_atoms == model.coordinates.size:
        with torch.no_grad():
            values = model.coordinates(frames.positions.float().reshape(-1, 3))
        return lambda index: model.energy(tuple(v[:, index] for v in values))  # type: ignore[arg-type]

    def general(index: Tensor) -> Tensor:
        system = batch_of(frames, index)
        return model(system, neighbors(system, model.cutoff) if model.cutoff > 0 else None)  # type: ignore[operator, arg-type]

    return general


def _energies(model: nn.Module, template: Any, positions: Tensor) -> Tensor:
    system = template.select([0]).at(positions)
    if isinstance(model, Bonded):
        with torch.no_grad():
            values = model.coordinates(system.positions)
        return model.energy(values).reshape(len(positions), -1).sum(1)
    return model(system, neighbors(system, model.cutoff) if model.cutoff > 0 else None)  # type: ignore[operator, arg-type]


def suggested_time_step(potential: Any, frames: Frames, *, samples: int = 8, fraction: float = 0.8) -> float:
    r"""A time step in fs: ``fraction`` / omega_max of the mass-weighted Hessian, the stiffest over some frames.

    Leapfrog-like integrators are stable for dt omega < 2; the configurational error of BAOAB is small well before that.
    """
    index = torch.linspace(0, len(frames) - 1, samples).long()
    assert frames.masses is not None
    weight = frames.masses.double().repeat_interleave(3).rsqrt()
    stiffest = 0.0
    double = copy.deepcopy(potential).double() if isinstance(potential, nn.Module) else potential
    for i in index.tolist():
        system = batch_of(frames, torch.tensor([i])).to(torch.float64)
        hessian = _hessian(double, system)
        omega2 = torch.linalg.eigvalsh(hessian * weight[:, None] * weight)[-1]
        stiffest = max(stiffest, float(omega2))
    return float(min(10.0, max(0.5, round(2 * fraction / stiffest**0.5) / 2)))


def _hessian(potential: Any, system: Any, h: float = 1e-4) -> Tensor:
    """Central differences of the forces in double precision, (3N, 3N)."""
    n = 3 * len(system)
    shifts = torch.cat([torch.eye(n), -torch.eye(n)]).double().reshape(2 * n, -1, 3) * h
    batch = system.at(system.positions + shifts)
    pairs = neighbors(batch, potential.cutoff) if potential.cutoff > 0 else None
    with torch.no_grad():
        force = energy_forces(potential, batch, pairs).forces.reshape(2, n, n)
    hessian = (force[1] - force[0]) / (2 * h)
    return 0.5 * (hessian + hessian.T)
