"""nglview panes for live sessions: the right front-end version, a size that holds, and beads over atoms.

nglview 4.0.1 announces a front-end version that it does not ship, so that nothing is drawn; :func:`prepare` lets it announce
the version that is installed. It has to run before the first ``import nglview``, and therefore nglview is imported here only.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets
import mdtraj

from mlmd.errors import require
from mlmd_widgets import theme

EXTENSION = Path("nglview-js-widgets", "package.json")


def installed_frontend(paths: Sequence[str] | None = None) -> str | None:
    """Version of the nglview front end that JupyterLab will load, None if there is none."""
    if paths is None:
        from jupyter_core.paths import jupyter_path

        paths = jupyter_path("labextensions")
    for root in paths:
        package = Path(root) / EXTENSION
        if package.is_file():
            return json.loads(package.read_text(encoding="utf-8"))["version"]
    return None


def prepare() -> Any:
    """nglview, announcing the front end that is installed.

    Raises:
        MissingExtra: nglview is not installed.
    """
    version = installed_frontend()
    if version is not None and "nglview" not in sys.modules:
        module = types.ModuleType("nglview._frontend")
        module.__frontend_version__ = version  # type: ignore[attr-defined]
        sys.modules["nglview._frontend"] = module
    require("nglview", extra="notebooks")
    return importlib.import_module("nglview")


def pane(
    atoms: mdtraj.Trajectory,
    groups: Sequence[int] | None = None,
    beads: mdtraj.Trajectory | None = None,
    radii: Sequence[float] | None = None,
    size: tuple[int, int] = (520, 400),
) -> ipywidgets.Box:
    """Atoms painted by the bead they belong to, with the beads as translucent spheres over them; ``.view`` is the NGLWidget.

    groups (n,): bead of each atom, -1 for none. radii (N,): of the beads, A. Hidden tabs and boxes give nglview a size of
    zero; call ``.fit()`` of the result when it becomes visible.
    """
    nglview = prepare()
    view = nglview.NGLWidget(nglview.MDTrajTrajectory(atoms))
    view.clear_representations()
    for bead, members in _members(groups, atoms.n_atoms).items():
        color = theme.bead_color(bead) if bead >= 0 else theme.PALE
        view.add_representation("ball+stick", selection=members, color=color, aspectRatio=1.6)
    if groups is not None:
        view.add_representation("licorice", color="#888888", radius=0.08)
    if beads is not None:
        component = view.add_trajectory(nglview.MDTrajTrajectory(beads))
        component.clear()
        for bead in range(beads.n_atoms):
            radius = 0.9 if radii is None else float(radii[bead])
            component.add_representation("spacefill", selection=[bead], color=theme.bead_color(bead), opacity=0.4, radius=radius)
    return Pane(view, size)


class Pane(ipywidgets.Box):
    """A box of fixed size around an NGLWidget; :meth:`follow` keeps it at the frame of another widget."""

    def __init__(self, view: Any, size: tuple[int, int]):
        self.view, self.size = view, size
        layout = ipywidgets.Layout(width=f"{size[0] + 10}px", flex="0 0 auto", overflow="hidden")
        super().__init__([view], layout=layout)
        self.fit()

    def fit(self) -> None:
        """Give the canvas its size and centre the molecule."""
        self.view._remote_call("setSize", target="Widget", args=[f"{side}px" for side in self.size])
        self.view.center()
        self.view.control.zoom(0.35)  # nglview leaves more room than a small molecule needs

    def follow(self, other: Any) -> None:
        """Show the same frame as ``other``, a widget with a trait ``frame``, and the other way round."""
        ipywidgets.link((other, "frame"), (self.view, "frame"))


def _members(groups: Sequence[int] | None, n: int) -> dict[int, list[int]]:
    if groups is None:
        return {-1: list(range(n))}
    if len(groups) != n:
        raise ValueError(f"groups has {len(groups)} entries for {n} atoms")
    return {b: [j for j in range(n) if groups[j] == b] for b in sorted(set(map(int, groups)))}
