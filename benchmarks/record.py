"""Write a benchmark's table with the machine and the versions it was measured on."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("mlmd", "torch", "numpy", "scipy", "mdtraj", "openmm", "vesin", "numba", "schnetpack", "torchmd-net")
RESULTS = Path(__file__).parent / "results"


def record(name: str, rows: Sequence[Mapping[str, Any]], command: str, notes: str = "") -> Path:
    """Print ``rows`` as a Markdown table and write it to ``results/<name>.md``.

    Args:
        name: of the file; rows: one dict per line, the keys of the first are the columns; command: what reproduces the table;
        notes: definitions and sample sizes, shown above the table.
    """
    table = markdown(rows)
    print(table)
    head = [f"# {name}", "", f"`{command}`, {date.today().isoformat()}", "", machine()]
    text = "\n".join([*head, *(["", notes.strip()] if notes else []), "", table, ""])
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.md"
    path.write_text(text)
    return path


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table; numbers in four significant digits."""
    columns = list(rows[0])
    cells = [[shown(row.get(c)) for c in columns] for row in rows]
    width = [max(len(c), *(len(r[k]) for r in cells)) for k, c in enumerate(columns)]
    lines = [columns, ["-" * w for w in width], *cells]
    return "\n".join("| " + " | ".join(x.ljust(w) for x, w in zip(line, width, strict=True)) + " |" for line in lines)


def shown(value: Any) -> str:
    """Text of one cell."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def machine() -> str:
    """Processor, cores, load (above 0 the machine was not quiet) and versions in one line."""
    import torch

    device = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    installed = ", ".join(f"{p} {v}" for p in PACKAGES if (v := _version(p)))
    threads = f"{torch.get_num_threads()} torch thread(s)"
    load = f"load average {os.getloadavg()[0]:.1f}"
    return f"{_processor()}, {os.cpu_count()} cores{device}, {threads}, {load}; Python {platform.python_version()}, {installed}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
