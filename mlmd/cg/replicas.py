"""Replicas of a bead model at one temperature, single molecules as the lowest rungs of ladders of temperatures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mlmd.cg.priors import single_molecules
from mlmd.forces import Potential
from mlmd.frames import Frames
from mlmd.md import Langevin, Limits, State, Tempering, ladder, rest, simulate
from mlmd.md.integrators import Integrator

HOTTEST = 2.5  # highest temperature of a ladder, in units of the one that is asked for
MOST_BEADS = 40  # of a molecule with a ladder: of larger ones four rungs accept less than a tenth of the swaps (harmonic beads)
SWAP_EVERY = 5  # steps: on a small molecule swaps cost little, and rare basins mix 1.5 times as fast as with 20


def canonical(dt: float, kT: float, friction: float, replicas: int, rungs: int) -> Integrator:
    """Langevin dynamics of all replicas at kT or, with several rungs, of a ladder of temperatures up to 2.5 kT in place of each."""
    if rungs == 1:
        return Langevin(dt, kT, friction)
    return Tempering(Langevin(dt, ladder(kT, HOTTEST * kT, rungs).repeat(replicas), friction), replicas, SWAP_EVERY)


def rungs_for(frames: Frames, rungs: int) -> int:
    """``rungs`` for a single molecule in open space that has torsions and at most 40 beads, so that swaps are accepted; else 1."""
    n, _, _ = single_molecules(frames)
    return rungs if n == frames.n_atoms and 3 < n <= MOST_BEADS and frames.cell is None else 1


class PersistentReplicas:
    """Replicas of the bead model that keep running while the potential changes, and a memory of their last snapshots.

    Args:
        start: State of all systems: with R rungs, every R-th is at the temperature of interest, and remembered.
        integrator: see :func:`canonical`. steps: time steps per update. stride: steps between snapshots. memory: snapshots kept.
    """

    def __init__(
        self,
        potential: Potential,
        start: State,
        integrator: Integrator,
        generator: torch.Generator,
        *,
        rungs: int,
        steps: int,
        stride: int,
        memory: int,
    ):
        self.potential, self.state, self.integrator = potential, start, integrator
        self.rungs, self.steps, self.stride, self.memory = rungs, steps, stride, memory
        self.generator = generator
        self.snapshots: list[Tensor] = []

    def advance(self) -> Tensor:
        """Run on with the present potential and return the remembered snapshots, (K, n, 3)."""
        begin = rest(self.state.system, self.state.velocities)  # the potential has changed: forces are evaluated anew
        run: dict[str, Any] = {"every": self.stride, "generator": self.generator, "limits": limits_for(self.rungs)}
        for state in simulate(begin, self.potential, self.integrator, self.steps, **run):
            self.snapshots.append(state.system.dense()[:: self.rungs])
            self.state = state
        self.snapshots = self.snapshots[-self.memory :]
        return torch.cat(self.snapshots)

    def state_dict(self) -> dict[str, Any]:
        return {
            "positions": self.state.system.positions,
            "velocities": self.state.velocities,
            "generator": self.generator.get_state(),
            "snapshots": list(self.snapshots),
        }

    def load_state_dict(self, stored: dict[str, Any]) -> None:
        self.state = rest(self.state.system.at(stored["positions"]), stored["velocities"])
        self.generator.set_state(stored["generator"])
        self.snapshots = list(stored["snapshots"])


def limits_for(rungs: int) -> Limits:
    """Configurations that change places move far in a step."""
    return Limits() if rungs == 1 else Limits(displacement=float("inf"))
