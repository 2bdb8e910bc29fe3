"""``Settings``: everything a study depends on besides its data, checked on construction."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Self, get_type_hints

import torch

MAPPINGS = ("learned", "residue", "sequence", "backbone", "alpha_carbon", "random", "molecule", "identity")
POTENTIALS = ("invariant", "schnet", "painn", "prior")


@dataclass(frozen=True)
class MapSettings:
    """What every study depends on besides its data: the map, and the surroundings.

    | field | meaning |
    |---|---|
    | n_beads | beads per molecule, for the mappings that take a number |
    | mapping | "learned", or a hand-made one (``MAPPINGS``); ``groups`` overrides it with lists of atom indices |
    | hydrogens | of a learned map: "united" with their heavy atom and left out of the reconstruction error, or "free" |
    | rho | weight of the mean square force in the learned map, A^2/(kcal/mol/A)^2 |
    | weighting | bead at the centre of "mass" or the "centroid" |
    | force_map | forces on beads: "aggregate" (sum over the atoms of a bead) or "optimal" (the exact map with the least noise) |
    | temperature | K; 0 takes that of the data |
    | time_step | fs; 0 chooses it from the stiffest mode |
    | seed, device | |
    """

    n_beads: int = 6
    mapping: str = "learned"
    groups: tuple[tuple[int, ...], ...] = ()
    hydrogens: str = "united"
    rho: float = 1e-4
    weighting: str = "mass"
    force_map: str = "optimal"
    temperature: float = 0.0
    time_step: float = 0.0
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        one_of(self, "mapping", MAPPINGS)
        one_of(self, "hydrogens", ("united", "free"))
        one_of(self, "force_map", ("aggregate", "optimal"))
        at_least(self, 1, "n_beads")
        at_least(self, 0, "rho", "temperature", "time_step")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Settings from plain values; unknown names are refused."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown settings {unknown}: known are {sorted(known)}")
        values = {k: tuple(tuple(g) for g in v) if k == "groups" else v for k, v in values.items()}
        hints = get_type_hints(cls)
        converted: dict[str, Any] = {k: float(v) if hints[k] is float else v for k, v in values.items()}
        return cls(**converted)


@dataclass(frozen=True)
class Settings(MapSettings):
    """Everything a :class:`mlmd.cg.study.Study` depends on besides its data: a :class:`MapSettings`, and

    | field | meaning |
    |---|---|
    | potential | network on top of the prior: "invariant", "schnet", "painn", or "prior" for none |
    | width, depth, cutoff | of the network; cutoff in A for message passing |
    | train_steps, batch, learning_rate | force matching; skipped for data without forces |
    | refine_updates, refine_rate | relative entropy; 0 updates skip it |
    | replicas, simulate_ps, sample_ps | production run: replicas started in one basin, length, time between snapshots |
    | rungs | temperatures of replica exchange up to 2.5 times that of a single molecule of 4 to 40 beads, in refinement and production; 1 for dynamics alone |
    | discard | share of the production run left out at its beginning, while the replicas leave the start basin |
    | friction | 1/ps |
    """

    potential: str = "invariant"
    width: int = 128
    depth: int = 3
    cutoff: float = 12.0
    train_steps: int = 2000
    batch: int = 256
    learning_rate: float = 1e-3
    refine_updates: int = 600
    refine_rate: float = 1e-4
    replicas: int = 300
    simulate_ps: float = 36.0
    sample_ps: float = 0.06
    rungs: int = 4
    discard: float = 0.3
    friction: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "potential", POTENTIALS)
        at_least(self, 1, "width", "depth", "batch", "replicas", "rungs")
        positive(self, "cutoff", "learning_rate", "refine_rate", "simulate_ps", "sample_ps", "friction")
        at_least(self, 0, "train_steps", "refine_updates")

    def fast(self) -> Settings:
        """The same study in well under a minute, for tests and a first look: every stage is real but short."""
        short = replace(
            self,
            train_steps=min(self.train_steps, 200),
            refine_updates=min(self.refine_updates, 30),
            replicas=min(self.replicas, 64),
            simulate_ps=min(self.simulate_ps, 10.0),
            sample_ps=min(self.sample_ps, 0.1),
        )
        if self.potential in ("schnet", "painn"):  # a step costs some thirty times as much
            return replace(
                short,
                train_steps=min(self.train_steps, 50),
                refine_updates=min(self.refine_updates, 5),
                replicas=16,
                simulate_ps=2.0,
            )
        return short


def one_of(settings: object, name: str, allowed: tuple[str, ...]) -> None:
    """Refuse a field that is none of the allowed words."""
    if getattr(settings, name) not in allowed:
        raise ValueError(f"{name}={getattr(settings, name)!r}: choose one of {', '.join(allowed)}")


def at_least(settings: object, least: int, *names: str) -> None:
    """Refuse fields below ``least``."""
    for name in names:
        if not getattr(settings, name) >= least:
            word = "must not be negative" if least == 0 else f"must be at least {least}"
            raise ValueError(f"{name}={getattr(settings, name)}: {word}")


def positive(settings: object, *names: str) -> None:
    """Refuse fields that are not above zero."""
    for name in names:
        if not getattr(settings, name) > 0:
            raise ValueError(f"{name}={getattr(settings, name)}: must be positive")


def device_of(name: str) -> torch.device:
    """The torch device, refused where it does not exist."""
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={name!r}: no CUDA device is available here; use device='cpu' or install a CUDA build of torch")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name!r} is unknown: use 'cpu' or 'cuda'") from error
