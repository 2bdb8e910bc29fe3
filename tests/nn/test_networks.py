"""SchNet and PaiNN against their equations written as loops over particles, and against what they must be able to learn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mlmd.forces import energy_forces
from mlmd.neighbors import neighbors
from mlmd.nn.painn import PaiNN
from mlmd.nn.schnet import SchNet
from mlmd.potentials.pair import LennardJones
from mlmd.system import System

f64 = torch.float64
NETWORKS = pytest.mark.parametrize("cls", [SchNet, PaiNN])


def cluster(n: int = 7, seed: int = 0) -> System:
    x = 1.5 * torch.randn(n, 3, dtype=f64, generator=torch.Generator().manual_seed(seed))
    return System.single(x, types=torch.arange(n) % 3)


def ssp(x: Tensor) -> Tensor:
    return torch.log(0.5 * torch.exp(x) + 0.5)


def schnet_by_hand(net: SchNet, system: System) -> Tensor:
    """Eq. by eq. with loops over particles, open boundaries."""
    x, n, rc = system.positions, len(system), net.cutoff
    mu = torch.linspace(0, rc, 50, dtype=f64)
    h = [net.embedding.weight[z] for z in system.types]
    for filter, sender, update in zip(net.filters, net.senders, net.updates):
        new = []
        for i in range(n):
            message = torch.zeros(net.features, dtype=f64)
            for j in range(n):
                r = (x[i] - x[j]).norm()
                if i == j or r >= rc:
                    continue
                g = torch.exp(-0.5 * ((r - mu) / (mu[1] - mu[0])) ** 2)
                W = filter[2].weight @ ssp(filter[0].weight @ g + filter[0].bias) + filter[2].bias  # type: ignore[index]
                message = message + 0.5 * (torch.cos(math.pi * r / rc) + 1) * W * (sender.weight @ h[j])  # type: ignore[operator]
            new.append(h[i] + update[2].weight @ ssp(update[0].weight @ message + update[0].bias) + update[2].bias)  # type: ignore[index]
        h = new
    a, b = net.readout[0], net.readout[2]
    return sum((b.weight @ ssp(a.weight @ hi + a.bias) + b.bias for hi in h), torch.zeros(1, dtype=f64))  # type: ignore[operator]


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def painn_by_hand(net: PaiNN, system: System) -> Tensor:
    """Eq. by eq. with loops over particles, open boundaries."""
    x, n, rc, F = system.positions, len(system), net.cutoff, net.features
    order = torch.arange(1, 21, dtype=f64)
    s = [net.embedding.weight[z] for z in system.types]
    v = [torch.zeros(F, 3, dtype=f64) for _ in range(n)]

    def mlp(m: torch.nn.Module, y: Tensor) -> Tensor:
        return m[2].weight @ silu(m[0].weight @ y + m[0].bias) + m[2].bias  # type: ignore[index]

    for t in range(net.interactions):
        rows = slice(3 * F * t, 3 * F * (t + 1))
        ds, dv = [torch.zeros(F, dtype=f64) for _ in range(n)], [torch.zeros(F, 3, dtype=f64) for _ in range(n)]
        for i in range(n):
            for j in range(n):
                d = x[j] - x[i]
                r = d.norm()
                if i == j or r >= rc:
                    continue
                g = torch.sin(order * math.pi * r / rc) / r
                W = 0.5 * (torch.cos(math.pi * r / rc) + 1) * (net.filter.weight[rows] @ g + net.filter.bias[rows])
                m0, m1, m2 = (mlp(net.messages[t], s[j]) * W).split(F)
                ds[i] = ds[i] + m1
                dv[i] = dv[i] + m0[:, None] * v[j] + m2[:, None] * (d / r)[None]
        s, v = [a + b for a, b in zip(s, ds)], [a + b for a, b in zip(v, dv)]
        U, V = net.mixings[t].weight.split(F)  # type: ignore[operator]
        for i in range(n):
            Uv, Vv = U @ v[i], V @ v[i]
            norm = (Vv.square().sum(1) + 1e-15).sqrt()
            a_vv, a_sv, a_ss = mlp(net.updates[t], torch.cat([s[i], norm])).split(F)
            s[i], v[i] = s[i] + a_ss + a_sv * (Uv * Vv).sum(1), v[i] + a_vv[:, None] * Uv
    return sum((mlp(net.readout, si) for si in s), torch.zeros(1, dtype=f64))


@pytest.mark.parametrize(("cls", "by_hand"), [(SchNet, schnet_by_hand), (PaiNN, painn_by_hand)])
def test_the_network_is_its_equations(cls: type, by_hand: object) -> None:
    net, system = cls(4.0, features=6, interactions=2, n_types=3).double(), cluster()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.5)
    ours, expected = net(system, neighbors(system, 4.0)), by_hand(net, system)  # type: ignore[operator]
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_the_number_of_parameters_is_that_of_the_layers() -> None:
    F, K, T, Z = 64, 50, 3, 10
    filter = K * F + F + F * F + F
    update = 2 * (F * F + F)
    readout = F * F // 2 + F // 2 + F // 2 + 1
    assert SchNet(5.0, F, T, n_types=Z).n_parameters == Z * F + T * (filter + F * F + update) + readout
    message, mixing = F * F + F + 3 * F * F + 3 * F, 2 * F * F
    update = 2 * F * F + F + 3 * F * F + 3 * F
    assert PaiNN(5.0, F, T, n_types=Z).n_parameters == Z * F + (20 + 1) * 3 * F * T + T * (message + mixing + update) + readout


@NETWORKS
def test_a_periodic_crystal_has_the_energy_per_particle_of_its_cell_however_often_it_is_repeated(cls: type) -> None:
    net = cls(4.0, features=8, n_types=1).double()
    base = torch.rand(2, 3, dtype=f64) * 3.1
    cell = torch.diag(torch.tensor([3.1, 3.3, 3.7], dtype=f64))
    small = System.single(base, cell=cell)
    images = torch.cartesian_prod(*[torch.arange(3, dtype=f64)] * 3) @ cell
    large = System.single((base[None] + images[:, None]).reshape(-1, 3), cell=3 * cell)
    energy = [float(net(s, neighbors(s, 4.0)).detach()) for s in (small, large)]
    assert energy[1] == pytest.approx(27 * energy[0], rel=1e-9)


@NETWORKS
def test_particles_beyond_the_cutoff_of_all_messages_do_not_interact(cls: type) -> None:
    net = cls(3.0, features=8, n_types=3).double()
    a, b = cluster(4, seed=1), cluster(5, seed=2)
    both = System.single(torch.cat([a.positions, b.positions + 30.0]), types=torch.cat([a.types, b.types]))
    expected = net(a, neighbors(a, 3.0)) + net(b, neighbors(b, 3.0))
    torch.testing.assert_close(net(both, neighbors(both, 3.0)), expected)


@NETWORKS
def test_single_precision_weights_serve_double_precision_positions(cls: type) -> None:
    net, system = cls(4.0, features=8, n_types=3), cluster()
    out = energy_forces(net, system, neighbors(system, 4.0))
    assert out.energy.dtype == out.forces.dtype == f64
    exact = energy_forces(net.double(), system, neighbors(system, 4.0))
    torch.testing.assert_close(out.forces, exact.forces, rtol=1e-4, atol=1e-5)


@NETWORKS
def test_a_few_hundred_steps_of_force_matching_learn_a_lennard_jones_cluster(cls: type) -> None:
    law = LennardJones(0.2, 1.6, 4.0)
    lattice = 1.8 * torch.cartesian_prod(*[torch.arange(2, dtype=f64)] * 3)
    frames = lattice + 0.12 * torch.randn(32, 8, 3, dtype=f64, generator=torch.Generator().manual_seed(0))
    batch = System.single(lattice).at(frames)
    pairs = neighbors(batch, 4.0)
    with torch.no_grad():
        target = energy_forces(law, batch, pairs).forces.float()
    batch = batch.to(torch.float32)
    torch.manual_seed(0)
    net = cls(4.0, features=16, interactions=2, n_types=1)
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(120):
        optimiser.zero_grad()
        loss = (energy_forces(net, batch, pairs).forces - target).square().mean()
        loss.backward()
        optimiser.step()
    explained = 1 - float(loss.detach()) / float(target.square().mean())
    assert explained > 0.9


@NETWORKS
def test_a_position_that_is_not_a_number_reaches_the_energy(cls: type) -> None:
    net, system = cls(4.0, features=8, n_types=3).double(), cluster()
    pairs, x = neighbors(system, 4.0), system.positions.clone()
    x[3, 1] = float("nan")
    assert bool(net(system.at(x), pairs).isnan().all())


@NETWORKS
def test_types_beyond_the_embedding_are_refused_by_torch(cls: type) -> None:
    net, system = cls(4.0, features=8, n_types=2).double(), cluster()
    with pytest.raises(IndexError):
        net(system, neighbors(system, 4.0))
