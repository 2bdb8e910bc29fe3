"""Molecular dynamics of many systems at once."""

from mlmd.md.integrators import Langevin, VelocityVerlet
from mlmd.md.production import produce, read_production
from mlmd.md.reporters import Log, Recorder
from mlmd.md.simulate import simulate
from mlmd.md.state import State, half_step_kT, rest, thermal_velocities

__all__ = [
    "Langevin",
    "Log",
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
