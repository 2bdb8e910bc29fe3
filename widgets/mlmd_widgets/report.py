"""``mlmd report``: run a notebook with parameters, without a screen, into one HTML page that opens offline.

The notebook is executed by papermill; its parameters, with their defaults and meanings, are read from its own parameters
cell, so that the command, its help and the notebook cannot disagree. The page holds every picture, style and script itself.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import json
import os
import re
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from mlmd import errors
from mlmd.errors import require
from mlmd.store import writable_folder, write_atomic
from mlmd_widgets.mathml import with_mathml

PAGE = Path(__file__).parent / "report_page.html"
FAILED = "report-failed.html"
KINDS = {"int": int, "float": float, "str": str, "bool": bool}


@dataclass(frozen=True)
class Parameter:
    """One line ``name: kind = default  # help`` of a parameters cell; ``optional`` ones may be None."""

    name: str
    kind: type
    default: Any
    help: str = ""
    optional: bool = False

    def parse(self, text: str) -> Any:
        """The value that ``text`` of a command line means."""
        if self.optional and text.lower() == "none":
            return None
        return self.kind(text)


def find_notebook(name: str = "report.ipynb") -> Path:
    """The notebook of that name: beside the sources, or where the package put it.

    Raises:
        FileNotFoundError: in neither place.
    """
    places = [Path(__file__).parents[2] / "notebooks", Path(sysconfig.get_path("data")) / "share" / "mlmd" / "notebooks"]
    for place in places:
        if (place / name).is_file():
            return place / name
    raise FileNotFoundError(
        f"{name} is in none of {', '.join(map(str, places))}: reinstall mlmd, or run from a clone of the repository"
    )


def parameters_of(notebook: Path) -> dict[str, Parameter]:
    """Parameters of a notebook, from the cell tagged ``parameters``.

    Raises:
        ValueError: no such cell, or a line in it that is no annotated assignment of a constant.
    """
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    tagged = [c for c in cells if "parameters" in c.get("metadata", {}).get("tags", [])]
    if not tagged:
        raise ValueError(f"{notebook} has no cell tagged 'parameters'")
    return _parse_parameters("".join(tagged[0]["source"]))


def _parse_parameters(source: str) -> dict[str, Parameter]:
    comments = {
        t.start[0]: t.string.lstrip("# ") for t in tokenize.generate_tokens(StringIO(source).readline) if t.type == tokenize.COMMENT
    }
    out = {}
    for node in ast.parse(source).body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None):
            raise ValueError(f"parameters cell, line {node.lineno}: write `name: kind = default  # meaning`")
        kind = ast.unparse(node.annotation)  # papermill does not know `str | None`: a default of None makes it optional
        if kind not in KINDS:
            raise ValueError(f"parameters cell, line {node.lineno}: kind {kind!r} is none of {', '.join(KINDS)}")
        name, default = node.target.id, ast.literal_eval(node.value)
        out[name] = Parameter(name, KINDS[kind], default, comments.get(node.lineno, ""), default is None)
    return out


def check_values(known: dict[str, Parameter], values: dict[str, Any]) -> None:
    """Refuse names that are no parameters, and values of another kind.

    Raises:
        ValueError: naming the parameter and what there is to choose from.
    """
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"unknown parameter {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    for name, value in values.items():
        p = known[name]
        fits = isinstance(value, p.kind) or (p.kind is float and isinstance(value, int)) or (p.optional and value is None)
        if not fits or (isinstance(value, bool) and p.kind is not bool):
            raise ValueError(f"parameter {name}={value!r}: expected {p.kind.__name__}, for instance {p.default!r}")


def refuse_unknown_parameters() -> None:
    """To be called in a notebook after its parameters: papermill only warns of a name it does not know and goes on with defaults.

    Compares the cell that papermill injected with the parameters cell, the first two cells of the session.

    Raises:
        ValueError: a parameter that the notebook does not have, or of another kind.
    """
    from IPython import get_ipython

    from mlmd_widgets.display import headless

    shell = get_ipython()
    if shell is None or not headless():
        return
    sources = [s for s in shell.user_ns.get("In", []) if s.strip()]
    if len(sources) < 3:  # nothing was injected: the parameters cell and the present one
        return
    injected = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(sources[1]).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    check_values(_parse_parameters(sources[0]), injected)


def render(notebook: Path, output: Path, values: dict[str, Any], progress: Any = sys.stderr) -> Path:
    """Run ``notebook`` with ``values`` and write ``output/report.html``; gives back its path.

    The executed notebook is kept beside it. An error in the notebook is raised after the page was written as far as it came.

    Raises:
        ValueError: unknown parameters. MissingExtra: papermill or nbconvert is absent.
    """
    check_values(parameters_of(notebook), values)
    papermill = require("papermill", extra="notebooks")
    nbformat = require("nbformat", extra="notebooks")
    output = writable_folder(output, "output")
    executed = output / "report.ipynb"
    failure = None
    with _environment(MLMD_HEADLESS="1"):
        try:
            papermill.execute_notebook(
                str(notebook),
                str(executed),
                parameters=values,
                progress_bar=False,
                stderr_file=progress,
                cwd=str(Path.cwd()),
                extra_arguments=["--IPKernelApp.log_level=50"],  # the kernel has warnings of its own that say nothing here
            )
        except papermill.PapermillExecutionError as error:
            failure = error
    page = to_html(nbformat.read(executed, as_version=4))
    name = "report.html" if failure is None else FAILED  # an earlier good page is not overwritten by a failure
    path = write_atomic(output / name, lambda name: Path(name).write_text(page, encoding="utf-8"))
    if failure is not None:
        raise failure
    return path


@contextmanager
def _environment(**settings: str) -> Iterator[None]:
    before = {k: os.environ.get(k) for k in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for k, v in before.items():
            if v is None:
                os.environ.pop(k)
            else:
                os.environ[k] = v


def to_html(notebook: Any) -> str:
    """One self-contained page from an executed notebook: title block, summary, contents, sections; the code is folded away until asked for."""
    nbconvert = require("nbconvert", extra="notebooks")
    formatter = require("pygments.formatters", extra="notebooks").HtmlFormatter()
    tidy = _tidied(notebook)
    template = (
        "{% extends 'basic/index.html.j2' %}"
        "{% block input_group %}<div class='code'>{{ super() }}</div>{% endblock %}"
        "{% block output_area_prompt %}{% endblock %}{% block in_prompt %}{% endblock %}"
    )
    exporter = nbconvert.HTMLExporter(raw_template=template, exclude_anchor_links=True, mathjax_url="", require_js_url="")
    body, _ = exporter.from_notebook_node(tidy)
    body = _with_anchors(body)
    page = PAGE.read_text(encoding="utf-8")
    title = next((m[1] for c in tidy.cells if c.cell_type == "markdown" and (m := re.match(r"#\s+(.+)", c.source))), "mlmd report")
    fills = {"TITLE": title, "STYLE": formatter.get_style_defs(".highlight"), "CONTENTS": _contents(body), "BODY": body}
    return re.sub(r"<!--(TITLE|STYLE|CONTENTS|BODY)-->", lambda m: fills[m[1]], page)


def _tidied(notebook: Any) -> Any:
    """A copy without widget state, warnings and progress, with formulas that need no script, and sections that
    have shown nothing; the cell tagged ``summary`` right after the title."""
    import copy

    out = copy.deepcopy(notebook)
    out.metadata.pop("widgets", None)
    for cell in out.cells:
        if cell.cell_type == "code":
            cell.outputs = [kept for o in cell.outputs if (kept := _static(o)) is not None]
        elif cell.cell_type == "markdown":
            cell.source = with_mathml(cell.source)
    hidden = ("remove-cell", "injected-parameters")
    out.cells = _without_silent_sections([c for c in out.cells if not set(hidden) & set(c.metadata.get("tags", []))])
    first = [c for c in out.cells if "summary" in c.metadata.get("tags", [])]
    rest = [c for c in out.cells if c not in first]
    out.cells = rest[:1] + first + rest[1:]
    return out


def _without_silent_sections(cells: list[Any]) -> list[Any]:
    """Leaves out sections (from one heading of second rank to the next) whose code has run and shown nothing: they concern other data."""
    sections: list[list[Any]] = [[]]
    for cell in cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            sections.append([])
        sections[-1].append(cell)
    return sections[0] + [cell for section in sections[1:] if not _silent(section) for cell in section]


def _silent(section: list[Any]) -> bool:
    code = [c for c in section if c.cell_type == "code"]
    return bool(code) and all(c.execution_count is not None and not c.outputs for c in code)


def _static(output: Any) -> Any | None:
    if output.output_type == "stream" and output.name == "stderr":
        return None
    data = output.get("data")
    if data is not None:
        data.pop("application/vnd.jupyter.widget-view+json", None)
        if not set(data) - {"text/plain"} and output.output_type == "display_data":
            return None
    return output


def _with_anchors(body: str) -> str:
    """Headings of second rank get names to link to."""
    count = iter(range(1, 1000))
    return re.sub(r"<h2[^>]*>", lambda _: f'<h2 id="section-{next(count)}">', body)


def _contents(body: str) -> str:
    """A list of links to the headings of second rank."""
    headings = re.findall(r'<h2 id="([^"]+)">(.*?)</h2>', body, flags=re.S)
    return "\n".join(f'<li><a href="#{name}">{re.sub("<[^>]+>", "", text).strip()}</a></li>' for name, text in headings)


def register(commands: Any) -> None:
    """Add the command ``report`` to an ``argparse`` collection of commands."""
    command = commands.add_parser(
        "report",
        help="run the report notebook into one HTML page that opens offline",
        description="Run the report notebook with parameters into one self-contained HTML page. Without options: the shipped data.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument(
        "--output", type=Path, default=Path("reports/report"), help="folder for the page and the executed notebook"
    )
    command.set_defaults(run=_run)
    group = command.add_argument_group("parameters of the notebook")
    try:
        known = parameters_of(find_notebook())
    except FileNotFoundError:  # said when the command is run; the other commands work without the notebook
        return
    for p in known.values():
        _add_option(group, p)


def _add_option(group: Any, p: Parameter) -> None:
    option = f"--{p.name.replace('_', '-')}"
    text = p.help.replace("%", "%%") or " "
    if p.kind is bool:
        group.add_argument(option, action=argparse.BooleanOptionalAction, default=p.default, help=text)
    else:
        group.add_argument(option, type=p.parse, default=p.default, metavar=p.kind.__name__.upper(), help=text)


def is_bad_input(kind: str) -> bool:
    """Whether an exception of that name says that the input is at fault, as :func:`mlmd.cli.main` takes it."""
    found = getattr(builtins, kind, getattr(errors, kind, None))
    return isinstance(found, type) and issubclass(found, (ValueError, OSError, ImportError))


def _run(arguments: argparse.Namespace) -> int:
    notebook = find_notebook()
    known = parameters_of(notebook)
    values = {n: getattr(arguments, n) for n in known if getattr(arguments, n) != known[n].default}
    # Files are named relative to where the command is typed.
    papermill = require("papermill", extra="notebooks")
    writable_folder(arguments.runs, "runs")
    try:
        path = render(notebook, arguments.output, values)
    except papermill.PapermillExecutionError as error:
        bad_input = is_bad_input(error.ename)
        sys.stderr.write(f"mlmd: {error.evalue}\n" if bad_input else f"{error.ename}: {error.evalue}\n")
        sys.stderr.write(f"The page shows how far it came: {arguments.output / FAILED}\n")
        return 2 if bad_input else 1
    sys.stdout.write(
        f"The report is in {path.resolve()} ({path.stat().st_size / 1e6:.1f} MB); open it in any browser, no network is needed.\n"
    )
    return 0
