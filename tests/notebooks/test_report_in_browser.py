"""The report opens offline in a real browser: viewers draw, plots appear, nothing is fetched."""

import numpy as np
import pytest

from tests.browser.chrome import ink, page, pixels, wait_until

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def opened(fast_report):
    with page() as (tab, outside, errors):
        tab.goto(f"file://{fast_report[0]}")
        yield tab, outside, errors


def test_nothing_is_fetched_and_no_script_fails(opened):
    tab, outside, errors = opened
    tab.wait_for_timeout(1500)
    assert outside == []
    assert errors == []


def test_every_viewer_draws(opened):
    viewers = opened[0].locator(".mlmd-viewer canvas")
    assert viewers.count() == 3
    for k in range(3):
        viewers.nth(k).scroll_into_view_if_needed()
        assert ink(pixels(viewers.nth(k))) > 0.02


def test_the_coarse_grained_trajectory_plays(opened):
    tab = opened[0]
    view = tab.locator(".mlmd-viewer").nth(2)
    before = pixels(view.locator("canvas"))
    view.locator('button[aria-label="play"]').click()
    wait_until(lambda: not view.locator(".count").inner_text().startswith("1 "), 10, "the second frame", tab)
    view.locator('button[aria-label="pause"]').click()
    assert np.abs(pixels(view.locator("canvas")) - before).mean() > 0.2


def test_the_interactive_surface_tells_values(opened):
    tab = opened[0]
    plot = tab.locator(".js-plotly-plot").first
    plot.scroll_into_view_if_needed()
    box = plot.locator(".nsewdrag").first.bounding_box()
    seen = False
    for f in np.linspace(0.1, 0.9, 9):
        tab.mouse.move(box["x"] + f * box["width"], box["y"] + (1 - f) * box["height"])
        tab.wait_for_timeout(150)
        seen = seen or plot.locator(".hoverlayer .hovertext").count() > 0
    assert seen


def test_the_code_is_folded_away_until_asked_for(opened):
    tab = opened[0]
    code = tab.locator("main .code").first
    assert not code.is_visible()
    tab.click("#fold")
    assert code.is_visible()
    tab.click("#fold")
    assert not code.is_visible()


def test_the_contents_lead_to_their_sections(opened):
    tab = opened[0]
    tab.click("nav a >> text=Free energy")
    tab.wait_for_timeout(900)
    top = tab.evaluate(
        "[...document.querySelectorAll('h2')].find(h => h.textContent.includes('Free energy')).getBoundingClientRect().top"
    )
    assert abs(top) < 200


def test_it_fits_a_narrow_screen(opened):
    tab = opened[0]
    tab.set_viewport_size({"width": 420, "height": 900})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 440
    tab.set_viewport_size({"width": 1320, "height": 1000})


def test_the_report_of_a_liquid_opens_offline_and_fits_a_narrow_screen(opened, liquid_report):
    tab, outside, errors = opened
    tab.goto(f"file://{liquid_report}")
    tab.wait_for_timeout(1000)
    assert (outside, errors) == ([], [])
    viewer = tab.locator(".mlmd-viewer canvas")
    assert viewer.count() == 1
    viewer.scroll_into_view_if_needed()
    assert ink(pixels(viewer)) > 0.02
    tab.set_viewport_size({"width": 420, "height": 900})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 440
