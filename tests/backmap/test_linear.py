"""Linear decoders against the least squares of another solver, and their invariances."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlmd import datasets
from mlmd.backmap.linear import EquivariantLinearBackmapper, LinearBackmapper
from mlmd.backmap.quality import rmsd
from mlmd.cg import mapping

BACKMAPPERS = [LinearBackmapper, EquivariantLinearBackmapper]


@pytest.fixture(scope="module")
def frames():
    return datasets.load("alanine-dipeptide")[:400]


def test_the_linear_decoder_leaves_what_numpys_least_squares_leaves(frames):
    m = mapping.sequence(frames, 6)
    x = frames.positions.double().numpy()
    X = m.positions(frames.positions.double()).numpy()
    middle = X.mean(1, keepdims=True)
    flat = [np.transpose(a - middle, (0, 2, 1)).reshape(-1, a.shape[1]) for a in (X, x)]
    residual = flat[1] - flat[0] @ np.linalg.lstsq(flat[0], flat[1], rcond=None)[0]
    found = LinearBackmapper().fit(frames, m).sample(m.apply(frames))[0]
    assert rmsd(found, frames.positions) == pytest.approx(np.sqrt((residual**2).sum() / (len(x) * 22)), rel=1e-3)


@pytest.mark.parametrize("kind", BACKMAPPERS)
def test_atoms_turn_and_shift_with_the_beads(kind, frames):
    m = mapping.sequence(frames, 5)
    fitted, X = kind().fit(frames, m), m.apply(frames).positions[:10]
    R, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))
    R = R * torch.linalg.det(R).sign()
    assert torch.allclose(fitted.sample(X @ R.T + 2.0), fitted.sample(X) @ R.T + 2.0, atol=1e-4)


def test_vectors_that_turn_do_better_than_a_linear_map_and_keep_the_beads(frames):
    m = mapping.sequence(frames, 5)
    beads = m.apply(frames)
    linear, turning = (kind().fit(frames, m).sample(beads)[0] for kind in BACKMAPPERS)
    assert rmsd(turning, frames.positions) < rmsd(linear, frames.positions)
    assert float((m.positions(turning) - beads.positions).abs().max()) < 1e-5
