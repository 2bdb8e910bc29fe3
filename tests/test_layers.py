"""The shape of the code: imports go downwards, and what the library must not contain."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "mlmd"
FILES = sorted(LIBRARY.rglob("*.py"))
every_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(LIBRARY)))

# Section 2 of the design: a module imports from a lower layer or from its own folder.
LAYERS = [
    ["units", "errors", "segment", "jit", "lanes"],
    ["system", "cell", "frames", "neighbors"],
    ["forces", "store", "io"],
    ["potentials", "observables", "datasets", "batching"],
    ["nn"],
    ["md"],
    ["learn", "diff", "analysis"],
    ["cg", "interop"],
    ["backmap"],
    ["cli", "__main__"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FOREIGN = {
    "matplotlib",
    "plotly",
    "ipywidgets",
    "IPython",
    "nglview",
    "anywidget",
    "jupyterlab",
    "papermill",
    "nbformat",
    "nbconvert",
}
FOREIGN |= {"mlmd_widgets", "py3Dmol"}


def part(path: Path) -> str:
    """Top-level name of a file's place in the library."""
    relative = path.relative_to(LIBRARY)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module named by an import statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "mlmd")


def at_import_time(tree: ast.Module) -> ast.Module:
    """The statements that run on import: no function bodies, no ``if TYPE_CHECKING`` blocks."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if "TYPE_CHECKING" in ast.unparse(node.test) else node

    return Strip().visit(tree)


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Every call."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


@every_file
def test_imports_go_downwards(path: Path) -> None:
    own = part(path)
    if own == "__init__":
        return
    assert own in LEVEL, f"mlmd/{own} has no layer: add it to LAYERS and to the design"
    type_checking_aside = at_import_time_keeping_functions(ast.parse(path.read_text()))
    for module in imports(type_checking_aside):
        names = module.split(".")
        if names[0] != "mlmd" or len(names) < 2 or names[1] == own:
            continue
        if names[1] not in LEVEL:
            continue  # a name of mlmd/__init__.py
        upwards = LEVEL[names[1]] > LEVEL[own]
        allowed = own == "frames" and names[1] == "store"  # save and load, imported where they are used
        assert allowed or not upwards, f"{own} (layer {LEVEL[own]}) imports {module} (layer {LEVEL[names[1]]})"


def at_import_time_keeping_functions(tree: ast.Module) -> ast.Module:
    """Everything but ``if TYPE_CHECKING`` blocks."""

    class Strip(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

    return Strip().visit(tree)


@every_file
def test_the_core_imports_no_plotting_and_no_notebook_package(path: Path) -> None:
    tree = ast.parse(path.read_text())
    named = set(imports(tree)) if part(path) != "cli" else set(imports(at_import_time(tree)))
    assert not {name.split(".")[0] for name in named} & FOREIGN


def test_importing_everything_pulls_in_no_plotting_and_no_notebook_package() -> None:
    modules = [".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in FILES if p.stem != "__main__"]
    code = f"import sys\nfor m in {modules!r}: __import__(m)\nprint(sorted({FOREIGN!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().splitlines()[-1] == "[]"


@every_file
def test_the_library_does_not_print_except_the_command_line(path: Path) -> None:
    if part(path) in ("cli", "__main__"):
        return
    lines = [c.lineno for c in calls(ast.parse(path.read_text())) if isinstance(c.func, ast.Name) and c.func.id == "print"]
    assert not lines, f"print in lines {lines}"


@every_file
def test_errors_are_caught_by_name(path: Path) -> None:
    bare = [n.lineno for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ExceptHandler) and n.type is None]
    assert not bare, f"bare except in lines {bare}"


@every_file
def test_nothing_stored_is_executed(path: Path) -> None:
    tree = ast.parse(path.read_text())
    modules = {name.split(".")[0] for name in imports(tree)}
    assert not modules & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for call in calls(tree):
        name = ast.unparse(call.func)
        keywords = {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
        assert name not in ("eval", "exec", "yaml.load"), f"{name} in line {call.lineno}"
        assert keywords.get("weights_only") is not False, f"weights_only=False in line {call.lineno}"
        assert keywords.get("allow_pickle") is not True, f"allow_pickle=True in line {call.lineno}"
        assert name != "torch.load" or keywords.get("weights_only") is True, (
            f"torch.load without weights_only in line {call.lineno}"
        )


@every_file
def test_arguments_are_checked_by_errors_not_by_assertions(path: Path) -> None:
    """``assert`` vanishes under ``python -O``; it may only tell the type checker that something optional is there."""
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Assert):
                said = ast.unparse(node.test)
                assert "is not None" in said or said.startswith("isinstance"), f"assert {said} in line {node.lineno}"


def public_functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Functions and methods of public classes whose names do not start with an underscore."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from (n for n in node.body if isinstance(n, ast.FunctionDef))


def documented_methods() -> dict[str, set[str]]:
    """Names of the documented methods of every class of the library, those of its bases and of all protocols included."""
    classes = {n.name: n for p in FILES for n in ast.walk(ast.parse(p.read_text())) if isinstance(n, ast.ClassDef)}

    def of(name: str) -> set[str]:
        node = classes.get(name)
        if node is None:
            return set()
        own = {f.name for f in node.body if isinstance(f, ast.FunctionDef) and ast.get_docstring(f)}
        return own.union(*(of(ast.unparse(base).split(".")[-1]) for base in node.bases))

    protocols = set().union(*(of(name) for name, node in classes.items() if "Protocol" in map(ast.unparse, node.bases)))
    return {name: of(name) | protocols for name in classes}


DOCUMENTED = documented_methods()


@every_file
def test_every_public_class_and_function_says_what_it_does(path: Path) -> None:
    """A method may leave it to the base class that it overrides, ``forward`` to its class, a property to its name."""
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or not path.read_text().strip(), "the module has no docstring"
    silent = []
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_") and not ast.get_docstring(node):
            silent.append(node.name)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for f in node.body:
                if not isinstance(f, ast.FunctionDef) or f.name.startswith("_") or f.name in DOCUMENTED[node.name] | {"forward"}:
                    continue
                if ast.get_docstring(f):  # classes of one name in two modules share their entry in DOCUMENTED
                    continue
                if not any("property" in ast.unparse(d) for d in f.decorator_list):
                    silent.append(f"{node.name}.{f.name}")
    assert not silent, f"without a docstring: {silent}"


@every_file
def test_every_public_function_is_typed(path: Path) -> None:
    untyped = []
    for f in public_functions(ast.parse(path.read_text())):
        if f.name.startswith("_"):
            continue
        arguments = [a for a in [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs] if a.arg not in ("self", "cls")]
        if f.returns is None or any(a.annotation is None for a in arguments):
            untyped.append(f.name)
    assert not untyped, f"without types: {untyped}"
