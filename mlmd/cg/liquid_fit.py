"""The potential of a bead liquid, fitted by the method that the settings name: what :class:`mlmd.cg.liquid_study.LiquidStudy` refines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlmd import store, units
from mlmd.cg.boltzmann_inversion import IterativeBoltzmannInversion, boltzmann_inversion
from mlmd.cg.hypernetted_chain import hypernetted_chain_inversion
from mlmd.cg.inverse_monte_carlo import InverseMonteCarlo
from mlmd.cg.liquid_bonded import Coefficients
from mlmd.cg.liquid_comparison import Structure
from mlmd.cg.liquid_networks import LiquidNetwork, liquid_network, train_network
from mlmd.cg.liquid_sampler import LiquidSampler
from mlmd.cg.liquid_settings import LiquidSettings
from mlmd.cg.pair_core import KeepingCore, with_core
from mlmd.cg.pair_force_matching import match_pair_forces
from mlmd.cg.pair_relative_entropy import PairRelativeEntropy
from mlmd.cg.refine_molecules import MoleculeIteration, refine_molecules
from mlmd.cg.stages import Log
from mlmd.cg.structure_loop import Correction, Iteration, PressureGoal, noise_floor, refine_pairs
from mlmd.errors import BrokenCheckpoint, Diverging
from mlmd.frames import Frames
from mlmd.md import rest
from mlmd.potentials.compose import Potential, Sum
from mlmd.potentials.pair import Excluding

PRESSED = 50 * units.bar  # a pressure this near to the one that is wanted is right
MATCHED_FRAMES = 300  # frames that pair forces are matched on
CORRECTIONS: dict[str, Callable[[LiquidSettings, float], Correction]] = {
    "ibi": lambda s, kT: IterativeBoltzmannInversion(
        kT, damping=s.damping, pressure=None if s.pressure is None else s.pressure * units.bar
    ),
    "imc": lambda s, kT: InverseMonteCarlo(kT, step=s.damping),
    "relative-entropy": lambda s, kT: PairRelativeEntropy(kT, step=s.damping),
}


@dataclass(frozen=True, eq=False)
class Fitted:
    """One potential and what was seen of it: values (R, I) of the pairs and coefficients of the bonded terms, eV; the g(r) (R, B) of its
    sample; mean and largest abs deviation of g over pairs of types and bins; whether it met the tolerance."""

    values: Tensor
    coefficients: Coefficients
    g: np.ndarray
    mean: float
    largest: float
    converged: bool


def first_guess(sampler: LiquidSampler) -> Tensor:
    """(R, I) values in eV: the hypernetted-chain inversion for single beads, the Boltzmann inversion for molecules."""
    target, basis, kT = sampler.target, sampler.basis, sampler.kT
    if sampler.molecules is None:
        return hypernetted_chain_inversion(target, basis, kT, sampler.state.system)
    return with_core(boltzmann_inversion(target, basis, kT), target, basis)


class PotentialFit:
    """Fits the potential of one liquid; ``best`` is the best one that was sampled so far.

    Args:
        settings: method, potential and their numbers. beads: the reference. sampler: of the box. structure: what is counted.
        guess: (R, I) first values in eV. kT: eV.

    Raises:
        ValueError: a method or potential that does not go with the beads.
    """

    def __init__(
        self, settings: LiquidSettings, beads: Frames, sampler: LiquidSampler, structure: Structure, guess: Tensor, kT: float
    ):
        if settings.potential != "splines" and structure.molecules is None:
            raise ValueError(
                f"potential={settings.potential!r}: networks are for molecules of at least two beads here, take potential='splines' or more beads"
            )
        if settings.method == "force-matching" and (settings.potential != "splines" or beads.forces is None):
            raise ValueError(
                "method='force-matching': splines are matched to forces, of data that have them and without a network below; take "
                "'relative-entropy' or 'ibi'"
            )
        self.settings, self.beads, self.sampler, self.structure, self.kT = settings, beads, sampler, structure, kT
        self.bonded = structure.bonded if settings.bonded == "splines" else None  # what is corrected besides pairs
        self._start = guess, () if self.bonded is None else self.bonded.inversion(kT)
        self._best: Fitted | None = None
        self.network: LiquidNetwork | None = None
        if settings.potential != "splines":
            assert structure.molecules is not None
            kind: Any = settings.potential
            self.network = liquid_network(
                beads, structure.molecules, kind=kind, cutoff=settings.network_cutoff, features=settings.width,
                interactions=settings.depth, kT=kT, seed=settings.seed,
            )  # fmt: skip

    @property
    def best(self) -> Fitted:
        """Of all that were sampled."""
        if self._best is None:
            raise RuntimeError("nothing was sampled yet: run the fit first")
        return self._best

    def run(self, part: Path, history: list[Log]) -> Iterator[Log]:
        """Train the network if there is one, then correct the splines; what is finished lies in ``part`` until all is.

        Raises:
            Diverging: if already the first potential drives the box apart.
        """
        yield from self._train(part)
        done = self._resumed(part, history)
        try:
            for count, log in enumerate(self._iterations(self.settings.iterations - done), start=done + 1):
                self._take(log)
                self._save(part, log, count, history)
                yield {"iteration": count, "step": count, **self._numbers(log)}
        except Diverging as error:
            if self._best is None:
                raise
            yield {"trouble": f"{error.args[0]} (here: a smaller damping, or a longer iteration_ps)"}
        part.unlink(missing_ok=True)

    def potential(self) -> Potential:
        """The best one as an energy function of the whole liquid."""
        self._set_bonded(self.best.coefficients)
        return self.sampler.potential(self.best.values)

    def plain(self) -> Potential:
        """The same without compiled loops or tables of a network, as it is stored, trained on and handed to other engines."""
        law, m = self.sampler.basis.law(self.best.values), self.structure.molecules
        if m is None:
            return law
        bonded = m.bonded if self.bonded is None else self.bonded.bonded(self.best.coefficients)
        between: Potential = Excluding(law, m.bonds, m.size, m.hops)
        if self.network is not None:
            between = Sum(between, Excluding(self.network.repulsion, m.bonds, m.size, m.hops), self.network.network)
        return Sum(between, bonded)

    def state(self) -> dict[str, Any]:
        """The result, for a file."""
        b = self.best
        numbers = {"mean": b.mean, "largest": b.largest, "converged": b.converged}
        network = None if self.network is None else self.network.network.state_dict()
        return {"values": b.values, "coefficients": list(b.coefficients), "g": torch.from_numpy(b.g), "network": network, **numbers}

    def restore(self, tree: dict[str, Any]) -> None:
        """Inverse of :meth:`state`."""
        if self.network is not None:
            self.network.network.load_state_dict(tree["network"])
            self._deploy_network()
        g = tree["g"].numpy()
        self._best = Fitted(tree["values"], tuple(tree["coefficients"]), g, tree["mean"], tree["largest"], bool(tree["converged"]))

    # -- inner workings ---------------------------------------------------------------------------------------------------

    def _train(self, part: Path) -> Iterator[Log]:
        """Force matching of the network; the splines on top then begin with zeros."""
        if self.network is None:
            return
        s = self.settings
        if self.beads.forces is not None and s.train_steps:
            checkpoint = str(part.with_name(part.stem.replace(".part", "-network")))
            every = max(1, s.train_steps // 20)
            logs = train_network(self.network, self.beads, steps=s.train_steps, every=every, seed=s.seed, checkpoint=checkpoint)
            for log in logs:
                yield {"training": True, "steps": s.train_steps, **log}
        self._deploy_network()
        self._start = torch.zeros_like(self._start[0]), self._start[1]

    def _deploy_network(self) -> None:
        assert self.network is not None
        self.sampler.molecules = self.network.with_pairs()

    def _iterations(self, left: int) -> Iterator[Iteration | MoleculeIteration]:
        """Corrections until the structure is right, and the pressure too if one is wanted; at most ``left``."""
        s = self.settings
        if s.method == "force-matching":
            self._start = self._matched(), self._start[1]
        once = s.method in ("none", "force-matching")
        method = CORRECTIONS["ibi" if once else s.method](s, self.kT)
        method = KeepingCore(method) if self.structure.molecules is not None and self.network is None else method
        left = min(left, 1) if once else left
        while left > 0:
            for log in self._loop(method, left):
                left -= 1
                yield log
            if not log.converged or self._pressed(log):
                return
            self._start = method(_pairs(log).sample, self.sampler.target, self.sampler.basis), _coefficients(log)

    def _loop(self, method: Correction, left: int) -> Iterator[Iteration | MoleculeIteration]:
        s, (values, coefficients) = self.settings, self._start
        if self.bonded is not None:
            goal_of: dict[str, Any] = {"tolerance": s.tolerance, "iterations": left}
            return refine_molecules(method, self.sampler, self.bonded, values, coefficients, **goal_of)
        tolerance = max(2 * s.tolerance, 2.01 * noise_floor(self.sampler))  # what a sample of this length can tell
        goal = None if s.pressure is None else PressureGoal(s.pressure * units.bar, PRESSED)
        return refine_pairs(method, self.sampler, values, tolerance=tolerance, iterations=left, pressure=goal)

    def _pressed(self, log: Iteration | MoleculeIteration) -> bool:
        wanted = self.settings.pressure
        return wanted is None or abs(_pairs(log).pressure - wanted * units.bar) < PRESSED

    def _matched(self) -> Tensor:
        """(R, I) values by force matching of the pairs."""
        some = self.beads[:: max(1, len(self.beads) // MATCHED_FRAMES)]
        *_, last = match_pair_forces(some, self.sampler.basis, molecules=self.structure.molecules)
        return last.values

    def _take(self, log: Iteration | MoleculeIteration) -> None:
        pairs = _pairs(log)
        mean = _mean_deviation(log, self.sampler)
        good = log.converged and self._pressed(log)
        now = Fitted(pairs.values, _coefficients(log), pairs.sample.g, mean, pairs.deviation, good)
        wants_pressure = self.settings.pressure is not None  # then g is good long before the pressure is
        if self._best is None or wants_pressure or mean < self._best.mean or (good and not self._best.converged):
            self._best = now

    def _numbers(self, log: Iteration | MoleculeIteration) -> Log:
        pairs = _pairs(log)
        out = {
            "steps": self.settings.iterations, "mean": _mean_deviation(log, self.sampler), "max": pairs.deviation, "noise": pairs.noise,
            "pressure": pairs.pressure / units.bar, "pressure error": pairs.sample.pressure_error / units.bar,
            "temperature": pairs.sample.temperature * self.kT / units.kelvin, "converged": log.converged and self._pressed(log),
        }  # fmt: skip
        return out | ({"overlap": float(log.overlaps.min())} if isinstance(log, MoleculeIteration) else {})

    def _save(self, part: Path, log: Iteration | MoleculeIteration, count: int, history: list[Log]) -> None:
        state, now = self.sampler.state, _pairs(log)
        tree = {
            "best": self.state(), "values": now.values, "coefficients": list(_coefficients(log)), "done": count, "history": history,
            "positions": state.system.positions, "velocities": state.velocities,
        }  # fmt: skip
        store.save_tree(part, tree)

    def _resumed(self, part: Path, history: list[Log]) -> int:
        """Iterations found in ``part``, from the last of which the fit goes on: it is sampled once more."""
        if not part.exists():
            return 0
        try:
            tree = store.load_tree(part)
        except BrokenCheckpoint:  # whatever wrote it, the fit begins again
            return 0
        self.restore(tree["best"])
        history[:] = tree["history"]
        self._start = tree["values"], tuple(tree["coefficients"])
        system = self.sampler.state.system.at(tree["positions"])
        self.sampler.state = rest(system, tree["velocities"])
        return int(tree["done"]) - 1

    def _set_bonded(self, coefficients: Coefficients) -> None:
        if self.bonded is not None:
            assert self.sampler.molecules is not None
            self.sampler.molecules = replace(self.sampler.molecules, bonded=self.bonded.bonded(coefficients))


def _pairs(log: Iteration | MoleculeIteration) -> Iteration:
    return log.pairs if isinstance(log, MoleculeIteration) else log


def _coefficients(log: Iteration | MoleculeIteration) -> Coefficients:
    return log.coefficients if isinstance(log, MoleculeIteration) else ()


def _mean_deviation(log: Iteration | MoleculeIteration, sampler: LiquidSampler) -> float:
    """Mean abs(g - g_ref) where g_ref is not zero, of the pair of types where it is largest."""
    rows = zip(_pairs(log).sample.g, sampler.target.g)
    return float(max(np.abs(g - reference)[reference > 0].mean() for g, reference in rows))
