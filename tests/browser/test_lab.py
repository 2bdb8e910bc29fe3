"""The same calls as in a report, live in JupyterLab: widgets draw, move and talk back to Python."""

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tests.browser.chrome import ink, jupyterlab, page, pixels, run_all, wait_until

pytestmark = pytest.mark.browser

SETUP = """
import numpy as np
from mlmd import datasets
from mlmd.cg.study import Settings, Study
from mlmd_widgets import blocks, figures, study_views as views
from mlmd_widgets.display import headless, show, show_html, show_molecule, track
assert not headless()
frames = datasets.load("propane")[:300]
study = Study(frames, Settings(n_beads=3, mapping="backbone"), "runs")
track(study.learn_mapping(), "map")
show_html(blocks.note("ready"))
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    cells = [
        new_code_cell(SETUP),
        new_code_cell("viewer = show_molecule(views.map_layers(study, 20), title='live')"),
        new_code_cell(
            "from IPython.display import display\npane = views.nglview_pane(study, 20)\npane.follow(viewer)\ndisplay(pane)"
        ),
        new_code_cell("show(views.map_picture(study))"),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), folder / "live.ipynb")
    with jupyterlab(folder) as address, page(1500, 1300) as (tab, outside, _errors):
        run_all(tab, address, "live.ipynb", 120)
        yield tab
        assert outside == []


def test_the_viewer_draws_and_plays(lab):
    canvas = lab.locator(".mlmd-viewer canvas").first
    canvas.scroll_into_view_if_needed()
    wait_until(lambda: ink(pixels(canvas)) > 0.01, 20, "coloured pixels", lab)
    count = lab.locator(".mlmd-viewer .count").first
    lab.locator('.mlmd-viewer button[aria-label="play"]').first.click()
    wait_until(lambda: not count.inner_text().startswith("1 "), 10, "the second frame", lab)
    lab.locator('.mlmd-viewer button[aria-label="pause"]').first.click()


def test_nglview_draws(lab):
    canvas = lab.locator(".nglview-main canvas, .jp-OutputArea canvas:not(.mlmd-viewer canvas)").last
    canvas.scroll_into_view_if_needed()
    wait_until(lambda: ink(pixels(canvas)) > 0.01, 30, "coloured pixels of nglview", lab)
    assert canvas.bounding_box()["width"] == pytest.approx(520, abs=2)


def test_stepping_our_viewer_moves_nglview_too(lab):
    view = lab.locator("canvas").last
    view.scroll_into_view_if_needed()
    wait_until(lambda: ink(pixels(view)) > 0.01, 30, "nglview", lab)
    before = pixels(view)
    canvas = lab.locator(".mlmd-viewer canvas").first
    canvas.focus()
    for _ in range(4):
        canvas.press("ArrowRight")
    wait_until(lambda: np.abs(pixels(view) - before).mean() > 0.05, 20, "another frame in nglview", lab)


def test_nothing_says_that_it_could_not_be_shown(lab):
    text = lab.locator(".jp-Notebook").inner_text()
    assert "javascript error" not in text.lower()
    assert "not registered" not in text
