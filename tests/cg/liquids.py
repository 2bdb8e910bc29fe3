"""Small liquids for the tests of structure-based methods, in units of epsilon, sigma and mass 1, kT = 1."""

import numpy as np
import torch

from mlmd.cg.liquid_sampler import LiquidSampler, Sample
from mlmd.cg.pair_splines import PairSplines
from mlmd.cg.target_rdf import TargetRDF
from mlmd.system import System

CUTOFF, DENSITY = 2.4, 0.6


def well(r: torch.Tensor, depth: float = 1.0) -> torch.Tensor:
    """A repulsive core and a shallow well that both end at the cutoff with zero slope: ((s/r)^8 - (s/r)^4) tapered."""
    taper = (1 - (r / CUTOFF) ** 2).clamp(min=0) ** 2
    return 4 * depth * (r**-8 - r**-4) * taper


def liquid(cells: int = 8, types: int = 1) -> System:
    """A simple cubic start of cells^3 beads; of several types in turns."""
    n = cells**3
    edge = (n / DENSITY) ** (1 / 3)
    sites = torch.cartesian_prod(*[torch.arange(float(cells))] * 3) * (edge / cells)
    return System.single(sites, torch.arange(n) % types, cell=edge)


def flat_target(first: float = 0.8, last: float = 2.6, width: float = 0.1, types=((0, 0),)) -> TargetRDF:
    """g = 1 from ``first`` on: only to define bins."""
    r = np.arange(round((last - first) / width) + 1) * width + first
    return TargetRDF(r, np.ones((len(types), len(r))), tuple(types))


def basis_of(target: TargetRDF) -> PairSplines:
    """A knot in the middle of every bin."""
    return target.basis(CUTOFF)


def well_values(basis: PairSplines) -> torch.Tensor:
    """The well at the knots, a little deeper from one pair of types to the next."""
    return torch.stack([well(basis.knots[:-1], 1.0 + 0.2 * k) for k in range(len(basis.types))])


def sampler_of(target: TargetRDF, system: System | None = None, **changes) -> LiquidSampler:
    """The sampler for a liquid of these tests."""
    system = liquid() if system is None else system
    settings = dict(kT=1.0, dt=0.01, friction=1.0, steps=2000, every=20, equilibration=300, seed=0) | changes
    return LiquidSampler(system, target, basis_of(target), **settings)


class DiluteGas:
    """A sampler's stand-in for independent pairs, of which everything is known: g = exp(-u / kT), and counts are Poisson numbers."""

    def __init__(self, target: TargetRDF, pairs: float = 1e5, kT: float = 1.0, snapshots: int = 200, seed: int = 0):
        self.target, self.basis, self.kT = target, basis_of(target), kT
        self.steps, self.every, self.snapshots = 20 * snapshots, 20, snapshots
        self.ideal = np.full(target.g.shape, pairs)
        self.random = np.random.default_rng(seed)

    def g(self, values: torch.Tensor) -> np.ndarray:
        """Exact g in the middles of the bins."""
        u = self.basis.functions(torch.from_numpy(self.target.r))[0] @ values.T
        return np.where(self.target.sampled, np.exp(-u.T.numpy() / self.kT), 0.0)

    def sample(self, values: torch.Tensor, steps: int | None = None) -> Sample:
        """Counts around the exact means; sums and virial from the middles of the bins."""
        values = self.basis.checked(values)
        functions, slopes = (f.numpy() for f in self.basis.functions(torch.from_numpy(self.target.r)))
        counts = self.random.poisson(self.ideal * self.g(values), (self.snapshots, *self.ideal.shape)).astype(float)
        virial = np.einsum("frb,bk,rk->f", counts * self.target.r, slopes, values.numpy())
        return Sample(counts, counts @ functions, virial, self.ideal, 100, 1e4, self.kT, 1.0, values, self.steps)


def gas_target(first: float = 0.8) -> tuple[TargetRDF, torch.Tensor]:
    """The g of a dilute gas of wells, and the values that made it."""
    flat = flat_target(first=first)
    gas = DiluteGas(flat)
    values = well_values(gas.basis)
    return TargetRDF(flat.r, gas.g(values)), values
