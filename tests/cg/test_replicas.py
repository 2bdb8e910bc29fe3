"""Who gets a ladder of temperatures, and what it is."""

import numpy as np
import pytest
import torch
from scipy.special import betainc

from mlmd import units
from mlmd.cg.replicas import HOTTEST, MOST_BEADS, canonical, rungs_for
from mlmd.frames import Frames, bead_topology
from mlmd.md import Langevin

KT = 300 * units.kelvin


def chain(n, **more):
    x = torch.arange(n)[None, :, None] * torch.tensor([1.5, 0.0, 0.0])
    return Frames(x, bead_topology(["A"] * n, [(k, k + 1) for k in range(n - 1)]), masses=torch.ones(n), kT=KT, **more)


@pytest.mark.parametrize(("n", "rungs"), [(3, 1), (4, 4), (MOST_BEADS, 4), (MOST_BEADS + 1, 1)])
def test_molecules_with_torsions_get_a_ladder_unless_they_are_large(n, rungs):
    assert rungs_for(chain(n), 4) == rungs


def test_molecules_in_a_box_get_none():
    assert rungs_for(chain(6, cell=torch.eye(3)[None] * 50.0), 4) == 1


def test_the_largest_molecule_with_a_ladder_accepts_a_tenth_of_the_swaps():
    """Harmonic systems: 2 I_{1/(1+R)}(c, c) for c = half the degrees of freedom and R the ratio of neighbouring temperatures (Kofke 2002)."""
    ratio, c = HOTTEST ** (1 / 3), (3 * np.array([MOST_BEADS, MOST_BEADS + 3]) - 6) / 2
    accepted = 2 * betainc(c, c, 1 / (1 + ratio))
    assert accepted[0] > 0.1 > accepted[1]


def test_one_rung_is_langevin_dynamics_and_four_reach_from_the_temperature_to_the_hottest():
    assert isinstance(canonical(2.0, KT, 0.005, 10, 1), Langevin)
    kT = canonical(2.0, KT, 0.005, 10, 4).kT
    assert kT.reshape(10, 4)[:, 0].numpy() == pytest.approx(KT)
    assert kT.reshape(10, 4)[:, -1].numpy() == pytest.approx(HOTTEST * KT)
