"""Reference liquids as generated: density beside experiment, length of the run, diffusion, relaxation of chains.

mlmd data generate NAME --frames N          # first, for every NAME; runs are found in the cache folder
python benchmarks/liquid_states.py [--data ethane tetracosane water-spce water-tip4p2005]
"""

from __future__ import annotations

import argparse
import sys

import torch
from record import record

from mlmd import datasets, units
from mlmd.cg import mapping
from mlmd.frames import Frames
from mlmd.io import virial
from mlmd.observables.dynamics import diffusion_coefficient, msd
from mlmd.observables.relaxation import relaxation_time, vector_correlation

PUBLISHED = {"ethane": 0.5439, "tetracosane": 0.655, "water-spce": 0.998, "water-tip4p2005": 0.9979}
NOTES = """\
Density: mean of the run at constant pressure (1 atm) without its first quarter, error from eight blocks. Published: saturated ethane at
184.5 K (Friend, Ingham, Ely, J. Phys. Chem. Ref. Data 20, 275 (1991)); C24H50 at 500 K by the correlation of Hankinson and Thomson (AIChE J.
25, 653 (1979)), good to about 1 %; water: the models' own, Berendsen, Grigera, Straatsma (1987) and Abascal, Vega (2005). D: centres of mass of
molecules, in a box of this size, not corrected for it. Virial: of the sites (tetracosane) or of the two beads of ethane, over kT, 1 expected."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=list(PUBLISHED), choices=list(PUBLISHED))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row(name) for name in args.data]
    record("liquid_states", rows, ("python benchmarks/liquid_states.py " + " ".join(sys.argv[1:])).strip(), NOTES)


def row(name: str) -> dict:
    frames = datasets.generated(name)
    ((density, error),) = frames.provenance["density at constant pressure / g/cm3"]
    assert frames.cell is not None and frames.time is not None
    whole = mapping.molecule(frames)
    dt = float(frames.time[1])
    centres = whole.positions(frames.positions.double())  # frames are stored whole and never wrapped
    curve = msd(centres)
    found = diffusion_coefficient(curve, len(frames) // 40, len(frames) // 10 - 1, dt)  # blocks are tenths of the run
    unit = 1e-9 * 1e20 / 1e15  # 1e-9 m^2/s in A^2/fs
    return {
        "liquid": name,
        "molecules": whole.n_molecules,
        "frames": len(frames),
        "ps": len(frames) * dt / units.ps,
        "edge / A": float(frames.cell[0, 0, 0]),
        "density / g/cm3": f"{density:.4f} +- {error:.4f}",
        "published": PUBLISHED[name],
        "deviation / %": 100 * (density / PUBLISHED[name] - 1),
        "D / 1e-9 m2/s": f"{found.value / unit:.2f} +- {found.error / unit:.2f}",
        "end-to-end / ps": relaxation(frames, dt) if name == "tetracosane" else None,
        "virial": force_check(frames, name),
    }


def relaxation(frames: Frames, dt: float) -> str:
    """Integral relaxation time of the end-to-end vectors."""
    x = frames.positions.reshape(len(frames), -1, 24, 3)
    time = relaxation_time(vector_correlation(x[:, :, -1] - x[:, :, 0]), dt)
    return f"{time.value / units.ps:.0f} +- {time.error / units.ps:.0f}"


def force_check(frames: Frames, name: str) -> str | None:
    if name.startswith("water"):
        return None
    seen = frames if name == "tetracosane" else mapping.by_groups(frames, [[0, 1, 2, 3], [4, 5, 6, 7]]).apply(frames)
    found = virial(seen)
    assert found is not None and frames.kT is not None
    return f"{found.value / frames.kT:.3f} +- {found.error / frames.kT:.3f}"


if __name__ == "__main__":
    main()
