"""Pairs and bonded terms refined together, on trimers whose coordinates are drawn exactly from the potential that is refined."""

import collections

import numpy as np
import pytest
import torch

from mlmd.cg.boltzmann_inversion import IterativeBoltzmannInversion
from mlmd.cg.liquid_bonded import BondedTarget
from mlmd.cg.liquid_molecules import LiquidMolecules
from mlmd.cg.refine_molecules import refine_molecules
from mlmd.errors import Diverging, Unstable
from mlmd.frames import Frames, bead_topology
from mlmd.system import System
from tests.cg.chains import KT, bond_energy, chain, cosine_energy, drawn
from tests.cg.liquids import DiluteGas, gas_target, sampler_of

COUNT, SNAPSHOTS = 500, 60
BONDS = ((0, 1), (1, 2))


def trimers(u, v, random, count):
    """(count, 3, 3) with the given energies of bonds and cosines."""
    r = drawn(u, 0.7, 2.4, (count, 2), random, np.square)
    return chain(r, drawn(v, -1.0, 1.0, (count, 1), random), np.zeros((count, 0)))


def reference():
    x = trimers(bond_energy, cosine_energy, np.random.default_rng(0), COUNT * SNAPSHOTS)
    top = bead_topology(["A", "B", "C"], list(BONDS), COUNT)
    return Frames(x.reshape(SNAPSHOTS, -1, 3), top, kT=KT, types=torch.zeros(3 * COUNT, dtype=torch.long))


class DiluteTrimers(DiluteGas):
    """Independent pairs, and molecules in which every bond and angle feels its own term alone."""

    def __init__(self, target, molecules):
        super().__init__(target, kT=KT)
        self.molecules, self.drawing = molecules, np.random.default_rng(3)

    def sample(self, values, steps=None, watch=None):
        bond, cosine = (law.double() for law in self.molecules.bonded.laws)

        def energy(law, q):
            with torch.no_grad():
                return law.knots.combine(torch.from_numpy(q), law.coefficients[0]).numpy()

        for _ in range(SNAPSHOTS):
            x = trimers(lambda q: energy(bond, q), lambda q: energy(cosine, q), self.drawing, COUNT)
            watch(System.single(x.reshape(-1, 3)))
        return super().sample(values, steps)


@pytest.fixture(scope="module")
def setting():
    goal = BondedTarget.of(reference())
    zero = tuple(torch.zeros_like(c) for c in goal.inversion(KT))
    return goal, zero


def gas(goal, zero):
    target, _ = gas_target()
    return DiluteTrimers(target, LiquidMolecules(goal.bonded(zero), BONDS, 3, hops=2))


def test_from_nothing_all_terms_and_the_pairs_are_found(setting):
    """Independent terms need one Boltzmann iteration but for the noise; pairs of a dilute gas too."""
    goal, zero = setting
    sampler = gas(goal, zero)
    run = refine_molecules(
        IterativeBoltzmannInversion(KT), sampler, goal, torch.zeros(sampler.basis.shape), zero, tolerance=0.03, iterations=6
    )
    logs = list(run)
    assert logs[-1].converged and not logs[0].converged
    assert (logs[0].overlaps < 0.9).all() and (logs[-1].overlaps > 0.985).all()
    assert logs[-1].deviation < 0.03 < logs[0].deviation
    assert "all converged" in logs[-1].line()
    d = goal.reference[0]
    seen = d.density > 0.1 * d.density.max()
    off = goal._knots[0].combine(torch.from_numpy(d.centers[seen]), logs[-1].coefficients[0]).numpy() - bond_energy(d.centers[seen])
    assert np.abs(off - off.mean()).max() < 0.1 * KT


def test_a_correction_that_drives_it_away_is_stopped_and_the_best_kept(setting):
    goal, zero = setting
    sampler = gas(goal, zero)
    _, truth = gas_target()

    def away(sample, target, basis):
        return sample.values + 0.5

    logs = []
    run = refine_molecules(away, sampler, goal, KT * truth, goal.inversion(KT), tolerance=0.001, iterations=9)
    with pytest.raises(Diverging, match="the deviation grows to") as caught:
        collections.deque(map(logs.append, run), maxlen=0)
    assert caught.value.last_good is min(logs, key=lambda log: log.deviation)


def test_an_exploding_box_names_the_iteration(setting):
    goal, zero = setting
    sampler = gas(goal, zero)

    def explodes(*args, **options):
        raise Unstable(3, [0], None, "force of 1e9")

    sampler.sample = explodes
    with pytest.raises(Diverging, match="exploded in iteration 1"):
        next(refine_molecules(IterativeBoltzmannInversion(KT), sampler, goal, torch.zeros(sampler.basis.shape), zero))


def test_what_cannot_be_meant_is_refused(setting):
    goal, zero = setting
    target, truth = gas_target()
    with pytest.raises(ValueError, match="no molecules"):
        next(refine_molecules(IterativeBoltzmannInversion(KT), sampler_of(target), goal, truth, zero))
    with pytest.raises(ValueError, match="iterations=0"):
        next(refine_molecules(IterativeBoltzmannInversion(KT), gas(goal, zero), goal, truth, zero, iterations=0))
