"""Matching the moments of dihedrals recovers known Fourier potentials."""

import numpy as np
import pytest
import torch

from mlmd import units
from mlmd.cg.moments import match_moments, matching_tilt
from mlmd.frames import Frames, bead_topology
from tests.cg.test_priors import KT, chain

A, B = torch.tensor([0.02, 0.0, 0.02]), torch.tensor([0.03, 0.0, 0.0])  # of the dihedral of ``chain``, eV


def fourier(phi, order):
    n = torch.arange(1, order + 1, dtype=phi.dtype)
    return torch.cat([(n * phi[:, None]).cos(), (n * phi[:, None]).sin()], 1)


def boltzmann(phi, a, b, kT=KT):
    p = torch.exp(-(fourier(phi, len(a)) @ torch.cat([a, b]).to(phi)) / kT)
    return p / p.sum()


GRID = torch.linspace(-torch.pi, torch.pi, 20_001, dtype=torch.float64)[:-1]


def test_newton_finds_the_potential_between_two_exact_ensembles():
    """The sample is a grid, so that its means are integrals and the answer is known to rounding."""
    target = boltzmann(GRID, A, B) @ fourier(GRID, 3)
    tilt = matching_tilt(fourier(GRID, 3), target, ridge=1e-12)
    assert tilt.lam * KT == pytest.approx(torch.cat([A, B]).double().numpy(), abs=1e-8)
    assert tilt.weights == pytest.approx(boltzmann(GRID, A, B).numpy(), abs=1e-10)
    assert tilt.weights @ fourier(GRID, 3) == pytest.approx(target.numpy(), abs=1e-9)


def test_the_effective_share_is_that_of_the_exact_weights():
    target = boltzmann(GRID, A, B) @ fourier(GRID, 3)
    w = boltzmann(GRID, A, B) / boltzmann(GRID, torch.zeros(3), torch.zeros(3))
    assert matching_tilt(fourier(GRID, 3), target).effective_share == pytest.approx(float(1 / (w**2).mean()), rel=1e-4)


def test_from_random_samples_the_error_is_that_of_the_sample():
    """The covariance of the answer is the inverse Fisher matrix over the number of samples, for a sample of the answer itself."""
    rng = np.random.default_rng(0)
    drawn = torch.from_numpy(rng.choice(GRID.numpy(), 20_000, p=boltzmann(GRID, A, B).numpy()))
    target = boltzmann(GRID, A, B) @ fourier(GRID, 3)
    f = fourier(GRID, 3) - target
    fisher = (f * boltzmann(GRID, A, B)[:, None]).T @ f
    lam = matching_tilt(fourier(drawn, 3), target).lam
    chi2 = float(lam @ fisher @ lam) * len(drawn)
    assert 0.5 < chi2 < 20  # six degrees of freedom: P(chi2 > 20) = 0.3 %


def test_a_feature_that_never_varies_is_left_alone():
    f = torch.cat([fourier(GRID[::50], 2), torch.ones(400, 1, dtype=torch.float64)], 1)
    tilt = matching_tilt(f, torch.tensor([0.1, 0.0, 0.0, 0.0, 1.0]).double())
    assert tilt.lam[4] == 0
    assert float((tilt.weights @ f)[0]) == pytest.approx(0.1, abs=1e-5)


@pytest.fixture(scope="module")
def frames():
    """A chain whose dihedral has exactly the quantiles of the potential of ``chain``; its other coordinates do not couple to it."""
    cumulative = torch.cumsum(boltzmann(GRID, A, B), 0)
    phi = GRID[torch.searchsorted(cumulative, (torch.arange(1000).double() + 0.5) / 1000)]
    r, theta = 1.5, 1.9
    x = torch.zeros(1000, 4, 3, dtype=torch.float64)
    x[:, 0] = torch.tensor([r * np.cos(theta), r * np.sin(theta), 0])
    x[:, 2, 0] = r
    x[:, 3, 0] = r - r * np.cos(theta)
    x[:, 3, 1], x[:, 3, 2] = r * np.sin(theta) * phi.cos(), r * np.sin(theta) * phi.sin()
    topology = bead_topology(["A"] * 4, [(0, 1), (1, 2), (2, 3)])
    return Frames(x.float(), topology, masses=torch.full((4,), 14 * units.amu), kT=KT)


def wrong():
    """The potential of ``chain`` with the hand of its dihedral reversed."""
    model = chain().requires_grad_(False)
    model.laws[2].b.neg_()
    return model


def test_a_dihedral_of_the_wrong_hand_is_put_right_by_samples_of_the_model(frames):
    model = wrong()
    logs = list(match_moments(model, frames, dt=4.0, kT=KT, replicas=1500, snapshots=40, discard=12, steps=20, rounds=3))
    solved = [log for log in logs if "effective share" in log]
    assert solved[0]["effective share"] < 0.5 <= solved[-1]["effective share"]  # far off: a second sample was taken
    assert logs[-1]["step"] == logs[-1]["steps"] == 156
    assert model.laws[2].a[0].numpy() == pytest.approx(A.numpy(), abs=0.0015)
    assert model.laws[2].b[0].numpy() == pytest.approx(B.numpy(), abs=0.0015)


def test_the_same_seed_gives_the_same_coefficients_and_nothing_else_moves(frames):
    models = [wrong(), wrong()]
    for model in models:
        list(match_moments(model, frames, dt=4.0, kT=KT, replicas=20, snapshots=2, discard=1, steps=5, rounds=1, seed=3))
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters()))
    for name, value in wrong().named_parameters():
        assert torch.equal(value, dict(models[0].named_parameters())[name]) == (not name.startswith("laws.2"))


def test_bad_input_is_refused_by_name(frames):
    bare = chain()
    bare.laws = bare.laws[:1]
    with pytest.raises(ValueError, match="FourierDihedrals"):
        next(match_moments(bare, frames, dt=4.0, kT=KT))
    with pytest.raises(ValueError, match=r"\(5,\)"):
        matching_tilt(torch.zeros(10, 4), torch.zeros(5))
    with pytest.raises(ValueError, match="ridge=0"):
        matching_tilt(torch.zeros(10, 4), torch.zeros(4), ridge=0)
    with pytest.raises(ValueError, match="not finite"):
        matching_tilt(torch.full((10, 4), torch.nan), torch.zeros(4))
