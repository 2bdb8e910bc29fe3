"""Different corrections in turns: a long step for slow modes after a short one that has calmed the fast ones."""

from __future__ import annotations

from torch import Tensor

from mlmd.cg.liquid_sampler import Sample
from mlmd.cg.pair_splines import PairSplines
from mlmd.cg.structure_loop import Correction
from mlmd.cg.target_rdf import TargetRDF


class TakingTurns:
    r"""The first method in the first iteration, the second in the second, ..., and from the beginning again.

    For Boltzmann iteration with the factors :math:`\alpha_1,\alpha_2` in turns, an error that a plain step multiplies by
    :math:`1-\mu` is multiplied by :math:`(1-\alpha_1\mu)(1-\alpha_2\mu)` in two (Chebyshev's iteration; Varga, Matrix Iterative Analysis
    (1962), ch. 5). With 0.8 and 2.0 slow modes fall as after 2.8 plain steps, and fast ones up to :math:`\mu=1.75` stay stable, where
    1.4 all the time would lose those above 1.43. The price is noise: the longest factor multiplies that of one sample.

    Args:
        methods: at least one.

    Raises:
        ValueError: without any.
    """

    def __init__(self, *methods: Correction):
        if not methods:
            raise ValueError("methods is empty: give at least one correction")
        self.methods, self._next = methods, 0

    def __call__(self, sample: Sample, target: TargetRDF, basis: PairSplines) -> Tensor:
        """The next values (R, I) in eV."""
        method = self.methods[self._next]
        self._next = (self._next + 1) % len(self.methods)
        return method(sample, target, basis)
