"""What may happen around a training step, in pieces of a few lines."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from mlmd.learn.checkpoint import load_latest, save_checkpoint
from mlmd.learn.fit import Loop


class ClipGradient:
    """Scale the gradient down to the given norm where it is longer."""

    def __init__(self, norm: float):
        self.norm = norm

    def before_update(self, loop: Loop) -> None:
        nn.utils.clip_grad_norm_(loop.model.parameters(), self.norm)


class Average:
    """Exponential moving average of the parameters, m <- d m + (1 - d) p; written into the model at the end.

    d = min(decay, (1 + step) / (4 + step)): at any time at most the last third of the steps so far, so that a short training does not
    remember its start.
    """

    def __init__(self, decay: float):
        self.decay = decay
        self.mean: dict[str, Tensor] = {}

    def begin(self, loop: Loop) -> None:
        if not self.mean:
            self.mean = {k: p.detach().clone() for k, p in loop.model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def after_update(self, loop: Loop) -> None:
        decay = min(self.decay, (1 + loop.step) / (4 + loop.step))
        for k, p in loop.model.named_parameters():
            if k in self.mean:
                self.mean[k].lerp_(p, 1 - decay)

    @torch.no_grad()
    def end(self, loop: Loop) -> None:
        for k, p in loop.model.named_parameters():
            if k in self.mean:
                p.copy_(self.mean[k])

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.mean)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.mean = dict(state)


class EarlyStop:
    """Stop when ``measure(model)``, taken every ``every`` steps, has not improved ``patience`` times; keep the best parameters."""

    def __init__(self, measure: Callable[[nn.Module], float], every: int, patience: int):
        self.measure, self.every, self.patience = measure, every, patience
        self.best, self.waited = float("inf"), 0
        self.parameters: dict[str, Tensor] = {}

    def after_update(self, loop: Loop) -> None:
        if loop.step % self.every:
            return
        value = self.measure(loop.model)
        loop.log["held-out"] = value
        if value < self.best:
            self.best, self.waited = value, 0
            self.parameters = {k: v.detach().clone() for k, v in loop.model.state_dict().items()}
        else:
            self.waited += 1
            loop.stop = self.waited >= self.patience

    def end(self, loop: Loop) -> None:
        if self.parameters:
            loop.model.load_state_dict(self.parameters)

    def state_dict(self) -> dict:
        return {"best": self.best, "waited": self.waited, "parameters": self.parameters}

    def load_state_dict(self, state: dict) -> None:
        self.best, self.waited, self.parameters = state["best"], state["waited"], state["parameters"]


class Checkpoint:
    """Write the whole state of training every ``seconds`` or ``every`` steps and when the loop is stopped, and continue from the newest intact one.

    Put it last in the list and give it the other callbacks that have a state (``Average``, ``EarlyStop``) as ``companions``.
    """

    def __init__(self, folder: str | Path, *, every: int | None = None, seconds: float = 3.0, companions: tuple = ()):
        self.folder, self.every, self.seconds, self.companions = Path(folder), every, seconds, companions
        self.written = time.monotonic()

    def begin(self, loop: Loop) -> None:
        state = load_latest(self.folder)
        if state is None:
            return
        loop.model.load_state_dict(state["model"])
        loop.optimizer.load_state_dict(state["optimizer"])
        loop.step, loop.history = state["step"], state["history"]
        for companion, stored in zip(self.companions, state["companions"], strict=True):
            companion.load_state_dict(stored)

    def after_update(self, loop: Loop) -> None:
        due = loop.step % self.every == 0 if self.every else time.monotonic() - self.written > self.seconds
        if due:
            self.write(loop)

    def interrupted(self, loop: Loop) -> None:
        self.write(loop)

    def write(self, loop: Loop) -> None:
        """Write now."""
        state = {
            "model": loop.model.state_dict(),
            "optimizer": loop.optimizer.state_dict(),
            "step": loop.step,
            "history": loop.history,
            "companions": [c.state_dict() for c in self.companions],
        }
        save_checkpoint(self.folder, loop.step, state)
        self.written = time.monotonic()
