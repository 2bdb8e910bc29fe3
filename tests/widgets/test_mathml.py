"""Formulas become MathML; prices and code do not."""

import xml.etree.ElementTree as tree

from mlmd_widgets.mathml import with_mathml


def test_formulas_in_line_and_on_their_own_become_well_formed_mathml():
    text = with_mathml(r"Mean $\langle K\rangle = \tfrac{f}{2} kT$, and" "\n\n" r"$$p(K) \propto K^{f/2-1} e^{-K/kT}$$" "\n\nend")
    assert "$" not in text
    assert text.count("<math") == 2
    for part in text.split("<math")[1:]:
        element = tree.fromstring("<math" + part.split("</math>")[0] + "</math>")
        assert element.attrib["display"] in ("inline", "block")
    assert 'display="block"' in text
    assert text.startswith("Mean <math")
    assert text.endswith("end")


def test_code_and_prices_stay():
    for text in ("`a $x$ b`", "```\n$x$\n```", "it costs 5$ or 6$ today", "a single $ sign"):
        assert with_mathml(text) == text
