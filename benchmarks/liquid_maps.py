"""Maps shared by all molecules of a liquid: compression against fluctuation of the force, number of beads by number of beads.

    python benchmarks/liquid_maps.py [--data ethane tetracosane] [--beads 1 2 3 4 8] [--rho 0 1e-4] [--seeds 3] [--frames 200]

Every molecule of every frame, made whole across the walls of the box, is one sample of the same map. Learned on the first 80 % of the
frames, measured on the last 20 %.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
from record import record

from mlmd import datasets, units
from mlmd.cg import autoencoder, force_map, mapping
from mlmd.cg.groups import fragments
from mlmd.cg.mapping import Mapping
from mlmd.cg.symmetry import with_equivalent_types
from mlmd.frames import Frames

FORCE2 = units.kcal_mol**2  # (kcal/mol/A)^2
BEADS = {"ethane": (1, 2), "tetracosane": (1, 2, 3, 4, 6, 8, 12, 24), "water-spce": (1,), "water-tip4p2005": (1,)}

NOTES = """\
RMSD: sqrt of the mean over atoms, molecules and frames of |x - D M x|^2, D the best linear decoder whose rows sum to one, fitted on the
learning frames. "bound": the least RMSD of any linear encoder and decoder with that many beads on the learning frames. <F^2>: mean over
beads and frames of |sum of atomic forces|^2, in (kcal/mol/A)^2, summed over x, y, z. "pieces": connected sets of atoms, equal to the beads
if every bead hangs together. "types": equal numbers for beads that a symmetry of the molecule exchanges. "reversed": whether the map learned
from molecules read from their other end is the mirror image of the first. "seeds": how many of them found the map that is shown, the best by its loss."""


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    for name in args.data:
        frames = datasets.load(name)[: args.frames]
        rows = list(table(frames, args.beads or BEADS[name], args))
        samples = len(frames) * mapping.molecule_of(frames).copies
        command = "python benchmarks/liquid_maps.py " + " ".join(sys.argv[1:])
        record(
            f"liquid_maps_{name.replace('-', '_')}",
            rows,
            command.strip(),
            f"{NOTES}\n\n{name}: {len(frames)} frames, {samples} molecules.",
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=["ethane", "tetracosane"], choices=sorted(BEADS))
    parser.add_argument("--beads", type=int, nargs="+")
    parser.add_argument("--rho", type=float, nargs="+", default=[0.0, 1e-4], help="A^2/(kcal/mol/A)^2")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--restarts", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300)
    return parser.parse_args()


def table(frames: Frames, beads: tuple[int, ...], args: argparse.Namespace) -> Iterator[dict]:
    cut = round(0.8 * len(frames))
    fit, test = frames[:cut], frames[cut:]
    effort = {"restarts": args.restarts, "steps": args.steps}
    for n in beads:
        bound = autoencoder.statistics(fit).linear_bound(n) ** 0.5
        for rho in args.rho:
            start = time.process_time()
            found = [autoencoder.learn(fit, n, rho=rho / FORCE2, seed=s, **effort) for s in range(args.seeds)]
            seconds = (time.process_time() - start) / args.seeds
            best = min(found, key=lambda r: r.loss)
            label = best.mapping.assignment
            agree = sum(bool((r.mapping.assignment == label).all()) for r in found)
            other = autoencoder.learn(reversed_molecules(fit), n, rho=rho / FORCE2, seed=0, **effort)
            mirrored = same_partition(other.mapping.assignment.flip(0), label)
            row = line(f"learned, rho={rho:g}", best.mapping, fit, test, bound)
            yield {
                **row,
                "reversed": "mirror image" if mirrored else "another map",
                "seeds": f"{agree}/{args.seeds}",
                "CPU s": seconds,
            }
        yield {**line("sequence", mapping.sequence(fit, n), fit, test, bound), "reversed": None, "seeds": None, "CPU s": None}


def line(name: str, m: Mapping, fit: Frames, test: Frames, bound: float) -> dict:
    decoder = autoencoder.linear_decoder(m, fit)
    rmsd = float(autoencoder.reconstruction_error(m, decoder, test).mean().sqrt())
    assert test.forces is not None
    return {
        "beads": m.n_beads,
        "map": name,
        "bound / A": bound,
        "RMSD / A": rmsd,
        "<F^2>": force_map.mean_square(m.force_weights, test.forces) / FORCE2,
        "pieces": sum(fragments(m.assignment.tolist(), m.atom_bonds).values()),
        "atoms of the beads": compact(m.assignment.tolist()),
        "types": compact(with_equivalent_types(m, fit).types.tolist()),
    }


def reversed_molecules(frames: Frames) -> Frames:
    """The same liquid with the atoms of every molecule read backwards; bonds and types follow."""
    from dataclasses import replace

    import mdtraj

    mol = mapping.molecule_of(frames)
    order = np.arange(frames.n_atoms).reshape(mol.copies, mol.n)[:, ::-1].ravel()
    atoms, top = list(frames.topology.atoms), mdtraj.Topology()
    chain, place = top.add_chain(), np.argsort(order)
    for m in range(mol.copies):
        residue = top.add_residue("REV", chain, resSeq=m + 1)
        for k in order[m * mol.n : (m + 1) * mol.n]:
            top.add_atom(atoms[k].name, atoms[k].element, residue)
    new = list(top.atoms)
    for i, j in frames.bonds:
        top.add_bond(new[place[i]], new[place[j]])
    assert frames.forces is not None and frames.masses is not None and frames.types is not None
    rigid = None if frames.constraints is None else torch.from_numpy(place)[frames.constraints]
    return replace(
        frames, topology=top, positions=frames.positions[:, order.copy()], forces=frames.forces[:, order.copy()],
        masses=frames.masses[order.copy()], types=frames.types[order.copy()], constraints=rigid,
    )  # fmt: skip


def same_partition(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(((a[:, None] == a[None]) == (b[:, None] == b[None])).all())


def compact(values: list[int]) -> str:
    return " ".join(map(str, values))


if __name__ == "__main__":
    main()
