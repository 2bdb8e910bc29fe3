"""Ensembles and energy drift of interacting fluids: minutes. Distributions are judged by ``physical_validation`` (Merz and Shirts 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mlmd import units
from mlmd.forces import energy_forces
from mlmd.md import CSVR, CellRescaling, Langevin, NoseHooverChain, State, VelocityVerlet, rest, simulate, thermal_velocities
from mlmd.md.barostats import SHAPES, internal_pressure
from mlmd.neighbors import neighbors
from mlmd.nn.radial import PolynomialEnvelope
from mlmd.nn.schnet import SchNet
from mlmd.potentials.compose import Potential
from mlmd.potentials.pair import LennardJones, SoftSphere
from mlmd.system import System

pytestmark = pytest.mark.slow

EPSILON, SIGMA, MASS = 119.8 * units.kelvin, 3.405, 39.948 * units.amu  # argon
KT = 120 * units.kelvin
DT = 2 * units.fs


def argon(per_edge: int, density: float, cutoff: float, dtype: torch.dtype = torch.float64) -> tuple[LennardJones, System]:
    """Switched Lennard-Jones argon on a cubic lattice; density in sigma^-3, cutoff in sigma."""
    n = per_edge**3
    edge = (n / density) ** (1 / 3) * SIGMA
    x = torch.cartesian_prod(*[torch.arange(per_edge, dtype=dtype)] * 3) * edge / per_edge
    return LennardJones(EPSILON, SIGMA, cutoff * SIGMA).to(dtype), System.single(x, masses=[MASS] * n, cell=edge)


def warmed(potential: Potential, system: System, kT: float | Tensor, steps: int, generator: torch.Generator) -> State:
    """Equilibrated by strongly coupled Langevin dynamics."""
    start = rest(system, thermal_velocities(system, kT, generator))
    (end,) = simulate(start, potential, Langevin(DT, kT, 2 / units.ps), steps, every=steps, generator=generator)
    return end


def drift(potential: Potential, start: State, kT: float, dt: float, steps: int) -> float:
    """Slope of the total energy of a run without thermostat, in kT per ns and degree of freedom."""
    n = len(start.system)
    v = start.velocities - start.velocities.mean(0)
    states = simulate(rest(start.system, v), potential, VelocityVerlet(dt), steps, every=50)
    energy = np.array([float(s.energy.double() + s.kinetic_energy.double()) for s in states])
    time = 50 * dt * np.arange(1, len(energy) + 1) / units.ns
    return float(np.polyfit(time, energy, 1)[0] / (kT * (3 * n - 3)))


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-5), (torch.float32, 1e-3)], ids=["float64", "float32"])
def test_the_energy_of_argon_does_not_drift(dtype: torch.dtype, limit: float, record_property: Any) -> None:
    """64 particles, 2 fs, 0.2 ns. OpenMM publishes 1e-7 to 2e-5 in double and mixed precision, 4e-4 in single."""
    potential, system = argon(4, 0.7, 2.0, dtype)
    start = warmed(potential, system, KT, 3000, torch.Generator().manual_seed(1))
    found = drift(potential, start, KT, DT, 100_000)
    record_property("drift", found)
    assert abs(found) < limit


class Learned(Potential):
    """Argon with a correction by a network with smooth weights, as strong as its own forces."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.cutoff = 1.9 * SIGMA
        net = SchNet(self.cutoff, features=8, interactions=1, n_types=1, envelope=PolynomialEnvelope(self.cutoff))
        self.net, self.pairs = net.double(), LennardJones(EPSILON, SIGMA, self.cutoff).double()

    def forward(self, system: System, pairs: Any) -> Tensor:
        return self.pairs(system, pairs) + STRENGTH * self.net(system, pairs)


STRENGTH = 30.0


def test_the_energy_of_a_network_does_not_drift(record_property: Any) -> None:
    """27 particles, SchNet with random weights beside the pair law, 1 fs, 100 ps: over 12 ps the slope is noise of 2e-4."""
    potential = Learned().requires_grad_(False)
    _, system = argon(3, 0.6, 1.5)
    start = warmed(potential, system, KT, 500, torch.Generator().manual_seed(1))
    pairs = neighbors(start.system, potential.cutoff)
    with torch.no_grad():
        share = [energy_forces(p, start.system, pairs).forces.std() for p in (potential.net, potential.pairs)]
    assert float(STRENGTH * share[0] / share[1]) > 0.3
    found = drift(potential, start, KT, units.fs, 100_000)
    record_property("drift", found)
    assert abs(found) < 1e-4


THERMOSTATS = {
    "Langevin": lambda kT: Langevin(DT, kT, 5 / units.ps),
    "CSVR": lambda kT: CSVR(DT, kT, 0.1 * units.ps),
    "NoseHooverChain": lambda kT: NoseHooverChain(DT, kT, 0.3 * units.ps),
}
every_thermostat = pytest.mark.parametrize("name", sorted(THERMOSTATS))


def observed(states: Sequence[State], of: slice) -> dict[str, np.ndarray]:
    """Series of the replicas ``of``, one after another."""

    def series(x: list[Tensor]) -> np.ndarray:
        return torch.stack(x)[:, of].T.reshape(-1).double().numpy()

    return {
        "kinetic_energy": series([s.kinetic_energy for s in states]),
        "potential_energy": series([s.energy for s in states]),
        "volume": series([torch.linalg.det(s.system.cell) for s in states]),
    }


def data(states: Sequence[State], of: slice, n: int, kT: float, pressure: float | None = None, momentum: bool = False) -> Any:
    """What physical_validation wants; ``momentum``: the total is zero."""
    pv = pytest.importorskip("physical_validation")
    values = observed(states, of)
    values["total_energy"] = values["potential_energy"] + values["kinetic_energy"]
    ensemble: dict[str, Any] = {"natoms": n, "temperature": kT / units.kelvin}
    if pressure is None:
        ensemble |= {"ensemble": "NVT", "volume": float(values["volume"][0])}
    else:
        ensemble |= {"ensemble": "NPT", "pressure": pressure}
    conversions = {"energy": 1 / units.kJ_mol, "length": 0.1, "volume": 1e-3, "temperature": 1.0}
    conversions |= {"pressure": 1 / units.bar, "time": 1 / units.ps}
    return pv.data.SimulationData(
        units=pv.data.UnitData(kb=units.kelvin, **{f"{k}_conversion": v for k, v in conversions.items()}),
        system=pv.data.SystemData(
            natoms=n, nconstraints=0, ndof_reduction_tra=3 * momentum, ndof_reduction_rot=0, mass=np.full(n, MASS / units.amu)
        ),
        ensemble=pv.data.EnsembleData(**ensemble),
        observables=pv.data.ObservableData(**values),
    )


@every_thermostat
def test_kinetic_energies_have_their_distribution(name: str, record_property: Any) -> None:
    """Three seeds of 16 replicas: p > 0.01, and temperatures from mean and width within 3 standard errors."""
    pv = pytest.importorskip("physical_validation")
    potential, box = argon(3, 0.7, 1.5)
    g = torch.Generator().manual_seed(2)
    momentum = name != "Langevin"
    start = warmed(potential, box.replicate(48), KT, 800, g)
    v = start.velocities.reshape(48, 27, 3)
    start = rest(start.system, (v - v.mean(1, keepdim=True) * momentum).reshape(-1, 3))
    integrator = THERMOSTATS[name](KT)
    if momentum:
        integrator = type(integrator)(integrator.dt, integrator.kT, integrator.time, removed=3)
    states = list(simulate(start, potential, integrator, 4000, every=200, generator=g))[4:]
    for seed in range(3):
        found = data(states, slice(16 * seed, 16 * seed + 16), 27, KT, momentum=momentum)
        p = pv.kinetic_energy.distribution(found, strict=True, verbosity=0, data_is_uncorrelated=True)
        sigmas = pv.kinetic_energy.distribution(found, strict=False, verbosity=0, bootstrap_seed=1, data_is_uncorrelated=True)
        record_property(f"seed {seed}", [float(x) for x in (p, *sigmas)])
        assert p > 0.01
        assert max(sigmas) < 3


@every_thermostat
def test_energies_at_two_temperatures_have_the_ratio_of_boltzmann(name: str, record_property: Any) -> None:
    pv = pytest.importorskip("physical_validation")
    potential, box = argon(3, 0.7, 1.5)
    kT = KT * torch.tensor([1.0, 1.2]).double().repeat_interleave(20)
    g = torch.Generator().manual_seed(3)
    start = warmed(potential, box.replicate(40), kT, 1000, g)
    states = list(simulate(start, potential, THERMOSTATS[name](kT), 4500, every=250, generator=g))[2:]
    low, high = data(states, slice(0, 20), 27, KT), data(states, slice(20, 40), 27, 1.2 * KT)
    (sigmas,) = pv.ensemble.check(low, high, verbosity=0, data_is_uncorrelated=True)
    record_property("sigmas", float(sigmas))
    assert abs(sigmas) < 3


def inefficiency(series: np.ndarray) -> float:
    """How many snapshots of replicas (T, R) count as one: 1 + 2 sum of the autocorrelation up to its first zero."""
    centred = series - series.mean()
    total, square = 1.0, (centred**2).mean()
    for lag in range(1, len(series) // 4):
        correlation = float((centred[:-lag] * centred[lag:]).mean() / square)
        if correlation < 0:
            break
        total += 2 * correlation
    return total


@pytest.mark.parametrize("name", ["Langevin", "CSVR"])
def test_volumes_and_enthalpies_have_the_ratio_of_boltzmann(name: str, record_property: Any) -> None:
    """Three state points in one batch, which differ in temperature or in pressure; snapshots are apart by their inefficiency."""
    pv = pytest.importorskip("physical_validation")
    potential, box = argon(3, 0.65, 1.5)
    p1, p2 = 600 * units.bar, 900 * units.bar
    kT = KT * torch.tensor([1.0, 1.2, 1.0]).double().repeat_interleave(16)
    p = torch.tensor([p1, p1, p2]).double().repeat_interleave(16)
    g = torch.Generator().manual_seed(4)
    barostat = CellRescaling(THERMOSTATS[name](kT), p, 1e-3 / units.bar, 0.4 * units.ps, every=5)
    start = warmed(potential, box.replicate(48), kT, 800, g)
    states = list(simulate(start, potential, barostat, 40_000, every=50, generator=g))[50:]
    volume = torch.stack([torch.linalg.det(s.system.cell) for s in states])
    enthalpy = torch.stack([s.energy + s.kinetic_energy for s in states]) + p * volume
    groups = [slice(16 * k, 16 * k + 16) for k in range(3)]
    apart = int(np.ceil(max(inefficiency(x[:, of].numpy()) for x in (volume, enthalpy) for of in groups)))
    states = states[::apart]
    cold, hot, tight = (data(states, of, 27, float(kT[of.start]), float(p[of.start])) for of in groups)
    (by_temperature,) = pv.ensemble.check(cold, hot, verbosity=0, data_is_uncorrelated=True)
    (by_pressure,) = pv.ensemble.check(cold, tight, verbosity=0, data_is_uncorrelated=True)
    record_property("sigmas", [float(by_temperature), float(by_pressure)])
    record_property("snapshots of 0.1 ps apart, and left of each state point", [apart, 16 * len(states)])
    assert abs(by_temperature) < 3
    assert abs(by_pressure) < 3


def log_ratio_slope(low: np.ndarray, high: np.ndarray) -> float:
    """Slope of ln p_high(x) / p_low(x) by maximum likelihood (Shirts, J. Chem. Theory Comput. 9, 909 (2013))."""
    x, which = np.concatenate([low.ravel(), high.ravel()]), np.repeat([0.0, 1.0], [low.size, high.size])
    z, w = (x - x.mean()) / x.std(), np.zeros(2)
    for _ in range(20):
        f = 1 / (1 + np.exp(-(w[0] + w[1] * z)))
        q, off = f * (1 - f), which - f
        curvature = np.array([[q.sum(), (q * z).sum()], [(q * z).sum(), (q * z * z).sum()]])
        w = w + np.linalg.solve(curvature, [off.sum(), (off * z).sum()])
    return float(w[1] / x.std())


def judged(low: np.ndarray, high: np.ndarray, expected: float, groups: int = 20) -> tuple[float, float]:
    """The slope and its error in units of the expected one, for series (T, R) of independent replicas, by the jackknife."""
    left = np.arange(low.shape[1]) % groups
    parts = [(log_ratio_slope(low[:, left != k], high), log_ratio_slope(low, high[:, left != k])) for k in range(groups)]
    error = ((groups - 1) * np.var(parts, axis=0).sum()) ** 0.5
    return log_ratio_slope(low, high) / expected, abs(error / expected)


@pytest.mark.parametrize("name", ["Langevin", "CSVR"])
def test_volumes_and_enthalpies_of_many_small_boxes_have_the_ratio_of_boltzmann(name: str, record_property: Any) -> None:
    """Eight soft spheres in reduced units, 300 replicas of each state point: errors of a few percent, whatever is correlated in time."""
    replicas, g = 300, torch.Generator().manual_seed(7)
    potential = SoftSphere(1.0, 1.0, cutoff=1.35).double()
    box = System.single(torch.cartesian_prod(*[torch.arange(2.0)] * 3).double() * 1.4, cell=2.8).replicate(3 * replicas)
    kT, p = (torch.tensor(v).double().repeat_interleave(replicas) for v in ([1.0, 1.2, 1.0], [0.8, 0.8, 1.1]))
    strong = Langevin(0.01, kT, 2.0)
    first = rest(box, thermal_velocities(box, kT, g))
    (warm,) = simulate(first, potential, strong, 300, every=300, generator=g, skin=0.4)
    thermostat = {"Langevin": Langevin(0.01, kT, 1.0), "CSVR": CSVR(0.01, kT, 0.3)}[name]
    barostat = CellRescaling(thermostat, p, 1.0, 0.5, every=5)
    states = list(simulate(rest(warm.system, warm.velocities), potential, barostat, 3000, every=20, generator=g, skin=0.4))[20:]
    volume = torch.stack([torch.linalg.det(s.system.cell) for s in states]).numpy()
    enthalpy = torch.stack([s.energy + s.kinetic_energy for s in states]).numpy() + 0.8 * volume
    cold, hot, tight = (slice(k * replicas, (k + 1) * replicas) for k in range(3))
    by_temperature = judged(enthalpy[:, cold], enthalpy[:, hot], 1 - 1 / 1.2)
    by_pressure = judged(volume[:, cold], volume[:, tight], -0.3)
    record_property("slopes over the exact ones, and errors", [*by_temperature, *by_pressure])
    for slope, error in (by_temperature, by_pressure):
        assert error < 0.03
        assert slope == pytest.approx(1, abs=3 * error)


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_the_mean_internal_pressure_is_the_one_asked_for(shape: str, record_property: Any) -> None:
    """Exact in the isobaric ensemble; a solid, whose shape is bound, with every component of the tensor where the shape is free."""
    potential, box = argon(3, 0.9, 1.5)
    kT, p = 40 * units.kelvin, 1000 * units.bar
    g = torch.Generator().manual_seed(5)
    system = box.replicate(24)
    start = warmed(potential, system, kT, 600, g)
    barostat = CellRescaling(Langevin(DT, kT, 2 / units.ps), p, 1e-4 / units.bar, 0.4 * units.ps, every=5, shape=shape)
    tensors = []
    for k, s in enumerate(simulate(start, potential, barostat, 10_000, every=40, generator=g)):
        if k >= 40:
            with torch.no_grad():
                stress = energy_forces(potential, s.system, neighbors(s.system, potential.cutoff), stress=True).stress
            assert stress is not None
            tensors.append(internal_pressure(s.system, kT, stress))
    mean = torch.stack(tensors).mean(0)
    replicas = mean.diagonal(dim1=1, dim2=2).mean(1)
    error = float(replicas.std() / len(replicas) ** 0.5)
    record_property("pressure / p", [float(replicas.mean()) / p, error / p])
    assert float(replicas.mean()) == pytest.approx(p, abs=3 * error)
    assert error < 0.05 * p
    free = {"isotropic": 0.0, "anisotropic": torch.eye(3), "triclinic": 1.0}[shape] * torch.ones(3, 3)
    off, errors = free * (mean.mean(0) - p * torch.eye(3)), mean.std(0) / len(mean) ** 0.5
    record_property("components / p", [(off / p).flatten().tolist(), (errors / p).flatten().tolist()])
    assert bool((off.abs() < 4 * errors).all())
