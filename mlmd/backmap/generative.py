"""Training and sampling of a variational auto-encoder of atoms given beads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from mlmd.backmap.cgvae import Encoder, Gaussian, Prior, Trunk, VectorDecoder, kl
from mlmd.backmap.internal import InternalDecoder
from mlmd.backmap.molecule import Molecule
from mlmd.backmap.zmatrix import Level, Skeleton, ZMatrix
from mlmd.cg.mapping import Mapping
from mlmd.frames import Frames
from mlmd.learn import Average, Checkpoint, ClipGradient, cosine, fit, minibatch
from mlmd.store import load_tree, save_tree

Log = dict[str, float]
KINDS = ("internal", "cgvae")


@dataclass(frozen=True)
class Recipe:
    """How a backmapping network is built and trained.

    | field | |
    |---|---|
    | features, bead_features | channels of the atoms and of the beads |
    | latent | latent variables per bead |
    | layers, bead_layers | of messages between atoms, and between beads |
    | basis, cutoff, bead_cutoff | Bessel functions; A, beyond which there are no messages |
    | resolution | A: the width of a structure around what the decoder says; it weighs the Kullback-Leibler term |
    | graph | weight of the error of distances over one and two bonds |
    | warm_up | share of the steps in which the Kullback-Leibler term grows to its full weight |
    | steps, batch, learning_rate | of Adam, with half a cosine to zero |
    """

    features: int = 24
    bead_features: int = 24
    latent: int = 16
    layers: int = 2
    bead_layers: int = 2
    basis: int = 8
    cutoff: float = 8.5
    bead_cutoff: float = 9.5
    resolution: float = 0.1
    graph: float = 2.0
    warm_up: float = 0.3
    steps: int = 3000
    batch: int = 64
    learning_rate: float = 3e-3


class VAE(nn.Module):
    """Encoder, prior and decoder of one molecule."""

    def __init__(self, encoder: nn.Module, prior: nn.Module, decoder: nn.Module):
        super().__init__()
        self.encoder, self.prior, self.decoder = encoder, prior, decoder

    def posterior(self, x: Tensor, X: Tensor) -> Gaussian:
        """q(z | x, X)."""
        return self.encoder(x, X)  # type: ignore[no-any-return]

    def forward(self, x: Tensor, X: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """A reconstruction (S, N, 3) with z drawn from q, and KL(q||p) (S,) in nats."""
        q = self.posterior(x, X)
        return self.decoder(q.draw(noise), X), kl(q, self.prior(X))


def networks(molecule: Molecule, recipe: Recipe, skeleton: Skeleton | None) -> VAE:
    """Fresh networks for a molecule: with a skeleton the decoder gives internal coordinates, else vectors (CGVAE)."""
    r, n_kinds = recipe, int(molecule.kinds.max()) + 1
    sizes = {"n_kinds": n_kinds, "n_slots": max(len(m) for m in molecule.members)}

    def trunk(latent: int) -> Trunk:
        return Trunk(molecule, r.bead_features, latent, layers=r.bead_layers, cutoff=r.bead_cutoff, basis=r.basis, n_kinds=n_kinds)

    encoder = Encoder(
        molecule, r.features, r.latent, layers=r.layers, cutoff=r.cutoff, bead_cutoff=r.bead_cutoff, basis=r.basis, **sizes
    )
    prior = Prior(trunk(0), r.bead_features, r.latent)
    if skeleton is None:
        return VAE(encoder, prior, VectorDecoder(molecule, trunk(r.latent), r.bead_features, **sizes))
    return VAE(encoder, prior, InternalDecoder(molecule, trunk(r.latent), r.bead_features, skeleton, **sizes))


class Generative:
    """A backmapper that draws structures: ``fit`` it to atomistic frames, then ``sample``.

    Args:
        kind: "cgvae" or "internal". recipe: sizes and training. seed: of initial weights, batches and noise.
    """

    def __init__(self, kind: str = "internal", recipe: Recipe | None = None, *, seed: int = 0):
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r}: choose one of {list(KINDS)}")
        self.kind, self.recipe, self.seed = kind, Recipe() if recipe is None else recipe, seed
        self.molecule: Molecule
        self.skeleton: Skeleton | None = None
        self.model: VAE

    def train(self, frames: Frames, mapping: Mapping, *, checkpoint: str | None = None, every: int = 50) -> Iterator[Log]:
        """Fit, with logs: mean square error of atoms (A^2), graph error (A^2), KL (A^2) and its size in nats.

        Raises:
            ValueError: as :meth:`Molecule.of`; for "internal" fewer than three beads, or beads on a line.
        """
        self.molecule = Molecule.of(frames, mapping)
        x = self.molecule.atoms_of(frames)
        X = self.molecule.beads(x)
        self.skeleton = Skeleton.of(self.molecule, x, X) if self.kind == "internal" else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.model = networks(self.molecule, self.recipe, self.skeleton)
        loop = self._loop(x, X, checkpoint, every)
        yield from loop
        self.model.eval().requires_grad_(False)

    def fit(self, frames: Frames, mapping: Mapping) -> Self:
        """:meth:`train`, to the end."""
        for _ in self.train(frames, mapping):
            pass
        return self

    def save(self, path: str | Path) -> Path:
        """Write all that sampling needs, for :meth:`load`; whole or absent."""
        m, k = self.molecule, self.skeleton
        tree = {
            "kind": self.kind, "recipe": asdict(self.recipe), "seed": self.seed, "weights": dict(self.model.state_dict()),
            "molecule": {f.name: getattr(m, f.name) for f in fields(m)},
            "skeleton": None if k is None else {
                "length": k.length, "direction": k.direction, "roots": k.z.roots,
                "levels": [[level.atoms, level.parents, level.grandparents, level.references] for level in k.z.levels],
            },
        }  # fmt: skip
        return save_tree(path, tree)

    @staticmethod
    def load(path: str | Path) -> Generative:
        """What :meth:`save` wrote.

        Raises:
            BrokenCheckpoint: for a file that is damaged or something else.
        """
        tree = load_tree(path)
        self = Generative(tree["kind"], Recipe(**tree["recipe"]), seed=tree["seed"])
        self.molecule = Molecule(**tree["molecule"])
        if (k := tree["skeleton"]) is not None:
            self.skeleton = Skeleton(
                ZMatrix(k["roots"], tuple(Level(*level) for level in k["levels"])), k["length"], k["direction"]
            )
        self.model = networks(self.molecule, self.recipe, self.skeleton)
        self.model.load_state_dict(tree["weights"])
        self.model.eval().requires_grad_(False)
        return self

    def _loop(self, x: Tensor, X: Tensor, checkpoint: str | None, every: int) -> Iterator[Log]:
        r = self.recipe
        pick = minibatch(len(x), r.batch, self.seed)
        pairs = self.molecule.near_pairs.T
        scale = 2 * r.resolution**2 / (3 * self.molecule.n_atoms)
        ramp: Callable[[int], float] = lambda step: min(1.0, (step + 1) / max(1.0, r.warm_up * r.steps))  # noqa: E731

        def loss(model: nn.Module, step_index: tuple[int, Tensor]) -> dict[str, Tensor]:
            step, index = step_index
            noise = torch.randn(
                len(index), self.molecule.n_beads, r.latent, generator=torch.Generator().manual_seed(self.seed * 10**7 + step)
            )
            y, divergence = model(x[index], X[index], noise)
            return {
                "atoms": (y - x[index]).square().mean(),
                "graph": r.graph * (_lengths(y, pairs) - _lengths(x[index], pairs)).square().mean(),
                "KL": ramp(step) * scale * divergence.mean(),
            }

        optimizer = torch.optim.Adam(self.model.parameters(), lr=r.learning_rate)
        mean = Average(0.995)
        callbacks: list[object] = [ClipGradient(1.0), mean]
        if checkpoint:
            callbacks.append(Checkpoint(checkpoint, companions=(mean,)))
        yield from fit(
            self.model, loss, lambda step: (step, pick(step)), steps=r.steps, optimizer=optimizer, schedule=cosine(r.steps),
            callbacks=callbacks, every=every,
        )  # fmt: skip

    @torch.no_grad()
    def sample(self, beads: Frames | Tensor, n: int = 1, *, seed: int = 0, batch: int = 500) -> Tensor:
        """n structures for every frame of beads, (n, F, atoms, 3) in A, drawn from the prior; molecules whole.

        Raises:
            ValueError: beads of another molecule, or n below 1.
        """
        if n < 1:
            raise ValueError(f"n={n}: at least one sample is needed")
        X = self.molecule.beads_of(beads) if isinstance(beads, Frames) else beads.float()
        generator = torch.Generator().manual_seed(seed)
        drawn = []
        for part in X.repeat(n, 1, 1).split(batch):
            noise = torch.randn(len(part), X.shape[1], self.recipe.latent, generator=generator)
            drawn.append(self.model.decoder(self.model.prior(part).draw(noise), part))
        frames = len(beads) if isinstance(beads, Frames) else len(X)
        return torch.cat(drawn).reshape(n, frames, -1, 3)

    @torch.no_grad()
    def reconstruct(self, frames: Frames, *, batch: int = 500) -> Tensor:
        """(F, atoms, 3): every structure encoded with the mean of q and decoded."""
        x = self.molecule.atoms_of(frames)
        X = self.molecule.beads(x)
        parts = [
            self.model.decoder(self.model.posterior(a, b).mean, b) for a, b in zip(x.split(batch), X.split(batch), strict=True)
        ]
        return torch.cat(parts).reshape(len(frames), -1, 3)


def _lengths(x: Tensor, pairs: Tensor | Sequence[Tensor]) -> Tensor:
    i, j = pairs
    return ((x[:, i] - x[:, j]).square().sum(-1) + 1e-12).sqrt()
