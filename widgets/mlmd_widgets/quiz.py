"""Self-checks of the tutorials: they judge an answer without giving it away, and let an unanswered one pass."""

from __future__ import annotations

import math


def check(answer: float | str | None, expected: float | str, hint: str, tolerance: float = 0.02) -> str:
    """A sentence about ``answer``: right (numbers within the relative ``tolerance``), not yet with a hint, or not answered yet."""
    if answer is None:
        return "Not answered yet: put your answer in place of None and run the cell again."
    if isinstance(expected, str):
        right = str(answer).strip().lower() == expected.lower()
    else:
        right = math.isclose(float(answer), expected, rel_tol=tolerance, abs_tol=tolerance * 0.1)
    return "Right." if right else f"Not yet. Hint: {hint}"
