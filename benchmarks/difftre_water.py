"""One-bead water from experiment by differentiable reweighting: g(r), angle distribution and pressure; cost per update.

    python benchmarks/difftre_water.py

System, targets and settings of Thaler and Zavadlav, Nat. Commun. 12, 6884 (2021): 901 beads at 296.15 K, 70 ps per sample of which 10 ps
are left out, a snapshot every 0.1 ps, 300 updates; their network is DimeNet++, here it is SchNet, on the same prior (sigma/r)^12. Data:
tummfm/difftre (Apache-2), looked for in MLMD_SHARED_DATA. An interrupted run is continued from --folder. One process, one thread; times
are of the process. Shorter runs (--updates, --sample, --equilibration) show that it works and what it costs, not what it reaches.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import markdown, record
from torch import Tensor, nn

from mlmd import units
from mlmd.cg.difftre import PressureTarget, Target, difftre
from mlmd.forces import energy_forces
from mlmd.md import Langevin, rest, simulate, thermal_velocities
from mlmd.neighbors import neighbors
from mlmd.nn.schnet import SchNet
from mlmd.nn.tabulated import TabulatedSchNet
from mlmd.observables import SmoothADF, block_mean
from mlmd.observables.smooth_rdf import SmoothRDF
from mlmd.potentials.accelerated import accelerated
from mlmd.potentials.compose import Sum
from mlmd.potentials.pair import SoftSphere
from mlmd.system import System

DATA = Path(os.environ.get("MLMD_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "water"
KT, DT, FRICTION = 296.15 * units.kelvin, 2.0 * units.fs, 1 / units.ps
STRIDE, CUTOFF = 50, 5.0  # steps; A
PRESSURE_UNIT = units.kJ_mol / units.nm**3  # 16.6 bar
PRESSURE = PressureTarget(1.0 * units.bar, 1e-7 / PRESSURE_UNIT**2)


def start_box() -> System:
    """901 beads in a cubic box of 30 A; the distances of the file are those of experimental water."""
    lines = (DATA / "Water_experimental_901.gro").read_text().splitlines()
    x = np.array([[float(line[20 + 8 * k : 28 + 8 * k]) for k in range(3)] for line in lines[2:-1]]) * units.nm
    mass = torch.full((len(x),), 18.0154 * units.amu)
    return System.single(torch.tensor(x, dtype=torch.float32), masses=mass, cell=float(lines[-1].split()[0]) * units.nm)


def targets() -> list[Target]:
    """Experimental g(r) on 300 bins to 10 A and the distribution of angles within 3.18 A on 150 bins."""
    g, angles = SmoothRDF(10.0), SmoothADF(3.18)
    r, g_wanted = np.loadtxt(DATA / "O_O_RDF.csv").T
    theta, p_wanted = np.loadtxt(DATA / "O_O_O_ADF.csv").T
    return [
        Target("g(r)", g, torch.from_numpy(np.interp(g.grid.numpy(), r * units.nm, g_wanted))),
        Target("angles", angles, torch.from_numpy(np.interp(angles.grid.numpy(), theta, p_wanted))),
    ]


def model_of(features: int, seed: int) -> Sum:
    """SchNet with random weights on the prior 1 kJ/mol (3.165 A / r)^12, which stays."""
    torch.manual_seed(seed)
    prior = SoftSphere(1.0 * units.kJ_mol, 3.165, CUTOFF).requires_grad_(False)
    return Sum(SchNet(CUTOFF, features, interactions=2, n_types=1), prior)


def fast(model: nn.Module) -> nn.Module:
    """What is simulated: filters from a table, the prior by a compiled loop."""
    network, prior = model.members  # type: ignore[misc, union-attr]
    return Sum(TabulatedSchNet(network, 0.01), accelerated(prior))


def train(model: Sum, arguments: argparse.Namespace) -> list[dict[str, float]]:
    """Logs of the updates, each with its process time in seconds."""
    run = difftre(
        model, start_box(), targets(), kT=KT, dt=DT, friction=FRICTION, pressure=PRESSURE, updates=arguments.updates, chunk=10,
        steps=round(arguments.sample * units.ps / DT), stride=STRIDE, equilibration=round(arguments.equilibration * units.ps / DT),
        engine=fast, least=arguments.least, seed=arguments.seed, checkpoint=arguments.folder,
    )  # fmt: skip
    logs, before = [], time.process_time()
    for log in run:
        logs.append({**log, "seconds": time.process_time() - before})
        print({name: float(f"{value:.4g}") for name, value in logs[-1].items()}, flush=True)
        before = time.process_time()
    return logs


def long_run(model: Sum, picoseconds: float, seed: int) -> tuple[dict[str, float], tuple[float, float]]:
    """Mean square deviations from the targets, and pressure with its error in bar, of a run of its own."""
    system, noise = start_box(), torch.Generator().manual_seed(seed + 1)
    state = rest(system, thermal_velocities(system, KT, noise))
    steps = round(picoseconds * units.ps / DT)
    wanted, measured, pressure = targets(), list[list[Tensor]](), list[float]()
    for now in simulate(state, fast(model), Langevin(DT, KT, FRICTION), steps, every=STRIDE, generator=noise):
        measured.append([t.observable(now.system)[0] for t in wanted])
        pressure.append(virial_pressure(model, now.system))
    late = len(pressure) // 7  # as in the samples, the first seventh is left out
    means = [torch.stack(column[late:]).mean(0) for column in zip(*measured, strict=True)]
    deviations = {t.name: float((m - t.value).square().mean()) for t, m in zip(wanted, means, strict=True)}
    mean, error = block_mean(np.array(pressure[late:]))
    return deviations, (mean / units.bar, error / units.bar)


def virial_pressure(model: nn.Module, system: System) -> float:
    """N kT / V - tr(stress) / 3, in eV/A^3."""
    with torch.no_grad():
        stress: Any = energy_forces(model, system, neighbors(system, CUTOFF), stress=True).stress  # type: ignore[arg-type]
    return len(system) * KT / float(torch.linalg.det(system.cell[0])) - float(stress[0].trace()) / 3


def cost(logs: list[dict[str, float]], resampled: bool) -> str:
    """Median and number of the updates of one kind."""
    seconds = [log["seconds"] for log in logs if bool(log["resampled"]) == resampled]
    return f"{np.median(seconds):.3g} s ({len(seconds)})" if seconds else "- (0)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--sample", type=float, default=60.0, help="ps")
    parser.add_argument("--equilibration", type=float, default=10.0, help="ps before each sample")
    parser.add_argument(
        "--least", type=float, default=0.9, help="effective share below which a new sample is made; 0 prices reuse alone"
    )
    parser.add_argument("--features", type=int, default=32)
    parser.add_argument("--check", type=float, default=700.0, help="ps of the run at the end; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default=None, help="of checkpoints")
    parser.add_argument("--write", action="store_true", help="keep the table in results/")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = model_of(arguments.features, arguments.seed)
    logs = train(model, arguments)
    if not logs:
        parser.error(
            f"--folder {arguments.folder} holds a run of {arguments.updates} updates already: ask for more, or take another folder"
        )
    row: dict[str, Any] = {
        "updates": int(logs[-1]["step"]),
        "sample / ps": arguments.sample,
        "resampled": cost(logs, True),
        "reused": cost(logs, False),
        "loss, first": sum(logs[0][k] for k in ("g(r)", "angles")),
        "loss, last": sum(logs[-1][k] for k in ("g(r)", "angles")),
        "pressure, last / bar": logs[-1]["mean pressure"] / units.bar,
    }
    if arguments.check:
        deviations, (mean, error) = long_run(model, arguments.check, arguments.seed)
        row |= {"loss, long run": sum(deviations.values()), "pressure, long run / bar": f"{mean:.0f} +- {error:.0f}"}
    notes = (
        f"901 beads, SchNet with {arguments.features} features and 2 interactions; cost per update: median process time at one "
        "thread (number of updates). Loss: g(r) and angles. Published for DimeNet++ on a GPU: 476 s resampled, 41 s reused, loss "
        "1.4e-4."
    )
    if arguments.write:
        command = f"python benchmarks/difftre_water.py --updates {arguments.updates} --sample {arguments.sample:g} --least {arguments.least:g}"
        record(
            "difftre_water",
            [row],
            f"{command} --equilibration {arguments.equilibration:g} --check {arguments.check:g} --write",
            notes,
        )
    else:
        print(notes, markdown([row]), sep="\n")


if __name__ == "__main__":
    main()
