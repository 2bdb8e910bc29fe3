"""The loop that all iterative structure-based methods share: sample, compare, end or correct; and the detection of divergence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from mlmd import units
from mlmd.cg.liquid_sampler import BLOCKS, LiquidSampler, Sample
from mlmd.cg.pair_splines import PairSplines
from mlmd.cg.target_rdf import TargetRDF
from mlmd.errors import Diverging, Unstable
from mlmd.potentials.spline import TabulatedPair

PATIENCE = 3  # iterations in a row that may grow worse
ADVICE = "the last good potential is in .last_good; start from it with more damping (a smaller step), or with longer runs"


class Correction(Protocol):
    """One step of a method: from what a potential was seen to do to the values (R, I) of a better one, in eV."""

    def __call__(self, sample: Sample, target: TargetRDF, basis: PairSplines) -> Tensor:
        """Values for the next iteration; those of this one are ``sample.values``."""
        ...


@dataclass(frozen=True)
class PressureGoal:
    """A virial pressure that a potential shall have too: ``value`` and how far off is near enough, ``within``, both in eV/A^3.

    A pressure is known to a few ten bar after ten thousand steps of a thousand beads: choose ``within`` above the error that iterations report.

    Raises:
        ValueError: a value that is not finite, or within that is not positive.
    """

    value: float
    within: float

    def __post_init__(self) -> None:
        if not np.isfinite(self.value) or not self.within > 0:
            raise ValueError(f"value={self.value}, within={self.within}: must be finite, and within positive, in eV/A^3")

    def met(self, pressure: float) -> bool:
        """Whether a pressure in eV/A^3 is near enough."""
        return abs(pressure - self.value) < self.within


@dataclass(frozen=True, eq=False)
class Iteration:
    """One potential and what it gave.

    number: counts from 1. values (R, I) in eV at the knots; law: the same as a potential. sample: what was measured with it.
    deviation: largest |g - g_ref| over all bins and pairs of types; rms: its root mean square; noise: largest standard error of g,
    all dimensionless; pressure and its error in eV/A^3. converged: whether the deviation is below the tolerance, and the pressure near
    enough where one is wanted.
    """

    number: int
    values: Tensor
    law: TabulatedPair
    sample: Sample
    deviation: float
    rms: float
    noise: float
    converged: bool

    @property
    def pressure(self) -> float:
        """Virial pressure in eV/A^3."""
        return self.sample.pressure

    def line(self) -> str:
        """The numbers in words."""
        bar = self.pressure / units.bar, self.sample.pressure_error / units.bar
        return (
            f"iteration {self.number}: max |g - g_ref| {self.deviation:.4f} (rms {self.rms:.4f}, noise {self.noise:.4f}), "
            f"pressure {bar[0]:.0f} +- {bar[1]:.0f} bar" + (", converged" if self.converged else "")
        )


def refine_pairs(
    method: Correction,
    sampler: LiquidSampler,
    start: Tensor,
    *,
    tolerance: float = 0.02,
    iterations: int = 30,
    shortest: float = 1.0,
    pressure: PressureGoal | None = None,
) -> Iterator[Iteration]:
    """Sample, compare with the target, correct, until max |g - g_ref| is below the tolerance, and the pressure as wanted.

    The potential of an iteration is the one that was sampled, so the last one is the one that was seen to converge. The result of
    any method, and any other potential through ``sampler.basis.values_of(law)``, can start any other.

    Args:
        method: how values are corrected. sampler: box, target and basis; it goes on from where it is.
        start: (R, I) first values in eV. tolerance: of max |g - g_ref|. iterations: at most so many.
        shortest: share of the sampler's steps made while the deviation is far above the noise that matters, growing to 1 as the
            deviation falls to four tolerances. Below 1 only for methods that need no covariances, such as Boltzmann iteration.
        pressure: a second criterion; only a method that corrects the pressure, to the same value, can be expected to meet it.

    Yields:
        :class:`Iteration`. The generator ends after the first that is converged, or after the last.

    Raises:
        ValueError: where the noise of the sampler's runs alone hides the tolerance.
        Diverging: when the deviation has grown over three iterations in a row to well above the best, is not finite, or the box
            explodes; carries the best iteration.
    """
    if not tolerance > 0 or iterations < 1 or not 0 < shortest <= 1:
        raise ValueError(
            f"tolerance={tolerance}, iterations={iterations}, shortest={shortest}: must be positive, and shortest at most 1"
        )
    floor = noise_floor(sampler)
    if floor > tolerance / 2:
        needed = int(np.ceil((2 * floor / tolerance) ** 2 * sampler.steps))
        raise ValueError(
            f"steps={sampler.steps}: the counting noise of g would be {floor:.3g} at least, too much for a tolerance of {tolerance:g}: "
            f"sample at least {needed} steps, or take a larger box or wider bins"
        )
    values, best, course = sampler.basis.checked(start), None, list[float]()
    for number in range(1, iterations + 1):
        try:
            now = measured(sampler, values, number, tolerance, _steps(sampler, course, tolerance, shortest), pressure)
        except Unstable as error:
            raise Diverging(f"the box exploded in iteration {number} ({error.reason}): {ADVICE}", best) from error
        course.append(now.deviation)
        if not np.isfinite(now.deviation) or (best is not None and _grows(course, best, now.noise, tolerance)):
            last = ", ".join(f"{d:.3g}" for d in course[-PATIENCE - 1 :])
            raise Diverging(f"max |g - g_ref| grows ({last}): {ADVICE}", best)
        best = now if best is None or now.deviation < best.deviation else best
        yield now
        if now.converged:
            return
        values = method(now.sample, sampler.target, sampler.basis)


def measured(
    sampler: LiquidSampler,
    values: Tensor,
    number: int,
    tolerance: float,
    steps: int | None = None,
    pressure: PressureGoal | None = None,
) -> Iteration:
    """Sample one potential (R, I) and compare its g(r) with the target, and its pressure with the goal if there is one."""
    return compared(sampler.sample(values, steps), sampler, number, tolerance, pressure)


def compared(
    sample: Sample, sampler: LiquidSampler, number: int, tolerance: float, pressure: PressureGoal | None = None
) -> Iteration:
    """A sample beside the target of its sampler."""
    difference = sample.g - sampler.target.g
    deviation = float(np.abs(difference).max())
    return Iteration(
        number,
        sample.values,
        sampler.basis.law(sample.values),
        sample,
        deviation,
        float(np.sqrt((difference**2).mean())),
        float(sample.g_error.max()),
        deviation < tolerance and (pressure is None or pressure.met(sample.pressure)),
    )


def noise_floor(sampler: LiquidSampler) -> float:
    r"""Largest standard error of g over the bins if all snapshots were independent and pairs came at random,
    :math:`\max_b\sqrt{g_b/(F\,n_b)}` for F snapshots and n_b pairs of the ideal gas."""
    snapshots = sampler.steps // sampler.every
    return float(np.sqrt(sampler.target.g / (sampler.ideal * snapshots)).max())


def limited(correction: Tensor, largest: float) -> Tensor:
    """The correction with every value cut to at most ``largest`` up or down: far from the end, and where pairs are few, linear response
    errs, and one such knot must not hold up the others."""
    return correction.clamp(-largest, largest)


def _steps(sampler: LiquidSampler, course: list[float], tolerance: float, shortest: float) -> int:
    """Length of the next run: noise goes with its square root, and needs to be small beside the deviation only."""
    share = min(1.0, max(shortest, (4 * tolerance / course[-1]) ** 2)) if course else shortest
    blocks = 2 * BLOCKS * sampler.every
    return max(blocks, round(share * sampler.steps / sampler.every) * sampler.every)


def _grows(course: list[float], best: Iteration, noise: float, tolerance: float) -> bool:
    """Growth below the tolerance is none: a pressure may still be sought, which costs some of a g that was better than asked for."""
    rises = np.diff(course[-PATIENCE - 1 :])
    limit = max(tolerance, 1.5 * best.deviation + 3 * noise)
    return len(rises) == PATIENCE and bool((rises > 0).all()) and course[-1] > limit
