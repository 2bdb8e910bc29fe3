"""Priors recover what generated the data."""

import numpy as np
import pytest
import torch

from mlmd import units
from mlmd.cg.priors import fit_fourier, fit_harmonic, fit_priors, impropers, one_per_bond
from mlmd.frames import Frames, bead_topology
from mlmd.md import Langevin, rest, simulate
from mlmd.observables.terms import internal_terms
from mlmd.potentials.bonded import Bonded, FourierDihedrals, HarmonicAngles, HarmonicBonds
from mlmd.potentials.internal import InternalCoordinates
from mlmd.system import System

KT = 300 * units.kelvin


def drawn(density, low, high, n=200_000, seed=0):
    q = np.linspace(low, high, 20_001)
    p = density(q)
    return np.random.default_rng(seed).choice(q, n, p=p / p.sum())


def test_a_bond_is_recovered_through_its_jacobian():
    k, r0 = 4.0, 1.5  # soft: the r^2 measure moves the mean by 2 kT / (k r0) = 0.9 %, twice the tolerance of r0 below
    r = drawn(lambda r: r**2 * np.exp(-k * (r - r0) ** 2 / (2 * KT)), 0.8, 2.2)
    f = fit_harmonic(r, 1 / KT, power=2)
    assert f.q0 == pytest.approx(r0, rel=1e-3)
    assert f.k == pytest.approx(k, rel=0.02)


def test_an_angle_is_recovered_through_its_jacobian():
    k, t0 = 0.3, 1.9
    t = drawn(lambda t: np.sin(t) * np.exp(-k * (t - t0) ** 2 / (2 * KT)), 0.0, np.pi)
    f = fit_harmonic(t, 1 / KT, sine=True, domain=(1e-3, np.pi - 1e-3))
    assert f.q0 == pytest.approx(t0, abs=0.01)
    assert f.k == pytest.approx(k, rel=0.03)


def test_a_dihedral_potential_is_recovered_with_its_handedness():
    a, b = np.array([0.02, -0.01, 0.015]), np.array([0.03, 0.0, -0.01])
    n = np.arange(1, 4)[:, None]
    phi = drawn(lambda p: np.exp(-(a @ np.cos(n * p) + b @ np.sin(n * p)) / KT), -np.pi, np.pi)
    f = fit_fourier(phi, 1 / KT, 3)
    assert f.a == pytest.approx(a, abs=1e-3)
    assert f.b == pytest.approx(b, abs=1e-3)


def test_a_flat_coordinate_gets_the_softest_spring_and_a_warning():
    with pytest.warns(UserWarning, match="too broad"):
        f = fit_harmonic(np.random.default_rng(0).uniform(0.1, 3.0, 5000), 1 / KT, sine=True, domain=(1e-3, np.pi - 1e-3))
    assert f.k > 0


def chain():
    coordinates = InternalCoordinates(
        4, torch.combinations(torch.arange(4)), torch.tensor([[0, 1, 2], [1, 2, 3]]), torch.tensor([[0, 1, 2, 3]])
    )
    laws = [
        HarmonicBonds([0, 3, 5], torch.full((3,), 15.0), torch.full((3,), 1.5)),
        HarmonicAngles([0, 1], torch.full((2,), 3.0), torch.full((2,), 1.9)),
        FourierDihedrals([0], torch.tensor([[0.02, 0.0, 0.02]]), torch.tensor([[0.03, 0.0, 0.0]])),
    ]
    return Bonded(coordinates, laws)


def sampled(potential, x0, replicas=400, seed=0):
    g = torch.Generator().manual_seed(seed)
    system = System.single(x0, masses=torch.full((len(x0),), 14 * units.amu)).replicate(replicas)
    run = simulate(rest(system), potential, Langevin(4.0, KT, 0.01), 2500, every=50, generator=g)
    return torch.cat([s.system.dense() for s in list(run)[10:]])


def test_simulated_priors_return_the_distributions_they_were_fitted_to():
    x0 = torch.tensor([[0.0, 0, 0], [1.5, 0, 0], [2.0, 1.4, 0], [3.4, 1.6, 0.5]])
    x = sampled(chain(), x0)
    frames = Frames(x, bead_topology(["A"] * 4, [(0, 1), (1, 2), (2, 3)]), masses=torch.full((4,), 14 * units.amu), kT=KT)
    priors = fit_priors(frames)
    again = sampled(priors.potential, x0, seed=1)
    for before, after in zip(priors.potential.coordinates(x.reshape(-1, 3)), priors.potential.coordinates(again.reshape(-1, 3))):
        assert torch.allclose(before.cos().mean(1), after.cos().mean(1), atol=0.02)
        assert torch.allclose(before.sin().mean(1), after.sin().mean(1), atol=0.02)
    k = [t.parameters["k"] for t in priors.report if t.name == "bond"]
    assert k == pytest.approx([15.0] * 3, rel=0.06)


def test_one_dihedral_per_rotatable_bond_and_one_improper_per_branch():
    terms = internal_terms(6, [(0, 1), (1, 2), (2, 3), (2, 4), (4, 5)])
    kept = terms.dihedrals[one_per_bond(terms)].tolist()
    assert [(min(d[1:3]), max(d[1:3])) for d in kept] == [(1, 2), (2, 4)]
    assert [0, 1, 2, 4] in kept  # the branch to bead 4, which continues, is preferred to the stump at 3
    assert impropers(6, terms.bonds).tolist() == [[2, 1, 3, 4]]


def test_priors_refuse_what_cannot_be_fitted():
    x = torch.rand(200, 3, 3)
    topology = bead_topology(["A", "B", "C"], [(0, 1), (1, 2)])
    with pytest.raises(ValueError, match="kT is unknown"):
        fit_priors(Frames(x, topology))
    with pytest.raises(ValueError, match="50 frames are too few"):
        fit_priors(Frames(x[:50], topology, kT=KT))
    with pytest.raises(ValueError, match="one bead a molecule"):
        fit_priors(Frames(x[:, :1], bead_topology(["A"], []), kT=KT))
    with pytest.raises(ValueError, match="2 pieces that no bond joins"):  # a molecule and its solvent taken for one molecule
        fit_priors(Frames(x, bead_topology(["A", "B", "W"], [(0, 1)]), kT=KT))
