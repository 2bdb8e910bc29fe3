"""Differentiable trajectory reweighting: learn a potential from averages it shall have, without a graph through the dynamics."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mlmd import units
from mlmd.cg.replicas import PersistentReplicas
from mlmd.cg.reweighting import boltzmann_weights, effective_share, reweighted_mean, worn_out
from mlmd.errors import Diverging, Unstable
from mlmd.forces import energy_forces
from mlmd.learn import Average, Checkpoint, Loop, fit
from mlmd.md import Langevin, half_step_kT, rest, thermal_velocities
from mlmd.neighbors import neighbors
from mlmd.system import System

Evaluate = Callable[[Tensor], Tensor]


class Observable(Protocol):
    """What is measured on snapshots whatever the potential: :class:`SmoothRDF`, :class:`SmoothADF`, or any function."""

    def __call__(self, system: System) -> Tensor:
        """(S, B) values of S snapshots; no graph is needed."""
        ...


@dataclass(frozen=True, eq=False)
class Target:
    r"""An average that is wanted: its part of the loss is :math:`\gamma\,\frac1B\sum_b(\langle O_b\rangle-O_b^*)^2`.

    name: in the logs. observable: of a snapshot. value: O*, (B,). weight: gamma, in the inverse square of the unit of O.
    """

    name: str
    observable: Observable
    value: Tensor
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.value.ndim != 1 or not bool(torch.isfinite(self.value).all()):
            raise ValueError(f"value of {self.name} has shape {tuple(self.value.shape)}: expected (B,) finite numbers")
        if not self.weight > 0:
            raise ValueError(f"weight={self.weight} of {self.name}: must be positive; leave the target out instead")


@dataclass(frozen=True)
class PressureTarget:
    """A virial pressure that is wanted: value in eV/A^3; weight gamma in (eV/A^3)^-2.

    The pressure of a snapshot depends on the potential, so its own derivative is part of the gradient.
    """

    value: float
    weight: float

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"weight={self.weight}: must be positive; leave the target out instead")


def difftre(
    model: nn.Module,
    system: System,
    targets: Sequence[Target],
    *,
    kT: float,
    dt: float,
    friction: float,
    pressure: PressureTarget | None = None,
    updates: int = 300,
    replicas: int = 1,
    steps: int = 30_000,
    stride: int = 50,
    equilibration: int = 5000,
    least: float = 0.9,
    chunk: int = 10,
    learning_rate: float = 3e-3,
    betas: tuple[float, float] = (0.1, 0.4),
    final_rate: float = 0.01,
    average: float = 0.0,
    tolerance: float = 0.0,
    engine: Callable[[nn.Module], nn.Module] = lambda model: model,
    seed: int = 0,
    every: int = 1,
    checkpoint: str | None = None,
    checkpoint_every: int | None = None,
    callbacks: Sequence[Any] = (),
) -> Iterator[dict[str, float]]:
    r"""Descend the deviation of averages from their targets (Thaler and Zavadlav, Nat. Commun. 12, 6884 (2021)):

    .. math:: L(\theta)=\sum_k\gamma_k\frac1{B_k}\sum_b\left(\langle O_{kb}\rangle_\theta-O^*_{kb}\right)^2,\qquad
        \langle O\rangle_\theta=\sum_iw_iO(x_i),\quad w\propto e^{-(U_\theta-U_{ref})/kT}

    The gradient runs through the energies of stored snapshots alone. These serve as long as their effective share is at least
    ``least`` (:func:`mlmd.cg.reweighting.effective_share`); then all replicas run on with the present potential. Constant volume.

    Args:
        model: the whole potential, of any kind; parameters that shall stay (priors) have ``requires_grad=False``.
        system: one periodic box to start from. targets, pressure: what is wanted, see :class:`Target`, :class:`PressureTarget`.
        kT: eV. dt, friction: of Langevin dynamics, fs and 1/fs.
        replicas: boxes that run side by side. steps: of each per sample; stride: between snapshots; equilibration: steps before.
        chunk: snapshots that are evaluated, and differentiated, at a time: bounds memory.
        learning_rate, betas: of Adam; the rate falls exponentially to ``final_rate`` of it. average: decay of the mean of the
            parameters that remains in the end (:class:`mlmd.learn.Average`); 0: the last parameters.
        tolerance: ends the fit after the first update whose loss, on a fresh sample, was below.
        engine: makes of the model, before every sample, what is simulated: :func:`mlmd.potentials.accelerated.accelerated` or
            :class:`mlmd.nn.tabulated.TabulatedSchNet` for instance. Energies for the weights are those of the model itself.
        checkpoint, checkpoint_every: folder from which an interrupted run continues, written every so many updates (default: every
            3 seconds).

    Yields:
        every ``every`` updates ``{"step", each target's part of the loss, "effective share", "resampled": 1 or 0, "temperature"}``
        (K, of all boxes at the end of the sample), and with a pressure target "pressure" (its part of the loss) and "mean pressure" (eV/A^3), all before that update.

    Raises:
        ValueError: more than one system, no target, counts below one, or a run too short for a snapshot.
        Diverging: when the box explodes; the model has the parameters of the last sample that was whole, which ``last_good`` holds.
    """
    check_difftre(system, targets, pressure, updates, replicas, steps, stride, equilibration, chunk)
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
    ensemble = _Ensemble(model, system, sampler, targets, pressure, kT, least, chunk, engine)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=learning_rate, betas=betas)
    mean = Average(average)
    extra: list[Any] = [mean] if average else []
    extra += [_Converged(ensemble, tolerance), *callbacks]
    if checkpoint:
        extra.append(Checkpoint(checkpoint, every=checkpoint_every, companions=(mean, ensemble)))
    loop = fit(
        model,
        lambda _, step: ensemble.loss(),
        lambda step: step,
        steps=updates,
        optimizer=optimizer,
        schedule=lambda step: final_rate ** (step / updates),
        callbacks=extra,
        every=every,
    )
    try:
        for log in loop:
            yield {**log, **ensemble.seen}
    except Unstable as error:
        if ensemble.good is not None:
            model.load_state_dict(ensemble.good)
        raise Diverging(
            f"the box exploded ({error.reason}): lower learning_rate, add a repulsive prior, or start from a better potential",
            ensemble.good,
        ) from error


class _Ensemble:
    """Stored snapshots, what was measured on them, and their energies with the potential that made them."""

    def __init__(
        self,
        model: nn.Module,
        template: System,
        sampler: PersistentReplicas,
        targets: Sequence[Target],
        pressure: PressureTarget | None,
        kT: float,
        least: float,
        chunk: int,
        engine: Callable[[nn.Module], nn.Module],
    ):
        self.model, self.template, self.sampler, self.targets, self.pressure = model, template, sampler, targets, pressure
        self.kT, self.least, self.chunk, self.engine = float(kT), least, chunk, engine
        self.volume = float(torch.linalg.det(template.cell[0].double()).abs())
        self.chunks: tuple[Tensor, ...] = ()
        self.measured: list[Tensor] = []
        self.reference: Tensor | None = None
        self.good: dict[str, Tensor] | None = None
        self.fresh, self.temperature = False, float("nan")
        self.seen: dict[str, float] = {}

    def loss(self) -> dict[str, Tensor]:
        """The parts of the loss with a graph to the parameters, from a new sample where the old one is worn out."""
        columns, weights = self._weighted()
        parts = {}
        for target, values in zip(self.targets, self.measured, strict=True):
            difference = reweighted_mean(values, weights) - target.value.to(weights)
            parts[target.name] = target.weight * difference.square().mean()
        share = effective_share(weights)
        self.seen = {"effective share": share, "resampled": float(self.fresh), "temperature": self.temperature}
        if self.pressure is not None:
            mean = reweighted_mean(columns[:, 1], weights)
            parts["pressure"] = self.pressure.weight * (mean - self.pressure.value).square()
            self.seen["mean pressure"] = float(mean.detach())
        return parts

    def _weighted(self) -> tuple[Tensor, Tensor]:
        """Columns (n, 1 or 2) of energies and pressures, and weights (n,)."""
        self.fresh = self.reference is None
        if self.reference is not None:
            columns = self._columns()
            weights = boltzmann_weights(columns[:, 0], self.reference, self.kT)
            self.fresh = worn_out(weights, self.least)
            if not self.fresh:
                return columns, weights
        self.sampler.potential = self.engine(self.model)  # type: ignore[assignment]
        positions = self.sampler.advance()
        self.good = copy.deepcopy(self.model.state_dict())
        self.temperature = float(half_step_kT(self.sampler.state).mean()) / units.kelvin
        self._measure(positions)
        columns = self._columns()
        self.reference = columns[:, 0].detach()
        return columns, boltzmann_weights(columns[:, 0], self.reference, self.kT)

    def _measure(self, positions: Tensor) -> None:
        self.chunks = positions.split(self.chunk)
        self.measured = [torch.cat([t.observable(self.template.at(x)) for x in self.chunks]).double() for t in self.targets]
        for t, values in zip(self.targets, self.measured, strict=True):
            if values.shape[1:] != t.value.shape:
                raise ValueError(
                    f"value of {t.name} has shape {tuple(t.value.shape)}, its observable gives {tuple(values.shape[1:])}"
                )

    def _columns(self) -> Tensor:
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        return _InChunks.apply(self._evaluate, self.chunks, *parameters)  # type: ignore[no-untyped-call]

    def _evaluate(self, positions: Tensor) -> Tensor:
        r"""Energy, and if wanted pressure :math:`NkT/V-\frac13\mathrm{tr}\,\sigma`, of snapshots (K, N, 3): (K, 1 or 2), double."""
        system = self.template.at(positions)
        cutoff = float(self.model.cutoff)  # type: ignore[arg-type]
        pairs = neighbors(system, cutoff) if cutoff > 0 else None
        if self.pressure is None:
            return self.model(system, pairs).double()[:, None]
        out = energy_forces(self.model, system, pairs, stress=True)  # type: ignore[arg-type]
        stress = out.stress
        assert stress is not None
        ideal = len(self.template) * self.kT / self.volume
        return torch.stack([out.energy.double(), ideal - stress.diagonal(dim1=-2, dim2=-1).sum(-1).double() / 3], 1)

    def state_dict(self) -> dict[str, Any]:
        return {"sampler": self.sampler.state_dict(), "reference": self.reference, "temperature": self.temperature}

    def load_state_dict(self, stored: dict[str, Any]) -> None:
        self.sampler.load_state_dict(stored["sampler"])
        self.reference, self.temperature = stored["reference"], stored["temperature"]
        self._measure(torch.cat(self.sampler.snapshots))


class _InChunks(torch.autograd.Function):
    """A function of snapshots and parameters, chunk by chunk; the graph of a chunk is made in the backward pass and freed at once."""

    @staticmethod
    def forward(ctx: Any, evaluate: Evaluate, chunks: tuple[Tensor, ...], *parameters: Tensor) -> Tensor:
        ctx.evaluate, ctx.chunks, ctx.parameters = evaluate, chunks, parameters
        return torch.cat([evaluate(x) for x in chunks])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        total = [torch.zeros_like(p) for p in ctx.parameters]
        for x, given in zip(ctx.chunks, grads[0].split([len(x) for x in ctx.chunks]), strict=True):
            with torch.enable_grad():
                out = ctx.evaluate(x)
            for sum_, g in zip(total, torch.autograd.grad(out, ctx.parameters, given, allow_unused=True), strict=True):
                if g is not None:
                    sum_ += g
        return None, None, *total


class _Converged:
    """Stops the fit after an update whose loss on a fresh sample was below the tolerance."""

    def __init__(self, ensemble: _Ensemble, tolerance: float):
        self.ensemble, self.tolerance = ensemble, tolerance

    def after_update(self, loop: Loop) -> None:
        total = sum(value for name, value in loop.log.items() if name != "step")
        loop.stop = loop.stop or (self.ensemble.fresh and total < self.tolerance)


def check_difftre(
    system: System,
    targets: Sequence[Target],
    pressure: PressureTarget | None,
    updates: int,
    replicas: int,
    steps: int,
    stride: int,
    equilibration: int,
    chunk: int,
) -> None:
    """Refuse what no sample can be made of; ``ValueError``."""
    if system.n_systems != 1 or not bool(system.pbc.all()):
        raise ValueError(
            f"system holds {system.n_systems} systems, periodic: {system.periodic}: give one box periodic in all directions"
        )
    names = [t.name for t in targets] + (["pressure"] if pressure is not None else [])
    if not names or len(set(names)) < len(names):
        raise ValueError(f"targets are named {names}: give at least one, with names of their own")
    if min(updates, replicas, stride, chunk) < 1 or equilibration < 0 or steps < stride:
        raise ValueError(
            f"updates={updates}, replicas={replicas}, steps={steps}, stride={stride}, equilibration={equilibration}, chunk={chunk}: "
            "must be at least 1 (equilibration 0), and steps at least one stride"
        )
