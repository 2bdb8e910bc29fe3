"""The painter draws exact silhouettes, hides what lies behind, and leaves the background free."""

import numpy as np
import pytest
from mlmd_widgets import painter
from mlmd_widgets.layers import Layer

HEAD_ON = painter.Camera(np.eye(3), np.zeros(3), (2.0, 2.0))


def _ball(position, color, radius=1.0, opacity=1.0, **more) -> Layer:
    return Layer("x", np.array([[position]], dtype=float), np.array([radius]), (color,), ("b",), opacity=opacity, **more)


def test_a_ball_covers_the_area_of_a_circle():
    image = painter.paint([_ball((0, 0, 0), "#0072B2")], HEAD_ON, width=200)
    pixels_per_length = 200 / 4
    assert image[..., 3].sum() / pixels_per_length**2 == pytest.approx(np.pi, rel=0.01)


def test_a_stick_covers_length_times_width():
    layer = Layer(
        "x", np.array([[[-1.0, 0, 0], [1.0, 0, 0]]]), np.full(2, 1e-3), ("#FF0000",) * 2, ("a", "b"), ((0, 1),), stick=0.2
    )
    image = painter.paint([layer], HEAD_ON, width=400)
    assert image[..., 3].sum() / 100**2 == pytest.approx(2 * 0.4, rel=0.02)


def test_what_is_in_front_hides_what_is_behind():
    red, blue = _ball((0, 0, 1), "#FF0000", 0.5), _ball((0, 0, -1), "#0000FF", 0.5)
    for order in ([red, blue], [blue, red]):
        middle = painter.paint(order, HEAD_ON, width=100)[50, 50]
        assert middle[0] > 2 * middle[2]


def test_a_translucent_bead_lets_the_atom_behind_it_shine_through():
    atom = _ball((0, 0, -1), "#FF0000", 0.5)
    alone = painter.paint([atom], HEAD_ON, width=100)[50, 50]
    veiled = painter.paint([atom, _ball((0, 0, 1), "#0000FF", 0.8, opacity=0.4)], HEAD_ON, width=100)[50, 50]
    assert veiled[2] > alone[2]
    assert veiled[0] > 0.3


def test_a_translucent_bead_behind_an_atom_changes_nothing_in_front():
    atom = _ball((0, 0, 1), "#FF0000", 0.9)
    with_bead = painter.paint([atom, _ball((0, 0, -1), "#0000FF", 0.5, opacity=0.4)], HEAD_ON, width=100)
    assert np.allclose(with_bead[50, 50], painter.paint([atom], HEAD_ON, width=100)[50, 50])


def test_the_background_stays_transparent():
    image = painter.paint([_ball((0, 0, 0), "#0072B2")], HEAD_ON, width=60)
    assert image[0, 0, 3] == 0
    assert image.min() >= 0
    assert image.max() <= 1


def test_the_camera_sees_everything_and_does_not_depend_on_how_the_molecule_lies():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 8, 3)) * [4, 2, 1]
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    views = []
    for positions in (x, x @ turn):
        layer = Layer("x", positions, np.full(8, 0.5), ("#000000",) * 8, tuple("abcdefgh"))
        camera = painter.camera_for([layer])
        seen = camera.view(layer.positions[0])
        assert (np.abs(seen[:, :2]) + 0.5 <= np.array(camera.half) + 1e-6).all()
        views.append(seen[:, :2])
    assert np.allclose(*views, atol=1e-3)


def test_a_picture_names_its_beads():
    figure = painter.picture([_ball((0, 0, 0), "#0072B2", labelled=True)], "title", legend=["bead 1"])
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["bead 1"]
    assert "b" in [t.get_text() for t in figure.axes[0].texts]


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="layers is empty"):
        painter.camera_for([])
