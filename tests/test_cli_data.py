"""`mlmd data`: what it prints, what it writes, and how it ends on bad input."""

import numpy as np
import pytest

from mlmd import datasets, units
from mlmd.cli import main
from mlmd.datasets import propane
from mlmd.frames import Frames, as_numpy


def test_list_names_every_data_set(capsys):
    assert main(["data", "list"]) == 0
    out = capsys.readouterr().out
    assert all(d.name in out and d.source in out for d in datasets.available())


def test_generate_writes_frames_and_continues_a_run(tmp_path, capsys, monkeypatch):
    pytest.importorskip("openmm")
    monkeypatch.setattr(propane, "FRAME_PS", 0.02)
    command = ["data", "generate", "propane", "--frames", "150", "--out", str(tmp_path), "--seed", "5"]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "150 frames in" in captured.out
    assert "150/150" in captured.err
    first = Frames.load(tmp_path / "propane.npz")
    assert len(first) == 150
    assert main(command) == 0  # nothing left to do
    assert Frames.load(tmp_path / "propane.npz").positions.equal(first.positions)


def test_info_tells_what_was_read_and_what_is_wrong(tmp_path, capsys):
    frames = datasets.load("propane")[:200]
    frames[0].to_mdtraj().save(str(tmp_path / "a.pdb"))
    np.save(tmp_path / "x.npy", as_numpy(frames.positions))
    np.save(tmp_path / "f.npy", as_numpy(frames.forces / units.kcal_mol))
    command = ["data", "info", str(tmp_path / "x.npy"), "--top", str(tmp_path / "a.pdb"), "--forces", str(tmp_path / "f.npy")]
    assert main([*command, "--length-unit", "A", "--force-unit", "eV/A", "--temperature", "300"]) == 0
    out = capsys.readouterr().out
    assert "frames   200" in out and "atoms    11" in out and "300.0 K" in out
    assert "warning" in out and "force_unit='kcal/mol/A'" in out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["data", "generate", "nothing", "--frames", "1", "--out", "x"], "known: alanine-dipeptide"),
        (["data", "info", "no.npz"], "no.npz: no such file"),
        (["data", "generate", "propane", "--frames", "1", "--out", "x", "--molecules", "8"], "'propane' is a single molecule"),
    ],
)
def test_bad_input_ends_with_one_sentence_and_status_2(command, message, capsys):
    assert main(command) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


@pytest.mark.parametrize("command", [["--help"], ["data", "--help"], ["data", "generate", "--help"]])
def test_help_is_there(command, capsys):
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 0
    assert "usage: mlmd" in capsys.readouterr().out
