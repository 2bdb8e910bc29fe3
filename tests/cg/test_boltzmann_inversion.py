import numpy as np
import pytest
import torch

from mlmd import units
from mlmd.cg.boltzmann_inversion import IterativeBoltzmannInversion, boltzmann_inversion
from tests.cg.liquids import DiluteGas, flat_target, gas_target, sampler_of, well_values


def test_the_direct_inversion_of_a_dilute_gas_is_its_potential():
    target, truth = gas_target()
    basis = DiluteGas(target).basis
    torch.testing.assert_close(boltzmann_inversion(target, basis, 1.0), truth, atol=1e-6, rtol=0)


def test_a_step_adds_kT_times_the_logarithm_of_the_ratio():
    target, truth = gas_target()
    gas = DiluteGas(target, pairs=1e12)
    change = 0.1 * torch.sin(gas.basis.knots[:-1] * 3)[None] * (1 - gas.basis.knots[:-1] / gas.basis.cutoff) ** 2
    full, half = (IterativeBoltzmannInversion(1.0, damping=d)(gas.sample(truth + change), target, gas.basis) for d in (1.0, 0.5))
    visible = truth[0] < 6
    torch.testing.assert_close(full[0, visible], truth[0, visible], atol=2e-3, rtol=0)
    torch.testing.assert_close(half[0, visible], (truth + change / 2)[0, visible], atol=2e-3, rtol=0)


def test_the_ramp_changes_the_pressure_of_a_liquid_by_what_it_promises():
    """The potential with the ramp has another virial on the same snapshots by exactly the pressure asked for."""
    sampler = sampler_of(flat_target(), steps=1000)
    sample = sampler.sample(well_values(sampler.basis))
    wanted = sample.pressure - 0.02
    method = IterativeBoltzmannInversion(1.0, pressure=wanted, pressure_share=1.0)
    ramp = method._ramp(sample, sampler.target, sampler.basis)
    middle = sampler.target.r
    inside = middle < sampler.basis.cutoff
    slope = -ramp / sampler.basis.cutoff
    virial = (sample.counts.mean(0)[0] * middle * slope)[inside].sum()
    assert ramp < 0
    assert sample.pressure - virial / (3 * sample.volume) == pytest.approx(wanted)


def test_the_ramp_is_limited():
    target, truth = gas_target()
    gas = DiluteGas(target)
    method = IterativeBoltzmannInversion(1.0, pressure=1e6 * units.bar, largest_ramp=0.05)
    moved = method(gas.sample(truth), target, gas.basis) - IterativeBoltzmannInversion(1.0)(gas.sample(truth), target, gas.basis)
    assert 0.02 < float(moved[0, 0].abs()) < 0.05


def test_where_nothing_is_seen_the_correction_goes_on_as_a_constant():
    target, truth = gas_target()
    gas = DiluteGas(target)
    sample = gas.sample(truth + 0.5)
    assert target.g[0, 7] < 1e-4 < target.g[0, 8]  # the first knot and the second
    after = IterativeBoltzmannInversion(1.0)(sample, target, gas.basis)
    change = (after - sample.values)[0, :2]
    assert float(change[0]) == pytest.approx(float(change[1])) != 0.0


@pytest.mark.parametrize(
    "changes", [{"kT": 0.0}, {"damping": 0.0}, {"damping": 3.0}, {"pressure_share": 2.0}, {"largest_ramp": 0.0}]
)
def test_arguments_that_make_no_sense_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        IterativeBoltzmannInversion(**({"kT": 1.0} | changes))


def test_a_g_that_meets_its_target_nowhere_is_refused():
    target, truth = gas_target()
    gas = DiluteGas(target)
    sample = gas.sample(truth)
    sample.counts[:] = 0.0
    sample.__dict__.pop("g", None)
    with pytest.raises(ValueError, match="overlap nowhere"):
        IterativeBoltzmannInversion(1.0)(sample, target, gas.basis)
    assert np.isfinite(sample.g).all()
