"""Gauss-Newton steps of differentiable reweighting; in units of epsilon, sigma and mass 1."""

import math

import numpy as np
import pytest
import torch

from mlmd.cg.difftre import PressureTarget, Target
from mlmd.cg.difftre_newton import _response, difftre_newton, levenberg_marquardt
from mlmd.cg.reweighting import boltzmann_weights, reweighted_mean
from mlmd.errors import Diverging
from mlmd.forces import energy_forces
from mlmd.neighbors import neighbors
from mlmd.observables import SmoothADF
from mlmd.observables.smooth_rdf import SmoothRDF
from mlmd.potentials.accelerated import accelerated
from mlmd.potentials.pair import LennardJones
from mlmd.potentials.stillinger_weber import StillingerWeberAngles
from tests.cg.test_difftre import DYNAMICS, FLUID, KT, G, jiggled, lennard_jones, sampling_error, trajectory


def test_the_slope_is_the_finite_difference_of_reweighted_averages_pressure_included():
    system, x = jiggled(4, 8, 4.8)
    law = (LennardJones(1.1, 1.0, cutoff=2.2) + StillingerWeberAngles([[0.1, 0.2, 0.3]], [1.0], 2.2, 1.2)).double()
    targets = [
        Target("g", SmoothRDF(1.9, 20), torch.ones(20), 2.0),
        Target("angles", SmoothADF(1.5, 12), torch.full((12,), 0.3)),
    ]
    pressure = PressureTarget(0.5, 0.2)
    found = _response(law, system, x, targets, pressure, KT)
    observed = [torch.cat([t.observable(system.at(y)) for y in x]) for t in targets]
    reference = columns(law, system, x)[0]

    def residual() -> torch.Tensor:
        energy, pressures = columns(law, system, x)
        weights = boltzmann_weights(energy, reference, KT)
        parts = [
            (t.weight / len(t.value)) ** 0.5 * (reweighted_mean(o, weights) - t.value)
            for t, o in zip(targets, observed, strict=True)
        ]
        return torch.cat([*parts, pressure.weight**0.5 * (reweighted_mean(pressures, weights) - pressure.value)[None]])

    torch.testing.assert_close(found.residual, residual(), rtol=1e-10, atol=1e-12)
    column = 0
    for p in law.parameters():
        for k in range(p.numel()):
            flat, h = p.data.view(-1), 1e-6
            value = float(flat[k])
            sides = []
            for sign in (1, -1):
                flat[k] = value + sign * h
                sides.append(residual())
            flat[k] = value
            expected = (sides[0] - sides[1]) / (2 * h)
            torch.testing.assert_close(found.slope[:, column], expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
            column += 1
    assert column == found.slope.shape[1] == 6


def columns(law, system, x) -> tuple[torch.Tensor, torch.Tensor]:
    """Energy and virial pressure of every snapshot."""
    energies, pressures = [], []
    for y in x:
        now = system.at(y)
        out = energy_forces(law, now, neighbors(now, law.cutoff), stress=True)
        energies.append(out.energy.detach()[0])
        pressures.append(len(now) * KT / 4.8**3 - float(out.stress[0].detach().trace()) / 3)
    return torch.stack(energies), torch.tensor(pressures, dtype=torch.float64)


def test_steps_are_those_of_least_squares_for_a_small_residual_and_never_longer_than_half_the_width():
    generator = torch.Generator().manual_seed(0)
    slope = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    slope[:, 3] = 0.0  # a parameter that nothing depends on stays
    residual = torch.randn(30, generator=generator, dtype=torch.float64)
    exact = np.linalg.lstsq(slope[:, :3].numpy(), -residual.numpy(), rcond=None)[0]
    step = levenberg_marquardt(slope, residual, 1e4)
    assert step.numpy() == pytest.approx([*exact, 0.0], abs=1e-5)
    many = torch.randn(5, 40, generator=generator, dtype=torch.float64)  # more parameters than numbers to reproduce
    normal = many.T @ many + residual[:5].square().sum() / 0.3**2 * torch.eye(40, dtype=torch.float64)
    expected = -torch.linalg.solve(normal, many.T @ residual[:5])
    torch.testing.assert_close(levenberg_marquardt(many, residual[:5], 0.3), expected, rtol=1e-10, atol=1e-12)
    for factor in (1e-4, 1.0, 1e4):
        assert float(levenberg_marquardt(factor * slope, residual, 0.1).norm()) <= 0.05


def test_the_depth_of_a_fluid_is_recovered_in_five_samples_within_the_sampling_error():
    true = lennard_jones(1.0)
    x = trajectory(true, 4000, 20)
    law = lennard_jones(0.7)
    run = difftre_newton(
        law, FLUID.at(x[-1]), [Target("g", G, G(FLUID.at(x)).mean(0))], **DYNAMICS, steps=2000, stride=20, equilibration=200,
        samples=5, width=1.0, engine=accelerated, seed=1,
    )  # fmt: skip
    logs = list(run)
    error = sampling_error(true, x) * math.sqrt(1 + len(x) / 100)
    assert len(logs) == 5
    assert float(law.epsilon.value.detach()) == pytest.approx(1.0, abs=3 * error)
    assert logs[-1]["g"] < 0.1 * logs[0]["g"]


def short(law, **changes):
    """A few samples of a few steps."""
    settings = dict(steps=60, stride=10, equilibration=20, samples=3, seed=3) | changes
    return difftre_newton(law, FLUID, [Target("g", G, torch.ones(30))], **DYNAMICS, **settings)


def test_it_ends_with_the_potential_that_was_good_enough():
    law = lennard_jones(1.0)
    assert len(list(short(law, tolerance=1e9))) == 1 and float(law.epsilon.value.detach()) == 1.0
    assert len(list(short(lennard_jones(1.0), tolerance=1e-9))) == 3


def test_an_explosion_leaves_the_best_parameters():
    law = lennard_jones(1.0)
    run = short(law, samples=5)
    next(run)
    law.epsilon.value.data.fill_(1e9)
    with pytest.raises(Diverging, match="smaller step"):
        list(run)
    assert float(law.epsilon.value.detach()) == pytest.approx(1.0)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"width=0.*must be positive"):
        next(short(lennard_jones(1.0), width=0))
    with pytest.raises(ValueError, match="stride"):
        next(short(lennard_jones(1.0), stride=100))
