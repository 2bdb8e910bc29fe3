"""The compiled loop over splines of internal coordinates gives the energies and forces of the laws themselves."""

from __future__ import annotations

import pytest
import torch

from mlmd import jit
from mlmd.forces import Evaluation, energy_forces
from mlmd.potentials.accelerated import accelerated
from mlmd.potentials.accelerated_splines import AcceleratedSplines
from mlmd.potentials.bonded import Bonded, HarmonicBonds, SplineAngles, SplineBonds, SplineCosines, SplineDihedrals, SplineTorsions
from mlmd.potentials.internal import InternalCoordinates
from mlmd.system import System

pytestmark = pytest.mark.skipif(not jit.available(), reason="numba is not installed")
F64 = torch.float64
COORDINATES = InternalCoordinates(
    5,
    torch.tensor([[0, 3], [0, 1], [1, 2], [2, 3], [3, 4]]),
    torch.tensor([[0, 1, 2], [1, 2, 3], [2, 3, 4]]),
    torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]]),
)


def random(law):
    """The law with random coefficients."""
    g = torch.Generator().manual_seed(1)
    held = law.turn if isinstance(law, SplineTorsions) else law
    held.coefficients.data = torch.randn(held.coefficients.shape, generator=g, dtype=F64)
    return law


LAWS = {
    "bonds": [random(SplineBonds([1, 2, 3, 4, 0], 1.2, 1.7, 5, groups=[0, 1, 1, 0, 2]))],
    "angles": [random(SplineAngles([0, 2], 9, groups=[0, 1]))],
    "cosines": [random(SplineCosines([0, 1, 2], -0.9, 0.1, 7, groups=[0, 1, 0]))],
    "dihedrals": [random(SplineDihedrals([0, 1], 6, groups=[0, 0]))],
    "torsions": [random(SplineTorsions([1, 0], [[1, 2], [1, 0]], 6, groups=[0, 1]))],
}
LAWS["all"] = [law for laws in LAWS.values() for law in laws]


def chains(n: int, dtype: torch.dtype = F64, systems: int = 1) -> System:
    """Lengths within and beyond the range of the splines, dihedrals all around."""
    g = torch.Generator().manual_seed(0)
    rise = torch.tensor([[0.0, 0, 0], [1.4, 0.2, 0], [2.1, 1.3, 0.3], [3.4, 1.5, 1.0], [4.0, 2.9, 0.7]], dtype=F64)
    x = (rise + 0.4 * torch.randn(systems * n, 5, 3, generator=g, dtype=F64)).reshape(systems, -1, 3)
    return System.stack([System.single(part.to(dtype)) for part in x])


def simulated(potential: torch.nn.Module, system: System) -> Evaluation:
    with torch.no_grad():
        return energy_forces(potential, system)  # type: ignore[arg-type]


@pytest.mark.parametrize("laws", LAWS)
@pytest.mark.parametrize(("dtype", "rtol"), [(F64, 2e-9), (torch.float32, 1e-4)], ids=["double", "single"])
def test_energy_and_forces_are_those_by_differentiation(laws: str, dtype: torch.dtype, rtol: float) -> None:
    """To 2e-9, since the differentiable angle adds 1e-9 to the square of its sine."""
    bonded = Bonded(COORDINATES, LAWS[laws]).double()
    fast, exact = simulated(AcceleratedSplines(bonded), chains(20, dtype, 2)), energy_forces(bonded, chains(20, systems=2))
    torch.testing.assert_close(fast.energy.double(), exact.energy.detach(), rtol=rtol, atol=10 * rtol)
    torch.testing.assert_close(fast.forces.double(), exact.forces.detach(), rtol=rtol, atol=100 * rtol)


def test_straight_chains_have_finite_forces() -> None:
    x = torch.tensor([[1.5 * k, 0.0, 0.0] for k in range(5)], dtype=F64)
    bonded = Bonded(COORDINATES, LAWS["all"]).double()
    assert bool(torch.isfinite(simulated(AcceleratedSplines(bonded), System.single(x)).forces).all())


def test_the_loop_follows_the_coefficients() -> None:
    law = random(SplineBonds([1, 2], 1.2, 1.7, 5))
    potential, system = AcceleratedSplines(Bonded(COORDINATES, [law]).double()), chains(3)
    before = simulated(potential, system)
    law.coefficients.data *= 3.0
    torch.testing.assert_close(simulated(potential, system).forces, 3.0 * before.forces)


def test_splines_are_found_inside_a_sum_and_other_laws_refused() -> None:
    whole = Bonded(COORDINATES, LAWS["all"])
    assert isinstance(accelerated(whole), AcceleratedSplines)
    harmonic = HarmonicBonds([1], torch.ones(1), torch.ones(1))
    with pytest.raises(ValueError, match=r"'HarmonicBonds', 'SplineDihedrals'\]: only SplineBonds"):
        AcceleratedSplines(Bonded(COORDINATES, [harmonic, *LAWS["dihedrals"]]))
