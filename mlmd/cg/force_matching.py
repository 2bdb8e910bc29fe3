"""Force matching: the bead potential whose forces are closest to the mapped atomic forces, and what that fit can at best explain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn

from mlmd.analysis.blocks import block_average
from mlmd.cell import periodic_widths
from mlmd.cg.priors import molecule_coordinates, single_molecules
from mlmd.forces import Potential, energy_forces
from mlmd.frames import Frames
from mlmd.learn import Average, Checkpoint, ClipGradient, cosine, fit, minibatch
from mlmd.neighbors import KeptLists, neighbors
from mlmd.nn.invariant import InvariantNet
from mlmd.observables.geometry import rotation_onto
from mlmd.potentials.bonded import Bonded
from mlmd.system import System

AT_ONCE = 10_000  # beads whose forces are evaluated together: bounds the memory of networks on liquids


def invariant_network(frames: Frames, *, width: int = 128, depth: int = 3) -> Bonded:
    """A fresh :class:`InvariantNet` for the molecule of ``frames``, standardised on them, as a potential of its own."""
    n, bonds, x = single_molecules(frames)
    coordinates, terms = molecule_coordinates(n, bonds)
    corner = {(t[0], t[1], t[2]): k for k, t in enumerate(terms.angles.tolist())}

    def row(i: int, j: int, k: int) -> int:
        return corner[(i, j, k)] if (i, j, k) in corner else corner[(k, j, i)]

    angle_rows = [[row(i, j, k), row(j, k, l)] for i, j, k, l in terms.dihedrals.tolist()]
    net = InvariantNet(len(coordinates.pairs), len(terms.angles), torch.tensor(angle_rows).reshape(-1, 2), width=width, depth=depth)
    net.standardise(*(v.detach() for v in coordinates(x.reshape(-1, 3).float())))
    return Bonded(coordinates, [net])


def split(n: int, held_out: float = 0.2) -> tuple[Tensor, Tensor]:
    """(training, held-out) frame indices: the held-out ones are the last in time, so that they are not neighbours of the others."""
    if not 0 < held_out < 1:
        raise ValueError(f"held_out={held_out}: must be a fraction between 0 and 1")
    cut = max(1, min(n - 1, round(n * (1 - held_out))))
    return torch.arange(cut), torch.arange(cut, n)


def batch_of(frames: Frames, index: Tensor) -> System:
    """The given frames as one batch of systems, single precision."""
    assert frames.types is not None and frames.masses is not None
    x = frames.positions[index].float()
    if frames.cell is None:
        return System.single(x[0], frames.types, frames.masses.float()).at(x)
    cell = frames.cell[index].float()
    batch = replace(System.single(x[0], frames.types, frames.masses.float(), cell[0]).at(x), cell=cell)
    periodic_widths(batch.cell, batch.pbc)  # refuses a cell without volume
    return batch


def predicted_forces(potential: Potential, frames: Frames) -> Tensor:
    """(F, N, 3) forces of a potential on every frame, without a graph."""
    out = []
    with torch.no_grad():
        for index in torch.arange(len(frames)).split(frames_at_once(frames)):
            system = batch_of(frames, index)
            pairs = neighbors(system, potential.cutoff) if potential.cutoff > 0 else None
            out.append(energy_forces(potential, system, pairs).forces.reshape(len(index), -1, 3))
    return torch.cat(out)


def frames_at_once(frames: Frames) -> int:
    """How many frames are evaluated together: all that hold ten thousand beads, at least one."""
    return max(1, AT_ONCE // frames.n_atoms)


def match_forces(
    model: nn.Module,
    prior: Potential,
    frames: Frames,
    *,
    steps: int = 2000,
    batch: int = 256,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    average: float = 0.995,
    held_out: float = 0.2,
    seed: int = 0,
    every: int = 50,
    checkpoint: str | None = None,
    checkpoint_every: int | None = None,
    callbacks: Sequence[Any] = (),
    weigh: Callable[[Tensor, Tensor], Tensor] = lambda x, errors: errors,
) -> Iterator[dict[str, float]]:
    r"""Train ``model`` on what the prior leaves: minimise :math:`\frac1{3N}\langle|F-F_{prior}+\nabla U_{model}|^2\rangle`.

    (Wang and Gomez-Bombarelli 2019, eq. 8; Noid et al. 2008.) The loss contains the noise of the mapped forces, which no
    potential of the beads can explain: see :func:`force_report`.

    Args:
        model: a potential; for a :class:`Bonded` one the geometry of every frame is computed once and kept, for one of pairs the
            neighbour lists are, up to half a gigabyte.
        prior: fixed. frames: beads with forces, of one molecule or of a liquid; molecules whole. batch: frames, so of a liquid few.
        average: decay of the exponential moving average that becomes the final model.
        checkpoint, checkpoint_every: folder from which an interrupted training continues, written every so many steps (default:
            every 3 seconds).
        weigh: makes of positions and force errors (batch, N, 3) those whose squares are minimised
            (:class:`mlmd.cg.rigid_motion_forces.InnerWeight`).

    Yields:
        ``{"step", "force", "held-out"}``: training loss and held-out mean square error, the latter without weights, in (eV/A)^2.

    Raises:
        ValueError: if the frames have no forces.
    """
    if frames.forces is None:
        raise ValueError(
            "frames have no forces: force matching needs them; without forces use the structure-based path (relative entropy)"
        )
    x, residual = frames.positions.float(), frames.forces.float() - predicted_forces(prior, frames)
    train, test = split(len(frames), held_out)
    forces = _force_function(model, frames)
    pick = minibatch(len(train), batch, seed)

    def loss(_: nn.Module, index: Tensor) -> dict[str, Tensor]:
        return {"force": weigh(x[index], residual[index] - forces(index)).square().mean()}

    @torch.no_grad()
    def held_out_error() -> float:
        parts = [(residual[i] - forces(i)).detach().square().mean() * len(i) for i in test.split(frames_at_once(frames))]
        return float(torch.stack(parts).sum() / len(test))

    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
    mean = Average(average)
    extra: list[Any] = [ClipGradient(10.0), mean, *callbacks]
    if checkpoint:
        extra.append(Checkpoint(checkpoint, every=checkpoint_every, companions=(mean,)))
    loop = fit(
        model,
        loss,
        lambda s: train[pick(s)],
        steps=steps,
        optimizer=optimizer,
        schedule=cosine(steps),
        callbacks=extra,
        every=every,
    )
    for log in loop:
        yield {**log, "held-out": held_out_error()}


def _force_function(model: nn.Module, frames: Frames) -> Callable[[Tensor], Tensor]:
    """index -> (len(index), N, 3) forces with a graph to the parameters."""
    n = frames.n_atoms
    if isinstance(model, Bonded):
        geometry = model.coordinates.geometry(frames.positions.float().reshape(-1, 3))
        molecules = n // model.coordinates.size
        offsets = torch.arange(molecules)

        def from_geometry(index: Tensor) -> Tensor:
            rows: Tensor = (index[:, None] * molecules + offsets).flatten()
            return model.from_geometry(geometry[rows], create_graph=True)[1].reshape(-1, n, 3)

        return from_geometry

    cutoff = float(model.cutoff)  # type: ignore[arg-type]
    lists = KeptLists(cutoff) if cutoff > 0 else None

    def general(index: Tensor) -> Tensor:
        system = batch_of(frames, index)
        pairs = None if lists is None else lists(index, system)
        return energy_forces(model, system, pairs).forces.reshape(-1, n, 3)  # type: ignore[arg-type]

    return general


@dataclass(frozen=True)
class ForceReport:
    """Mean square force errors per component on held-out frames, in (eV/A)^2, with the standard errors of blocks in time.

    zero: of no potential at all (the mean square force); prior, model: of the prior alone and of the whole potential;
    noise: estimate of what no potential can explain. explained(x) = (zero - x) / (zero - noise).
    """

    zero: float
    prior: float
    model: float
    noise: float
    zero_error: float
    prior_error: float
    model_error: float
    noise_error: float
    frames: int

    def explained(self, value: float) -> float:
        """Share of the explainable mean square force."""
        return (self.zero - value) / (self.zero - self.noise)

    def to_dict(self) -> dict[str, float]:
        """All numbers, with the shares explained by the prior and by the whole potential."""
        return asdict(self) | {"explained by prior": self.explained(self.prior), "explained by model": self.explained(self.model)}


def force_report(potential: Potential, prior: Potential, frames: Frames, *, held_out: float = 0.2) -> ForceReport:
    r"""How much of the force the prior and the whole potential explain, beside the noise.

    The noise is estimated by the nearest-neighbour ("delta") test on the residuals e of the potential (Pi and Peterson
    1994): :math:`\frac12\langle|e_a-Re_b|^2\rangle` over pairs of frames (a, b) that are nearest in internal coordinates, R the
    rotation that superposes b on a. It tends to the noise as the sample grows and is biased upwards before.
    """
    if frames.forces is None:
        raise ValueError("frames have no forces: nothing to report")
    _, test = split(len(frames), held_out)
    part = frames[test]
    assert part.forces is not None
    force = part.forces.float()
    errors = {
        "zero": force,
        "prior": force - predicted_forces(prior, part),
        "model": force - predicted_forces(potential, part),
    }
    numbers: dict[str, float] = {}
    for name, e in errors.items():
        numbers[name], numbers[f"{name}_error"] = _mean_square(e.double().square().mean((1, 2)))
    difference = _neighbour_difference(part, errors["model"])
    numbers["noise"], numbers["noise_error"] = _mean_square(difference)
    return ForceReport(**numbers, frames=len(part))


def _mean_square(per_frame: Tensor) -> tuple[float, float]:
    mean, error = block_average(per_frame.numpy(), n_blocks=min(10, len(per_frame)))
    return float(mean), float(error)


def _neighbour_difference(frames: Frames, residual: Tensor) -> Tensor:
    """(F * molecules,) half the mean square difference of residuals between nearest neighbours."""
    n, bonds, x = single_molecules(frames)
    coordinates, _ = molecule_coordinates(n, bonds)
    r, theta, phi = coordinates(x.reshape(-1, 3).double())
    features = torch.cat([r, theta.cos(), phi.cos(), phi.sin()])
    features = ((features - features.mean(1, keepdim=True)) / features.std(1, keepdim=True).clamp(min=1e-3)).T
    points = features.numpy()
    _, neighbour = cKDTree(points).query(points, k=2)
    other = torch.from_numpy(np.where(neighbour[:, 0] == np.arange(len(points)), neighbour[:, 1], neighbour[:, 0]))
    e = residual.reshape(-1, n, 3).double()
    rotation = rotation_onto(x[other].double(), x.double())
    turned = torch.einsum("fij,fnj->fni", rotation, e[other])
    return 0.5 * (e - turned).square().mean((1, 2))
