"""Outer fields have the minima, saddles and Boltzmann distributions that theory gives them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mlmd.forces import Evaluation, energy_forces
from mlmd.md import Langevin, rest, simulate, thermal_velocities
from mlmd.observables.coordinates import Coordinate
from mlmd.potentials.compose import Potential
from mlmd.potentials.external import (
    Bias,
    DoubleWell,
    Harmonic,
    MullerBrown,
    PlanarWall,
    PositionRestraint,
    SphericalWall,
    Umbrella,
    UniformField,
)
from mlmd.potentials.spline import CubicSpline1D
from mlmd.system import System

F64 = torch.float64


def at(x: list[list[float]], **kwargs: object) -> System:
    return System.single(torch.tensor(x, dtype=F64), **kwargs)


def evaluate(potential: Potential, system: System) -> Evaluation:
    with torch.no_grad():
        return energy_forces(potential, system)


@pytest.mark.parametrize(
    ("place", "energy", "negative"),
    [
        ((-0.558223635, 1.441725842), -146.699517, 0),
        ((0.623499405, 0.028037759), -108.166724, 0),
        ((-0.050010823, 0.466694105), -80.767818, 0),
        ((-0.822001558, 0.624312802), -40.664844, 1),
        ((0.212486582, 0.292988325), -72.248940, 1),
    ],
)
def test_the_muller_brown_surface_has_its_minima_and_saddles(place: tuple[float, float], energy: float, negative: int) -> None:
    """Stationary points as tabulated for this surface; the Hessian has no negative eigenvalue at minima and one at saddles."""
    potential = MullerBrown(energy=1.0)
    out = evaluate(potential, at([[*place, 0.3]]))
    assert float(out.energy) == pytest.approx(energy, abs=1e-5)
    assert out.forces.abs().max() < 1e-4
    hessian = torch.autograd.functional.hessian(
        lambda xy: potential.u(torch.cat([xy, xy.new_zeros(1)])[None])[0], torch.tensor(place, dtype=F64)
    )
    assert int((torch.linalg.eigvalsh(hessian) < 0).sum()) == negative


def test_the_scales_of_a_surface_are_those_of_energy_and_length() -> None:
    small, large = MullerBrown(energy=1.0), MullerBrown(energy=0.02, length=3.0)
    a, b = evaluate(small, at([[0.1, 0.4, 0]])), evaluate(large, at([[0.3, 1.2, 0]]))
    torch.testing.assert_close(b.energy, 0.02 * a.energy)
    torch.testing.assert_close(b.forces, 0.02 / 3.0 * a.forces)


def test_a_double_well_has_two_minima_and_a_barrier_of_its_height() -> None:
    out = evaluate(DoubleWell(0.3, 2.0), System.stack([at([[x, 5.0, -1.0]]) for x in (-2.0, 0.0, 2.0, 4.0)]))
    torch.testing.assert_close(out.energy, torch.tensor([0.0, 0.3, 0.0, 0.3 * 9.0], dtype=F64))
    torch.testing.assert_close(out.forces[:3], torch.zeros(3, 3, dtype=F64))
    curvature = 8 * 0.3 / 2.0**2  # of h ((x/a)^2 - 1)^2 at a
    assert float(evaluate(DoubleWell(0.3, 2.0), at([[2.0 + 1e-6, 0, 0]])).forces[0, 0]) == pytest.approx(
        -curvature * 1e-6, rel=1e-5
    )


def test_a_harmonic_well_pulls_by_its_constants_towards_its_centre() -> None:
    out = evaluate(Harmonic([1.0, 2.0, 0.0], [1.0, 0.0, 0.0]), at([[2.0, 3.0, 4.0], [1.0, 0.0, 9.0]]))
    assert float(out.energy) == pytest.approx(0.5 * 1 + 0.5 * 2 * 9)
    torch.testing.assert_close(out.forces, torch.tensor([[-1.0, -6.0, 0.0], [0.0, 0.0, 0.0]], dtype=F64))


def test_walls_are_flat_before_they_begin_and_harmonic_behind() -> None:
    x = at([[0.0, 0, 0], [2.9, 0, 0], [0, 5.0, 0]])
    ball = evaluate(SphericalWall(3.0, 2.0), x)
    assert float(ball.energy) == pytest.approx(0.5 * 2 * 4)
    torch.testing.assert_close(ball.forces, torch.tensor([[0.0, 0, 0], [0, 0, 0], [0, -4.0, 0]], dtype=F64))
    plane = evaluate(PlanarWall([0, 2.0, 0], 4.0, 3.0), x)
    assert float(plane.energy) == pytest.approx(0.5 * 3)
    torch.testing.assert_close(plane.forces[2], torch.tensor([0, -3.0, 0], dtype=F64))


def test_a_uniform_field_pulls_charges_and_turns_dipoles() -> None:
    """F = q E; the energy of a dipole p is -p . E, and its torque p x E."""
    dipole = at([[0.0, 0, 0], [2.0, 0, 0]], charges=[-0.5, 0.5])
    out = evaluate(UniformField([0.3, 0.4, 0]), dipole)
    assert float(out.energy) == pytest.approx(-0.5 * 2.0 * 0.3)
    torque = torch.linalg.cross(dipole.positions, out.forces).sum(0)
    torch.testing.assert_close(torque, torch.tensor([0, 0, 1.0 * 0.4], dtype=F64))


def test_a_field_along_a_period_warns_and_across_a_slab_does_not(recwarn: pytest.WarningsRecorder) -> None:
    slab = at([[0.0, 0, 0], [2.0, 0, 0]], charges=[-0.5, 0.5], cell=10.0, pbc=[True, True, False])
    evaluate(UniformField([0, 0, 0.1]), slab)
    assert not recwarn
    with pytest.warns(UserWarning, match="keep positions unwrapped"):
        evaluate(UniformField([0.1, 0, 0]), slab)


def test_restraints_hold_the_chosen_particles_of_every_replica_at_their_nearest_image() -> None:
    restraint = PositionRestraint([2, 0], [[9.8, 0, 0], [5.0, 5, 5]], [2.0, 1.0])
    one = at([[5.0, 5.0, 5.5], [1.0, 1.0, 1.0], [0.3, 0, 0]], cell=10.0)
    out = evaluate(restraint, one.replicate(3))
    torch.testing.assert_close(out.energy, torch.full((3,), 0.5 * 2 * 0.25 + 0.5 * 0.25, dtype=F64))
    expected = torch.tensor([[0, 0, -0.5], [0, 0, 0], [-1.0, 0, 0]], dtype=F64)
    torch.testing.assert_close(out.forces, expected.repeat(3, 1))
    mixed = System.stack([one, at([[5.0, 5, 5], [0, 0, 0], [9.8, 0, 0], [3, 3, 3.0]], cell=10.0)])
    torch.testing.assert_close(evaluate(restraint, mixed).energy, torch.tensor([0.375, 0.0], dtype=F64))


def test_an_umbrella_on_a_dihedral_goes_the_shorter_way_round() -> None:
    phi = Coordinate("dihedral", (0, 1, 2, 3))
    bias = Bias.on(phi, k=2.0, centre=math.radians(170))
    for degrees, away in [(170, 0), (150, 20), (-170, 20), (10, 160), (-20, 170)]:
        a = math.radians(degrees)
        system = at([[1.0, 0, 0], [0, 0, 0], [0, 0, 1.5], [math.cos(a), math.sin(a), 1.5]])
        assert float(bias.values(system)) == pytest.approx(a)
        assert float(evaluate(bias, system).energy) == pytest.approx(math.radians(away) ** 2, abs=1e-12)


@pytest.mark.parametrize(
    "coordinate",
    [
        Coordinate("distance", (3, 1)),
        Coordinate("angle", (3, 1, 0)),
        Coordinate("dihedral", (4, 2, 1, 0)),
        Coordinate("rg"),
    ],
    ids=lambda c: c.kind,
)
def test_a_bias_acts_on_the_coordinate_that_analysis_measures(coordinate: Coordinate) -> None:
    generator = torch.Generator().manual_seed(6)
    x = 2.0 * torch.randn(3, 5, 3, generator=generator, dtype=F64)
    replicas = System.single(x[0]).at(x)
    particles = coordinate.particles
    spline = CubicSpline1D.through(torch.linspace(-4.0, 8.0, 40), torch.linspace(-4.0, 8.0, 40) ** 2)
    bias = Bias(coordinate.kind, particles, spline)
    torch.testing.assert_close(bias.values(replicas), coordinate(x))
    torch.testing.assert_close(evaluate(bias, replicas).energy, spline(coordinate(x)).detach())
    forces = evaluate(bias, replicas).forces.reshape(3, 5, 3)
    untouched = [i for i in range(5) if i not in particles] if particles else []
    assert not forces[:, untouched].any() and forces.abs().max() > 0.01
    torch.testing.assert_close(forces.sum(1), torch.zeros(3, 3, dtype=F64), rtol=0, atol=1e-12)


def test_a_bias_sees_a_molecule_cut_by_the_cell_as_a_whole_one() -> None:
    x = [[0.5, 0.5, 0.5], [9.6, 0.5, 0.5], [9.0, 9.7, 0.4], [8.3, 9.8, 9.6]]
    whole = [[0.5, 0.5, 0.5], [-0.4, 0.5, 0.5], [-1.0, -0.3, 0.4], [-1.7, -0.2, -0.4]]
    for kind, particles in [("distance", (0, 1)), ("angle", (0, 1, 2)), ("dihedral", (0, 1, 2, 3))]:
        bias = Bias(kind, particles, Umbrella(1.0, 0.3))  # type: ignore[arg-type]
        cut, open_ = evaluate(bias, at(x, cell=10.0)), evaluate(bias, at(whole))
        torch.testing.assert_close(cut.energy, open_.energy)
        torch.testing.assert_close(cut.forces, open_.forces)


def test_langevin_dynamics_in_a_double_well_samples_its_boltzmann_distribution() -> None:
    """4000 walkers against quadrature of x^2 exp(-u/kT); half of them have to cross the barrier of 1.2 kT to change sides."""
    kT, well, n = 0.05, DoubleWell(0.06), 4000
    x = torch.zeros(n, 3, dtype=F64)
    x[:, 0] = 1.0
    grid = torch.linspace(-3.0, 3.0, 601, dtype=F64)
    weight = torch.exp(-well.u(torch.stack([grid, 0 * grid, 0 * grid], 1)) / kT)
    expected = float((weight * grid.square()).sum() / weight.sum())

    start, generator = System.single(x), torch.Generator().manual_seed(8)
    state = rest(start, thermal_velocities(start, kT, generator))
    confined = well + Harmonic([0.0, 0.1, 0.1])
    (end,) = simulate(state, confined, Langevin(0.4, kT=kT, friction=0.5), 300, every=300, generator=generator)
    here = end.system.positions[:, 0].numpy()
    assert np.mean(here**2) == pytest.approx(expected, abs=4 * np.std(here**2) / math.sqrt(n))
    assert np.mean(here > 0) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(n))


def test_wrong_arguments_are_refused_by_name() -> None:
    x = at([[0.0, 0, 0], [1.0, 0, 0]])
    cases = [
        (lambda: Harmonic(-1.0), "k=-1"),
        (lambda: Harmonic([1.0, 2.0]), "k="),
        (lambda: DoubleWell(0.0), "height"),
        (lambda: SphericalWall(-1.0, 1.0), "radius"),
        (lambda: PlanarWall([0, 0, 0], 1.0, 1.0), "normal"),
        (lambda: UniformField([1.0]), "field"),
        (lambda: UniformField([1.0, 0, 0])(x), "needs charges"),
        (lambda: PositionRestraint([0], [[0.0, 0]], 1.0), "reference"),
        (lambda: PositionRestraint([0, 0], torch.zeros(2, 3), 1.0), "each once"),
        (lambda: PositionRestraint([0], torch.zeros(1, 3), -1.0), "k=-1"),
        (lambda: PositionRestraint([2], torch.zeros(1, 3), 1.0)(x), r"particle 2 is named, but a system has 2 particles"),
        (lambda: Bias("distance", (0, 5), Umbrella(1.0, 1.0))(x), "particle 5"),
        (lambda: Bias("distance", (0, 1, 2), Umbrella(1.0, 1.0)), "a distance needs 2"),
        (lambda: Umbrella(0.0, 1.0), "k=0"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
