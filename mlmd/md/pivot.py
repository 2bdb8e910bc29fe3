"""Pivot moves: Monte Carlo rotations about bonds, which cross torsional barriers that dynamics crosses rarely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mlmd.forces import Potential, energy_forces
from mlmd.md.integrators import Force, Integrator, Noise
from mlmd.md.state import State
from mlmd.neighbors import Pairs, neighbors
from mlmd.observables.terms import neighbours
from mlmd.system import System


@dataclass(frozen=True, eq=False)
class Pivots:
    """The rotatable bonds of a molecule of n beads: axes (K, 2), and which beads turn about each, moving (K, n)."""

    axes: Tensor
    moving: Tensor

    def __len__(self) -> int:
        return len(self.axes)


def rotatable(n: int, bonds: Sequence[tuple[int, int]]) -> Pivots:
    """Bonds that join two parts of at least two beads each; bonds of rings do not. The smaller part turns."""
    axes, moving = [], []
    for i, j in bonds:
        side = _beyond(n, [b for b in bonds if set(b) != {i, j}], j)
        if i in side or min(len(side), n - len(side)) < 2:
            continue
        turning = side if len(side) <= n - len(side) else set(range(n)) - side
        axes.append((i, j))
        moving.append([k in turning for k in range(n)])
    return Pivots(torch.tensor(axes, dtype=torch.long).reshape(-1, 2), torch.tensor(moving, dtype=torch.bool).reshape(-1, n))


@torch.no_grad()
def pivot(
    system: System, potential: Potential, pivots: Pivots, kT: float, generator: torch.Generator | None = None
) -> tuple[System, Tensor]:
    r"""One trial rotation in every system: a random bond, a uniform angle, accepted with :math:`\min(1,e^{-\Delta U/kT})`.

    Rotations preserve volume in Cartesian coordinates and the angle is symmetric, so the canonical ensemble is stationary (Lal
    1969; Madras and Sokal 1988). Velocities need no change: they are independent of positions there.

    Args:
        system: single molecules of equal size, not periodic. kT: eV.

    Returns:
        the new system, and which moves were accepted, (S,).

    Raises:
        ValueError: without rotatable bonds.
    """
    if not len(pivots):
        raise ValueError("pivots is empty: the molecule has no rotatable bond")
    x = system.dense()
    device = x.device
    bond = torch.randint(len(pivots), (len(x),), generator=generator, device=device)
    angle = 2 * torch.pi * torch.rand(len(x), generator=generator, device=device, dtype=x.dtype)
    chance = torch.rand(len(x), generator=generator, device=device, dtype=x.dtype)
    return _attempt(system, potential, pivots, kT, bond, angle, chance)


@dataclass(frozen=True, eq=False)
class Pivoting:
    """An integrator with ``turns`` pivot moves in every system before each ``every``-th step, for slow torsions.

    Both parts leave the canonical ensemble as it is, and so does their succession; what is lost is the meaning of time.
    ``integrator`` holds dt and a kT; ``potential`` is the one that is simulated. Moves are longer than a limit on the displacement
    per step allows: simulate with ``Limits(displacement=inf)``.

    Raises:
        ValueError: every or turns below 1, or no rotatable bond.
    """

    integrator: Integrator
    potential: Potential
    pivots: Pivots
    every: int
    turns: int = 1

    def __post_init__(self) -> None:
        if self.every < 1 or self.turns < 1 or not len(self.pivots):
            raise ValueError(
                f"every={self.every}, turns={self.turns}, {len(self.pivots)} rotatable bonds: each must be at least 1, "
                "or use the integrator as it is"
            )

    @property
    def dt(self) -> float | Tensor:
        """Time step in fs."""
        return self.integrator.dt

    @property
    def kT(self) -> float | Tensor:
        """Temperature of dynamics and moves, eV."""
        return self.integrator.kT  # type: ignore[attr-defined]

    def init(self, state: State) -> State:
        """As the integrator."""
        return self.integrator.init(state)

    def noise(self, state: State, generator: torch.Generator | None) -> tuple[Noise, Tensor]:
        """That of the integrator, and (turns, 3, S) uniform numbers for the moves."""
        x = state.system.positions
        shape = (self.turns, 3, state.system.n_systems)
        return self.integrator.noise(state, generator), torch.rand(shape, generator=generator, dtype=x.dtype, device=x.device)

    def step(self, state: State, force: Force, noise: tuple[Noise, Tensor]) -> State:
        """The moves, if they are due, and one step of the integrator."""
        inner, uniform = noise
        return self.integrator.step(self._moved(state, uniform) if state.step % self.every == 0 else state, force, inner)

    def _moved(self, state: State, uniform: Tensor) -> State:
        system = state.system
        for u in uniform:
            bond = (u[0] * len(self.pivots)).long().clamp(max=len(self.pivots) - 1)
            system, _ = _attempt(system, self.potential, self.pivots, self.kT, bond, 2 * torch.pi * u[1], u[2])
        result = energy_forces(self.potential, system, _pairs(self.potential, system))
        return replace(state, system=system, forces=result.forces, energy=result.energy)


def _attempt(
    system: System, potential: Potential, pivots: Pivots, kT: float | Tensor, bond: Tensor, angle: Tensor, chance: Tensor
) -> tuple[System, Tensor]:
    """The system after one trial rotation in each, and which were accepted; bond, angle, chance (S,)."""
    x = system.dense()
    trial = system.at(_turned(x, pivots.axes.to(x.device)[bond], pivots.moving.to(x.device)[bond], angle).reshape(-1, 3))
    change = _energy(potential, trial) - _energy(potential, system)
    accepted = chance < torch.exp(-change / kT)  # false for a trial whose energy is not finite
    mixed = torch.where(accepted[:, None, None], trial.dense(), x)
    return system.at(mixed.reshape(-1, 3)), accepted


def _turned(x: Tensor, axis: Tensor, moving: Tensor, angle: Tensor) -> Tensor:
    """Rodrigues' rotation of the moving beads about the line through the two axis beads."""
    rows = torch.arange(len(x), device=x.device)
    origin = x[rows, axis[:, 0]][:, None]
    u = x[rows, axis[:, 1]][:, None] - origin
    u = u / u.norm(dim=-1, keepdim=True)
    d = x - origin
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    turned = d * cos + torch.linalg.cross(u.expand_as(d), d) * sin + u * (u * d).sum(-1, keepdim=True) * (1 - cos)
    return torch.where(moving[:, :, None], origin + turned, x)


def _energy(potential: Potential, system: System) -> Tensor:
    return potential(system, _pairs(potential, system))


def _pairs(potential: Potential, system: System) -> Pairs | None:
    return neighbors(system, potential.cutoff) if potential.cutoff > 0 else None


def _beyond(n: int, bonds: Sequence[tuple[int, int]], start: int) -> set[int]:
    """Beads connected to ``start``."""
    near = neighbours(n, bonds)
    seen, queue = {start}, [start]
    for i in queue:
        for j in near[i]:
            if j not in seen:
                seen.add(j)
                queue.append(j)
    return seen
