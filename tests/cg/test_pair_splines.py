import pytest
import torch
from scipy.interpolate import CubicSpline

from mlmd.cg.pair_splines import PairSplines
from mlmd.neighbors import neighbors
from mlmd.potentials.pair import LennardJones
from tests.cg.liquids import liquid


def some_values(basis: PairSplines) -> torch.Tensor:
    return torch.randn(basis.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_the_functions_are_the_splines_of_scipy_through_the_values():
    basis = PairSplines(0.9, 2.4, 15)
    values = some_values(basis)[0]
    peer = CubicSpline(basis.knots.numpy(), [*values.tolist(), 0.0], bc_type=("natural", "clamped"))
    r = torch.linspace(0.9, 2.3999, 400, dtype=torch.float64)
    value, slope = basis.functions(r)
    torch.testing.assert_close(value @ values, torch.from_numpy(peer(r.numpy())), atol=1e-12, rtol=0)
    torch.testing.assert_close(slope @ values, torch.from_numpy(peer(r.numpy(), 1)), atol=1e-10, rtol=0)


def test_the_law_has_the_values_at_the_knots_is_straight_below_them_and_zero_beyond_the_cutoff():
    basis = PairSplines(0.9, 2.4, 15)
    values = some_values(basis)
    law, zero = basis.law(values), torch.zeros(15, dtype=torch.long)
    torch.testing.assert_close(law.value(basis.knots[:-1], zero, zero), values[0], atol=1e-12, rtol=0)
    r = torch.tensor([0.5, 0.6, 0.7, 2.4, 3.0], dtype=torch.float64)
    u = law.value(r, zero[:5], zero[:5])
    assert float(u[0] - 2 * u[1] + u[2]) == pytest.approx(0.0, abs=1e-12)
    assert u[3:].tolist() == [0.0, 0.0]


def test_the_energy_of_a_mixture_is_the_sum_over_pairs_of_the_functions_times_the_values():
    basis = PairSplines(0.7, 2.4, 12, ((0, 0), (0, 1)))
    values, system = some_values(basis), liquid(types=2).to(torch.float64)
    pairs = neighbors(system, 2.4)
    i, j = pairs.half.index
    kinds = system.types[i] + system.types[j]
    functions, _ = basis.functions(pairs.half.distances(system))
    by_hand = sum(float((functions[kinds == k] @ values[k]).sum()) for k in (0, 1))  # two beads of type 1 do not interact
    assert float(basis.law(values)(system, pairs)) == pytest.approx(by_hand, rel=1e-12)


def test_a_potential_goes_from_one_basis_to_a_finer_one_and_back():
    coarse, fine = PairSplines(0.9, 2.4, 15), PairSplines(0.9, 2.4, 45)
    values = some_values(coarse)
    torch.testing.assert_close(coarse.values_of(fine.law(fine.values_of(coarse.law(values)))), values, atol=1e-9, rtol=0)


def test_any_pair_law_and_any_table_become_values_shifted_to_zero_at_the_cutoff():
    basis = PairSplines(0.9, 2.4, 30)
    law = LennardJones(1.0, 1.0, cutoff=2.4, onset=2.4)
    r = basis.knots
    u = 4 * (r**-12 - r**-6)
    torch.testing.assert_close(basis.values_of(law)[0], (u - u[-1])[:-1], atol=1e-6, rtol=0)
    torch.testing.assert_close(basis.values_of_table(r, u)[0], (u - u[-1])[:-1], atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: PairSplines(2.4, 0.9, 10), "range is empty"),
        (lambda: PairSplines(0.9, 2.4, 2), "at least 4"),
        (lambda: PairSplines(0.9, 2.4, 10, ()), "types is empty"),
        (lambda: PairSplines(0.9, 2.4, 10, ((0, 1), (1, 0))), "twice"),
        (lambda: PairSplines(0.9, 2.4, 10).law(torch.zeros(1, 9)), r"values has shape \(1, 9\)"),
        (lambda: PairSplines(0.9, 2.4, 10).law(torch.full((1, 10), torch.nan)), "not finite"),
    ],
)
def test_bad_input_is_named(make, names):
    with pytest.raises(ValueError, match=names):
        make()
