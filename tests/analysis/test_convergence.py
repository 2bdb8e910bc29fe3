"""Verdicts on convergence are right for processes whose relaxation is known."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from mlmd.analysis import ALPHA_R, PHI_POSITIVE, Region, halves, population, population_difference, start_forgotten
from mlmd.observables import dihedrals

UP = Region("x > 0", ((0.0, np.inf),))


def two_state(rate: float, times: int, replicas: int, *, start: int | None, seed: int = 0) -> np.ndarray:
    """Jumps between -1 and +1 with the same probability each way: p(t) = 1/2 + exp(-2 rate t) / 2 from +1."""
    rng = np.random.default_rng(seed)
    state = rng.choice([-1, 1], replicas) if start is None else np.full(replicas, start)
    out = np.empty((times, replicas))
    for t in range(times):
        out[t] = state
        state = np.where(rng.random(replicas) < rate, -state, state)
    return out


def test_populations_of_boxes_and_of_boxes_that_wrap_around() -> None:
    phi, psi = np.array([-1.0, -1.0, 1.0, 3.0]), np.array([0.0, 2.0, 0.0, -3.0])
    assert population(ALPHA_R, (phi, psi), n_blocks=2).fraction == 0.25
    assert population(PHI_POSITIVE, (phi, psi), n_blocks=2).fraction == 0.5
    beta = Region("beta", (None, (1.5, -2.5)))
    assert beta.contains(phi, psi).tolist() == [False, True, False, True]
    other = beta.complement()
    assert other is not None
    assert (other.contains(phi, psi) ^ beta.contains(phi, psi)).all()
    with pytest.raises(ValueError, match="bounds 2 variables"):
        ALPHA_R.contains(phi)


def test_population_error_is_the_spread_of_repetitions_and_differences_combine() -> None:
    runs = [population(UP, (two_state(0.02, 2000, 40, start=None, seed=s),)) for s in range(30)]
    spread = np.std([r.fraction for r in runs])
    assert np.mean([r.error for r in runs]) == pytest.approx(spread, rel=0.35)
    points, error = population_difference(runs[0], runs[1])
    assert points == pytest.approx(100 * (runs[0].fraction - runs[1].fraction))
    assert error == pytest.approx(100 * np.hypot(runs[0].error, runs[1].error))


def test_alpha_r_of_the_alanine_frames_is_the_known_population(shared_data: Path) -> None:
    x = torch.from_numpy(np.load(shared_data / "ala2" / "cgnet_ala2_coordinates.npy")).double()
    phi, psi = dihedrals(x, [[0, 1, 2, 3], [1, 2, 3, 4]]).numpy().T
    alpha, positive = population(ALPHA_R, (phi, psi)), population(PHI_POSITIVE, (phi, psi))
    assert (round(100 * alpha.fraction, 1), round(100 * alpha.error, 1)) == (25.2, 1.6)
    assert (round(100 * positive.fraction, 1), round(100 * positive.error, 1)) == (2.4, 1.4)


def test_a_relaxed_ensemble_has_forgotten_its_start() -> None:
    verdict = start_forgotten((two_state(0.02, 1000, 200, start=1),), UP)
    assert verdict.converged
    assert "forgotten" in verdict.sentence and "not forgotten" not in verdict.sentence
    assert verdict.numbers["population_last_half"] == pytest.approx(0.5, abs=4 * verdict.numbers["population_error"])
    json.dumps(asdict(verdict))


def test_a_relaxing_a_frozen_and_a_tiny_ensemble_have_not() -> None:
    relaxing = start_forgotten((two_state(0.0005, 1000, 400, start=1),), UP)
    frozen = start_forgotten((np.ones((1000, 50)),), UP)
    tiny = start_forgotten((two_state(0.05, 200, 4, start=1, seed=1),), UP)
    assert not relaxing.converged and "still changed" in relaxing.sentence
    assert not frozen.converged and "ever left" in frozen.sentence
    assert not tiny.converged and "Cannot tell" in tiny.sentence


def test_the_start_test_rarely_errs_on_stationary_ensembles() -> None:
    verdicts = [start_forgotten((two_state(0.03, 400, 300, start=None, seed=s),), UP).converged for s in range(30)]
    assert np.mean(verdicts) >= 0.9


def torus(times: int, replicas: int | None, seed: int, drift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (times,) if replicas is None else (times, replicas)
    x = rng.vonmises(0.0, 2.0, (2, *shape))
    x[0] += drift * np.linspace(0, 1, times).reshape(-1, *([1] * (len(shape) - 1)))
    return x[0], x[1]


@pytest.mark.parametrize("replicas", [None, 30])
def test_halves_of_stationary_samples_agree_and_of_drifting_ones_do_not(replicas: int | None) -> None:
    times = 6000 if replicas is None else 300
    agree = [halves(*torus(times, replicas, s), regions=[PHI_POSITIVE]).converged for s in range(8)]
    differ = [halves(*torus(times, replicas, s, drift=0.6), regions=[PHI_POSITIVE]).converged for s in range(8)]
    assert np.mean(agree) >= 0.8
    assert not any(differ)


def test_the_sentence_names_the_population_that_moved() -> None:
    verdict = halves(*torus(400, 40, 0, drift=1.0), regions=[PHI_POSITIVE])
    assert "phi > 0" in verdict.sentence and not verdict.converged
    assert verdict.numbers["populations"]["phi > 0"]["change_points"] > 5


@pytest.mark.parametrize("values", [np.ones((1000,)), np.ones((4, 10)), np.ones((100, 1))])
def test_too_few_replicas_or_times_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="replicas"):
        start_forgotten((values,), UP)
