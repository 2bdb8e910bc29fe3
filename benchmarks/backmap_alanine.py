"""Backmapping of alanine dipeptide from 3 to 12 beads, beside the published figures of CGVAE (Wang et al., ICML 2022).

    python benchmarks/backmap_alanine.py [--beads 3 4 5 6 8 10 12] [--kinds internal cgvae] [--folds 0 1 2]

20 000 frames (the trajectory that ships), a fifth held out in every fold; learned maps. Finished runs are kept in --folder.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from record import markdown, record

from mlmd import datasets
from mlmd.backmap.generative import Generative, Recipe
from mlmd.backmap.linear import EquivariantLinearBackmapper, LinearBackmapper
from mlmd.backmap.quality import bond_graph, graph_errors, quality, rmsd
from mlmd.cg import autoencoder
from mlmd.cg.finding_maps import autoencoder_options
from mlmd.cg.mapping import Mapping
from mlmd.cg.settings import MapSettings
from mlmd.frames import Frames

FOLDS, SAMPLES, JUDGED, HEAVY = 5, 4, 2000, 10
PUBLISHED = {  # A, A, A, share of wrong bonds: heavy and all atoms of CGVAE, heavy atoms of a linear map, graph error of heavy atoms
    3: (0.210, 0.530, 0.941, 0.002), 4: (0.115, 0.128, 0.812, 0.002), 5: (0.145, 0.160, 0.483, 0.001), 6: (0.110, 0.119, 0.384, 0.0),
    8: (0.080, 0.090, 0.296, 0.0), 10: (0.068, 0.080, 0.127, 0.0), 12: (0.063, 0.071, 0.148, 0.0),
}  # fmt: skip
NOTES = """20 000 frames of the data set that ships, a fifth held out (judged: 2 000), maps from the auto-encoder. Reconstruction: encoded with the
mean of q and decoded; all else of four samples from the prior for every held-out set of beads. Nothing is superposed. Published (five-fold, 20 000 frames
of another force field, learned maps):"""


@cache
def atoms() -> Frames:
    """All frames."""
    return datasets.load("alanine-dipeptide")


@cache
def mapping(beads: int) -> Mapping:
    """The map that a study learns: beads hang together, hydrogens go with their heavy atoms as long as these suffice."""
    hydrogens = "united" if beads <= HEAVY else "free"
    options = autoencoder_options(atoms(), MapSettings(n_beads=beads, hydrogens=hydrogens))
    return autoencoder.learn(atoms()[::20], beads, **{**options, "disconnected_penalty": 1.0}).mapping


def split(fold: int) -> tuple[Frames, Frames]:
    """Training and held-out frames of a fold; frames are shuffled once, as those of the published table."""
    order = torch.randperm(len(atoms()), generator=torch.Generator().manual_seed(0))
    test = order.chunk(FOLDS)[fold]
    train = torch.cat([part for k, part in enumerate(order.chunk(FOLDS)) if k != fold])
    return atoms()[train], atoms()[test[:JUDGED]]


def fitted(kind: str, beads: int, fold: int, recipe: Recipe) -> dict[str, Any]:
    """One row."""
    train, test = split(fold)
    m = mapping(beads)
    spent = time.process_time()
    if kind in ("cgvae", "internal"):
        model = Generative(kind, recipe, seed=fold)
        for log in model.train(train, m, every=250):
            print(kind, beads, fold, {k: round(v, 5) for k, v in log.items()}, flush=True)
        reconstructed = model.reconstruct(test)
        count = sum(p.numel() for p in model.model.parameters())
    else:
        model = {"linear": LinearBackmapper, "equivariant linear": EquivariantLinearBackmapper}[kind]().fit(train, m)
        reconstructed, count = model.sample(m.apply(test))[0], 0
    training = time.process_time() - spent
    spent = time.process_time()
    samples = model.sample(m.apply(test), SAMPLES, seed=1)
    rate = SAMPLES * len(test) / (time.process_time() - spent)
    molecule, x = model.molecule, test.positions
    heavy = molecule.numbers != 1
    i, j = torch.triu_indices(molecule.n_atoms, molecule.n_atoms, 1)
    graph, true = (bond_graph(y, molecule.numbers)[:, heavy[i] & heavy[j]] for y in (reconstructed, x))
    return {
        "reconstruction, heavy / A": rmsd(reconstructed, x, heavy),
        "reconstruction, all / A": rmsd(reconstructed, x),
        "graph error of it, heavy": float(graph_errors(graph, true).mean()),
        **quality(samples, x, molecule).to_dict(),
        "training, CPU s": training, "structures/s": rate, "parameters": count, "beads moved by / A": float((m.positions(samples) - m.positions(x)).abs().max()),
    }  # fmt: skip


def main() -> None:
    """Make what is missing, then the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beads", type=int, nargs="+", default=list(PUBLISHED))
    parser.add_argument("--kinds", nargs="+", default=["linear", "equivariant linear", "internal", "cgvae"])
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    parser.add_argument("--folder", type=Path, default=Path("runs/backmap"))
    parser.add_argument("--finished", action="store_true", help="only the table of what is in --folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = list[dict[str, Any]]()
    for beads in options.beads:
        for kind in options.kinds:
            for fold in options.folds:
                path = options.folder / f"{kind.replace(' ', '-')}-{beads}-{fold}-{options.steps}.json"
                if not path.exists():
                    if options.finished:
                        continue
                    path.write_text(json.dumps(fitted(kind, beads, fold, Recipe(steps=options.steps))))
                rows.append({"beads": beads, "backmapper": kind, "fold": fold, **json.loads(path.read_text())})
    if not rows:
        raise SystemExit("nothing to show: leave out --finished")
    columns = ("CGVAE, heavy / A", "CGVAE, all / A", "linear, heavy / A", "graph error of CGVAE, heavy")
    published = markdown([{"beads": n, **dict(zip(columns, v, strict=True))} for n, v in PUBLISHED.items()])
    record("backmap_alanine", rows, "python benchmarks/backmap_alanine.py", f"{NOTES}\n\n{published}")


if __name__ == "__main__":
    main()
