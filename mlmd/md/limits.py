"""Limits that no healthy simulation passes, and who passed them: which system, atom, quantity, value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mlmd.cell import completed, minimum_image
from mlmd.md.state import State
from mlmd.segment import segment_sum
from mlmd.system import System
from mlmd.units import kelvin

RARE = 60.0  # -log of the chance per look that a system in equilibrium passes the fluctuation part of the temperature limit


@dataclass(frozen=True)
class Limits:
    r"""What counts as a runaway, besides numbers that are not finite; ``inf`` switches a limit off.

    Args:
        force: largest force on a particle, in eV/A.
        displacement: largest way of a particle in one time step, in A.
        temperature: kinetic temperature of a system in units of its target, for integrators that have one. Systems of few
            degrees of freedom f fluctuate, so the limit is ``temperature`` times :math:`1+2\sqrt{t/f}+2t/f`, which chi-square
            passes with a chance below :math:`e^{-t}`, t = 60 (Laurent and Massart 2000, lemma 1).
        bonds: pairs of particles within one system that must stay together, for every system of the batch.
        bond_length: where a bond counts as broken, in A.
    """

    force: float = 1e4
    displacement: float = 5.0
    temperature: float = 10.0
    bonds: Sequence[tuple[int, int]] = ()
    bond_length: float = 3.0

    def __post_init__(self) -> None:
        for name in ("force", "displacement", "temperature", "bond_length"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: a limit must be positive; give inf for none")


@dataclass(frozen=True)
class Violation:
    """The worst passed limit of one step, and all systems that passed one."""

    systems: list[int]
    quantity: str
    value: float
    unit: str
    limit: float
    atom: int

    def __str__(self) -> str:
        return f"{self.quantity} {self.value:.4g} {self.unit} at atom {self.atom} (limit {self.limit:.4g})"


@dataclass(frozen=True, eq=False)
class _Quantity:
    """values: one number per particle, bond or system; limit: what it may reach; system, atom: whose they are."""

    name: str
    unit: str
    values: Tensor
    limit: Tensor
    system: Tensor
    atom: Tensor


class Guard:
    """``Limits`` made ready for one batch of systems.

    Args:
        limits: the limits. system: the batch. kT: target temperature in eV, a number or (S,); None where there is none.

    Raises:
        ValueError: bonds that name particles which a system does not have.
    """

    def __init__(self, limits: Limits, system: System, kT: float | Tensor | None = None):
        like: dict[str, Any] = dict(dtype=system.positions.dtype, device=system.positions.device)
        self.force, self.displacement = torch.tensor(limits.force, **like), torch.tensor(limits.displacement, **like)
        self.bond_length = torch.tensor(limits.bond_length, **like)
        self.systems = torch.arange(system.n_systems, device=system.positions.device)
        counts = segment_sum(torch.ones_like(system.masses), system.batch, system.n_systems)
        self.first = (torch.cumsum(counts, 0) - counts).long()
        self.atoms = torch.arange(len(system), device=system.positions.device)
        self.bonds = _bonds(limits.bonds, counts.long(), self.first)
        self.free = torch.tensor(torch.inf, **like)
        self.hot: Tensor | None = None  # kT that no system may reach, (S,)
        if kT is not None:
            share = RARE / (3 * counts)
            self.hot = limits.temperature * torch.as_tensor(kT, **like) * (1 + 2 * share.sqrt() + 2 * share)
            self.hot_kinetic = 1.5 * counts * self.hot

    def healthy(self, before: State, after: State) -> bool:
        """Whether the step from ``before`` to ``after`` passed no limit; one read from the device."""
        if self.bonds is None and all(w <= 1.0 for w in _worst(self._bounds(before, after))):
            return True
        worst = _worst([_excess(q, after).max() for q in self._measured(before, after)])
        return all(w <= 1.0 for w in worst)  # false for NaN

    def violation(self, before: State, after: State) -> Violation | None:
        """The worst passed limit of that step, or None."""
        quantities = self._measured(before, after)
        excess = [_excess(q, after).nan_to_num(nan=torch.inf, posinf=torch.inf) for q in quantities]
        worst = _worst([e.max() for e in excess])
        if max(worst) <= 1.0:
            return None
        k = worst.index(max(worst))
        at, q = int(excess[k].argmax()), quantities[k]
        limit = q.limit if q.limit.ndim == 0 else q.limit[at]
        bad = torch.cat([other.system[e > 1.0] for other, e in zip(quantities, excess, strict=True)])
        scale = kelvin if q.unit == "K" else 1.0
        return Violation(bad.unique().tolist(), q.name, float(q.values[at]) / scale, q.unit, float(limit) / scale, int(q.atom[at]))

    def _bounds(self, before: State, after: State) -> list[Tensor]:
        """What no quantity exceeds, in units of its limit, from few operations: a length is at most sqrt(3) times its largest part."""
        out = [
            _largest(after.forces) * (3**0.5 / self.force),
            _largest(after.system.positions - before.system.positions) * (3**0.5 / self.displacement),
            _largest(after.energy) / self.free,
        ]
        if self.hot is not None:
            out.append((after.kinetic_energy / self.hot_kinetic).max())
        return out

    def _measured(self, before: State, after: State) -> list[_Quantity]:
        batch, force = after.system.batch, after.forces.norm(dim=-1)
        way = (after.system.positions - _carried(before.system, after.system)).norm(dim=-1)
        out = [
            _Quantity("force", "eV/A", force, self.force, batch, self.atoms),
            _Quantity("displacement per step", "A", way, self.displacement, batch, self.atoms),
            _Quantity("energy", "eV", after.energy.abs(), self.free, self.systems, self.first),
        ]
        if self.hot is not None:
            out.append(_Quantity("temperature", "K", after.kT, self.hot, self.systems, self.first))
        if self.bonds is not None:
            i, j = self.bonds
            out.append(_Quantity("bond length", "A", _lengths(after.system, i, j), self.bond_length, batch[i], i))
        return out


def _carried(before: System, after: System) -> Tensor:
    """Where a change of the cell alone takes the particles: far from the origin a barostat moves them a long way."""
    if after.cell is before.cell:
        return before.positions
    strain = torch.linalg.solve(completed(before.cell, before.pbc), completed(after.cell, after.pbc))
    return torch.einsum("ni,nij->nj", before.positions, strain[before.batch])


def _excess(q: _Quantity, state: State) -> Tensor:
    """Value in units of its limit, infinite or NaN where it is not finite and 0 for frozen systems."""
    share = q.values / q.limit
    return share if state.frozen is None else share.masked_fill(state.frozen[q.system], 0.0)


def _largest(x: Tensor) -> Tensor:
    """Largest absolute value, NaN if there is one."""
    return x.abs().max()


def _worst(largest: list[Tensor]) -> list[float]:
    return torch.stack(largest).tolist()


def _bonds(bonds: Sequence[tuple[int, int]], counts: Tensor, first: Tensor) -> Tensor | None:
    """(2, S B) particles of the bonds of all systems."""
    if not len(bonds):
        return None
    index = torch.as_tensor(bonds, dtype=torch.long, device=counts.device).T
    if index.ndim != 2 or len(index) != 2 or int(index.min()) < 0 or int(index.max()) >= int(counts.min()):
        raise ValueError(f"bonds={list(bonds)[:4]}...: give pairs of particles 0 to {int(counts.min()) - 1} of one system")
    return (index[:, None] + first[:, None]).reshape(2, -1)


def _lengths(system: System, i: Tensor, j: Tensor) -> Tensor:
    d = system.positions[j] - system.positions[i]
    if system.periodic:
        cell = completed(system.cell, system.pbc)[system.batch[i]]
        near = minimum_image(d[:, None], cell)[:, 0]
        d = torch.where(system.pbc[system.batch[i]].all(-1, keepdim=True), near, d)
    return d.norm(dim=-1)
