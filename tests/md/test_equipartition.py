"""Every kind of particle and of motion has the temperature of the bath: minutes.

Kinetic energies of groups, compared with exact means; errors are standard errors over independent replicas.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mlmd import units
from mlmd.md import CSVR, Constrained, Langevin, NoseHooverChain, Settle, State, constrain, rest, simulate, thermal_velocities
from mlmd.potentials.accelerated import accelerated
from mlmd.potentials.bonded import Bonded, HarmonicAngles, HarmonicBonds
from mlmd.potentials.compose import Potential
from mlmd.potentials.internal import InternalCoordinates
from mlmd.potentials.pair import Excluding, LennardJones
from mlmd.system import System
from tests.md.test_constraints import BASE, BOND, Drop, waters

pytestmark = pytest.mark.slow

KT = 300 * units.kelvin
DT = 2 * units.fs


def motions(state: State, size: int) -> dict[str, Tensor]:
    """Kinetic energy (S,) of the centres of mass, of rotation and of the rest, of molecules of ``size`` particles, in eV."""
    shape = (state.system.n_systems, -1, size, 3)
    x, v = state.system.positions.reshape(shape), state.velocities.reshape(shape)
    m = state.system.masses.reshape(shape[:-1])[..., None]
    total = m.sum(-2)
    arm, rate = x - ((m * x).sum(-2) / total)[..., None, :], v - ((m * v).sum(-2) / total)[..., None, :]
    spin = (m * torch.linalg.cross(arm, rate)).sum(-2)
    square = (m * arm.square()).sum((-2, -1))[..., None, None] * torch.eye(3, dtype=x.dtype)
    inertia = square - (m[..., None] * arm[..., :, None] * arm[..., None, :]).sum(-3)
    turning = 0.5 * (spin * torch.linalg.solve(inertia, spin)).sum(-1)
    relative = 0.5 * (m * rate.square()).sum((-2, -1))
    moving = 0.5 * ((m * v).sum(-2).square() / total).sum(-1)
    return {"translation": moving.sum(1), "rotation": turning.sum(1), "internal": (relative - turning).sum(1)}


def of_types(state: State) -> dict[str, Tensor]:
    """Kinetic energy (S,) of every type of particle."""
    per_particle = state.system.dense(0.5 * state.system.masses * state.velocities.square().sum(-1))
    types = state.system.dense(state.system.types)[0]
    return {f"type {int(t)}": per_particle[:, types == t].sum(1) for t in types.unique()}


def judged(energies: list[dict[str, Tensor]], freedom: dict[str, float], record_property: Any) -> None:
    """Every group within 3 standard errors of its share, and within 2 %."""
    for group, f in freedom.items():
        replicas = torch.stack([e[group] for e in energies]).mean(0) * 2 / (f * KT)
        off, error = float(replicas.mean()) - 1, float(replicas.std()) / len(replicas) ** 0.5
        record_property(group, [off, error])
        assert abs(off) < 3 * error, group
        assert abs(off) < 0.02, group


def liquid_of_chains() -> tuple[Potential, System]:
    """Eight flexible chains of four beads, heavy and light in turn, in a periodic box."""
    size, edge = 4, 13.0
    coordinates = InternalCoordinates(size, torch.tensor([[0, 1], [1, 2], [2, 3]]), torch.tensor([[0, 1, 2], [1, 2, 3]]))
    bonds = HarmonicBonds(range(3), torch.full((3,), 1.0), torch.full((3,), 3.0))
    angles = HarmonicAngles(range(2), torch.full((2,), 0.2), torch.full((2,), 2.0))
    law = LennardJones(0.02, 3.4, cutoff=6.4)
    potential = Excluding(law, [(0, 1), (1, 2), (2, 3)], size=size, hops=2) + Bonded(coordinates, [bonds, angles])
    zigzag = torch.stack([2.5 * torch.arange(4), 1.6 * (torch.arange(4) % 2), torch.zeros(4)], 1).double()
    rows = torch.cartesian_prod(torch.arange(1), torch.arange(2), torch.arange(4)).double() * torch.tensor([0.0, 6.5, 3.25])
    x = (rows[:, None] + zigzag).reshape(-1, 3)
    masses = torch.tensor([40.0, 10.0, 40.0, 10.0] * 8) * units.amu
    return accelerated(potential.double().requires_grad_(False)), System.single(x, [0, 1, 0, 1] * 8, masses, cell=edge)


THERMOSTATS = {
    "Langevin": Langevin(DT, KT, 2 / units.ps),
    "CSVR": CSVR(DT, KT, 0.1 * units.ps, removed=3),
    "NoseHooverChain": NoseHooverChain(DT, KT, 0.2 * units.ps, removed=3),
}


@pytest.mark.parametrize("name", sorted(THERMOSTATS))
def test_heavy_and_light_beads_and_all_motions_of_chains_are_equally_warm(name: str, record_property: Any) -> None:
    replicas, g = 32, torch.Generator().manual_seed(1)
    potential, box = liquid_of_chains()
    start = rest(box.replicate(replicas), thermal_velocities(box.replicate(replicas), KT, g))
    (warm,) = simulate(start, potential, Langevin(DT, KT, 5 / units.ps), 3000, every=3000, generator=g)
    v, m = warm.system.dense(warm.velocities), box.masses[:, None]
    kept = name != "Langevin"
    v = v - kept * ((m * v).sum(1, keepdim=True) / m.sum())
    states = simulate(rest(warm.system, v.reshape(-1, 3)), potential, THERMOSTATS[name], 12_000, every=100, generator=g)
    energies = [motions(s, 4) | of_types(s) for s in states][10:]
    shares = [3 * (16 - kept * 0.8), 3 * (16 - kept * 0.2)]  # a total momentum of zero is one particle less, by mass
    freedom = {"translation": 3 * (8 - kept), "rotation": 24, "internal": 48, "type 0": shares[0], "type 1": shares[1]}
    judged(energies, freedom, record_property)


def shares_of_rigid(x: np.ndarray, m: np.ndarray) -> np.ndarray:
    r"""(n,) degrees of freedom of every particle of a rigid body: the trace of its block of the projection onto rigid motions.

    :math:`\tfrac12m_i\langle v_i^2\rangle=\tfrac12kT\,\mathrm{tr}\,[m^{1/2}J(J^TmJ)^{-1}J^Tm^{1/2}]_{ii}`, J the velocities of the six
    rigid motions.
    """
    motions = [np.tile(e, (len(x), 1)) for e in np.eye(3)] + [np.cross(e, x) for e in np.eye(3)]
    j = np.stack([(np.sqrt(m)[:, None] * k).ravel() for k in motions], 1)
    return np.diag(j @ np.linalg.solve(j.T @ j, j.T)).reshape(-1, 3).sum(1)


@pytest.mark.parametrize("name", ["Langevin", "CSVR"])
def test_oxygen_hydrogen_and_all_motions_of_rigid_water_are_equally_warm(name: str, record_property: Any) -> None:
    replicas, molecules, dt, g = 24, 8, 1 * units.fs, torch.Generator().manual_seed(2)
    drop, settle = waters(molecules)
    one = System.single(drop.positions, [0, 1, 1] * molecules, drop.masses)
    settle = Settle(torch.arange(3 * molecules * replicas).reshape(-1, 3), BOND, BASE)
    system = one.replicate(replicas)
    start = constrain(rest(system, thermal_velocities(system, KT, g)), settle)
    langevin = Constrained(Langevin(dt, KT, 5 / units.ps), settle)
    (warm,) = simulate(start, Drop(), langevin, 3000, every=3000, generator=g)
    inner = {"Langevin": langevin.integrator, "CSVR": CSVR(dt, KT, 0.1 * units.ps)}[name]
    begin = rest(warm.system, warm.velocities)
    states = simulate(begin, Drop(), Constrained(inner, settle), 8_000, every=50, generator=g)
    energies = [motions(s, 3) | of_types(s) for s in states][10:]
    oxygen, hydrogen, _ = molecules * shares_of_rigid(one.positions[:3].numpy(), one.masses[:3].numpy())
    freedom = {"translation": 3 * molecules, "rotation": 3 * molecules, "type 0": oxygen, "type 1": 2 * hydrogen}
    judged(energies, freedom, record_property)
    assert float(energies[-1]["internal"].abs().max()) < 1e-9 * KT
