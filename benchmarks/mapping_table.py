"""Learned maps beside sequence, random and backbone maps: reconstruction error and mean square force against the number of beads.

    python benchmarks/mapping_table.py [--data alanine-dipeptide] [--file frames.npz] [--beads 3 4 5 6 8 10 12] [--seeds 3]
    python benchmarks/mapping_table.py --data o-terphenyl --beads 3 --rho 0 1e-6 1e-5 1e-4 1e-3

Learned on the first 80 % of the frames, everything is measured on the last 20 %. With ``--rho`` the trade-off between the two is
scanned instead.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from record import record

from mlmd import units
from mlmd.cg import autoencoder, force_map, mapping
from mlmd.cg.groups import fragments, united_atoms
from mlmd.cg.mapping import Mapping
from mlmd.frames import Frames

FORCE2 = units.kcal_mol**2  # (kcal/mol/A)^2
FORCE_WEIGHT = 1e-4  # of the rows "learned, rho", A^2/(kcal/mol/A)^2
RANDOM_SEEDS = 20

DEFINITIONS = """\
RMSD: sqrt of the mean over atoms and frames of |x - D M x|^2, unaligned, D the best linear decoder whose rows sum to one, fitted on
the learning frames. "bound": the least RMSD that any linear encoder and decoder with that many beads reaches on the learning
frames (principal components). "connected": pieces beyond one per bead cost 1 A^2 in the loss; "united atoms": hydrogens stay with
their heavy atom. <F^2>: mean over beads and frames of |sum of atomic forces|^2, in (kcal/mol/A)^2, summed over x, y, z.
"pieces": connected sets of atoms, equal to the beads if every bead hangs together."""


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    frames = Frames.load(args.file) if args.file else load(args.data)
    cut = round(0.8 * len(frames))
    fit, test = frames[:cut], frames[cut:]
    rows = trade_off(fit, test, args) if args.rho else table(fit, test, args)
    kind = "rho" if args.rho else "mapping"
    notes = f"{DEFINITIONS}\nFrames: {len(fit)} to learn from, {len(test)} held out; {args.seeds} seeds for learned maps"
    notes += f" (mean +- standard deviation), {RANDOM_SEEDS} for random ones." if kind == "mapping" else ", the best by its loss."
    command = "python benchmarks/mapping_table.py " + " ".join(sys.argv[1:])
    record(f"{kind}_table_{args.data.replace('-', '_')}", list(rows), command.strip(), notes)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="alanine-dipeptide")
    parser.add_argument("--file", help="frames saved by mlmd, instead of the shipped ones")
    parser.add_argument("--beads", type=int, nargs="+", default=[3, 4, 5, 6, 8, 10, 12])
    parser.add_argument("--rho", type=float, nargs="+", help="A^2/(kcal/mol/A)^2")
    parser.add_argument("--seeds", type=int, default=3)
    return parser.parse_args()


def load(name: str) -> Frames:
    from mlmd import datasets

    return datasets.load(name)


def table(fit: Frames, test: Frames, args: argparse.Namespace) -> Iterator[dict]:
    for n in args.beads:
        bound = autoencoder.statistics(fit).linear_bound(n) ** 0.5
        for name, options in learnable(fit, n).items():
            found, seconds = zip(*(learned(fit, n, seed=s, **options) for s in range(args.seeds)), strict=True)
            yield line(n, name, bound, [measure(r.mapping, fit, test) for r in found], float(np.mean(seconds)))
        for name, maps in hand_made(fit, n).items():
            yield line(n, name, bound, [measure(m, fit, test) for m in maps], None)


def learnable(fit: Frames, n: int) -> dict[str, dict]:
    """Options of the auto-encoder by the name of the row; united atoms only where they are enough for n beads."""
    rows: dict[str, dict] = {
        "learned": {},
        f"learned, rho={FORCE_WEIGHT:g}": {"rho": FORCE_WEIGHT / FORCE2},
        "learned, connected": {"disconnected_penalty": 1.0},
    }
    mol = mapping.molecule_of(fit)
    pairs = united_atoms(mol.elements, mol.bonds)
    if n <= mol.n - len(pairs):
        rows["learned, connected, united atoms"] = {"disconnected_penalty": 1.0, "together": pairs}
    return rows


def hand_made(fit: Frames, n: int) -> dict[str, list[Mapping]]:
    return {
        "sequence": [mapping.sequence(fit, n)],
        "backbone": [mapping.backbone(fit, n)],
        "random": [mapping.random(fit, n, s) for s in range(RANDOM_SEEDS)],
        "random, connected": [mapping.random(fit, n, s, connected=True) for s in range(RANDOM_SEEDS)],
    }


def learned(fit: Frames, n: int, **options: Any) -> tuple[autoencoder.AutoencoderResult, float]:
    start = time.perf_counter()
    result = autoencoder.learn(fit, n, **options)
    return result, time.perf_counter() - start


def measure(m: Mapping, fit: Frames, test: Frames) -> tuple[float, float, float, float, float]:
    """RMSD on the learning frames, and on the held-out ones over all and over heavy atoms; <F^2> held out; pieces."""
    decoder = autoencoder.linear_decoder(m, fit)
    per_atom = autoencoder.reconstruction_error(m, decoder, test)
    heavy = torch.tensor([a.element.symbol != "H" for a in list(fit.topology.atoms)[: m.n_atoms]])
    learning = float(autoencoder.reconstruction_error(m, decoder, fit).mean().sqrt())
    force = float("nan") if test.forces is None else force_map.mean_square(m.force_weights, test.forces) / FORCE2
    pieces = sum(fragments(m.assignment.tolist(), m.atom_bonds).values())
    return learning, float(per_atom.mean().sqrt()), float(per_atom[heavy].mean().sqrt()), force, pieces


def line(n: int, name: str, bound: float, values: list[tuple[float, ...]], seconds: float | None) -> dict:
    mean, spread = np.mean(values, 0), np.std(values, 0)
    fmt = ("{:.3f}", "{:.3f}", "{:.3f}", "{:.0f}", "{:.3g}")
    cell = [f.format(m) + (" +- " + f.format(s) if len(values) > 1 else "") for f, m, s in zip(fmt, mean, spread, strict=True)]
    titles = ("RMSD learning frames / A", "RMSD / A", "RMSD heavy / A", "<F^2>", "pieces")
    return {"beads": n, "map": name, "bound / A": f"{bound:.3f}", **dict(zip(titles, cell, strict=True)), "seconds": seconds}


def trade_off(fit: Frames, test: Frames, args: argparse.Namespace) -> Iterator[dict]:
    for n in args.beads:
        reference: tuple[float, float] | None = None
        for rho in args.rho:
            found = [autoencoder.learn(fit, n, rho=rho / FORCE2, seed=s) for s in range(args.seeds)]
            best = min(found, key=lambda r: r.loss)
            per_atom, force = measure(best.mapping, fit, test)[1] ** 2, measure(best.mapping, fit, test)[3]
            reference = reference or (per_atom, force)
            yield {
                "beads": n,
                "rho": rho,
                "reconstruction / A^2 per atom": per_atom,
                "per coordinate": per_atom / 3,
                "more than first row": f"{100 * (per_atom / reference[0] - 1):+.1f} %",
                "<F^2>": force,
                "<F^2> per coordinate": force / 3,
                "first row's over it": reference[1] / force,
                "seeds that found it": sum(abs(r.loss - best.loss) < 1e-9 for r in found),
                "atoms of the beads": str(best.mapping.assignment.tolist()).replace(" ", ""),
            }


if __name__ == "__main__":
    main()
