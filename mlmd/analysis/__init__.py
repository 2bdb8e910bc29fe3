"""What the measurements mean: free energy surfaces, divergences with their floor, populations, convergence, the report card."""

from mlmd.analysis.blocks import block_average, flyvbjerg_petersen, statistical_inefficiency
from mlmd.analysis.compare import Comparison, choose_torsions, compare
from mlmd.analysis.convergence import Verdict, halves, start_forgotten
from mlmd.analysis.divergence import JSFloor, jensen_shannon, jensen_shannon_samples, js_floor
from mlmd.analysis.fes import FES, difference, free_energy_surface
from mlmd.analysis.kinetics import Acceleration, Kinetics, compare_kinetics, kinetics
from mlmd.analysis.populations import ALPHA_R, PHI_POSITIVE, Population, Region, population, population_difference

__all__ = [
    "ALPHA_R",
    "FES",
    "PHI_POSITIVE",
    "Acceleration",
    "Comparison",
    "JSFloor",
    "Kinetics",
    "Population",
    "Region",
    "Verdict",
    "block_average",
    "choose_torsions",
    "compare",
    "compare_kinetics",
    "difference",
    "flyvbjerg_petersen",
    "free_energy_surface",
    "halves",
    "jensen_shannon",
    "jensen_shannon_samples",
    "js_floor",
    "kinetics",
    "population",
    "population_difference",
    "start_forgotten",
    "statistical_inefficiency",
]
