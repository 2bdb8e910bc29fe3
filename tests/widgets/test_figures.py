"""Figures show the numbers they are given, in the units they name, and keep compared panels on one scale."""

import numpy as np
import pytest
from mlmd_widgets import figures, theme
from mlmd_widgets.figures.landscapes import CEILING, surface_values

from mlmd import units
from mlmd.analysis import Population, free_energy_surface
from mlmd.analysis.compare import Overlay
from mlmd.observables import RDF, density

KT = 300 * units.kelvin


def _samples(n=4000, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(-1.2 + shift, 0.5, n), rng.normal(2.0, 0.5, n)


def _surface(**kwargs):
    return free_energy_surface(*_samples(**kwargs), kT=KT, bins=24)


def test_okabe_ito_colours_differ_in_lightness_or_hue_for_every_bead():
    assert len(set(theme.BEADS)) == len(theme.BEADS)


def test_every_axis_of_every_data_panel_names_a_unit():
    o = Overlay("bond 1-2", "bond", "length", density(_samples()[0], bins=20), density(_samples(seed=1)[0], bins=20))
    made = [
        figures.fes_triple(_surface(), _surface(seed=1)),
        figures.annealing_curves([0, 1], [4, 1], [1, 0.5], [2, 1]),
        figures.force_training([0, 1], [2, 1], [0, 1], [2, 1], 3.0, 2.0, 1.0),
        figures.overlays([o]),
        figures.populations([(Population("alpha_R", 0.3, 0.02, 10), Population("alpha_R", 0.2, 0.02, 10))]),
        figures.convergence([0, 1000.0], [1, 0.3], [0, 0.1], (0.3, 0.02)),
    ]
    for figure in made:
        for ax in figure.axes:
            label = ax.get_xlabel()
            assert label in ("", "step") or " / " in label, label


def test_reference_and_coarse_grained_surface_share_a_scale_and_the_difference_is_symmetric():
    figure = figures.fes_triple(_surface(), _surface(shift=0.3))
    reference, cg, difference = (ax.collections[0] for ax in figure.axes[:3])
    assert reference.get_clim() == cg.get_clim() == (0, CEILING)
    low, high = difference.get_clim()
    assert low == -high


def test_a_free_energy_is_shown_in_kcal_per_mol_above_its_minimum_and_blank_where_unseen():
    fes = _surface()
    shown = surface_values(fes)
    assert np.nanmin(shown) == 0
    assert np.isnan(shown[fes.counts == 0]).all()
    i, j = np.unravel_index(np.argmax(fes.counts * (fes.counts < fes.counts.max())), fes.counts.shape)
    expected = -0.0019872043 * 300 * np.log(fes.counts[i, j] / fes.counts.max())  # R in kcal/mol/K
    assert shown[i, j] == pytest.approx(expected, rel=1e-4)


def test_surfaces_on_different_bins_are_not_compared():
    other = free_energy_surface(*_samples(), kT=KT, bins=12)
    with pytest.raises(ValueError, match="same edges"):
        figures.fes_triple(_surface(), other)


def test_the_interactive_surface_is_valid_json_with_its_values():
    import json

    figure = figures.fes_interactive([("reference", _surface())])
    trace = json.loads(figure.to_json())["data"][0]  # would raise on NaN
    values = np.array([[np.nan if v is None else v for v in row] for row in trace["z"]]).T
    assert np.nanmax(np.abs(values - np.minimum(surface_values(_surface()), CEILING))) < 0.006


def test_a_density_in_degrees_still_integrates_to_one():
    d = density(_samples()[0], bins=60, periodic=True)
    figure = figures.overlays([Overlay("dihedral", "dihedral", "angle", d, d)])
    line = figure.axes[0].lines[0]
    assert np.sum(line.get_ydata()) * (360 / 60) == pytest.approx(1, abs=1e-6)
    assert figure.axes[0].get_xlabel() == "angle / °"


def test_the_error_band_is_one_standard_error_wide():
    d = density(_samples()[0], bins=30)
    figure = figures.overlays([Overlay("r", "distance", "length", d, d)])
    band = figure.axes[0].collections[1].get_paths()[0].vertices
    k = int(np.argmax(d.density))
    at = np.isclose(band[:, 0], d.centers[k])
    assert np.ptp(band[at, 1]) == pytest.approx(2 * d.error[k])


def test_the_assignment_is_ordered_into_a_staircase():
    final = np.array([2, 0, 1, 0, 2])
    history = np.stack([np.full((3, 5), 1 / 3), np.eye(3)[final].T])
    figure = figures.assignment_annealing(history, [4.0, 0.1], list("abcde"))
    last = figure.axes[1].images[0].get_array()
    assert (np.diff(np.argmax(last, axis=1)) >= 0).all()
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["b", "d", "c", "a", "e"]
    assert np.allclose(last.sum(1), 1)


def test_the_snapshots_run_from_the_first_to_the_last_and_show_the_change():
    moments = np.concatenate([np.zeros(50), np.linspace(0, 1, 10), np.ones(40)])
    history = np.stack([[np.full(4, 1 - 0.5 * m), np.full(4, 0.5 * m)] for m in moments])
    figure = figures.assignment_annealing(history, np.arange(100, dtype=float), list("abcd"))
    shown = [float(ax.get_title(loc="center").split("=")[1]) for ax in figure.axes[:5]]
    assert shown[0] == 0
    assert shown[-1] == 99
    assert any(50 <= t <= 60 for t in shown)


def test_mismatched_history_is_refused():
    with pytest.raises(ValueError, match="history has shape"):
        figures.assignment_annealing(np.zeros((3, 2, 4)), [1.0, 2.0], list("abcd"))


def test_training_shows_every_level_that_bounds_it():
    figure = figures.force_training([0, 1], [2.0, 1.2], [0, 1], [1.8, 1.1], zero_force=3.0, prior_only=1.5, noise=1.0)
    heights = {line.get_label(): line.get_ydata()[0] for line in figure.axes[0].lines[2:]}
    factor = units.SHOWN["force^2"].factor
    assert heights["zero force"] == pytest.approx(3.0 / factor)
    assert heights["noise (estimated)"] == pytest.approx(1.0 / factor)


def test_radial_distribution_functions_carry_both_curves_and_the_ideal_gas():
    r = np.linspace(1, 5, 20)
    g = RDF(r, np.ones(20), np.full(20, 0.1), np.ones(20), np.linspace(1, 5, 21), 10)
    figure = figures.rdfs({"O-O": (g, g)})
    assert len(figure.axes[0].lines) == 3


def test_figures_leave_the_settings_of_the_session_alone():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    figures.curve([0, 1], [0, 1], "x / Å", "y / Å")
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("build", [figures.overlays, figures.prior_fits, figures.rdfs])
def test_nothing_to_show_is_refused(build):
    with pytest.raises(ValueError, match="empty"):
        build([])


def test_greek_names():
    assert theme.pretty("phi > 0") == "φ > 0"
    assert theme.pretty("alpha_R") == "αR"
    assert theme.pretty("alphabet") == "alphabet"


def test_courses_and_histograms_carry_the_numbers_given_and_the_law_they_should_follow():
    figure = figures.courses([0, 1, 2], {"a": [3.0, 4.0, 5.0], "b": [1.0, 1.0, 1.0]}, "t / ps", "T / K", level=("wanted", 4.0))
    (ax,) = figure.axes
    assert [line.get_label() for line in ax.lines] == ["a", "b", "wanted"]
    assert list(ax.lines[0].get_ydata()) == [3.0, 4.0, 5.0]
    with pytest.raises(ValueError, match="b has 2 points for 3"):
        figures.courses([0, 1, 2], {"b": [1.0, 1.0]}, "t / ps", "T / K")
    x = np.linspace(-4, 4, 81)
    law = np.exp(-x * x / 2) / (2 * np.pi) ** 0.5
    figure = figures.beside_law({"draws": np.random.default_rng(0).normal(size=20000)}, x, law, "v / Å/fs", "normal")
    (ax,) = figure.axes
    assert np.abs(np.interp(x, ax.lines[0].get_xdata(), ax.lines[0].get_ydata()) - law).max() < 1e-12
    steps = ax.patches[0].get_xy()[1:-1:2]
    assert np.abs(steps[:, 1] - np.interp(steps[:, 0] + 0.1, x, law)).max() < 0.03
