"""What is measured on positions and velocities: geometry, g(r), distributions, dynamics, block errors.

Geometry returns tensors (differentiable, in the type of the positions); statistics return float64 numpy arrays with errors.
"""

from mlmd.observables.adf import ADF, SmoothADF, adf
from mlmd.observables.blocks import block_labels, block_mean, ratio
from mlmd.observables.coordinates import Coordinate
from mlmd.observables.dynamics import (
    MSD,
    VACF,
    Diffusion,
    GreenKubo,
    autocorrelation_time,
    diffusion_coefficient,
    finite_size_correction,
    green_kubo,
    msd,
    vacf,
)
from mlmd.observables.geometry import angles, dihedrals, distances, kabsch_rmsd, radius_of_gyration, superpose
from mlmd.observables.histogram import Density1D, density, overlap
from mlmd.observables.rdf import RDF, distance_density, rdf
from mlmd.observables.relaxation import Relaxation, RelaxationTime, fluctuation, orientational, relaxation_time, vector_correlation
from mlmd.observables.terms import Terms, internal_terms
from mlmd.observables.unwrap import centres, followed, molecules, unwrapped, without_drift

__all__ = [
    "ADF",
    "MSD",
    "RDF",
    "VACF",
    "Coordinate",
    "Density1D",
    "Diffusion",
    "GreenKubo",
    "Relaxation",
    "RelaxationTime",
    "SmoothADF",
    "Terms",
    "adf",
    "angles",
    "autocorrelation_time",
    "block_labels",
    "block_mean",
    "centres",
    "density",
    "diffusion_coefficient",
    "dihedrals",
    "distance_density",
    "distances",
    "finite_size_correction",
    "fluctuation",
    "followed",
    "green_kubo",
    "internal_terms",
    "kabsch_rmsd",
    "molecules",
    "msd",
    "orientational",
    "overlap",
    "radius_of_gyration",
    "ratio",
    "rdf",
    "relaxation_time",
    "superpose",
    "unwrapped",
    "vacf",
    "vector_correlation",
    "without_drift",
]
