"""Bonded splines are the functions they were given, with the slopes of those functions, and linear in their coefficients."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.interpolate import CubicSpline

from mlmd.forces import energy_forces
from mlmd.potentials.bonded import Bonded, CosineAngles, HarmonicBonds, SplineAngles, SplineBonds, SplineCosines, SplineDihedrals
from mlmd.potentials.internal import InternalCoordinates
from mlmd.system import System

F64 = torch.float64
PAIRS = [[0, 1], [1, 2], [2, 3], [3, 4]]


def coordinates() -> InternalCoordinates:
    triples, quads = [[0, 1, 2], [1, 2, 3], [2, 3, 4]], [[0, 1, 2, 3], [1, 2, 3, 4]]
    return InternalCoordinates(5, torch.tensor(PAIRS), torch.tensor(triples), torch.tensor(quads))


def chains(n: int) -> System:
    generator = torch.Generator().manual_seed(3)
    rise = torch.tensor([[0.0, 0, 0], [1.4, 0.2, 0], [2.1, 1.3, 0.3], [3.4, 1.5, 1.0], [4.0, 2.9, 0.7]], dtype=F64)
    x = rise + 0.15 * torch.randn(n, 5, 3, generator=generator, dtype=F64)
    return System.single(x.reshape(-1, 3))


def test_splines_through_a_table_are_those_of_scipy() -> None:
    q = torch.linspace(0.9, 2.3, 57, dtype=F64)[None]
    r = torch.linspace(1.0, 2.0, 11, dtype=F64)
    law = SplineBonds([0], 1.0, 2.0, 10).double()
    law.set_values(torch.cos(3 * r))
    reference = CubicSpline(r, torch.cos(3 * r), bc_type="natural")
    u, slope = law.u_and_slope(q)
    inside = (q[0] >= 1.0) & (q[0] <= 2.0)
    torch.testing.assert_close(u[0, inside].detach(), torch.from_numpy(reference(q[0, inside])))
    torch.testing.assert_close(slope[0, inside].detach(), torch.from_numpy(reference(q[0, inside], 1)))
    torch.testing.assert_close(slope[0, ~inside & (q[0] > 2)].detach(), torch.full((12,), float(reference(2.0, 1)), dtype=F64))

    phi = torch.linspace(-math.pi, math.pi, 13, dtype=F64)
    turn = SplineDihedrals([0], 12).double()
    turn.set_values(torch.sin(phi[:-1]) + torch.cos(2 * phi[:-1]))
    table = torch.sin(phi) + torch.cos(2 * phi)
    table[-1] = table[0]
    reference = CubicSpline(phi, table, bc_type="periodic")
    q = torch.linspace(-math.pi, math.pi, 41, dtype=F64)[None]
    u, slope = turn.u_and_slope(q)
    torch.testing.assert_close(u[0].detach(), torch.from_numpy(reference(q[0])))
    torch.testing.assert_close(slope[0].detach(), torch.from_numpy(reference(q[0], 1)))


def test_a_parabola_in_splines_is_a_harmonic_bond() -> None:
    """A cubic spline with the right end slopes holds a parabola exactly."""
    r = torch.linspace(0.5, 2.5, 9, dtype=F64)
    law = SplineBonds([0, 1, 2, 3], 0.5, 2.5, 8, groups=[0, 0, 0, 0]).double()
    law.coefficients.data[0] = law.knots.interpolate(0.5 * 7.0 * (r - 1.4) ** 2, (7.0 * (0.5 - 1.4), 7.0 * (2.5 - 1.4)))
    harmonic = HarmonicBonds([0, 1, 2, 3], torch.full((4,), 7.0, dtype=F64), torch.full((4,), 1.4, dtype=F64))
    system = chains(6)
    with torch.no_grad():
        a = energy_forces(Bonded(coordinates(), [law]).double(), system)
        b = energy_forces(Bonded(coordinates(), [harmonic]).double(), system)
    torch.testing.assert_close(a.energy, b.energy)
    torch.testing.assert_close(a.forces, b.forces)


@pytest.mark.parametrize(
    "law",
    [
        SplineBonds([0, 1, 2, 3], 1.0, 2.2, 6, groups=[0, 1, 1, 0]),
        SplineAngles([0, 1, 2], 7, groups=[0, 0, 1]),
        SplineCosines([0, 1, 2], -1.0, 0.2, 6, groups=[1, 0, 1]),
        SplineDihedrals([0, 1], 5),
    ],
    ids=lambda law: type(law).__name__,
)
def test_energies_and_forces_are_linear_in_the_coefficients(
    law: SplineBonds | SplineAngles | SplineCosines | SplineDihedrals,
) -> None:
    law, made, system = law.double(), coordinates().double(), chains(4)
    generator = torch.Generator().manual_seed(4)
    law.coefficients.data = torch.randn(law.coefficients.shape, generator=generator, dtype=F64)
    geometry = made.geometry(system.positions)
    q = {"distances": geometry.distances, "angles": geometry.angles, "dihedrals": geometry.dihedrals}[law.kind][law.rows]
    value, slope = law.design_matrix(q)
    u, du = law.u_and_slope(q)
    c = law.coefficients[law.groups]
    torch.testing.assert_close(torch.einsum("kmf,kf->km", value, c), u)
    torch.testing.assert_close(torch.einsum("kmf,kf->km", slope, c), du)
    forces = torch.einsum("gfna,gf->na", law.design_forces(geometry, made), law.coefficients)
    with torch.no_grad():
        torch.testing.assert_close(forces.detach(), energy_forces(Bonded(made, [law]), system).forces)


def test_force_matching_by_least_squares_finds_the_spline_that_made_the_forces() -> None:
    made, system = coordinates().double(), chains(60)
    law = SplineBonds([0, 1, 2, 3], 0.8, 2.2, 7, groups=[0, 0, 0, 0]).double()
    truth = torch.randn(law.coefficients.shape, generator=torch.Generator().manual_seed(5), dtype=F64)
    geometry = made.geometry(system.positions)
    design = law.design_forces(geometry, made).flatten(2)[0].T
    found = torch.linalg.lstsq(design, design @ truth[0], driver="gelsd").solution
    # energies are found up to a constant: the coefficients up to a common shift
    shift = (found - truth[0]).mean()
    torch.testing.assert_close(found - shift, truth[0], rtol=0, atol=1e-6)


def test_wrong_shapes_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="groups"):
        SplineBonds([0, 1], 1.0, 2.0, 5, groups=[0])
    with pytest.raises(ValueError, match="groups"):
        SplineAngles([0, 1], 5, groups=[0, -1])
    with pytest.raises(ValueError, match=r"coefficients has shape \(5,\)"):
        SplineDihedrals([0], 5, coefficients=torch.zeros(5))
    with pytest.raises(ValueError, match="intervals=3"):
        SplineAngles([0], 3)


def test_a_parabola_in_the_cosine_is_a_cosine_angle_and_has_no_force_on_a_straight_one() -> None:
    c = torch.linspace(-1.0, 1.0, 9, dtype=F64)
    law = SplineCosines([0, 1, 2], -1.0, 1.0, 8, groups=[0, 0, 0])
    law.coefficients.data[0] = law.knots.interpolate(0.5 * 3.0 * (c + 0.4) ** 2, (3.0 * (-1.0 + 0.4), 3.0 * (1.0 + 0.4)))
    cosine = CosineAngles([0, 1, 2], torch.full((3,), 3.0, dtype=F64), torch.full((3,), -0.4, dtype=F64))
    system = chains(6)
    with torch.no_grad():
        a, b = (energy_forces(Bonded(coordinates(), [x]).double(), system) for x in (law, cosine))
    torch.testing.assert_close(a.energy, b.energy)
    torch.testing.assert_close(a.forces, b.forces)
    _, slope = law.double().u_and_slope(torch.full((3, 1), math.pi, dtype=F64))
    assert float(slope.detach().abs().max()) < 1e-12
