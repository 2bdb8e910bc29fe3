"""``Settings``: everything a study depends on besides its data, checked on construction."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, get_type_hints

import torch

MAPPINGS = ("learned", "residue", "sequence", "backbone", "alpha_carbon", "random", "molecule", "identity")
POTENTIALS = ("invariant", "schnet", "painn", "prior")


@dataclass(frozen=True)
class Settings:
    """Everything a study depends on besides its data.

    | field | meaning |
    |---|---|
    | n_beads | beads per molecule, for the mappings that take a number |
    | mapping | "learned", or a hand-made one (``MAPPINGS``); ``groups`` overrides it with lists of atom indices |
    | hydrogens | of a learned map: "united" with their heavy atom and left out of the reconstruction error, or "free" |
    | rho | weight of the mean square force in the learned map, A^2/(kcal/mol/A)^2 |
    | weighting | bead at the centre of "mass" or the "centroid" |
    | force_map | forces on beads: "aggregate" (sum over the atoms of a bead) or "optimal" (the exact map with the least noise) |
    | potential | network on top of the prior: "invariant", "schnet", "painn", or "prior" for none |
    | width, depth, cutoff | of the network; cutoff in A for message passing |
    | train_steps, batch, learning_rate | force matching; skipped for data without forces |
    | refine_updates, refine_rate | relative entropy; 0 updates skip it |
    | replicas, simulate_ps, sample_ps | production run: replicas started in one basin, length, time between snapshots |
    | rungs | temperatures of replica exchange up to 2.5 times that of a single molecule of 4 to 40 beads, in refinement and production; 1 for dynamics alone |
    | discard | share of the production run left out at its beginning, while the replicas leave the start basin |
    | temperature | K; 0 takes that of the data |
    | friction | 1/ps |
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
    temperature: float = 0.0
    friction: float = 5.0
    time_step: float = 0.0
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("mapping", MAPPINGS),
            ("potential", POTENTIALS),
            ("hydrogens", ("united", "free")),
            ("force_map", ("aggregate", "optimal")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(allowed)}")
        for name in ("n_beads", "width", "depth", "batch", "replicas", "rungs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        for name in ("cutoff", "learning_rate", "refine_rate", "simulate_ps", "sample_ps", "friction"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be positive")
        for name in ("rho", "train_steps", "refine_updates", "temperature", "time_step"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must not be negative")

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

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Settings:
        """Settings from plain values; unknown names are refused."""
        known = {f.name for f in fields(Settings)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown settings {unknown}: known are {sorted(known)}")
        values = {k: tuple(tuple(g) for g in v) if k == "groups" else v for k, v in values.items()}
        hints = get_type_hints(Settings)
        converted: dict[str, Any] = {k: float(v) if hints[k] is float else v for k, v in values.items()}
        return Settings(**converted)


def device_of(name: str) -> torch.device:
    """The torch device, refused where it does not exist."""
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={name!r}: no CUDA device is available here; use device='cpu' or install a CUDA build of torch")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name!r} is unknown: use 'cpu' or 'cuda'") from error
