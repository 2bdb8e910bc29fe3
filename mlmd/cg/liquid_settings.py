"""``LiquidSettings``: everything a study of a liquid depends on besides its data, checked on construction."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mlmd.cg.settings import MapSettings, at_least, one_of, positive

POTENTIALS = ("splines", "schnet", "painn")
BONDED = ("harmonic", "splines")
METHODS = ("relative-entropy", "ibi", "imc", "force-matching", "none")


@dataclass(frozen=True)
class LiquidSettings(MapSettings):
    """Everything a :class:`mlmd.cg.liquid_study.LiquidStudy` depends on besides its data: a :class:`MapSettings`, and

    | field | meaning |
    |---|---|
    | potential | between molecules: "splines" of each pair of bead types, or a network, "schnet" or "painn", with splines that mend it |
    | bonded | terms within molecules: "harmonic" (bonds and angles, Fourier series of dihedrals, by Boltzmann inversion) or "splines", corrected together with the pairs |
    | method | what the splines are fitted by: "relative-entropy", "ibi" (iterative Boltzmann inversion), "imc" (inverse Monte Carlo), "force-matching", or "none": the first guess |
    | cutoff | of the splines, A; at most half the width of the box |
    | network_cutoff, width, depth, train_steps | of the network: range of a message in A, features, interactions, steps of force matching |
    | range | of the g(r) compared and fitted, A; cut to half the width of the box |
    | bin_width | of g(r) and between knots, A |
    | reach | bonds along which beads are compared before they share a type: 0 for the same atoms, None for the same place in the molecule |
    | hops | beads up to so many bonds apart do not feel the splines |
    | iterations | at most so many |
    | tolerance | of mean abs(g - g_ref), largest over the pairs of types, and of twice the missing overlap of bonded densities; with harmonic terms, or none, max abs(g - g_ref) may be twice that instead |
    | iteration_ps | length of the run of one iteration |
    | damping | factor on every correction |
    | pressure | bar, wanted of method "ibi"; None: whatever comes out |
    | simulate_ps, save_ps | production run in the box of the reference: length, time between frames |
    | repeats, large_ps | production run in a box so many times as long in every direction: 1 skips it; length |
    | friction | of the production runs in 1/ps; 0 takes that of the reference's thermostat where that is known, else 0.1 |
    | friction_rounds | rounds of fitting a friction to the diffusion of the atoms, at least 2; 0 skips it |
    """

    n_beads: int = 2
    potential: str = "splines"
    bonded: str = "harmonic"
    method: str = "relative-entropy"
    cutoff: float = 10.0
    network_cutoff: float = 7.0
    width: int = 32
    depth: int = 2
    train_steps: int = 5000
    range: float = 12.0
    bin_width: float = 0.1
    reach: int | None = 0
    hops: int = 3
    iterations: int = 12
    tolerance: float = 0.02
    iteration_ps: float = 20.0
    damping: float = 0.8
    pressure: float | None = None
    simulate_ps: float = 36.0
    save_ps: float = 0.08
    repeats: int = 2
    large_ps: float = 10.0
    friction: float = 0.0
    friction_rounds: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "potential", POTENTIALS)
        one_of(self, "bonded", BONDED)
        one_of(self, "method", METHODS)
        at_least(self, 1, "width", "depth", "hops", "iterations", "repeats")
        at_least(self, 0, "friction", "friction_rounds", "train_steps")
        positive(self, "cutoff", "network_cutoff", "range", "bin_width", "tolerance", "iteration_ps", "damping", "simulate_ps")
        positive(self, "save_ps", "large_ps")
        if self.range < self.cutoff:
            raise ValueError(
                f"range={self.range}, cutoff={self.cutoff}: g(r) is needed up to the cutoff, give range={self.cutoff:g}"
            )
        if self.damping > 2:
            raise ValueError(f"damping={self.damping}: a factor over 2 cannot converge, take 0.8 for instance")
        if self.pressure is not None and self.method != "ibi":
            raise ValueError(f"pressure={self.pressure} with method={self.method!r}: only method='ibi' can be asked for a pressure")
        if self.friction_rounds == 1:
            raise ValueError("friction_rounds=1: a line needs two points, take at least 2 rounds, or 0 for none")

    def fast(self) -> LiquidSettings:
        """The same study in well under a minute, for tests and a first look: every stage is real but short."""
        return replace(
            self,
            iterations=min(self.iterations, 2),
            iteration_ps=min(self.iteration_ps, 2.0),
            simulate_ps=min(self.simulate_ps, 6.0),
            save_ps=min(self.save_ps, 0.05),
            large_ps=min(self.large_ps, 0.8),
            train_steps=min(self.train_steps, 50),
            friction_rounds=min(self.friction_rounds, 2),
        )
