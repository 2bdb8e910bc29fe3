"""The project's shell: files that have to agree with each other."""

import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
NOT_IN_CONDA = {"benchmark"}  # rivals that only the benchmarks measure: gigabytes that no user of the library needs
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "MDAnalysis": "mdanalysis", "tblite": "tblite-python"}


def _requirement(line: str) -> tuple[str, str]:
    name, constraint = re.match(r"([A-Za-z0-9_-]+)\s*(.*)", line).groups()
    return name, constraint


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _conda_requirements() -> dict[str, str]:
    """Lines ``- name>=version`` of environment.yml, those of its pip section included."""
    lines = re.findall(r"^\s*- ([^\s#:]+)$", (ROOT / "environment.yml").read_text(), flags=re.M)
    return dict(_requirement(line) for line in lines if not line.startswith("-") and line not in ("conda-forge", "pip"))


def test_the_conda_environment_asks_for_what_pyproject_asks_for():
    project = _project()
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(r for name in extras if name not in NOT_IN_CONDA for r in extras[name])]
    expected = {CONDA_NAMES.get(n, n): c for n, c in map(_requirement, wanted)}
    expected["python"] = project["requires-python"]
    assert _conda_requirements() == expected


def test_constraints_stay_within_what_pyproject_allows():
    from packaging.requirements import Requirement

    project = _project()
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    allowed = {Requirement(r).name: Requirement(r).specifier for r in wanted}
    pinned = [
        Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")
    ]
    for pin in pinned:
        for exact in (s for s in pin.specifier if s.operator == "=="):
            assert exact.version in allowed[pin.name], f"{pin} is outside {allowed[pin.name]}"


def test_every_make_command_of_the_documents_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text()
        named = set(re.findall(r"(?:^|`|\$ )make ([a-z]+)", text, flags=re.M))
        assert named, f"{document} names no make command"
        assert named <= targets, f"{document} names {named - targets}, which the Makefile does not have"


def test_every_file_that_the_documents_link_to_exists():
    for document in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text()):
            if "://" not in target:
                assert (ROOT / target).exists(), f"{document} links to {target}"


def test_the_python_example_of_the_readme_is_at_most_twenty_lines_and_compiles():
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    compile(block, "README.md", "exec")
    assert len([line for line in block.splitlines() if line.strip()]) <= 20


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_committed_notebooks_hold_no_outputs_but_those_that_are_compared(path: Path):
    notebook = json.loads(path.read_text())
    assert "widgets" not in notebook["metadata"]
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            compared = "NBVAL_CHECK_OUTPUT" in "".join(cell["source"])
            assert compared == bool(cell["outputs"]), "run `jupyter nbconvert --clear-output --inplace` on it"
            assert compared or cell["execution_count"] is None


def test_no_absolute_path_of_a_machine_is_written_down():
    for name in ("Makefile", ".ci/run", "README.md", "CONTRIBUTING.md", "environment.yml", "pyproject.toml"):
        assert not re.search(r"(?<![\w.$}])/(home|root|Users|work|tmp)/", (ROOT / name).read_text()), name
