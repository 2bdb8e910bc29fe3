"""Pure figure builders: arrays or results of ``mlmd`` in, a figure out; no state, no display."""

from mlmd_widgets.figures.distributions import convergence, overlays, populations, prior_fits, rdfs
from mlmd_widgets.figures.kinetics import acceleration, displacements, relaxations, velocity_correlation
from mlmd_widgets.figures.landscapes import axis_name, draw_triple, fes_interactive, fes_triple
from mlmd_widgets.figures.liquids import densities, iterations, pair_potentials, two_boxes
from mlmd_widgets.figures.mapping import annealing_curves, assignment_annealing, compression, force_tradeoff
from mlmd_widgets.figures.simulation import beside_law, courses
from mlmd_widgets.figures.training import curve, force_training, refinement

__all__ = [
    "acceleration",
    "annealing_curves",
    "assignment_annealing",
    "axis_name",
    "beside_law",
    "compression",
    "convergence",
    "courses",
    "curve",
    "densities",
    "displacements",
    "draw_triple",
    "fes_interactive",
    "fes_triple",
    "force_tradeoff",
    "force_training",
    "iterations",
    "overlays",
    "pair_potentials",
    "populations",
    "prior_fits",
    "rdfs",
    "refinement",
    "relaxations",
    "two_boxes",
    "velocity_correlation",
]
