"""What all studies share: results that know which stage makes them, logs and times of every stage, and results kept in a folder."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import nn

from mlmd import __version__, store
from mlmd.errors import BrokenCheckpoint
from mlmd.frames import Frames

Log = dict[str, Any]


class Ledger:
    """Results, logs and times of stages that build on one another.

    ``history`` holds the logs of every stage by its name, ``timings`` its seconds.

    Args:
        made_by: name of every result -> stage that makes it, in the order in which they depend on one another.
        lasting: results that setting another one leaves as they are, by the name of that other one.
    """

    def __init__(self, made_by: Mapping[str, str], lasting: Mapping[str, frozenset[str]] | None = None):
        self.history: dict[str, list[Log]] = {}
        self.timings: dict[str, float] = {}
        self._made_by, self._lasting = dict(made_by), dict(lasting or {})
        self._results: dict[str, Any] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._results

    def __getitem__(self, name: str) -> Any:
        if name not in self._results:
            raise RuntimeError(f"{name} is not there yet: run study.{self._made_by[name]}() first")
        return self._results[name]

    def __setitem__(self, name: str, value: Any) -> None:
        """Store a result and forget those that depended on an earlier one of that name, so that nothing stale is ever shown."""
        order = list(self._made_by)
        for later in set(order[order.index(name) + 1 :]) - self._lasting.get(name, frozenset()):
            self._results.pop(later, None)
        self._results[name] = value

    def derive(self, name: str, value: Any) -> None:
        """Store what only follows from other results, made when first asked for: nothing is forgotten."""
        self._results[name] = value

    def note(self, stage: str, **values: Any) -> Log:
        """A log of a stage, kept in the history."""
        log = {"stage": stage, **values}
        self.history.setdefault(stage, []).append(log)
        return log

    def timed(self, stage: str) -> AbstractContextManager[None]:
        """Adds the seconds of a ``with`` block to the timings, unless the block has put a stored time there."""
        return _Timer(self.timings, stage)

    def keep(self, path: Path, stage: str, state: Any, began: float) -> None:
        """Write the result of a finished stage with its logs and the seconds since ``began`` (``time.perf_counter``)."""
        store.save_tree(path, {"state": state, "history": self.history.get(stage, []), "seconds": time.perf_counter() - began})

    def take(self, path: Path, stage: str, use: Callable[[Any], object]) -> bool:
        """Hand a stored result to ``use``; a file that is damaged or of another version is left alone, with a warning.

        Returns:
            Whether there was one that could be used.
        """
        if not path.exists():
            return False
        try:
            tree = store.load_tree(path)
            use(tree["state"])
        except (BrokenCheckpoint, KeyError, RuntimeError) as error:
            warnings.warn(f"{path.name} cannot be used ({error}); the stage is run again", stacklevel=3)
            return False
        self.history[stage] = tree["history"]
        self.timings[stage] = tree["seconds"]
        return True


class _Timer:
    """Adds the seconds of a ``with`` block to a table, unless the block has put a stored time there."""

    def __init__(self, table: dict[str, float], stage: str):
        self.table, self.stage = table, stage

    def __enter__(self) -> None:
        self.table.pop(self.stage, None)
        self.began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.table.setdefault(self.stage, time.perf_counter() - self.began)


def key_of(*parts: Any) -> str:
    """A short name for plain values and the version of the library: equal for equal values, else another one."""
    text = json.dumps([__version__, *parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def digest_of_parameters(module: nn.Module) -> str:
    """A hash of all parameters: results of one potential are never taken for those of another."""
    digest = hashlib.sha256()
    for value in module.state_dict().values():
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def digest_of_frames(frames: Frames) -> str:
    """A hash of positions, forces and cells."""
    digest = hashlib.sha256()
    for part in (frames.positions, frames.forces, frames.cell):
        if part is not None:
            digest.update(part.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def plain(value: Any) -> Any:
    """NumPy numbers and arrays for JSON."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
