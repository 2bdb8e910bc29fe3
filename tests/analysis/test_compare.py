"""The comparison finds what differs, says how sure it is, and works for every kind of molecule."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mlmd.analysis import ALPHA_R, PHI_POSITIVE, Region, choose_torsions, compare
from mlmd.analysis.compare import _pairs_left, molecule_size
from mlmd.analysis.coordinates import basins, torsion_score
from mlmd.frames import Frames, bead_topology
from mlmd.observables import Coordinate, internal_terms
from mlmd.units import kelvin

KT = 300 * kelvin


def place(a: Tensor, b: Tensor, c: Tensor, r: float, theta: float, phi: Tensor) -> Tensor:
    """Point at distance r from c, angle theta with b, dihedral phi with a: (F, 3)."""
    bc = torch.nn.functional.normalize(c - b, dim=-1)
    n = torch.nn.functional.normalize(torch.linalg.cross(b - a, bc), dim=-1)
    m = torch.linalg.cross(n, bc)
    u = torch.stack([-np.cos(theta) * torch.ones_like(phi), np.sin(theta) * torch.cos(phi), np.sin(theta) * torch.sin(phi)], -1)
    return c + r * (u[:, :1] * bc + u[:, 1:2] * m + u[:, 2:] * n)


def chain(phis: list[Tensor], noise: float = 0.02, seed: int = 0) -> Tensor:
    """(F, len(phis) + 3, 3) beads 1.5 A apart with the given dihedrals."""
    g = torch.Generator().manual_seed(seed)
    f = len(phis[0])
    x = [torch.tensor(p, dtype=torch.float64).expand(f, 3) for p in ((0.0, 0, 0), (1.5, 0, 0), (2.0, 1.4, 0))]
    for phi in phis:
        x.append(place(x[-3], x[-2], x[-1], 1.5, 1.9, phi))
    out = torch.stack(x, 1)
    return out + noise * torch.randn(out.shape, generator=g, dtype=torch.float64)


def bimodal(n: int, seed: int, weight: float = 0.3, where: tuple[float, float] = (-1.2, 2.0)) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.where(rng.random(n) < weight, where[0], where[1]) + 0.25 * rng.standard_normal(n))


def frames(x: Tensor, bonds: list[tuple[int, int]] | None = None, molecules: int = 1, **more) -> Frames:
    n = x.shape[1] // molecules
    bonds = [(i, i + 1) for i in range(n - 1)] if bonds is None else bonds
    return Frames(x, bead_topology([f"B{i}" for i in range(n)], bonds, molecules), kT=KT, **more)


def test_multimodal_dihedrals_are_chosen_before_free_and_stiff_ones() -> None:
    f = 3000
    rng = np.random.default_rng(0)
    free = torch.from_numpy(rng.uniform(-np.pi, np.pi, f))
    stiff = torch.from_numpy(0.1 * rng.standard_normal(f) + 3.0)
    x = chain([stiff, bimodal(f, 1), free, bimodal(f, 2)])
    chosen = choose_torsions(frames(x), internal_terms(7, [(i, i + 1) for i in range(6)]))
    assert [c.particles for c in chosen] == [(1, 2, 3, 4), (3, 4, 5, 6)]
    assert [c.name for c in chosen] == ["dihedral B1-B2-B3-B4", "dihedral B3-B4-B5-B6"]


def test_a_slow_dihedral_scores_above_a_fast_one_of_the_same_density() -> None:
    fast = bimodal(4000, 3).numpy()
    assert torsion_score(np.sort(fast)) > 3 * torsion_score(fast)


def test_basins_are_cut_at_barriers_wherever_the_circle_starts() -> None:
    rng = np.random.default_rng(4)
    phi = np.concatenate([rng.normal(m, 0.2, 2000) for m in (-3.0, -1.0, 1.2)])
    for turn in (0.0, 0.7, 2.9):
        number = basins(phi + turn)
        groups = number.reshape(3, 2000)
        assert len(np.unique(number)) == 3
        assert len({int(np.bincount(g).argmax()) for g in groups}) == 3
    assert set(basins(rng.uniform(-np.pi, np.pi, 5000))) == {0}
    assert set(basins(rng.normal(0, 0.3, 5000))) == {0}


def test_phi_and_psi_are_chosen_for_alanine_of_five_and_of_six_beads(shared_data: Path) -> None:
    five = torch.from_numpy(np.load(shared_data / "ala2" / "cgnet_ala2_coordinates.npy")).double()
    six = torch.from_numpy(np.load(shared_data / "ala2" / "cgnet_ala2_cacb_coordinates.npy")).double()
    chosen = choose_torsions(five, internal_terms(5, [(0, 1), (1, 2), (2, 3), (3, 4)]))
    assert [c.particles for c in chosen] == [(0, 1, 2, 3), (1, 2, 3, 4)]
    chosen = choose_torsions(six, internal_terms(6, [(0, 1), (1, 2), (2, 3), (2, 4), (4, 5)]))
    assert [c.particles for c in chosen] == [(0, 1, 2, 4), (1, 2, 4, 5)]


@pytest.mark.parametrize(
    ("n", "kinds"), [(2, ["distance", "rg"]), (3, ["angle", "distance"]), (4, ["dihedral", "angle"]), (5, ["dihedral", "dihedral"])]
)
def test_small_molecules_fall_back_to_angles_and_distances(n: int, kinds: list[str]) -> None:
    x = chain([bimodal(200, k) for k in range(2)])[:, :n]
    chosen = choose_torsions(frames(x), internal_terms(n, [(i, i + 1) for i in range(n - 1)]))
    assert [c.kind for c in chosen] == kinds
    result = compare(frames(x), x[:, None])
    assert result.surface is not None
    assert result.surface.js == 0.0


def test_a_molecule_against_itself_agrees_everywhere_and_the_summary_is_json() -> None:
    x = chain([bimodal(4000, 1), bimodal(4000, 2)])
    result = compare(frames(x), x.reshape(20, 200, 5, 3))
    assert all(o.overlap == pytest.approx(1.0) for o in result.overlays)
    kinds = [o.kind for o in result.overlays]
    assert [kinds.count(k) for k in ("bond", "angle", "dihedral", "rg", "distance")] == [4, 3, 2, 1, 3]
    text = json.dumps(result.summary())
    assert '"n_reference": 4000' in text and '"replicas": 200' in text
    assert result.overlay("bond B0-B1").reference.mean == pytest.approx(1.5, abs=0.01)
    with pytest.raises(ValueError, match="no distribution"):
        result.overlay("bond")


def test_independent_samples_of_one_law_differ_by_the_floor_and_of_another_by_more() -> None:
    f = 6000
    x, same = chain([bimodal(f, 1), bimodal(f, 2)]), chain([bimodal(f, 3), bimodal(f, 4)], seed=1)
    other = chain([bimodal(f, 3, weight=0.5), bimodal(f, 4)], seed=1)
    equal, different = (compare(frames(x), y.reshape(60, 100, 5, 3)).surface for y in (same, other))
    assert equal is not None and different is not None
    assert equal.js == pytest.approx(equal.floor.shuffled, rel=0.25)
    assert equal.js < 2 * equal.floor.block + 0.01
    assert different.js > equal.js + 5 * equal.floor.shuffled_std
    (_, a), (_, b) = equal.populations[0], different.populations[0]
    assert abs(equal.populations[0][0].fraction - a.fraction) < 4 * np.hypot(equal.populations[0][0].error, a.error)
    assert b.fraction == pytest.approx(0.5, abs=0.03)


def test_noise_of_a_distribution_is_what_equal_laws_give() -> None:
    x, y = chain([bimodal(5000, 1)]), chain([bimodal(5000, 2)], seed=5)
    o = compare(frames(x), y.reshape(50, 100, 4, 3)).overlay("bond B0-B1")
    assert 0.3 * o.js_noise < o.js < 3 * o.js_noise


def test_the_start_region_is_found_and_its_memory_reported() -> None:
    f, r = 400, 50
    phi = bimodal(f * r, 1).reshape(f, r)
    phi[0] = -1.2
    x = chain([phi.reshape(-1), bimodal(f * r, 2)]).reshape(f, r, 5, 3)
    result = compare(frames(x.reshape(-1, 5, 3)), x).surface
    assert result is not None and result.start is not None
    assert result.start.numbers["region"] == "not dihedral B0-B1-B2-B3 > 0"
    assert result.start.converged
    one_place = compare(frames(x.reshape(-1, 5, 3)), x[:1].expand(20, r, 5, 3)).surface
    assert one_place is not None and one_place.start is not None
    assert not one_place.start.converged


def test_discarded_times_leave_the_distributions_but_not_the_memory_of_the_start() -> None:
    f, r = 400, 50
    phi = bimodal(f * r, 1).reshape(f, r)
    phi[: f // 2] = -1.2
    x = chain([phi.reshape(-1), bimodal(f * r, 2)]).reshape(f, r, 5, 3)
    reference = frames(chain([bimodal(4000, 3), bimodal(4000, 4)]))
    late = compare(reference, x, discard=0.5)
    assert late.n_simulated == f * r // 2
    assert late.surface is not None and late.surface.start is not None
    assert late.surface.populations[0][1].fraction == pytest.approx(0.7, abs=0.05)
    assert late.surface.start.numbers["at_start"] == 1.0
    with pytest.raises(ValueError, match="discard"):
        compare(reference, x, discard=1.0)


def test_a_runaway_simulation_is_reported_not_refused() -> None:
    x = chain([bimodal(500, 1)])[:, :3]
    far = x + torch.tensor([[0.0, 0, 0], [1e6, 0, 0], [0, 1e6, 0]], dtype=torch.float64)
    result = compare(frames(x), far[:, None])
    assert result.surface is not None
    assert result.surface.js == pytest.approx(np.log(2), abs=1e-6)
    bond = result.overlay("bond B0-B1")
    assert bond.overlap == 0.0 and bond.simulated.outside == 1.0 and bond.js == pytest.approx(np.log(2))
    assert json.dumps(result.summary())


def test_a_run_too_short_to_judge_says_so() -> None:
    x = chain([bimodal(300, 1), bimodal(300, 2)])
    result = compare(frames(x), x.reshape(3, 100, 5, 3)).surface
    assert result is not None and not result.simulated_halves.converged
    assert "fewer than 4 times" in result.simulated_halves.sentence


def test_named_regions_are_used(shared_data: Path) -> None:
    x = torch.from_numpy(np.load(shared_data / "ala2" / "cgnet_ala2_coordinates.npy")).double()
    cvs = Coordinate("dihedral", (0, 1, 2, 3), "phi"), Coordinate("dihedral", (1, 2, 3, 4), "psi")
    result = compare(frames(x), x[::2].reshape(50, 100, 5, 3), cvs=cvs, regions=[ALPHA_R, PHI_POSITIVE], start=ALPHA_R)
    numbers = result.summary()["surface"]["populations"]
    assert numbers["alpha_R"]["reference"]["fraction"] == pytest.approx(0.252, abs=0.001)
    assert abs(numbers["alpha_R"]["difference_points"]) < 3
    assert result.surface is not None
    assert result.surface.floor.shuffled == pytest.approx(0.04, rel=0.5)


def test_molecules_of_a_box_are_pooled_and_g_is_compared() -> None:
    """Twelve rigid-law molecules at random places of a box: reference wrapped, simulation not."""
    f, m, edge = 40, 12, 14.0
    g = torch.Generator().manual_seed(0)
    cell = edge * torch.eye(3, dtype=torch.float64)

    def box(seed: int) -> Tensor:
        x = chain([bimodal(f * m, seed)], seed=seed).reshape(f, m, 4, 3)
        return (x + edge * torch.rand(f, m, 1, 3, generator=g, dtype=torch.float64)).reshape(f, m * 4, 3)

    reference, simulated = box(1), box(2)
    wrapped = reference - edge * (reference / edge).floor()
    result = compare(
        frames(wrapped, [(0, 1), (1, 2), (2, 3)], m, cell=cell.expand(f, 3, 3)), simulated.reshape(10, 4, m * 4, 3), r_max=6.0
    )
    assert [o.name for o in result.overlays if o.kind == "bond"] == ["bond B0-B1", "bond B1-B2", "bond B2-B3"]
    bond = result.overlay("bond B0-B1")
    assert bond.reference.n_samples == bond.simulated.n_samples == f * m
    assert bond.reference.edges[-1] < 2.0  # no molecule is torn by the boundary
    assert result.n_reference == f * m
    assert "B0-B0" in result.rdfs and "B0-B3" in result.rdfs
    a, b = result.rdfs["B0-B0"]
    assert abs(np.average(a.g, weights=a.r**2) - 1) < 0.1  # molecules at random places do not know of each other
    assert result.summary()["rdf"]["B0-B0"]["mean_error"] > 0
    assert np.abs(b.g - a.g).mean() < 3 * result.summary()["rdf"]["B0-B0"]["mean_error"]


@pytest.mark.parametrize("n", [3, 5])
def test_one_molecule_in_a_box_has_no_g(n: int) -> None:
    cell = 20 * torch.eye(3, dtype=torch.float64)
    x = torch.arange(n)[:, None] * torch.tensor([1.5, 0, 0]) + 0.3 * torch.rand(200, n, 3, dtype=torch.float64)
    result = compare(frames(x, [(i, i + 1) for i in range(n - 1)], cell=cell.expand(200, 3, 3)), x.reshape(20, 10, n, 3))
    assert result.rdfs == {}
    assert result.surface is not None


def test_kinds_of_pairs_that_bonds_and_angles_leave_nothing_of_have_no_g() -> None:
    types = torch.tensor([0, 0, 1])
    assert not _pairs_left(types, 0, 0, [(0, 1)])
    assert _pairs_left(types, 0, 1, [(0, 1)])
    assert not _pairs_left(types, 1, 1, [])
    assert not _pairs_left(types, 0, 1, [(0, 2), (2, 1)])


def test_single_bead_fluids_have_only_g() -> None:
    x = 10 * torch.rand(20, 30, 3, dtype=torch.float64)
    cell = 10 * torch.eye(3, dtype=torch.float64)
    result = compare(frames(x, [], 30, cell=cell.expand(20, 3, 3)), x[:, None])
    assert result.surface is None
    assert list(result.rdfs) == ["B0-B0"]
    assert result.overlays == ()


def test_molecule_size() -> None:
    assert molecule_size(6, [(0, 1), (1, 2), (3, 4), (4, 5)]) == 3
    assert molecule_size(6, [(0, 1), (2, 3), (3, 4)]) == 6
    assert molecule_size(5, []) == 1
    assert molecule_size(4, [(0, 1), (1, 2), (2, 3)]) == 4


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (dict(simulated=torch.zeros(5, 2, 4, 3)), "4 beads"),
        (dict(simulated=torch.full((5, 2, 5, 3), torch.nan)), "not finite"),
        (dict(simulated=torch.zeros(0, 2, 5, 3)), "not empty"),
        (dict(simulated=torch.zeros(5, 3)), "shape"),
        (dict(regions=[Region("x", ((0.0, 1.0),))]), "bounds 1 variables"),
    ],
)
def test_what_cannot_be_compared_is_named(change: dict, word: str) -> None:
    x = chain([bimodal(100, 1), bimodal(100, 2)])
    arguments = dict(simulated=x.reshape(10, 10, 5, 3)) | change
    with pytest.raises(ValueError, match=word):
        compare(frames(x), arguments.pop("simulated"), **arguments)


def test_a_missing_temperature_is_asked_for() -> None:
    x = chain([bimodal(100, 1), bimodal(100, 2)])
    reference = Frames(x, bead_topology(["B"] * 5, [(0, 1)]))
    with pytest.raises(ValueError, match="kT"):
        compare(reference, x)
