"""The few exceptions of the library. Everything else that can be wrong with an argument is a ``ValueError``."""

from __future__ import annotations

import importlib
from typing import Any


class MissingExtra(ImportError):
    """An optional dependency is absent; names the extra that brings it."""


class Unstable(RuntimeError):
    """A simulation left the finite numbers or passed a limit.

    Attributes:
        step: the first step at which it was noticed.
        systems: indices of the replicas concerned.
        last_good: the last ``State`` before that step.
        reason: quantity, value and atom in words.
        quantity: what went wrong, for instance ``"force"``; value: its value in units of the library; atom: index in the batch.
    """

    def __init__(
        self,
        step: int,
        systems: list[int],
        last_good: Any,
        reason: str = "energy or position not finite",
        *,
        quantity: str = "",
        value: float = float("nan"),
        atom: int | None = None,
    ):
        shown = ", ".join(map(str, systems[:8])) + (", ..." if len(systems) > 8 else "")
        super().__init__(
            f"simulation unstable at step {step}: {reason} in system(s) {shown}. "
            "The last good state is in .last_good; a smaller time step, a longer training or a stiffer prior may help."
        )
        self.step, self.systems, self.last_good, self.reason = step, systems, last_good, reason
        self.quantity, self.value, self.atom = quantity, value, atom


class Diverging(RuntimeError):
    """An iterative method grows worse instead of better; ``last_good`` is its best iteration so far, None if there is none."""

    def __init__(self, message: str, last_good: Any = None):
        super().__init__(message)
        self.last_good = last_good


class StopSimulation(Exception):
    """Raised by a reporter to end a simulation at this step without an error."""


class NeighborOverflow(RuntimeError):
    """A neighbour list with a fixed capacity was too small, even after growing."""


class BrokenCheckpoint(ValueError):
    """A stored file is truncated, altered or of another kind; names the file and what to do."""


class WriteFailed(OSError):
    """A file of a run cannot be written (disk full, permission lost); what was written before stays."""

    def __init__(self, path: Any, error: OSError):
        super().__init__(
            error.errno, f"{path} cannot be written ({error.strerror or error}): make room or choose another folder, then run again"
        )

    def __str__(self) -> str:
        return str(self.args[1])


def require(module: str, *, extra: str) -> Any:
    """Import ``module`` or raise :class:`MissingExtra` that names the pip extra."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(f"{module} is needed here: pip install 'mlmd[{extra}]'") from error
