"""Replica exchange as an integrator, so that whatever runs an integrator runs a ladder of temperatures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mlmd.md.exchange import swapped
from mlmd.md.integrators import Force, Integrator, Noise
from mlmd.md.state import State


@dataclass(frozen=True, eq=False)
class Tempering:
    """An integrator whose systems are ladders of temperatures that try to swap neighbours before each ``every``-th step.

    Every rung samples the canonical ensemble of its temperature, as by :func:`mlmd.md.exchange`; barriers are crossed at the
    higher ones. What is lost is the meaning of time. Positions change places: simulate with ``Limits(displacement=inf)``.

    integrator: canonical, with one temperature ``kT`` (L n,) per system, rung by rung, ladder after ladder. ladders: their number L.
    every: steps between two attempts.

    Raises:
        ValueError: every below 1, or temperatures that do not make that many ladders of two rungs or more.
    """

    integrator: Integrator
    ladders: int
    every: int

    def __post_init__(self) -> None:
        n = torch.as_tensor(self.kT).numel()
        if self.every < 1 or self.ladders < 1 or n % self.ladders or n // self.ladders < 2:
            raise ValueError(
                f"every={self.every}, ladders={self.ladders}, {n} temperatures: every must be at least 1, and each ladder needs "
                "two rungs or more; give the integrator one kT per system"
            )

    @property
    def dt(self) -> float | Tensor:
        """Time step in fs."""
        return self.integrator.dt

    @property
    def kT(self) -> Tensor:
        """Temperature of every rung, (L n,), eV."""
        return self.integrator.kT  # type: ignore[attr-defined]

    def init(self, state: State) -> State:
        """As the integrator."""
        return self.integrator.init(state)

    def noise(self, state: State, generator: torch.Generator | None) -> tuple[Noise, Tensor]:
        """That of the integrator, and (L, n - 1) uniform numbers for the swaps."""
        shape, device = (self.ladders, self.kT.numel() // self.ladders - 1), state.energy.device
        chance = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
        return self.integrator.noise(state, generator), chance

    def step(self, state: State, force: Force, noise: tuple[Noise, Tensor]) -> State:
        """The swaps, if they are due, and one step of the integrator."""
        inner, chance = noise
        if state.step % self.every == 0:
            beta = 1 / self.kT.to(chance).reshape(self.ladders, -1)
            state, _, _ = swapped(state, beta, state.step // self.every, chance)
        return self.integrator.step(state, force, inner)
