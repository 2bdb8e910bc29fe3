"""The friction that a reference was made with comes back from its diffusion, within the error that is stated."""

import numpy as np
import pytest
import torch

from mlmd.cell import face_centred_cubic
from mlmd.cg.friction import Settings, Target, fit_friction
from mlmd.md import Langevin, rest, simulate, thermal_velocities
from mlmd.observables import diffusion_coefficient, green_kubo, msd, vacf
from mlmd.potentials.accelerated import Accelerated
from mlmd.potentials.bonded import Bonded, HarmonicBonds
from mlmd.potentials.internal import InternalCoordinates
from mlmd.potentials.pair import WCA
from mlmd.system import System

KT = 0.025


def dumbbells() -> tuple[System, torch.nn.Module]:
    """Six replicas of 20 molecules of two unequal beads each, bonded and otherwise free: D = kT/(gamma M) (1 - 1/20) exactly."""
    x = torch.tensor([[0.0, 0, 0], [1.5, 0, 0]], dtype=torch.float64).repeat(20, 1)
    system = System.single(x, masses=[100.0, 200.0] * 20).replicate(6)
    coordinates = InternalCoordinates(2, torch.tensor([[0, 1]]))
    return system, Bonded(coordinates, [HarmonicBonds([0], torch.tensor([1.0]), torch.tensor([1.5]))]).double()


@pytest.mark.parametrize("start", [0.004, 0.06])
def test_the_friction_of_molecules_that_do_not_interact_is_that_of_einstein(start: float) -> None:
    system, law = dumbbells()
    exact = 0.02
    d = KT / (exact * 300.0) * (1 - 1 / 20)
    settings = Settings(4.0, KT, start, steps=800, settle=100, every=10, window=(200.0, 800.0), size=2)
    logs = list(fit_friction(system, law, Target(d, 0.0), settings, torch.Generator().manual_seed(1)))
    assert logs[-1].converged
    assert abs(logs[-1].estimate - exact) < 3 * logs[-1].error
    assert logs[-1].error < 0.1 * exact
    assert [log.round for log in logs] == list(range(len(logs)))
    assert logs[0].friction == start


@pytest.mark.slow
def test_the_friction_of_a_fluid_comes_back_from_the_velocities_of_its_reference() -> None:
    """Soft repulsive beads at density 0.4 (reduced units), gamma = 1: first the reference and its Green-Kubo integral, then the fit."""
    kT, gamma, edge = 1.0, 1.0, (32 / 0.4) ** (1 / 3)
    system = System.single(face_centred_cubic(2, edge), cell=edge).replicate(6)
    g = torch.Generator().manual_seed(2)
    law = Accelerated(WCA(1.0, 1.0))
    state = rest(system, thermal_velocities(system, kT, g))
    run = list(simulate(state, law, Langevin(0.01, kT, gamma), 5000, every=5, generator=g, skin=0.4))[100:]
    v = torch.stack([s.system.dense(s.velocities) for s in run])
    v = v - v.mean(2, keepdim=True)
    value, error = green_kubo(vacf(v, max_lag=100), 0.05).at(5.0)
    x = torch.stack([s.system.dense() for s in run])
    slope = diffusion_coefficient(msd(x - x.mean(2, keepdim=True), max_lag=200), 60, 200, 0.05)
    assert abs(slope.value - value) < 3 * np.hypot(slope.error, error)
    settings = Settings(0.01, kT, 3.0, steps=4000, settle=300, every=20, window=(3.0, 10.0), skin=0.4)
    *_, last = fit_friction(system, law, Target(value, error), settings, g)
    assert last.converged
    assert abs(last.estimate - gamma) < 3 * last.error
    assert last.error < 0.3 * gamma


def test_beads_slower_than_the_reference_are_not_made_faster_by_friction() -> None:
    """Soft spheres in a dense fluid (density 0.8, kT 1) diffuse with 0.1 at the most; the reference is said to do with 5."""
    edge = (32 / 0.8) ** (1 / 3)
    system = System.single(face_centred_cubic(2, edge), cell=edge).replicate(4)
    settings = Settings(0.01, 1.0, 1.0, steps=240, settle=60, every=10, window=(0.4, 0.7), skin=0.4)
    with pytest.raises(ValueError, match="no friction makes them as fast"):
        list(fit_friction(system, WCA(1.0, 1.0), Target(5.0, 0.1), settings, torch.Generator().manual_seed(3)))


def test_beads_that_do_not_move_on_are_named() -> None:
    """A crystal of soft spheres."""
    edge = (32 / 1.3) ** (1 / 3)
    system = System.single(face_centred_cubic(2, edge), cell=edge).replicate(4)
    settings = Settings(0.005, 0.3, 1.0, steps=200, settle=50, every=5, window=(0.1, 0.3), skin=0.1)
    with pytest.raises(ValueError, match="need longer rounds"):
        list(fit_friction(system, WCA(1.0, 1.0), Target(5.0, 0.1), settings, torch.Generator().manual_seed(3)))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (dict(start=0.0), "start"),
        (dict(rounds=1), "two rounds"),
        (dict(size=3), "size=3"),
        (dict(window=(0.0, 10.0)), "window"),
        (dict(window=(100.0, 1e5)), "window"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict, word: str) -> None:
    system, law = dumbbells()
    options = dict(dt=4.0, kT=KT, start=0.01, steps=200, settle=0, every=10, window=(100.0, 300.0), size=2) | change
    with pytest.raises(ValueError, match=word):
        next(fit_friction(system, law, Target(1.0, 0.1), Settings(**options)))
    with pytest.raises(ValueError, match=r"target\.value"):
        next(fit_friction(system, law, Target(0.0, 0.1), Settings(4.0, KT, 0.01, 200, 0, 10, (100.0, 300.0), size=2)))
