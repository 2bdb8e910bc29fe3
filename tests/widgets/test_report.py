"""Parameters are read from the notebook itself, unknown ones refused, and the page stands alone."""

import inspect
import io
import warnings
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from mlmd_widgets import report, study_views
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mlmd import cli, datasets
from mlmd import io as io_of_mlmd
from mlmd.cg.liquid_settings import LiquidSettings
from mlmd.cg.study import Settings


def _notebook(tmp_path: Path, parameters: str, *cells) -> Path:
    first = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    path = tmp_path / "small.ipynb"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=[new_markdown_cell("# A title"), first, *cells], metadata=kernel), path)
    return path


def test_parameters_carry_kind_default_and_meaning(tmp_path):
    path = _notebook(tmp_path, "n: int = 6  # beads\nname: str = None  # a file\nfast: bool = False")
    n, name, fast = report.parameters_of(path).values()
    assert (n.kind, n.default, n.help, n.optional) == (int, 6, "beads", False)
    assert name.optional
    assert (fast.kind, fast.default) == (bool, False)


@pytest.mark.parametrize("line", ["n = 6", "n: int = 2 + 3", "n: list = 1", "print(1)"])
def test_a_parameters_cell_with_anything_else_is_refused(tmp_path, line):
    with pytest.raises(ValueError):
        report.parameters_of(_notebook(tmp_path, line))


@pytest.mark.parametrize(
    ("values", "message"),
    [({"n_bead": 5}, "unknown parameter n_bead"), ({"n_beads": "five"}, "expected int"), ({"n_beads": True}, "expected int")],
)
def test_unknown_parameters_and_wrong_kinds_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        report.check_values(report.parameters_of(report.find_notebook()), values)


def test_whole_numbers_are_fine_where_numbers_are_asked_for():
    report.check_values(report.parameters_of(report.find_notebook()), {"rho": 0, "top": None, "fast": True})


@pytest.mark.parametrize("kind", [Settings, LiquidSettings])
def test_the_report_offers_settings_of_a_study_with_the_defaults_of_a_study(kind):
    own = {"groups", "n_beads", "potential", "bonded", "train_steps"}  # text in one, or default of the other kind of study
    known = report.parameters_of(report.find_notebook())
    here = {n for n, p in known.items() if kind is LiquidSettings or not p.help.startswith("liquids:")}
    shared = {f.name: f.default for f in fields(kind) if f.name in here}
    assert len(shared) >= 8
    assert {n: known[n].default for n in shared if n not in own} == {n: v for n, v in shared.items() if n not in own}


def test_the_help_shows_every_parameter_with_its_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")  # words are not broken
    with pytest.raises(SystemExit):
        cli.main(["report", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for p in report.parameters_of(report.find_notebook()).values():
        assert f"--{p.name.replace('_', '-')}" in text
        assert str(p.default) in text


def test_an_unknown_option_ends_with_a_message(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["report", "--beads", "5"])
    assert end.value.code == 2
    assert "--beads" in capsys.readouterr().err


def test_the_summary_comes_first_and_progress_warnings_and_widget_state_are_left_out():
    stderr = new_output("stream", name="stderr", text="a warning")
    card = new_output("display_data", data={"text/html": "<b>the card</b>", "text/plain": "x"})
    widget = new_output("display_data", data={"application/vnd.jupyter.widget-view+json": {}, "text/plain": "a widget"})
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# Title"),
            new_markdown_cell("## First part"),
            new_code_cell("1", outputs=[stderr, widget]),
            new_code_cell("2", outputs=[card], metadata={"tags": ["summary"]}),
        ],
        metadata={"widgets": {"state": {}}},
    )
    page = report.to_html(notebook)
    assert page.index("the card") < page.index("First part</h2>")
    assert "a warning" not in page
    assert "a widget" not in page
    assert '<a href="#section-1">First part</a>' in page
    assert "<title>Title</title>" in page


def test_sections_whose_code_has_shown_nothing_are_left_out_and_those_not_run_are_kept():
    seen = new_output("stream", name="stdout", text="a result")
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# Title"),
            new_code_cell("import this", execution_count=1),
            new_markdown_cell("## Shown"),
            new_code_cell("1", execution_count=2, outputs=[seen]),
            new_markdown_cell("## Of other data"),
            new_code_cell("if False: 1", execution_count=3),
            new_markdown_cell("## Words alone"),
            new_markdown_cell("## Never reached"),
            new_code_cell("1"),
        ]
    )
    page = report.to_html(notebook)
    assert "Of other data" not in page
    assert all(word in page for word in ("Title</h1>", "Shown</h2>", "Words alone</h2>", "Never reached</h2>"))


def test_a_parameter_reaches_the_page_and_an_unknown_one_stops_the_notebook_itself(tmp_path):
    papermill = pytest.importorskip("papermill")
    check = new_code_cell("from mlmd_widgets.report import refuse_unknown_parameters\nrefuse_unknown_parameters()")
    path = _notebook(tmp_path, "n: int = 6", check, new_code_cell("print('n is', n)"))
    page = report.render(path, tmp_path / "out", {"n": 41}, progress=io.StringIO())
    assert "n is 41" in page.read_text()
    with pytest.raises(papermill.PapermillExecutionError, match="unknown parameter m"), report._environment(MLMD_HEADLESS="1"):
        papermill.execute_notebook(str(path), str(tmp_path / "x.ipynb"), parameters={"m": 1}, progress_bar=False)


def test_a_notebook_that_fails_leaves_the_page_as_far_as_it_came(tmp_path):
    papermill = pytest.importorskip("papermill")
    path = _notebook(tmp_path, "n: int = 6", new_code_cell("print('so far')"), new_code_cell("raise ValueError('no further')"))
    with pytest.raises(papermill.PapermillExecutionError, match="no further"):
        report.render(path, tmp_path / "out", {}, progress=io.StringIO())
    text = (tmp_path / "out" / "report-failed.html").read_text()
    assert "so far" in text
    assert "no further" in text


@pytest.mark.parametrize(
    ("text", "groups"),
    [(None, ()), ("", ()), ("0-3, 8; 4-7", ((0, 1, 2, 3, 8), (4, 5, 6, 7))), (" 1 ;2 - 3;", ((1,), (2, 3)))],
)
def test_groups_of_atoms_can_be_given_as_text(text, groups):
    assert study_views.parse_groups(text) == groups


@pytest.mark.parametrize("text", ["0-5;;6-21", ";1", "1; ;"])
def test_groups_with_an_empty_bead_are_refused(text):
    with pytest.raises(ValueError, match="is empty; give every bead"):
        study_views.parse_groups(text)


@pytest.mark.parametrize("text", ["a", "3-1", "1,,2", "1 2"])
def test_groups_that_are_no_indices_are_refused(text):
    with pytest.raises(ValueError, match="no atom index or range"):
        study_views.parse_groups(text)


def _fails_with(tmp_path: Path, monkeypatch, line: str) -> int:
    path = _notebook(tmp_path, 'runs: str = "runs"', new_code_cell(line))
    monkeypatch.setattr(report, "find_notebook", lambda: path)
    return cli.main(["report", "--output", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")])


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("raise ValueError('n_beads=0: must be at least 1')", 2),
        ("open('nowhere.xtc')", 2),
        ("from mlmd.errors import BrokenCheckpoint; raise BrokenCheckpoint('a.npz is damaged')", 2),
        ("1 / 0", 1),
    ],
)
def test_bad_input_found_by_the_notebook_ends_with_status_2_and_other_errors_with_1(tmp_path, monkeypatch, capsys, line, status):
    pytest.importorskip("papermill")
    assert _fails_with(tmp_path, monkeypatch, line) == status
    last = capsys.readouterr().err.strip().splitlines()[-2]
    assert last.startswith("mlmd: ") == (status == 2)


def test_molecules_of_different_kinds_end_the_command_with_a_sentence(tmp_path, capsys):
    pytest.importorskip("papermill")
    ethane = datasets.load("ethane")[::8]
    ethane.atoms(list(range(ethane.n_atoms - 1))).save(tmp_path / "mixture.npz")
    folders = [f"--output={tmp_path / 'out'}", f"--runs={tmp_path / 'runs'}"]
    assert cli.main(["report", f"--top={tmp_path / 'mixture.npz'}", *folders]) == 2
    told = capsys.readouterr().err
    assert "mlmd: the 125 molecules are of different kinds" in told
    assert "select those of one kind" in told


def test_times_can_be_given_and_files_without_times_are_doubted():
    doubts: list[str] = []
    ethane = datasets.load("ethane")[:4]
    given = study_views.with_times(ethane, 0.5, "a.dcd", doubts)
    assert given.time.tolist() == [0.0, 500.0, 1000.0, 1500.0]
    assert not doubts
    assert study_views.with_times(ethane, None, "a.xtc", doubts) is ethane
    assert not doubts
    assert study_views.with_times(ethane, None, "a.DCD", doubts) is ethane
    assert "frame_ps" in doubts[0]
    with pytest.raises(ValueError, match="frame_ps=-1"):
        study_views.with_times(ethane, -1.0, "a.xtc", doubts)


@pytest.mark.parametrize("argument", ["output", "runs"])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_run(tmp_path, capsys, argument):
    (tmp_path / "file").write_text("in the way")
    folders = {"output": tmp_path / "out", "runs": tmp_path / "runs"} | {argument: tmp_path / "file"}
    assert cli.main(["report", *(f"--{k}={v}" for k, v in folders.items())]) == 2
    message = capsys.readouterr().err
    assert f"{argument}=" in message and "a file is in the way" in message
    assert not (tmp_path / "out" / "report.ipynb").exists()


def test_every_argument_of_the_reader_that_its_messages_name_is_a_parameter_of_the_report():
    known = set(report.parameters_of(report.find_notebook()))
    assert set(inspect.signature(io_of_mlmd.read).parameters) - {"min_frames", "check"} <= known


def test_doubts_about_the_data_are_kept_for_the_page_and_still_warned_of():
    with pytest.warns(io_of_mlmd.InputWarning, match="in nm"), study_views.doubts() as found:
        warnings.warn("in nm?", io_of_mlmd.InputWarning, stacklevel=1)
    assert found == ["in nm?"]
    assert "in nm?" in study_views.doubt_notes(found)
    assert study_views.doubt_notes([]) == ""


@pytest.mark.parametrize(
    ("settings", "absent"),
    [
        (Settings(), {"groups"}),
        (Settings(groups=((0, 1), (2,))), {"n_beads", "mapping", "hydrogens", "rho"}),
        (Settings(mapping="residue"), {"n_beads", "hydrogens", "rho", "groups"}),
        (Settings(mapping="backbone"), {"hydrogens", "rho", "groups"}),
    ],
)
def test_the_page_shows_only_settings_that_had_a_say(settings, absent):
    table = study_views.settings_table(SimpleNamespace(settings=settings))
    assert {f.name for f in fields(Settings) if f">{f.name}<" not in table} == absent


def test_counts_below_one_are_refused_by_name():
    study_views.at_least_one(threads=1, stride=3)
    with pytest.raises(ValueError, match="stride=0: must be at least 1"):
        study_views.at_least_one(threads=1, stride=0)
