import numpy as np
import pytest
import torch

from mlmd import jit
from mlmd.cg.liquid_sampler import PairCounter
from mlmd.forces import energy_forces
from mlmd.neighbors import neighbors
from mlmd.observables.rdf import rdf
from tests.cg.liquids import basis_of, flat_target, liquid, sampler_of, well_values

TYPES = ((0, 0), (0, 1), (1, 1))


@pytest.fixture(scope="module")
def mixture():
    """A melted mixture, what was measured of its last snapshot alone, and the snapshot."""
    target = flat_target(types=TYPES)
    sampler = sampler_of(target, liquid(types=2), steps=400)
    sample = sampler.sample(well_values(sampler.basis))
    return sampler, sample, sampler.state.system


@pytest.mark.parametrize("compiled", [True, False])
def test_counts_are_those_of_the_radial_distribution_function_pair_of_types_by_pair_of_types(mixture, compiled, monkeypatch):
    sampler, _, system = mixture
    if compiled and not jit.available():
        pytest.skip("numba is not installed")
    monkeypatch.setattr(jit, "available", lambda: compiled)
    target = sampler.target
    counts, _, _ = PairCounter(target, sampler.basis)(system)
    for row, pair in zip(counts, TYPES):
        peer = rdf(system.positions[None], system.cell[0], r_min=target.edges[1], r_max=target.edges[-1], bins=len(target.r) - 1, types=system.types, between=pair, n_blocks=2)  # fmt: skip
        moved = np.abs(row[1:] - peer.count).sum() / 2  # pairs at an edge of a bin in single precision
        assert moved <= 2
        assert row.sum() > 100


def test_sums_times_values_are_the_energy_and_the_virial_is_that_of_the_stress(mixture):
    sampler, sample, system = mixture
    exact = system.to(torch.float64)
    law = sampler.basis.law(sample.values)
    result = energy_forces(law, exact, neighbors(exact, law.cutoff), stress=True)
    energy = float(result.energy.detach())
    assert sample.energies[-1] == pytest.approx(energy, abs=2e-4 * abs(energy) + 2e-2)
    virial = float(result.stress.detach().diagonal(dim1=1, dim2=2).sum()) * sample.volume
    ideal = 3 * len(system) * sample.kT  # what the virial is taken from
    assert sample.virial[-1] == pytest.approx(virial, abs=3e-3 * ideal)


def test_the_pressure_of_a_liquid_is_the_ideal_one_less_the_virial(mixture):
    sampler, sample, _ = mixture
    ideal = len(sampler.state.system) * sample.kT / sample.volume
    assert sample.pressure == pytest.approx(ideal - sample.virial.mean() / 3 / sample.volume)
    assert sample.pressure_error < 0.2 * ideal


def test_a_run_goes_on_where_the_last_one_ended_and_the_seed_decides_it():
    first, again, other = (sampler_of(flat_target(), steps=400, equilibration=0, seed=seed) for seed in (3, 3, 4))
    values = well_values(first.basis)
    one = first.sample(values)
    assert np.array_equal(one.counts, again.sample(values).counts)
    assert not np.array_equal(one.counts, other.sample(values).counts)
    end = first.state.system.positions.clone()
    first.sample(values, steps=400)
    moved = (first.state.system.positions - end).norm(dim=1)
    assert 0 < float(moved.mean()) < 3.0  # diffused from there in 4 time units, not placed anew


def test_the_sampled_temperature_is_that_of_the_thermostat():
    sampler = sampler_of(flat_target(), steps=2000)
    assert sampler.sample(well_values(sampler.basis)).temperature == pytest.approx(1.0, abs=0.01)


def test_the_response_of_the_counts_to_a_value_is_their_covariance_with_its_sum():
    """Against exact reweighting of the same snapshots with a slightly other potential."""
    sampler = sampler_of(flat_target(), steps=1000)
    sample = sampler.sample(well_values(sampler.basis))
    k, h = 6, 1e-5
    change = -sample.covariance(sample.counts, sample.sums[:, :, k : k + 1])[:, 0] / sample.kT

    def reweighted(du: float) -> np.ndarray:
        w = np.exp(-du * (sample.sums[:, 0, k] - sample.sums[:, 0, k].mean()) / sample.kT)
        return (w[:, None] * sample.counts[:, 0]).sum(0) / w.sum()

    n = len(sample.counts)
    np.testing.assert_allclose((reweighted(h) - reweighted(-h)) / (2 * h), change * (n - 1) / n, atol=1e-4 * np.abs(change).max())


def test_a_basis_beyond_the_target_or_for_other_types_is_refused():
    target = flat_target()
    with pytest.raises(ValueError, match="ends at"):
        sampler_of(flat_target(last=2.2))
    with pytest.raises(ValueError, match="types"):
        type(sampler_of(target))(liquid(), target, basis_of(flat_target(types=TYPES)), kT=1.0, dt=0.01, friction=1.0)
