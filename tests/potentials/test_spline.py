"""Splines against SciPy, and the linearity that least-squares force matching relies on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline, CubicSpline

from mlmd.forces import energy_forces
from mlmd.neighbors import neighbors
from mlmd.potentials.spline import CubicSpline1D, CubicSplinePair, TabulatedPair, UniformKnots, design_forces
from mlmd.system import System

f64 = torch.float64


def derivative(f: object, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(f(x).sum(), x)[0]  # type: ignore[operator]


def test_basis_functions_are_scipys_b_splines() -> None:
    knots = UniformKnots(1.0, 4.0, 6)
    x = torch.linspace(1.0, 4.0, 101, dtype=f64)[:-1]
    value, slope = knots.design_matrix(x)
    t = 1.0 + 0.5 * np.arange(-3, 10)
    for k in range(knots.size):
        reference = BSpline(t, np.eye(knots.size)[k], 3)
        np.testing.assert_allclose(value[:, k], reference(x.numpy()), atol=1e-12)
        np.testing.assert_allclose(slope[:, k], reference(x.numpy(), 1), atol=1e-12)


@pytest.mark.parametrize(("slopes", "boundary"), [((None, None), "natural"), ((0.7, -0.2), ((1, 0.7), (1, -0.2)))])
def test_interpolation_is_scipys_cubic_spline(slopes: tuple, boundary: object) -> None:
    x = np.linspace(0.5, 5.0, 12)
    y = np.sin(3 * x) / x
    ours, reference = CubicSpline1D.through(x, y, slopes=slopes), CubicSpline(x, y, bc_type=boundary)
    fine = torch.linspace(0.5, 5.0, 300, dtype=f64)
    np.testing.assert_allclose(ours(fine).detach(), reference(fine.numpy()), atol=1e-12)
    np.testing.assert_allclose(derivative(ours, fine), reference(fine.numpy(), 1), atol=1e-11)


def test_periodic_interpolation_is_scipys_and_repeats() -> None:
    x = np.linspace(-np.pi, np.pi, 13)
    y = np.cos(x) + 0.3 * np.sin(2 * x)
    y[-1] = y[0]
    ours, reference = CubicSpline1D.through(x, y, periodic=True), CubicSpline(x, y, bc_type="periodic")
    fine = torch.linspace(-3.14, 3.14, 200, dtype=f64)
    np.testing.assert_allclose(ours(fine).detach(), reference(fine.numpy()), atol=1e-12)
    np.testing.assert_allclose(derivative(ours, fine), reference(fine.numpy(), 1), atol=1e-11)
    np.testing.assert_allclose(ours(fine + 4 * np.pi).detach(), ours(fine).detach(), atol=1e-11)
    ends = torch.tensor([-np.pi, np.pi], dtype=f64)
    assert float(ours(ends).diff().detach().abs()) < 1e-12


def test_outside_its_range_a_spline_is_the_tangent_at_its_end() -> None:
    spline = CubicSpline1D.through(np.linspace(1, 3, 9), np.linspace(1, 3, 9) ** 3)
    x = torch.tensor([0.2, 0.6, 3.4, 9.0], dtype=f64)
    ends = torch.tensor([1.0, 1.0, 3.0, 3.0], dtype=f64)
    np.testing.assert_allclose(derivative(spline, x), derivative(spline, ends), atol=1e-12)
    expected = spline(ends) + derivative(spline, ends) * (x - ends)
    np.testing.assert_allclose(spline(x).detach(), expected.detach(), atol=1e-12)


def test_splines_are_linear_in_their_coefficients() -> None:
    spline = CubicSpline1D(0.0, 2.0, 5)
    torch.nn.init.normal_(spline.coefficients)
    x = torch.linspace(-0.5, 2.5, 40, dtype=f64)
    B, dB = spline.design_matrix(x)
    np.testing.assert_allclose(B @ spline.coefficients.detach(), spline(x).detach(), atol=1e-12)
    np.testing.assert_allclose(dB @ spline.coefficients.detach(), derivative(spline, x), atol=1e-12)


def test_a_dihedral_spline_can_be_trained() -> None:
    spline = CubicSpline1D(-np.pi, np.pi, 12, periodic=True)
    phi = torch.linspace(-np.pi, np.pi, 200, dtype=f64)
    optimiser = torch.optim.LBFGS(spline.parameters(), max_iter=50)

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = (spline(phi) - torch.cos(phi)).square().mean()
        value.backward()
        return value

    optimiser.step(loss)
    assert float(loss().detach()) < 1e-5


def fluid() -> System:
    x = torch.rand(16, 3, dtype=f64, generator=torch.Generator().manual_seed(0)) * 9
    return System.single(x, types=torch.arange(16) % 3, cell=9.0)


def trained() -> CubicSplinePair:
    law = CubicSplinePair(1.5, 4.2, 8, types=[(0, 0), (0, 1), (2, 2)])
    torch.manual_seed(0)
    torch.nn.init.normal_(law.coefficients)
    return law


def test_forces_of_a_spline_potential_are_its_design_matrix_times_its_coefficients() -> None:
    law, system = trained(), fluid()
    pairs = neighbors(system, law.cutoff + 0.2)
    A = design_forces(law, system, pairs)
    forces = torch.einsum("rk,rknx->nx", law.coefficients.detach(), A)
    np.testing.assert_allclose(forces, energy_forces(law, system, pairs).forces.detach(), atol=1e-10)


def test_force_matching_recovers_the_coefficients_that_made_the_forces() -> None:
    law = trained()
    frames = [fluid().at(fluid().positions + 0.5 * torch.randn(16, 3, dtype=f64)) for _ in range(30)]
    rows, right = [], []
    for s in frames:
        pairs = neighbors(s, law.cutoff)
        rows.append(design_forces(law, s, pairs).reshape(3 * 8, -1).T)
        right.append(energy_forces(law, s, pairs).forces.detach().reshape(-1))
    solution = torch.linalg.lstsq(torch.cat(rows), torch.cat(right)[:, None], driver="gelsd").solution[:, 0]
    np.testing.assert_allclose(solution.reshape(3, 8), law.coefficients.detach(), atol=1e-8)


def test_pairs_of_types_without_a_row_do_not_interact_and_order_does_not_matter() -> None:
    law = trained()
    r = torch.full((5,), 2.5, dtype=f64)
    zi, zj = torch.tensor([0, 0, 1, 1, 7]), torch.tensor([0, 1, 0, 1, 118])
    u = law.value(r, zi, zj).detach()
    assert u[1] == u[2] != 0
    assert u[3] == u[4] == 0
    assert u[0] != u[1]


def test_least_squares_values_are_followed_and_the_end_is_smooth() -> None:
    law = CubicSplinePair(2.0, 8.0, 60)
    r = torch.linspace(2.0, 8.0, 61, dtype=f64)
    wanted = 0.1 * (2.0 / r) ** 3 * (1 - r / 8.0) ** 3
    law.set_values(wanted)
    zero = torch.zeros(61, dtype=torch.long)
    np.testing.assert_allclose(law.value(r, zero, zero).detach(), wanted, atol=1e-4)
    with pytest.raises(ValueError, match="not among the pairs of types"):
        law.set_values(wanted, types=(0, 3))


def test_a_table_is_followed_between_its_points_and_straight_below_them() -> None:
    r = np.linspace(1.5, 6.0, 46)
    u = 0.2 * ((2 / r) ** 12 - (2 / r) ** 6)
    law = TabulatedPair(r, u)
    assert law.cutoff == 6.0
    x = torch.tensor([1.55, 2.3, 4.444, 5.8], dtype=f64)
    zero = torch.zeros(4, dtype=torch.long)
    reference = CubicSpline(r, u - u[-1], bc_type=((2, 0.0), (1, 0.0)))
    np.testing.assert_allclose(law.value(x, zero, zero), reference(x.numpy()), atol=1e-12)
    core = torch.tensor([0.5, 1.0], dtype=f64)
    expected = reference(1.5) + reference(1.5, 1) * (core.numpy() - 1.5)
    np.testing.assert_allclose(law.value(core, zero[:2], zero[:2]), expected, rtol=1e-10)
    assert law.value(torch.tensor([6.0, 7.0], dtype=f64), zero[:2], zero[:2]).tolist() == [0.0, 0.0]


def test_tables_of_mixtures_are_chosen_by_type() -> None:
    r = np.linspace(1.0, 4.0, 20)
    law = TabulatedPair(r, {(0, 0): 4 - r, (0, 1): 2 * (4 - r)})
    x, zi = torch.full((3,), 2.0, dtype=f64), torch.tensor([0, 1, 1])
    assert law.value(x, zi, torch.tensor([0, 0, 1])).tolist() == pytest.approx([2.0, 4.0, 0.0], abs=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TabulatedPair([1, 2, 3, 5, 8], [1, 1, 1, 1, 1]), "uniform increasing grid"),
        (lambda: TabulatedPair([5, 4, 3, 2, 1], [1, 1, 1, 1, 1]), "uniform increasing grid"),
        (lambda: TabulatedPair([1, 2, 3], [1, 1, 1]), "at least 5 points"),
        (lambda: TabulatedPair([0, 1, 2, 3, 4], [np.inf, 1, 1, 1, 1]), "not finite"),
        (lambda: CubicSplinePair(3.0, 2.0, 8), "range is empty"),
        (lambda: CubicSplinePair(1.0, 2.0, 2), "at least 4"),
        (lambda: CubicSplinePair(1.0, 2.0, 8, types=[(0, 1), (1, 0)]), "twice"),
        (lambda: CubicSplinePair(1.0, 2.0, 8, types=[(0, -1)]), "not negative"),
        (lambda: CubicSpline1D(0.0, 1.0, 5, coefficients=[1.0]), "coefficients has shape"),
    ],
)
def test_arguments_that_cannot_be_are_named(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
