"""Checkpoints of a simulation: sealed by a checksum over every byte, several kept, from which a run goes on bit for bit."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mlmd.errors import BrokenCheckpoint, WriteFailed
from mlmd.md.integrators import Integrator
from mlmd.md.state import State
from mlmd.store import pack, unpack, write_atomic

MAGIC = b"MLMDCKP1"
SEAL = hashlib.sha256().digest_size


def write_sealed(path: str | Path, tree: Any) -> Path:
    """Write a nest of tensors, numbers and text; the file is whole or absent and begins with a SHA-256 of all that follows.

    Raises:
        WriteFailed: the disk is full or the folder cannot be written into; an older file of that name stays as it was.
    """
    arrays, skeleton = pack(tree)
    body = io.BytesIO()
    text = np.frombuffer(json.dumps(skeleton).encode(), dtype=np.uint8)
    np.savez(body, __skeleton__=text, **arrays)  # type: ignore[arg-type]
    content = body.getvalue()

    def write(name: str) -> None:
        with open(name, "wb") as f:
            f.write(MAGIC + hashlib.sha256(content).digest() + content)

    try:
        return write_atomic(path, write)
    except OSError as error:
        raise WriteFailed(path, error) from error


def read_sealed(path: str | Path) -> Any:
    """What :func:`write_sealed` wrote, verified.

    Raises:
        BrokenCheckpoint: any bit of it is changed or missing, or it is another kind of file.
    """
    content = Path(path).read_bytes()
    head, seal, body = content[: len(MAGIC)], content[len(MAGIC) : len(MAGIC) + SEAL], content[len(MAGIC) + SEAL :]
    if head != MAGIC:
        raise BrokenCheckpoint(f"{path} is altered or no checkpoint of a simulation")
    if hashlib.sha256(body).digest() != seal:
        raise BrokenCheckpoint(f"{path} is truncated or altered: its checksum does not match its content")
    with np.load(io.BytesIO(body), allow_pickle=False) as z:
        arrays = {k: z[k] for k in z.files}
    return unpack(arrays, json.loads(arrays.pop("__skeleton__").tobytes().decode()))


def described(state: State, generator: torch.Generator | None) -> dict[str, Any]:
    """Everything a run needs to go on: numbers, memory of the integrator, cell, and the state of the noise source."""
    return {
        "step": state.step,
        "positions": state.system.positions,
        "cell": state.system.cell,
        "velocities": state.velocities,
        "forces": state.forces,
        "energy": state.energy,
        "frozen": state.frozen,
        "memory": [x for x in pytree.tree_leaves(state.memory) if isinstance(x, Tensor)],
        "generator": _source(generator, state.energy.device).get_state(),
    }


def restored(state: State, tree: dict[str, Any], integrator: Integrator, generator: torch.Generator | None) -> State:
    """``state`` as it was when ``tree`` was described; the noise source is put back too.

    Raises:
        ValueError: the checkpoint is of other systems, of another precision or of another integrator.
    """
    device = state.energy.device
    for name, mine in (("positions", state.system.positions), ("cell", state.system.cell)):
        if tree[name].shape != mine.shape or tree[name].dtype != mine.dtype:
            raise ValueError(
                f"checkpoint holds {name} of shape {tuple(tree[name].shape)} and {tree[name].dtype}, this state has "
                f"{tuple(mine.shape)} and {mine.dtype}: give the system it was made with, or another folder"
            )
    x, cell, v, f, energy = (tree[k].to(device) for k in ("positions", "cell", "velocities", "forces", "energy"))
    cell = state.system.cell if torch.equal(cell, state.system.cell) else cell
    frozen = None if tree["frozen"] is None else tree["frozen"].to(device)
    system = replace(state.system, positions=x, cell=cell)
    state = integrator.init(State(system, v, f, energy, tree["step"], None, None, frozen))
    _source(generator, device).set_state(tree["generator"])
    return replace(state, memory=_refilled(state.memory, tree["memory"]), owner=integrator)


def _refilled(memory: Any, stored: list[Tensor]) -> Any:
    """``memory`` with the stored tensors in the place of its own."""
    leaves, spec = pytree.tree_flatten(memory)
    own = [x for x in leaves if isinstance(x, Tensor)]
    if [x.shape for x in own] != [x.shape for x in stored]:
        raise ValueError("the checkpoint was made with another integrator: give the same one, or another folder")
    values = iter(stored)
    return pytree.tree_unflatten([next(values).to(x) if isinstance(x, Tensor) else x for x in leaves], spec)


def _source(generator: torch.Generator | None, device: torch.device) -> torch.Generator:
    if generator is not None:
        return generator
    return torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator


class Checkpoint:
    """Reporter that keeps the last ``keep`` checkpoints of a simulation in a folder.

    The simulation makes a new neighbour list after each, so that one which begins there uses the same lists: :func:`resume`.

    Args:
        folder: where ``checkpoint_*.ckpt`` are written. every: steps between two.
        generator: the source of noise that the simulation uses (None: the default one). keep: at least 2.
    """

    fresh_list = True

    def __init__(self, folder: str | Path, every: int, generator: torch.Generator | None = None, keep: int = 2):
        if keep < 2 or every < 1:
            raise ValueError(f"keep={keep}, every={every}: keep at least 2 checkpoints, write at most one per step")
        self.folder, self.every, self.generator, self.keep = Path(folder), every, generator, keep

    def __call__(self, state: State) -> None:
        self.save(state)

    def save(self, state: State, **more: Any) -> Path:
        """Write one now, with more numbers or text; older ones beyond ``keep`` are removed afterwards."""
        path = write_sealed(self.folder / f"checkpoint_{state.step:012d}.ckpt", described(state, self.generator) | more)
        for old in self.files()[: -self.keep]:
            old.unlink(missing_ok=True)
        return path

    def files(self) -> list[Path]:
        """All checkpoints, the oldest first."""
        return sorted(self.folder.glob("checkpoint_*.ckpt"))

    def intact(self) -> list[dict[str, Any]]:
        """Content of the checkpoints that are whole, the newest first; the others are named in warnings."""
        found = []
        for path in reversed(self.files()):
            try:
                found.append(read_sealed(path))
            except (BrokenCheckpoint, OSError) as error:
                warnings.warn(f"{error}; using the checkpoint before", stacklevel=2)
        return found


def resume(
    folder: str | Path, state: State, integrator: Integrator, generator: torch.Generator | None = None, *, step: int | None = None
) -> State:
    """The newest intact checkpoint in ``folder`` (or that of a given ``step``) as a state to go on from; ``state`` if there is none.

    Args:
        folder: where a :class:`Checkpoint` wrote. state: gives masses, types and periodicity, which are not stored.
        integrator: as in the run before. generator: is set to what it was.

    Raises:
        ValueError: see :func:`restored`; or no intact checkpoint of that step.
    """
    for tree in Checkpoint(folder, 1).intact():
        if step is None or tree["step"] == step:
            return restored(state, tree, integrator, generator)
    if step is not None:
        raise ValueError(f"step={step}: {folder} holds no intact checkpoint of it")
    return state
