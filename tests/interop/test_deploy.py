"""`mlmd deploy`: folders that run as they are, and errors that name the mend."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

from mlmd import store, units
from mlmd.cli import main
from mlmd.frames import Frames, bead_topology
from mlmd.nn.invariant import InvariantNet
from mlmd.potentials.bonded import Bonded
from tests.interop.cases import BONDS, SIZE, angles, bonded, bonds, coordinates, liquid, ours, repulsion
from tests.interop.test_lammps import lammps, needs_lammps, read


def beads(folder: Path, periodic: bool = True) -> Path:
    """Two frames of the liquid."""
    first, second = (liquid(seed, periodic) for seed in (1, 2))
    frames = Frames(
        torch.stack([first.positions, second.positions]),
        bead_topology([f"B{k}" for k in range(SIZE)], BONDS, molecules=8),
        cell=first.cell.repeat(2, 1, 1) if periodic else None,
        masses=first.masses,
        types=first.types,
        kT=310 * units.kelvin,
    )
    return frames.save(folder / "beads.npz")


def learned() -> Bonded:
    """Prior and network on the same coordinates, in single precision, as a study stores it."""
    torch.manual_seed(0)
    network = InvariantNet(7, 3, torch.tensor([[0, 1], [1, 2]]), width=8, depth=1)
    torch.nn.init.normal_(network.out.weight, std=0.1)
    return Bonded(coordinates(), [bonds(), angles(), repulsion(), network]).float()


def run(folder: Path, monkeypatch, capsys, *options: str) -> float:
    """Start run.py; the energy that it prints, in eV."""
    monkeypatch.setattr(sys, "argv", ["run.py", *options])
    runpy.run_path(str(folder / "run.py"), run_name="__main__")
    return float(re.search(r"start: (\S+) kJ/mol", capsys.readouterr().out).group(1)) * units.kJ_mol


def test_a_classical_potential_becomes_a_folder_that_openmm_runs(tmp_path, capsys, monkeypatch) -> None:
    pytest.importorskip("openmm")
    potential = bonded(bonds(), angles(), repulsion())
    store.save(tmp_path / "potential.npz", potential)
    out = tmp_path / "there"
    assert (
        main(["deploy", str(tmp_path / "potential.npz"), "--beads", str(beads(tmp_path)), "--to", "openmm", "--output", str(out)])
        == 0
    )
    assert "needs OpenMM alone" in capsys.readouterr().out
    assert "mlmd" not in (out / "run.py").read_text().split('"""', 2)[2]
    assert run(out, monkeypatch, capsys, "--steps", "20", "--every", "10", "--platform", "Reference") == pytest.approx(
        ours(potential, liquid(1))[0], rel=1e-7
    )
    assert len((out / "log.csv").read_text().splitlines()) == 3
    assert "default=310" in (out / "run.py").read_text()


def test_a_learned_potential_becomes_a_folder_that_openmm_runs_through_mlmd(tmp_path, capsys, monkeypatch) -> None:
    pytest.importorskip("openmm")
    store.save(tmp_path / "potential.npz", learned())
    command = ["deploy", str(tmp_path / "potential.npz"), "--beads", str(beads(tmp_path, periodic=False)), "--frame", "-1"]
    assert main([*command, "--to", "openmm", "--output", str(tmp_path / "there")]) == 0
    assert "InvariantNet has no formula" in capsys.readouterr().out
    energy = run(tmp_path / "there", monkeypatch, capsys, "--steps", "20", "--every", "10", "--platform", "Reference")
    assert energy == pytest.approx(ours(learned().double(), liquid(2, periodic=False))[0], rel=1e-7)


@needs_lammps
def test_a_classical_potential_becomes_an_input_that_lammps_runs(tmp_path, capsys) -> None:
    potential, out = bonded(bonds(), angles(), repulsion()), tmp_path / "there"
    store.save(tmp_path / "potential.npz", potential)
    command = ["deploy", str(tmp_path / "potential.npz"), "--beads", str(beads(tmp_path)), "--to", "lammps", "--output", str(out)]
    assert main([*command, "--steps", "0"]) == 0
    assert "mpirun -n 4 lmp -in in.lmp" in capsys.readouterr().out
    lammps(out)
    assert read(out)[0] == pytest.approx(ours(potential, liquid(1))[0], rel=1e-6)
    assert "variable T index 310 " in (out / "in.lmp").read_text()


def test_lammps_refuses_a_learned_potential_and_leaves_no_input(tmp_path, capsys) -> None:
    store.save(tmp_path / "potential.npz", learned())
    command = ["deploy", str(tmp_path / "potential.npz"), "--beads", str(beads(tmp_path)), "--to", "lammps"]
    assert main([*command, "--output", str(tmp_path / "there")]) == 2
    assert "InvariantNet has no formula in other programs" in capsys.readouterr().err
    assert not list((tmp_path / "there").glob("in.lmp"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--frame", "7"], "frame=7: the beads have frames 0 to 1"),
        (["--temperature", "-5"], "must be positive"),
        (["--beads", "nowhere.npz"], "nowhere.npz: no such file"),
    ],
)
def test_bad_options_end_with_one_sentence(options: list[str], message: str, tmp_path, capsys) -> None:
    store.save(tmp_path / "potential.npz", bonded(bonds()))
    command = ["deploy", str(tmp_path / "potential.npz"), "--beads", str(beads(tmp_path)), "--to", "lammps"]
    assert main([*command, "--output", str(tmp_path / "there"), *options]) == 2
    assert message in capsys.readouterr().err
