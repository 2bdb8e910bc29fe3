"""Backmapped structures beside the beads they came from and the truth, and the table of their quality."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from mlmd.backmap.molecule import Molecule
from mlmd.backmap.quality import Quality
from mlmd.frames import Frames
from mlmd_widgets import blocks, layers, painter, theme
from mlmd_widgets.layers import Layer

GHOST = 0.55  # opacity of the beads over atoms
ROWS = (  # name, field, format, whether smaller or larger is better
    ("RMSD from the reference, heavy atoms / Å", "rmsd_heavy", "{:.3f}"),
    ("RMSD from the reference, all atoms / Å", "rmsd", "{:.3f}"),
    ("the best of the samples, all atoms / Å", "best", "{:.3f}"),
    ("distance between samples, all atoms / Å", "diversity", "{:.3f}"),
    ("wrong bonds, all atoms / %", "graph_error", "{:.2%}"),
    ("structures without a wrong bond", "valid", "{:.1%}"),
    ("the same, heavy atoms", "valid_heavy", "{:.1%}"),
    ("clashes per structure", "clashes", "{:.3f}"),
    ("overlap of bond lengths", "bonds", "{:.2f}"),
    ("overlap of angles", "angles", "{:.2f}"),
    ("overlap of dihedrals", "dihedrals", "{:.2f}"),
    ("stereocentres with the right hand", "chirality", "{:.1%}"),
)


def structure_layers(
    frames: Frames, molecule: Molecule, samples: Tensor, frame: int
) -> tuple[list[Layer], list[Layer], list[Layer]]:
    """Of one frame: the beads; all samples (n, F, N, 3) with the beads as a veil; the reference structure with the same veil."""
    top = frames.topology.subset(range(molecule.n_atoms))
    x = frames.positions[frame, : molecule.n_atoms].float()
    X = molecule.beads(x)
    drawn = samples[:, frame, : molecule.n_atoms]
    together = torch.cat([x[None], drawn]).double()
    middle = X.mean(0)
    turn = np.linalg.svd((X - middle).double().numpy(), full_matrices=True)[2].T
    turn[:, 2] *= np.sign(np.linalg.det(turn))

    def seen(y: Tensor) -> np.ndarray:
        return (y.double() - middle).numpy() @ turn

    atoms, beads = seen(together), seen(X[None])
    radii = layers.bead_radii(atoms[:1], beads, molecule.owner.tolist())
    veil = layers.bead_layer(beads, molecule.bead_bonds, radii, opacity=0.3)
    solid = layers.bead_layer(beads, molecule.bead_bonds, radii, opacity=0.9)
    some = [layers.atom_layer(y, top, name=f"sample {k + 1}", opacity=1.0 if k == 0 else GHOST) for k, y in enumerate(atoms[1:])]
    return [solid], [*some, veil], [layers.atom_layer(atoms[0], top, name="reference"), veil]


def structures(frames: Frames, molecule: Molecule, samples: Tensor, frame: int = 0) -> Figure:
    """Beads | samples, one over the other | reference, from one point of view.

    Args:
        frames: the reference, whole molecules. samples: (n, F, N, 3) of the beads of the same frames.
    """
    panels = structure_layers(frames, molecule, samples, frame)
    camera = painter.camera_for([layer for panel in panels for layer in panel])
    titles = ("beads", f"{len(samples)} samples", "reference")
    with theme.style():
        figure, axes = theme.panels(1, 3, 3.3, 0.4 + 3.3 * camera.half[1] / camera.half[0])
        for ax, title, panel in zip(axes, titles, panels, strict=True):
            painter.draw(ax, panel, camera, width=520)
            ax.set_title(title)
    return figure


def quality_table(columns: dict[str, Quality]) -> str:
    """Measures of several backmappers, or of several sets of beads, side by side; a dash where there is no reference to compare with."""
    rows = []
    for text, field, shape in ROWS:
        values = [getattr(q, field) for q in columns.values()]
        if field == "graph_error":
            cells = [f"{100 * v:.2f}" for v in values]
        else:
            cells = ["–" if np.isnan(v) else shape.format(v).replace("%", " %") for v in values]
        rows.append((text, *cells))
    of = ", ".join(f"{name}: {q.samples} × {q.structures}" for name, q in columns.items())
    first = next(iter(columns.values()))
    note = blocks.note(f"Samples × structures: {of}. The reference itself has {first.clashes_reference:.3f} clashes per structure.")
    return blocks.table(["", *columns], rows) + note
