"""Free energy surfaces recover analytic ones within their errors."""

import numpy as np
import pytest

from mlmd.analysis import difference, free_energy_surface

KT = 0.02585


def samples(seed: int = 0, shape: tuple[int, ...] = (4000, 20)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.vonmises(3.0, 1.5, shape), rng.vonmises(-0.5, 0.5, shape)


def exact(fes) -> np.ndarray:
    a, b = fes.centers
    return -KT * (1.5 * np.cos(a - 3.0)[:, None] + 0.5 * np.cos(b + 0.5)[None, :])


def test_the_surface_of_von_mises_samples_is_their_potential() -> None:
    fes = free_energy_surface(*samples(), kT=KT, bins=20)
    shift = np.average(fes.free_energy - exact(fes), weights=fes.probability)
    z = (fes.free_energy - exact(fes) - shift) / fes.error
    assert np.sqrt(np.mean(z**2)) == pytest.approx(1.0, abs=0.3)
    assert fes.free_energy.min() == 0.0
    assert fes.counts.sum() == 80_000
    assert fes.probability.sum() == pytest.approx(1.0)


def test_wrapped_and_unwrapped_angles_give_the_same_surface() -> None:
    a, b = samples(shape=(500,))
    one = free_energy_surface(a, b, kT=KT)
    two = free_energy_surface(a + 2 * np.pi, b - 4 * np.pi, kT=KT)
    assert np.abs(one.counts - two.counts).sum() <= 2  # rounding on an edge


def test_unsampled_bins_are_infinite_without_error() -> None:
    fes = free_energy_surface([0.1] * 20, [0.1] * 20, kT=KT, bins=4)
    assert np.isinf(fes.free_energy).sum() == 15
    assert np.isnan(fes.error).sum() == 15


def test_weights_move_the_surface_by_their_logarithm() -> None:
    a, b = samples()
    plain = free_energy_surface(a, b, kT=KT, bins=15)
    tilted = free_energy_surface(a, b, kT=KT, bins=15, weights=np.exp(-np.cos(a)))
    d, _ = difference(tilted, plain)
    expected = KT * np.cos(plain.centers[0])[:, None] + np.zeros_like(d)
    expected -= np.average(expected, weights=plain.probability)
    assert np.abs(d - expected).max() < 0.15 * KT


def test_difference_is_zero_on_average_nan_where_unsampled_and_within_its_error() -> None:
    a = free_energy_surface(*samples(1), kT=KT, bins=20)
    b = free_energy_surface(*samples(2), kT=KT, bins=20)
    d, error = difference(a, b)
    assert np.average(d, weights=b.probability) == pytest.approx(0, abs=1e-12)
    assert np.sqrt(np.mean((d / error) ** 2)) == pytest.approx(1.0, abs=0.3)
    hole = free_energy_surface(*(s[:5] for s in samples(3, (5,))), kT=KT, bins=20, n_blocks=2)
    part, _ = difference(hole, b)
    assert np.isfinite(part).sum() == (hole.counts > 0).sum()


def test_lengths_are_not_wrapped() -> None:
    fes = free_energy_surface([1.0, 9.0, 5.0], [0.0, 1.0, 2.0], kT=KT, periodic=(False, False), bins=8, n_blocks=2)
    assert (fes.edges[0][0], fes.edges[0][-1]) == (1.0, 9.0)
    assert fes.counts.sum() == 3


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (dict(kT=0.0), "kT"),
        (dict(cv2=np.ones(3)), "same samples"),
        (dict(bins=0), "bins"),
        (dict(cv1=[np.nan] * 4), "not finite"),
        (dict(periodic=(False, False), ranges=((5, 6), (5, 6))), "no sample lies inside"),
        (dict(periodic=(False, False), ranges=((6, 5), None)), "rising"),
    ],
)
def test_bad_arguments_are_named(change: dict, word: str) -> None:
    arguments = dict(cv1=np.arange(4.0), cv2=np.arange(4.0), kT=KT, n_blocks=2) | change
    with pytest.raises(ValueError, match=word):
        free_energy_surface(arguments.pop("cv1"), arguments.pop("cv2"), **arguments)


def test_surfaces_on_other_bins_are_not_subtracted() -> None:
    a, b = samples(shape=(100,))
    with pytest.raises(ValueError, match="edges"):
        difference(free_energy_surface(a, b, kT=KT, bins=10), free_energy_surface(a, b, kT=KT, bins=11))
