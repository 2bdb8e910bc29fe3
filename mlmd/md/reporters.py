"""Reporters: what is kept, shown or decided of a simulation while it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlmd import units
from mlmd.errors import WriteFailed
from mlmd.md.state import State, half_step_kT
from mlmd.md.trajectory import Header, TrajectoryReader, TrajectoryWriter, edges_and_angles
from mlmd.observables.blocks import block_mean


class Recorder:
    """Keeps positions in memory; ``positions()`` is (snapshots, systems, n, 3)."""

    def __init__(self, every: int):
        self.every = every
        self.snapshots: list[Tensor] = []

    def __call__(self, state: State) -> None:
        self.snapshots.append(state.system.dense().cpu())

    def positions(self) -> Tensor:
        """(snapshots, systems, n, 3) in A."""
        return torch.stack(self.snapshots)


class Log:
    """Energy, temperature and speed at intervals, kept in ``rows`` and given to ``write`` (for example ``tqdm.write``)."""

    def __init__(self, every: int, dt: float, write: Callable[[str], object] | None = None):
        self.every, self.dt, self.write = every, dt, write
        self.rows: list[dict[str, float]] = []
        self._pace = _Pace(dt)

    def __call__(self, state: State) -> None:
        row = {
            "step": float(state.step),
            "energy": float(state.energy.mean()),
            "temperature": float(half_step_kT(state).mean()) / units.kelvin,
            "ns/day": self._pace(state.step),
        }
        self.rows.append(row)
        if self.write:
            self.write("  ".join(f"{k} {v:.4g}" for k, v in row.items()))


class _Pace:
    """Speed in ns/day of one system since the first call."""

    def __init__(self, dt: float):
        self.dt = dt
        self.began: tuple[float, int] | None = None

    def __call__(self, step: int) -> float:
        began, first = self.began = self.began or (time.perf_counter(), step)
        return (step - first) * self.dt / units.ns / max(time.perf_counter() - began, 1e-9) * 86400

    def seconds(self, steps: int, step: int) -> float:
        """How long ``steps`` more steps take at the pace so far."""
        began, first = self.began or (time.perf_counter(), step)
        return steps * (time.perf_counter() - began) / max(step - first, 1)


class Progress:
    """A progress bar with ns/day and the time left; plain lines where there is neither a terminal nor a notebook.

    Args:
        steps: steps of the simulation. dt: time step in fs. every: steps between two updates.
        write: takes the plain lines; by default the standard error stream, at most one line every 10 s.
    """

    def __init__(self, steps: int, dt: float, every: int = 100, write: Callable[[str], object] | None = None):
        self.steps, self.every, self.write = steps, every, write
        self._pace, self._first, self._said = _Pace(dt), 0, -float("inf")
        self._bar: Any = None
        self._plain = write is not None or not (sys.stderr.isatty() or "ipykernel" in sys.modules)

    def __call__(self, state: State) -> None:
        if self._pace.began is None:
            self._first = state.step - self.every
        speed, done = self._pace(state.step), state.step - self._first
        if self._plain:
            self._line(state.step, done, speed)
            return
        if self._bar is None:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=self.steps, unit="step")
        self._bar.update(done - self._bar.n)
        self._bar.set_postfix_str(f"{speed:.4g} ns/day" if speed else "")

    def _line(self, step: int, done: int, speed: float) -> None:
        now, ended = time.perf_counter(), done >= self.steps
        if self.write is None and now - self._said < 10 and not ended:
            return
        self._said = now
        left = self._pace.seconds(self.steps - done, step)
        text = f"step {done}/{self.steps}  {100 * done / self.steps:.0f} %  {speed:.4g} ns/day  {_clock(left)} left"
        (self.write or _to_stderr)(text)

    def finish(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _clock(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}"


def _to_stderr(text: str) -> None:
    sys.stderr.write(text + "\n")


class Trajectory:
    """Appends frames of all systems to a file that stays readable after a kill: read by ``frames`` and ``to_mdtraj``.

    Args:
        path: the file. every: steps between two frames. dt: time step in fs, for the times of the frames.
        append: go on with the file of an earlier simulation; frames at or after the first step that comes now are replaced.

    Raises:
        ValueError: the file is there already and ``append`` is false, or it is of other systems.
        WriteFailed: the disk is full; the frames before stay readable.
    """

    def __init__(self, path: str | Path, every: int, dt: float = 1.0, append: bool = False):
        self.path, self.every, self.dt, self.append = Path(path), every, dt, append
        if self.path.exists() and not append:
            raise ValueError(f"path={str(path)!r} is there already: choose another file, delete it, or give append=True")
        self._writer: TrajectoryWriter | None = None

    def __call__(self, state: State) -> None:
        if self._writer is None:
            self._writer = self._open(state)
        self._writer.write(state)

    def _open(self, state: State) -> TrajectoryWriter:
        first = state.step - self.every
        if self.append and self.path.exists():
            first = TrajectoryReader(self.path).header.first
        header = Header.of(state.system, first, self.every)
        if (state.step - first) % self.every:
            raise ValueError(
                f"every={self.every}: {self.path} holds frames from step {first} on, which do not lead to {state.step}"
            )
        return TrajectoryWriter(self.path, header, self.dt, keep=(state.step - first) // self.every - 1)

    def finish(self) -> None:
        """Force the frames to the disk and close the file; a later simulation with this reporter appends."""
        if self._writer is not None:
            self._writer.flush()
            self._writer.close()
            self._writer, self.append = None, True


class DCD:
    """Writes one system as a DCD file through mdtraj; after a kill every frame but perhaps the last is readable.

    Args:
        path: the file, overwritten. every: steps between two frames. system: which system of the batch.
    """

    def __init__(self, path: str | Path, every: int, system: int = 0):
        self.path, self.every, self.system = Path(path), every, system
        self._file: Any = None
        self._closed = False
        if system < 0:
            raise ValueError(f"system={system}: must not be negative")

    def __call__(self, state: State) -> None:
        if self._closed:
            raise ValueError(f"path={str(self.path)!r}: closed at the end of a simulation; make a new DCD with another path")
        if self._file is None:
            from mdtraj.formats import DCDTrajectoryFile

            try:
                self._file = DCDTrajectoryFile(str(self.path), "w", force_overwrite=True)
            except OSError as error:
                raise WriteFailed(self.path, error) from error
        mine = state.system.batch == self.system
        x = state.system.positions[mine].cpu().numpy().astype(np.float32)
        cell = state.system.cell[self.system : self.system + 1].cpu().numpy() if state.system.periodic else None
        self._file.write(x[None], *edges_and_angles(cell))

    def finish(self) -> None:
        """Close the file; every simulation needs a reporter of its own."""
        if self._file is not None:
            self._file.close()
            self._file, self._closed = None, True


class WallTime:
    """Ends a simulation after so many seconds by the clock on the wall.

    Args:
        seconds: from now on. every: steps between two looks at the clock.
    """

    def __init__(self, seconds: float, every: int = 100):
        if not seconds > 0 or every < 1:
            raise ValueError(f"seconds={seconds}, every={every}: must be positive")
        self.seconds, self.every = seconds, every
        self._began = time.perf_counter()

    def __call__(self, state: State) -> bool:
        return time.perf_counter() - self._began >= self.seconds


class Until:
    """Ends a simulation when a condition on the state holds: a target event, for instance a bond that opens.

    Args:
        condition: state -> bool. every: steps between two questions.
    """

    def __init__(self, condition: Callable[[State], object], every: int = 100):
        if every < 1:
            raise ValueError(f"every={every}: must be at least 1")
        self.condition, self.every = condition, every

    def __call__(self, state: State) -> bool:
        return bool(self.condition(state))


class Converged:
    """Ends a simulation when the mean of an observable is known well enough: its standard error from blocks is below ``error``.

    Blocks that are shorter than the memory of the observable give too small an error: ``at_least`` should cover many memories.

    Args:
        observable: state -> number, or (S,) one for each system, which are then independent replicas.
        error: standard error to reach, in the unit of the observable. every: steps between two samples.
        at_least: samples before the first judgement. blocks: how many blocks.
    """

    def __init__(
        self, observable: Callable[[State], Tensor | float], error: float, every: int, at_least: int = 100, blocks: int = 10
    ):
        if not error > 0 or every < 1 or at_least < blocks or blocks < 2:
            raise ValueError(
                f"error={error}, every={every}, at_least={at_least}, blocks={blocks}: error must be positive, blocks at least 2, "
                "at_least at least as many as blocks"
            )
        self.observable, self.error, self.every, self.at_least, self.blocks = observable, error, every, at_least, blocks
        self.samples: list[Any] = []
        self._next = at_least

    def __call__(self, state: State) -> bool:
        self.samples.append(torch.as_tensor(self.observable(state)).detach().cpu().numpy())
        if len(self.samples) < self._next:
            return False
        self._next = max(self._next + 1, round(1.1 * len(self.samples)))  # judged ever more rarely: the cost stays linear
        return self.result()[1] <= self.error

    def result(self) -> tuple[float, float]:
        """Mean and standard error so far."""
        return block_mean(np.stack(self.samples), self.blocks)
