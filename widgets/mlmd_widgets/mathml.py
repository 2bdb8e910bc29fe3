"""Formulas of markdown cells as MathML, which browsers draw without a network."""

from __future__ import annotations

import re

from mlmd.errors import require

# Code is matched first and kept: dollars inside it are no formulas. A formula in line begins and ends with something visible.
_PARTS = re.compile(
    r"(?P<code>```.*?```|`[^`\n]*`)|\$\$(?P<block>.+?)\$\$|(?<![\\$])\$(?P<line>[^\s$](?:[^$\n]*[^\s$\\])?)\$(?![\d$])", re.DOTALL
)


def with_mathml(markdown: str) -> str:
    r"""The text with every ``$...$`` and ``$$...$$`` replaced by MathML; a formula that cannot be converted stays as it is."""
    convert = require("latex2mathml.converter", extra="notebooks").convert

    def replaced(match: re.Match[str]) -> str:
        if match["code"]:
            return match["code"]
        kind = "block" if match["block"] else "inline"
        try:
            made = re.sub(r"\s*\n\s*", " ", convert((match["block"] or match["line"]).strip(), display=kind))
        except Exception:  # the converter has no exception of its own for what it does not know
            return match[0]
        return f"\n\n{made}\n\n" if kind == "block" else made

    return _PARTS.sub(replaced, markdown)
