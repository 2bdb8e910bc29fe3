"""nglview is told the version of the front end that JupyterLab will load."""

import json
import subprocess
import sys

import mdtraj
import numpy as np
import pytest
from mlmd_widgets import nglpane

from mlmd.frames import bead_topology

pytest.importorskip("nglview")


def _package(folder, version):
    package = folder / nglpane.EXTENSION
    package.parent.mkdir(parents=True)
    package.write_text(json.dumps({"version": version}))
    return str(folder)


def test_the_first_folder_that_has_the_extension_counts(tmp_path):
    paths = [str(tmp_path / "none"), _package(tmp_path / "user", "3.1.5"), _package(tmp_path / "system", "4.0")]
    assert nglpane.installed_frontend(paths) == "3.1.5"
    assert nglpane.installed_frontend(paths[:1]) is None


def test_after_prepare_python_announces_the_installed_front_end():
    installed = nglpane.installed_frontend()
    if installed is None:
        pytest.skip("no labextension of nglview here")
    code = (
        "from mlmd_widgets import nglpane; nglpane.prepare()\n"
        "from nglview.widget import NGLWidget; print(NGLWidget._model_module_version.default_value)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == installed


def test_a_pane_shows_every_bead_in_its_colour():
    atoms = mdtraj.Trajectory(
        np.random.default_rng(0).normal(size=(2, 4, 3)), bead_topology(list("ABCD"), [(0, 1), (1, 2), (2, 3)])
    )
    beads = mdtraj.Trajectory(atoms.xyz[:, :2], bead_topology(["B0", "B1"], [(0, 1)]))
    pane = nglpane.pane(atoms, [0, 0, 1, 1], beads, radii=[1.0, 1.2])
    assert pane.layout.width == "530px"
    assert len(pane.children) == 1
    with pytest.raises(ValueError, match="groups has 2 entries for 4 atoms"):
        nglpane.pane(atoms, [0, 1])


def test_a_pane_follows_the_frame_of_our_viewer_and_back():
    from mlmd_widgets.layers import bead_layer
    from mlmd_widgets.viewer import MoleculeViewer

    xyz = np.random.default_rng(0).normal(size=(3, 4, 3))
    pane = nglpane.pane(mdtraj.Trajectory(xyz, bead_topology(list("ABCD"), [(0, 1), (1, 2), (2, 3)])))
    viewer = MoleculeViewer([bead_layer(xyz)])
    pane.follow(viewer)
    viewer.frame = 2
    assert pane.view.frame == 2
    pane.view.frame = 1
    assert viewer.frame == 1
