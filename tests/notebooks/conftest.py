"""The fast report, run once for all tests that look at it."""

import io
import time
from pathlib import Path

import pytest
from mlmd_widgets import report


@pytest.fixture(scope="session")
def fast_report(tmp_path_factory) -> tuple[Path, float]:
    """The page of the shipped data in fast mode, and the seconds it took."""
    pytest.importorskip("papermill")
    folder = tmp_path_factory.mktemp("report")
    began = time.perf_counter()
    page = report.render(report.find_notebook(), folder, {"fast": True, "runs": str(folder / "runs")}, progress=io.StringIO())
    return page, time.perf_counter() - began


@pytest.fixture(scope="session")
def liquid_report(tmp_path_factory) -> Path:
    """The page of the liquid that ships, in fast mode."""
    pytest.importorskip("papermill")
    folder = tmp_path_factory.mktemp("liquid-report")
    parameters = {"dataset": "ethane", "fast": True, "stride": 2, "runs": str(folder / "runs")}
    return report.render(report.find_notebook(), folder, parameters, progress=io.StringIO())
