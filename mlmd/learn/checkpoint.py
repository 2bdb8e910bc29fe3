"""Checkpoints: nested dicts and lists of tensors and numbers in numbered files, each with a checksum; the previous one is kept."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlmd.errors import BrokenCheckpoint
from mlmd.store import read_npz, write_npz

KIND = "mlmd.checkpoint"


def pack(tree: Any) -> tuple[dict[str, np.ndarray], Any]:
    """Split a nest of dict, list, tuple, tensor, number and text into arrays and a JSON-able skeleton."""
    arrays: dict[str, np.ndarray] = {}

    def visit(node: Any) -> Any:
        if isinstance(node, Tensor):
            name = f"t{len(arrays)}"
            arrays[name] = node.detach().cpu().numpy()
            return {"tensor": name}
        if isinstance(node, dict):
            return {"dict": [[visit(k), visit(v)] for k, v in node.items()]}
        if isinstance(node, (list, tuple)):
            return {"tuple" if isinstance(node, tuple) else "list": [visit(v) for v in node]}
        if node is None or isinstance(node, (bool, int, float, str)):
            return node
        raise TypeError(f"{type(node).__name__} cannot be stored in a checkpoint: only tensors, numbers, text, dicts and lists")

    return arrays, visit(tree)


def unpack(arrays: dict[str, np.ndarray], skeleton: Any) -> Any:
    """Inverse of :func:`pack`."""
    if not isinstance(skeleton, dict):
        return skeleton
    ((kind, value),) = skeleton.items()
    if kind == "tensor":
        return torch.from_numpy(arrays[value])
    if kind == "dict":
        return {unpack(arrays, k): unpack(arrays, v) for k, v in value}
    items = [unpack(arrays, v) for v in value]
    return tuple(items) if kind == "tuple" else items


def save_tree(path: str | Path, tree: Any) -> Path:
    """Write one nest of tensors and numbers."""
    arrays, skeleton = pack(tree)
    return write_npz(path, arrays, {"kind": KIND, "skeleton": skeleton})


def load_tree(path: str | Path) -> Any:
    """Read what :func:`save_tree` wrote.

    Raises:
        BrokenCheckpoint: damaged or of another kind.
    """
    arrays, meta = read_npz(path, kind=KIND)
    return unpack(arrays, meta["skeleton"])


def save_checkpoint(folder: str | Path, step: int, tree: Any, keep: int = 2) -> Path:
    """Write ``step_00000123.npz`` and remove all but the newest ``keep``."""
    path = save_tree(Path(folder) / f"step_{step:08d}.npz", tree)
    for old in sorted(Path(folder).glob("step_*.npz"))[:-keep]:
        old.unlink()
    return path


def load_latest(folder: str | Path) -> Any | None:
    """The newest checkpoint of a folder that is intact, with a warning for each damaged one; None if there is none at all.

    Raises:
        BrokenCheckpoint: if there are checkpoints and all are damaged.
    """
    files = sorted(Path(folder).glob("step_*.npz"), reverse=True)
    for path in files:
        try:
            return load_tree(path)
        except BrokenCheckpoint as error:
            warnings.warn(f"{error}; trying the one before", stacklevel=2)
    if files:
        raise BrokenCheckpoint(f"no checkpoint in {folder} is readable: remove the folder to start afresh")
    return None
