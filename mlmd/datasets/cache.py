"""Where data sets too large to ship are kept: ``~/.cache/mlmd``, or where the environment variable ``MLMD_CACHE`` says."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "MLMD_CACHE"


def cache_folder() -> Path:
    """The folder of generated data sets; it need not exist."""
    return Path(os.environ.get(VARIABLE) or Path.home() / ".cache" / "mlmd")


def run_folder(name: str, n_molecules: int | None = None) -> Path:
    """Where ``mlmd data generate NAME`` puts a run unless told otherwise; other sizes than the usual one have a folder of their own."""
    return cache_folder() / (name if n_molecules is None else f"{name}-{n_molecules}")
