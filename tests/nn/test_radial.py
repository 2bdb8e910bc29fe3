"""Bases and envelopes: their formulas, smooth ends, and no subnormal numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mlmd.nn.radial import BesselBasis, CosineEnvelope, ExpNormalBasis, GaussianBasis, PolynomialEnvelope

f64 = torch.float64
RC = 5.0


def slopes(f: nn.Module, r: torch.Tensor, order: int) -> torch.Tensor:
    """Derivative of the given order."""
    r = r.clone().requires_grad_()
    y = f(r)
    for _ in range(order):
        (y,) = torch.autograd.grad(y.sum(), r, create_graph=True)
    return y.detach()


@pytest.mark.parametrize(
    ("envelope", "smoothness"), [(CosineEnvelope(RC), 1), (PolynomialEnvelope(RC, 2), 2), (PolynomialEnvelope(RC, 3), 3)]
)
def test_envelopes_fall_from_one_to_exactly_zero_with_vanishing_derivatives(envelope: nn.Module, smoothness: int) -> None:
    assert envelope(torch.tensor([0.0], dtype=f64)).item() == pytest.approx(1.0)
    beyond = torch.tensor([RC, RC + 1e-9, 2 * RC], dtype=f64)
    assert envelope(beyond).tolist() == [0.0] * 3
    assert envelope(beyond.float()).tolist() == [0.0] * 3
    r = torch.linspace(0, RC, 500, dtype=f64)
    assert bool((envelope(r).diff() < 0).all())
    just_inside = torch.tensor([RC - 1e-6], dtype=f64)
    for order in range(1, smoothness + 1):
        assert abs(slopes(envelope, just_inside, order).item()) < 1e-4
    assert abs(slopes(envelope, just_inside, smoothness + 1).item()) > 1e-2  # and no more than was promised


def test_gaussians_sit_on_a_grid_and_are_as_wide_as_its_spacing() -> None:
    basis = GaussianBasis(RC, 6).double()
    g = basis(torch.tensor([2.0], dtype=f64))[0]
    assert g.tolist() == pytest.approx([math.exp(-0.5 * (2.0 - k) ** 2) for k in range(6)])


def test_bessel_functions_have_their_limit_at_zero_and_vanish_at_the_cutoff() -> None:
    basis = BesselBasis(RC, 4).double()
    at_zero, at_end, between = basis(torch.tensor([0.0, RC, 1.3], dtype=f64))
    assert at_zero.tolist() == pytest.approx([n * math.pi / RC for n in (1, 2, 3, 4)], rel=1e-6)
    assert at_end.tolist() == pytest.approx([0.0] * 4, abs=1e-6)
    assert between.tolist() == pytest.approx([math.sin(n * math.pi * 1.3 / RC) / 1.3 for n in (1, 2, 3, 4)], rel=1e-6)


def test_exponential_gaussians_follow_their_formula() -> None:
    basis = ExpNormalBasis(RC, 5).double()
    end = math.exp(-5.0)
    mu = [end + k * (1 - end) / 4 for k in range(5)]
    beta = (0.4 * (1 - end)) ** -2
    expected = [math.exp(-beta * (math.exp(-1.3) - m) ** 2) for m in mu]
    assert basis(torch.tensor([1.3], dtype=f64))[0].tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("basis", [GaussianBasis(RC, 50), ExpNormalBasis(RC, 50), BesselBasis(RC, 20)])
def test_no_basis_produces_subnormal_numbers_which_are_slow(basis: nn.Module) -> None:
    g = basis(torch.linspace(0.0, 6.0, 2000))
    assert torch.isfinite(g).all()
    small = g[g != 0].abs().min()
    assert float(small) > 1e-30


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianBasis(0.0), "cutoff=0.0"),
        (lambda: BesselBasis(-1.0), "cutoff=-1.0"),
        (lambda: GaussianBasis(5.0, 1), "size=1"),
        (lambda: ExpNormalBasis(5.0, 1), "size=1"),
        (lambda: BesselBasis(5.0, 0), "size=0"),
        (lambda: CosineEnvelope(float("inf")), "cutoff=inf"),
        (lambda: PolynomialEnvelope(5.0, 4), "smoothness=4"),
    ],
)
def test_arguments_that_cannot_be_are_named(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
