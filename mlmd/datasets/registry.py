"""The table of data sets. Adding one: a module with a ``RECIPE``, and its row here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mlmd.datasets import alanine, ethane, propane, terphenyl, tetracosane, water
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


def recipe(name: str) -> Recipe:
    """The recipe of one data set.

    Raises:
        ValueError: for an unknown name; lists the known ones.
    """
    if name not in RECIPES:
        raise ValueError(f"{name!r} is no data set; known: {', '.join(sorted(RECIPES))} (see `mlmd data list`)")
    return RECIPES[name]


def load(name: str) -> Frames:
    """The frames that ship with the package, in internal units.

    Raises:
        ValueError: for an unknown name, or a data set that does not ship and must be generated.
    """
    info = recipe(name).info
    if not info.ships:
        raise ValueError(f"{name!r} does not ship with the package: make it with `mlmd data generate {name} --out FOLDER`")
    return unpack(info.file)


def generate(name: str, *, n_frames: int, folder: str | Path, seed: int = 0) -> Iterator[Progress]:
    """Sample a data set anew, chunk by chunk, into ``folder``; a run found there is continued.

    The number of frames is rounded up to whole chunks. A run that was killed continues exactly as if it had not been. Read the
    result with :func:`collect`.

    Raises:
        ValueError: unknown name; n_frames < 1; or a folder with a run of other settings.
        MissingExtra: without the engine (extra ``reference``).
    """
    made = recipe(name)
    if n_frames < 1:
        raise ValueError(f"n_frames={n_frames}: at least one frame is needed")
    return (Progress(n, n_frames) for n in made.sample(Path(folder), n_frames, seed))


def collect(name: str, *folders: str | Path, skip: int = 0, n_frames: int | None = None) -> Frames:
    """The frames that :func:`generate` left in one or more folders, without the first ``skip`` of each."""
    return recipe(name).collect(*folders, skip=skip, n_frames=n_frames)
