import pytest
import torch

from mlmd.cg.boltzmann_inversion import IterativeBoltzmannInversion
from mlmd.cg.mixing import AndersonMixing
from mlmd.cg.structure_loop import refine_pairs
from tests.cg.liquids import DiluteGas, gas_target


def steps_to_the_truth(method, start, truth, gas, enough: float) -> int:
    values, n = start, 0
    while float((values - truth).abs().max()) > enough and n < 60:
        values, n = method(gas.sample(values), gas.target, gas.basis), n + 1
    return n


def slow(truth):
    """A method whose error falls by factors between 0.9 and 0.4, depending on the knot."""
    rates = torch.linspace(0.1, 0.6, truth.shape[1], dtype=torch.float64)

    def method(sample, target, basis):
        return sample.values - rates * (sample.values - truth)

    return method


def test_a_slow_linear_method_is_done_in_a_few_steps():
    target, truth = gas_target()
    gas = DiluteGas(target)
    start = truth + 0.1
    plain = steps_to_the_truth(slow(truth), start, truth, gas, 0.005)
    mixed = steps_to_the_truth(AndersonMixing(slow(truth), memory=4, ridge=1e-6), start, truth, gas, 0.005)
    assert plain == 29  # 0.1 * 0.9^n < 0.005
    assert mixed <= 12


def test_the_first_step_is_that_of_the_method_itself():
    target, truth = gas_target()
    gas = DiluteGas(target)
    sample = gas.sample(truth + 0.1)
    plain = IterativeBoltzmannInversion(1.0)
    torch.testing.assert_close(AndersonMixing(plain)(sample, target, gas.basis), plain(sample, target, gas.basis))


def test_mixing_keeps_the_answer_of_boltzmann_iteration():
    target, truth = gas_target()
    gas = DiluteGas(target)
    logs = list(refine_pairs(AndersonMixing(IterativeBoltzmannInversion(1.0, damping=0.5)), gas, 0 * truth, tolerance=0.01))
    visible = gas.g(truth)[0, 7:-3] > 0.2
    assert logs[-1].converged
    torch.testing.assert_close(logs[-1].values[0, visible], truth[0, visible], atol=0.03, rtol=0)


@pytest.mark.parametrize("changes", [{"memory": 0}, {"ridge": 0.0}, {"largest": 0.0}])
def test_arguments_that_make_no_sense_are_refused(changes):
    with pytest.raises(ValueError, match="memory must be at least 1"):
        AndersonMixing(IterativeBoltzmannInversion(1.0), **changes)
