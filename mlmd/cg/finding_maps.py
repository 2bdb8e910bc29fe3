"""The map of a study: learned or made by hand as its settings say, with the force map of least noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mlmd import units
from mlmd.cg import autoencoder, force_map
from mlmd.cg import mapping as maps
from mlmd.cg.groups import united_atoms
from mlmd.cg.mapping import Mapping
from mlmd.cg.settings import MapSettings
from mlmd.frames import Frames


@dataclass(frozen=True, eq=False)
class MapLog:
    """Where the search is; the last one carries the mapping, how it was learned (None: made by hand) and the noise of its forces."""

    values: dict[str, Any]
    mapping: Mapping | None = None
    learned: autoencoder.AutoencoderResult | None = None
    noise: force_map.NoiseReport | None = None


def find_map(frames: Frames, settings: MapSettings) -> Iterator[MapLog]:
    """Learn or make the map of the frames, shared by all molecules if there are several equal ones.

    Raises:
        ValueError: more beads than atoms, molecules of different kinds, groups that do not fit.
    """
    learned = None
    if settings.mapping == "learned" and not settings.groups:
        for log in autoencoder.learn_mapping(frames, settings.n_beads, **autoencoder_options(frames, settings)):
            yield MapLog({"step": log.step, "steps": log.steps, "loss": log.loss, "temperature": log.temperature})
            learned = log.result or learned
        assert learned is not None
        mapping = learned.mapping
    else:
        mapping = hand_made(frames, settings)
    noise = None
    if settings.force_map == "optimal" and frames.forces is not None and mapping.n_beads < mapping.n_atoms:
        mapping, noise = with_least_noise(mapping, frames)
    yield MapLog({"beads": mapping.n_beads}, mapping, learned, noise)


def autoencoder_options(frames: Frames, settings: MapSettings) -> dict[str, Any]:
    """Arguments of :func:`mlmd.cg.autoencoder.learn_mapping` that the settings stand for.

    rho is dropped for data without forces. United hydrogens come with a penalty (1 A^2 for every piece too many) on beads whose atoms
    do not hang together.
    """
    molecule = maps.molecule_of(frames)
    options: dict[str, Any] = {
        "rho": settings.rho / units.kcal_mol**2 if frames.forces is not None else 0.0,
        "weighting": settings.weighting,
        "seed": settings.seed,
    }
    heavy = [float(z != 1) for z in molecule.elements]
    if settings.hydrogens == "united" and any(heavy) and not all(heavy):
        options |= {"together": united_atoms(molecule.elements, molecule.bonds), "importance": heavy, "disconnected_penalty": 1.0}
    return options


def hand_made(frames: Frames, settings: MapSettings) -> Mapping:
    """The mapping that the settings name, or that of their groups."""
    weighting: Any = settings.weighting
    if settings.groups:
        return maps.by_groups(frames, settings.groups, weighting)
    n = settings.n_beads
    makers: dict[str, Any] = {
        "residue": lambda: maps.by_residue(frames, weighting),
        "alpha_carbon": lambda: maps.alpha_carbon(frames),
        "sequence": lambda: maps.sequence(frames, n, weighting),
        "backbone": lambda: maps.backbone(frames, n, weighting),
        "random": lambda: maps.random(frames, n, seed=settings.seed, weighting=weighting),
        "molecule": lambda: maps.molecule(frames, weighting),
        "identity": lambda: maps.select_atoms(frames, list(range(maps.molecule_of(frames).n))),
    }
    return makers[settings.mapping]()


def with_least_noise(mapping: Mapping, frames: Frames, most: int = 5000) -> tuple[Mapping, force_map.NoiseReport]:
    """The mapping with the exact force map of least noise, fitted on at most ``most`` frames, and the noise before and after."""
    assert frames.forces is not None
    some = frames.forces[:: max(1, len(frames) // most)].reshape(-1, mapping.n_atoms, 3).double()
    weights, report = force_map.optimise(mapping.weights, some, maps.molecule_of(frames).constraints)
    return mapping.with_force_weights(weights, **{"force map": "optimal"}), report
