"""The table of data sets says what is there, and unknown names are answered with the known ones."""

import pytest

from mlmd import datasets, units
from mlmd.datasets import propane
from mlmd.datasets.registry import RECIPES

SHIPPED = [d for d in datasets.available() if d.ships]


@pytest.mark.parametrize("info", SHIPPED, ids=lambda d: d.name)
def test_shipped_frames_are_as_the_table_says(info):
    frames = datasets.load(info.name)
    assert len(frames) == info.frames
    assert frames.n_atoms == info.atoms
    assert frames.forces is not None and frames.energies is not None
    assert frames.kT == pytest.approx(info.temperature * units.kelvin)
    assert frames.topology == RECIPES[info.name].topology()
    assert frames.provenance["data set"] == info.name


@pytest.mark.parametrize("info", SHIPPED, ids=lambda d: d.name)
def test_provenance_names_engine_force_field_seeds_and_settings(info):
    told = datasets.load(info.name).provenance
    assert {"engine", "source", "runs", "dropped at the start of each run"} <= set(told)
    assert all({"seed", "dt_fs", "friction_per_ps"} <= set(run) for run in told["runs"])
    assert len({run["seed"] for run in told["runs"]}) == len(told["runs"])


@pytest.mark.parametrize("info", SHIPPED, ids=lambda d: d.name)
def test_masses_are_those_of_the_elements_not_of_the_sampler(info):
    frames = datasets.load(info.name)
    hydrogens = frames.masses[frames.types == 1] / units.amu
    assert hydrogens.numpy() == pytest.approx(1.008, abs=1e-3)


def test_shipped_files_are_small():
    single = [d for d in SHIPPED if RECIPES[d.name].resized is None]
    assert sum(d.file.stat().st_size for d in single) < 10e6
    assert all(d.file.stat().st_size <= 4e6 for d in SHIPPED if d not in single)  # a liquid each
    assert RECIPES["alanine-dipeptide"].info.file.stat().st_size < 8e6


@pytest.mark.parametrize(
    "call", [datasets.load, lambda n: datasets.generate(n, n_frames=1, folder="x"), lambda n: datasets.collect(n, "x")]
)
def test_unknown_names_are_answered_with_the_known_ones(call):
    with pytest.raises(ValueError, match=r"'alanin' is no data set; known: alanine-dipeptide, .*propane"):
        call("alanin")


def test_no_frames_cannot_be_generated(tmp_path):
    with pytest.raises(ValueError, match="n_frames=0"):
        datasets.generate("propane", n_frames=0, folder=tmp_path)


def test_collecting_from_an_empty_folder_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match=r"holds no chunk_\*\.npz: generate the data first"):
        datasets.collect("propane", tmp_path)


@pytest.mark.parametrize("arguments", [{"skip": 500}, {"skip": -1}, {"n_frames": 0}])
def test_collecting_nothing_is_refused(tmp_path, monkeypatch, arguments):
    pytest.importorskip("openmm")
    monkeypatch.setattr(propane, "FRAME_PS", 0.004)
    for _ in datasets.generate("propane", n_frames=1, folder=tmp_path):
        pass
    with pytest.raises(ValueError, match=r"leave nothing of runs with \[200\] frames"):
        datasets.collect("propane", tmp_path, **arguments)
