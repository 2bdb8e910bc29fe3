"""Every notebook runs from top to bottom without a screen, in a fast mode, and leaves what it promises."""

import io
import json
import re
from pathlib import Path

import pytest
from mlmd_widgets import report

papermill = pytest.importorskip("papermill")
nbformat = pytest.importorskip("nbformat")
ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = sorted((ROOT / "notebooks" / "tutorials").glob("*.ipynb"))
FAST: dict[str, dict[str, int]] = {
    "01_learning_a_mapping.ipynb": {"steps": 60},
    "02_simulating_a_liquid.ipynb": {"cells": 3, "steps": 100},
    "03_water_to_one_bead.ipynb": {"steps": 400, "iterations": 2},
    "04_liquid_ethane.ipynb": {"steps": 500, "iterations": 1, "produced": 600},
    "05_backmapping.ipynb": {"steps": 30, "frames": 1000},
}
EXTERNAL = re.compile(r"""(?:src|href)\s*=\s*["'](?:https?:)?//[^"']+["']|@import|url\((?!["']?data:)[^)]*//""")


def run(notebook: Path, folder: Path, parameters: dict) -> Path:
    return report.render(notebook, folder, parameters, progress=io.StringIO())


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_a_tutorial_runs_and_shows_pictures(path, tmp_path):
    page = run(path, tmp_path, FAST[path.name])
    executed = nbformat.read(tmp_path / "report.ipynb", as_version=4)
    pictures = [o for c in executed.cells if c.cell_type == "code" for o in c.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) >= 4
    assert "Not answered yet" in page.read_text()


def test_the_report_has_every_section(fast_report):
    text = fast_report[0].read_text()
    sections = re.findall(r'<h2 id="section-\d+">(.*?)</h2>', text)
    assert [re.sub("<.*?>", "", s).strip() for s in sections] == [
        *("The data", "The mapping", "The price of compression", "The prior", "Training", "The simulation"),
        *("Distributions", "Free energy", "How it was made"),
    ]
    for word in ("JS divergence", "percentage points", "noise (estimate)", "versions", "seed", "ns/day", 'class="mlmd-card'):
        assert word in text, word


def test_the_report_of_a_liquid_has_its_own_sections(liquid_report):
    text = liquid_report.read_text()
    sections = re.findall(r'<h2 id="section-\d+">(.*?)</h2>', text)
    assert [re.sub("<.*?>", "", s).strip() for s in sections] == [
        *("The data", "The mapping", "The price of compression", "The target", "The pair potential", "The bead liquid"),
        *("Structure", "Motion", "How it was made"),
    ]
    for word in ("8 → 2", "g/cm³", "mean |Δg|", "overlap", "times as fast", "pressure / bar", "2,000", "ns/day", "JS / nat"):
        assert word in text, word
    assert "Traceback (most" not in text
    assert not re.search(r"<td>[^<]*\bnan\b", text)
    assert liquid_report.stat().st_size < 8e6
    executed = nbformat.read(liquid_report.parent / "report.ipynb", as_version=4)
    pictures = [o for c in executed.cells if c.cell_type == "code" for o in c.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) >= 10  # map, annealing, targets, bonds, iterations, potential, boxes, g(r), bonds, both boxes, motion


def test_the_report_is_self_contained_and_of_a_size_to_be_mailed(fast_report):
    page = fast_report[0]
    text = re.sub(r"<script.*?</script>", "", page.read_text(), flags=re.S)  # what scripts ask for is tested in a browser
    assert not EXTERNAL.findall(text)
    assert page.stat().st_size < 8e6


def test_the_report_shows_no_error_and_no_nan(fast_report):
    text = re.sub(r"<script.*?</script>", "", fast_report[0].read_text(), flags=re.S)
    assert "Traceback (most" not in text
    assert not re.search(r"<td>[^<]*\bnan\b", text)


def test_the_fast_report_says_that_it_is_one_and_ends_in_time(fast_report):
    page, seconds = fast_report
    assert "A fast run" in page.read_text()
    assert seconds < 180, "90 s are promised on an idle machine"


def test_a_second_report_takes_the_finished_stages_from_the_folder(fast_report, tmp_path):
    runs = fast_report[0].parent / "runs"
    before = {p: p.stat().st_mtime_ns for p in runs.rglob("*.npz") if p.name.startswith(("train", "refine", "chunk"))}
    assert before
    run(report.find_notebook(), tmp_path, {"fast": True, "runs": str(runs)})
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_trajectory_without_forces_gives_a_report_too(tmp_path):
    from mlmd import datasets

    frames = datasets.load("propane")[:600]
    frames.to_mdtraj().save_dcd(str(tmp_path / "propane.dcd"))
    frames.to_mdtraj()[0].save_pdb(str(tmp_path / "propane.pdb"))
    parameters = {
        "top": str(tmp_path / "propane.pdb"),
        "traj": str(tmp_path / "propane.dcd"),
        "temperature": frames.kT / 8.617333e-5,
    }
    page = run(report.find_notebook(), tmp_path / "out", parameters | {"n_beads": 3, "fast": True, "runs": str(tmp_path / "runs")})
    assert "hold no forces" in page.read_text()
    assert "11 → 3" in page.read_text()


def test_the_executed_notebook_keeps_its_parameters(fast_report):
    executed = json.loads((fast_report[0].parent / "report.ipynb").read_text())
    assert executed["metadata"]["papermill"]["parameters"]["fast"] is True
