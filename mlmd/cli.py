"""The ``mlmd`` command. Every command is one function ``register_*(subparsers)`` that adds its parser and names what to run."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlmd import datasets, units
from mlmd.datasets.cache import run_folder
from mlmd.errors import require
from mlmd.frames import Frames


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``mlmd``; bad input ends with one sentence and exit status 2, an interrupt with 130."""
    args = parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except (ValueError, OSError, ImportError) as error:
        print(f"mlmd: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mlmd: interrupted; finished work is kept", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """All commands."""
    out = argparse.ArgumentParser(prog="mlmd", description="Coarse-grain, learn, simulate and look.")
    subparsers = out.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for register in COMMANDS:
        register(subparsers)
    return out


def register_data(subparsers: Any) -> None:
    """``mlmd data list | generate | info``."""
    data = subparsers.add_parser("data", help="list and generate data sets; look into files").add_subparsers(
        dest="data_command", required=True, metavar="list | generate | info"
    )
    data.add_parser("list", help="what ships and what can be generated").set_defaults(run=_list)
    _register_generate(data)
    _register_info(data)


def _register_generate(subparsers: Any) -> None:
    p = subparsers.add_parser("generate", help="sample a data set anew; a run found in the folder is continued")
    p.add_argument("name", help="see `mlmd data list`")
    p.add_argument("--frames", type=int, required=True, help="number of frames, rounded up to whole chunks")
    p.add_argument(
        "--out", type=Path, metavar="FOLDER",
        help="where chunks and, at the end, NAME.npz are written (default: NAME in ~/.cache/mlmd or $MLMD_CACHE)",
    )  # fmt: skip
    p.add_argument("--molecules", type=int, help="of a liquid, if not the usual number")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--skip", type=int, default=0, help="frames at the start to leave out of NAME.npz, as equilibration")
    p.set_defaults(run=_generate)


def _register_info(subparsers: Any) -> None:
    p = subparsers.add_parser("info", help="what a file holds, and what the checks say")
    p.add_argument("file", type=Path, help="trajectory, .npz, extended XYZ or PDB")
    p.add_argument("--top", type=Path, help="topology (PDB, GRO, ...)")
    p.add_argument("--forces", type=Path, help=".npy or .npz with forces")
    p.add_argument("--temperature", type=float, help="K")
    p.add_argument("--stride", type=int, default=1)
    p.add_argument("--length-unit")
    p.add_argument("--force-unit")
    p.add_argument("--energy-unit")
    p.set_defaults(run=_info)


def _list(args: argparse.Namespace) -> None:
    for d in datasets.available():
        print(f"{d.name:20s} {d.atoms:5d} atoms  {f'{d.frames} frames ship' if d.ships else 'generated':20s} {d.temperature:g} K")
        print(f"{'':20s} {d.description}")
        print(f"{'':20s} {d.source}")


def _generate(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    folder = args.out or run_folder(args.name, args.molecules)
    steps = datasets.generate(args.name, n_frames=args.frames, folder=folder, seed=args.seed, n_molecules=args.molecules)
    with tqdm(total=args.frames, unit="frame", desc=args.name) as bar:
        for progress in steps:
            bar.update(min(progress.frames, args.frames) - bar.n)
    n_frames = args.frames - args.skip
    frames = datasets.collect(args.name, folder, skip=args.skip, n_frames=n_frames, n_molecules=args.molecules)
    print(f"{len(frames)} frames in {frames.save(folder / f'{args.name}.npz')}")
    for mean, error in frames.provenance.get("density at constant pressure / g/cm3", []):
        print(f"density at constant pressure {mean:.4f} +- {error:.4f} g/cm3")


def _info(args: argparse.Namespace) -> None:
    from mlmd import io

    top, traj = (args.file, None) if args.top is None else (args.top, args.file)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frames = io.read(
            top, traj, args.forces, temperature=args.temperature, stride=args.stride, length_unit=args.length_unit,
            force_unit=args.force_unit, energy_unit=args.energy_unit, check=False,
        )  # fmt: skip
        findings = io.audit(frames, io.source_of(frames, str(args.file)))
    _describe(frames)
    for w in caught:
        if issubclass(w.category, io.InputWarning):
            print(f"warning  {w.message}")
    for f in findings:
        print(f"{f.level:8s} {f.message}")


def _describe(frames: Frames) -> None:
    assert frames.time is not None
    top = frames.topology
    print(f"frames   {len(frames)}, from {float(frames.time[0]) / units.ps:g} to {float(frames.time[-1]) / units.ps:g} ps")
    print(f"atoms    {frames.n_atoms} in {top.n_residues} residues ({', '.join(sorted({r.name for r in top.residues})[:8])})")
    print(f"bonds    {len(frames.bonds)}")
    print(f"forces   {'yes' if frames.forces is not None else 'no'}; energies {'yes' if frames.energies is not None else 'no'}")
    print(f"box      {'no' if frames.cell is None else [round(float(x), 3) for x in frames.cell[0].norm(dim=-1)]}")
    print(f"kT       {'unknown' if frames.kT is None else f'{frames.kT / units.kelvin:.1f} K'}")
    for key, value in frames.provenance.items():
        print(f"  {key}: {value}")


def register_report(subparsers: Any) -> None:
    """``mlmd report``; the command lives with the views, which the library itself does not import."""
    require("mlmd_widgets.report", extra="notebooks").register(subparsers)


def register_deploy(subparsers: Any) -> None:
    """``mlmd deploy``."""
    p = subparsers.add_parser(
        "deploy",
        help="write a potential for OpenMM or LAMMPS",
        description="Write a stored potential and a frame of its beads as a folder that OpenMM or LAMMPS runs. Learned potentials "
        "run in OpenMM through its PythonForce; LAMMPS takes classical ones only.",
    )
    p.add_argument("potential", type=Path, help="potential.npz, as a study exports it")
    p.add_argument("--beads", type=Path, required=True, help="beads.npz of the same study: types, masses, bonds, start")
    p.add_argument("--to", choices=("openmm", "lammps"), required=True, dest="target")
    p.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="made if it is not there")
    p.add_argument("--frame", type=int, default=0, help="frame of the beads to start from; negative numbers count from the end")
    p.add_argument("--temperature", type=float, help="K (default: that of the beads)")
    p.add_argument("--time-step", type=float, default=2.0, help="fs (default: %(default)s)")
    p.add_argument("--friction", type=float, default=1.0, help="1/ps (default: %(default)s)")
    p.add_argument("--steps", type=int, default=10_000, help="length of the run that is written (default: %(default)s)")
    p.set_defaults(run=_deploy)


def _deploy(args: argparse.Namespace) -> None:
    from mlmd import store
    from mlmd.interop.deploy import deploy
    from mlmd.interop.lammps import Run

    beads, potential = Frames.load(args.beads), store.load(args.potential)
    kT = beads.kT if args.temperature is None else args.temperature * units.kelvin
    if kT is None:
        raise ValueError(f"{args.beads} carries no temperature: give --temperature 300, for instance")
    run = Run(kT=kT, dt=args.time_step * units.fs, friction=args.friction / units.ps, steps=args.steps)
    done = deploy(potential, beads, args.target, args.output, frame=args.frame, run=run)
    print(f"wrote    {done.start}")
    print(f"run      cd {done.start.parent} && {done.command}")
    print(f"note     {done.note}")


COMMANDS = (register_report, register_data, register_deploy)

if __name__ == "__main__":
    raise SystemExit(main())
