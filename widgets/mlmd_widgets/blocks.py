"""Building blocks of HTML for notebooks and reports: cards, tables, notes, rows; readable on light and dark pages."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

STYLE = (
    "<style>"
    ".mlmd-cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(132px,1fr));gap:12px;margin:18px 0 8px}"
    ".mlmd-card{border:1px solid rgba(128,128,128,.28);border-radius:11px;padding:12px 16px;background:rgba(128,128,128,.06)}"
    ".mlmd-card b{display:block;font-size:25px;line-height:1.2;font-weight:650;font-variant-numeric:tabular-nums}"
    ".mlmd-card b small{font-size:14px;font-weight:500;opacity:.7}"
    ".mlmd-card span{display:block;font-size:13px;line-height:1.35;margin-top:3px;opacity:.75}"
    ".mlmd-card.good{border-left:4px solid #009E73}.mlmd-card.warn{border-left:4px solid #D55E00}"
    ".mlmd-note{border-left:4px solid #0072B2;background:rgba(128,128,128,.08);border-radius:0 8px 8px 0;"
    "padding:9px 16px;margin:12px 0;max-width:80ch}"
    ".mlmd-note.warn{border-left-color:#D55E00}.mlmd-note.good{border-left-color:#009E73}"
    ".mlmd-row{display:flex;flex-wrap:wrap;gap:18px;align-items:flex-start}"
    "</style>"
)

LEFT = 'style="text-align:left"'  # in place, since JupyterLab has a rule of its own for table cells


@dataclass(frozen=True)
class Card:
    """A number that matters, with its unit, what it is, and how it is to be taken: "good", "warn" or ""."""

    value: str
    unit: str
    meaning: str
    kind: str = ""


def cards(items: Sequence[Card]) -> str:
    """Cards side by side."""
    body = "".join(
        f'<div class="mlmd-card {c.kind}"><b>{_text(c.value)} <small>{_text(c.unit)}</small></b><span>{_text(c.meaning)}</span></div>'
        for c in items
    )
    return f'{STYLE}<div class="mlmd-cards">{body}</div>'


def table(header: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """A table; the first column is text, the others are set flush right."""
    head = "".join(f"<th {LEFT if k == 0 else ''}>{_text(h)}</th>" for k, h in enumerate(header))
    body = "".join(
        "<tr>" + "".join(f"<td {LEFT if k == 0 else ''}>{_text(v)}</td>" for k, v in enumerate(row)) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def facts(rows: Sequence[tuple[Any, Any]], title: str = "") -> str:
    """Names and values in two columns, both flush left."""
    head = f'<thead><tr><th colspan="2" {LEFT}>{_text(title)}</th></tr></thead>' if title else ""
    body = "".join(f"<tr><td {LEFT}>{_text(name)}</td><td {LEFT}>{_text(value)}</td></tr>" for name, value in rows)
    return f'<table class="facts">{head}<tbody>{body}</tbody></table>'


def note(text: str, kind: str = "") -> str:
    """A sentence to be noticed; ``kind``: "", "good" or "warn"."""
    return f'{STYLE}<div class="mlmd-note {kind}">{_text(text)}</div>'


def row(fragments: Sequence[str]) -> str:
    """Fragments of HTML beside each other, below each other on a narrow page."""
    return f'{STYLE}<div class="mlmd-row">' + "".join(f"<div>{f}</div>" for f in fragments) + "</div>"


def with_error(value: float, error: float) -> str:
    """Value and standard error with as many digits as the error has two of: "25.2 ± 1.6"."""
    if not error > 0:
        return f"{value:.3g}"
    from math import floor, log10

    digits = max(0, 1 - floor(log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _text(value: Any) -> str:
    return html.escape(str(value), quote=False)
