"""The acceleration factor of beads whose diffusion and turning are known comes back within its error."""

import numpy as np
import pytest
import torch

from mlmd.analysis import Acceleration, compare_kinetics, kinetics
from mlmd.analysis.kinetics import chain_ends, time_step
from mlmd.cell import wrap
from mlmd.frames import Frames, bead_topology
from mlmd.observables import finite_size_correction

SLOW, FAST = 0.3, 0.5  # angle of a turn per frame


def trimers(frames: int, molecules: int, step: float, angle: float, memory: float, dt: float, seed: int) -> Frames:
    """Rods of three beads in a box: centres of mass walk (D = step^2 / 2 dt), axes turn by ``angle`` per frame, the length breathes.

    <P_l> = P_l(cos angle)^k; the length is an autoregressive process with <dl dl'> = memory^k.
    """
    rng = np.random.default_rng(seed)
    centre = step * rng.standard_normal((frames, molecules, 3)).cumsum(0)
    u = rng.standard_normal((molecules, 3))
    u /= np.linalg.norm(u, axis=-1, keepdims=True)
    z = rng.standard_normal(molecules)
    x = []
    for t in range(frames):
        half = (1 + 0.1 * z)[:, None] * u
        x.append(np.stack([centre[t] - half, centre[t], centre[t] + half], 1).reshape(-1, 3))
        axis = np.cross(u, rng.standard_normal(u.shape))
        axis /= np.linalg.norm(axis, axis=-1, keepdims=True)
        u = u * np.cos(angle) + np.cross(axis, u) * np.sin(angle)
        z = memory * z + np.sqrt(1 - memory**2) * rng.standard_normal(molecules)
    cell = 15.0 * torch.eye(3, dtype=torch.float64).expand(frames, 3, 3)
    return Frames(
        wrap(torch.tensor(np.stack(x)), cell),
        bead_topology(["A", "B", "A"], [(0, 1), (1, 2)], molecules),
        cell=cell,
        time=dt * torch.arange(frames, dtype=torch.float64),
        masses=torch.ones(3 * molecules),
        types=torch.tensor([0, 1, 0] * molecules),
        kT=0.025,
    )


def integral(q: float) -> float:
    """Trapezoidal sum of q^k."""
    return 0.5 + q / (1 - q)


def p2(angle: float) -> float:
    return 1.5 * np.cos(angle) ** 2 - 0.5


REFERENCE = trimers(1200, 40, 0.3, SLOW, 0.85, 20.0, seed=0)
BEADS = trimers(1200, 60, 0.6, FAST, 0.6, 10.0, seed=1)


@pytest.fixture(scope="module")
def result() -> Acceleration:
    return compare_kinetics(REFERENCE, BEADS, viscosity=5.0)


def test_factors_of_diffusion_and_of_all_relaxation_times_come_back_within_their_errors(result: Acceleration) -> None:
    d = 0.3**2 / 2 / 20 * (1 - 1 / 40), 0.6**2 / 2 / 10 * (1 - 1 / 60)  # the drift of the centre of mass is taken off
    assert abs(result.reference.diffusion.value - d[0]) < 3 * result.reference.diffusion.error
    expected = {
        "bond C1": 2 * integral(np.cos(SLOW)) / integral(np.cos(FAST)),
        "bond C2": 2 * integral(p2(SLOW)) / integral(p2(FAST)),
        "Rg^2": 2 * integral(0.85) / integral(0.6),
    }
    got = {"D": result.diffusion, **result.relaxation}
    assert set(result.relaxation) == {*expected, "end to end"}
    for name, exact in {"D": d[1] / d[0], **expected}.items():
        assert abs(got[name].value - exact) < 3 * got[name].error, name
        assert got[name].error < 0.12 * exact, name


def test_the_table_is_in_units_people_use(result: Acceleration) -> None:
    first, *_, rg = result.rows()
    assert first["quantity"] == "D / 1e-9 m^2/s"
    assert first["reference"] == pytest.approx(0.3**2 / 40 * 1e4, rel=0.1)  # 1 A^2/fs = 1e-5 m^2/s
    assert (rg["quantity"], rg["reference"]) == ("tau Rg^2 / ps", pytest.approx(0.02 * integral(0.85), rel=0.2))


def test_beads_of_every_type_have_their_own_curve(result: Acceleration) -> None:
    """Middle beads move with the centre; end beads wag besides, by 2 <l^2> at the most."""
    k = result.reference
    assert set(k.by_type) == {"A", "B"}
    assert np.allclose(k.by_type["B"].msd, k.msd.msd, atol=1e-8)
    wag = (k.by_type["A"].msd - k.msd.msd)[1:]
    expected = 2 * 1.01 - 2 * (1 + 0.01 * 0.85 ** np.arange(1, len(wag) + 1)) * np.cos(SLOW) ** np.arange(1, len(wag) + 1)
    assert np.abs(wag - expected).max() < 0.25


def test_a_range_that_is_not_diffusive_is_named() -> None:
    n = 300
    flight = torch.linspace(0, 50, n, dtype=torch.float64)[:, None, None] * torch.randn(1, 9, 3, dtype=torch.float64)
    k = kinetics(Frames(flight, bead_topology(["A"], [], 9), masses=torch.ones(9)))
    assert k.diffusion.exponent == pytest.approx(2.0, abs=0.01)
    assert "t^2.00" in k.notes[0]
    assert not k.times


def test_a_vector_that_does_not_turn_is_named_and_the_rest_is_there() -> None:
    still = trimers(300, 10, 0.3, 1e-3, 0.5, 10.0, seed=2)
    k = kinetics(still)
    assert "Rg^2" in k.times
    assert any("bond C1" in n for n in k.notes)


def test_the_finite_size_of_the_reference_is_noted_with_its_number(result: Acceleration) -> None:
    (note,) = result.notes  # and nothing else is to be mistrusted
    assert f"{finite_size_correction(0.025, 5.0, 15.0) * 1e4:.3g}e-9" in note


def test_ends_of_a_chain_are_the_particles_most_bonds_apart() -> None:
    bonds = [(0, 1), (1, 2), (1, 3), (3, 4), (5, 6)]
    assert chain_ends(8, bonds, torch.tensor([0] * 5 + [1] * 2 + [2])) == [(0, 4), (5, 6)]


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: compare_kinetics(REFERENCE, Frames(torch.zeros(90, 2, 3), bead_topology(["A", "B"], [(0, 1)]))), "map the atoms"),
        (lambda: kinetics(REFERENCE[:30]), "blocks of 3"),
        (lambda: kinetics(REFERENCE, window=(100.0, 1e6)), "end by 2380 fs"),
        (lambda: kinetics(REFERENCE.atoms([0, 1, 2])), "one molecule"),
        (lambda: time_step(REFERENCE[[0, 1, 3]]), "even"),
        (lambda: time_step(REFERENCE[0]), "at least two"),
        (lambda: compare_kinetics(REFERENCE[:90].atoms([0, 3]), BEADS[:90].atoms([0, 3]), viscosity=-1.0), "viscosity"),
    ],
)
def test_what_cannot_be_compared_is_refused(make: object, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        make()  # type: ignore[operator]
