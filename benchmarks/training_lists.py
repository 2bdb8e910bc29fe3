"""Neighbour lists kept for training: what they save of a step of force matching, and what they take.

    python benchmarks/training_lists.py

CPU time on one thread of a whole step (batch, list, forces, gradient of their error, optimizer) and of its list.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from record import record

from mlmd import datasets
from mlmd.cg import mapping
from mlmd.cg.force_matching import batch_of
from mlmd.forces import energy_forces
from mlmd.frames import Frames
from mlmd.neighbors import KeptLists, Pairs, neighbors
from mlmd.nn.radial import GaussianBasis
from mlmd.nn.schnet import SchNet
from mlmd.system import System

FRAMES, REPEATS = 24, 7
Lists = Callable[[torch.Tensor, System], Pairs]


def cases() -> list[tuple[str, Frames, int, float, dict[str, Any]]]:
    """Name, frames, frames per batch, cutoff in A, and the network: the sizes that studies train."""
    ethane = datasets.load("ethane")
    liquid = mapping.sequence(ethane, 2).apply(ethane)[:FRAMES]
    molecule = datasets.load("alanine-dipeptide")[:400]
    small, large = dict(features=32, interactions=2), dict(features=64, interactions=3)
    return [
        ("alanine dipeptide, 22 atoms x 100", molecule, 100, 5.0, large),
        ("ethane, 250 beads x 4", liquid, 4, 7.0, small),
        ("ethane, 250 beads x 4", liquid, 4, 10.0, small),
        ("ethane, 250 beads x 4", liquid, 4, 10.0, large),
        ("ethane, 250 beads x 1", liquid, 1, 7.0, small),
    ]


def step(frames: Frames, batch: int, cutoff: float, network: dict[str, Any], lists: Lists) -> Callable[[], None]:
    """One step of force matching per call."""
    torch.manual_seed(0)
    assert frames.types is not None and frames.forces is not None
    model = SchNet(cutoff, n_types=int(frames.types.max()) + 1, radial=GaussianBasis(cutoff, 30), **network)
    optimizer, forces, generator = torch.optim.AdamW(model.parameters()), frames.forces.float(), torch.Generator().manual_seed(1)

    def run() -> None:
        index = torch.randperm(len(frames), generator=generator)[:batch]
        system = batch_of(frames, index)
        predicted = energy_forces(model, system, lists(index, system)).forces
        optimizer.zero_grad()
        (predicted - forces[index].reshape(-1, 3)).square().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return run


def listing(frames: Frames, batch: int, lists: Lists) -> Callable[[], object]:
    """The list of one batch, in the form that networks read."""
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randperm(len(frames), generator=generator)[:batch] for _ in range(16)]
    systems, turn = [batch_of(frames, index) for index in batches], iter(range(10**9))

    def run() -> object:
        k = next(turn) % 16
        return lists(batches[k], systems[k]).half.index

    return run


def milliseconds(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU time of a call, all in turns."""
    times: dict[str, list[float]] = {k: [] for k in works}
    for work in works.values():
        work()
    for _ in range(repeats):
        for name, work in works.items():
            calls = 20 if name.startswith("list") else 3
            began = time.process_time()
            for _ in range(calls):
                work()
            times[name].append(1e3 * (time.process_time() - began) / calls)
    return {k: statistics.median(t) for k, t in times.items()}


def line(name: str, frames: Frames, batch: int, cutoff: float, network: dict[str, Any]) -> dict[str, Any]:
    """One line of the table."""

    def anew(index: torch.Tensor, system: System) -> Pairs:
        return neighbors(system, cutoff)

    kept = KeptLists(cutoff)
    for index in torch.arange(len(frames)).split(batch):
        kept(index, batch_of(frames, index))
    took = milliseconds(
        {
            "list anew": listing(frames, batch, anew),
            "list kept": listing(frames, batch, kept),
            "step anew": step(frames, batch, cutoff, network, anew),
            "step kept": step(frames, batch, cutoff, network, kept),
        },
        REPEATS,
    )
    return {
        "frames": name,
        "cutoff, A": cutoff,
        "SchNet": f"{network['features']} x {network['interactions']}",
        **{f"{k}, ms": v for k, v in took.items()},
        "saved": f"{100 * (took['list anew'] - took['list kept']) / took['step anew']:.1f} %",
        "kB/frame": kept.bytes / len(kept) / 1e3,
    }


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for case in cases():
        rows.append(line(*case))
        print(rows[-1], flush=True)
    notes = (
        f"One thread, float32, medians of {REPEATS} by CPU time, in turns. `saved`: difference of the lists over the step with lists made anew; "
        "the difference of the steps themselves drowns in their scatter. kB/frame: of the kept list. Where lists are searched by compiled "
        "cells they are a small part of a step, and so is what keeping them saves; without numba a list takes several times longer."
    )
    record("training_lists", rows, "python benchmarks/training_lists.py", notes)


if __name__ == "__main__":
    main()
