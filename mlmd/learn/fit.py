"""The training loop: a generator that a notebook cell, a widget and a test drive alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Log = dict[str, float]
Loss = Callable[[nn.Module, Any], dict[str, Tensor]]


@dataclass
class Loop:
    """What callbacks may look at and change: model, optimizer, step, the last log and all logs so far."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    log: Log = field(default_factory=dict)
    history: list[Log] = field(default_factory=list)
    stop: bool = False


class Callback(Protocol):
    """Any of these methods may be missing."""

    def begin(self, loop: Loop) -> None:
        """Once, before the first step."""

    def before_update(self, loop: Loop) -> None:
        """Gradients are there, parameters not changed yet."""

    def after_update(self, loop: Loop) -> None:
        """After every step, when ``loop.step`` and ``loop.log`` are those of the step."""

    def interrupted(self, loop: Loop) -> None:
        """The driver stopped between two steps."""

    def end(self, loop: Loop) -> None:
        """Once, whatever ended the loop."""


class Stateful(Protocol):
    """A callback or batch source whose memory belongs into a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers, nested in dicts and lists."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what ``state_dict`` returned."""


def fit(
    model: nn.Module,
    loss: Loss,
    batches: Callable[[int], Any],
    *,
    steps: int,
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[int], float] = lambda step: 1.0,
    callbacks: Sequence[Any] = (),
    every: int = 1,
) -> Iterator[Log]:
    """Minimise the sum of the entries of ``loss(model, batches(step))`` and yield a log every ``every`` steps.

    Batches and learning rates are functions of the step alone, so a run that was interrupted continues bit for bit from a
    checkpoint that holds the model, the optimizer and the step.

    Args:
        loss: ``(model, batch) -> {name: scalar}``.
        batches: step -> batch.
        optimizer: its initial learning rates are multiplied by ``schedule(step)``.
        callbacks: objects with any of ``begin``, ``before_update``, ``after_update``, ``interrupted``, ``end``, each taking the :class:`Loop`.

    Raises:
        FloatingPointError: when the loss stops being finite; parameters are those of the step before.
    """
    loop = Loop(model, optimizer)
    rates = [group["lr"] for group in optimizer.param_groups]
    _call(callbacks, "begin", loop)
    try:
        while loop.step < steps and not loop.stop:
            for group, rate in zip(optimizer.param_groups, rates):
                group["lr"] = rate * schedule(loop.step)
            parts = loss(model, batches(loop.step))
            total = torch.stack([v.reshape(()) for v in parts.values()]).sum()
            if not bool(torch.isfinite(total)):
                raise FloatingPointError(f"loss is not finite at step {loop.step}: lower the learning rate or check the data")
            optimizer.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
            _call(callbacks, "before_update", loop)
            optimizer.step()
            loop.step += 1
            loop.log = {"step": float(loop.step), **{k: v.detach().item() for k, v in parts.items()}}
            loop.history.append(loop.log)
            _call(callbacks, "after_update", loop)
            if loop.step % every == 0 or loop.step == steps or loop.stop:
                yield loop.log
    except GeneratorExit:  # whoever drives the loop stopped between two steps: the state is whole and worth keeping
        _call(callbacks, "interrupted", loop)
        raise
    finally:
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate
        _call(callbacks, "end", loop)


def _call(callbacks: Sequence[Any], name: str, loop: Loop) -> None:
    for callback in callbacks:
        if hasattr(callback, name):
            getattr(callback, name)(loop)


def cosine(steps: int, *, final: float = 0.0) -> Callable[[int], float]:
    """Learning-rate factor 1 -> ``final`` along half a cosine."""
    return lambda step: final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(step, steps) / steps))


def minibatch(n: int, size: int, seed: int) -> Callable[[int], Tensor]:
    """Indices of the batch of a given step: every epoch is a fresh permutation that depends on (seed, epoch) alone.

    Raises:
        ValueError: without data.
    """
    if n < 1:
        raise ValueError("n=0: there are no frames to learn from")
    size = min(size, n)
    per_epoch = max(1, n // size)
    memory: dict[int, Tensor] = {}

    def indices(step: int) -> Tensor:
        epoch, k = divmod(step, per_epoch)
        if epoch not in memory:
            memory.clear()
            generator = torch.Generator().manual_seed((seed << 20) + epoch)
            memory[epoch] = torch.randperm(n, generator=generator)
        return memory[epoch][k * size : (k + 1) * size]

    return indices
