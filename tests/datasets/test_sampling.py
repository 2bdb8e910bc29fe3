"""Samplers give the canonical ensemble, the same one for the same seed, interrupted or not."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from mlmd import datasets, units
from mlmd.datasets import alkanes, propane
from mlmd.datasets.chunks import read_chunks
from mlmd.datasets.langevin import langevin
from mlmd.datasets.sampling import parallel_tempering

MASS, K, T = 12.0 * units.amu, 5.0, 300.0


def run_propane(folder, stop_after=None, seed=3):
    pytest.importorskip("openmm")
    system = alkanes.opls_system(alkanes.topology(3), hydrogen_mass=3.0)
    steps = parallel_tempering(
        system, alkanes.positions(3) / 10, folder, temperatures=(300.0, 400.0), n_frames=12, frame_ps=0.02, swap_ps=0.01,
        frames_per_chunk=4, seed=seed,
    )  # fmt: skip
    return consume(steps, stop_after)


def harmonic():
    def forces(x):
        return float(K / 2 * (x**2).sum()), -K * x

    return forces


def run_harmonic(folder, stop_after=None, seed=3, n_frames=12, frames_per_chunk=4):
    steps = langevin(
        harmonic, np.full(8, MASS), np.zeros((8, 3)), folder, temperature=T, n_frames=n_frames, frame_steps=10, dt_fs=4.0,
        friction_per_ps=20.0, frames_per_chunk=frames_per_chunk, seed=seed,
    )  # fmt: skip
    return consume(steps, stop_after)


def consume(steps, stop_after):
    for k, _ in enumerate(steps, start=1):
        if k == stop_after:
            steps.close()
            break


@pytest.mark.parametrize("run", [run_propane, run_harmonic])
def test_the_same_seed_gives_the_same_frames_even_if_interrupted(run, tmp_path):
    run(tmp_path / "a")
    run(tmp_path / "b", stop_after=1)
    assert len(list((tmp_path / "b").glob("chunk_*"))) == 1
    run(tmp_path / "b")
    run(tmp_path / "c", seed=4)
    a, b, c = (read_chunks(tmp_path / k) for k in "abc")
    for key in ("positions", "forces", "energies"):
        assert len(a[key]) == 12
        assert np.array_equal(a[key], b[key]), key
        assert not np.allclose(a[key], c[key])


@pytest.mark.parametrize("run", [run_propane, run_harmonic])
def test_a_run_with_other_settings_is_not_continued(run, tmp_path):
    run(tmp_path, stop_after=1)
    with pytest.raises(ValueError, match=r"settings\.json was written with other settings.*choose another folder"):
        run(tmp_path, seed=9)
    assert json.loads((tmp_path / "settings.json").read_text())["seed"] == 3


def test_langevin_samples_the_harmonic_well(tmp_path):
    """<x^2> = kT/k; BAOAB has no error of the time step here. 8 x 3 independent coordinates, 4 000 frames."""
    run_harmonic(tmp_path, n_frames=4000, frames_per_chunk=4000)
    with np.load(tmp_path / "chunk_00000.npz") as chunk:
        energies = chunk["energies"] * units.kJ_mol
    blocks = energies.reshape(20, -1).mean(1)
    assert abs(energies.mean() - 12 * T * units.kelvin) < 4 * blocks.std(ddof=1) / 20**0.5
    assert blocks.std(ddof=1) / 20**0.5 < 0.02 * 12 * T * units.kelvin


def test_collected_frames_have_internal_units_and_equal_energies(tmp_path, monkeypatch):
    mm = pytest.importorskip("openmm")
    monkeypatch.setattr(propane, "FRAME_PS", 0.02)
    for _ in datasets.generate("propane", n_frames=3, folder=tmp_path, seed=1):
        break
    frames = datasets.collect("propane", tmp_path, skip=1, n_frames=5)
    assert len(frames) == 5
    context = mm.Context(
        alkanes.opls_system(frames.topology), mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(frames.positions[2].double().numpy() / 10)
    energy = context.getState(getEnergy=True).getPotentialEnergy()._value * units.kJ_mol
    assert energy == pytest.approx(float(frames.energies[2]), abs=1e-4)
    assert frames.provenance["runs"][0]["seed"] == 1


SLOW_RUN = """
import sys, time, numpy as np
from mlmd import units
from mlmd.datasets.langevin import langevin
def forces():
    def f(x):
        time.sleep(1e-4)
        return 0.0, -5.0 * x
    return f
list(langevin(forces, np.full(8, 12 * units.amu), np.zeros((8, 3)), sys.argv[1], temperature=300.0, n_frames=60, frame_steps=10,
              dt_fs=4.0, friction_per_ps=20.0, frames_per_chunk=4, seed=3))
"""


def test_a_killed_process_loses_no_finished_chunk_and_continues_as_if_nothing_had_been(tmp_path):
    folder, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([sys.executable, "-c", SLOW_RUN, str(folder)])
    while len(list(folder.glob("chunk_*"))) < 3 and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.wait()
    kept = len(read_chunks(folder)["energies"])
    assert 12 <= kept < 60
    run_harmonic(folder, n_frames=60)
    run_harmonic(whole, n_frames=60)
    assert np.array_equal(read_chunks(folder)["positions"], read_chunks(whole)["positions"])
