"""What one data set consists of: a description, a way to sample it, and a way to read what was sampled."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from mlmd import units
from mlmd.datasets.chunks import read_chunks
from mlmd.datasets.liquids import measured_density
from mlmd.frames import Frames

if TYPE_CHECKING:
    import mdtraj

DATA = Path(__file__).parent / "data"


class Progress(NamedTuple):
    """Frames on disk so far, and how many were asked for."""

    frames: int
    total: int


@dataclass(frozen=True)
class DatasetInfo:
    """A row of the table of data sets.

    | field | meaning |
    |---|---|
    | atoms | particles in a frame |
    | frames | frames that ship with the package; 0: must be generated |
    | temperature | kelvin |
    | source | how it was made: force field, engine, solvent |
    """

    name: str
    description: str
    atoms: int
    frames: int
    temperature: float
    source: str

    @property
    def ships(self) -> bool:
        """Whether frames come with the package."""
        return self.frames > 0

    @property
    def file(self) -> Path:
        """Where the shipped frames lie."""
        return DATA / f"{self.name}.npz"


@dataclass(frozen=True)
class Recipe:
    """How the frames of one data set are made.

    ``sample(folder, n_frames, seed)`` writes chunks into the folder, resumes a run it finds there, and yields the number of frames
    stored. ``settings`` (text and numbers: force field, time step, ...) go into the provenance. ``constraints`` lists the pairs of atoms
    that were held at their distance, ``sites`` gives masses (eV fs^2/A^2) and integer types where they are not those of the elements, and
    ``resized(n_molecules)`` is the same recipe for another number of molecules, where there is one.
    """

    info: DatasetInfo
    topology: Callable[[], mdtraj.Topology]
    sample: Callable[[Path, int, int], Iterator[int]]
    settings: dict[str, Any]
    frame_ps: float
    engine: Callable[[], str]
    constraints: Callable[[], list[tuple[int, int]]] | None = None
    sites: Callable[[], tuple[torch.Tensor, torch.Tensor]] | None = None
    resized: Callable[[int], Recipe] | None = None

    def collect(self, *folders: str | Path, skip: int = 0, n_frames: int | None = None) -> Frames:
        """Frames of the given runs one after another, without the first ``skip`` of each, at most ``n_frames`` in all.

        Raises:
            ValueError: if a folder holds no run, or nothing would be left.
        """
        runs = [read_chunks(f) for f in folders]
        size = [len(r["energies"]) - skip for r in runs]
        if skip < 0 or min(size) < 1 or (n_frames is not None and n_frames < 1):
            raise ValueError(f"skip={skip}, n_frames={n_frames} leave nothing of runs with {[n + skip for n in size]} frames")

        def join(key: str, unit: float) -> torch.Tensor:
            return torch.cat([torch.from_numpy(r[key][skip:]) * unit for r in runs])[:n_frames]

        positions = join("positions", units.nm)
        acceptance = [round(float(r["acceptance"]), 4) for r in runs if "acceptance" in r]
        rigid = None if self.constraints is None else torch.tensor(self.constraints()).reshape(-1, 2)
        masses, types = (None, None) if self.sites is None else self.sites()
        return Frames(
            positions=positions,
            topology=self.topology(),
            cell=join("cell", units.nm) if "cell" in runs[0] else None,
            constraints=rigid,
            masses=masses,
            types=types,
            forces=join("forces", units.kJ_mol / units.nm),
            energies=join("energies", units.kJ_mol),
            time=torch.arange(len(positions), dtype=torch.float64) * (self.frame_ps * units.ps),
            kT=self.info.temperature * units.kelvin,
            provenance={
                "data set": self.info.name, "source": self.info.source, "engine": self.engine(), "frames of each run": size,
                "dropped at the start of each run": skip, "exchange acceptance": acceptance, **self.settings,
                "runs": [json.loads((Path(f) / "settings.json").read_text()) for f in folders],
                **_densities(folders),
            },
        )  # fmt: skip


def _densities(folders: tuple[str | Path, ...]) -> dict[str, Any]:
    """Densities of runs that began at constant pressure, g/cm^3, and the standard error."""
    found = [measured_density(f) for f in folders if any(Path(f).glob("equilibration_*.npz"))]
    return {"density at constant pressure / g/cm3": [[round(d.mean, 5), round(d.error, 5)] for d in found]} if found else {}
