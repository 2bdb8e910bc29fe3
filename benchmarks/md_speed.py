"""Speed of coarse-grained MD of many replicas of one small molecule: 300 replicas of the 6-bead alanine dipeptide on one core.

    python benchmarks/md_speed.py

The potentials are those that the report trains (prior and network on internal coordinates), and message passing on the same beads.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from record import record

from mlmd import datasets, units
from mlmd.cg.force_matching import batch_of
from mlmd.cg.study import Settings, Study, combined
from mlmd.md import Langevin, rest, simulate, thermal_velocities

REPLICAS = 300


def trained_beads(potential: str, width: int, depth: int, folder: str) -> Study:
    """Map and prior as in the report; the network is not trained, since its speed does not depend on that."""
    settings = replace(Settings(), potential=potential, width=width, depth=depth, train_steps=0, replicas=20, simulate_ps=1.0)
    study = Study(datasets.load("alanine-dipeptide")[slice(0, 20_000, 20)], settings, folder)
    for stage in (study.learn_mapping, study.fit_priors):
        deque(stage(), maxlen=0)
    return study


def cpu_seconds_per_step(study: Study, steps: int, repeats: int) -> float:
    """Median over repeats of the CPU time of a step."""
    torch.manual_seed(0)
    network = study._network()
    potential = study.potential if network is None else combined(study.potential, network)
    system = batch_of(study.beads, torch.arange(REPLICAS))
    integrator = Langevin(4.0, study.kT, 5 / units.ps)
    state = rest(system, thermal_velocities(system, study.kT))
    (state,) = simulate(state, potential, integrator, max(2, steps // 10), every=steps)
    times = []
    for _ in range(repeats):
        began = time.process_time()
        (state,) = simulate(state, potential, integrator, steps, every=steps)
        times.append((time.process_time() - began) / steps)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for potential, width, depth, steps in (("prior", 1, 1, 400), ("invariant", 128, 3, 400), ("invariant", 64, 2, 400), ("schnet", 64, 3, 10), ("painn", 64, 3, 10)):  # fmt: skip
        with TemporaryDirectory() as folder:
            study = trained_beads(potential, width, depth, str(Path(folder)))
            seconds = cpu_seconds_per_step(study, steps, args.repeats)
        shape = "-" if potential == "prior" else f"{depth} x {width}"
        rows.append({"potential": potential, "network": shape, "ms/step": seconds * 1e3, "replica-steps/s": REPLICAS / seconds})
        print(rows[-1], flush=True)
    notes = f"{REPLICAS} replicas x 6 beads, BAOAB, float32, one thread; median of {args.repeats} by CPU time; 'network': layers x width."
    record("md-speed", rows, "python benchmarks/md_speed.py", notes)


if __name__ == "__main__":
    main()
