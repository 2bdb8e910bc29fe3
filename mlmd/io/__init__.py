"""The doors: files of other programs in, ``Frames`` in internal units out. Units are converted here and nowhere else."""

from mlmd.io.checks import (
    BondWarning,
    ConstraintWarning,
    DuplicateWarning,
    Finding,
    InputWarning,
    UnitWarning,
    VirialWarning,
    audit,
    require_frames,
    source_of,
)
from mlmd.io.reader import read
from mlmd.io.virial import Virial, virial

__all__ = [
    "BondWarning",
    "ConstraintWarning",
    "DuplicateWarning",
    "Finding",
    "InputWarning",
    "UnitWarning",
    "Virial",
    "VirialWarning",
    "audit",
    "read",
    "require_frames",
    "source_of",
    "virial",
]
