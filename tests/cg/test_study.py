"""The whole way, on short runs: every stage, resumption, other molecules, bad input."""

import json
from dataclasses import replace

import mdtraj
import pytest
import torch

from mlmd import datasets, store, units
from mlmd.cg.mapping import Mapping
from mlmd.cg.study import Settings, Study, one_basin
from mlmd.frames import Frames

TINY = Settings(train_steps=60, refine_updates=10, replicas=24, simulate_ps=4.0, sample_ps=0.1, width=32, depth=2)


@pytest.fixture(scope="module")
def alanine():
    return datasets.load("alanine-dipeptide")[slice(0, 20_000, 10)]


@pytest.fixture(scope="module")
def study(alanine, tmp_path_factory):
    study = Study(alanine, TINY, tmp_path_factory.mktemp("study"))
    study.logs = list(study.run())
    return study


def test_every_stage_reports_and_leaves_its_result(study):
    assert list(dict.fromkeys(log["stage"] for log in study.logs)) == [
        "mapping",
        "priors",
        "train",
        "refine",
        "moments",
        "simulate",
        "compare",
    ]
    assert study.mapping.n_beads == 6
    assert study.samples.shape[1:] == (24, 6, 3)
    assert study.forces.zero > study.forces.model > study.forces.noise * 0.8
    assert 0 < study.comparison.surface.js < 0.7
    assert set(study.timings) == {"mapping", "priors", "train", "refine", "moments", "simulate", "compare"}


def test_production_says_the_temperature_of_the_samples_also_where_a_ladder_runs(study):
    assert study.rungs == Settings.rungs > 1
    logged = [log["temperature"] for log in study.history["simulate"] if "temperature" in log]
    error = 300 * (2 / (24 * study.rungs * 18)) ** 0.5  # of the 18 velocities of each system
    assert logged == [pytest.approx(300, abs=4 * error)] * len(logged)


def test_the_learned_map_keeps_hydrogens_with_their_heavy_atoms(study):
    bead = study.mapping.assignment
    for i, j in study.frames.bonds:
        if 1 in (int(study.frames.types[i]), int(study.frames.types[j])):
            assert bead[i] == bead[j]


def test_replicas_start_in_one_window_of_the_free_energy_surface(study):
    x, region = one_basin(study.beads, study.cvs, 50, torch.Generator().manual_seed(0))
    assert x.shape == (50, 6, 3)
    assert region.contains(*(cv(x) for cv in study.cvs)).all()
    everywhere = region.contains(*(cv(study.beads.positions.double()) for cv in study.cvs)).mean()
    assert 0.05 < everywhere < 0.6


def test_the_prior_alone_is_stable_and_its_bonds_are_right(study):
    bonds = [o for o in study.prior_comparison.overlays if o.kind == "bond"]
    assert bonds
    for o in bonds:
        means = [float((0.5 * (d.edges[1:] + d.edges[:-1]) * d.density * d.widths).sum()) for d in (o.reference, o.simulated)]
        assert means[1] == pytest.approx(means[0], rel=0.02)


def test_the_results_can_be_handed_on(study, tmp_path):
    folder = study.export(tmp_path / "out")
    system = study.beads.system(0).to(torch.float32)
    assert torch.equal(store.load(folder / "potential.npz")(system), study.potential(system))
    assert torch.equal(Mapping.load(folder / "mapping.npz").assignment, study.mapping.assignment)
    assert mdtraj.load(str(folder / "beads.pdb")).n_atoms == 6
    assert json.loads((folder / "summary.json").read_text())["comparison"]["surface"]["js"] == study.comparison.surface.js


def test_a_second_study_of_the_same_takes_finished_stages_from_the_folder(study, alanine):
    again = Study(alanine, TINY, study.folder)
    logs = list(again.run())
    assert [log["stage"] for log in logs if "loaded" in log] == ["train", "refine", "moments"]
    assert torch.equal(again.samples, study.samples)
    assert again.comparison.surface.js == study.comparison.surface.js
    assert len(again.history["train"]) > 10


def test_a_damaged_result_is_noticed_and_made_again(study, alanine, tmp_path):
    whole = Study(alanine, TINY, tmp_path)
    list(whole.run())
    (stored,) = tmp_path.glob("train-*.npz")
    stored.write_bytes(stored.read_bytes()[:-100])
    again = Study(alanine, TINY, tmp_path)
    with pytest.warns(UserWarning, match="run again"):
        list(again.run())
    assert torch.equal(again.samples, study.samples)


def test_an_interrupted_study_ends_like_one_that_was_not(study, alanine, tmp_path):
    for stage, stop in (("train", 30.0), ("refine", 5.0), ("moments", 5.0)):
        broken = Study(alanine, TINY, tmp_path)
        for log in broken.run():
            if log["stage"] == stage and log.get("step") == stop:
                break
    whole = Study(alanine, TINY, tmp_path)
    list(whole.run())
    assert torch.equal(whole.samples, study.samples)


def test_other_settings_never_mix_with_stored_results(study, alanine):
    other = Study(alanine, replace(TINY, seed=1), study.folder)
    stages = iter(other.run())
    seen = []
    for log in stages:
        seen.append(log)
        if log["stage"] == "train" and "step" in log:
            break
    assert not any("loaded" in log for log in seen)


def test_running_a_stage_again_forgets_what_followed_from_it(study, alanine):
    again = Study(alanine, TINY, study.folder)
    list(again.run())
    list(again.fit_priors())
    for name in ("forces", "samples", "comparison"):
        with pytest.raises(RuntimeError, match="first"):
            getattr(again, name)


def test_a_stage_out_of_order_says_what_to_run_first(alanine, tmp_path):
    fresh = Study(alanine, TINY, tmp_path)
    with pytest.raises(RuntimeError, match=r"study\.learn_mapping\(\)"):
        list(fresh.fit_priors())
    with pytest.raises(RuntimeError, match=r"study\.fit_priors\(\)"):
        list(fresh.learn_mapping()) and list(fresh.train())


@pytest.mark.parametrize("potential", ["schnet", "painn", "prior"])
def test_every_potential_goes_the_whole_way(alanine, tmp_path, potential):
    quick = replace(
        TINY, potential=potential, width=16, depth=1, train_steps=6, refine_updates=2, replicas=4, simulate_ps=0.8, batch=16
    )
    study = Study(alanine[slice(0, 2000, 8)], quick, tmp_path)
    list(study.run())
    assert bool(torch.isfinite(study.samples).all())


def test_propane_in_three_beads_works_as_well(tmp_path):
    study = Study(datasets.load("propane")[slice(0, 5000, 5)], replace(TINY, n_beads=3), tmp_path)
    list(study.run())
    assert study.mapping.n_beads == 3
    assert min(o.overlap for o in study.comparison.overlays) > 0.85


def test_without_forces_the_structure_alone_is_fitted(alanine, tmp_path):
    bare = Frames(alanine.positions, alanine.topology, kT=alanine.kT)
    study = Study(bare, TINY, tmp_path)
    logs = list(study.run())
    assert study.forces is None
    assert any("no forces" in str(log.get("skipped")) for log in logs)
    assert study.comparison.surface.js < 0.7


def test_bad_settings_and_data_are_refused_by_name(alanine, tmp_path):
    with pytest.raises(ValueError, match="mapping='magic'"):
        Settings(mapping="magic")
    with pytest.raises(ValueError, match="n_beads=0"):
        Settings(n_beads=0)
    with pytest.raises(ValueError, match="unknown settings"):
        Settings.from_dict({"n_bead": 3})
    with pytest.raises(ValueError, match="20 frames are too few"):
        Study(alanine[slice(0, 20)], TINY, tmp_path)
    with pytest.raises(ValueError, match="no temperature"):
        Study(replace(alanine, kT=None), TINY, tmp_path)
    with pytest.raises(ValueError, match="23"):
        list(Study(alanine, replace(TINY, n_beads=23), tmp_path).learn_mapping())
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device"):
            Study(alanine, replace(TINY, device="cuda"), tmp_path)


def test_a_temperature_can_be_given(alanine, tmp_path):
    study = Study(replace(alanine, kT=None), replace(TINY, temperature=310.0), tmp_path)
    assert study.kT == pytest.approx(310 * units.kelvin)
