"""The compiled loop over bonds and angles gives the forces of the laws themselves."""

from __future__ import annotations

import pytest
import torch

from mlmd import jit
from mlmd.forces import Evaluation, energy_forces
from mlmd.potentials.accelerated_bonded import AcceleratedBonded
from mlmd.potentials.bonded import Bonded, CosineAngles, FourierDihedrals, HarmonicAngles, HarmonicBonds, Law
from mlmd.potentials.internal import InternalCoordinates
from mlmd.system import System

pytestmark = pytest.mark.skipif(not jit.available(), reason="numba is not installed")
TRIPLES = torch.tensor([[0, 1, 2], [1, 2, 3]])
COORDINATES = InternalCoordinates(4, torch.tensor([[0, 1], [1, 2], [2, 3], [0, 3]]), TRIPLES, torch.tensor([[0, 1, 2, 3]]))


def bonds() -> HarmonicBonds:
    return HarmonicBonds([0, 1, 2], torch.tensor([5.0, 6.0, 7.0]), torch.tensor([1.5, 1.6, 1.4]))


def angles() -> HarmonicAngles:
    return HarmonicAngles([0], torch.tensor([2.0]), torch.tensor([1.9]))


def cosines() -> CosineAngles:
    return CosineAngles([1], torch.tensor([3.0]), torch.tensor([-0.3]))


def molecules(n: int, dtype: torch.dtype = torch.float64, systems: int = 1) -> System:
    generator = torch.Generator().manual_seed(0)
    zigzag = torch.tensor([[0.0, 0, 0], [1.3, 0.8, 0], [2.6, 0, 0.3], [3.9, 0.8, 0]], dtype=torch.float64)
    x = (zigzag + 0.2 * torch.randn(systems * n, 4, 3, generator=generator, dtype=torch.float64)).reshape(systems, -1, 3)
    return System.stack([System.single(part.to(dtype)) for part in x])


def simulated(potential: torch.nn.Module, system: System) -> Evaluation:
    with torch.no_grad():
        return energy_forces(potential, system)  # type: ignore[arg-type]


LAWS = {"bonds": [bonds()], "angles": [angles()], "cosines": [cosines()], "all": [bonds(), angles(), cosines()]}


@pytest.mark.parametrize("laws", LAWS)
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 2e-9), (torch.float32, 2e-5)], ids=["double", "single"])
def test_energy_and_forces_are_those_by_differentiation(laws: str, dtype: torch.dtype, rtol: float) -> None:
    """To 2e-9, since the differentiable angle adds 1e-9 to the square of its sine."""
    bonded = Bonded(COORDINATES, LAWS[laws]).double()
    fast, exact = simulated(AcceleratedBonded(bonded), molecules(3, dtype, 2)), energy_forces(bonded, molecules(3, systems=2))
    torch.testing.assert_close(fast.energy.double(), exact.energy.detach(), rtol=rtol, atol=rtol)
    torch.testing.assert_close(fast.forces.double(), exact.forces.detach(), rtol=rtol, atol=10 * rtol)


def test_straight_angles_give_finite_forces() -> None:
    system = System.single(torch.tensor([[0.0, 0, 0], [1.5, 0, 0], [3.0, 0, 0], [4.5, 0, 0]], dtype=torch.float64))
    bonded = Bonded(COORDINATES, LAWS["all"]).double()
    torch.testing.assert_close(simulated(AcceleratedBonded(bonded), system).forces, simulated(bonded, system).forces)


def test_the_loop_follows_the_parameters() -> None:
    law = bonds()
    potential, system = AcceleratedBonded(Bonded(COORDINATES, [law]).double()), molecules(1)
    before = simulated(potential, system)
    law.k.data *= 3.0
    torch.testing.assert_close(simulated(potential, system).forces, 3.0 * before.forces)


def test_laws_without_a_loop_are_refused_and_systems_of_other_molecules_too() -> None:
    dihedrals: Law = FourierDihedrals([0], torch.tensor([[0.1]]), torch.tensor([[0.2]]))
    with pytest.raises(ValueError, match="only HarmonicBonds, HarmonicAngles and CosineAngles"):
        AcceleratedBonded(Bonded(COORDINATES, [bonds(), dihedrals]))
    with pytest.raises(ValueError, match="no multiple of the 4 beads"):
        simulated(AcceleratedBonded(Bonded(COORDINATES, [bonds()])), System.single(torch.zeros(5, 3)))
