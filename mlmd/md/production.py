"""Long runs into a folder: a trajectory that stays readable after a kill at any moment, and continues bit for bit."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mlmd import units
from mlmd.errors import BrokenCheckpoint, Unstable
from mlmd.forces import Potential
from mlmd.md.checkpoint import Checkpoint, described, restored, write_sealed
from mlmd.md.integrators import Integrator
from mlmd.md.limits import Limits
from mlmd.md.simulate import simulate
from mlmd.md.state import State, half_step_kT
from mlmd.md.trajectory import Header, TrajectoryReader, TrajectoryWriter, file_of
from mlmd.store import writable_folder


def produce(
    folder: str | Path,
    state: State,
    potential: Potential,
    integrator: Integrator,
    steps: int,
    *,
    every: int,
    seed: int = 0,
    snapshots_per_chunk: int = 50,
    stop: Sequence[Callable[[State], Any]] = (),
    skin: float = 1.0,
    limits: Limits = Limits(),  # noqa: B008  (frozen)
    on_unstable: Literal["raise", "freeze"] = "raise",
    compile: bool = False,
) -> Iterator[dict[str, float]]:
    """Simulate into ``folder`` up to step ``steps``: frames into ``trajectory.mlmd``, the last two checkpoints beside it.

    A run found in the folder is continued from its last intact checkpoint, with the same noise and the same neighbour lists
    as if it had never stopped; the caller sees to it that potential and integrator are the same (a folder per setting).

    Args:
        every: steps between two frames; the run must be a multiple of it. snapshots_per_chunk: frames between two checkpoints.
        seed: of the noise. stop, skin, limits, on_unstable, compile: as of :func:`simulate`.

    Yields:
        after each checkpoint ``{"step", "steps", "temperature" (K, half-step kinetic), "energy" (eV), "ns/day"}``, ns/day summed
        over all systems.

    Raises:
        Unstable: as :func:`simulate`; the last good state is kept in ``last_good.ckpt``, frames and checkpoints stay.
        WriteFailed: the disk is full; frames and checkpoints written before stay.
        ValueError: nothing can be written into the folder; it holds a run of other systems; steps is no multiple of every.
    """
    if every < 1 or snapshots_per_chunk < 1 or (steps - state.step) % every:
        raise ValueError(
            f"steps={steps}, every={every}, snapshots_per_chunk={snapshots_per_chunk}: from step {state.step} on, steps must be "
            f"a multiple of every, for example {state.step + max(1, (steps - state.step) // max(every, 1)) * max(every, 1)}"
        )
    folder = writable_folder(folder, "folder")
    generator = torch.Generator(state.system.positions.device).manual_seed(seed)
    keeper = _Keeper(folder, every, snapshots_per_chunk, generator, float(torch.as_tensor(integrator.dt).double().mean()))
    state = keeper.open(state, integrator, steps)
    if state.step >= steps:
        keeper.finish()
        return
    began, before = time.perf_counter(), state.step
    run = simulate(
        state,
        potential,
        integrator,
        steps - state.step,
        every=every * snapshots_per_chunk,
        report=[keeper.frames, keeper],
        stop=stop,
        generator=generator,
        skin=skin,
        limits=limits,
        on_unstable=on_unstable,
        compile=compile,
    )
    try:
        for state in run:
            keeper.last(state)
            simulated = (state.step - before) * keeper.dt * state.system.n_systems / units.ns
            yield {
                "step": float(state.step),
                "steps": float(steps),
                "temperature": float(half_step_kT(state).mean()) / units.kelvin,
                "energy": float(state.energy.mean()),
                "ns/day": simulated / (time.perf_counter() - began) * 86400,
            }
            began, before = time.perf_counter(), state.step
    except Unstable as error:
        write_sealed(folder / "last_good.ckpt", described(error.last_good, generator))
        raise


def read_production(folder: str | Path) -> Tensor:
    """(T, S, n, 3) positions in A of a run of equally large systems made by :func:`produce`.

    For long runs see :func:`mlmd.md.trajectory.frames`, which reads a part at a time.

    Raises:
        ValueError: if the folder holds no frame, or systems of unequal size.
    """
    reader = TrajectoryReader(file_of(folder))
    sizes = set(reader.header.sizes)
    if len(sizes) > 1:
        raise ValueError(f"{folder} holds systems of {sorted(sizes)} particles: read it with mlmd.md.trajectory.frames")
    parts = [c.positions for c in reader.chunks()]
    if not parts:
        raise ValueError(f"{folder} holds no frame yet: nothing was simulated there")
    return torch.from_numpy(np.concatenate(parts).reshape(-1, len(reader.header.sizes), sizes.pop(), 3))


class _Frames:
    """Reporter that appends to the trajectory."""

    def __init__(self, every: int):
        self.every = every
        self.writer: TrajectoryWriter | None = None

    def __call__(self, state: State) -> None:
        assert self.writer is not None
        self.writer.write(state)


class _Keeper:
    """The files of a run: which of them to go on from, and when a checkpoint is due."""

    fresh_list = True

    def __init__(self, folder: Path, every: int, per_chunk: int, generator: torch.Generator, dt: float):
        self.every, self.dt, self.generator = every * per_chunk, dt, generator
        self.frames = _Frames(every)
        self.checkpoints = Checkpoint(folder, self.every, generator)
        self.file = folder / "trajectory.mlmd"
        self.saved = -1

    def open(self, state: State, integrator: Integrator, steps: int) -> State:
        """The state to go on from; files are cut back to it."""
        first, header = state.step, Header.of(state.system, state.step, self.frames.every)
        for left_over in self.checkpoints.folder.glob(".checkpoint_*.ckpt"):
            left_over.unlink(missing_ok=True)  # a kill came between writing and renaming
        found = self._usable(header, steps)
        count = 0
        if found is not None:
            count = (found["step"] - first) // self.frames.every
            state = restored(state, found, integrator, self.generator)
        self.frames.writer = TrajectoryWriter(self.file, header, self.dt, keep=count)
        for path in self.checkpoints.files():
            if int(path.stem.split("_")[1]) > state.step:
                path.unlink()
        self.saved = state.step
        return state

    def _usable(self, header: Header, steps: int) -> dict[str, Any] | None:
        """The newest intact checkpoint whose frames are all there; one made because a run ended early serves that end only.

        Where damaged frames lie before the oldest checkpoint, they stay left out: one is not worth the whole run.
        """
        if not self.checkpoints.files():
            return None
        trees, lengths = self.checkpoints.intact(), _lengths(self.file, header)
        for whole in lengths:
            for tree in trees:
                done = tree["step"] - header.first
                if (tree["due"] or tree["step"] == steps) and whole >= done // header.every:
                    return tree
        if self.file.exists():  # hours of work may lie in it
            self.file.replace(self.file.with_name("trajectory.before.mlmd"))
        warnings.warn(
            f"{self.file.parent}: no checkpoint there fits the trajectory; the run begins anew, frames so far are kept in "
            "trajectory.before.mlmd",
            stacklevel=4,
        )
        return None

    def __call__(self, state: State) -> None:
        assert self.frames.writer is not None
        self.frames.writer.flush()
        self.checkpoints.save(state, due=True)
        self.saved = state.step

    def last(self, state: State) -> None:
        """A checkpoint at the end of a run, which need not be where one is due."""
        if state.step != self.saved:
            self.checkpoints.save(state, due=False)

    def finish(self) -> None:
        """Close the trajectory."""
        if self.frames.writer is not None:
            self.frames.writer.close()


def _lengths(file: Path, header: Header) -> tuple[int, ...]:
    """Number of frames before the first damaged one, and of all."""
    try:
        reader = TrajectoryReader(file)
    except (FileNotFoundError, BrokenCheckpoint) as error:
        warnings.warn(str(error), stacklevel=5)
        return ()
    reader.expect(header)
    whole = reader.intact()
    if whole < len(reader):
        warnings.warn(f"{file}: frame {whole} is damaged", stacklevel=5)
    return whole, len(reader)
