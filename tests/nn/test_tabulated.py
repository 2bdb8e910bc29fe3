"""Tabulated networks against the networks they were made from: the same energies, forces and stress, to the stated error."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mlmd import jit
from mlmd.forces import energy_forces
from mlmd.neighbors import Pairs, neighbors
from mlmd.nn.painn import PaiNN
from mlmd.nn.radial import BesselBasis, ExpNormalBasis, PolynomialEnvelope
from mlmd.nn.schnet import SchNet
from mlmd.nn.tabulated import (
    TabulatedSchNet,
    force_error,
    spline_rows,
    spline_slopes,
    spline_table,
    spline_weights,
    tabulated,
)
from mlmd.nn.tabulated_painn import TabulatedPaiNN
from mlmd.store import load, save
from mlmd.system import System

f64 = torch.float64
loops = pytest.mark.parametrize(
    "loops", [pytest.param(True, marks=pytest.mark.skipif(not jit.available(), reason="no numba")), False]
)


def net(**kwargs: object) -> SchNet:
    torch.manual_seed(1)
    made = SchNet(4.0, features=12, n_types=3, **kwargs).double()  # type: ignore[arg-type]
    for p in made.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return made


def liquid(n: int = 27, seed: int = 0, edge: float = 6.0) -> System:
    """A shaken lattice in a box that holds several images of a particle within the cutoff."""
    grid = torch.cartesian_prod(*[torch.arange(3, dtype=f64)] * 3)[:n] * (edge / 3)
    x = grid + 0.2 * torch.randn(n, 3, dtype=f64, generator=torch.Generator().manual_seed(seed))
    return System.single(x, types=torch.arange(n) % 3, cell=torch.tensor([[edge, 0, 0], [0.5, edge, 0], [0, 0.3, edge]], dtype=f64))


def simulated(potential: object, system: System, pairs: Pairs) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        out = energy_forces(potential, system, pairs)  # type: ignore[arg-type]
    return out.energy, out.forces


@loops
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"radial": BesselBasis(4.0, 8), "interactions": 1},
        {"radial": ExpNormalBasis(4.0, 12), "envelope": PolynomialEnvelope(4.0)},
    ],
)
def test_a_fine_table_in_double_precision_is_the_network(kwargs: dict, loops: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "available", lambda: loops)
    exact, system = net(**kwargs), liquid()
    pairs = neighbors(system, 4.5)
    energy, forces = simulated(TabulatedSchNet(exact, 0.001), system, pairs)
    expected = energy_forces(exact, system, pairs)
    scale = float(expected.forces.detach().abs().max())
    torch.testing.assert_close(energy, expected.energy.detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(forces, expected.forces.detach(), rtol=0, atol=1e-7 * scale)


def test_the_stress_is_that_of_the_network() -> None:
    exact, system = net(), liquid()
    pairs = neighbors(system, 4.0)
    ours, theirs = (energy_forces(p, system, pairs, stress=True).stress for p in (TabulatedSchNet(exact, 0.002), exact))
    assert ours is not None and theirs is not None
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 * float(theirs.detach().abs().max()))


@loops
def test_the_force_error_falls_with_the_third_power_of_the_spacing(loops: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "available", lambda: loops)
    exact, system = net(), liquid()
    pairs = neighbors(system, 4.0)
    coarse, fine = (force_error(TabulatedSchNet(exact, h), exact, system, pairs).rms for h in (0.04, 0.01))
    assert 4**3 / 2 < coarse / fine < 4**3 * 2


def test_compiled_loops_and_torch_make_the_same_sums() -> None:
    if not jit.available():
        pytest.skip("no numba")
    potential = TabulatedSchNet(net(), 0.05)
    batch = System.stack([liquid(27), liquid(20, seed=1), liquid(5, seed=2)])
    pairs = neighbors(batch, 4.3)
    energy, forces = simulated(potential, batch, pairs)
    expected = energy_forces(potential, batch, pairs)  # by autograd
    torch.testing.assert_close(energy, expected.energy, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(forces, expected.forces.detach(), rtol=1e-10, atol=1e-11)


def test_single_precision_weights_serve_double_precision_positions() -> None:
    exact, system = net(), liquid()
    pairs = neighbors(system, 4.0)
    energy, forces = simulated(TabulatedSchNet(net().float()), system, pairs)
    assert energy.dtype == forces.dtype == f64
    expected = energy_forces(exact, system, pairs).forces.detach()
    torch.testing.assert_close(forces, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_a_spline_reproduces_a_cubic_polynomial_and_its_slope() -> None:
    """Cubic splines hold every cubic polynomial exactly."""

    def cubic(r: Tensor) -> Tensor:
        return torch.stack([r**3 - 2 * r, 0.5 * r * r + 1], 1)

    table, r = spline_table(cubic, 3.0, 8), torch.linspace(0, 2.999, 57, dtype=f64)
    rows, weights = spline_weights(r, 3.0, 8)
    torch.testing.assert_close(spline_rows(table, rows, weights), cubic(r), rtol=1e-12, atol=1e-12)
    slope = torch.stack([3 * r * r - 2, r], 1)
    torch.testing.assert_close(spline_rows(table, *spline_slopes(r, 3.0, 8)), slope, rtol=1e-12, atol=1e-12)


def test_the_table_is_refined_until_the_forces_are_as_good_as_asked_and_the_error_is_kept(tmp_path: object) -> None:
    exact, system = net(), liquid()
    pairs = neighbors(system, 4.0)
    rough, good = tabulated(exact, system, pairs, 1e-2), tabulated(exact, system, pairs, 1e-5)
    assert good.spacing < rough.spacing
    for potential, tolerance in ((rough, 1e-2), (good, 1e-5)):
        error = force_error(potential, exact, system, pairs)
        assert potential.error == error and error.largest <= tolerance * error.scale
    again = load(save(tmp_path / "p.npz", good))  # type: ignore[operator]
    assert again.error == good.error
    torch.testing.assert_close(simulated(again, system, pairs), simulated(good, system, pairs), rtol=0, atol=0)


def test_a_tolerance_below_single_precision_is_refused_with_the_error_reached() -> None:
    exact, system = net().float(), liquid().to(torch.float32)
    with pytest.raises(ValueError, match=r"tolerance=1e-09: a table of 0\.00125 A reaches .*e-0"):
        tabulated(exact, system, neighbors(system, 4.0), 1e-9)


@pytest.mark.parametrize("spacing", [0.0, -0.1, 1.0, float("nan")])
def test_a_spacing_without_a_table_is_refused(spacing: float) -> None:
    with pytest.raises(ValueError, match="spacing="):
        TabulatedSchNet(net(), spacing)


def test_later_training_does_not_reach_it() -> None:
    exact, system = net(), liquid()
    pairs = neighbors(system, 4.0)
    potential = TabulatedSchNet(exact, 0.01)
    before = simulated(potential, system, pairs)
    with torch.no_grad():
        for p in exact.parameters():
            p.mul_(2.0)
    torch.testing.assert_close(simulated(potential, system, pairs), before, rtol=0, atol=0)
    assert potential.n_parameters == 0


@loops
def test_a_position_that_is_not_a_number_reaches_energy_and_forces(loops: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "available", lambda: loops)
    system = liquid()
    pairs = neighbors(system, 4.0)
    x = system.positions.clone()
    x[3, 1] = float("nan")
    energy, forces = simulated(TabulatedSchNet(net(), 0.05), replace(system, positions=x), pairs)
    assert bool(energy.isnan().all()) and bool(forces[3].isnan().any())


def test_a_list_of_another_system_is_refused() -> None:
    if not jit.available():
        pytest.skip("torch has its own message")
    pairs = neighbors(liquid(), 4.0)
    with pytest.raises(ValueError, match="pairs name particles beyond the 5"):
        simulated(TabulatedSchNet(net(), 0.05), liquid(5), pairs)


def painn(**kwargs: object) -> PaiNN:
    torch.manual_seed(1)
    made = PaiNN(4.0, features=8, n_types=3, **kwargs).double()  # type: ignore[arg-type]
    for p in made.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return made


@loops
@pytest.mark.parametrize("kwargs", [{}, {"radial": ExpNormalBasis(4.0, 12), "interactions": 1}])
def test_a_fine_table_in_double_precision_is_painn(kwargs: dict, loops: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "available", lambda: loops)
    exact, batch = painn(**kwargs), System.stack([liquid(27), liquid(20, seed=1), liquid(5, seed=2)])
    pairs = neighbors(batch, 4.5)
    energy, forces = simulated(TabulatedPaiNN(exact, 0.001), batch, pairs)
    expected = energy_forces(exact, batch, pairs)
    scale = float(expected.forces.detach().abs().max())
    torch.testing.assert_close(energy, expected.energy.detach(), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(forces, expected.forces.detach(), rtol=0, atol=1e-6 * scale)


def test_compiled_loops_and_torch_make_the_same_sums_of_painn() -> None:
    if not jit.available():
        pytest.skip("no numba")
    potential, system = TabulatedPaiNN(painn(), 0.05), liquid()
    pairs = neighbors(system, 4.3)
    energy, forces = simulated(potential, system, pairs)
    expected = energy_forces(potential, system, pairs)  # by autograd
    torch.testing.assert_close(energy, expected.energy.detach(), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(forces, expected.forces.detach(), rtol=1e-9, atol=1e-10)


def test_a_spacing_without_a_table_is_refused_for_painn() -> None:
    with pytest.raises(ValueError, match="spacing="):
        TabulatedPaiNN(painn(), 1.0)
