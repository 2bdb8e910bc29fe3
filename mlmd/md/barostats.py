r"""Constant pressure: stochastic cell rescaling around any thermostat.

The ensemble that is sampled: volumes with the weight :math:`V^n e^{-\beta(U+pV)}\,dV` at fixed fractional coordinates of the n
particles, velocities Maxwellian and independent of the volume. An ideal gas has :math:`\langle V\rangle=(n+1)kT/p`, whether its
total momentum is removed or not. Where bonds are rigid, particles are read as bodies (:mod:`mlmd.md.bodies`): fixed are the
fractional coordinates of their centres of mass, and n is their number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from mlmd.forces import Evaluation
from mlmd.md.bodies import Bodies, centres, molecular_stress
from mlmd.md.integrators import Force, Integrator, Noise, _positive
from mlmd.md.state import State
from mlmd.md.thermostats import per_system
from mlmd.segment import segment_sum
from mlmd.system import System


class Thermostat(Integrator, Protocol):
    """An integrator at a temperature."""

    @property
    def kT(self) -> float | Tensor:
        """Temperature in eV, a number or (S,)."""
        ...


@runtime_checkable
class Jointed(Protocol):
    """An integrator that keeps bonds rigid."""

    def bodies(self, system: System) -> Bodies:
        """Particles that a change of the cell has to move as one."""
        ...


def internal_pressure(system: System, kT: float | Tensor, stress: Tensor, bodies: Bodies | None = None) -> Tensor:
    r"""(S, 3, 3) pressure tensor :math:`P=\frac{n\,kT}{V}1-\sigma` in eV/A^3, its kinetic part at its mean.

    Args:
        system: n particles in a volume V, per system.
        kT: eV, a number or one per system (S,).
        stress: (S, 3, 3) sigma of :func:`mlmd.forces.energy_forces` with ``stress=True``, in eV/A^3.
        bodies: what n counts where bonds are rigid; the stress is then that of :func:`mlmd.md.bodies.molecular_stress`.
    """
    ideal = _number(system, bodies) * per_system(kT, system) / torch.linalg.det(system.cell).abs()
    return ideal[:, None, None] * torch.eye(3, dtype=stress.dtype, device=stress.device) - stress


def _number(system: System, bodies: Bodies | None) -> Tensor:
    """(S,) how many particles or bodies the cell carries along."""
    batch = system.batch if bodies is None else bodies.batch
    return segment_sum(torch.ones_like(batch, dtype=system.positions.dtype), batch, system.n_systems)


def _isotropic(a: Tensor) -> Tensor:
    return torch.zeros_like(a)


def _anisotropic(a: Tensor) -> Tensor:
    return _traceless(torch.diag_embed(a.diagonal(dim1=-2, dim2=-1)))


def _triclinic(a: Tensor) -> Tensor:
    return _traceless(0.5 * (a + a.transpose(-1, -2)))


def _traceless(a: Tensor) -> Tensor:
    mean = a.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    return a - mean * torch.eye(3, dtype=a.dtype, device=a.device)


def _exponential(a: Tensor) -> Tensor:
    """exp a, (S, 3, 3), to rounding for |a| < 1/2: Taylor's series of a/4 to degree 8, squared twice.

    ``torch.linalg.matrix_exp`` picks a degree by the norms of the batch, so that a system alone differs from itself in a batch.
    """
    one, a = torch.eye(3, dtype=a.dtype, device=a.device), a / 4
    out = one + a / 8
    for k in range(7, 0, -1):
        out = one + a @ out / k
    out = out @ out
    return out @ out


# Which changes of shape a cell may make: a projection of (S, 3, 3) rates of deformation onto the allowed ones without trace.
SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "isotropic": _isotropic,
    "anisotropic": _anisotropic,
    "triclinic": _triclinic,
}


class Piston(NamedTuple):
    """What :class:`CellRescaling` keeps: the memory of its thermostat, constants (S,), and the bodies if bonds are rigid."""

    thermostat: NamedTuple
    kT: Tensor
    pressure: Tensor
    rate: Tensor  # compressibility every dt / time, A^3/eV
    bodies: Bodies | None = None

    @property
    def kick(self) -> Tensor:
        """Half a kick of the thermostat's step, dt / (2 m), (N, 1)."""
        return self.thermostat.kick  # type: ignore[attr-defined]


class CellNoise(NamedTuple):
    """Noise of the thermostat; standard normal numbers for the volume (S,) and the shape (S, 3, 3), uniform ones (S,) to accept."""

    thermostat: Noise
    volume: Tensor
    shape: Tensor
    uniform: Tensor


class _Push(NamedTuple):
    """Where the cell is pushed: the square root of its volume (S,), the mean change of that (S,), and the mean strain (S, 3, 3)."""

    root: Tensor
    rise: Tensor
    strain: Tensor


@dataclass(frozen=True, eq=False)
class CellRescaling:
    r"""Constant pressure by stochastic cell rescaling (Bernetti and Bussi 2020; Del Tatto, Raiteri, Bernetti and Bussi 2022).

    Every ``every`` steps of the thermostat, with :math:`\Delta` the time since the last coupling, the volume follows

    .. math:: d\sqrt V=-\frac{\beta_T\sqrt V}{2\tau}\Big(p-\tfrac13\mathrm{tr}P-\frac{kT}{2V}\Big)dt+\sqrt{\frac{kT\beta_T}{2\tau}}\,dW

    and the shape, unless ``shape`` is "isotropic", a deformation without change of volume

    .. math:: \mu=\exp\Big[\frac{\beta_T}{3\tau}\,\mathrm{dev}P\,\Delta+\sqrt{\frac{2kT\beta_T\Delta}{3V\tau}}\,\mathrm{dev}R\Big]

    dev: the part without trace, symmetric ("triclinic": all lengths and angles) or diagonal in the Cartesian axes ("anisotropic":
    the edges of an orthogonal box). Cell and positions are deformed together, atom by atom, and the forces are evaluated anew.
    P is :func:`internal_pressure`, whose kinetic part is the mean n kT/V, and velocities are not rescaled: a step on cells at fixed
    fractional coordinates and velocities. By itself it has the distribution of the module only as :math:`\Delta/\tau\to0`; at
    finite :math:`\Delta` volumes would fluctuate too much, their variance by a share of about :math:`\Delta\beta_TB/2\tau` where B is
    the bulk modulus at fixed fractional coordinates, several times that of a relaxed fluid. So the step is accepted or rejected by
    the rule of Metropolis (Roberts and Tweedie, Bernoulli 2, 341 (1996)), which makes it exact for any :math:`\Delta`; almost all
    are accepted if that share is small.

    An isotropic pressure leaves the shape of a fluid free: "triclinic" is for solids. Around :class:`mlmd.md.Constrained` molecules
    are moved as a whole and not turned, and P is made of their centres of mass, so that rigid bonds stay and their forces are not
    needed.

    | symbol | argument | unit |
    |---|---|---|
    | | thermostat | any integrator with a temperature kT: Langevin, CSVR, NoseHooverChain, or Constrained around one of them |
    | p | pressure | eV/A^3 (``1 * bar``), may be negative |
    | beta_T | compressibility | A^3/eV (water: ``4.5e-5 / bar``); an estimate, it sets the pace only |
    | tau | time | fs, relaxation time of the volume if the compressibility is right |
    | | every | steps from one coupling, which costs two evaluations of the stress, to the next |

    pressure, compressibility and time are a number or one per system (S,).

    Raises:
        ValueError: a setting that is impossible, coupling less often than ``time``, a system not periodic in three directions.
    """

    thermostat: Thermostat
    pressure: float | Tensor
    compressibility: float | Tensor
    time: float | Tensor
    every: int = 10
    shape: str = "isotropic"

    def __post_init__(self) -> None:
        _positive(compressibility=self.compressibility, time=self.time)
        if self.every < 1:
            raise ValueError(f"every={self.every}: must be at least 1 step")
        if self.shape not in SHAPES:
            raise ValueError(f"shape={self.shape!r}: choose one of {sorted(SHAPES)}")
        if bool((torch.as_tensor(self.time) <= self.every * torch.as_tensor(self.dt)).any()):
            raise ValueError(f"time={self.time}: must be longer than every={self.every} steps of dt={self.dt} fs, better 20 times")

    @property
    def dt(self) -> float | Tensor:
        """Time step of the thermostat in fs, a number or (S,)."""
        return self.thermostat.dt

    @property
    def kT(self) -> float | Tensor:
        """Temperature of the thermostat in eV, a number or (S,)."""
        return self.thermostat.kT

    def init(self, state: State) -> State:
        system = state.system
        if not bool(system.pbc.all()):
            raise ValueError("a system is not periodic in three directions: constant pressure needs a cell with a volume")
        kT, p, beta, time, dt = (per_system(v, system) for v in (self.kT, self.pressure, self.compressibility, self.time, self.dt))
        memory = state.memory.thermostat if isinstance(state.memory, Piston) else state.memory
        state = self.thermostat.init(replace(state, memory=memory))
        bodies = self.thermostat.bodies(system) if isinstance(self.thermostat, Jointed) else None
        return replace(state, memory=Piston(state.memory, kT, p, beta * self.every * dt / time, bodies))

    def couples(self, state: State) -> bool:
        """Whether the next step changes the cell."""
        return (state.step + 1) % self.every == 0

    def noise(self, state: State, generator: torch.Generator | None) -> CellNoise:
        c = state.memory
        inner = self.thermostat.noise(replace(state, memory=c.thermostat), generator)
        like: dict[str, Any] = dict(dtype=c.kT.dtype, device=c.kT.device, generator=generator)
        normal, uniform = torch.randn(len(c.kT), 10, **like), torch.rand(len(c.kT), **like)
        return CellNoise(inner, normal[:, 0], normal[:, 1:].reshape(-1, 3, 3), uniform)

    def step(self, state: State, force: Force, noise: CellNoise) -> State:
        c: Piston = state.memory
        couples, last = self.couples(state), _Last(force)
        state = self.thermostat.step(replace(state, memory=c.thermostat), last if couples else force, noise.thermostat)
        if couples:
            state = self._coupled(state, last.result, force, c, noise)
        return replace(state, memory=c._replace(thermostat=state.memory))

    def _coupled(self, state: State, here: Evaluation, force: Force, c: Piston, noise: CellNoise) -> State:
        """The state with another cell, or as it is where that is rejected."""
        push = self._push(state.system, here, c)
        new, root, strain = self._proposed(state.system, push, c, noise)
        there = force(new, stress=True)
        back, spread = self._push(new, there, c), _widths(push.root, root, c)
        work = there.energy - here.energy + c.pressure * (root**2 - push.root**2)
        weight = (2 * _number(new, c.bodies) + 1) * (root / push.root).log() - work / c.kT
        rise = root - push.root
        forth = (rise - push.rise) ** 2 / spread[0] ** 2 + (strain - push.strain).square().sum((1, 2)) / spread[1] ** 2
        home = (rise + back.rise) ** 2 / spread[0] ** 2 + (strain + back.strain).square().sum((1, 2)) / spread[1] ** 2
        return _chosen((noise.uniform.log() < weight + 0.5 * (forth - home)) & (root > 0), state, new, there)

    def _push(self, system: System, result: Evaluation, c: Piston) -> _Push:
        stress = result.stress if c.bodies is None else molecular_stress(system, result, c.bodies)
        assert stress is not None
        pressure, volume = internal_pressure(system, c.kT, stress, c.bodies), torch.linalg.det(system.cell).abs()
        excess = c.pressure - pressure.diagonal(dim1=-2, dim2=-1).mean(-1) - c.kT / (2 * volume)
        root = volume.sqrt()
        return _Push(root, -0.5 * c.rate * excess * root, SHAPES[self.shape](c.rate[:, None, None] / 3 * pressure))

    def _proposed(self, system: System, push: _Push, c: Piston, noise: CellNoise) -> tuple[System, Tensor, Tensor]:
        """A deformed system, the square root of its volume (S,), and the strain (S, 3, 3) without change of volume."""
        root = push.root + push.rise + (0.5 * c.rate * c.kT).sqrt() * noise.volume
        strain = push.strain + SHAPES[self.shape](_widths(push.root, root, c)[1][:, None, None] * noise.shape)
        mu = _exponential(strain) * (root / push.root).abs()[:, None, None] ** (2 / 3)
        return replace(system, positions=_carried(system, mu, c.bodies), cell=system.cell @ mu), root, strain


def _widths(old: Tensor, new: Tensor, c: Piston) -> tuple[Tensor, Tensor]:
    """(S,) standard deviations of sqrt(V) and of the strain between volumes old^2 and new^2: the same there and back."""
    return (0.5 * c.rate * c.kT).sqrt(), (2 * c.kT * c.rate / (3 * old * new.abs())).sqrt()


def _chosen(accepted: Tensor, state: State, new: System, there: Evaluation) -> State:
    """The accepted systems (S,) as they are in ``new``, the others as they were."""
    atoms, cells = accepted[new.batch][:, None], accepted[:, None, None]
    old = state.system
    positions, cell = torch.where(atoms, new.positions, old.positions), torch.where(cells, new.cell, old.cell)
    forces, energy = torch.where(atoms, there.forces, state.forces), torch.where(accepted, there.energy, state.energy)
    return replace(state, system=replace(old, positions=positions, cell=cell), forces=forces, energy=energy)


def _carried(system: System, mu: Tensor, bodies: Bodies | None) -> Tensor:
    """Positions (N, 3) deformed with the cell, or moved with the centre of mass of their body."""
    if bodies is None:
        return torch.einsum("ni,nij->nj", system.positions, mu[system.batch])
    there = centres(system, bodies)
    return system.positions + (torch.einsum("ni,nij->nj", there, mu[system.batch]) - there)


class _Last:
    """A force that always evaluates the stress and remembers it: a thermostat evaluates where its step ends."""

    def __init__(self, force: Force):
        self.force = force
        self.result: Evaluation

    def __call__(self, system: System, stress: bool = False) -> Evaluation:
        self.result = self.force(system, stress=True)
        return self.result
