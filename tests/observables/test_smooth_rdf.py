"""The g(r) of single snapshots adds up to that of the trajectory."""

import numpy as np
import pytest
import torch

from mlmd.observables import rdf
from mlmd.observables.smooth_rdf import SmoothRDF
from mlmd.system import System

X = torch.rand(5, 40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 9
BOX = System.single(X[0], torch.arange(40) % 2, cell=9.0)


@pytest.mark.parametrize("between", [None, (0, 0), (0, 1)])
def test_the_mean_over_snapshots_is_the_smoothed_rdf_of_the_trajectory(between):
    own = SmoothRDF(4.0, 50, between=between)(BOX.at(X)).mean(0)
    other = rdf(X, BOX.cell[0], r_max=4.0, bins=50, smooth=True, types=BOX.types, between=between)
    assert own.numpy() == pytest.approx(other.g, abs=1e-4)  # the other rounds distances to single precision


def test_a_single_pair_is_a_gaussian_over_the_ideal_gas():
    """Two particles 2 A apart: V K(r - 2) / (4 pi (r^2 + s^2)), the denominator integrated in closed form."""
    pair = System.single(torch.tensor([[0.0, 0, 0], [2.0, 0, 0]], dtype=torch.float64), cell=10.0)
    law = SmoothRDF(3.0, 30)
    r, s = law.grid.numpy(), 0.1
    exact = 1000 * np.exp(-0.5 * ((r - 2) / s) ** 2) / (np.sqrt(2 * np.pi) * s) / (4 * np.pi * (r**2 + s**2))
    g = law(pair)[0].numpy()
    assert np.abs(g - exact)[5:].max() < 0.04 * exact[5:].max()  # distances are taken from fine bins, up to 1/16 s off


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="r_max"):
        SmoothRDF(0.0)
    with pytest.raises(ValueError, match="at least one pair"):
        SmoothRDF(4.0, 10, between=(0, 7))(BOX)
