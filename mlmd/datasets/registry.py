"""The table of data sets. Adding one: a module with a ``RECIPE``, and its row here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mlmd.datasets import alanine, ethane, propane, terphenyl, tetracosane, water
from mlmd.datasets.cache import run_folder
from mlmd.datasets.recipe import DatasetInfo, Progress, Recipe
from mlmd.frames import Frames
from mlmd.io.packed import unpack

_ALL = (
    alanine.RECIPE,
    propane.RECIPE,
    terphenyl.RECIPE,
    ethane.RECIPE,
    tetracosane.RECIPE,
    water.SPCE_RECIPE,
    water.TIP4P2005_RECIPE,
)
RECIPES: dict[str, Recipe] = {r.info.name: r for r in _ALL}


def available() -> list[DatasetInfo]:
    """What can be loaded or generated."""
    return [r.info for r in RECIPES.values()]


def recipe(name: str, n_molecules: int | None = None) -> Recipe:
    """The recipe of one data set, for another number of molecules if asked.

    Raises:
        ValueError: for an unknown name (lists the known ones), or a size given for what is a single molecule.
    """
    if name not in RECIPES:
        raise ValueError(f"{name!r} is no data set; known: {', '.join(sorted(RECIPES))} (see `mlmd data list`)")
    made = RECIPES[name]
    if n_molecules is None:
        return made
    if made.resized is None:
        raise ValueError(f"n_molecules={n_molecules}: {name!r} is a single molecule; only liquids come in sizes")
    return made.resized(n_molecules)


def load(name: str) -> Frames:
    """The frames that ship with the package, in internal units.

    Raises:
        ValueError: for an unknown name, or a data set that does not ship and must be generated.
    """
    info = recipe(name).info
    if not info.ships:
        raise ValueError(f"{name!r} does not ship with the package: make it with `mlmd data generate {name} --frames N`")
    return unpack(info.file)


def generated(name: str, n_molecules: int | None = None) -> Frames:
    """All frames that ``mlmd data generate NAME`` left in the cache folder; the file is verified by its SHA-256.

    Raises:
        ValueError: for an unknown name, or if nothing was generated there.
        BrokenCheckpoint: if the file is truncated or altered.
    """
    recipe(name, n_molecules)
    path = run_folder(name, n_molecules) / f"{name}.npz"
    if not path.is_file():
        size = "" if n_molecules is None else f" --molecules {n_molecules}"
        raise ValueError(f"{path} is not there: make it with `mlmd data generate {name}{size} --frames N`")
    return Frames.load(path)


def generate(name: str, *, n_frames: int, folder: str | Path, seed: int = 0, n_molecules: int | None = None) -> Iterator[Progress]:
    """Sample a data set anew, chunk by chunk, into ``folder``; a run found there is continued.

    The number of frames is rounded up to whole chunks. A run that was killed continues exactly as if it had not been. Read the
    result with :func:`collect`.

    Raises:
        ValueError: unknown name; n_frames < 1; a size for what has none; or a folder with a run of other settings.
        MissingExtra: without the engine (extra ``reference``).
    """
    made = recipe(name, n_molecules)
    if n_frames < 1:
        raise ValueError(f"n_frames={n_frames}: at least one frame is needed")
    return (Progress(n, n_frames) for n in made.sample(Path(folder), n_frames, seed))


def collect(name: str, *folders: str | Path, skip: int = 0, n_frames: int | None = None, n_molecules: int | None = None) -> Frames:
    """The frames that :func:`generate` left in one or more folders, without the first ``skip`` of each."""
    return recipe(name, n_molecules).collect(*folders, skip=skip, n_frames=n_frames)
