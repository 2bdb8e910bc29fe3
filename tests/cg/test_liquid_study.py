"""The whole way of a liquid, on short runs: a potential that is known is found again, stages resume, bad input is a sentence."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mlmd import datasets, store, units
from mlmd.cg import liquid_fit
from mlmd.cg.liquid_comparison import apart
from mlmd.cg.liquid_settings import LiquidSettings
from mlmd.cg.liquid_study import LiquidStudy, check_whole, is_liquid, mass_density
from mlmd.cg.mapping import Mapping
from mlmd.cg.pair_splines import PairSplines
from mlmd.errors import Diverging
from mlmd.forces import energy_forces
from mlmd.frames import Frames, bead_topology
from mlmd.md import Langevin, rest, simulate, thermal_velocities
from mlmd.neighbors import neighbors
from mlmd.potentials.accelerated import accelerated
from mlmd.potentials.bonded import Bonded, HarmonicBonds
from mlmd.potentials.internal import InternalCoordinates
from mlmd.potentials.pair import Excluding
from mlmd.system import System

KT = 300 * units.kelvin
MASS = 15 * units.amu
DIMERS, EDGE = 64, 21.0
TINY = LiquidSettings(
    mapping="sequence",
    cutoff=8.0,
    range=9.0,
    bin_width=0.2,
    iterations=3,
    iteration_ps=12.0,
    simulate_ps=8.0,
    save_ps=0.04,
    large_ps=0.4,
)


def well(basis: PairSplines) -> torch.Tensor:
    """A soft core of 2.5 kT at 3.6 A with a shallow well, zero in value and slope at the cutoff."""
    r = basis.knots[:-1]
    return (KT * 1.2 * ((4.0 / r) ** 8 - (4.0 / r) ** 4) * (1 - (r / basis.cutoff) ** 2) ** 2)[None]


@pytest.fixture(scope="module")
def dimers():
    """Frames of 64 dimers with a known bond and a known pair law, made by Langevin dynamics, and the values of the law at its knots."""
    sites = torch.cartesian_prod(*[torch.arange(4.0)] * 3) * EDGE / 4
    x = torch.stack([sites, sites + torch.tensor([1.5, 0.0, 0.0])], 1).reshape(-1, 3)
    system = System.single(x, torch.zeros(len(x), dtype=torch.long), torch.full((len(x),), MASS), cell=EDGE).to(torch.float32)
    coordinates = InternalCoordinates(2, torch.tensor([[0, 1]]), torch.zeros(0, 3).long(), torch.zeros(0, 4).long())
    bonded = Bonded(coordinates, [HarmonicBonds([0], torch.tensor([10.0]), torch.tensor([1.5]))])
    basis = PairSplines(2.5, 8.0, 27)
    law = accelerated(Excluding(basis.law(well(basis)), ((0, 1),), 2, 1) + bonded)
    generator = torch.Generator().manual_seed(0)
    state = rest(system, thermal_velocities(system, KT, generator))
    (state,) = simulate(state, law, Langevin(4.0, KT, 1e-3), 1500, every=1500, generator=generator)
    kept = [s.system.positions for s in simulate(state, law, Langevin(4.0, KT, 2e-3), 8000, every=20, generator=generator)]
    x, topology = torch.stack(kept), bead_topology(["A", "B"], [(0, 1)], DIMERS)
    cell, time = torch.eye(3).mul(EDGE).expand(len(x), 3, 3), 80.0 * torch.arange(len(x), dtype=torch.float64)
    masses, types = torch.full((2 * DIMERS,), MASS).double(), torch.zeros(2 * DIMERS, dtype=torch.long)
    return Frames(
        x, topology, cell=cell, time=time, masses=masses, types=types, kT=KT, provenance={"runs": [{"friction_per_ps": 2.0}]}
    )


@pytest.fixture(scope="module")
def study(dimers, tmp_path_factory):
    study = LiquidStudy(dimers, replace(TINY, hops=1), tmp_path_factory.mktemp("liquid"))
    study.logs = list(study.run())
    return study


def test_every_stage_reports_and_leaves_its_result(study):
    stages = list(dict.fromkeys(log["stage"] for log in study.logs))
    assert stages == ["mapping", "fit", "refine", "simulate", "enlarged", "compare"]
    assert study.mapping.types.tolist() == [0, 0]
    assert study.run_frames.n_atoms == 128
    assert study.large_frames.n_atoms == 8 * 128
    assert set(study.comparison.rdfs) == {"a–a", "centres of mass"}


def test_a_bond_and_a_pair_potential_that_are_known_are_found_again(study):
    stiffness, length = (float(p.detach()) for p in study.structure.molecules.bonded.laws[0].parameters())
    assert stiffness == pytest.approx(
        10.0, rel=0.1
    )  # four standard errors: 64 bonds that forget their energy in half a picosecond, 32 ps
    assert length == pytest.approx(1.5, abs=0.01)
    r, truth = study.basis.knots[:-1], well(study.basis)[0]
    felt = (truth < 2 * KT) & (r < 7)
    off = (study.fitted.values[0] - truth)[felt] / KT
    start = (study.guess[0] - truth)[felt] / KT
    assert float(off.abs().mean()) < 0.08
    assert float(off.abs().mean()) < 0.5 * float(start.abs().mean())


def test_the_same_liquid_has_the_same_structure_and_the_same_pace(study):
    for pair in study.comparison.rdfs.values():
        d = apart(*pair)
        assert d["mean"] < 0.02 + 2 * d["noise"]
    assert min(o.overlap for o in study.comparison.overlays) > 0.92  # 64 bonds that hardly exchange energy
    assert study.friction == pytest.approx(2.0 / units.ps)
    (a, _), (b, _) = study.comparison.velocities["reference"], study.comparison.velocities["simulated"]
    assert a.vacf[0] == pytest.approx(b.vacf[0], rel=0.15)  # those of the atoms are smeared over 80 fs
    d = study.comparison.motion.diffusion
    assert abs(d.value - 1) < 4 * d.error + 0.1


def test_the_enlarged_box_has_the_same_energy_per_bead(study):
    a, b = study.comparison.small.energy, study.comparison.box.energy
    assert abs(a.value - b.value) < 5 * np.hypot(a.error, b.error)


def test_pressures_of_the_sample_and_of_the_production_run_agree(study):
    logs = [log for log in study.history["refine"] if "pressure" in log and abs(log["mean"] - study.fitted.mean) < 1e-9]
    p = study.comparison.small.pressure
    error = np.hypot(logs[0]["pressure error"], p.error / units.bar)
    assert abs(logs[0]["pressure"] - p.value / units.bar) < 5 * error


def test_the_results_can_be_handed_on(study, tmp_path):
    folder = study.export(tmp_path / "out")
    system = study.beads.system(0).to(torch.float32)
    assert torch.equal(Mapping.load(folder / "mapping.npz").types, study.mapping.types)
    assert len(Frames.load(folder / "beads.npz")) == len(study.beads)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["comparison"]["rdf"]["a–a"]["mean"] > 0
    potential = store.load(folder / "potential.npz")
    pairs = neighbors(system, potential.cutoff)
    assert float(potential(system, pairs).detach()) == pytest.approx(float(study.potential(system, pairs).detach()), rel=1e-5)


def test_a_second_study_of_the_same_takes_finished_stages_from_the_folder(study, dimers):
    again = LiquidStudy(dimers, study.settings, study.folder)
    logs = list(again.run())
    assert [log["stage"] for log in logs if "loaded" in log] == ["refine"]
    assert torch.equal(again.run_frames.positions, study.run_frames.positions)
    assert torch.equal(again.fitted.values, study.fitted.values)
    assert len(again.history["refine"]) == len(study.history["refine"])


def test_an_interrupted_refinement_goes_on_from_its_last_iteration(study, dimers, tmp_path):
    settings = replace(study.settings, iterations=2, iteration_ps=2.0, tolerance=1e-4)
    broken = LiquidStudy(dimers, settings, tmp_path)
    list(broken.learn_mapping()), list(broken.fit())
    logs = broken.refine()
    first = next(logs)
    logs.close()
    again = LiquidStudy(dimers, settings, tmp_path)
    list(again.learn_mapping()), list(again.fit()), list(again.refine())
    numbers = [log["iteration"] for log in again.history["refine"]]
    assert numbers[0] == first["iteration"] == 1
    assert numbers[-1] == 2
    assert not list(tmp_path.glob("*.part.npz"))


def test_a_stage_out_of_order_says_what_to_run_first(dimers, tmp_path):
    fresh = LiquidStudy(dimers, TINY, tmp_path)
    with pytest.raises(RuntimeError, match=r"study\.learn_mapping\(\)"):
        list(fresh.fit())


def test_a_method_that_diverges_is_stopped_and_its_best_potential_kept(dimers, tmp_path, monkeypatch):
    study = LiquidStudy(dimers, replace(TINY, hops=1, iteration_ps=2.0), tmp_path)
    list(study.learn_mapping()), list(study.fit())
    real = liquid_fit.refine_pairs

    def one_good_then_growing(*args, **options):
        first = next(iter(real(*args, **options)))
        yield first
        raise Diverging("max |g - g_ref| grows (0.1, 0.2, 0.4, 0.8): start from it with more damping", first)

    monkeypatch.setattr(liquid_fit, "refine_pairs", one_good_then_growing)
    logs = list(study.refine())
    assert "damping" in logs[-1]["trouble"]
    assert torch.equal(study.fitted.values, study.guess)


@pytest.fixture(scope="module")
def ethane():
    return datasets.load("ethane")[::8]


def test_ethane_is_learned_on_molecules_that_are_broken_across_the_boundary(ethane, tmp_path):
    inverse = torch.linalg.inv(ethane.cell.double())
    s = ethane.positions.double() @ inverse
    broken = replace(ethane, positions=((s - s.floor()) @ ethane.cell.double()).float())
    i, j = torch.tensor(broken.bonds).T
    assert float((broken.positions[:, i] - broken.positions[:, j]).norm(dim=-1).max()) > 10
    study = LiquidStudy(broken, LiquidSettings(), tmp_path)
    list(study.learn_mapping())
    assert study.mapping.assignment.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert study.mapping.types.tolist() == [0, 0]
    a, b = torch.tensor(study.beads.bonds).T
    bonds = (study.beads.positions[:, a] - study.beads.positions[:, b]).norm(dim=-1)
    assert float(bonds.max()) < 1.95
    assert float(bonds.mean()) == pytest.approx(1.69, abs=0.02)  # two CH3 groups, centres of mass


def test_the_density_is_that_of_the_generated_liquid(ethane):
    made, error = ethane.provenance["density at constant pressure / g/cm3"][0]
    assert mass_density(ethane) == pytest.approx(made, abs=5 * error)


def test_beads_can_be_taken_as_they_are(dimers, tmp_path):
    study = LiquidStudy(dimers, replace(TINY, mapping="identity"), tmp_path)
    list(study.learn_mapping())
    assert (study.mapping.n_beads, study.mapping.n_molecules) == (2, DIMERS)
    assert torch.allclose(study.beads.positions.double(), dimers.positions.double(), atol=1e-4)


def test_single_molecules_are_no_liquid(ethane):
    assert is_liquid(ethane)
    assert not is_liquid(datasets.load("alanine-dipeptide")[:2])
    assert not is_liquid(ethane.atoms(list(range(8))))


def mixture(ethane: Frames) -> Frames:
    """The same with one hydrogen of the last molecule taken away."""
    return ethane.atoms(list(range(ethane.n_atoms - 1)))


BAD = {
    "one map serves equal molecules": lambda f: (mixture(f), {}),
    "nm taken for A": lambda f: (replace(f, positions=f.positions / 10, cell=f.cell / 10), {}),
    "once too often": lambda f: (replace(f, positions=f.positions * 10, cell=f.cell * 10), {}),
    "more than half the smallest box width": lambda f: (f, {"cutoff": 12.0}),
    "frames have no cell": lambda f: (replace(f, cell=None), {}),
    "too few for a liquid": lambda f: (f[:20], {}),
    "no temperature": lambda f: (replace(f, kT=None), {}),
    "frames hold one molecule": lambda f: (f.atoms(list(range(8))), {}),
}


@pytest.mark.parametrize("sentence", BAD)
def test_bad_data_are_refused_with_a_sentence(ethane, tmp_path, sentence):
    frames, options = BAD[sentence](ethane)
    with pytest.raises(ValueError, match=sentence):
        LiquidStudy(frames, LiquidSettings(**options), tmp_path)


def test_a_target_with_empty_bins_says_what_to_do(ethane, tmp_path):
    study = LiquidStudy(ethane, LiquidSettings(mapping="sequence", bin_width=0.002), tmp_path)
    list(study.learn_mapping())
    with pytest.raises(ValueError, match="use more frames or wider bins"):
        list(study.fit())


def test_a_target_that_ends_before_the_cutoff_says_so(ethane, tmp_path):
    study = LiquidStudy(ethane, LiquidSettings(mapping="sequence", cutoff=11.3, bin_width=0.25), tmp_path)
    list(study.learn_mapping())
    with pytest.raises(ValueError, match=r"ends at 11.25 A, before the cutoff=11.3 A"):
        list(study.fit())


def test_bonds_over_half_the_box_name_their_frame(dimers):
    x = dimers.positions.clone()
    x[3, 1] += torch.tensor([14.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="frame 3"):
        check_whole(replace(dimers, positions=x))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"method": "magic"}, "choose one of relative-entropy"),
        ({"potential": "magic"}, "choose one of splines"),
        ({"bonded": "magic"}, "choose one of harmonic"),
        ({"iterations": 0}, "iterations=0"),
        ({"damping": 3.0}, "take 0.8"),
        ({"range": 5.0}, "give range=10"),
        ({"pressure": 1.0}, "only method='ibi'"),
        ({"friction_rounds": 1}, "at least 2 rounds"),
        ({"iteration_ps": -1.0}, "must be positive"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        LiquidSettings(**options)


def test_methods_that_do_not_go_with_the_data_are_refused(dimers, tmp_path):
    study = LiquidStudy(dimers, replace(TINY, method="force-matching"), tmp_path)
    list(study.learn_mapping()), list(study.fit())
    with pytest.raises(ValueError, match="data that have them"):
        list(study.refine())


@pytest.mark.parametrize(
    "change", [{"method": "imc"}, {"method": "ibi", "pressure": 400.0}, {"method": "none"}, {"bonded": "splines"}]
)
def test_every_method_samples_what_it_corrects(dimers, tmp_path, change):
    short = dict(hops=1, iteration_ps=2.0, iterations=2, tolerance=0.05)
    study = LiquidStudy(dimers, replace(TINY, **short, **change), tmp_path)
    list(study.learn_mapping()), list(study.fit()), list(study.refine())
    logs = [log for log in study.history["refine"] if "iteration" in log]
    assert 1 <= len(logs) <= (1 if "none" in change.values() else 2)
    assert all(abs(log["temperature"] / 300 - 1) < 0.3 for log in logs)  # of 2 ps
    assert study.fitted.mean == min(log["mean"] for log in logs) or "pressure" in change


def test_a_network_is_trained_first_and_splines_mend_it(ethane, tmp_path):
    settings = LiquidSettings(
        mapping="sequence", potential="schnet", train_steps=4, width=8, depth=1, iterations=1, iteration_ps=0.5
    )
    study = LiquidStudy(ethane, settings, tmp_path)
    list(study.learn_mapping()), list(study.fit()), list(study.refine())
    assert any("held-out" in log for log in study.history["refine"])
    assert not bool(study.fitted.values.any())  # the correction begins with zeros, and was sampled
    system = study.beads.system(0).to(torch.float32)
    pairs = neighbors(system, study.potential.cutoff)
    fast, plain = (energy_forces(p, system, pairs).forces.detach() for p in (study.potential, study.plain_potential))
    assert float((fast - plain).square().mean().sqrt()) < 1e-3 * float(plain.square().mean().sqrt())
