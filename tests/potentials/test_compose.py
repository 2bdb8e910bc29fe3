"""Sums and wrappers say what they do to the energy, the parameters and the cost."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mlmd.forces import energy_forces
from mlmd.neighbors import neighbors
from mlmd.nn.schnet import SchNet
from mlmd.potentials.compose import Ensemble, Frozen, Potential, Scaled, Shifted, Sum
from mlmd.potentials.pair import WCA, LennardJones, Yukawa
from mlmd.system import System


@pytest.fixture
def system() -> System:
    return System.single(torch.rand(8, 3, dtype=torch.float64) * 5, types=torch.arange(8) % 2)


def laws() -> tuple[LennardJones, Yukawa, WCA]:
    return LennardJones(0.1, 1.2, 4.0), Yukawa(1.0, 0.4, 5.0), WCA(0.1, 1.0)


def test_sums_add_flatten_and_reach_as_far_as_their_longest_member(system: System) -> None:
    a, b, c = laws()
    both = a + (b + c)
    assert isinstance(both, Sum)
    assert [type(m) for m in both.members] == [LennardJones, Yukawa, WCA]
    assert both.cutoff == 5.0
    pairs = neighbors(system, 5.0)
    torch.testing.assert_close(both(system, pairs), a(system, pairs) + b(system, pairs) + c(system, pairs))
    torch.testing.assert_close(sum([a, b, c])(system, pairs), both(system, pairs))  # type: ignore[operator]
    assert both.n_parameters == sum(m.n_parameters for m in (a, b, c)) == 6


def test_a_foreign_module_can_be_added_from_either_side(system: System) -> None:
    class Trap(nn.Module):
        cutoff = 0.0

        def forward(self, system: System, pairs: object) -> torch.Tensor:
            return system.positions.square().sum().reshape(1)

    a, trap = laws()[0], Trap()
    pairs = neighbors(system, 4.0)
    expected = a(system, pairs) + trap(system, None)
    torch.testing.assert_close((a + trap)(system, pairs), expected)
    torch.testing.assert_close((trap + a)(system, pairs), expected)
    with torch.no_grad():
        torch.testing.assert_close(energy_forces(a + trap, system, pairs).energy, expected)


def test_a_sum_of_closed_forms_needs_no_backward_pass_through_positions(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, _ = laws()
    pairs = neighbors(system, 5.0)
    expected = energy_forces(a + b, system, pairs)

    def forbidden(*_: object) -> None:
        raise AssertionError("forward of a member was differentiated")

    for law in (a, b):
        monkeypatch.setattr(law, "forward", forbidden)
    with torch.no_grad():
        out = energy_forces(a + b, system, pairs)
    torch.testing.assert_close(out.forces, expected.forces.detach())


def test_a_sum_with_a_network_differentiates_the_network_alone(system: System) -> None:
    a, net = laws()[0], SchNet(4.0, features=8, n_types=2).double()
    mixed, pairs = a + net, neighbors(system, 4.0)
    expected = energy_forces(mixed, system, pairs)
    with torch.no_grad():
        out = energy_forces(mixed, system, pairs)
    torch.testing.assert_close(out.forces, expected.forces.detach())
    torch.testing.assert_close(out.energy, expected.energy.detach())


def test_scaling_and_shifting(system: System) -> None:
    a, pairs = laws()[0], neighbors(system, 4.0)
    torch.testing.assert_close((2.5 * a)(system, pairs), 2.5 * a(system, pairs))
    torch.testing.assert_close(Scaled(a, 0.0)(system, pairs), torch.zeros(1, dtype=torch.float64))
    shifted = Shifted(a, [1.0, 10.0])
    torch.testing.assert_close(shifted(system, pairs), a(system, pairs) + 4 * 1.0 + 4 * 10.0)


def test_a_frozen_copy_does_not_learn_and_does_not_follow_the_original(system: System) -> None:
    a, pairs = laws()[0], neighbors(system, 4.0)
    frozen = Frozen(a)
    before = frozen(system, pairs)
    assert frozen.n_parameters == 0
    assert not before.requires_grad
    with torch.no_grad():
        a.epsilon.value.mul_(2.0)
    torch.testing.assert_close(frozen(system, pairs), before)
    assert a.epsilon.value.requires_grad
    assert energy_forces(frozen, system, pairs).forces.abs().max() > 0


def test_an_ensemble_gives_its_mean_and_its_members(system: System) -> None:
    nets = []
    for seed in range(3):
        torch.manual_seed(seed)
        nets.append(SchNet(4.0, features=8, n_types=2).double())
    ensemble, pairs = Ensemble(*nets), neighbors(system, 4.0)
    energies = ensemble.energies(system, pairs)
    assert energies.shape == (3, 1)
    assert float(energies.detach().std()) > 0
    torch.testing.assert_close(ensemble(system, pairs), energies.mean(0))


def test_nothing_cannot_be_added_up() -> None:
    for empty in (Sum, Ensemble):
        with pytest.raises(ValueError, match="at least one"):
            empty()
    with pytest.raises(TypeError):
        laws()[0] + 3  # type: ignore[operator]
    with pytest.raises(NotImplementedError):
        Potential()(System.single(torch.zeros(1, 3)), None)
