"""Results of long runs, kept in files so that an interrupted benchmark goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A result from its file, made if it is not there; arrays as ``.npz``, numbers as ``.json``."""
    if path.suffix == ".json":
        if not path.exists():
            path.write_text(json.dumps(make()))
        return json.loads(path.read_text())
    if not path.exists():
        np.savez(path, **make())
    with np.load(path) as z:
        return dict(z)
