"""Checkpoints: numbered files of tensors and numbers, each with a checksum; the previous one is kept."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from mlmd.errors import BrokenCheckpoint
from mlmd.store import load_tree, save_tree


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
