"""Differentiable trajectory reweighting by Gauss-Newton steps in place of gradient descent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mlmd import units
from mlmd.cg.difftre import PressureTarget, Target, check_difftre
from mlmd.cg.replicas import PersistentReplicas
from mlmd.errors import Diverging, Unstable
from mlmd.forces import energy_forces
from mlmd.md import Langevin, half_step_kT, rest, thermal_velocities
from mlmd.neighbors import neighbors
from mlmd.system import System


def difftre_newton(
    model: nn.Module,
    system: System,
    targets: Sequence[Target],
    *,
    kT: float,
    dt: float,
    friction: float,
    pressure: PressureTarget | None = None,
    samples: int = 20,
    replicas: int = 1,
    steps: int = 8000,
    stride: int = 40,
    equilibration: int = 800,
    width: float = 0.05,
    step: float = 0.7,
    memory: int = 4,
    tolerance: float = 0.0,
    engine: Callable[[nn.Module], nn.Module] = lambda model: model,
    seed: int = 0,
) -> Iterator[dict[str, float]]:
    r"""Minimise the loss of :func:`mlmd.cg.difftre.difftre`, a sum of squares :math:`|R|^2`, by the method of Levenberg and Marquardt:

    .. math:: \Delta\theta=-s\,(J^TJ+|R|^2/w^2)^{-1}J^TR,\qquad
        J_{bp}=\sqrt{\gamma/B}\;\partial_p\langle O_b\rangle=-\sqrt{\gamma/B}\;\beta\,\mathrm{cov}(O_b,\partial_pU)

    J is the derivative of the reweighted averages at the potential that made the snapshots (Thaler and Zavadlav, Nat. Commun. 12, 6884
    (2021)), and the mean of :math:`\partial_pP` is added to that of the pressure; with g(r) for O and a table for U this is inverse
    Monte Carlo. Splines are stiff for gradient descent, steep in what changes the pressure and flat in long waves; here every step
    makes a sample of its own, and few are needed. The damping lets parameters move by about w at a time, less where R hardly feels them,
    and fades as R does. J is averaged over the last ``memory`` samples, as its noise would be solved with.

    Args:
        model, system, targets, pressure, kT, dt, friction, replicas, steps, stride, equilibration, engine: as in ``difftre``; the
            derivatives of every snapshot are kept by themselves, snapshots times parameters numbers in double precision.
        samples: number of samples, each with the step that follows. step: s. memory: samples J is averaged over.
        width: w, in the unit of the parameters (eV for coefficients of energies).
        tolerance: ends after the first sample whose loss was below, with the potential that made it.

    Yields:
        after every sample ``{"step", each target's part of the loss, "temperature"}`` and with a pressure target "pressure" and "mean
        pressure" (eV/A^3): of the potential that the model holds then. The step follows when the next is asked for, none after the last.

    Raises:
        ValueError: as ``difftre``, and for a width, step or memory that is not positive.
        Diverging: when the box explodes; the model has the parameters of the best sample again.
    """
    check_difftre(system, targets, pressure, samples, replicas, steps, stride, equilibration, 1)
    if not (width > 0 and 0 < step <= 1 and memory >= 1):
        raise ValueError(f"width={width}, step={step}, memory={memory}: must be positive, and step at most 1")
    noise = torch.Generator(system.positions.device).manual_seed(seed)
    boxes = system.replicate(replicas)
    sampler = PersistentReplicas(
        model,  # type: ignore[arg-type]
        rest(boxes, thermal_velocities(boxes, kT, noise)),
        Langevin(dt, kT, friction),
        noise,
        rungs=1,
        steps=equilibration + steps,
        stride=stride,
        memory=steps // stride,
    )
    parameters = [p for p in model.parameters() if p.requires_grad]
    slopes, best = list[Tensor](), (float("inf"), _flat(parameters))
    for number in range(1, samples + 1):
        sampler.potential = engine(model)  # type: ignore[assignment]
        try:
            positions = sampler.advance()
        except Unstable as error:
            _set(parameters, best[1])
            raise Diverging(
                f"the box exploded ({error.reason}): take a smaller step, more damping, or start from a better potential", best[1]
            ) from error
        response = _response(model, system, positions, targets, pressure, kT)
        slopes = [*slopes, response.slope][-memory:]
        loss = float(response.residual.square().sum())
        best = min(best, (loss, _flat(parameters)), key=lambda pair: pair[0])
        yield {
            "step": float(number),
            **response.parts,
            "temperature": float(half_step_kT(sampler.state).mean()) / units.kelvin,
        }
        if loss < tolerance or number == samples:
            return
        change = levenberg_marquardt(torch.stack(slopes).mean(0), response.residual, width)
        _set(parameters, _flat(parameters) + step * change)


def levenberg_marquardt(slope: Tensor, residual: Tensor, width: float) -> Tensor:
    r"""(P,) the step :math:`-(J^TJ+|R|^2/w^2)^{-1}J^TR=-J^T(JJ^T+|R|^2/w^2)^{-1}R` for J (B, P) and R (B,), at most w/2 long.

    The smaller of the two matrices is the one that is solved with: networks have more parameters than there are observed numbers.
    """
    damping = residual.square().sum() / width**2
    observed, free = slope.shape
    if free <= observed:
        return -torch.linalg.solve(slope.T @ slope + damping * torch.eye(free).to(slope), slope.T @ residual)
    return -slope.T @ torch.linalg.solve(slope @ slope.T + damping * torch.eye(observed).to(slope), residual)


@dataclass(frozen=True, eq=False)
class _Response:
    """residual (B,): R, all targets in one; slope (B, P): J; parts: of the loss, and the mean pressure."""

    residual: Tensor
    slope: Tensor
    parts: dict[str, float]


def _response(
    model: nn.Module,
    template: System,
    positions: Tensor,
    targets: Sequence[Target],
    pressure: PressureTarget | None,
    kT: float,
) -> _Response:
    of_energy, p, of_p = _derivatives(model, template, positions, kT, pressure is not None)
    centred = (of_energy - of_energy.mean(0)) / len(positions)
    residuals, slopes, parts = [], [], dict[str, float]()
    for target in targets:
        values = torch.cat([target.observable(template.at(x)) for x in positions]).double().cpu()
        factor = (target.weight / values.shape[1]) ** 0.5
        residuals.append(factor * (values.mean(0) - target.value))
        slopes.append(-factor / kT * values.T @ centred)
        parts[target.name] = float(residuals[-1].square().sum())
    if pressure is not None:
        factor = pressure.weight**0.5
        residuals.append(factor * (p.mean()[None] - pressure.value))
        slopes.append(factor * (of_p.mean(0) - p @ centred / kT)[None])
        parts |= {"pressure": float(residuals[-1].square().sum()), "mean pressure": float(p.mean())}
    return _Response(torch.cat(residuals), torch.cat(slopes), parts)


def _derivatives(model: nn.Module, template: System, positions: Tensor, kT: float, stress: bool) -> tuple[Tensor, Tensor, Tensor]:
    """dU/dtheta (n, P) of every snapshot, its pressure (n,) and the derivatives (n, P) of that; empty without ``stress``."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    cutoff = float(model.cutoff)  # type: ignore[arg-type]
    volume = float(torch.linalg.det(template.cell[0].double()).abs())
    of_energy, pressures, of_pressure = [], [], []
    for x in positions:
        system = template.at(x)
        pairs = neighbors(system, cutoff) if cutoff > 0 else None
        if not stress:
            of_energy.append(_gradient(model(system, pairs).sum(), parameters, keep=False))
            continue
        out = energy_forces(model, system, pairs, stress=True)  # type: ignore[arg-type]
        assert out.stress is not None
        p = len(template) * kT / volume - out.stress[0].diagonal().sum() / 3
        of_energy.append(_gradient(out.energy.sum(), parameters, keep=True))
        of_pressure.append(_gradient(p, parameters, keep=False))
        pressures.append(p.detach().double().cpu())
    none = torch.zeros(0, dtype=torch.float64)
    return (
        torch.stack(of_energy),
        torch.stack(pressures) if stress else none,
        torch.stack(of_pressure) if stress else none,
    )


def _gradient(value: Tensor, parameters: list[nn.Parameter], keep: bool) -> Tensor:
    found = torch.autograd.grad(value, parameters, retain_graph=keep, allow_unused=True, materialize_grads=True)
    return torch.cat([g.reshape(-1).double().cpu() for g in found])


def _flat(parameters: list[nn.Parameter]) -> Tensor:
    return torch.cat([p.detach().reshape(-1).double().cpu() for p in parameters])


@torch.no_grad()
def _set(parameters: list[nn.Parameter], values: Tensor) -> None:
    for p, part in zip(parameters, values.split([p.numel() for p in parameters]), strict=True):
        p.copy_(part.reshape(p.shape))
