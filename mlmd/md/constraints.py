r"""Rigid bonds: integrators whose drift keeps distances, by SHAKE for positions and RATTLE for velocities.

Constraints :math:`|x_i-x_j|=d` that share particles form a cluster and are solved together by Newton's method on the Lagrange
multipliers (matrix SHAKE), all clusters of one shape at once; the error is squared with every iteration. With bond vectors
:math:`r=B^Tx`, those before the drift s, and :math:`C=B^TM^{-1}B`,

.. math:: r_k(\lambda)=r_k+\sum_l C_{kl}\lambda_l s_l,\qquad |r_k(\lambda)|^2=d_k^2 .

Ryckaert, Ciccotti and Berendsen, J. Comput. Phys. 23, 327 (1977) (SHAKE); Andersen, J. Comput. Phys. 52, 24 (1983) (RATTLE);
Kraeutler, van Gunsteren and Huenenberger, J. Comput. Chem. 22, 501 (2001) (matrix SHAKE).

Distances are plain differences of positions, so molecules must be whole: unwrapped, as ``simulate`` leaves them. For constant
pressure put :class:`mlmd.md.CellRescaling` around :class:`Constrained`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from mlmd.md.bodies import Bodies, joined
from mlmd.md.integrators import (
    Force,
    Halves,
    Langevin,
    Noise,
    VelocityVerlet,
    drift,
    evaluate,
    kick,
    ornstein_uhlenbeck,
    whole_drift,
)
from mlmd.md.state import State, moved
from mlmd.md.thermostats import CSVR, NoseHooverChain, rescale
from mlmd.segment import segment_sum
from mlmd.system import System

ITERATIONS = 15  # three or four are used
LOOSE = 1e-4  # relative error of a distance that a simulation may start with (single precision stores positions to 1e-5)
SINGULAR = 1e-10  # ratio of eigenvalues below which constraints of a cluster are not independent


class Solver(Protocol):
    """Constraints prepared for the particles of a system."""

    def displacement(self, before: Tensor, after: Tensor) -> Tensor:
        r""":math:`M^{-1}G^T(\text{before})\,\lambda`, (N, 3) in A, which brings positions ``after`` a drift onto the constraints.

        NaN for the particles of a cluster for which no multipliers are found; no cluster depends on another.
        """
        ...

    def projection(self, positions: Tensor, velocities: Tensor) -> Tensor:
        """The change (N, 3) that removes relative velocities along the bonds."""
        ...


class Constraint(Protocol):
    """Distances that stay: the bonds they are made of, and the method that keeps them."""

    @property
    def bonds(self) -> RigidBonds:
        """All distances kept."""
        ...

    def solver(self, system: System) -> Solver:
        """The method, prepared for the masses of ``system``."""
        ...


@dataclass(frozen=True, eq=False)
class RigidBonds:
    """Distances d between pairs of particles, kept by matrix SHAKE and RATTLE.

    pairs: (C, 2) particles, counted through the whole batch. distances: (C,) in A. tolerance: relative error of a distance.

    The cost of a cluster of m coupled bonds grows as m^3: meant for molecules of up to some hundred rigid bonds each.
    """

    pairs: Tensor
    distances: Tensor
    tolerance: float = 1e-10

    def __post_init__(self) -> None:
        if self.pairs.ndim != 2 or self.pairs.shape[1] != 2 or self.pairs.is_floating_point():
            raise ValueError(f"pairs has shape {tuple(self.pairs.shape)} and type {self.pairs.dtype}: give integers (C, 2)")
        if self.distances.shape != self.pairs.shape[:1] or not bool((self.distances > 0).all()):
            raise ValueError(f"distances={self.distances}: give one positive distance per pair, in A")
        if bool((self.pairs[:, 0] == self.pairs[:, 1]).any()):
            raise ValueError("pairs binds a particle to itself")

    @staticmethod
    def of(
        system: System, bonds: Sequence[tuple[int, int]] | Tensor, distances: Sequence[float] | Tensor | None = None
    ) -> RigidBonds:
        """The same bonds in every system of the batch.

        Args:
            bonds: (C, 2) particles, counted from the first of each system.
            distances: (C,) in A; those of the first system if None.

        Raises:
            ValueError: for systems of unequal size, or particles that do not exist.
        """
        index = torch.as_tensor(bonds, dtype=torch.long).reshape(-1, 2).to(system.batch.device)
        n = system.dense().shape[1]
        if bool((index < 0).any() | (index >= n).any()):
            raise ValueError(f"bonds={index.tolist()[:8]}: each system has particles 0 to {n - 1}")
        if distances is None:
            distances = _lengths(system.dense()[0].double(), index)
        first = n * torch.arange(system.n_systems, device=index.device)
        d = torch.as_tensor(distances, dtype=torch.float64, device=index.device).reshape(-1)
        return RigidBonds((first[:, None, None] + index).reshape(-1, 2), d.repeat(system.n_systems))

    @property
    def bonds(self) -> RigidBonds:
        """Itself."""
        return self

    def error(self, system: System) -> Tensor:
        r""":math:`||x_i-x_j|-d|/d` of every constraint, (C,)."""
        return ((_lengths(system.positions.double(), self.pairs) - self.distances) / self.distances).abs()

    def removed(self, system: System) -> Tensor:
        """(S,) degrees of freedom taken away: one for every distance."""
        return torch.bincount(system.batch[self.pairs[:, 0]], minlength=system.n_systems)

    def solver(self, system: System) -> MatrixShake:
        """Clusters of coupled bonds, found anew.

        Raises:
            ValueError: for bonds between systems or to particles without mass, and for constraints that are not independent.
        """
        return MatrixShake.of(self, system)


class _Clusters(NamedTuple):
    """K clusters of m bonds among a particles each."""

    i: Tensor  # (K, m) particles
    j: Tensor
    squared: Tensor  # (K, m) d^2 in A^2
    atoms: Tensor  # (K, a) particles
    push: Tensor  # (K, a, m) M^-1 B: how a particle moves per multiplier
    coupling: Tensor  # (K, m, m) B^T M^-1 B


@dataclass(frozen=True, eq=False)
class MatrixShake:
    """Newton's method for the multipliers of clusters of bonds, in double precision whatever the positions are stored in."""

    clusters: tuple[_Clusters, ...]
    tolerance: float

    @staticmethod
    def of(bonds: RigidBonds, system: System) -> MatrixShake:
        """Clusters of ``bonds`` with the masses of ``system``; raises as :meth:`RigidBonds.solver`."""
        _check_bonds(bonds, system)
        solver = MatrixShake(tuple(_clusters(bonds, system)), bonds.tolerance)
        x = system.positions.double()
        for c in solver.clusters:
            s = x[c.i] - x[c.j]
            spectrum = torch.linalg.eigvalsh(c.coupling * (s @ s.mT))
            flat = ~(spectrum[:, 0] > SINGULAR * spectrum[:, -1])
            if bool(flat.any()):
                pairs = torch.stack([c.i[flat][0], c.j[flat][0]], 1).tolist()
                raise ValueError(f"constraints {pairs} are not independent (a straight or over-determined molecule): give fewer")
        return solver

    def displacement(self, before: Tensor, after: Tensor) -> Tensor:
        """As :class:`Solver`."""
        out = torch.zeros_like(after, dtype=torch.float64)
        before, after = before.double(), after.double()
        for c in self.clusters:
            s = before[c.i] - before[c.j]
            multipliers = _newton(c, s, after[c.i] - after[c.j], self.tolerance)
            out[c.atoms] = c.push @ (multipliers[..., None] * s)
        return out

    def projection(self, positions: Tensor, velocities: Tensor) -> Tensor:
        """As :class:`Solver`."""
        out = torch.zeros_like(velocities, dtype=torch.float64)
        x, v = positions.double(), velocities.double()
        for c in self.clusters:
            s = x[c.i] - x[c.j]
            along = (s * (v[c.i] - v[c.j])).sum(-1)
            multipliers = torch.linalg.solve_ex(c.coupling * (s @ s.mT), -along)[0]
            out[c.atoms] = c.push @ (multipliers[..., None] * s)
        return out.to(velocities.dtype)


def _newton(c: _Clusters, s: Tensor, r: Tensor, tolerance: float) -> Tensor:
    """Multipliers (K, m) with ``|r + C lambda s| = d``, NaN where there are none; a cluster that is done waits for the others."""
    multipliers, start = torch.zeros_like(c.squared), r
    for _ in range(ITERATIONS):
        excess = 0.5 * (r.square().sum(-1) - c.squared)  # d times the error of the distance
        good = (excess.abs() <= tolerance * c.squared).all(-1, keepdim=True)
        if bool(good.all()):
            return multipliers
        newton = torch.linalg.solve_ex(c.coupling * (r @ s.mT), excess)[0]
        multipliers = torch.where(good, multipliers, multipliers - newton)
        r = start + c.coupling @ (multipliers[..., None] * s)
    return torch.where(good, multipliers, torch.nan)


def _clusters(bonds: RigidBonds, system: System) -> list[_Clusters]:
    """Bonds that share particles, collected by the shape of their clusters."""
    pairs = bonds.pairs.cpu().numpy()
    n = len(system)
    label = connected_components(coo_array((np.ones(len(pairs)), pairs.T), shape=(n, n)), directed=False)[1]
    order = np.argsort(label[pairs[:, 0]], kind="stable")
    _, first, m = np.unique(label[pairs[order, 0]], return_index=True, return_counts=True)
    bound = np.unique(pairs)
    bound = bound[np.argsort(label[bound], kind="stable")]
    _, first_bound, a = np.unique(label[bound], return_index=True, return_counts=True)
    out = []
    for shape in sorted(set(zip(m.tolist(), a.tolist()))):
        here = np.flatnonzero((m == shape[0]) & (a == shape[1]))
        number = order[first[here, None] + np.arange(shape[0])]
        atoms = bound[first_bound[here, None] + np.arange(shape[1])]
        out.append(_collected(bonds, system, torch.from_numpy(number), torch.from_numpy(atoms)))
    return out


def _collected(bonds: RigidBonds, system: System, number: Tensor, atoms: Tensor) -> _Clusters:
    """Incidence and coupling of clusters; number (K, m), atoms (K, a)."""
    device = system.positions.device
    number, atoms = number.to(device), atoms.to(device)
    i, j = bonds.pairs.to(device)[number].unbind(-1)
    ends = (atoms[:, :, None] == i[:, None]).double() - (atoms[:, :, None] == j[:, None]).double()
    push = ends / system.masses.double()[atoms][:, :, None]
    return _Clusters(i, j, bonds.distances.to(device, torch.float64)[number].square(), atoms, push, ends.mT @ push)


def _check_bonds(bonds: RigidBonds, system: System) -> None:
    pairs = bonds.pairs
    if len(pairs) and (int(pairs.min()) < 0 or int(pairs.max()) >= len(system)):
        raise ValueError(f"pairs names particle {int(pairs.max())}, the batch has {len(system)}")
    i, j = pairs.to(system.batch.device).unbind(1)
    split = system.batch[i] != system.batch[j]
    if bool(split.any()):
        raise ValueError(f"constraint between particles {pairs[split.cpu()][0].tolist()} joins two systems of the batch")
    if bool((system.masses[torch.cat([i, j])] <= 0).any()):
        raise ValueError("a constrained particle has no mass: give it one, or leave its constraint out")


def _lengths(x: Tensor, pairs: Tensor) -> Tensor:
    return (x[pairs[:, 0]] - x[pairs[:, 1]]).norm(dim=-1)


class _Memory(NamedTuple):
    """The memory of the integrator inside, the prepared constraints, and the degrees of freedom (S,) that they take away."""

    inner: Any
    solvers: tuple[Solver, ...]
    removed: Tensor

    @property
    def kick(self) -> Tensor:
        return self.inner.kick


@dataclass(frozen=True, eq=False)
class Constrained:
    r"""Dynamics on the surface where ``constraints`` hold.

    RATTLE for :class:`VelocityVerlet`, g-BAOAB with one drift per half step for :class:`Langevin` (Leimkuhler and Matthews,
    Proc. R. Soc. A 472, 20160138 (2016)). Velocities are projected at the end of a step only: a component along the constraint
    gradients at the beginning of a drift is absorbed by the multipliers of that drift, so projecting after the first kick or
    after the noise as well would give the same trajectory. :class:`CSVR` and :class:`NoseHooverChain` act on the kinetic energy,
    which must not hold such components, so they scale velocities where steps of RATTLE meet; degrees of freedom that the
    constraints remove are not to be counted in ``removed`` of these.

    Where a constraint cannot be satisfied, a warning names it and the positions of its cluster become NaN, which ``simulate``
    treats as any runaway: the steps are repeated, the first limit passed is named, other systems are not touched.

    Args:
        integrator: what moves the particles in between.
        constraints: one set of constraints, or several that share no particle (rigid water by SETTLE, the rest by SHAKE).
    """

    integrator: VelocityVerlet | Langevin | CSVR | NoseHooverChain
    constraints: Constraint | Sequence[Constraint]

    def __post_init__(self) -> None:
        if not isinstance(self.integrator, VelocityVerlet | Langevin | CSVR | NoseHooverChain):
            raise ValueError(
                f"integrator={type(self.integrator).__name__}: constraints go with VelocityVerlet, Langevin, CSVR and "
                "NoseHooverChain; for constant pressure put CellRescaling around Constrained"
            )

    @property
    def dt(self) -> float | Tensor:
        """Time step in fs, a number or (S,)."""
        return self.integrator.dt

    @property
    def kT(self) -> float | Tensor:
        """Temperature of the integrator inside in eV, a number or (S,)."""
        if isinstance(self.integrator, VelocityVerlet):
            raise AttributeError("kT: VelocityVerlet has no temperature")
        return self.integrator.kT

    def removed(self, system: System) -> Tensor:
        """(S,) degrees of freedom taken away."""
        return removed(system, self.constraints)

    def bodies(self, system: System) -> Bodies:
        """Particles that constraints join, which a change of the cell moves as one."""
        return joined(system, torch.cat([c.bonds.pairs for c in _sets(self.constraints)]))

    def init(self, state: State) -> State:
        """The state with constants and prepared constraints in its memory.

        Raises:
            ValueError: if sets of constraints share a particle, or positions do not satisfy them (within 1e-4 of a distance).
        """
        sets = _sets(self.constraints)
        _check_disjoint(sets, len(state.system))
        for c in sets:
            _check_satisfied(c.bonds, state.system)
        memory = state.memory.inner if isinstance(state.memory, _Memory) else state.memory
        inner = self._counted(state.system).init(replace(state, memory=memory)).memory
        return replace(state, memory=_Memory(inner, tuple(c.solver(state.system) for c in sets), self.removed(state.system)))

    def noise(self, state: State, generator: torch.Generator | None) -> Noise:
        """Random numbers of the integrator inside."""
        return self.integrator.noise(replace(state, memory=state.memory.inner), generator)

    def step(self, state: State, force: Force, noise: Noise = None) -> State:
        """One time step."""
        c: _Memory = state.memory
        state = self._moved(replace(state, memory=c.inner), force, noise, c.solvers)
        return replace(state, memory=c._replace(inner=state.memory), step=state.step + 1)

    def conserved(self, state: State) -> Tensor:
        """(S,) what the integrator inside conserves, in eV; without a bath the energy."""
        if isinstance(self.integrator, CSVR | NoseHooverChain):
            return self.integrator.conserved(replace(state, memory=state.memory.inner))
        return state.kinetic_energy + state.energy

    def _counted(self, system: System) -> VelocityVerlet | Langevin | CSVR | NoseHooverChain:
        """The integrator inside, told what the constraints remove if it counts degrees of freedom."""
        if isinstance(self.integrator, CSVR | NoseHooverChain):
            return replace(self.integrator, removed=self.integrator.removed + self.removed(system))
        return self.integrator

    def _moved(self, state: State, force: Force, noise: Noise, solvers: tuple[Solver, ...]) -> State:
        if isinstance(self.integrator, NoseHooverChain):
            return self.integrator._chain(_rattle(self.integrator._chain(state), force, None, solvers))
        if isinstance(self.integrator, CSVR):
            return _rattle(rescale(state, state.memory, noise), force, None, solvers)
        return _rattle(state, force, noise, solvers)


def _rattle(state: State, force: Force, noise: Tensor | None, solvers: tuple[Solver, ...]) -> State:
    """Velocity Verlet with positions and velocities on the constraint surface at its end; with noise, BAOAB."""
    c = state.memory
    state = _drifts(kick(state, c), c, solvers, noise)
    return _projected(kick(evaluate(state, force), c), solvers)


def _drifts(state: State, c: Halves, solvers: tuple[Solver, ...], noise: Tensor | None) -> State:
    """The drift of a whole step on the constraint surface, with the thermostat in its middle if there is noise."""
    if noise is None:
        return _shaken(state, whole_drift(state, c), 2 * c.half, solvers)
    state = _shaken(state, drift(state, c), c.half, solvers)
    state = ornstein_uhlenbeck(state, state.memory, noise)
    return _shaken(state, drift(state, c), c.half, solvers)


def _shaken(before: State, after: State, duration: Tensor, solvers: tuple[Solver, ...]) -> State:
    """Positions after a drift brought back onto the constraints, and the velocities that would have led there."""
    x, y = before.system.positions, after.system.positions
    correction = sum((s.displacement(x, y) for s in solvers), start=torch.zeros_like(y, dtype=torch.float64))
    _warn_of_lost(before, after, correction)
    velocities = after.velocities + (correction / duration).to(y.dtype)
    return replace(moved(after, (y + correction).to(y.dtype)), velocities=velocities)


def _warn_of_lost(before: State, after: State, correction: Tensor) -> None:
    """Name a particle whose constraints could not be satisfied, unless its system was frozen or not finite before."""
    lost = torch.isnan(correction).any(-1)
    if not bool(lost.any()):
        return
    batch = before.system.batch
    lost = lost & torch.isfinite(after.system.positions).all(-1)
    if before.frozen is not None:
        lost = lost & ~before.frozen[batch]
    if bool(lost.any()):
        i = int(lost.nonzero()[0])
        warnings.warn(
            f"constraints of particle {i} (system {int(batch[i])}) cannot be satisfied in step {before.step + 1}: "
            "the particles moved too far; a smaller time step may help",
            RuntimeWarning,
            stacklevel=3,
        )


def _projected(state: State, solvers: tuple[Solver, ...]) -> State:
    """Velocities without components along the bonds."""
    v, x = state.velocities, state.system.positions
    return replace(state, velocities=sum((s.projection(x, v) for s in solvers), start=v))


def removed(system: System, constraints: Constraint | Sequence[Constraint]) -> Tensor:
    """(S,) degrees of freedom that constraints take from every system."""
    zero = torch.zeros(system.n_systems, dtype=torch.long, device=system.batch.device)
    return sum((c.bonds.removed(system) for c in _sets(constraints)), start=zero)


def constrained_kT(state: State, constraints: Constraint | Sequence[Constraint]) -> Tensor:
    """(S,) kinetic temperature :math:`2K/(3n-n_c)` in eV, of n particles with n_c constraints."""
    count = segment_sum(torch.ones_like(state.system.masses), state.system.batch, state.system.n_systems)
    return 2 * state.kinetic_energy / (3 * count - removed(state.system, constraints))


def constrain(state: State, constraints: Constraint | Sequence[Constraint]) -> State:
    """The state moved onto the constraints: positions along the bonds, velocities projected; forces are to be evaluated anew.

    Raises:
        ValueError: if that does not succeed (positions too far away, or wrapped into the cell), with the bonds concerned.
    """
    solvers = tuple(c.bonds.solver(state.system) for c in _sets(constraints))
    x = state.system.positions
    correction = sum((s.displacement(x, x) for s in solvers), start=torch.zeros_like(x, dtype=torch.float64))
    lost = torch.isnan(correction).any(-1)
    if bool(lost.any()):
        i = int(lost.nonzero()[0])
        raise ValueError(
            f"positions: the constraints of particle {i} (system {int(state.system.batch[i])}) cannot be satisfied from here; "
            "give positions nearer to them, of whole (unwrapped) molecules"
        )
    state = replace(moved(state, (x + correction).to(x.dtype)), energy=torch.full_like(state.energy, torch.nan))
    return _projected(state, solvers)


def _sets(constraints: Constraint | Sequence[Constraint]) -> tuple[Any, ...]:
    return tuple(constraints) if isinstance(constraints, Sequence) else (constraints,)


def _check_disjoint(sets: Sequence[Constraint], n: int) -> None:
    seen = torch.zeros(n, dtype=torch.bool)
    for c in sets:
        own = c.bonds.pairs.cpu().unique()
        shared = own[seen[own[own < n]]] if bool((own < n).all()) else own[:0]
        if len(shared):
            raise ValueError(f"constraints: particle {int(shared[0])} is in two sets; put coupled bonds into one set")
        seen[own[own < n]] = True


def _check_satisfied(bonds: RigidBonds, system: System) -> None:
    _check_bonds(bonds, system)
    error = bonds.error(system)
    if not len(error) or bool((error <= LOOSE).all()):
        return
    worst = int(torch.nan_to_num(error, nan=torch.inf).argmax())
    i, j = bonds.pairs[worst].tolist()
    raise ValueError(
        f"positions of particles {i} and {j} (system {int(system.batch[i])}) miss their constraint by a share of "
        f"{float(error[worst]):.2g}: start from mlmd.md.constraints.constrain(state, constraints), with molecules unwrapped"
    )
