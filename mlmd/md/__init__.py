"""Molecular dynamics of many systems at once."""

from mlmd.md.barostats import CellRescaling
from mlmd.md.checkpoint import Checkpoint, resume
from mlmd.md.constraints import Constrained, RigidBonds, constrain, constrained_kT
from mlmd.md.exchange import Exchange, by_replica, exchange, ladder, round_trips
from mlmd.md.integrators import Brownian, Langevin, VelocityVerlet
from mlmd.md.limits import Limits
from mlmd.md.minimise import FIRE, LBFGS, minimise
from mlmd.md.production import produce, read_production
from mlmd.md.reporters import DCD, Converged, Log, Progress, Recorder, Trajectory, Until, WallTime
from mlmd.md.settle import Settle
from mlmd.md.simulate import simulate
from mlmd.md.state import State, half_step_kT, rest, thermal_velocities
from mlmd.md.supercell import enlarged
from mlmd.md.tempering import Tempering
from mlmd.md.thermostats import CSVR, NoseHooverChain
from mlmd.md.trajectory import export, frames, to_mdtraj

__all__ = [
    "CSVR",
    "DCD",
    "FIRE",
    "LBFGS",
    "Brownian",
    "CellRescaling",
    "Checkpoint",
    "Constrained",
    "Converged",
    "Exchange",
    "Langevin",
    "Limits",
    "Log",
    "NoseHooverChain",
    "Progress",
    "Recorder",
    "RigidBonds",
    "Settle",
    "State",
    "Tempering",
    "Trajectory",
    "Until",
    "VelocityVerlet",
    "WallTime",
    "by_replica",
    "constrain",
    "constrained_kT",
    "enlarged",
    "exchange",
    "export",
    "frames",
    "half_step_kT",
    "ladder",
    "minimise",
    "produce",
    "read_production",
    "rest",
    "resume",
    "round_trips",
    "simulate",
    "thermal_velocities",
    "to_mdtraj",
]
