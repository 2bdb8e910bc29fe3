"""The reverse pass of SchNet that is written out, against autograd, and the slopes of bases against autograd."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mlmd.forces import energy_forces
from mlmd.neighbors import neighbors
from mlmd.nn.radial import BesselBasis, CosineEnvelope, GaussianBasis, PolynomialEnvelope, slope_of
from mlmd.nn.schnet import SchNet
from mlmd.system import System

pytest.importorskip("numba")
f64 = torch.float64


def molecules(n: int, periodic: bool) -> System:
    """A molecule alone, or several of unequal size in tilted cells, with particles beyond each other's range."""
    g = torch.Generator().manual_seed(2)

    def one(size: int) -> System:
        cell = torch.tensor([[7.0, 0, 0], [1.0, 6.5, 0], [0.5, -1.0, 8.0]], dtype=f64) if periodic else None
        x = torch.rand(size, 3, generator=g, dtype=f64) * 6
        return System.single(x, torch.randint(0, 4, (size,), generator=g), cell=cell)

    return System.stack([one(5 + 3 * k) for k in range(n)])


@pytest.mark.parametrize("radial", [None, BesselBasis(3.0, 8)], ids=["Gaussians", "Bessel"])
@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_forces_written_out_are_those_of_autograd(n: int, periodic: bool, radial: nn.Module | None) -> None:
    torch.manual_seed(0)
    envelope = None if radial is None else PolynomialEnvelope(3.0)
    net, system = SchNet(3.0, 16, n_types=4, radial=radial, envelope=envelope).double(), molecules(n, periodic)
    pairs = neighbors(system, 3.2)
    graph = energy_forces(net, system, pairs)
    with torch.no_grad():
        written_out = energy_forces(net, system, pairs)
    torch.testing.assert_close(written_out.energy, graph.energy.detach(), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(written_out.forces, graph.forces.detach(), rtol=1e-11, atol=1e-13)
    assert float(graph.forces.detach().abs().max()) > 1e-3


def test_training_is_seen_at_once() -> None:
    """Nothing of the network is kept between two evaluations."""
    torch.manual_seed(0)
    net, system = SchNet(3.0, 16, n_types=4).double(), molecules(1, False)
    pairs = neighbors(system, 3.0)
    with torch.no_grad():
        energy_forces(net, system, pairs)
        for p in net.parameters():
            p.mul_(1.1)
        now = energy_forces(net, system, pairs).forces
    torch.testing.assert_close(now, energy_forces(net, system, pairs).forces.detach(), rtol=1e-11, atol=1e-13)


def test_particles_out_of_range_have_the_energy_of_single_ones_and_no_forces() -> None:
    torch.manual_seed(0)
    net = SchNet(3.0, 8, n_types=2).double()
    apart = System.single(torch.tensor([[0.0, 0, 0], [5.0, 0, 0]], dtype=f64))
    with torch.no_grad():
        both = energy_forces(net, apart, neighbors(apart, 3.0))
        one = energy_forces(net, alone := System.single(torch.zeros(1, 3, dtype=f64)), neighbors(alone, 3.0))
    torch.testing.assert_close(both.energy, 2 * one.energy)
    assert not bool(both.forces.any())


def test_a_list_of_another_system_is_refused() -> None:
    net, system = SchNet(3.0, 8, n_types=4).double(), molecules(2, False)
    with torch.no_grad(), pytest.raises(ValueError, match="pairs name particles beyond"):
        energy_forces(net, system.select([0]), neighbors(system, 3.0))


@pytest.mark.parametrize("function", [GaussianBasis(4.0), GaussianBasis(4.0, 20, start=0.5), CosineEnvelope(4.0)])
def test_slopes_in_closed_form_are_those_of_autograd(function: nn.Module) -> None:
    r = torch.linspace(0.0, 4.5, 101, dtype=f64)
    slope = function.slope(r, function(r))  # type: ignore[operator]
    torch.testing.assert_close(slope, slope_of(function, r), rtol=1e-12, atol=1e-12)
