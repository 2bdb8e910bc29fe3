"""The core of a pair potential, where no pair was seen: the parabola of what lies just outside goes on inwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlmd.cg.liquid_sampler import Sample
from mlmd.cg.pair_splines import PairSplines
from mlmd.cg.structure_loop import Correction
from mlmd.cg.target_rdf import TargetRDF

Array = NDArray[np.float64]
KNOWN = 0.02  # g from which on the potential is believed
RISING = 0.7  # g to which the flank reaches that is followed inwards


def with_core(values: Tensor, target: TargetRDF, basis: PairSplines) -> Tensor:
    r"""Values (R, I) whose knots nearer than the first bin with g > 0.02 lie on the parabola through that flank of the core.

    Where g is nearly zero it is known from a few pairs, and a potential that is flat there lets beads fall through each other. The
    parabola is fitted by least squares to the knots with 0.02 < g < 0.7, with a slope that only grows inwards.
    """
    out = values.clone()
    for row, g in zip(out, target.g):
        on_knots = np.interp(basis.knots[:-1].numpy(), target.r, g)
        first = int((on_knots > KNOWN).argmax())
        last = first + int((on_knots[first:] > RISING).argmax())
        last = max(last, first + 3)
        r = basis.knots[:-1].numpy()
        d = r - r[first]
        bend, slope = _flank(d[first:last], row[first:last].numpy())
        inner = float(row[first]) + slope * d[:first] + bend * d[:first] ** 2
        row[:first] = torch.from_numpy(inner)
    return out


def _flank(d: Array, u: Array) -> tuple[float, float]:
    """Curvature (not negative) and slope (not positive) at d = 0 of a parabola through (d, u) that passes through the first point."""
    design = np.stack([d[1:] ** 2, d[1:]], 1)
    bend, slope = np.linalg.lstsq(design, u[1:] - u[0], rcond=None)[0]
    if bend < 0:
        bend, slope = 0.0, float(np.dot(d[1:], u[1:] - u[0]) / np.dot(d[1:], d[1:]))
    return float(bend), min(float(slope), 0.0)


@dataclass(frozen=True)
class KeepingCore:
    """A correction after which the core follows the flank again (:func:`with_core`)."""

    method: Correction

    def __call__(self, sample: Sample, target: TargetRDF, basis: PairSplines) -> Tensor:
        """The next values (R, I) in eV."""
        return with_core(self.method(sample, target, basis), target, basis)
