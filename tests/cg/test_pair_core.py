"""Where no pair was seen, the core of a pair potential follows its flank."""

import numpy as np
import torch

from mlmd.cg.boltzmann_inversion import IterativeBoltzmannInversion, boltzmann_inversion
from mlmd.cg.pair_core import KeepingCore, with_core
from mlmd.cg.target_rdf import TargetRDF
from tests.cg.liquids import CUTOFF, DiluteGas

R = np.arange(0.5, 2.65, 0.05)


def target_of(energy):
    """g = exp(-u) of two pairs of types, the second with a larger core, cut where it is below 1e-3."""
    g = np.stack([np.exp(-energy(R)), np.exp(-energy(R - 0.4))])
    return TargetRDF(R, np.where(g > 1e-3, g, 0.0), ((0, 0), (1, 1)))


def parabola(r):
    return 20.0 * (1.2 - r).clip(0) ** 2


def test_a_core_that_is_a_parabola_is_continued_exactly():
    target = target_of(parabola)
    basis = target.basis(CUTOFF)
    r = basis.knots[:-1].numpy()
    made = with_core(boltzmann_inversion(target, basis, 1.0), target, basis).numpy()
    flank = (r < 1.0) & (r > 0.5)
    assert np.abs(made[0] - parabola(r))[flank].max() < 0.05
    assert np.abs(made[1] - parabola(r - 0.4))[(r < 1.4) & (r > 0.5)].max() < 0.05


def test_without_it_a_larger_core_is_flat_and_with_it_it_rises_inwards():
    target = target_of(parabola)
    basis = target.basis(CUTOFF)
    flat = boltzmann_inversion(target, basis, 1.0)[1]
    risen = with_core(boltzmann_inversion(target, basis, 1.0), target, basis)[1]
    assert float(flat[:4].diff().abs().max()) == 0.0
    assert bool((risen[:6].diff() < 0).all())


def test_what_was_seen_stays_as_it_was():
    target = target_of(parabola)
    basis = target.basis(CUTOFF)
    before = torch.rand(basis.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    after = with_core(before, target, basis)
    seen = torch.from_numpy(np.stack([np.interp(basis.knots[:-1], target.r, g) for g in target.g])) > 0.05
    assert torch.equal(before[seen], after[seen])


def test_a_correction_keeps_it():
    target = target_of(parabola)
    gas = DiluteGas(target)
    gas.basis = target.basis(CUTOFF)
    method = IterativeBoltzmannInversion(1.0)
    sample = gas.sample(boltzmann_inversion(target, gas.basis, 1.0))
    plain = method(sample, target, gas.basis)
    assert torch.equal(KeepingCore(method)(sample, target, gas.basis), with_core(plain, target, gas.basis))
