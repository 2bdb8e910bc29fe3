"""Thermostats that act on the kinetic energy of a whole system: Nose-Hoover chains, and stochastic velocity rescaling.

Both leave the directions of the velocities alone and disturb dynamics little. Neither mixes parts of a system that do not exchange
energy: for free particles, uncoupled oscillators or a few stiff degrees of freedom take :class:`mlmd.md.Langevin`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from mlmd.md.integrators import Force, _positive, drift, evaluate, halves, kick, whole_drift
from mlmd.md.state import State
from mlmd.segment import segment_sum
from mlmd.system import System


def per_system(value: float | Tensor, system: System) -> Tensor:
    """A number, or one per system, as (S,) in the precision of the positions.

    Raises:
        ValueError: if there is neither one value nor one per system.
    """
    value = torch.as_tensor(value, dtype=system.positions.dtype, device=system.positions.device)
    if value.ndim and value.shape != (system.n_systems,):
        raise ValueError(f"one value per system expected: shape {tuple(value.shape)} for {system.n_systems} systems")
    return value.expand(system.n_systems)


def degrees_of_freedom(system: System, removed: int | Tensor = 0) -> Tensor:
    """(S,) number of independent velocity components, 3 n - removed.

    Args:
        system: S systems of n particles each.
        removed: how many are not free, a number or one per system (S,): 3 for a total momentum that stays zero, one for every
            rigid bond.

    Raises:
        ValueError: if nothing is left to move.
    """
    n = segment_sum(torch.ones_like(system.masses), system.batch, system.n_systems)
    free = 3 * n - per_system(removed, system)
    if not bool((free >= 1).all()):
        raise ValueError(f"removed={removed}: leaves a system without a degree of freedom, must be below 3 n")
    return free


# Weights of the symmetric compositions of a second-order step: Suzuki 1990 and Yoshida 1990 (fourth order, 3 and 5 steps; sixth, 7).
_third, _fifth = 1 / (2 - 2 ** (1 / 3)), 1 / (4 - 4 ** (1 / 3))
_seventh = (0.784513610477560, 0.235573213359357, -1.17767998417887)
SUZUKI_YOSHIDA: dict[int, tuple[float, ...]] = {
    1: (1.0,),
    3: (_third, 1 - 2 * _third, _third),
    5: (_fifth, _fifth, 1 - 4 * _fifth, _fifth, _fifth),
    7: (*_seventh, 1 - 2 * sum(_seventh), *reversed(_seventh)),
}


class Chain(NamedTuple):
    """What :class:`NoseHooverChain` keeps: factors (N, 3) of the step, constants (S,), and the chain's variables (S, M)."""

    kick: Tensor  # dt / (2 m)
    half: Tensor  # dt / 2
    duration: Tensor  # dt / 2 again, (S,): how long the chain acts before and after a step
    kT: Tensor
    freedom: Tensor
    mass: Tensor  # (S, M), eV fs^2
    position: Tensor  # (S, M)
    velocity: Tensor  # (S, M), 1/fs


@dataclass(frozen=True, eq=False)
class NoseHooverChain:
    r"""Canonical dynamics without noise, a chain of M thermostats (Martyna, Klein and Tuckerman 1992), time-reversible.

    .. math::
        \dot v=F/m-v\,\dot\eta_1,\quad Q_1\ddot\eta_1=2K-f\,kT-Q_1\dot\eta_1\dot\eta_2,\quad
        Q_j\ddot\eta_j=Q_{j-1}\dot\eta_{j-1}^2-kT-Q_j\dot\eta_j\dot\eta_{j+1}

    with :math:`Q_1=f\,kT\,\tau^2,\ Q_{j>1}=kT\,\tau^2`, integrated as chain, kick, drift, kick, chain; the chain by
    ``substeps`` compositions of ``order`` Suzuki-Yoshida weights (Martyna, Tuckerman, Tobias and Klein 1996).

    | symbol | argument | unit |
    |---|---|---|
    | Delta t | dt | fs |
    | kT | kT | eV |
    | tau | time | fs, period of the coupling; 20 dt or more |
    | M | length | thermostats in the chain |
    | f = 3 n - removed | removed | degrees of freedom that are not free; 3 where the total momentum stays zero |

    The first three and ``removed`` are a number or one per system (S,).
    """

    dt: float | Tensor
    kT: float | Tensor
    time: float | Tensor
    length: int = 3
    removed: int | Tensor = 0
    order: int = 3
    substeps: int = 1

    def __post_init__(self) -> None:
        _positive(dt=self.dt, kT=self.kT, time=self.time)
        if self.length < 1 or self.substeps < 1:
            raise ValueError(f"length={self.length}, substeps={self.substeps}: both must be at least 1")
        if self.order not in SUZUKI_YOSHIDA:
            raise ValueError(f"order={self.order}: choose a composition of {sorted(SUZUKI_YOSHIDA)} steps")

    def init(self, state: State) -> State:
        system = state.system
        dt, kT, time = (per_system(v, system) for v in (self.dt, self.kT, self.time))
        freedom = degrees_of_freedom(system, self.removed)
        mass = (kT * time**2)[:, None].repeat(1, self.length)
        mass[:, 0] = mass[:, 0] * freedom
        old = state.memory
        if isinstance(old, Chain) and old.position.shape == mass.shape:
            x, v = old.position, old.velocity
        else:
            x, v = torch.zeros_like(mass), torch.zeros_like(mass)
        return replace(state, memory=Chain(*halves(self.dt, system), dt / 2, kT, freedom, mass, x, v))

    def noise(self, state: State, generator: torch.Generator | None) -> None:
        return None

    def step(self, state: State, force: Force, noise: None = None) -> State:
        state = self._chain(state)
        c = state.memory
        state = kick(state, c)
        state = whole_drift(state, c)
        state = evaluate(state, force)
        state = self._chain(kick(state, c))
        return replace(state, step=state.step + 1)

    def conserved(self, state: State) -> Tensor:
        r"""(S,) what the extended system conserves, in eV:
        :math:`K+U+\sum_j\tfrac12Q_j\dot\eta_j^2+f\,kT\,\eta_1+kT\sum_{j>1}\eta_j`.
        """
        c = state.memory
        bath = (0.5 * c.mass * c.velocity**2).sum(1) + c.kT * (c.freedom * c.position[:, 0] + c.position[:, 1:].sum(1))
        return state.kinetic_energy + state.energy + bath

    def _chain(self, state: State) -> State:
        c: Chain = state.memory
        x, v, mass = list(c.position.unbind(1)), list(c.velocity.unbind(1)), c.mass.unbind(1)
        twice, scale = 2 * state.kinetic_energy, torch.ones_like(c.kT)
        for w in SUZUKI_YOSHIDA[self.order] * self.substeps:
            dt = w * c.duration / self.substeps
            v = _links(twice, v, mass, c, dt / 2, range(self.length - 1, -1, -1))
            slower = torch.exp(-dt * v[0])
            scale, twice = scale * slower, twice * slower**2
            x = [a + dt * b for a, b in zip(x, v)]
            v = _links(twice, v, mass, c, dt / 2, range(self.length))
        memory = c._replace(position=torch.stack(x, 1), velocity=torch.stack(v, 1))
        return replace(state, velocities=state.velocities * scale[state.system.batch][:, None], memory=memory)


def _links(twice: Tensor, v: list[Tensor], mass: tuple[Tensor, ...], c: Chain, dt: Tensor, order: range) -> list[Tensor]:
    """Advance the velocities of the chain one link after another: brake, push, brake."""
    v = list(v)
    for j in order:
        push = dt / mass[j] * (twice - c.freedom * c.kT if j == 0 else mass[j - 1] * v[j - 1] ** 2 - c.kT)
        if j + 1 == len(v):
            v[j] = v[j] + push
        else:
            brake = torch.exp(-dt / 2 * v[j + 1])
            v[j] = (v[j] * brake + push) * brake
    return v


class Bath(NamedTuple):
    """What :class:`CSVR` keeps: factors (N, 3) of the step, constants (S,), and the heat taken up so far (S,) in eV."""

    kick: Tensor  # dt / (2 m)
    half: Tensor  # dt / 2
    keep: Tensor  # exp(-dt / time)
    kT: Tensor
    freedom: Tensor
    heat: Tensor  # double precision: a sum over the whole run


class BathNoise(NamedTuple):
    """One standard normal number, and a chi-squared one with f - 1 degrees of freedom, per system (S,)."""

    normal: Tensor
    chi_squared: Tensor


@dataclass(frozen=True, eq=False)
class CSVR:
    r"""Canonical sampling by stochastic velocity rescaling (Bussi, Donadio and Parrinello 2007).

    All velocities of a system are multiplied by :math:`\alpha`, the exact solution over one time step of
    :math:`dK=(\bar K-K)\,dt/\tau+2\sqrt{K\bar K/(f\tau)}\,dW`, with :math:`\bar K=f\,kT/2`:

    .. math:: \alpha^2=c+(1-c)\frac{kT}{2K}\Big(R^2+\chi^2_{f-1}\Big)+2R\sqrt{c(1-c)\frac{kT}{2K}},\qquad c=e^{-\Delta t/\tau}

    in the middle of velocity Verlet (kick, drift, rescale, drift, force, kick), where Langevin dynamics has its noise.

    | symbol | argument | unit |
    |---|---|---|
    | Delta t | dt | fs |
    | kT | kT | eV |
    | tau | time | fs, relaxation time of the kinetic energy |
    | f = 3 n - removed | removed | degrees of freedom that are not free; 3 where the total momentum stays zero |

    Each is a number or one per system (S,). :math:`\alpha` has the sign of :math:`\sqrt c+R\sqrt{(1-c)kT/2K}`, almost always +.
    """

    dt: float | Tensor
    kT: float | Tensor
    time: float | Tensor
    removed: int | Tensor = 0

    def __post_init__(self) -> None:
        _positive(dt=self.dt, kT=self.kT, time=self.time)

    def init(self, state: State) -> State:
        system = state.system
        dt, kT, time = (per_system(v, system) for v in (self.dt, self.kT, self.time))
        freedom = degrees_of_freedom(system, self.removed)
        heat = state.memory.heat if isinstance(state.memory, Bath) else torch.zeros_like(kT, dtype=torch.float64)
        return replace(state, memory=Bath(*halves(self.dt, system), torch.exp(-dt / time), kT, freedom, heat))

    def noise(self, state: State, generator: torch.Generator | None) -> BathNoise:
        f = state.memory.freedom
        normal = torch.randn(f.shape, dtype=f.dtype, device=f.device, generator=generator)
        # twice a gamma variate of shape (f - 1) / 2; the sampler of torch.distributions, which itself takes no generator
        chi_squared = 2 * torch._standard_gamma((f - 1).clamp(min=1) / 2, generator=generator)
        return BathNoise(normal, torch.where(f > 1, chi_squared, torch.zeros_like(f)))

    def step(self, state: State, force: Force, noise: BathNoise) -> State:
        c = state.memory
        state = drift(kick(state, c), c)
        state = rescale(state, c, noise)
        state = drift(state, c)
        state = evaluate(state, force)
        return replace(kick(state, c), step=state.step + 1)

    def conserved(self, state: State) -> Tensor:
        """(S,) energy less the heat taken up from the bath, K + U - sum of (alpha^2 - 1) K, in eV, double precision."""
        return state.kinetic_energy.double() + state.energy.double() - state.memory.heat


def rescale(state: State, c: Bath, noise: BathNoise) -> State:
    """v <- alpha v with the alpha of :class:`CSVR`; the change of K is added to the heat. A system at rest stays at rest."""
    kinetic = state.kinetic_energy
    share = (1 - c.keep) * c.kT / (2 * kinetic.clamp(min=torch.finfo(kinetic.dtype).tiny))
    alpha2 = c.keep + share * (noise.normal**2 + noise.chi_squared) + 2 * noise.normal * (c.keep * share).sqrt()
    alpha2 = torch.where(kinetic > 0, alpha2, torch.ones_like(alpha2)).clamp(min=0)
    alpha = torch.where(c.keep.sqrt() + noise.normal * share.sqrt() < 0, -alpha2.sqrt(), alpha2.sqrt())
    velocities = state.velocities * alpha[state.system.batch][:, None]
    memory = c._replace(heat=c.heat + ((alpha2 - 1) * kinetic).double())
    return replace(state, velocities=velocities, memory=memory)
