"""Molecular dynamics of many systems at once."""

from mlmd.md.barostats import CellRescaling
from mlmd.md.checkpoint import Checkpoint, resume
from mlmd.md.integrators import Brownian, Langevin, VelocityVerlet
from mlmd.md.limits import Limits
from mlmd.md.production import produce, read_production
from mlmd.md.reporters import DCD, Converged, Log, Progress, Recorder, Trajectory, Until, WallTime
from mlmd.md.simulate import simulate
from mlmd.md.state import State, half_step_kT, rest, thermal_velocities
from mlmd.md.thermostats import CSVR, NoseHooverChain
from mlmd.md.trajectory import export, frames, to_mdtraj

__all__ = [
    "CSVR",
    "DCD",
    "Brownian",
    "CellRescaling",
    "Checkpoint",
    "Converged",
    "Langevin",
    "Limits",
    "Log",
    "NoseHooverChain",
    "Progress",
    "Recorder",
    "State",
    "Trajectory",
    "Until",
    "VelocityVerlet",
    "WallTime",
    "export",
    "frames",
    "half_step_kT",
    "produce",
    "read_production",
    "rest",
    "resume",
    "simulate",
    "thermal_velocities",
    "to_mdtraj",
]
