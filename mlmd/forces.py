"""Forces and stress from an energy: the only place that differentiates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from mlmd.neighbors.pairs import Pairs
from mlmd.system import System


class Potential(Protocol):
    """An energy function. ``cutoff`` is the range of the pairs it wants; 0 means that it wants none."""

    cutoff: float

    def __call__(self, system: System, pairs: Pairs | None) -> Tensor:
        """Energy of every system, (S,), in eV."""
        ...


@dataclass(frozen=True, eq=False)
class Evaluation:
    """energy (S,) in eV, forces (N, 3) in eV/A, stress (S, 3, 3) in eV/A^3 or None."""

    energy: Tensor
    forces: Tensor
    stress: Tensor | None = None


def energy_forces(potential: Potential, system: System, pairs: Pairs | None = None, *, stress: bool = False) -> Evaluation:
    r"""Energy and :math:`F=-\partial E/\partial x`, and on request :math:`\sigma=\frac1V\,\partial E/\partial\epsilon`.

    The graph is kept exactly if gradients are enabled: learning runs with them, simulation under ``torch.no_grad()``.
    Inside ``torch.compile`` the gradient is taken by ``torch.func``, which alone survives a second differentiation there;
    outside by ``torch.autograd``, which is twice as fast.

    A potential that knows its forces in closed form may offer ``analytic(system, pairs) -> (energy, forces)``; it is used
    when no graph is wanted.

    Raises:
        ValueError: if the stress of a system without a volume is asked for.
    """
    keep = torch.is_grad_enabled()
    if not keep and not stress and hasattr(potential, "analytic"):
        return Evaluation(*potential.analytic(system, pairs))
    if stress:
        return _with_stress(potential, system, pairs, keep)

    def total(x: Tensor) -> tuple[Tensor, Tensor]:
        energy = potential(replace(system, positions=x), pairs)
        return energy.sum(), energy

    if torch.compiler.is_compiling():
        grad, (_, energy) = torch.func.grad_and_value(total, has_aux=True)(system.positions)
        return Evaluation(energy, -grad)
    with torch.enable_grad():
        x = system.positions
        x = x if x.requires_grad and keep else x.detach().requires_grad_()
        summed, energy = total(x)
        (grad,) = _gradients(summed, (x,), keep)
    return Evaluation(energy, -grad) if keep else Evaluation(energy.detach(), -grad)


def _gradients(summed: Tensor, inputs: tuple[Tensor, ...], keep: bool) -> tuple[Tensor, ...]:
    """Derivatives of an energy; zero with respect to what it does not depend on."""
    if not summed.requires_grad:
        return tuple(torch.zeros_like(x) for x in inputs)
    return torch.autograd.grad(summed, inputs, create_graph=keep, materialize_grads=True)


def _with_stress(potential: Potential, system: System, pairs: Pairs | None, keep: bool) -> Evaluation:
    """Strain positions and cell together: x -> x (1 + eps), a -> a (1 + eps), eps symmetric."""
    volume = torch.linalg.det(system.cell).abs()[:, None, None]
    if bool((volume <= 0).any()):
        raise ValueError("stress=True needs a cell with a volume for every system: an open system has no stress")
    with torch.enable_grad():
        x0 = system.positions
        x0 = x0 if x0.requires_grad and keep else x0.detach().requires_grad_()
        strain = torch.zeros_like(system.cell).requires_grad_()
        sym = 0.5 * (strain + strain.transpose(-1, -2))
        x = x0 + torch.einsum("ni,nij->nj", x0, sym[system.batch])
        cell = system.cell + system.cell @ sym
        energy = potential(replace(system, positions=x, cell=cell), pairs)
        grad, virial = _gradients(energy.sum(), (x0, strain), keep)
    out = Evaluation(energy, -grad, virial / volume)
    return out if keep else Evaluation(out.energy.detach(), out.forces.detach(), out.stress.detach())  # type: ignore[union-attr]
