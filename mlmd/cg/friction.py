"""A Langevin friction for beads, such that they diffuse as fast as the atoms they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from mlmd.forces import Potential
from mlmd.md import Langevin, rest, simulate, thermal_velocities
from mlmd.md.state import State
from mlmd.observables import Diffusion, diffusion_coefficient, msd
from mlmd.observables.blocks import Array
from mlmd.segment import segment_sum
from mlmd.system import System


@dataclass(frozen=True)
class Target:
    """The diffusion coefficient of the reference and its standard error in A^2/fs: of an MSD or of a velocity autocorrelation."""

    value: float
    error: float


@dataclass(frozen=True)
class Settings:
    """Of :func:`fit_friction`.

    dt: time step in fs. kT: eV. start: first friction in 1/fs. steps: of a round, after ``settle`` steps that are not measured.
    every: steps between frames. window: first and last time in fs of the fit of D. rounds: at the most, and at least two.
    size: particles per molecule, whose centres of mass are followed. skin: of the neighbour list, A.
    n_blocks: stretches of time, or replicas, that give the errors; the window must fit into one.
    """

    dt: float
    kT: float
    start: float
    steps: int
    settle: int
    every: int
    window: tuple[float, float]
    rounds: int = 6
    size: int = 1
    skin: float = 1.0
    n_blocks: int = 10


@dataclass(frozen=True)
class FrictionLog:
    """One round: the friction tried (1/fs), what it gave, the estimate from all rounds with its standard error, and
    whether the last move was within the error."""

    round: int
    friction: float
    diffusion: Diffusion
    estimate: float
    error: float
    converged: bool


def fit_friction(
    system: System, potential: Potential, target: Target, settings: Settings, generator: torch.Generator | None = None
) -> Iterator[FrictionLog]:
    r"""Rounds of Langevin dynamics that close in on the friction at which the beads diffuse like the reference.

    Frictions add up, that of the surroundings and that of the thermostat: :math:`1/D=(\zeta+\gamma M)/kT`, exactly so for
    molecules of mass M that do not interact. Each round gives a point of this line, which is fitted to all rounds; the next one is
    made where it meets the target,

    .. math:: \gamma_{k+1}=(1/D^*-a)/b,\qquad 1/D_k\approx a+b\,\gamma_k,

    with b known beforehand to be M/kT to within its half, so that two rounds close together do not tilt the line. The error holds
    those of all rounds and of the target. The drift of the centre of mass is taken off, as in the kinetics of the reference.

    Args:
        system: a box of beads, or replicas of it, equally large; a box as large as the reference's, if its D is not corrected.
        target: D of the centres of mass of molecules of the reference.
        generator: source of velocities and noise.

    Yields:
        One log per round, until the next would be within the error, or ``settings.rounds`` are over: then the last one says
        ``converged=False``, and the estimate is to be mistrusted.

    Raises:
        ValueError: settings or targets that are not positive, molecules that do not fill the box, a window beyond the run, or
            beads that diffuse more slowly than the target with hardly any friction: no friction makes them faster.

    Source:
        Einstein, Ann. Phys. 17, 549 (1905), D = kT/zeta; why beads need it: Izvekov and Voth, J. Chem. Phys. 125, 151101 (2006).
    """
    _check(system, target, settings)
    known = _molecule_mass(system, settings.size) / settings.kT
    state = rest(system, thermal_velocities(system, settings.kT, generator))
    friction, tried = settings.start, list[tuple[float, Diffusion]]()
    for k in range(settings.rounds):
        state, d = _round(state, potential, friction, settings, generator)
        if not d.value > 0:
            raise ValueError(
                f"D={d.value:g} +- {d.error:g} A^2/fs at friction {friction:g}/fs: the beads are stuck, or need longer rounds (steps)"
            )
        tried.append((friction, d))
        line = _line(tried, known)
        estimate, error = line.meets(target)
        converged = k > 0 and abs(estimate - friction) < error
        yield FrictionLog(k, friction, d, estimate, error, converged)
        if converged:
            return
        if k > 0 and 1 / target.value < line.a - 3 * line.covariance[0, 0] ** 0.5:
            raise ValueError(
                f"target={target.value:g} A^2/fs: without any friction the beads would diffuse with {1 / line.a:.3g} A^2/fs; "
                "no friction makes them as fast"
            )
        friction = max(estimate, 0.1 * friction)


@dataclass(frozen=True, eq=False)
class _Line:
    """1/D = a + b friction, with the covariance (2, 2) of a and b."""

    a: float
    b: float
    covariance: Array

    def meets(self, target: Target) -> tuple[float, float]:
        """Friction at which D is that of the target, and its error."""
        friction = (1 / target.value - self.a) / self.b
        at = np.array([1.0, friction])
        variance = at @ self.covariance @ at + (target.error / target.value**2) ** 2
        return float(friction), float(np.sqrt(variance) / self.b)


def _line(tried: list[tuple[float, Diffusion]], known: float) -> _Line:
    """Weighted least squares through all rounds, with a prior of known +- known/2 on the slope."""
    g = np.array([x for x, _ in tried])
    y = np.array([1 / d.value for _, d in tried])
    sigma = np.array([d.error / d.value**2 for _, d in tried])
    design = np.concatenate([np.stack([np.ones_like(g), g], 1) / sigma[:, None], [[0.0, 2 / known]]])
    covariance = np.linalg.inv(design.T @ design)
    a, b = covariance @ design.T @ np.append(y / sigma, 2.0)
    return _Line(float(a), float(b), covariance)


def _round(
    state: State, potential: Potential, friction: float, s: Settings, generator: torch.Generator | None
) -> tuple[State, Diffusion]:
    """A run at one friction, and the D of the molecules in it."""
    integrator = Langevin(s.dt, s.kT, friction)
    for now in simulate(state, potential, integrator, s.settle, every=max(s.settle, 1), generator=generator, skin=s.skin):
        state = now
    kept = []
    for now in simulate(state, potential, integrator, s.steps, every=s.every, generator=generator, skin=s.skin):
        state = now
        kept.append(_centres(now.system, s.size))
    frame = s.dt * s.every
    first, last = (round(w / frame) for w in s.window)
    x = torch.stack(kept)
    curve = msd(x - x.mean(2, keepdim=True), max_lag=min(last, len(kept) - 1), n_blocks=s.n_blocks)
    return state, diffusion_coefficient(curve, first, last, frame)


def _centres(system: System, size: int) -> torch.Tensor:
    """(S, M, 3) centres of mass of molecules of ``size`` particles, one after another."""
    x, m = system.dense().unflatten(1, (-1, size)), system.dense(system.masses).unflatten(1, (-1, size))
    return (m[..., None] * x).sum(2) / m.sum(2)[..., None]


def _molecule_mass(system: System, size: int) -> float:
    """Mean mass of a molecule."""
    count = segment_sum(torch.ones_like(system.masses), system.batch, system.n_systems).sum()
    return float(system.masses.sum() / count * size)


def _check(system: System, target: Target, s: Settings) -> None:
    values = {"target.value": target.value, "dt": s.dt, "kT": s.kT, "start": s.start, "steps": s.steps, "every": s.every}
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}={value}: must be positive")
    if not target.error >= 0:
        raise ValueError(f"target.error={target.error}: must not be negative, in A^2/fs")
    if s.rounds < 2 or s.settle < 0:
        raise ValueError(f"rounds={s.rounds}, settle={s.settle}: at least two rounds are needed, and settle must not be negative")
    if system.size is None or s.size < 1 or system.size % s.size:
        raise ValueError(f"size={s.size}: systems must be equally large and hold whole molecules of that many particles")
    first, last = s.window
    if not 0 < first < last <= s.steps * s.dt:
        raise ValueError(f"window={s.window}: must begin after 0 and end within a round of {s.steps * s.dt:g} fs")
