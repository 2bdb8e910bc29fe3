"""System: construction, batches, selection, and the doors that refuse what cannot be."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmd.forces import energy_forces
from mlmd.neighbors import neighbors
from mlmd.potentials.compose import Potential
from mlmd.potentials.pair import LennardJones
from mlmd.system import System


def molecule(n: int = 4, seed: int = 0, **kwargs: object) -> System:
    x = torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return System.single(x, types=range(n), masses=torch.arange(1.0, n + 1), **kwargs)


def test_a_single_system_takes_what_it_is_given_and_defaults_to_an_open_one() -> None:
    s = System.single(np.zeros((3, 3), dtype=np.float32))
    assert s.positions.dtype == torch.float32
    assert (s.n_systems, len(s), s.size, s.periodic) == (1, 3, 3, False)
    assert System.single([[0, 0, 0], [1, 1, 1]]).positions.is_floating_point()
    for cell in (5.0, [5.0, 5.0, 5.0], np.eye(3) * 5):
        box = molecule(cell=cell)
        assert box.periodic
        assert torch.equal(box.cell[0], 5 * torch.eye(3, dtype=torch.float64))
    assert molecule(cell=5.0, pbc=[True, False, True]).pbc.tolist() == [[True, False, True]]


def test_systems_cannot_be_modified() -> None:
    with pytest.raises(FrozenInstanceError):
        molecule().positions = torch.zeros(4, 3)  # type: ignore[misc]


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5), order=st.randoms(use_true_random=False))
def test_selecting_from_a_stack_gives_back_its_parts_in_any_order(sizes: list[int], order: object) -> None:
    parts = [molecule(n, seed=k, charges=torch.full((n,), float(k))) for k, n in enumerate(sizes)]
    chosen = [order.randrange(len(parts)) for _ in range(3)]  # type: ignore[attr-defined]
    taken = System.stack(parts).select(chosen)
    expected = System.stack([parts[k] for k in chosen])
    for name in ("positions", "types", "masses", "cell", "pbc", "batch", "charges"):
        assert torch.equal(getattr(taken, name), getattr(expected, name)), name
    assert taken.size == expected.size


def test_sizes_are_known_only_where_all_systems_are_equally_large() -> None:
    assert System.stack([molecule(3), molecule(3)]).size == 3
    unequal = System.stack([molecule(3), molecule(4)])
    assert unequal.size is None
    assert unequal.select([1]).size == 4
    with pytest.raises(ValueError, match="equal size"):
        unequal.dense()


def test_snapshots_become_a_batch_that_keeps_the_graph() -> None:
    frames = torch.randn(5, 4, 3, dtype=torch.float64, requires_grad=True)
    batch = molecule(cell=9.0).at(frames)
    assert batch.n_systems == 5
    assert torch.equal(batch.dense(), frames)
    batch.positions.sum().backward()
    assert frames.grad is not None


def test_replicas_are_independent_copies() -> None:
    r = molecule().replicate(3)
    assert r.batch.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert torch.equal(r.dense()[2], molecule().positions)


def test_moving_to_another_precision_changes_floats_alone() -> None:
    s = molecule(cell=5.0).to(torch.float32)
    assert (s.positions.dtype, s.cell.dtype, s.masses.dtype) == (torch.float32,) * 3
    assert (s.types.dtype, s.pbc.dtype) == (torch.long, torch.bool)
    assert molecule().at(torch.zeros(4, 3)).masses.dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(positions=torch.zeros(4, 2)), "expected \\(N, 3\\)"),
        (dict(positions=torch.zeros(4, 3), types=[0, 1]), "types has shape"),
        (dict(positions=torch.zeros(4, 3), masses=torch.ones(5)), "masses has shape"),
        (dict(positions=torch.zeros(4, 3), charges=torch.ones(3)), "charges has shape"),
        (dict(positions=torch.zeros(4, 3), types=[0, 1, -1, 2]), "not be negative"),
        (dict(positions=torch.zeros(4, 3), masses=[1.0, 1.0, float("nan"), 1.0]), "not be negative"),
        (dict(positions=torch.zeros(4, 3), cell=[1.0, 2.0]), "cell has shape"),
        (dict(positions=torch.zeros(4, 3), cell=float("nan")), "not finite"),
        (dict(positions=torch.zeros(4, 3), cell=0.0), "zero volume"),
        (dict(positions=torch.zeros(4, 3), pbc=True), "zero volume"),
    ],
)
def test_what_cannot_be_is_refused_by_name(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        System.single(**arguments)


def test_batches_refuse_what_does_not_fit() -> None:
    s, charged = molecule(), molecule(charges=torch.ones(4))
    with pytest.raises(ValueError, match="systems is empty"):
        System.stack([])
    with pytest.raises(ValueError, match="some have none"):
        System.stack([s, charged])
    with pytest.raises(ValueError, match="at least one copy"):
        s.replicate(0)
    with pytest.raises(ValueError, match="choose at least one"):
        s.select([])
    with pytest.raises(ValueError, match="choose at least one"):
        s.select([1])
    with pytest.raises(ValueError, match=r"expected \(\.\.\., 4, 3\)"):
        s.at(torch.zeros(2, 5, 3))
    with pytest.raises(ValueError, match="single system"):
        s.replicate(2).at(torch.zeros(3, 8, 3, dtype=torch.float64))


class Constant(Potential):
    """An energy that depends on nothing."""

    def forward(self, system: System, pairs: object) -> torch.Tensor:
        return system.positions.new_ones(system.n_systems)


@pytest.mark.parametrize("stress", [False, True])
def test_a_constant_energy_has_no_forces_and_no_stress(stress: bool) -> None:
    out = energy_forces(Constant(), molecule(cell=5.0), stress=stress)
    assert float(out.forces.abs().max()) == 0.0
    assert out.stress is None or float(out.stress.abs().max()) == 0.0


def test_forces_keep_a_graph_exactly_if_gradients_are_enabled() -> None:
    s, law = molecule(), LennardJones(0.1, 1.0, 3.0)
    pairs = neighbors(s, 3.0)
    assert energy_forces(law, s, pairs).forces.requires_grad
    with torch.no_grad():
        assert not energy_forces(law, s, pairs).forces.requires_grad


def test_gradients_flow_through_positions_that_carry_a_graph() -> None:
    law, start = LennardJones(0.1, 1.0, 3.0), molecule()
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    moved = start.at(start.positions * scale)
    (slope,) = torch.autograd.grad(energy_forces(law, moved, neighbors(start, 3.0)).forces.square().sum(), scale)
    h = 1e-6
    up, down = (
        energy_forces(law, start.at(start.positions * f), neighbors(start, 3.0)).forces.square().sum().item()
        for f in (1 + h, 1 - h)
    )
    assert float(slope) == pytest.approx((up - down) / (2 * h), rel=1e-5)


def test_the_stress_of_an_open_system_is_refused() -> None:
    with pytest.raises(ValueError, match="open system has no stress"):
        energy_forces(LennardJones(0.1, 1.0, 3.0), molecule(), neighbors(molecule(), 3.0), stress=True)
