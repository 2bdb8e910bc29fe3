"""Molecular dynamics of many systems at once."""

from mlmd.md.integrators import Langevin, VelocityVerlet
from mlmd.md.reporters import Log, Recorder, TrajectoryWriter, read_trajectory
from mlmd.md.simulate import simulate
from mlmd.md.state import State, rest, thermal_velocities

__all__ = [
    "Langevin",
    "Log",
    "Recorder",
    "State",
    "TrajectoryWriter",
    "VelocityVerlet",
    "read_trajectory",
    "rest",
    "simulate",
    "thermal_velocities",
]
