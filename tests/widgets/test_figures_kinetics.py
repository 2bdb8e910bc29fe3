"""Pictures of motion show the numbers that were measured, in ps and 1e-9 m^2/s, with bands of two standard errors."""

import numpy as np
import pytest
import torch
from mlmd_widgets import figures, theme

from mlmd.analysis import Acceleration, Kinetics, compare_kinetics
from mlmd.frames import Frames, bead_topology
from mlmd.observables import vacf


def walkers(angle: float, seed: int) -> Frames:
    """Twenty dumbbells that walk and turn, a frame every 100 fs."""
    rng = np.random.default_rng(seed)
    centre = rng.standard_normal((400, 20, 1, 3)).cumsum(0)
    u = rng.standard_normal((20, 3))
    axes = []
    for _ in range(400):
        u = u / np.linalg.norm(u, axis=-1, keepdims=True) + angle * rng.standard_normal(u.shape)
        axes.append(u / np.linalg.norm(u, axis=-1, keepdims=True))
    x = centre + np.array([-1.0, 1.0])[:, None] * np.stack(axes)[:, :, None]
    time = 100.0 * torch.arange(400, dtype=torch.float64)
    top = bead_topology(["A", "B"], [(0, 1)], 20)
    return Frames(torch.tensor(x.reshape(400, 40, 3)), top, time=time, masses=torch.ones(40), types=torch.tensor([0, 1] * 20))


@pytest.fixture(scope="module")
def result() -> Acceleration:
    return compare_kinetics(walkers(0.3, 0), walkers(0.5, 1))


@pytest.fixture(scope="module")
def both(result: Acceleration) -> dict[str, Kinetics]:
    return {theme.REFERENCE_NAME: result.reference, theme.CG_NAME: result.beads}


def test_displacements_are_drawn_over_picoseconds_with_the_line_of_the_fit(both: dict[str, Kinetics]) -> None:
    (ax,) = figures.displacements(both).axes
    k = both[theme.REFERENCE_NAME]
    curve, line = ax.lines[:2]
    assert np.allclose(curve.get_xdata(), k.msd.lag * 0.1)
    assert np.allclose(curve.get_ydata(), k.msd.msd)
    assert np.allclose(line.get_ydata(), k.diffusion.intercept + 6 * k.diffusion.value * np.asarray(line.get_xdata()) * 1000)
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx((k.msd.msd + 2 * k.msd.error).max())
    assert f"{k.diffusion.value * 1e4:.3g}" in ax.get_legend().get_texts()[0].get_text()


def test_relaxations_share_the_colours_of_reference_and_beads_and_name_their_times(both: dict[str, Kinetics]) -> None:
    figure = figures.relaxations(both)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["bond C1", "bond C2"]
    for ax in figure.axes:
        assert [ax.lines[0].get_color(), ax.lines[2].get_color()] == [theme.REFERENCE, theme.CG]
        tau = both[theme.CG_NAME].times[ax.get_title(loc="left")]
        assert f"{tau.value / 1000:.3g}" in ax.get_legend().get_texts()[1].get_text()


def test_the_integral_of_a_velocity_autocorrelation_is_drawn_as_diffusion() -> None:
    """White noise of variance s^2 a component: D = s^2 dt / 2 at once."""
    v = np.random.default_rng(2).normal(0, 0.01, (300, 20, 3))
    left, right = figures.velocity_correlation({"noise": (vacf(v, max_lag=20), 10.0)}).axes
    assert left.lines[0].get_ydata()[0] == pytest.approx(1.0)
    assert right.lines[0].get_ydata()[1] == pytest.approx(1e-4 * 10 / 2 * 1e4, rel=0.05)


def test_bars_are_the_factors_with_their_errors(result: Acceleration) -> None:
    (ax,) = figures.acceleration(result).axes
    assert [p.get_width() for p in ax.patches] == [result.diffusion.value, *(r.value for r in result.relaxation.values())]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["D", "τ bond C1", "τ bond C2"]


def test_every_axis_names_its_unit(both: dict[str, Kinetics], result: Acceleration) -> None:
    for figure in (figures.displacements(both), figures.relaxations(both), figures.acceleration(result)):
        for ax in figure.axes:
            assert " / " in ax.get_xlabel()


@pytest.mark.parametrize("draw", [figures.displacements, figures.velocity_correlation, figures.relaxations])
def test_a_picture_of_nothing_is_refused(draw: object) -> None:
    with pytest.raises(ValueError, match="none are given"):
        draw({})  # type: ignore[operator]
