"""Potentials made of potentials: sums, scaled and shifted ones, frozen copies, ensembles.

A potential adds nothing for a pair beyond its own ``cutoff``, so that every member of a sum may be given the same list: a list
made for the largest cutoff plus a skin serves all.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mlmd.forces import energy_forces
from mlmd.neighbors.pairs import Pairs
from mlmd.segment import segment_sum
from mlmd.store import configurable
from mlmd.system import System


class Potential(nn.Module):
    """Base of the potentials here; what it adds to ``nn.Module`` is ``a + b``, ``2.0 * a`` and a parameter count."""

    cutoff: float = 0.0

    def forward(self, system: System, pairs: Pairs | None) -> Tensor:
        """Energy of every system, (S,), in eV."""
        raise NotImplementedError

    @property
    def n_parameters(self) -> int:
        """Number of trainable numbers."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def __add__(self, other: nn.Module) -> Sum:
        return Sum(self, other)

    def __radd__(self, other: object) -> Potential:
        if other == 0:  # so that the builtin sum() works
            return self
        if isinstance(other, nn.Module):
            return Sum(other, self)
        return NotImplemented

    def __mul__(self, factor: float) -> Scaled:
        return Scaled(self, factor)

    __rmul__ = __mul__


def need_pairs(pairs: Pairs | None, who: nn.Module) -> Pairs:
    """The list, or a ``ValueError`` that says who wanted it."""
    if pairs is None:
        raise ValueError(f"{type(who).__name__} needs pairs: give mlmd.neighbors.neighbors(system, cutoff)")
    return pairs


def in_closed_form(potential: Any, system: System, pairs: Pairs | None) -> tuple[Tensor, Tensor]:
    """Energy (S,) and forces (N, 3) without a graph: by the potential's own ``analytic`` where it has one, else by autograd."""
    with torch.no_grad():
        out = energy_forces(potential, system, pairs)
    return out.energy, out.forces


@configurable
class Sum(Potential):
    r"""The sum of its members, :math:`E=\sum_m E_m`; nested sums are flattened.

    All members get the same list and each ignores what lies beyond its own cutoff; ``cutoff`` is the largest of theirs.
    """

    members: nn.ModuleList

    def __init__(self, *members: nn.Module):
        super().__init__()
        if not members:
            raise ValueError("Sum needs at least one potential")
        flat: list[nn.Module] = []
        for m in members:
            flat.extend(m.members if isinstance(m, Sum) else [m])
        self.members = nn.ModuleList(flat)
        self.cutoff = max(float(m.cutoff) for m in flat)  # type: ignore[arg-type]

    def forward(self, system: System, pairs: Pairs | None) -> Tensor:
        """Energy of every system, (S,), in eV."""
        return _total(self.members, system, pairs)

    def analytic(self, system: System, pairs: Pairs | None) -> tuple[Tensor, Tensor]:
        """Energy and forces: closed forms where members have them, one common backward pass for the others."""
        closed = [m for m in self.members if hasattr(m, "analytic")]
        others = [m for m in self.members if not hasattr(m, "analytic")]
        parts = [m.analytic(system, pairs) for m in closed]  # type: ignore[operator]
        if others:
            parts.append(in_closed_form(lambda s, p: _total(others, s, p), system, pairs))
        energy, forces = parts[0]
        for e, f in parts[1:]:
            energy, forces = energy + e, forces + f
        return energy, forces


def _total(members: Sequence[nn.Module] | nn.ModuleList, system: System, pairs: Pairs | None) -> Tensor:
    energy = members[0](system, pairs)
    for m in members[1:]:
        energy = energy + m(system, pairs)
    return energy


@configurable
class Scaled(Potential):
    """``factor`` times another potential: a coupling parameter, or a change of units."""

    def __init__(self, potential: nn.Module, factor: float):
        super().__init__()
        self.potential, self.factor = potential, float(factor)
        self.cutoff = float(potential.cutoff)  # type: ignore[arg-type]

    def forward(self, system: System, pairs: Pairs | None) -> Tensor:
        """Energy of every system, (S,), in eV."""
        return self.factor * self.potential(system, pairs)

    def analytic(self, system: System, pairs: Pairs | None) -> tuple[Tensor, Tensor]:
        """Energy (S,) and forces (N, 3)."""
        energy, forces = in_closed_form(self.potential, system, pairs)
        return self.factor * energy, self.factor * forces


@configurable
class Shifted(Potential):
    r"""Another potential plus a constant: :math:`E+\sum_i e_{z_i}`, for instance the energies of isolated atoms.

    Args:
        potential: what is shifted.
        per_type: (T,) energy in eV of one particle of every type.
    """

    per_type: Tensor

    def __init__(self, potential: nn.Module, per_type: Sequence[float] | Tensor):
        super().__init__()
        self.potential = potential
        self.register_buffer("per_type", torch.as_tensor(per_type, dtype=torch.float64).reshape(-1))
        self.cutoff = float(potential.cutoff)  # type: ignore[arg-type]

    def _constant(self, system: System) -> Tensor:
        e = self.per_type.to(system.positions.dtype)[system.types]
        return segment_sum(e, system.batch, system.n_systems)

    def forward(self, system: System, pairs: Pairs | None) -> Tensor:
        """Energy of every system, (S,), in eV."""
        return self.potential(system, pairs) + self._constant(system)

    def analytic(self, system: System, pairs: Pairs | None) -> tuple[Tensor, Tensor]:
        """Energy (S,) and forces (N, 3)."""
        energy, forces = in_closed_form(self.potential, system, pairs)
        return energy + self._constant(system), forces


@configurable
class Frozen(Potential):
    """A copy of a potential as it is now, without parameter gradients: later training of the original does not reach it."""

    def __init__(self, potential: nn.Module):
        super().__init__()
        self.potential = copy.deepcopy(potential).requires_grad_(False)
        self.cutoff = float(potential.cutoff)  # type: ignore[arg-type]

    def forward(self, system: System, pairs: Pairs | None) -> Tensor:
        """Energy of every system, (S,), in eV."""
        return self.potential(system, pairs)

    def analytic(self, system: System, pairs: Pairs | None) -> tuple[Tensor, Tensor]:
        """Energy (S,) and forces (N, 3)."""
        return in_closed_form(self.potential, system, pairs)


@configurable
class Ensemble(Potential):
    r"""The mean of M potentials, :math:`E=\frac1M\sum_m E_m`; their spread says how far to trust it."""

    def __init__(self, *members: nn.Module):
        super().__init__()
        if not members:
            raise ValueError("Ensemble needs at least one potential")
        self.members = nn.ModuleList(members)
        self.cutoff = max(float(m.cutoff) for m in members)  # type: ignore[arg-type]

    def energies(self, system: System, pairs: Pairs | None) -> Tensor:
        """Energy of every member, (M, S), in eV."""
        return torch.stack([m(system, pairs) for m in self.members])

    def forward(self, system: System, pairs: Pairs | None) -> Tensor:
        """Mean energy of every system, (S,), in eV."""
        return self.energies(system, pairs).mean(0)

    def analytic(self, system: System, pairs: Pairs | None) -> tuple[Tensor, Tensor]:
        """Mean energy (S,) and forces (N, 3)."""
        energy, forces = Sum(*self.members).analytic(system, pairs)
        return energy / len(self.members), forces / len(self.members)
