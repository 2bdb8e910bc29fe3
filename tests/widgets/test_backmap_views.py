"""Pictures and tables of backmapped structures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mlmd_widgets import backmap_views

from mlmd import datasets
from mlmd.backmap.molecule import Molecule
from mlmd.backmap.quality import quality
from mlmd.cg import mapping


@pytest.fixture(scope="module")
def drawn():
    frames = datasets.load("alanine-dipeptide")[:20]
    molecule = Molecule.of(frames, mapping.sequence(frames, 6))
    return frames, molecule, frames.positions.expand(3, -1, -1, -1)


def test_samples_and_reference_are_seen_from_one_point_of_view(drawn):
    """A sample that is the reference lies upon it, whatever the frame."""
    beads, samples, reference = backmap_views.structure_layers(*drawn, frame=7)
    assert [len(samples), len(reference), len(beads)] == [4, 2, 1]
    np.testing.assert_allclose(samples[0].positions, reference[0].positions)
    np.testing.assert_allclose(samples[-1].positions, beads[0].positions)


def test_turning_the_view_does_not_change_the_hand(drawn):
    frames, molecule, samples = drawn
    shown = torch.from_numpy(backmap_views.structure_layers(frames, molecule, samples, 3)[2][0].positions[0])
    x = frames.positions[3]
    triple = [torch.linalg.det(torch.stack([y[k] - y[8] for k in (6, 9, 10)])) for y in (shown, x)]
    assert float(triple[0]) == pytest.approx(float(triple[1]), rel=1e-4)


def test_the_table_shows_a_dash_where_there_is_no_reference(drawn):
    frames, molecule, samples = drawn
    text = backmap_views.quality_table({"its own": quality(samples, frames.positions, molecule), "others": quality(samples, frames.positions, molecule, paired=False)})  # fmt: skip
    assert "–" in text and "100.0 %" in text and "3 × 20" in text


def test_the_figure_has_a_panel_for_beads_samples_and_reference(drawn):
    figure = backmap_views.structures(*drawn)
    assert [ax.get_title() or ax.get_title(loc="left") for ax in figure.axes] == ["beads", "3 samples", "reference"]
