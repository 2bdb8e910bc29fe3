"""Propane in the gas phase with OPLS-AA, by OpenMM."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mlmd import units
from mlmd.datasets import alkanes
from mlmd.datasets.recipe import DatasetInfo, Recipe
from mlmd.datasets.sampling import openmm_version, parallel_tempering

HYDROGEN_MASS = 3.0  # amu, while sampling: allows steps of 2 fs and leaves the distribution of positions as it is
FRAME_PS = 2.0

INFO = DatasetInfo(
    name="propane",
    description="propane, one molecule in the gas phase: the smallest case with three beads",
    atoms=11,
    frames=5000,
    temperature=300.0,
    source="OpenMM Langevin dynamics, OPLS-AA (Jorgensen, Maxwell, Tirado-Rives, J. Am. Chem. Soc. 1996, 118, 11225), no constraints",
)


def sample(folder: Path, n_frames: int, seed: int) -> Iterator[int]:
    """Chunks of Langevin dynamics at 300 K from the minimum with all torsions anti; yields frames stored."""
    top = alkanes.topology(3)
    system = alkanes.opls_system(top, hydrogen_mass=HYDROGEN_MASS)
    start = alkanes.positions(3) / units.nm
    yield from parallel_tempering(
        system, start, folder, temperatures=(INFO.temperature,), n_frames=n_frames, frame_ps=FRAME_PS, swap_ps=FRAME_PS, seed=seed
    )


RECIPE = Recipe(
    info=INFO,
    topology=lambda: alkanes.topology(3),
    sample=sample,
    settings={"hydrogen mass while sampling / amu": HYDROGEN_MASS, "constraints": "none", "boundary": "gas phase"},
    frame_ps=FRAME_PS,
    engine=openmm_version,
)
