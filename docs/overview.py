"""Draw docs/overview.png from the study of `make demo` (its results are taken from ``runs/``; without them it is run).

Command: .venv/bin/python docs/overview.py
"""

from pathlib import Path

import torch
from mlmd_widgets import report, study_views
from mlmd_widgets.display import png, track

from mlmd import datasets
from mlmd.cg.study import Settings, Study


def main() -> None:
    torch.set_num_threads(1)
    known = report.parameters_of(report.find_notebook())
    study = Study(datasets.load(known["dataset"].default), Settings(rho=known["rho"].default), known["runs"].default)
    track(study.run(), "study")
    (Path(__file__).parent / "overview.png").write_bytes(png(study_views.overview(study)))


if __name__ == "__main__":
    main()
