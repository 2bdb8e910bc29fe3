"""g(r) and the velocity autocorrelation of a Lennard-Jones liquid are those published by others."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mlmd.observables import rdf, vacf

N, DT = 256, 0.005


def forces(x: torch.Tensor, edge: float) -> torch.Tensor:
    """Lennard-Jones in reduced units, cut at 2.5, nearest images."""
    d = x[:, None] - x[None]
    d = d - edge * (d / edge).round()
    r2 = (d * d).sum(-1) + torch.eye(N, dtype=x.dtype) * 1e6
    s6 = torch.where(r2 < 6.25, r2, torch.inf) ** -3
    return ((48 * s6 * s6 - 24 * s6) / r2)[:, :, None].mul(d).sum(1)


def liquid(density: float, kT: float, steps: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Positions and velocities every second step of velocity Verlet, equilibrated by rescaling."""
    edge = (N / density) ** (1 / 3)
    cubic = torch.cartesian_prod(*[torch.arange(4.0)] * 3)
    face = torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    x = ((cubic[:, None] + face) * edge / 4).reshape(-1, 3)
    v = torch.randn(N, 3) * kT**0.5
    v -= v.mean(0)
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    f = forces(x, edge)
    for step in range(steps):
        v = v + f * DT / 2
        x = x + v * DT
        f = forces(x, edge)
        v = v + f * DT / 2
        if step < steps // 3 and step % 20 == 0:
            v = v * (kT / ((v * v).sum() / (3 * N - 3))).sqrt()
        elif step >= steps // 3 and step % 2 == 0:
            kept.append((x, v))
    return torch.stack([k[0] for k in kept]), torch.stack([k[1] for k in kept]), edge


@pytest.mark.slow
@pytest.mark.parametrize(("density", "kT"), [(0.7, 1.2), (0.3, 1.2)])
def test_lennard_jones_liquid(shared_data: Path, density: float, kT: float) -> None:
    x, v, edge = liquid(density, kT, 9000)
    folder = shared_data / "pair_fluids"
    r, g = np.loadtxt(folder / f"lj_rdf_rho{density}_T{kT}.csv", delimiter=",")
    width = r[1] - r[0]
    ours = rdf(x[::20], torch.eye(3) * edge, r_min=r[0] - width / 2, r_max=r[-1] + width / 2, bins=len(r), smooth=True)
    assert np.allclose(ours.r, r)
    shells = np.diff(np.linspace(r[0], r[-1], len(r) + 1) ** 3) / r[-1] ** 3
    assert (g * shells).sum() == pytest.approx(
        1.0, abs=1e-6
    )  # the tables count 1 pair density inside the largest r, not in the bulk
    inside = ours.g / (ours.g * shells).sum()
    assert np.abs(inside - g).mean() < 0.03
    assert inside.max() == pytest.approx(g.max(), rel=0.03)
    sharp = rdf(x[::20], torch.eye(3) * edge, r_min=r[0] - width / 2, r_max=r[-1] + width / 2, bins=len(r))
    assert sharp.g.max() > ours.g.max()
    c = vacf(v, max_lag=50).vacf / 3
    published = np.loadtxt(folder / f"lj_vacf_rho{density}_T{kT}.csv")[:50]
    assert np.abs(c[:50] / c[0] - published / published[0]).mean() < 0.03
