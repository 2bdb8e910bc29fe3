"""Many systems of unequal size through one potential, in batches that fit into memory.

What an evaluation allocates grows linearly with particles and pairs. The two slopes are measured once by probing, the systems are
packed into batches below the limit, and the results come back in the order of the systems.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from scipy.optimize import nnls
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mlmd.forces import Evaluation, Potential, energy_forces
from mlmd.neighbors import neighbors
from mlmd.neighbors.pairs import Pairs
from mlmd.system import System

WINDOW = 1000  # systems that are packed together; bounds what is held of lists and results


class _Storages(TorchDispatchMode):
    """Bytes in storages made while it is active, now and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self.alive: dict[Any, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for t in tree_leaves(out):
            if isinstance(t, Tensor) and t.untyped_storage()._cdata not in given:
                self._born(t.untyped_storage())
        self.peak = max(self.peak, self.now)
        return out

    def _born(self, storage: Any) -> None:
        ref = weakref.ref(storage, self._gone)
        if ref not in self.alive:
            self.alive[ref] = storage.nbytes()
            self.now += storage.nbytes()

    def _gone(self, ref: Any) -> None:
        self.now -= self.alive.pop(ref)


def peak_bytes(work: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Largest number of bytes in tensors that exist at one time because of a call of ``work``, its result included.

    On a CPU every tensor made is followed until it is freed, which costs some 20 microseconds per operation; scratch space inside
    of single operations is not seen. On a GPU the allocator is asked, after one call to warm up.
    """
    device = torch.device(device)
    if device.type == "cuda":
        work()
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with _Storages() as storages:
        kept = work()
        del kept
    return storages.peak


@dataclass(frozen=True)
class MemoryModel:
    r"""Bytes of one evaluation of a batch, :math:`b=b_0+b_Nn_{particles}+b_Pn_{pairs}` with pairs counted in both directions."""

    fixed: float
    per_particle: float
    per_pair: float

    def bytes(self, particles: int, pairs: int) -> float:
        """Bytes of a batch of so many particles and directed pairs."""
        return self.fixed + self.per_particle * particles + self.per_pair * pairs

    @staticmethod
    def probe(potential: Potential, systems: Sequence[System]) -> MemoryModel:
        """Least squares with slopes that are not negative, from the peak of each of ``systems`` alone and of two copies of it.

        Particles and pairs are told apart only by systems of different density; of one kind of system the fit holds for that kind.

        Raises:
            ValueError: if ``systems`` is empty.
        """
        if not systems:
            raise ValueError("systems is empty: give at least one System to probe the memory with")
        rows, measured = [], []
        for system in systems:
            for batch in (system, System.stack([system, system])):
                pairs = _list(potential, batch)
                rows.append([1.0, float(len(batch)), 0.0 if pairs is None else float(len(pairs))])
                measured.append(float(peak_bytes(lambda b=batch, p=pairs: _evaluate(potential, b, p), batch.positions.device)))
        table = torch.tensor(rows, dtype=torch.float64)
        scale = table.amax(0).clamp(min=1.0)
        weight = 1.0 / torch.tensor(measured, dtype=torch.float64).clamp(min=1.0)  # equal relative errors
        solution, _ = nnls((table / scale * weight[:, None]).numpy(), (torch.ones(len(rows), dtype=torch.float64)).numpy())
        return MemoryModel(*(torch.from_numpy(solution) / scale).tolist())


def pack(costs: Sequence[float], limit: float) -> list[list[int]]:
    """Indices in bins whose costs sum to at most ``limit``: first fit in order of decreasing cost.

    It needs at most 11/9 of the smallest possible number of bins, plus 6/9 (Dosa, Lect. Notes Comput. Sci. 4614, 1 (2007)).

    Raises:
        ValueError: if one cost alone exceeds the limit, or the limit is not positive.
    """
    if not limit > 0:
        raise ValueError(f"limit={limit}: must be positive")
    bins: list[list[int]] = []
    room: list[float] = []
    for k in sorted(range(len(costs)), key=lambda k: -costs[k]):
        if not costs[k] <= limit:
            raise ValueError(f"costs[{k}]={costs[k]:.4g} exceeds the limit {limit:.4g}: it fits into no batch")
        place = next((b for b, free in enumerate(room) if costs[k] <= free), None)
        if place is None:
            bins.append([])
            room.append(limit)
            place = len(bins) - 1
        bins[place].append(k)
        room[place] -= costs[k]
    return bins


@dataclass(frozen=True)
class BatchLog:
    """One batch done: its systems, particles and directed pairs, the bytes expected, the seconds it took."""

    systems: int
    particles: int
    pairs: int
    expected: float
    seconds: float

    @property
    def systems_per_second(self) -> float:
        """Rate of the evaluation alone, lists not included."""
        return self.systems / self.seconds if self.seconds > 0 else float("inf")


@dataclass(frozen=True, eq=False)
class Autobatcher:
    """Evaluates systems of unequal size in batches that stay below a limit of memory.

    Args:
        potential: energy function; without ``cutoff`` it gets no pairs.
        limit: bytes that an evaluation may allocate, beyond parameters, lists and results.
        memory: cost of a batch (:meth:`MemoryModel.probe`).
        log: called after every batch.
    """

    potential: Potential
    limit: float
    memory: MemoryModel
    log: Callable[[BatchLog], object] | None = None

    @staticmethod
    def probed(
        potential: Potential, limit: float, systems: Sequence[System], log: Callable[[BatchLog], object] | None = None
    ) -> Autobatcher:
        """With the memory measured on the smallest, the middle and the largest of ``systems``."""
        order = sorted(systems, key=len)
        chosen = {id(s): s for s in (order[0], order[len(order) // 2], order[-1])} if order else {}
        return Autobatcher(potential, limit, MemoryModel.probe(potential, list(chosen.values())), log)

    def evaluate(self, systems: Iterable[System]) -> Iterator[Evaluation]:
        """Energy (1,) and forces (n, 3) of every system, in the order given; read in windows of 1000, so a generator will do.

        A batch that a GPU has no memory for is halved and tried again.

        Raises:
            ValueError: if ``systems`` is empty, if an entry holds several systems or needs more than the limit alone.
            torch.OutOfMemoryError: if there is no memory even for a single system.
        """
        source, first = iter(systems), 0
        while window := list(islice(source, WINDOW)):
            yield from self._window(window, first)
            first += len(window)
        if not first:
            raise ValueError("systems is empty: give at least one System")

    def _window(self, systems: list[System], first: int) -> list[Evaluation]:
        lists = [self._pairs(s, first + k) for k, s in enumerate(systems)]
        costs = [self.memory.bytes(len(s), _count(p)) - self.memory.fixed for s, p in zip(systems, lists, strict=True)]
        room = self.limit - self.memory.fixed
        large = [k for k, c in enumerate(costs) if c > room]
        if large:
            k = large[0]
            need = costs[k] + self.memory.fixed
            raise ValueError(
                f"limit={self.limit:.4g} bytes: systems[{first + k}] with {len(systems[k])} particles and {_count(lists[k])} pairs "
                f"needs {need:.4g} alone; raise the limit"
            )
        done: list[Evaluation | None] = [None] * len(systems)
        for batch in pack(costs, max(room, torch.finfo(torch.float64).tiny)):
            for k, out in zip(batch, self._batch([systems[k] for k in batch], [lists[k] for k in batch]), strict=True):
                done[k] = out
        return [out for out in done if out is not None]

    def _pairs(self, system: System, number: int) -> Pairs | None:
        if system.n_systems != 1:
            raise ValueError(f"systems[{number}] holds {system.n_systems} systems: give them one by one, batch.select([k])")
        return _list(self.potential, system)

    def _batch(self, systems: list[System], lists: list[Pairs | None]) -> list[Evaluation]:
        began = time.perf_counter()
        try:
            batch, pairs = System.stack(systems), _joined(systems, lists)
            out = _evaluate(self.potential, batch, pairs)
        except torch.OutOfMemoryError:
            if len(systems) == 1:
                raise
            torch.cuda.empty_cache()
            half = len(systems) // 2
            return self._batch(systems[:half], lists[:half]) + self._batch(systems[half:], lists[half:])
        if batch.positions.is_cuda:
            torch.cuda.synchronize(batch.positions.device)
        seconds = time.perf_counter() - began
        if self.log is not None:
            expected = self.memory.bytes(len(batch), _count(pairs))
            self.log(BatchLog(len(systems), len(batch), _count(pairs), expected, seconds))
        forces = out.forces.split([len(s) for s in systems])
        return [Evaluation(e, f) for e, f in zip(out.energy.split(1), forces, strict=True)]


def _evaluate(potential: Potential, system: System, pairs: Pairs | None) -> Evaluation:
    with torch.no_grad():
        return energy_forces(potential, system, pairs)


def _list(potential: Potential, system: System) -> Pairs | None:
    return neighbors(system, potential.cutoff) if potential.cutoff > 0 else None


def _count(pairs: Pairs | None) -> int:
    return 0 if pairs is None else len(pairs)


def _joined(systems: list[System], lists: list[Pairs | None]) -> Pairs | None:
    """The lists of single systems as the list of their batch."""
    index, shift, first = [], [], 0
    for system, pairs in zip(systems, lists, strict=True):
        if pairs is None:
            return None
        index.append(pairs.index + first)
        shift.append(pairs.shift)
        first += len(system)
    return Pairs(torch.cat(index, 1), torch.cat(shift))
