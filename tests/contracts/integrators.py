"""The integrators that must keep the contract of ``test_integrators.py``: adding one is adding a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mlmd.forces import Evaluation, energy_forces
from mlmd.md import CSVR, Brownian, CellRescaling, Langevin, NoseHooverChain, State, VelocityVerlet
from mlmd.md.integrators import Force, Integrator
from mlmd.neighbors import neighbors
from mlmd.potentials.pair import LennardJones
from mlmd.segment import segment_sum
from mlmd.system import System

Value = float | Tensor


@dataclass(frozen=True)
class Row:
    """One integrator under test.

    make: builds it from a time step and a temperature. canonical: it samples that temperature at fixed volume. conserved: the
    quantity (S,) that it conserves to second order in the time step. reversible: it retraces its path. momentum: it keeps the total.
    velocities: it has any.
    """

    name: str
    make: Callable[[Value, Value], Integrator]
    canonical: bool = True
    conserved: Callable[[Any, State], Tensor] | None = None
    reversible: bool = False
    momentum: bool = False
    velocities: bool = True


def _piston(thermostat: Any, shape: str, every: int = 3) -> CellRescaling:
    return CellRescaling(thermostat, pressure=0.003, compressibility=20.0, time=2.0, every=every, shape=shape)


INTEGRATORS = [
    Row(
        "VelocityVerlet",
        lambda dt, kT: VelocityVerlet(dt),
        canonical=False,
        conserved=lambda _, s: s.energy + s.kinetic_energy,
        reversible=True,
        momentum=True,
    ),
    Row("Langevin", lambda dt, kT: Langevin(dt, kT, 0.5)),
    Row("Brownian", lambda dt, kT: Brownian(dt, kT, 10.0), velocities=False),
    Row(
        "NoseHooverChain",
        lambda dt, kT: NoseHooverChain(dt, kT, 2.0),
        conserved=lambda i, s: i.conserved(s),
        reversible=True,
        momentum=True,
    ),
    Row(
        "NoseHooverChain of 2, order 7",
        lambda dt, kT: NoseHooverChain(dt, kT, 2.0, length=2, order=7, substeps=2),
        canonical=False,  # it does, as the longer chain; the bath of two, at rest in the beginning, forgets that slowly
        conserved=lambda i, s: i.conserved(s),
        reversible=True,
        momentum=True,
    ),
    Row("CSVR", lambda dt, kT: CSVR(dt, kT, 1.0), conserved=lambda i, s: i.conserved(s), momentum=True),
    Row("CellRescaling, Langevin", lambda dt, kT: _piston(Langevin(dt, kT, 0.5), "isotropic"), canonical=False),
    Row("CellRescaling, CSVR", lambda dt, kT: _piston(CSVR(dt, kT, 1.0), "anisotropic"), canonical=False, momentum=True),
    Row(
        "CellRescaling, NoseHooverChain",
        lambda dt, kT: _piston(NoseHooverChain(dt, kT, 1.0), "triclinic", every=1),
        canonical=False,
        momentum=True,
    ),
]


def liquid(systems: int = 1) -> tuple[LennardJones, System]:
    """Small periodic boxes, all different, of 12 particles of unequal mass near the sites of a lattice."""
    g = torch.Generator().manual_seed(11)
    sites = torch.cartesian_prod(torch.arange(3.0), torch.arange(2.0), torch.arange(2.0)).double() * 1.7
    cell = torch.tensor([[5.1, 0.0, 0.0], [0.4, 4.9, 0.0], [-0.3, 0.2, 5.0]], dtype=torch.float64)
    masses = torch.linspace(1.0, 2.0, 12, dtype=torch.float64)
    many = [
        System.single(sites + 0.1 * torch.randn(12, 3, dtype=torch.float64, generator=g), masses=masses, cell=cell)
        for _ in range(systems)
    ]
    return LennardJones(0.1, 1.4, cutoff=2.1).double(), System.stack(many)


def force_of(potential: nn.Module, system: System) -> Force:
    """The potential over one list, good for as long as nothing moves further than 0.1 A."""
    pairs = neighbors(system, float(potential.cutoff) + 0.2) if potential.cutoff else None  # type: ignore[arg-type]

    def force(system: System, stress: bool = False) -> Evaluation:
        return energy_forces(potential, system, pairs, stress=stress)  # type: ignore[arg-type]

    return force


class Coupled(nn.Module):
    """U = sum k x^2/2 + x^4/4 + |x_i - x_(i+1)|^4/4 over particles in a ring: bound, and chaotic, so that energy goes everywhere."""

    cutoff = 0.0

    def forward(self, system: System, pairs: None) -> Tensor:
        """Energy (S,)."""
        x = system.dense()
        bond = x - x.roll(1, 1)
        u = 0.5 * x.square() + 0.25 * x**4 + 0.25 * bond**4
        return u.sum((1, 2))

    @staticmethod
    def virial(state: State) -> Tensor:
        """x . dU/dx (S,), whose canonical mean is 3 n kT exactly."""
        s = state.system
        return segment_sum(-(s.positions * state.forces).sum(-1), s.batch, s.n_systems)
