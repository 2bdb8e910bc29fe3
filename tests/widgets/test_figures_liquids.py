"""Pictures of a bead liquid show the numbers that they are given, with units and errors."""

import numpy as np
import pytest
import torch
from mlmd_widgets import figures, liquid_views, theme

from mlmd.observables import RDF, Density1D


def test_the_course_of_a_fit_has_both_deviations_the_tolerance_and_pressures_with_errors():
    log = {"noise": 0.01, "pressure error": 20.0}
    logs = [{**log, "iteration": k + 1, "mean": 0.1 / (k + 1), "max": 0.3 / (k + 1), "pressure": 100.0 * k} for k in range(4)]
    left, right = figures.iterations(logs, 0.04, "largest").axes
    lines = {line.get_label(): line.get_ydata() for line in left.get_lines()}
    assert list(lines["largest"]) == [log["max"] for log in logs]
    assert list(lines["mean"]) == [log["mean"] for log in logs]
    assert set(lines["wanted of the largest"]) == {0.04}
    assert "bar" in right.get_ylabel()
    assert len(right.containers) == 1  # error bars


def test_a_pair_potential_is_shown_in_kT_where_it_can_be_felt():
    r = np.linspace(3, 10, 71)
    u = 0.02 * ((4 / r) ** 12 - (4 / r) ** 6)
    (ax,) = figures.pair_potentials(r, {"a–a": {"first guess": 0 * u, "fitted": u}}, 0.0159).axes
    drawn = ax.get_lines()[1]
    assert drawn.get_ydata().max() < 12
    assert drawn.get_ydata().min() == pytest.approx(u.min() / 0.0159)
    assert ax.get_xlabel() == "r / Å"
    assert ax.get_ylim()[0] < drawn.get_ydata().min()


def test_densities_carry_their_errors():
    d = Density1D(np.linspace(0, 1, 11), np.linspace(1, 2, 10), np.full(10, 0.1))
    ax = figures.densities({"bond a–a": ("r / Å", d)}).axes[0]
    assert len(ax.collections) == 2  # what is below, and the band
    assert ax.get_xlabel() == "r / Å"


def test_two_boxes_are_told_apart_by_colour_and_line():
    r = np.arange(1.0, 6.0)
    g = RDF(r, np.ones(5), np.full(5, 0.1), np.ones(5), np.arange(0.5, 6.0), 1)
    figure = figures.two_boxes({"a–a": (g, g)}, ("small", "large"))
    lines = figure.axes[0].get_lines()[:2]
    assert [line.get_label() for line in lines] == ["small", "large"]
    assert lines[0].get_color() != lines[1].get_color()
    assert lines[0].get_linestyle() != lines[1].get_linestyle()


def test_nothing_to_show_is_refused():
    for make in (figures.densities, lambda x: figures.iterations([], 0.1)):
        with pytest.raises(ValueError, match="empty"):
            make({})


def test_the_corner_view_shows_the_whole_box():
    edges = torch.cartesian_prod(*[torch.arange(2.0)] * 3).numpy() * 20
    layers = [
        liquid_views.Layer("box", edges, np.full(8, 0.1), (theme.GREY,) * 8, ("",) * 8),
    ]
    camera = liquid_views._corner_view(layers)
    seen = camera.view(edges)
    assert np.allclose(camera.rotation @ camera.rotation.T, np.eye(3))
    assert (np.abs(seen[:, :2]) <= np.array(camera.half)).all()
