import pytest
import torch

from mlmd.cg.boltzmann_inversion import IterativeBoltzmannInversion
from mlmd.cg.structure_loop import refine_pairs
from mlmd.cg.taking_turns import TakingTurns
from tests.cg.liquids import DiluteGas, gas_target


def test_two_steps_multiply_the_error_of_a_mode_by_the_product_of_both_factors():
    target, truth = gas_target()
    gas = DiluteGas(target)
    mu = torch.linspace(0.1, 1.7, truth.shape[1], dtype=torch.float64)

    def with_factor(alpha):
        return lambda sample, target, basis: sample.values - alpha * mu * (sample.values - truth)

    method, values = TakingTurns(with_factor(0.8), with_factor(2.0)), truth + 0.1
    for _ in range(4):
        values = method(gas.sample(values), target, gas.basis)
    error = ((values - truth) / 0.1)[0]
    torch.testing.assert_close(error, ((1 - 0.8 * mu) * (1 - 2.0 * mu)) ** 2, atol=1e-9, rtol=0)
    assert float(error.abs().max()) < 1.0
    assert float(error[0]) < float((1 - mu[0]) ** 4)  # the slow mode is ahead of four plain steps


def test_boltzmann_iteration_in_turns_keeps_its_answer():
    target, truth = gas_target()
    gas = DiluteGas(target)
    method = TakingTurns(*(IterativeBoltzmannInversion(1.0, damping=d) for d in (0.8, 1.5)))
    logs = list(refine_pairs(method, gas, truth * 0.5, tolerance=0.01))
    visible = gas.g(truth)[0, 7:-3] > 0.2
    assert logs[-1].converged
    torch.testing.assert_close(logs[-1].values[0, visible], truth[0, visible], atol=0.03, rtol=0)


def test_nobody_to_take_turns_is_refused():
    with pytest.raises(ValueError, match="methods is empty"):
        TakingTurns()
