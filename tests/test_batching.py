"""Autobatching: what comes out is what single evaluations give, in order, within the memory asked for."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlmd.batching import WINDOW, Autobatcher, BatchLog, MemoryModel, pack, peak_bytes
from mlmd.forces import energy_forces
from mlmd.neighbors import neighbors
from mlmd.nn.schnet import SchNet
from mlmd.potentials.pair import LennardJones
from mlmd.system import System


def cluster(n: int, seed: int = 0, spread: float = 1.5) -> System:
    generator = torch.Generator().manual_seed(100 * n + seed)
    return System.single(spread * n ** (1 / 3) * torch.randn(n, 3, generator=generator), types=torch.arange(n) % 3)


def crowd(count: int = 40) -> list[System]:
    sizes = torch.randint(2, 40, (count,), generator=torch.Generator().manual_seed(3)).tolist()
    return [cluster(n, seed) for seed, n in enumerate(sizes)]


def net() -> SchNet:
    torch.manual_seed(0)
    return SchNet(4.0, features=16, n_types=3)


def test_results_are_those_of_single_evaluations_in_the_order_given() -> None:
    potential, systems = net(), crowd()
    logs: list[BatchLog] = []
    batcher = Autobatcher.probed(potential, 5e5, systems, logs.append)
    results = list(batcher.evaluate(iter(systems)))
    assert 1 < len(logs) < len(systems) and sum(log.systems for log in logs) == len(results) == len(systems)
    for system, out in zip(systems, results, strict=True):
        alone = energy_forces(potential, system, neighbors(system, 4.0))
        torch.testing.assert_close(out.energy, alone.energy.detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(out.forces, alone.forces.detach(), rtol=1e-4, atol=1e-5)


def test_the_peak_of_known_tensors_is_their_size() -> None:
    def work() -> None:
        a = torch.empty(1000, 100)  # 0.4 MB
        b = a + a  # 0.8 MB
        a = b * 2  # 1.2 MB while the old a exists
        view = a.reshape(-1)[:500]
        view += 1.0
        del a, view
        torch.empty(50, 1000)

    assert peak_bytes(work) == 1_200_000


def test_what_autograd_keeps_for_the_backward_pass_counts() -> None:
    x = torch.ones(1000, 100, requires_grad=True)
    kept = peak_bytes(lambda: x.exp().exp().exp())
    with torch.no_grad():
        freed = peak_bytes(lambda: x.exp().exp().exp())
    assert (kept, freed) == (1_200_000, 800_000)


@cache
def model() -> MemoryModel:
    return MemoryModel.probe(net(), [cluster(8), cluster(30), cluster(30, spread=0.9)])


@pytest.mark.parametrize("spread", [0.9, 1.2, 2.0])
def test_the_memory_of_other_systems_is_predicted_by_a_few_probes(spread: float) -> None:
    system = System.stack([cluster(25, seed, spread) for seed in range(20)])
    pairs = neighbors(system, 4.0)
    potential = net()

    def work() -> object:
        with torch.no_grad():
            return energy_forces(potential, system, pairs)

    assert peak_bytes(work) == pytest.approx(model().bytes(len(system), len(pairs)), rel=0.05)


@pytest.mark.parametrize("limit", [1e6, 3e6])
def test_no_batch_allocates_more_than_the_limit(limit: float) -> None:
    peaks = []

    class Watched:
        cutoff = 4.0

        def analytic(self, system: System, pairs: object) -> tuple[torch.Tensor, torch.Tensor]:
            out = []
            peaks.append(peak_bytes(lambda: out.append(energy_forces(potential, system, pairs))))  # type: ignore[arg-type]
            return out[0].energy, out[0].forces

    potential = net()
    list(Autobatcher(Watched(), limit, model()).evaluate(crowd()))  # type: ignore[arg-type]
    assert 0.5 * limit < max(peaks) <= 1.05 * limit


def fewest_bins(costs: list[int], limit: int) -> int:
    """By trying: the smallest number of bins that hold all."""

    def fits(rest: tuple[int, ...], room: tuple[int, ...]) -> bool:
        if not rest:
            return True
        tried = set()
        for k, free in enumerate(room):
            if free >= rest[0] and free not in tried:
                tried.add(free)
                if fits(rest[1:], tuple(sorted((*room[:k], free - rest[0], *room[k + 1 :])))):
                    return True
        return False

    ordered = tuple(sorted(costs, reverse=True))
    return next(n for n in range(1, len(costs) + 1) if fits(ordered, (limit,) * n))


@given(st.lists(st.integers(1, 10), min_size=1, max_size=9))
def test_packing_holds_everything_once_within_the_limit_and_near_the_fewest_bins(costs: list[int]) -> None:
    bins = pack(costs, 10)
    assert sorted(k for b in bins for k in b) == list(range(len(costs)))
    assert all(sum(costs[k] for k in b) <= 10 for b in bins)
    assert len(bins) <= 11 / 9 * fewest_bins(costs, 10) + 6 / 9


def test_a_batch_without_memory_is_halved_until_it_fits() -> None:
    law, seen = LennardJones(0.1, 1.5, 4.0), []

    class Small:
        cutoff = 4.0

        def analytic(self, system: System, pairs: object) -> tuple[torch.Tensor, torch.Tensor]:
            if system.n_systems > 3:
                raise torch.OutOfMemoryError("full")
            seen.append(system.n_systems)
            return law.analytic(system, pairs)  # type: ignore[arg-type]

    systems = crowd(10)
    results = list(Autobatcher(Small(), 1e9, MemoryModel(0.0, 1.0, 1.0)).evaluate(systems))  # type: ignore[arg-type]
    assert max(seen) <= 3 and sum(seen) == 10
    for system, out in zip(systems, results, strict=True):
        torch.testing.assert_close(out.forces, law.analytic(system, neighbors(system, 4.0))[1])


def test_more_systems_than_a_window_come_back_in_order_and_are_read_as_they_are_needed() -> None:
    law, read = LennardJones(0.1, 1.0, 3.0), []

    def dimers():
        for k in range(WINDOW + 20):
            read.append(k)
            yield System.single([[0.0, 0, 0], [1.0 + k / WINDOW, 0, 0]])

    results = Autobatcher(law, 1e7, MemoryModel(0.0, 100.0, 100.0)).evaluate(dimers())
    energies = [float(next(results).energy)]
    assert len(read) == WINDOW
    energies += [float(out.energy) for out in results]
    r = 1.0 + torch.arange(WINDOW + 20) / WINDOW
    expected = law.value(r, torch.zeros(len(r), dtype=torch.long), torch.zeros(len(r), dtype=torch.long))
    torch.testing.assert_close(torch.tensor(energies), expected)


def test_what_cannot_be_done_is_refused_by_name() -> None:
    law, one = LennardJones(0.1, 1.5, 4.0), MemoryModel(10.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="systems is empty"):
        list(Autobatcher(law, 1e6, one).evaluate([]))
    with pytest.raises(ValueError, match="systems is empty"):
        Autobatcher.probed(law, 1e6, [])
    with pytest.raises(ValueError, match=r"systems\[1\] with 30 particles .* needs .* alone"):
        list(Autobatcher(law, 40.0, one).evaluate([cluster(2), cluster(30)]))
    with pytest.raises(ValueError, match=r"systems\[0\] holds 2 systems"):
        list(Autobatcher(law, 1e6, one).evaluate([cluster(4).replicate(2)]))
    with pytest.raises(ValueError, match="limit=0"):
        pack([1.0], 0)
    with pytest.raises(ValueError, match=r"costs\[0\]"):
        pack([2.0], 1.0)
