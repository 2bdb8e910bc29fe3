"""Variational backmapping: invariances, exact beads, a correct Kullback-Leibler term, and learning what can be known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mlmd import datasets
from mlmd.backmap.cgvae import Gaussian, kl
from mlmd.backmap.generative import Generative, Recipe, networks
from mlmd.backmap.molecule import Molecule
from mlmd.backmap.quality import rmsd
from mlmd.backmap.zmatrix import Skeleton
from mlmd.cg import mapping
from mlmd.observables.geometry import dihedrals

SMALL = Recipe(features=8, bead_features=8, latent=4, layers=1, bead_layers=2, steps=10, batch=16)
KINDS = ["cgvae", "internal"]


@pytest.fixture(scope="module")
def frames():
    return datasets.load("alanine-dipeptide")[:400]


def fresh(kind, frames, beads):
    molecule = Molecule.of(frames, mapping.sequence(frames, beads))
    x = molecule.atoms_of(frames)
    skeleton = Skeleton.of(molecule, x, molecule.beads(x)) if kind == "internal" else None
    torch.manual_seed(0)
    return molecule, networks(molecule, SMALL, skeleton), x


def turned(seed=1):
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    return (q * torch.linalg.det(q).sign()).float()


def test_the_divergence_of_gaussians_is_that_of_torch():
    parts = torch.randn(4, 7, 3, 2, generator=torch.Generator().manual_seed(0))
    q, p = Gaussian(parts[0], parts[1]), Gaussian(parts[2], parts[3])
    normal = torch.distributions.Normal
    truth = torch.distributions.kl_divergence(normal(q.mean, q.log_sigma.exp()), normal(p.mean, p.log_sigma.exp()))
    assert torch.allclose(kl(q, p), truth.sum((1, 2)), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beads", [3, 6])
def test_structures_turn_and_shift_with_the_beads(kind, beads, frames):
    molecule, model, x = fresh(kind, frames, beads)
    X, R, shift = molecule.beads(x[:20]), turned(), torch.tensor([5.0, -3.0, 2.0])
    z = torch.randn(20, beads, SMALL.latent, generator=torch.Generator().manual_seed(2))
    there = model.decoder(z, X @ R.T + shift)
    assert torch.allclose(there, model.decoder(z, X) @ R.T + shift, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_latent_variables_do_not_turn(kind, frames):
    molecule, model, x = fresh(kind, frames, 5)
    X, R = molecule.beads(x), turned()
    for here, there in zip(model.posterior(x, X), model.posterior(x @ R.T + 1.0, X @ R.T + 1.0), strict=True):
        assert torch.allclose(here, there, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("choice", [mapping.sequence, mapping.backbone])
def test_the_beads_of_samples_are_the_beads_given(kind, choice, frames):
    m = choice(frames, 4)
    backmapper = Generative(kind, SMALL).fit(frames[:50], m)
    beads = m.apply(frames[50:60])
    samples = backmapper.sample(beads, 3)
    assert samples.shape == (3, 10, 22, 3)
    assert float((m.positions(samples) - beads.positions).abs().max()) < 1e-5


def test_a_mirror_image_of_the_beads_does_not_get_the_mirror_image_of_the_atoms(frames):
    """Networks without a hand would make D-alanine of it."""
    molecule, model, x = fresh("cgvae", frames, 5)
    X, flip = molecule.beads(x[:20]), torch.tensor([1.0, 1.0, -1.0])
    z = torch.randn(20, 5, SMALL.latent, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert float((model.decoder(z, X * flip) - model.decoder(z, X) * flip).abs().max()) > 1e-3


TRAINED = Recipe(features=8, bead_features=12, latent=4, layers=1, bead_layers=2, learning_rate=1e-2)


def test_hydrogens_that_turn_can_be_learned_from_the_latent_variables():
    """The mean of a methyl group, which is all that beads tell, is 0.9 A off."""
    few = datasets.load("alanine-dipeptide")[::2000]
    backmapper = Generative("internal", replace(TRAINED, steps=300, batch=10)).fit(few, mapping.sequence(few, 6))
    assert rmsd(backmapper.reconstruct(few), few.positions) < 0.3


def test_training_brings_vectors_of_cgvae_to_the_atoms(frames):
    m, held_out = mapping.sequence(frames, 6), frames[300:]

    def error(steps):
        recipe = replace(TRAINED, steps=steps, batch=16, learning_rate=5e-3)
        backmapper = Generative("cgvae", recipe).fit(frames[:300], m)
        return rmsd(backmapper.reconstruct(held_out), held_out.positions, backmapper.molecule.numbers != 1)

    assert error(120) < 0.6 * error(1)


def test_samples_with_one_seed_are_equal_and_with_another_differ(frames):
    m = mapping.sequence(frames, 6)
    backmapper, beads = Generative("internal", SMALL).fit(frames[:50], m), m.apply(frames[:5])
    assert torch.equal(backmapper.sample(beads, 2, seed=1), backmapper.sample(beads, 2, seed=1))
    assert not torch.equal(backmapper.sample(beads, 2, seed=1), backmapper.sample(beads, 2, seed=2))


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_draws_the_same_samples(kind, frames, tmp_path):
    m = mapping.sequence(frames, 6)
    backmapper, beads = Generative(kind, SMALL, seed=3).fit(frames[:50], m), m.apply(frames[:5])
    again = Generative.load(backmapper.save(tmp_path / "backmapper.npz"))
    assert torch.equal(backmapper.sample(beads, 2, seed=1), again.sample(beads, 2, seed=1))


def test_an_interrupted_training_continues_bit_for_bit(frames, tmp_path):
    m = mapping.sequence(frames, 6)
    whole = Generative("internal", SMALL).fit(frames[:50], m)
    first = Generative("internal", SMALL).train(frames[:50], m, checkpoint=str(tmp_path), every=1)
    for _ in range(4):
        next(first)
    first.close()
    resumed = Generative("internal", SMALL)
    assert len(list(resumed.train(frames[:50], m, checkpoint=str(tmp_path), every=1))) == SMALL.steps - 4
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="cgvae"):
        Generative("gan")


def test_beads_of_another_molecule_are_refused(frames):
    backmapper = Generative("internal", SMALL).fit(frames[:50], mapping.sequence(frames, 6))
    with pytest.raises(ValueError, match="no multiple of the 6"):
        backmapper.sample(mapping.sequence(frames, 5).apply(frames[:2]))


def test_a_molecule_across_the_boundary_is_backmapped_whole():
    """Its beads come wrapped into the box."""
    liquid = datasets.load("tetracosane")[:3]
    m = mapping.sequence(liquid, 8)
    backmapper = Generative("internal", SMALL).fit(liquid, m)
    beads = m.apply(liquid)
    wrapped = type(beads)(**{**beads.__dict__, "positions": beads.positions % float(beads.cell[0, 0, 0])})
    x = backmapper.sample(wrapped, 1)[0]
    assert x.shape == (3, liquid.n_atoms, 3)
    first, second = torch.tensor(list(liquid.bonds)).T
    assert float((x[:, first] - x[:, second]).norm(dim=-1).max()) < 4.0
    assert dihedrals(x[:, :4], torch.tensor([[0, 1, 2, 3]])).isfinite().all()
