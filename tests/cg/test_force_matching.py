"""Force matching and relative entropy recover a known potential from its own samples."""

import numpy as np
import pytest
import torch

from mlmd import store, units
from mlmd.cg.force_matching import force_report, invariant_network, match_forces, split
from mlmd.cg.priors import fit_priors
from mlmd.cg.relative_entropy import refine, suggested_time_step
from mlmd.cg.study import combined
from mlmd.forces import energy_forces
from mlmd.frames import Frames, bead_topology
from mlmd.system import System
from tests.cg.test_priors import KT, chain, sampled

NOISE = 0.2


@pytest.fixture(scope="module")
def data():
    """Samples of a chain with a dihedral of known handedness, its forces, and white noise on them as mapped forces have."""
    torch.manual_seed(0)
    truth = chain()
    x = sampled(truth, torch.tensor([[0.0, 0, 0], [1.5, 0, 0], [2.0, 1.4, 0], [3.4, 1.6, 0.5]]), replicas=150)
    with torch.no_grad():
        f = energy_forces(truth, System.single(x[0]).at(x)).forces.reshape(x.shape)
    f = f + NOISE * torch.randn(f.shape, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    topology = bead_topology(["A"] * 4, [(0, 1), (1, 2), (2, 3)])
    return Frames(x[order], topology, forces=f[order], masses=torch.full((4,), 14 * units.amu), kT=KT)


@pytest.fixture(scope="module")
def matched(data):
    torch.manual_seed(0)
    prior = fit_priors(data).potential.requires_grad_(False)
    network = invariant_network(data, width=32, depth=2)
    logs = list(match_forces(network, prior, data, steps=600, every=200))
    return prior, combined(prior, network), logs


def test_the_noise_of_the_forces_is_estimated_and_nearly_all_the_rest_explained(data, matched):
    prior, potential, _ = matched
    report = force_report(potential, prior, data)
    assert report.noise == pytest.approx(NOISE**2, rel=0.1)
    assert report.model == pytest.approx(NOISE**2, rel=0.1)
    assert report.zero > 3 * report.model
    assert report.explained(report.model) > 0.98


def test_the_matched_forces_are_those_of_the_true_potential(data, matched):
    _, potential, _ = matched
    part = data[slice(0, 500)]
    system = System.single(part.positions[0]).at(part.positions)
    with torch.no_grad():
        a, b = energy_forces(potential, system).forces, energy_forces(chain(), system).forces
    assert float((a - b).square().mean() / b.square().mean()) < 0.02


def test_training_logs_the_held_out_error(matched):
    _, _, logs = matched
    assert [log["step"] for log in logs] == [200.0, 400.0, 600.0]
    assert all(np.isfinite(log["held-out"]) for log in logs)


def test_a_trained_potential_saves_and_loads(matched, data, tmp_path):
    _, potential, _ = matched
    again = store.load(store.save(tmp_path / "potential.npz", potential))
    system = System.single(data.positions[0])
    assert torch.equal(potential(system), again(system))


def test_without_forces_force_matching_points_to_the_structure_based_path(data):
    bare = Frames(data.positions, data.topology, kT=KT)
    with pytest.raises(ValueError, match="relative entropy"):
        next(match_forces(torch.nn.Module(), chain(), bare))


def test_held_out_frames_are_the_last_in_time():
    train, test = split(10, 0.3)
    assert train.tolist() == list(range(7))
    assert test.tolist() == [7, 8, 9]


def test_relative_entropy_recovers_the_hand_of_a_dihedral_and_resumes_bit_for_bit(data, tmp_path):
    settings = dict(dt=4.0, updates=80, replicas=100, torsion_rate=3e-3, memory=6, average=0.9, seed=1, every=1)

    def wrong_hand():
        prior = fit_priors(data).potential.requires_grad_(False)
        dihedral = prior.laws[2]
        torch.nn.init.zeros_(dihedral.a)
        torch.nn.init.constant_(dihedral.b, -0.02)
        dihedral.requires_grad_(True)
        return prior, dihedral

    whole, dihedral = wrong_hand()
    list(refine(whole, data, **settings))
    matched = fit_priors(data).potential.laws[2]
    assert dihedral.b[0, 0].item() == pytest.approx(matched.b[0, 0].item(), abs=0.006)
    assert dihedral.a[0].tolist() == pytest.approx(matched.a[0].tolist(), abs=0.006)

    for _ in range(2):  # stopped after a checkpoint, then resumed from it to the end
        cut, _ = wrong_hand()
        for log in refine(cut, data, checkpoint=str(tmp_path), checkpoint_every=20, **settings):
            if log["step"] == 45 and not (tmp_path / "seen").exists():
                (tmp_path / "seen").touch()
                break
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), cut.parameters()))


def test_the_suggested_time_step_follows_the_stiffest_bond(data):
    dt = suggested_time_step(chain(), data)
    period = 2 * np.pi / np.sqrt(2 * 15.0 / (14 * units.amu))  # two equal masses on one spring
    assert 0.4 / (2 * np.pi) < dt / period < 0.85 / (2 * np.pi)
