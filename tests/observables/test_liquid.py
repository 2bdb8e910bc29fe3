"""g(r) and the velocity autocorrelation of a Lennard-Jones liquid are those published by others."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mlmd.md import Langevin, VelocityVerlet, rest, simulate, thermal_velocities
from mlmd.observables import rdf, vacf
from mlmd.potentials.pair import LennardJones
from mlmd.system import System

DT = 0.005


def lattice(cells: int, density: float, kT: float) -> tuple[System, torch.Tensor]:
    """Face-centred cubic start with momentum zero, and its velocities; reduced units."""
    edge = (4 * cells**3 / density) ** (1 / 3)
    cubic = torch.cartesian_prod(*[torch.arange(float(cells))] * 3)
    face = torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    system = System.single(((cubic[:, None] + face) * edge / cells).reshape(-1, 3), cell=edge)
    v = thermal_velocities(system, kT, torch.Generator().manual_seed(0))
    return system, v - v.mean(0)


def liquid(cells: int, density: float, kT: float, steps: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positions and velocities every second step of velocity Verlet after equilibration by Langevin dynamics; and the cell."""
    system, v = lattice(cells, density, kT)
    law = LennardJones(1.0, 1.0, 2.5, onset=2.5)
    source = torch.Generator().manual_seed(1)
    for state in simulate(rest(system, v), law, Langevin(DT, kT, 1.0), steps // 3, every=steps // 3, generator=source, skin=0.3):
        start = state
    v = start.velocities - start.velocities.mean(0)
    v = v * (kT * (v.numel() - 3) / v.square().sum()).sqrt()  # the published runs hold the temperature; here the energy is held
    kept = list(simulate(rest(start.system, v), law, VelocityVerlet(DT), 2 * steps // 3, every=2, skin=0.3))
    return torch.stack([s.system.positions for s in kept]), torch.stack([s.velocities for s in kept]), system.cell[0]


@pytest.mark.slow
@pytest.mark.parametrize(("cells", "density", "kT"), [(4, 0.7, 1.2), (4, 0.3, 1.2), (5, 0.845, 1.5)])
def test_lennard_jones_liquid(shared_data: Path, cells: int, density: float, kT: float) -> None:
    x, v, cell = liquid(cells, density, kT, 9000)
    folder = shared_data / "pair_fluids"
    r, g = np.loadtxt(folder / f"lj_rdf_rho{density}_T{kT}.csv", delimiter=",")
    width = r[1] - r[0]
    ours = rdf(x[::20], cell, r_min=r[0] - width / 2, r_max=r[-1] + width / 2, bins=len(r), smooth=True)
    assert np.allclose(ours.r, r)
    shells = np.diff(np.linspace(r[0], r[-1], len(r) + 1) ** 3) / r[-1] ** 3
    assert (g * shells).sum() == pytest.approx(
        1.0, abs=1e-6
    )  # the tables count 1 pair density inside the largest r, not in the bulk
    inside = ours.g / (ours.g * shells).sum()
    assert np.abs(inside - g).mean() < 0.03
    assert inside.max() == pytest.approx(g.max(), rel=0.03)
    sharp = rdf(x[::20], cell, r_min=r[0] - width / 2, r_max=r[-1] + width / 2, bins=len(r))
    assert sharp.g.max() > ours.g.max()
    c = vacf(v, max_lag=50).vacf / 3
    published = np.loadtxt(folder / f"lj_vacf_rho{density}_T{kT}.csv")[:50]
    assert np.abs(c[:50] / c[0] - published / published[0]).mean() < 0.03
