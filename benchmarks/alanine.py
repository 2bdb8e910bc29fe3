"""Alanine dipeptide: force matching and relative entropy, replicas started in one basin, against the reference ensemble.

    python benchmarks/alanine.py --data 6-bead            # reference data of others, 6 beads (C N CA CB C N)
    python benchmarks/alanine.py --data 5-bead            # the same without CB; its forces fail the virial test
    python benchmarks/alanine.py --data learned           # the shipped all-atom data with a learned map of 6 beads

Coordinates of others (Wang et al., ACS Cent. Sci. 2019, doi 10.1021/acscentsci.8b00913; BSD-3) are looked for in MLMD_SHARED_DATA.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from record import record

from mlmd import datasets, units
from mlmd.analysis.compare import compare
from mlmd.analysis.populations import ALPHA_R, PHI_POSITIVE, Region, population_difference
from mlmd.cg.study import Settings, Study
from mlmd.frames import Frames, bead_topology
from mlmd.observables.coordinates import Coordinate

SAID = ("updates", "rate", "simulate_ps", "sample_ps", "rungs")  # options that the recorded command names where they were given
DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "data"
BEADS = {
    "6-bead": (
        "cgnet_ala2_cacb",
        ["C", "N", "CA", "CB", "C", "N"],
        [(0, 1), (1, 2), (2, 3), (2, 4), (4, 5)],
        ((0, 1, 2, 4), (1, 2, 4, 5)),
    ),
    "5-bead": ("cgnet_ala2", ["C", "N", "CA", "C", "N"], [(0, 1), (1, 2), (2, 3), (3, 4)], ((0, 1, 2, 3), (1, 2, 3, 4))),
}

# With the learned map of 6 beads (CH3 | CONH | CA | CB | CONH | CH3) the sign of the first bead dihedral is opposite to that of phi; these
# regions agree with the atomistic ones in 99.2 % (alpha_R) and 99.7 % (phi > 0) of the reference frames.
REGIONS = {
    "learned": [Region("alpha_R", ((0.0, np.pi), (-2.1, 0.9))), Region("phi > 0", ((-np.pi, 0.0), None))],
    "6-bead": [ALPHA_R, PHI_POSITIVE],
    "5-bead": [ALPHA_R, PHI_POSITIVE],
}


def bead_frames(name: str) -> Frames:
    """The published bead coordinates (A) and forces (kcal/mol/A) at 300 K."""
    stem, names, bonds, _ = BEADS[name]
    folder = Path(os.environ.get("MLMD_SHARED_DATA", DEFAULT)) / "ala2"
    x, f = (torch.from_numpy(np.load(folder / f"{stem}_{part}.npy")) for part in ("coordinates", "forces"))
    masses = torch.tensor([12.011 if n[0] == "C" else 14.007 for n in names]) * units.amu
    kT = 300 * units.kelvin
    return Frames(x, bead_topology(names, bonds), forces=f * units.kcal_mol, masses=masses, types=torch.arange(len(names)), kT=kT)


def study_of(data: str, settings: Settings, folder: str) -> tuple[Study, tuple[Coordinate, Coordinate]]:
    """A finished study and the two coordinates that stand for (phi, psi)."""
    if data == "learned":
        study, cvs = Study(datasets.load("alanine-dipeptide"), settings, folder), None
    else:
        from dataclasses import replace

        study = Study(bead_frames(data), replace(settings, mapping="identity"), folder)
        cvs = tuple(Coordinate("dihedral", q, n) for q, n in zip(BEADS[data][3], ("phi", "psi")))
    for _ in study.run():
        pass
    return study, cvs or study.cvs  # type: ignore[return-value]


def row(data: str, settings: Settings, kept: str | None = None) -> dict:
    """One line of the table; finished stages are taken from the folder ``kept``, if one is given."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        study, cvs = study_of(data, settings, kept or folder)
    seconds = time.process_time() - began
    solved = [log for log in study.history.get("moments", []) if "effective share" in log]
    result = compare(
        study.beads,
        study.samples,
        kT=study.kT,
        cvs=cvs,
        regions=REGIONS[data],
        discard=settings.discard,
        seed=settings.seed,
    )
    s = result.surface
    (alpha_ref, alpha), (left_ref, left) = s.populations
    d_alpha, e_alpha = population_difference(alpha, alpha_ref)
    d_left, e_left = population_difference(left, left_ref)
    left_region = REGIONS[data][1]
    tenths = [[np.asarray(cv(part.flatten(0, 1).double())) for cv in cvs] for part in study.samples.tensor_split(10)]
    shares = [left_region.contains(*values).mean() for values in tenths]
    report = study.forces
    worst = min(result.overlays, key=lambda o: o.overlap)
    forgotten = study.comparison.surface.start
    return {
        "data": data,
        "seed": settings.seed,
        "updates": settings.refine_updates,
        "samples": result.n_simulated,
        "JS(phi,psi)": s.js,
        "floor (multinomial)": s.floor.multinomial,
        "floor (blocks)": s.floor.block,
        "alpha_R ref %": 100 * alpha_ref.fraction,
        "alpha_R CG - ref (points)": f"{d_alpha:+.1f} ± {e_alpha:.1f}",
        "phi>0 ref %": f"{100 * left_ref.fraction:.2f} ± {100 * left_ref.error:.2f}",
        "phi>0 CG - ref (points)": f"{d_left:+.2f} ± {e_left:.2f}",
        "phi>0 % by tenths of the run": " ".join(f"{100 * share:.1f}" for share in shares),
        "worst 1-D overlap": f"{worst.overlap:.3f} ({worst.name})",
        "force fraction explained, prior / model": f"{report.explained(report.prior):.3f} / {report.explained(report.model):.3f}"
        if report
        else "-",
        "start forgotten": "yes" if forgotten and forgotten.converged else "no",
        "moments: effective share, largest correction (kT)": " / ".join(
            f"{log['effective share']:.3f}, {log['largest correction']:.2f}" for log in solved
        )
        or "-",
        "CPU s": "-" if kept else seconds,
        "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=[*BEADS, "learned"], default="6-bead")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=Settings.refine_updates)
    parser.add_argument("--rate", type=float, default=Settings.refine_rate)
    parser.add_argument("--simulate-ps", type=float, default=Settings.simulate_ps)
    parser.add_argument("--sample-ps", type=float, default=Settings.sample_ps)
    parser.add_argument("--rungs", type=int, default=Settings.rungs, help="temperatures of replica exchange; 1: dynamics alone")
    parser.add_argument("--folder", default=None, help="keeps the stages of the studies, and takes finished ones from there")
    parser.add_argument("--name", default=None, help="of the table in benchmarks/results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in args.seeds:
        settings = Settings(
            seed=seed,
            refine_updates=args.updates,
            refine_rate=args.rate,
            simulate_ps=args.simulate_ps,
            sample_ps=args.sample_ps,
            rungs=args.rungs,
        )
        rows.append(row(args.data, settings, args.folder))
        print(rows[-1], flush=True)
    notes = """JS: Jensen-Shannon divergence (natural log) of the 60 x 60 histograms of the two dihedrals, all samples after the discarded
start, against all reference frames. Floors: expected for equal distributions at these sample sizes (independent draws; interleaved blocks).
alpha_R: phi < 0 and -2.1 < psi < 0.9 rad; for the learned map the corresponding regions of its two bead dihedrals. All replicas start in one window of +-0.6 rad around the fullest bin."""
    notes += f"\nProduction: {args.simulate_ps:g} ps of Langevin dynamics" + (
        f" of {args.rungs} temperatures from 300 to 750 K with replica exchange." if args.rungs > 1 else " alone."
    )
    differ = [f"--{n.replace('_', '-')} {getattr(args, n)}" for n in SAID if getattr(args, n) != parser.get_default(n)]
    command = " ".join([f"python benchmarks/alanine.py --data {args.data}", *differ])
    record(args.name or f"alanine-{args.data}", rows, command, notes)


if __name__ == "__main__":
    main()
