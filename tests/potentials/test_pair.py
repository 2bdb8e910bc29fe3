"""Pair laws against values known in closed form and against ASE."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mlmd.forces import energy_forces
from mlmd.neighbors import neighbors
from mlmd.potentials.pair import (
    CORE,
    WCA,
    Excluding,
    LennardJones,
    Morse,
    PairPotential,
    Smooth,
    SoftSphere,
    Yukawa,
    bonded_within,
    inverse_power,
    switch,
)
from mlmd.system import System


def dimer(r: float, types: tuple[int, int] = (0, 0)) -> System:
    return System.single(torch.tensor([[0.0, 0, 0], [0.6 * r, 0.8 * r, 0]], dtype=torch.float64), types=list(types))


def energy(law: torch.nn.Module, system: System) -> float:
    return float(law(system, neighbors(system, float(law.cutoff))).detach())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("law", "r", "expected"),
    [
        (LennardJones(0.3, 2.0, 9.0), 2.0, 0.0),
        (LennardJones(0.3, 2.0, 9.0), 2.0 ** (7 / 6), -0.3),
        (WCA(0.3, 2.0), 2.0, 0.3),
        (WCA(0.3, 2.0), 2.0 ** (7 / 6) + 1e-9, 0.0),
        (Morse(0.4, 1.5, 1.8, 9.0), 1.8, -0.4),
        (Morse(0.4, 1.5, 1.8, 9.0), 1.8 - np.log(2) / 1.5, 0.0),
        (Yukawa(14.4, 0.25, 9.0), 4.0, 14.4 * np.exp(-1) / 4),
        (SoftSphere(0.2, 2.0, 9.0, power=6), 4.0, 0.2 / 64),
    ],
)
def test_laws_have_their_known_values(law: PairPotential, r: float, expected: float) -> None:
    assert energy(law, dimer(r)) == pytest.approx(expected, abs=1e-12)


def test_lennard_jones_agrees_with_ase_in_a_periodic_box() -> None:
    ase = pytest.importorskip("ase")
    from ase.calculators.lj import LennardJones as Reference

    grid = np.stack(np.meshgrid(*[np.arange(3) * 3.9] * 3, indexing="ij"), -1).reshape(-1, 3)
    x = grid + np.random.default_rng(0).normal(0, 0.2, grid.shape)
    atoms = ase.Atoms("Ar27", positions=x, cell=[11.7] * 3, pbc=True)
    atoms.calc = Reference(sigma=3.4, epsilon=0.0104, rc=5.5, ro=4.0, smooth=False)
    system = System.single(torch.tensor(x), cell=11.7)
    law = LennardJones(0.0104, 3.4, 5.5, onset=5.5)  # cut sharply, as there up to a constant per pair
    pairs = neighbors(system, 5.5)
    shift = float(law.pair(torch.tensor([5.5], dtype=torch.float64), *torch.zeros(2, 1, dtype=torch.long)).detach())
    out = energy_forces(law, system, pairs, stress=True)
    assert float(out.energy) - shift * len(pairs) / 2 == pytest.approx(atoms.get_potential_energy(), rel=1e-9)
    np.testing.assert_allclose(out.forces.detach().numpy(), atoms.get_forces(), atol=1e-10)
    assert out.stress is not None
    np.testing.assert_allclose(out.stress[0].detach().numpy(), atoms.get_stress(voigt=False), atol=1e-10)


def test_the_switch_leaves_the_law_alone_before_its_onset_and_has_two_continuous_derivatives() -> None:
    r = torch.linspace(2.5, 4.5, 2001, dtype=torch.float64, requires_grad=True)
    s = switch(r, 3.0, 4.0)
    (first,) = torch.autograd.grad(s.sum(), r, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), r)
    assert bool((s[r < 3.0] == 1).all() & (s[r > 4.0] == 0).all())
    assert bool((s.diff() <= 0).all())
    for derivative in (s, first, second):
        assert float(derivative.diff().abs().max()) < 0.07  # steps of the grid, no jumps
    assert energy(Smooth(LennardJones(0.1, 1.0, 5.0, onset=5.0), onset=2.0), dimer(1.5)) == energy(
        LennardJones(0.1, 1.0, 5.0), dimer(1.5)
    )


def test_inverse_powers_go_on_straight_inside_the_core() -> None:
    s = torch.tensor([0.0, 0.1, 0.3 - 1e-9, 0.3 + 1e-9, 1.0], dtype=torch.float64, requires_grad=True)
    y = inverse_power(s, 6)
    (slope,) = torch.autograd.grad(y.sum(), s)
    assert float(y[4].detach()) == pytest.approx(1.0)
    assert float(y[2].detach()) == pytest.approx(float(y[3].detach()), rel=1e-6)
    assert float(slope[0]) == pytest.approx(float(slope[3]), rel=1e-6)  # the push at contact is that at the core
    assert float(slope[0]) < 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_law_written_without_care_is_still_finite_for_coinciding_particles(dtype: torch.dtype) -> None:
    class Bare(PairPotential):
        def pair(self, r: Tensor, zi: Tensor, zj: Tensor) -> Tensor:
            return r**-12

    system = System.single(torch.zeros(2, 3, dtype=dtype))
    out = energy_forces(Bare(3.0), system, neighbors(system, 3.0))
    assert torch.isfinite(out.energy).all() and torch.isfinite(out.forces).all()
    assert torch.finfo(torch.float32).max > CORE**-12


def test_a_new_law_is_one_method() -> None:
    class Ramp(PairPotential):
        def pair(self, r: Tensor, zi: Tensor, zj: Tensor) -> Tensor:
            return 2.0 - r

    law, system = Ramp(cutoff=2.0, onset=1.5), dimer(0.5)
    with torch.no_grad():
        out = energy_forces(law, system, neighbors(system, 2.0))
    assert float(out.energy) == pytest.approx(1.5)
    np.testing.assert_allclose(out.forces[1].numpy(), [0.6, 0.8, 0.0], atol=1e-12)


def test_tables_over_types_choose_the_constants_of_each_pair() -> None:
    epsilon = torch.tensor([[0.1, 0.2], [0.2, 0.4]])
    law = LennardJones(epsilon, 2.0, 9.0)
    for types, depth in [((0, 0), 0.1), ((0, 1), 0.2), ((1, 0), 0.2), ((1, 1), 0.4)]:
        assert energy(law, dimer(2.0 ** (7 / 6), types)) == pytest.approx(-depth, rel=1e-6)


def test_training_keeps_tables_symmetric() -> None:
    law = LennardJones([[0.1, 0.2], [0.2, 0.4]], 2.0, 9.0)
    s = dimer(2.5, (0, 1))
    law(s, neighbors(s, 9.0)).sum().backward()
    gradient = law.epsilon.value.grad
    assert gradient is not None
    assert float(gradient[0, 1]) == float(gradient[1, 0]) != 0.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LennardJones(0.1, 1.0, 0.0), "cutoff=0.0"),
        (lambda: LennardJones(0.1, 1.0, float("nan")), "cutoff=nan"),
        (lambda: LennardJones(0.1, 1.0, 3.0, onset=4.0), "onset=4.0"),
        (lambda: LennardJones(0.1, -1.0, 3.0), "sigma=-1.0"),
        (lambda: LennardJones([0.1, 0.2], 1.0, 3.0), "epsilon has shape"),
        (lambda: LennardJones([[0.1, 0.2], [0.3, 0.1]], 1.0, 3.0), "epsilon is not symmetric"),
        (lambda: SoftSphere(0.1, 1.0, 3.0, power=0), "power=0"),
        (lambda: Smooth(LennardJones(0.1, 1.0, 3.0), onset=1.0, cutoff=4.0), "longer than the cutoff"),
        (lambda: Excluding(LennardJones(0.1, 1.0, 3.0), [(0, 5)], size=4), "molecule has 4 atoms"),
        (lambda: Excluding(LennardJones(0.1, 1.0, 3.0), [], size=0), "size=0"),
    ],
)
def test_arguments_that_cannot_be_are_named(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_paths_of_bonds_are_counted_in_rings_and_branches() -> None:
    ring = bonded_within([(k, (k + 1) % 6) for k in range(6)], 6, hops=2)
    assert ring[0].tolist() == [False, True, True, False, True, True]
    assert bonded_within([(0, 1)], 3, hops=3)[2].tolist() == [False] * 3
    assert not bonded_within([(0, 1)], 3, hops=0).any()


@pytest.mark.parametrize("hops", [0, 1, 2, 3])
def test_excluded_pairs_are_left_out_in_a_liquid_of_molecules_and_in_replicas(hops: int) -> None:
    bonds = [(0, 1), (1, 2), (2, 3)]
    x = torch.rand(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 6
    system, law = System.single(x, cell=9.0), LennardJones(0.1, 1.0, 4.0)
    pairs = neighbors(system, 4.0)
    by_hand = 0.0
    for i, j, r in zip(*pairs.index.tolist(), pairs.distances(system).tolist()):
        if i < j and not (i // 4 == j // 4 and abs(i - j) <= hops):
            by_hand += float(law.value(torch.tensor([r], dtype=torch.float64), *torch.zeros(2, 1, dtype=torch.long)).detach())
    excluding = Excluding(law, bonds, size=4, hops=hops)
    assert energy(excluding, system) == pytest.approx(by_hand, rel=1e-9)
    replicas = system.replicate(3)
    three = excluding(replicas, neighbors(replicas, 4.0)).detach()
    assert three.tolist() == pytest.approx([by_hand] * 3, rel=1e-9)
