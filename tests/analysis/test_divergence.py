"""The Jensen-Shannon divergence obeys its bounds, and its floor is what independent repetitions show."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import jensenshannon

from mlmd.analysis import jensen_shannon, jensen_shannon_samples, js_floor
from mlmd.observables import dihedrals

histograms = arrays(np.int64, 12, elements=st.integers(0, 50)).filter(lambda a: a.sum() > 0)


@given(histograms, histograms)
@settings(max_examples=60, deadline=None)
def test_js_is_symmetric_bounded_zero_only_for_equal_and_that_of_scipy(p: np.ndarray, q: np.ndarray) -> None:
    js = jensen_shannon(p, q)
    assert 0 <= js <= np.log(2)
    assert js == pytest.approx(jensen_shannon(q, p), abs=1e-12)
    assert js == pytest.approx(jensenshannon(p, q) ** 2, abs=1e-9)
    assert jensen_shannon(p, 7 * p) == pytest.approx(0, abs=1e-12)
    order = np.random.default_rng(0).permutation(12)
    assert js == pytest.approx(jensen_shannon(p[order], q[order]), abs=1e-12)


@given(histograms, histograms)
@settings(max_examples=30, deadline=None)
def test_merging_bins_never_raises_js(p: np.ndarray, q: np.ndarray) -> None:
    assert jensen_shannon(p.reshape(6, 2).sum(1), q.reshape(6, 2).sum(1)) <= jensen_shannon(p, q) + 1e-12


def test_disjoint_sets_differ_by_ln_2_and_periodic_images_do_not_differ() -> None:
    rng = np.random.default_rng(0)
    a = rng.uniform(-3, -1, (2, 500))
    assert jensen_shannon_samples((a[0], a[1]), (a[0] + 4, a[1] + 4)) == pytest.approx(np.log(2))
    assert jensen_shannon_samples((a[0], a[1]), (a[0] + 2 * np.pi, a[1])) == pytest.approx(0, abs=1e-12)
    assert jensen_shannon_samples((a[0], a[1]), (a[0] + 2 * np.pi, a[1]), periodic=(False, False)) == pytest.approx(np.log(2))


def test_for_well_filled_bins_the_floor_is_that_of_chi_squared() -> None:
    """K bins, n_a and n_b draws: JS -> (K - 1) / 8 (1 / n_a + 1 / n_b)."""
    counts = np.full(100, 1000)
    floor = js_floor(counts, 50_000, n_reference=100_000)
    expected = 99 / 8 * (1 / 50_000 + 1 / 100_000)
    assert floor.multinomial == pytest.approx(expected, rel=0.1)
    assert floor.shuffled == pytest.approx(expected, rel=0.1)
    assert np.isnan(floor.block)
    assert js_floor(counts, 50_000).multinomial == pytest.approx(99 / 8 / 50_000, rel=0.1)
    assert js_floor(counts, 100_000, correlation=(2.0, 1.0)).multinomial == pytest.approx(99 / 8 / 50_000, rel=0.1)


def walk(rng: np.random.Generator, n: int, a: float) -> tuple[np.ndarray, np.ndarray]:
    """Two autoregressive variables of standard deviation 0.8, on a circle."""
    z = np.zeros((n, 2))
    z[0] = rng.standard_normal(2)
    kick = rng.standard_normal((n, 2)) * np.sqrt(1 - a * a)
    for t in range(1, n):
        z[t] = a * z[t - 1] + kick[t]
    return 0.8 * z[:, 0], 0.8 * z[:, 1]


@pytest.mark.parametrize(("a", "n"), [(0.0, 5000), (0.0, 40_000), (0.97, 10_000)])
def test_the_block_floor_is_the_js_of_independent_sets(a: float, n: int) -> None:
    rng = np.random.default_rng(1)
    sets = [walk(rng, 10_000, a) for _ in range(3)]
    true = np.mean([jensen_shannon_samples(s, walk(rng, n, a)) for s in sets])
    floor = js_floor(sets[0], n)
    assert floor.block == pytest.approx(true, rel=0.2)
    assert floor.multinomial < 0.95 * true  # sparse reference: bins that it never saw are missing


def test_floors_repeat_with_their_seed_and_fall_with_more_samples() -> None:
    s = walk(np.random.default_rng(2), 4000, 0.5)
    assert js_floor(s, 1000, seed=3) == js_floor(s, 1000, seed=3)
    assert js_floor(s, 100_000).block < js_floor(s, 1000).block


def test_floor_of_ten_thousand_alanine_frames_is_of_the_known_size(shared_data: Path) -> None:
    """1e4 independent samples against a large reference were reported at JS 0.0173, 5e3 at 0.0315, 1e5 at 0.0023 (60 x 60 bins)."""
    x = torch.from_numpy(np.load(shared_data / "ala2" / "cgnet_ala2_cacb_coordinates.npy")).double()
    phi, psi = dihedrals(x, [[0, 1, 2, 4], [1, 2, 4, 5]]).numpy().T
    for n, reported in ((1e4, 0.0173), (5e3, 0.0315), (1e5, 0.0023)):
        assert js_floor((phi, psi), n, n_reference=1e9).shuffled == pytest.approx(reported, rel=0.35)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: jensen_shannon([1, -1], [1, 1]), "p must be"),
        (lambda: jensen_shannon([1, 1], [0, 0]), "q must be"),
        (lambda: jensen_shannon([1, 1], [1, 1, 1]), "same bins"),
        (lambda: js_floor(np.ones(4), 0.5), "sizes"),
        (lambda: js_floor(np.ones(4), 10, correlation=(0.5, 1)), "factors"),
    ],
)
def test_what_is_no_distribution_is_refused(call, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        call()
