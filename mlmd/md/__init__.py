"""Molecular dynamics of many systems at once."""

from mlmd.md.barostats import CellRescaling
from mlmd.md.integrators import Brownian, Langevin, VelocityVerlet
from mlmd.md.production import produce, read_production
from mlmd.md.reporters import Log, Recorder
from mlmd.md.simulate import simulate
from mlmd.md.state import State, half_step_kT, rest, thermal_velocities
from mlmd.md.thermostats import CSVR, NoseHooverChain

__all__ = [
    "CSVR",
    "Brownian",
    "CellRescaling",
    "Langevin",
    "Log",
    "NoseHooverChain",
    "Recorder",
    "State",
    "VelocityVerlet",
    "half_step_kT",
    "produce",
    "read_production",
    "rest",
    "simulate",
    "thermal_velocities",
]
