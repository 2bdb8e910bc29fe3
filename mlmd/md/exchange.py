r"""Temperature replica exchange: the systems of a batch are the rungs of a ladder of temperatures, and neighbours swap places.

A swap of the configurations of rungs i and j is accepted with probability :math:`\min(1,e^{(\beta_i-\beta_j)(E_i-E_j)})`, and the
velocities are multiplied by :math:`\sqrt{T_{new}/T_{old}}` (Sugita and Okamoto, Chem. Phys. Lett. 314, 141 (1999)). Pairs (0, 1),
(2, 3), ... and (1, 2), (3, 4), ... are tried in turn, which moves replicas along the ladder faster than random choice (Okabe,
Kawata, Okamoto and Mikami 2001; Syed et al. 2022).

A *rung* has a temperature and a place in the batch; a *replica* is a configuration that wanders among the rungs. The integrator
and its temperatures stay; positions, velocities, forces, energies move. Variables of a thermostat stay too, which is right where
they are independent of the configuration (Nose-Hoover chains, the heat of CSVR), and not for the last noise of Brownian dynamics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mlmd.errors import StopSimulation
from mlmd.forces import Potential
from mlmd.md.integrators import Integrator
from mlmd.md.simulate import Reporter, simulate
from mlmd.md.state import State
from mlmd.system import System


def ladder(kT_min: float, kT_max: float, n: int) -> Tensor:
    r"""n temperatures (n,) in eV in geometric progression, :math:`T_k=T_{min}(T_{max}/T_{min})^{k/(n-1)}`.

    With a heat capacity that does not depend on temperature, all pairs of neighbours then have one acceptance.

    Raises:
        ValueError: fewer than two rungs, or temperatures that are not positive and rising.
    """
    if n < 2 or not 0 < kT_min < kT_max:
        raise ValueError(f"kT_min={kT_min}, kT_max={kT_max}, n={n}: give 0 < kT_min < kT_max in eV, and at least 2 rungs")
    return kT_min * (kT_max / kT_min) ** (torch.arange(n, dtype=torch.float64) / (n - 1))


@dataclass(frozen=True, eq=False)
class Exchange:
    """L ladders of n rungs after an attempt; system l n + r of the batch is rung r of ladder l.

    state: after the swaps. replicas (L, n): number of the replica on every rung, 0 to n - 1, counted from the rungs at the start.
    tried, accepted (L, n - 1): swaps between rungs r and r + 1 so far. attempts: rounds so far.
    """

    state: State
    replicas: Tensor
    tried: Tensor
    accepted: Tensor
    attempts: int = 0

    @property
    def acceptance(self) -> Tensor:
        """(L, n - 1) share of accepted swaps between rungs r and r + 1; NaN before the first."""
        return self.accepted / self.tried

    @staticmethod
    def begin(state: State, ladders: int = 1) -> Exchange:
        """Every replica on its own rung.

        Raises:
            ValueError: if the systems do not divide into that many ladders of two or more equal molecules.
        """
        systems = state.system.n_systems
        if ladders < 1 or systems % ladders or systems // ladders < 2:
            raise ValueError(f"ladders={ladders}: {systems} systems do not make that many ladders of two or more rungs")
        n = systems // ladders
        _check_alike(state.system, n)
        device = state.energy.device
        none = torch.zeros(ladders, n - 1, dtype=torch.long, device=device)
        return Exchange(state, torch.arange(n, device=device).repeat(ladders, 1), none, none)


@torch.no_grad()
def exchange(
    start: State | Exchange,
    potential: Potential,
    integrator: Integrator,
    steps: int,
    *,
    every: int,
    ladders: int = 1,
    report: Sequence[Reporter] = (),
    stop: Sequence[Callable[[State], Any]] = (),
    generator: torch.Generator | None = None,
    **settings: Any,
) -> Iterator[Exchange]:
    """Simulate and swap neighbours every ``every`` steps; yields after every attempt.

    The positions of a yielded state at rung r sample temperature kT[r]. With a generator the whole run is deterministic, and goes
    on bit for bit from a yielded ``Exchange`` as long as the state of the generator is kept with it.

    Args:
        start: a state of L n systems, ladder after ladder, or an ``Exchange`` to go on from.
        potential: the same for all rungs of a ladder.
        integrator: canonical, with temperatures ``kT`` (L n,) in eV, for instance
            ``Langevin(dt, ladder(kT_min, kT_max, n).repeat(L), friction)``.
        steps: time steps in all, a multiple of ``every``. every: steps between two attempts.
        ladders: number L of independent ladders in the batch (not used when ``start`` is an ``Exchange``).
        report, stop: as for ``simulate``; they see rungs, and the state before a swap. One that ends the simulation ends it before
            the next attempt.
        generator: source of all noise; the default generator if None.
        settings: further arguments of ``simulate``.

    Raises:
        Unstable: as ``simulate``.
        ValueError: unequal molecules or cells within a ladder, an integrator without one temperature per system, steps that
            are not a multiple of every, ``on_unstable="freeze"``.
    """
    if settings.get("on_unstable", "raise") != "raise":
        raise ValueError("on_unstable: a replica that stopped cannot change places; only 'raise' goes with replica exchange")
    if every < 1 or steps < 0 or steps % every:
        raise ValueError(f"steps={steps}, every={every}: steps must be a multiple of every, which must be at least 1")
    now = start if isinstance(start, Exchange) else Exchange.begin(start, ladders)
    beta = 1.0 / _temperatures(integrator, now)
    watchers = [_Watcher(w, now.state.step, every) for w in (*report, *stop)]
    settings = {**settings, "every": every, "report": watchers, "generator": generator}
    try:
        for _ in range(steps // every):
            (state,) = simulate(now.state, potential, integrator, every, **settings)
            if any(w.ended for w in watchers):
                return
            now = attempted(replace(now, state=state), beta, generator)
            yield now
    finally:
        for w in watchers:
            getattr(w.inner, "finish", _nothing)()


def _nothing() -> None:
    return None


class _Watcher:
    """A reporter whose period runs on, and which is not finished, over many calls of ``simulate``."""

    def __init__(self, inner: Any, begin: int, between: int):
        self.inner, self.begin, self.ended = inner, begin, False
        self.period = int(getattr(inner, "every", between))
        self.every = math.gcd(self.period, between)
        self.fresh_list = getattr(inner, "fresh_list", False)

    def __call__(self, state: State) -> bool:
        if (state.step - self.begin) % self.period == 0:
            try:
                self.ended = self.inner(state) is True or self.ended
            except StopSimulation:
                self.ended = True
        return self.ended


def _temperatures(integrator: Integrator, now: Exchange) -> Tensor:
    """(L, n) kT of the rungs."""
    kT = torch.as_tensor(getattr(integrator, "kT", torch.nan), dtype=torch.float64, device=now.replicas.device)
    if kT.shape != (now.replicas.numel(),):
        raise ValueError(f"integrator: needs kT with one temperature for each of the {now.replicas.numel()} systems")
    return kT.reshape(now.replicas.shape)


def attempted(now: Exchange, beta: Tensor, generator: torch.Generator | None = None) -> Exchange:
    """One round of swaps between neighbours, even and odd pairs in turn, without dynamics.

    Args:
        now: energies must be those of the positions. beta: (L, n) inverse temperatures in 1/eV.
        generator: decides; the default generator if None.
    """
    chance = torch.rand(beta.shape[0], beta.shape[1] - 1, dtype=torch.float64, device=beta.device, generator=generator)
    state, order, swap = swapped(now.state, beta, now.attempts, chance)
    lower = slice(now.attempts % 2, None, 2)
    tried, accepted = now.tried.clone(), now.accepted.clone()
    tried[:, lower] += 1
    accepted[:, lower] += swap[:, lower]
    return Exchange(state, now.replicas.gather(1, order), tried, accepted, now.attempts + 1)


def swapped(state: State, beta: Tensor, attempt: int, chance: Tensor) -> tuple[State, Tensor, Tensor]:
    """The state after a round of swaps: of rungs (0, 1), (2, 3), ... if ``attempt`` is even, of (1, 2), (3, 4), ... if it is odd.

    Args:
        state: energies must be those of the positions. beta: (L, n) inverse temperatures in 1/eV.
        chance: (L, n - 1) uniform numbers in [0, 1).

    Returns:
        the state, which rung every configuration came from (L, n), and which pairs of neighbours changed places (L, n - 1).
    """
    energy = state.energy.double().reshape(beta.shape)
    swap = chance < ((beta[:, :-1] - beta[:, 1:]) * (energy[:, :-1] - energy[:, 1:])).exp()
    swap &= torch.arange(beta.shape[1] - 1, device=beta.device) % 2 == attempt % 2
    order = torch.arange(beta.shape[1], device=beta.device).repeat(beta.shape[0], 1)
    order[:, :-1] += swap.long()
    order[:, 1:] -= swap.long()
    return _permuted(state, order, beta), order, swap


def _permuted(state: State, order: Tensor, beta: Tensor) -> State:
    """The state with configuration ``order[l, r]`` on rung r; its velocities scaled to the temperature there."""
    ladders, n = order.shape
    source = (order + n * torch.arange(ladders, device=order.device)[:, None]).reshape(-1)
    scale = (beta.gather(1, order) / beta).sqrt().reshape(-1).to(state.velocities.dtype)
    system = state.system
    counts = torch.bincount(system.batch, minlength=system.n_systems)
    first = torch.cumsum(counts, 0) - counts
    atoms = torch.arange(len(system), device=order.device) + (first[source] - first)[system.batch]
    return replace(
        state,
        system=replace(system, positions=system.positions[atoms]),
        velocities=state.velocities[atoms] * scale[system.batch][:, None],
        forces=state.forces[atoms],
        energy=state.energy[source],
    )


def _check_alike(system: System, n: int) -> None:
    """Rungs of a ladder differ in nothing but positions."""
    counts = torch.bincount(system.batch, minlength=system.n_systems).reshape(-1, n)
    names = ["types", "masses"] + (["charges"] if system.charges is not None else [])
    alike = bool((counts == counts[:, :1]).all())
    first = torch.cumsum(counts.reshape(-1), 0) - counts.reshape(-1)
    if alike:
        back = (first - first.reshape(-1, n)[:, :1].repeat(1, n).reshape(-1))[system.batch]
        lowest = torch.arange(len(system), device=system.batch.device) - back  # the same particle on the lowest rung
        alike = all(bool((getattr(system, k) == getattr(system, k)[lowest]).all()) for k in names)
    if not alike:
        raise ValueError(f"systems of a ladder of {n} rungs must be the same molecule: equal counts, types, masses and charges")
    cells = system.cell.reshape(-1, n, 3, 3)
    pbc = system.pbc.reshape(-1, n, 3)
    if not bool((cells == cells[:, :1]).all() & (pbc == pbc[:, :1]).all()):
        raise ValueError("cell: all rungs of a ladder must have the same; replica exchange here is at constant volume")


def by_replica(values: Tensor, history: Tensor) -> Tensor:
    """Trajectories followed by replica instead of by rung.

    Args:
        values: (T, L n, ...) one entry for every yielded state and system, by rung.
        history: (T, L, n) ``replicas`` of every yielded ``Exchange``.

    Returns:
        (T, L n, ...): entry l n + k belongs to replica k of ladder l; continuous in time.

    Raises:
        ValueError: if the shapes do not go together.
    """
    if history.ndim != 3 or values.shape[:2] != (history.shape[0], history.shape[1] * history.shape[2]):
        raise ValueError(f"values {tuple(values.shape)} and history {tuple(history.shape)}: give (T, L n, ...) and (T, L, n)")
    times, ladders, n = history.shape
    rung = history.argsort(2).to(values.device)  # where each replica is
    index = (rung + n * torch.arange(ladders, device=rung.device)[:, None]).reshape(times, -1)
    return values[torch.arange(times, device=rung.device)[:, None], index]


def round_trips(history: Tensor) -> Tensor:
    """(L, n) journeys of each replica from the lowest rung to the highest and back to the lowest.

    Args:
        history: (T, L, n) ``replicas`` of every yielded ``Exchange``, one after the other.

    Raises:
        ValueError: for another shape.
    """
    if history.ndim != 3:
        raise ValueError(f"history has shape {tuple(history.shape)}, expected (T, L, n)")
    rung = history.argsort(2)
    top = history.shape[2] - 1
    phase = torch.zeros_like(rung[0])  # 0: has not been at the bottom, 1: on the way up, 2: has been at the top since
    trips = torch.zeros_like(phase)
    for now in rung:
        trips = trips + ((now == 0) & (phase == 2))
        phase = torch.where(now == 0, 1, torch.where((now == top) & (phase == 1), 2, phase))
    return trips
