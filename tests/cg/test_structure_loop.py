from dataclasses import replace

import numpy as np
import pytest
import torch

from mlmd.cg.boltzmann_inversion import IterativeBoltzmannInversion, boltzmann_inversion
from mlmd.cg.inverse_monte_carlo import InverseMonteCarlo
from mlmd.cg.pair_relative_entropy import PairRelativeEntropy
from mlmd.cg.structure_loop import PressureGoal, limited, noise_floor, refine_pairs
from mlmd.cg.target_rdf import TargetRDF
from mlmd.errors import Diverging
from tests.cg.liquids import DiluteGas, flat_target, gas_target, sampler_of, well_values

METHODS = {
    "iterative Boltzmann inversion": IterativeBoltzmannInversion,
    "inverse Monte Carlo": InverseMonteCarlo,
    "relative entropy": PairRelativeEntropy,
}
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@each_method
def test_a_dilute_gas_gives_its_potential_back_from_a_start_without_any(method):
    """Independent pairs: g = exp(-u / kT) is exact, so the potential is known."""
    target, truth = gas_target()
    gas = DiluteGas(target)
    logs = list(refine_pairs(method(1.0), gas, torch.zeros(gas.basis.shape), tolerance=0.01, iterations=12))
    assert logs[-1].converged and not any(log.converged for log in logs[:-1])
    visible = gas.g(truth)[0, -len(truth[0]) - 3 : -3] > 0.2
    torch.testing.assert_close(logs[-1].values[0, visible], truth[0, visible], atol=0.03, rtol=0)


@each_method
def test_a_method_that_starts_from_the_answer_is_done_at_once(method):
    target, truth = gas_target()
    (log,) = refine_pairs(method(1.0), DiluteGas(target), truth, tolerance=0.01)
    assert log.converged and log.number == 1 and log.deviation < 0.01


def test_a_wanted_pressure_is_reached_before_the_method_ends():
    """A dilute gas, whose pressure is that of the ideal gas plus B2 of the potential: a ramp that g hardly feels moves it."""
    target, truth = gas_target()
    gas = DiluteGas(target)
    free = gas.sample(truth)
    wanted = free.pressure + 0.02 * abs(free.pressure)
    goal = PressureGoal(wanted, within=0.004 * abs(free.pressure))
    method = IterativeBoltzmannInversion(1.0, pressure=wanted, damping=0.02, largest_ramp=1.0)
    (alone,) = refine_pairs(method, gas, truth, tolerance=0.2)
    logs = list(refine_pairs(method, gas, truth, tolerance=0.2, iterations=20, pressure=goal))
    assert alone.converged and not goal.met(alone.pressure)
    assert 1 < len(logs) < 20 and [log.converged for log in logs] == [False] * (len(logs) - 1) + [True]
    assert logs[-1].pressure == pytest.approx(wanted, abs=goal.within) and logs[-1].deviation < 0.2


def test_a_pressure_goal_without_a_width_is_refused():
    with pytest.raises(ValueError, match=r"within=0\.0: must be finite, and within positive"):
        PressureGoal(1.0, within=0.0)


def test_the_noise_floor_is_the_counting_noise_of_independent_snapshots():
    target, truth = gas_target()
    gas = DiluteGas(target, pairs=500.0)
    spread = np.std([gas.sample(truth).g for _ in range(200)], axis=0)
    assert noise_floor(gas) == pytest.approx(spread.max(), rel=0.1)


def test_a_tolerance_below_the_noise_is_refused_with_the_length_that_would_do():
    target, truth = gas_target()
    gas = DiluteGas(target, pairs=500.0)
    floor = noise_floor(gas)
    with pytest.raises(ValueError, match=f"at least {int(np.ceil((2 * floor / 0.001) ** 2 * gas.steps))} steps"):
        next(refine_pairs(InverseMonteCarlo(1.0), gas, truth, tolerance=0.001))


def test_a_method_that_grows_worse_is_stopped_and_its_best_potential_kept():
    target, truth = gas_target()

    def overshooting(sample, target, basis):
        return truth + -1.6 * (sample.values - truth)

    logs = []
    with pytest.raises(Diverging, match=r"grows .* more damping") as caught:
        logs.extend(refine_pairs(overshooting, DiluteGas(target), truth + 0.02, tolerance=0.01, iterations=30))
    assert 3 <= len(logs) < 29
    assert caught.value.last_good is logs[int(np.argmin([log.deviation for log in logs]))]


def test_a_box_that_explodes_ends_the_method_with_the_last_good_potential():
    sampler = sampler_of(flat_target(), steps=400)
    good = well_values(sampler.basis)
    logs = []

    def pulls_beads_together(sample, target, basis):
        sampler.integrator = replace(sampler.integrator, dt=5.0)
        return good

    with pytest.raises(Diverging, match="exploded in iteration 2") as caught:
        logs.extend(refine_pairs(pulls_beads_together, sampler, good, tolerance=0.3))
    assert caught.value.last_good is logs[0]


def test_without_convergence_the_last_iteration_says_so():
    target, truth = gas_target()
    logs = list(refine_pairs(lambda sample, target, basis: sample.values, DiluteGas(target), 0 * truth, iterations=4))
    assert [log.number for log in logs] == [1, 2, 3, 4]
    assert not logs[-1].converged


def test_a_correction_is_cut_knot_by_knot():
    assert limited(torch.tensor([[1.0, -4.0, 3.0]]), 2.0).tolist() == [[1.0, -2.0, 2.0]]


def test_runs_are_short_while_the_deviation_is_far_and_whole_at_the_end():
    target, truth = gas_target()
    gas, lengths = DiluteGas(target, snapshots=400), []
    whole = gas.sample
    gas.sample = lambda values, steps: lengths.append(steps) or whole(values)
    halving = lambda sample, target, basis: (sample.values + truth) / 2  # noqa: E731
    logs = list(refine_pairs(halving, gas, 0 * truth, tolerance=0.01, iterations=20, shortest=0.25))
    assert lengths[0] == gas.steps // 4
    assert lengths[-1] == gas.steps and lengths == sorted(lengths)
    assert logs[-1].converged


@pytest.mark.parametrize("changes", [{"tolerance": 0.0}, {"iterations": 0}, {"shortest": 2.0}])
def test_arguments_that_make_no_sense_are_refused(changes):
    target, truth = gas_target()
    with pytest.raises(ValueError, match="must be positive"):
        next(refine_pairs(InverseMonteCarlo(1.0), DiluteGas(target), truth, **changes))


@pytest.fixture(scope="module")
def liquid_target():
    """g(r) of a dense liquid whose potential is known."""
    flat = flat_target(first=0.8)
    sampler = sampler_of(flat, steps=6000)
    values = well_values(sampler.basis)
    sample = sampler.sample(values)
    first = int((sample.g[0] > 1e-3).argmax())
    return TargetRDF(flat.r[first:], sample.g[:, first:])


@pytest.mark.slow
@each_method
def test_a_dense_liquid_gives_its_structure_back_and_by_newton_its_potential(liquid_target, method):
    """Boltzmann iteration leaves slow modes, which g hardly feels, where they were: only its g is compared."""
    sampler = sampler_of(liquid_target, steps=4000, seed=7)
    truth = well_values(sampler.basis)
    start = boltzmann_inversion(liquid_target, sampler.basis, 1.0)
    logs = list(refine_pairs(method(1.0), sampler, start, tolerance=0.04, iterations=20))
    assert logs[0].deviation > 0.1
    assert logs[-1].converged
    visible = np.interp(sampler.basis.knots[:-1], liquid_target.r, liquid_target.g[0]) > 0.3
    error = float((logs[-1].values - truth)[0, visible].abs().max())
    assert method is IterativeBoltzmannInversion or error < 0.15
