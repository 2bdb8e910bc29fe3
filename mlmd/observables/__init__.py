"""What is measured on positions and velocities: geometry, g(r), distributions, dynamics, block errors.

Geometry returns tensors (differentiable, in the type of the positions); statistics return float64 numpy arrays with errors.
"""

from mlmd.observables.blocks import block_labels, block_mean, ratio
from mlmd.observables.coordinates import Coordinate
from mlmd.observables.dynamics import MSD, VACF, autocorrelation_time, diffusion_coefficient, msd, vacf
from mlmd.observables.geometry import angles, dihedrals, distances, kabsch_rmsd, radius_of_gyration, superpose
from mlmd.observables.histogram import Density1D, density, overlap
from mlmd.observables.rdf import RDF, distance_density, rdf
from mlmd.observables.terms import Terms, internal_terms

__all__ = [
    "MSD",
    "RDF",
    "VACF",
    "Coordinate",
    "Density1D",
    "Terms",
    "angles",
    "autocorrelation_time",
    "block_labels",
    "block_mean",
    "density",
    "diffusion_coefficient",
    "dihedrals",
    "distance_density",
    "distances",
    "internal_terms",
    "kabsch_rmsd",
    "msd",
    "overlap",
    "radius_of_gyration",
    "ratio",
    "rdf",
    "superpose",
    "vacf",
]
