"""The viewer in a page of its own: it draws, turns, plays, hides, and asks nobody for anything."""

import numpy as np
import pytest
from mlmd_widgets import viewer
from mlmd_widgets.layers import Layer

from tests.browser.chrome import ink, page, pixels, wait_until

pytestmark = pytest.mark.browser


@pytest.fixture
def shown(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 6, 3)) * [3, 2, 1] + np.cumsum(rng.normal(size=(40, 6, 3)) * 0.1, 0)
    atoms = Layer("atoms", x, np.full(6, 0.5), ("#0072B2",) * 6, tuple("abcdef"), ((0, 1), (1, 2)))
    beads = Layer("beads", x[:, :2], np.full(2, 1.2), ("#D55E00",) * 2, ("A", "B"), opacity=0.5, labelled=True)
    (tmp_path / "view.html").write_text(viewer.to_page([atoms, beads], title="a test"))
    with page(800, 700) as (tab, outside, errors):
        tab.goto(f"file://{tmp_path}/view.html")
        yield tab, tab.locator("canvas")
        assert outside == []
        assert errors == []


def test_it_draws_and_a_hidden_layer_is_gone(shown):
    tab, canvas = shown
    full = ink(pixels(canvas))
    assert full > 0.02
    tab.locator(".layer input[type=checkbox]").nth(0).uncheck()
    assert 0.002 < ink(pixels(canvas)) < full
    tab.locator(".layer input[type=checkbox]").nth(1).uncheck()
    assert ink(pixels(canvas)) < 0.002


def test_dragging_turns_it_and_home_brings_it_back(shown):
    tab, canvas = shown
    before, box = pixels(canvas), canvas.bounding_box()
    tab.mouse.move(box["x"] + 300, box["y"] + 200)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 420, box["y"] + 260, steps=4)
    tab.mouse.up()
    tab.mouse.move(5, 5)
    assert np.abs(pixels(canvas) - before).mean() > 1
    tab.click('button[aria-label="reset the view"]')
    tab.evaluate("document.activeElement.blur()")
    assert np.abs(pixels(canvas) - before).mean() < 0.5


def test_it_plays_and_stops(shown):
    tab, canvas = shown
    before = pixels(canvas)
    tab.click('button[aria-label="play"]')
    wait_until(lambda: not tab.inner_text(".count").startswith("1 "), 10, "the second frame", tab)
    tab.click('button[aria-label="pause"]')
    stopped = tab.inner_text(".count")
    assert np.abs(pixels(canvas) - before).mean() > 0.2
    tab.wait_for_timeout(400)
    assert tab.inner_text(".count") == stopped


def test_the_keyboard_steps_through_the_frames(shown):
    tab, canvas = shown
    canvas.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        tab.keyboard.press(key)
    assert tab.inner_text(".count") == "2 / 40"


def test_pointing_at_a_ball_says_its_name(shown):
    tab, canvas = shown
    box, image = canvas.bounding_box(), pixels(canvas)
    blue = np.argwhere(image[..., 2] - image[..., 0] > 90)
    y, x = map(float, blue[len(blue) // 2])
    tab.mouse.move(box["x"] + x, box["y"] + y)
    assert tab.locator(".hint").is_visible()
    assert "atoms" in tab.inner_text(".hint") or "beads" in tab.inner_text(".hint")
