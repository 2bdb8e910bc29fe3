import numpy as np
import pytest
import torch
from scipy.fft import dst

from mlmd.cg.boltzmann_inversion import boltzmann_inversion
from mlmd.cg.hypernetted_chain import hypernetted_chain_inversion, indirect_correlation
from mlmd.cg.target_rdf import TargetRDF
from mlmd.system import System
from tests.cg.liquids import CUTOFF, basis_of, flat_target, liquid, sampler_of, well, well_values


def solved(density: float, width: float = 0.025, points: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """r and g of the well from the hypernetted-chain equation, solved forwards by Picard's iteration with fast transforms."""
    r = width * np.arange(1, points)
    k = np.pi / (width * points) * np.arange(1, points)
    u = np.where(r < CUTOFF, well(torch.from_numpy(r)).numpy(), 0.0)
    gamma = np.zeros_like(r)
    for _ in range(400):
        c = np.exp(-u + gamma) - 1 - gamma
        ck = 2 * np.pi * width / k * dst(r * c, 1)
        series = density * ck**2 / (1 - density * ck)
        gamma = 0.5 * gamma + 0.5 * (k[1] - k[0]) / (4 * np.pi**2 * r) * dst(k * series, 1)
    return r, np.exp(-u + gamma)


def box(density: float, types: int = 1, n: int = 1500) -> System:
    edge = (n / density) ** (1 / 3)
    return System.single(torch.rand(n, 3) * edge, torch.arange(n) % types, cell=edge)


def target_of(r: np.ndarray, g: np.ndarray, last: float = 5.0) -> TargetRDF:
    seen = (r > 0.75) & (r < last)
    return TargetRDF(r[seen], g[seen])


@pytest.mark.parametrize("density", [0.2, 0.5])
def test_the_g_of_a_solved_hypernetted_chain_equation_gives_its_potential_back(density):
    target = target_of(*solved(density))
    basis = target.basis(CUTOFF)
    found = hypernetted_chain_inversion(target, basis, 1.0, box(density))
    torch.testing.assert_close(found[0], well(basis.knots[:-1]), atol=2e-5, rtol=0)
    assert float((boltzmann_inversion(target, basis, 1.0)[0] - well(basis.knots[:-1])).abs().max()) > 0.1


def test_without_neighbours_it_is_the_boltzmann_inversion():
    target = target_of(*solved(1e-6))
    assert float(np.abs(indirect_correlation(target, np.array([1e-6]))).max()) < 1e-4


def test_labels_on_equal_beads_change_nothing():
    """A mixture of two kinds that are the same, in unequal numbers: every pair of types gets the potential of the pure liquid."""
    target = target_of(*solved(0.5))
    named = TargetRDF(target.r, np.repeat(target.g, 3, 0), ((0, 0), (1, 0), (1, 1)))
    system = box(0.5)
    mixed = System.single(system.positions, (torch.arange(len(system)) % 4 == 0).long(), cell=system.cell[0, 0, 0])
    found = hypernetted_chain_inversion(named, named.basis(CUTOFF), 1.0, mixed)
    pure = hypernetted_chain_inversion(target, target.basis(CUTOFF), 1.0, system)
    torch.testing.assert_close(found, pure.expand(3, -1), atol=1e-9, rtol=0)


def test_from_the_g_of_a_simulated_liquid_it_is_nearer_the_potential_than_the_boltzmann_inversion():
    sampler = sampler_of(flat_target(last=4.4), steps=8000)
    truth = well_values(sampler.basis)
    target = TargetRDF(sampler.target.r, sampler.sample(truth).g)
    basis = basis_of(target)
    seen = basis.knots[:-1] > 1.05  # nearer, a bin of 0.1 is wide beside the steep core, for both alike
    plain, chained = (
        (u - basis.values_of(sampler.basis.law(truth)))[0, seen].abs().max()
        for u in (boltzmann_inversion(target, basis, 1.0), hypernetted_chain_inversion(target, basis, 1.0, liquid()))
    )
    assert float(chained) < 0.5 * float(plain)


def test_a_pair_of_types_without_target_is_refused():
    target = target_of(*solved(0.2))
    with pytest.raises(ValueError, match=r"no g\(r\) for the pairs of types \[\(0, 1\), \(1, 1\)\]"):
        hypernetted_chain_inversion(target, target.basis(CUTOFF), 1.0, box(0.2, types=2))


def test_a_target_that_no_liquid_of_this_density_has_is_refused():
    target = target_of(*solved(0.5))
    with pytest.raises(ValueError, match="structure factor"):
        hypernetted_chain_inversion(target, target.basis(CUTOFF), 1.0, box(1.5, n=4000))
