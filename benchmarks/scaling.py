"""Cost of a step and memory against the number of beads, 125 to 97 336, on one thread; on a GPU also replicas, compiled and not.

    python benchmarks/scaling.py [--potential NAME] [--sides 10 22 46] [--quick]

Every size runs in a process of its own, so that the largest resident memory of the process belongs to that size.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from record import record

from mlmd import units
from mlmd.md import Langevin, State, rest, simulate, thermal_velocities
from mlmd.nn.schnet import SchNet
from mlmd.nn.tabulated import TabulatedSchNet
from mlmd.potentials.accelerated import accelerated
from mlmd.potentials.pair import LennardJones
from mlmd.system import System

DENSITY = 0.0334  # beads/A^3, that of water
SIDES = (5, 10, 14, 22, 31, 46)
KT = 300 * units.kelvin
POTENTIALS: dict[str, Callable[[], Any]] = {
    "Lennard-Jones": lambda: accelerated(LennardJones(0.0086, 2.8, 7.0)),
    "SchNet-64, tabulated": lambda: TabulatedSchNet(SchNet(5.0, 64)),
    "SchNet-64": lambda: SchNet(5.0, 64),
}
SHORT = {"Lennard-Jones": "lj", "SchNet-64, tabulated": "schnet_tabulated", "SchNet-64": "schnet"}
LARGEST = {"SchNet-64": 22}  # its arrays of the size pairs x features take 0.07 MB per bead


def liquid(side: int, device: str = "cpu") -> System:
    """Beads of 18 g/mol on a slightly shaken cubic lattice, float32."""
    step = DENSITY ** (-1 / 3)
    grid = torch.cartesian_prod(*[torch.arange(side) * step] * 3)
    x = grid + 0.1 * torch.randn(grid.shape, generator=torch.Generator().manual_seed(side))
    return System.single(x, masses=torch.full((side**3,), 18 * units.amu), cell=side * step).to(device)


def stepper(name: str, system: System, compile: bool = False) -> Callable[[int], State]:
    """Advances the system by a number of steps, lists included, from where it was left."""
    torch.manual_seed(0)
    potential, integrator = POTENTIALS[name]().to(system.positions.device), Langevin(2.0, KT, 1 / units.ps)
    state = rest(system, thermal_velocities(system, KT))

    def run(steps: int) -> State:
        nonlocal state
        (state,) = simulate(state, potential, integrator, steps, every=steps, compile=compile)
        return state

    return run


def resident() -> int:
    """Largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str, side: int, budget: float, repeats: int) -> dict[str, Any]:
    """CPU seconds per step (median) and growth of the resident memory; for the process that measures one size."""
    torch.set_num_threads(1)
    stepper(name, liquid(9))(3)  # compiles, imports, fills pools
    before, run = resident(), stepper(name, liquid(side))
    run(2)
    began = time.process_time()
    run(2)
    steps = max(30, int(budget / max(time.process_time() - began, 1e-6) * 2))
    times = []
    for _ in range(repeats):
        began = time.process_time()
        run(steps)
        times.append((time.process_time() - began) / steps)
    return {"beads": side**3, "seconds": statistics.median(times), "bytes": resident() - before, "steps": steps}


def in_own_process(name: str, side: int, budget: float, repeats: int) -> dict[str, Any]:
    """What :func:`measure` gives in a fresh interpreter."""
    command = [sys.executable, __file__, "--one", name, str(side), str(budget), str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return json.loads(done.stdout.splitlines()[-1])


def slope(rows: list[dict[str, Any]], key: str, least: int) -> str:
    """Exponent p of a fit value ~ N^p over all sizes from ``least`` on, with its standard error."""
    chosen = [r for r in rows if r["beads"] >= least and r[key] > 0]
    if len(chosen) < 3:
        return "-"
    x, y = (np.log([r[k] for r in chosen]) for k in ("beads", key))
    fit, covariance = np.polyfit(x, y, 1, cov=True)
    return f"{fit[0]:.3f} +- {np.sqrt(covariance[0, 0]):.3f}"


def per_bead(rows: list[dict[str, Any]]) -> str:
    """Slope of a straight line through memory against N, in kB per bead, with its standard error."""
    fit, covariance = np.polyfit([r["beads"] for r in rows], [r["bytes"] / 1e3 for r in rows], 1, cov=True)
    return f"{fit[0]:.2f} +- {np.sqrt(covariance[0, 0]):.2f}"


def on_gpu() -> list[dict[str, Any]]:
    """Wall time of a step of 64, 1000 and 10 648 beads, 1 and 64 replicas, eager and compiled."""
    rows = []
    for name in POTENTIALS:
        for side in (4, 10, 22):
            for replicas in (1, 64):
                for compile in (False, True):
                    rows.append(gpu_row(name, side, replicas, compile))
                    print(rows[-1], flush=True)
    return rows


def gpu_row(name: str, side: int, replicas: int, compile: bool) -> dict[str, Any]:
    """One line; a failure is written down as such."""
    line: dict[str, Any] = {"potential": name, "beads": side**3, "replicas": replicas, "compiled": compile}
    try:
        run = stepper(name, liquid(side, "cuda").replicate(replicas), compile)
        run(20)
        torch.cuda.synchronize()
        times = []
        for _ in range(5):
            began = time.perf_counter()
            run(50)
            torch.cuda.synchronize()
            times.append((time.perf_counter() - began) / 50)
    except (RuntimeError, ValueError) as error:
        return {**line, "ms/step": None, "MB": None, "remark": type(error).__name__}
    memory = torch.cuda.max_memory_allocated() / 1e6
    torch.cuda.reset_peak_memory_stats()
    return {**line, "ms/step": statistics.median(times) * 1e3, "MB": memory, "remark": ""}


def table_of(name: str, rows: list[dict[str, Any]], command: str) -> None:
    """Write the rows of one potential."""
    table = [
        {
            "potential": name,
            "beads": r["beads"],
            "ms/step": r["seconds"] * 1e3,
            "us/step/bead": r["seconds"] / r["beads"] * 1e6,
            "MB": r["bytes"] / 1e6,
            "kB/bead": r["bytes"] / r["beads"] / 1e3,
        }
        for r in rows
    ]
    largest = sorted(r["beads"] for r in rows)[-3]
    notes = (
        "Langevin steps of 2 fs at the density of water, float32, one thread, CPU time, median of several, neighbour lists (skin "
        "1 A) included. MB: growth of the largest resident memory of a process over that of a run of 729 beads before, so small "
        "sizes show little. Pair laws as users run them on a CPU, accelerated.\n\n"
        f"Fits with standard errors: time ~ N^({slope(rows, 'seconds', 1000)}) from 1000 beads on; memory ~ "
        f"N^({slope(rows, 'bytes', largest)}) over the three largest sizes, {per_bead(rows)} kB per bead by a straight line through all."
    )
    path = record(
        f"scaling_{SHORT[name]}",
        table,
        command,
        f"{notes}\n\n![time and memory against the number of beads](scaling_{SHORT[name]}.svg)",
    )
    plot(name, rows).savefig(path.with_suffix(".svg"))


def plot(name: str, rows: list[dict[str, Any]]) -> Figure:
    """Time of a step and memory against the number of beads, each beside a line of slope 1 through the size nearest to 10 000."""
    n = np.array([r["beads"] for r in rows], float)
    middle = int(np.abs(np.log(n / 1e4)).argmin())
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    for ax, key, unit, label in zip(
        figure.subplots(1, 2), ("seconds", "bytes"), (1e3, 1e-6), ("step / ms", "memory / MB"), strict=True
    ):
        y = np.array([r[key] for r in rows]) * unit
        ax.loglog(n, y, "o", color="#0072B2", label=name)
        ax.loglog(n, y[middle] * n / n[middle], "--", color="#555555", linewidth=1, label="slope 1")
        ax.set(xlabel="beads", ylabel=label)
        ax.legend(frameon=False)
    return figure


def main() -> None:
    """Measure and write a table for every potential."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--potential", choices=list(POTENTIALS), help="this one alone")
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES, help="beads along an edge, at least three sizes")
    parser.add_argument("--quick", action="store_true", help="shorter and fewer repeats")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, side, budget, repeats = args.one
        print(json.dumps(measure(name, int(side), float(budget), int(repeats))))
        return
    for name in [args.potential] if args.potential else POTENTIALS:
        rows = []
        for side in [s for s in args.sides if s <= LARGEST.get(name, max(args.sides))]:
            rows.append(in_own_process(name, side, *((0.1, 3) if args.quick else (0.5, 5))))
            print(name, rows[-1], flush=True)
        table_of(name, rows, shlex.join(["python", "benchmarks/scaling.py", *sys.argv[1:]]))
    if torch.cuda.is_available():
        record("scaling_gpu", on_gpu(), "python benchmarks/scaling.py", "Wall time, median of 5 x 50 steps, lists included.")
    else:
        print("no CUDA device: rows for 64, 1000 and 10 648 beads x 1 and 64 replicas, compiled and not, were not measured")


if __name__ == "__main__":
    main()
