"""Boltzmann inversion of bonds, angles and dihedrals of a liquid, and its iteration."""

import numpy as np
import pytest
import torch

from mlmd.cg.liquid_bonded import BondedTarget, Snapshots, alike_terms
from mlmd.frames import Frames, bead_topology
from tests.cg.chains import KT, bond_energy, cosine_energy, dihedral_energy, frames_of, sampled

ENERGIES = {"bonds": bond_energy, "cosines": cosine_energy, "dihedrals": dihedral_energy}


@pytest.fixture(scope="module")
def target():
    return BondedTarget.of(frames_of(sampled(60_000)))


def energy_of(target, coefficients, k, q):
    """Energy of one term with the given coordinate, less that of all others: by the law of the potential itself."""
    law = target.bonded(coefficients).laws[k].double()
    law = law.turn if target.terms[k].kind == "dihedrals" else law  # without the fading at straight angles
    angle = np.arccos(q) if target.terms[k].kind == "cosines" else q
    return law.u(torch.from_numpy(np.broadcast_to(angle, (len(law.rows), len(q))).copy()))[0].detach().numpy()


def worst(target, coefficients, k, energy):
    """Largest difference of a spline and an energy in the bins with at least a tenth of the largest density, less its mean."""
    d = target.reference[k]
    seen = d.density > 0.1 * d.density.max()
    off = energy_of(target, coefficients, k, d.centers[seen]) - energy(d.centers[seen])
    return np.abs(off - off.mean()).max()


def test_terms_are_put_together_by_types_read_from_either_end():
    coordinates, terms = alike_terms(6, [(k, k + 1) for k in range(5)], [0, 1, 1, 1, 1, 0])
    found = {t.name: len(t.rows) for t in terms}
    assert found == {
        "bonds 0-1": 2, "bonds 1-1": 3, "cosines 0-1-1": 2, "cosines 1-1-1": 2, "dihedrals 0-1-1-1": 2, "dihedrals 1-1-1-1": 1,
    }  # fmt: skip
    assert coordinates.pairs[terms[0].rows].tolist() == [[0, 1], [4, 5]]


def test_inversion_finds_the_energies_that_chains_were_drawn_with(target):
    """Independent coordinates: p(q) = J(q) exp(-u / kT) exactly, with r^2 for bonds; counting noise of some per cent."""
    u = target.inversion(KT)
    assert target.names == ["bonds 0-0", "cosines 0-0-0", "dihedrals 0-0-0-0"]
    for k, term in enumerate(target.terms):
        assert worst(target, u, k, ENERGIES[term.kind]) < 0.05 * KT, term.name


def test_one_iteration_turns_wrong_energies_into_right_ones_where_terms_are_independent(target):
    wrong = tuple(lambda q, e=e: 0.7 * e(q) for e in ENERGIES.values())
    there = BondedTarget.of(frames_of(sampled(60_000, seed=1, energies=wrong)))
    found = target.measured(frames_of(sampled(60_000, seed=2, energies=wrong)).positions)
    start = there.inversion(KT)
    moved = [target._spline(k, energy_of(there, start, k, d.centers), d.density) for k, d in enumerate(target.reference)]
    better = target.corrected(tuple(moved), found, KT)
    for k, term in enumerate(target.terms):
        before, after = (worst(target, c, k, ENERGIES[term.kind]) for c in (moved, better))
        assert after < 0.08 * KT and after < 0.3 * before, term.name


def test_densities_of_the_reference_overlap_with_themselves_and_snapshots_are_counted_once(target):
    frames = frames_of(sampled(600, seed=3))
    counter = Snapshots()
    for k in range(len(frames)):
        counter(frames.system(k))
    found, direct = target.measured(counter.positions), target.measured(frames.positions)
    assert all(np.array_equal(a.density, b.density) for a, b in zip(found, direct))
    assert target.overlaps(list(target.reference)) == pytest.approx(1.0)
    assert (target.overlaps(found) < 1).all() and (target.overlaps(found) > 0.9).all()


def test_of_achiral_chains_dihedrals_count_with_their_mirror_images():
    even = BondedTarget.of(frames_of(sampled(2000)), achiral=True).reference[2].density
    assert even == pytest.approx(even[::-1], abs=3e-3)  # samples on the edge of a bin go to the one above
    odd = BondedTarget.of(frames_of(sampled(2000))).reference[2].density
    assert even == pytest.approx((odd + odd[::-1]) / 2, abs=3e-3)


def test_beyond_what_was_sampled_bonds_are_pulled_back(target):
    u = target.inversion(KT)
    low, high = target.reference[0].edges[[0, -1]]
    outside = energy_of(target, u, 0, np.array([low - 0.2, low, high, high + 0.2]))
    assert outside[0] > outside[1] and outside[3] > outside[2]


def test_wrong_numbers_of_coefficients_and_single_beads_are_refused(target):
    with pytest.raises(ValueError, match="coefficients of bonds 0-0 have shape"):
        target.bonded((torch.zeros(3),))
    beads = Frames(torch.zeros(1, 4, 3), bead_topology(["A"], [], 4), types=torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="nothing bonded"):
        BondedTarget.of(beads)
