"""Systems per second of many systems of unequal size: one by one, and packed into batches by several limits of memory.

python benchmarks/autobatching.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from record import record

from mlmd.batching import Autobatcher, BatchLog, MemoryModel
from mlmd.forces import energy_forces
from mlmd.neighbors import neighbors
from mlmd.nn.schnet import SchNet
from mlmd.nn.tabulated import TabulatedSchNet
from mlmd.system import System

COUNT, REPEATS = 200, 5


def crowd() -> list[System]:
    """Clusters of 5 to 60 atoms at the density of a liquid."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(5, 61, (COUNT,), generator=generator).tolist()
    return [System.single((n / 0.05) ** (1 / 3) * torch.rand(n, 3, generator=generator), types=[6] * n) for n in sizes]


def median_cpu_seconds(work: Callable[[], object]) -> float:
    """Of five calls after one to warm up."""
    work()
    times = []
    for _ in range(REPEATS):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return statistics.median(times)


def one_by_one(potential: Any, systems: list[System]) -> None:
    """A list and an evaluation for every system."""
    with torch.no_grad():
        for system in systems:
            energy_forces(potential, system, neighbors(system, potential.cutoff))


def rows_of(name: str, potential: Any, systems: list[System]) -> list[dict[str, Any]]:
    """The lines of one potential."""
    largest = max(systems, key=len)
    memory = MemoryModel.probe(potential, [min(systems, key=len), systems[0], largest])
    single = median_cpu_seconds(lambda: one_by_one(potential, systems))
    rows: list[dict[str, Any]] = [{"potential": name, "limit, MB": "one by one", "batches": COUNT, "systems/s": COUNT / single}]
    for limit in (4e6, 16e6, 64e6):
        logs: list[BatchLog] = []
        batcher = Autobatcher(potential, limit, memory, logs.append)
        seconds = median_cpu_seconds(lambda b=batcher, kept=logs: (kept.clear(), list(b.evaluate(systems))))
        fill = sum(log.expected for log in logs) / limit / len(logs)
        line = {"potential": name, "limit, MB": f"{limit / 1e6:.0f}", "batches": len(logs), "systems/s": COUNT / seconds}
        rows.append({**line, "ratio": single / seconds, "memory used": f"{fill:.0%}"})
    rows[0] |= {"ratio": 1.0, "memory used": None, "bytes per atom": memory.per_particle, "bytes per pair": memory.per_pair}
    return rows


def main() -> None:
    """Measure and write the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    systems, net = crowd(), SchNet(5.0, 64)
    rows = rows_of("SchNet-64", net, systems) + rows_of("SchNet-64, tabulated", TabulatedSchNet(net), systems)
    notes = (
        f"{COUNT} clusters of 5 to 60 atoms, energy and forces, lists included, float32, one thread, CPU time, median of {REPEATS}. "
        "'memory used': expected bytes of a batch over the limit, mean. 'bytes per atom, per pair': measured by probing."
    )
    record("autobatching", rows, "python benchmarks/autobatching.py", notes)


if __name__ == "__main__":
    main()
