"""Speed of SchNet and PaiNN on one thread: energy + forces, and training steps on forces, in structures per second of CPU time.

``pip install 'mlmd[benchmark]' && python benchmarks/nn_speed.py [--quick]``. Peers are measured where they can be imported; schnetpack
asks for Python 3.12, in an older one ``pip install --no-deps --ignore-requires-python schnetpack`` and what it imports works as well.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from record import record
from torch import Tensor, nn

from mlmd.datasets import load
from mlmd.forces import energy_forces
from mlmd.neighbors import Pairs, neighbors
from mlmd.nn.painn import PaiNN
from mlmd.nn.schnet import SchNet
from mlmd.nn.tabulated import TabulatedSchNet, force_error
from mlmd.nn.tabulated_painn import TabulatedPaiNN
from mlmd.system import System

CUTOFF = 5.0
PEERS = ("schnetpack", "torchmd-net")

# Structures/s (CPU time, one core of another machine of this kind, torch 2.13, SchNet 3 x 50 Gaussians; lists given except *):
# the best Python peer (schnetpack 2.2.0, torchmd-net 3.1*) and a plain SchNet in 40 lines of torch.
FLOOR = {
    ("SchNet-64", "22 atoms x 1"): (153, 350),
    ("SchNet-64", "22 atoms x 100"): (381, 392),
    ("SchNet-64", "1000 beads"): (7.9, 8.4),
    ("SchNet-128", "22 atoms x 1"): (147, 182),
    ("SchNet-128", "22 atoms x 100"): (199, 209),
    ("SchNet-128", "1000 beads"): (4.0, 3.7),
    ("PaiNN-128", "22 atoms x 1"): (44, None),
    ("PaiNN-128", "22 atoms x 100"): (42, None),
    ("PaiNN-128", "1000 beads"): (1.06, None),
    ("SchNet-64, training", "22 atoms x 100"): (69, 69),
    ("SchNet-128, training", "22 atoms x 100"): (34.1, 33.5),
}


class PlainSchNet(nn.Module):
    """SchNet as one writes it down: every directed pair has its filters, Gaussians may underflow; the yardstick of the same run."""

    def __init__(self, net: SchNet):
        super().__init__()
        self.net, self.cutoff = net, net.cutoff
        self.mu = torch.linspace(0.0, net.cutoff, 50)

    def forward(self, system: System, pairs: Pairs) -> Tensor:
        """Energy (S,)."""
        i, j = pairs.index
        net, h = self.net, self.net.embedding(system.types)
        r = (system.positions[j] - system.positions[i] + _shift(system, pairs)).norm(dim=-1)
        g, fc = torch.exp(-0.5 * ((r[:, None] - self.mu) / self.mu[1]) ** 2), net.envelope(r)[:, None]
        for filter, sender, update in zip(net.filters, net.senders, net.updates):
            h = h + update(torch.zeros_like(h).index_add(0, i, filter(g) * fc * sender(h)[j]))
        return torch.zeros(system.n_systems).index_add(0, system.batch, net.readout(h)[:, 0])


def _shift(system: System, pairs: Pairs) -> Tensor:
    if not system.periodic:
        return torch.zeros(3)
    return (pairs.shift.float()[:, None] @ system.cell[system.batch[pairs.index[0]]])[:, 0]


def alanine(copies: int) -> System:
    """Alanine dipeptide, 22 atoms: frames spread over the shipped trajectory."""
    frames = load("alanine-dipeptide")
    step = len(frames) // copies
    return frames[slice(0, copies * step, step)].system(slice(None)).to(torch.float32)


def liquid(n: int = 1000, density: float = 0.0334) -> System:
    """Beads on a shaken lattice at the number density of water."""
    side = round(n ** (1 / 3))
    edge = (n / density) ** (1 / 3)
    grid = torch.cartesian_prod(*[torch.arange(side) * (edge / side)] * 3)
    return System.single(grid + 0.4 * torch.randn(n, 3), cell=edge)


def cpu_times(works: dict[str, Callable[[], object]], budget: float, repeats: int = 5) -> dict[str, float]:
    """Median of ``repeats`` CPU times of one call of each, in seconds, averaged over the calls that fit in ``budget``; in turns."""
    calls, times = {}, {name: [] for name in works}
    for name, work in works.items():
        work()
        start = time.process_time()
        work()
        calls[name] = max(1, int(budget / max(time.process_time() - start, 1e-6)))
    for _ in range(repeats):
        for name, work in works.items():
            start = time.process_time()
            for _ in range(calls[name]):
                work()
            times[name].append((time.process_time() - start) / calls[name])
    return {name: statistics.median(t) for name, t in times.items()}


def evaluation(model: nn.Module, system: System, pairs: Pairs) -> Callable[[], object]:
    """Energy and forces as in molecular dynamics."""

    def work() -> object:
        with torch.no_grad():
            return energy_forces(model, system, pairs)  # type: ignore[arg-type]

    return work


def training(model: nn.Module, system: System, pairs: Pairs) -> Callable[[], object]:
    """One Adam step on the squared error of energies and forces."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)
    target = torch.randn_like(system.positions)

    def work() -> object:
        optimiser.zero_grad()
        out = energy_forces(model, system, pairs)  # type: ignore[arg-type]
        loss = (out.forces - target).square().mean() + 1e-3 * out.energy.square().mean()
        loss.backward()
        return optimiser.step()

    return work


def schnetpack_model(features: int) -> nn.Module | None:
    """SchNet of schnetpack behind our interface, if it can be imported."""
    if importlib.util.find_spec("schnetpack") is None:
        return None
    import schnetpack as spk

    class Peer(nn.Module):
        cutoff = CUTOFF

        def __init__(self) -> None:
            super().__init__()
            radial = spk.nn.GaussianRBF(n_rbf=50, cutoff=CUTOFF)
            self.net = spk.representation.SchNet(features, 3, radial, cutoff_fn=spk.nn.CosineCutoff(CUTOFF))
            self.out = nn.Sequential(nn.Linear(features, features // 2), nn.Softplus(), nn.Linear(features // 2, 1))

        def forward(self, system: System, pairs: Pairs) -> Tensor:
            i, j = pairs.index
            inputs = {"_atomic_numbers": system.types, "_Rij": pairs.vectors(system), "_idx_i": i, "_idx_j": j}
            h = self.net(inputs)["scalar_representation"]
            return torch.zeros(system.n_systems).index_add(0, system.batch, self.out(h)[:, 0])

    return Peer()


def torchmdnet_work(features: int, system: System) -> Callable[[], object] | None:
    """Energy and forces by the graph network of torchmd-net, which finds its neighbours itself, if it can be imported."""
    if importlib.util.find_spec("torchmdnet") is None:
        return None
    from torchmdnet.models.model import create_model

    degree = int(torch.bincount(neighbors(system, CUTOFF).index[0]).max()) + 2
    torch.manual_seed(0)
    shape = {"embedding_dimension": features, "num_filters": features, "num_layers": 3, "num_rbf": 50, "max_num_neighbors": degree}
    radial = {"rbf_type": "gauss", "trainable_rbf": False, "cutoff_lower": 0.0, "cutoff_upper": CUTOFF, "neighbor_embedding": False}
    rest = {"activation": "silu", "max_z": 119, "aggr": "add", "output_model": "Scalar", "reduce_op": "add", "check_errors": False}
    none = {"prior_model": None, "atom_filter": -1, "derivative": True, "precision": 32, "model": "graph-network"}
    net = create_model({**shape, **radial, **rest, **none, "box_vecs": None, "static_shapes": False}).eval()
    box = system.cell[0] if system.periodic else None

    def work() -> object:
        return net(system.types, system.positions, system.batch, box=box)

    return work


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="64 features alone, short times, a table of its own")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    torch.manual_seed(0)
    budget = 0.1 if quick else 0.5
    systems = {"22 atoms x 1": alanine(1), "22 atoms x 100": alanine(100), "1000 beads": liquid()}
    lists = {k: neighbors(s, CUTOFF) for k, s in systems.items()}
    models: dict[str, Any] = {"SchNet-64": lambda: SchNet(CUTOFF, 64), "PaiNN-64": lambda: PaiNN(CUTOFF, 64)}
    if not quick:
        models |= {"SchNet-128": lambda: SchNet(CUTOFF, 128), "PaiNN-128": lambda: PaiNN(CUTOFF, 128)}
    rows = []
    for task, kind in (("", evaluation), (", training", training)):
        for name, make in models.items():
            for where, system in systems.items():
                if task and where != "22 atoms x 100":
                    continue
                rows.append(row(name + task, where, make(), kind, system, lists[where], budget))
                print(rows[-1], flush=True)
    notes = (
        "Structures per second of CPU time on one thread, float32, cutoff 5 A, lists given (torchmd-net finds its own); median of 5, programs in turns. "
        "`tabulated`: the frozen network for simulation (`TabulatedSchNet`, `TabulatedPaiNN`, table of 0.005 A). `its error`, `float32 error`: largest "
        "force error of the tabulated and of the plain float32 network against the network in double precision, in units of the RMS "
        "force, random weights. `plain`: the same weights in a SchNet as one writes it down (every directed pair has its filters; "
        "Gaussians underflow). `best peer, elsewhere`: measured before on another machine of this kind, schnetpack 2.2.0 or "
        "torchmd-net 3.1. Directed pairs: " + ", ".join(f"{k}: {len(v)}" for k, v in lists.items()) + "."
    )
    record("nn_speed_quick" if quick else "nn_speed", rows, "python benchmarks/nn_speed.py" + (" --quick" if quick else ""), notes)


def row(name: str, where: str, model: Any, kind: Any, system: System, pairs: Pairs, budget: float) -> dict[str, Any]:
    """One line of the table: our network, the tabulated and the plain one, and the peers on the same input."""
    invariant, simulated = isinstance(model, SchNet), kind is evaluation
    works: dict[str, Callable[[], object] | None] = {"structures/s": kind(model, system, pairs)}
    errors: dict[str, str | None] = {"its error": None, "float32 error": None}
    if simulated:
        deployed = TabulatedSchNet(model) if invariant else TabulatedPaiNN(model)
        works["tabulated"] = evaluation(deployed, system, pairs)
        for key, potential in zip(errors, (deployed, model), strict=True):
            error = force_error(potential, model, system, pairs)
            errors[key] = f"{error.largest / error.scale:.0e}"
    if invariant:
        peer = schnetpack_model(model.features)
        works["plain"] = kind(PlainSchNet(model), system, pairs)
        works["schnetpack"] = None if peer is None else kind(peer, system, pairs)
        works["torchmd-net"] = torchmdnet_work(model.features, system) if simulated else None
    took = cpu_times({k: w for k, w in works.items() if w is not None}, budget)
    rates = {k: system.n_systems / t for k, t in took.items()}
    best, _ = FLOOR.get((name, where), (None, None))
    shown = {"structures/s": rates["structures/s"], "tabulated": rates.get("tabulated"), **errors}
    return {
        "network": name,
        "system": where,
        **shown,
        **{k: rates.get(k) for k in ("plain", "schnetpack", "torchmd-net")},
        "to the faster peer": rates["structures/s"] / max(peers) if (peers := [rates[k] for k in PEERS if k in rates]) else None,
        "best peer, elsewhere": best,
    }


if __name__ == "__main__":
    main()
