"""What the processes do that ``test_faults.py`` kills."""

import os

import torch

from mlmd.md import CSVR, DCD, CellRescaling, Langevin, Trajectory, produce, rest, simulate, thermal_velocities
from mlmd.potentials.pair import LennardJones
from mlmd.system import System

EVERY, CHUNK = 2, 10


def liquid():
    """Two boxes of 27 particles, close to freezing."""
    x = torch.stack(torch.meshgrid(*[torch.arange(3.0)] * 3, indexing="ij"), -1).reshape(-1, 3).double() * 1.5
    system = System.single(x, cell=[4.5] * 3).replicate(2)
    return rest(system, thermal_velocities(system, 0.05, torch.Generator().manual_seed(2)))


def law():
    return LennardJones(0.05, 1.2, cutoff=1.9).double()


def piston():
    """Constant pressure and temperature: memory of a thermostat, two kinds of noise, a cell that changes."""
    return CellRescaling(CSVR(0.03, 0.05, 1.0), pressure=0.001, time=2.0, compressibility=2.0)


def production(folder, steps):
    """The run that is killed and goes on."""
    for _ in produce(folder, liquid(), law(), piston(), steps, every=EVERY, snapshots_per_chunk=CHUNK, seed=4, skin=0.2):
        pass


class Counter:
    """Writes down the last step whose frame was handed to the trajectory."""

    def __init__(self, path, every):
        self.every, self.file = every, os.open(path, os.O_CREAT | os.O_WRONLY)

    def __call__(self, state):
        os.pwrite(self.file, state.step.to_bytes(8, "little"), 0)


def trajectories(folder, steps):
    """Frames of a cheap system in both formats, and a count of them."""
    system = System.single(torch.zeros(50, 3)).replicate(2)

    class Free(torch.nn.Module):
        cutoff = 0.0

        def analytic(self, system, pairs):
            return system.positions.new_zeros(system.n_systems), torch.zeros_like(system.positions)

    start = rest(system, thermal_velocities(system, 0.1, torch.Generator().manual_seed(1)))
    report = [Trajectory(f"{folder}/run.mlmd", 1), DCD(f"{folder}/run.dcd", 1), Counter(f"{folder}/count", 1)]
    for _ in simulate(start, Free(), Langevin(0.1, 0.1, 0.5), steps, report=report, generator=torch.Generator().manual_seed(3)):
        pass
