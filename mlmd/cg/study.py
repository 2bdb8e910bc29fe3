"""``Study``: the whole way from an atomistic trajectory to a compared coarse-grained simulation, stage by stage."""

from __future__ import annotations

import copy
import json
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mlmd import __version__, store, units
from mlmd.analysis.compare import Comparison, choose_torsions, compare
from mlmd.analysis.populations import Region
from mlmd.cg import autoencoder, force_map
from mlmd.cg.finding_maps import find_map
from mlmd.cg.force_matching import ForceReport, batch_of, force_report, invariant_network, match_forces
from mlmd.cg.mapping import Mapping
from mlmd.cg.moments import match_moments
from mlmd.cg.priors import MIN_FRAMES, Priors, fit_priors, single_molecules
from mlmd.cg.relative_entropy import refine, suggested_time_step
from mlmd.cg.replicas import canonical, limits_for, rungs_for
from mlmd.cg.settings import Settings, device_of
from mlmd.cg.stages import Ledger, Log, digest_of_frames, digest_of_parameters, key_of, plain
from mlmd.frames import Frames
from mlmd.md import Langevin, Recorder, produce, read_production, rest, simulate, thermal_velocities
from mlmd.nn.painn import PaiNN
from mlmd.nn.schnet import SchNet
from mlmd.observables.coordinates import Coordinate
from mlmd.observables.terms import internal_terms
from mlmd.potentials.bonded import Bonded, FourierDihedrals
from mlmd.potentials.compose import Sum

UPDATES_PER_SNAPSHOT = 4  # of relative entropy, for every snapshot that the moments of the dihedrals are taken from
PRIOR_PS = 10.0  # length of the run with the prior alone
MADE_BY = {
    **{"mapping": "learn_mapping", "beads": "learn_mapping", "cvs": "learn_mapping"},
    **{"priors": "fit_priors", "potential": "fit_priors", "prior_comparison": "fit_priors"},
    **{"forces": "train", "samples": "simulate", "comparison": "compare"},
}


class Study:
    """Stages in order: ``learn_mapping``, ``fit_priors``, ``train``, ``refine``, ``simulate``, ``compare``.

    Every stage is a generator of logs (dicts with at least "stage"), to be driven by a notebook, a widget or a test, and leaves
    its result as an attribute. With a ``folder``, long stages write checkpoints there and finished ones their result, under a name
    that depends on all settings and data that matter: a study that was interrupted continues, one with other settings starts afresh.

    Args:
        frames: atoms (or beads, with mapping="identity"), with a temperature.
        settings: see :class:`Settings`; None takes the defaults.
        folder: for checkpoints, results and the production run.

    Raises:
        ValueError: too few frames, no temperature, more beads than atoms, a device that does not exist.
    """

    def __init__(self, frames: Frames, settings: Settings | None = None, folder: str | Path = "runs"):
        settings = Settings() if settings is None else settings
        if len(frames) < MIN_FRAMES:
            raise ValueError(
                f"{len(frames)} frames are too few for a study: at least {MIN_FRAMES} are needed, thousands are better"
            )
        kT = settings.temperature * units.kelvin or frames.kT
        if not kT:
            raise ValueError("the data carry no temperature: give a temperature of 300 K, for instance")
        self.device = device_of(settings.device)
        store.writable_folder(folder, "folder")
        self.frames, self.settings, self.folder, self.kT = replace(frames, kT=kT), settings, Path(folder), kT
        self.autoencoder: autoencoder.AutoencoderResult | None = None
        self.force_noise: force_map.NoiseReport | None = None
        self._ledger = Ledger(MADE_BY, {"potential": frozenset({"prior_comparison"})})
        self.timings, self.history = self._ledger.timings, self._ledger.history
        self._fingerprint = digest_of_frames(frames)

    # -- results, each with a clear word if its stage has not run ---------------------------------------------------------

    @property
    def mapping(self) -> Mapping:
        return self._ledger["mapping"]

    @property
    def beads(self) -> Frames:
        return self._ledger["beads"]

    @property
    def priors(self) -> Priors:
        return self._ledger["priors"]

    @property
    def prior_comparison(self) -> Comparison:
        """Distributions of a short run with the prior alone."""
        return self._ledger["prior_comparison"]

    @property
    def potential(self) -> Any:
        """The present potential: the prior, then with the matched network, then refined."""
        return self._ledger["potential"]

    @property
    def forces(self) -> ForceReport | None:
        """Force errors of the present potential; None for data without forces."""
        return self._ledger["forces"]

    @property
    def samples(self) -> Tensor:
        """(T, R, n, 3) positions of the production run, A."""
        return self._ledger["samples"]

    @property
    def comparison(self) -> Comparison:
        return self._ledger["comparison"]

    # -- stages -----------------------------------------------------------------------------------------------------------

    def run(self) -> Iterator[Log]:
        """All stages."""
        for stage in (self.learn_mapping, self.fit_priors, self.train, self.refine, self.simulate, self.compare):
            yield from stage()

    def learn_mapping(self) -> Iterator[Log]:
        """Find or make the map and apply it: ``mapping``, ``beads``, and ``autoencoder`` if it was learned."""
        with self._ledger.timed("mapping"):
            s = self.settings
            for log in find_map(self.frames, s):
                found = log
                if log.mapping is None:
                    yield self._ledger.note("mapping", **log.values)
            mapping, self.autoencoder, self.force_noise = found.mapping, found.learned, found.noise
            assert mapping is not None
            if mapping.n_molecules > 1 and s.potential in ("invariant", "prior"):
                raise ValueError(
                    f"potential={s.potential!r} acts within molecules only, and there are {mapping.n_molecules} of them: "
                    "use potential='schnet' or 'painn'"
                )
            self._ledger["mapping"] = mapping
            self._ledger["beads"] = mapping.apply(self.frames).to(self.device)
            mapping.save(self.folder / f"mapping-{self._key('mapping')}.npz")
            yield self._ledger.note("mapping", beads=mapping.n_beads)

    def fit_priors(self) -> Iterator[Log]:
        """Boltzmann inversion of the bonded terms: ``priors``; ``potential`` is the prior from here on."""
        with self._ledger.timed("priors"):
            priors = fit_priors(self.beads, kT=self.kT)
            for p in priors.potential.parameters():
                p.requires_grad_(False)
            priors.potential.to(self.device)
            self._ledger["priors"] = priors
            self._ledger["potential"] = priors.potential
            yield self._ledger.note("priors", terms=len(priors.report))
            self._ledger["prior_comparison"] = self._prior_run()
            surface = self.prior_comparison.surface
            yield self._ledger.note("priors", js=surface.js if surface else float("nan"))

    def _prior_run(self) -> Comparison:
        """A short run with the prior alone, from reference frames: it has to be stable and roughly in place before anything is trained."""
        s, beads = self.settings, self.beads
        generator = torch.Generator().manual_seed(s.seed + 2000)
        system = batch_of(beads, torch.randint(len(beads), (min(s.replicas, len(beads)),), generator=generator))
        state = rest(system, thermal_velocities(system.to("cpu"), self.kT, generator).to(self.device))
        dt = s.time_step or suggested_time_step(self.potential, beads)
        recorder = Recorder(max(1, round(s.sample_ps * units.ps / dt)))
        steps = recorder.every * max(1, round(min(PRIOR_PS, s.simulate_ps) / s.sample_ps))
        noise = torch.Generator(self.device).manual_seed(s.seed + 3000)
        integrator = Langevin(dt, self.kT, s.friction / units.ps)
        deque(simulate(state, self.potential, integrator, steps, every=steps, report=[recorder], generator=noise), maxlen=0)
        return compare(beads.to("cpu"), recorder.positions(), kT=self.kT, cvs=self.cvs, discard=0.5, seed=s.seed)

    def train(self) -> Iterator[Log]:
        """Force matching of the network on what the prior leaves; nothing to do without forces (``forces`` is None then)."""
        with self._ledger.timed("train"):
            s, prior = self.settings, self.priors.potential
            torch.manual_seed(s.seed)
            network = self._network()
            if network is not None:
                self._ledger["potential"] = combined(copy.deepcopy(prior), network)  # refining must not reach back into the prior
            if self.beads.forces is None:
                self._ledger["forces"] = None
                yield self._ledger.note(
                    "train", skipped="the data have no forces: structure-based path, the ensemble alone is fitted"
                )
                return
            if network is not None:
                yield from self._stored("train", network, self._match(network))
            self._ledger["forces"] = force_report(self.potential, prior, self.beads)
            yield self._ledger.note("train", **self.forces.to_dict())  # type: ignore[union-attr]

    def refine(self) -> Iterator[Log]:
        """Relative entropy: the ensemble itself is fitted, starting from the matched forces; ``forces`` is measured again.

        Besides the network the Fourier terms of the dihedrals are trained: few parameters that act on the populations of rare basins,
        for which the signal in the many weights of the network is lost in the noise of the replicas. They are set once more, in a
        convex solve on one long sample, at the end (logs of stage "moments").
        """
        with self._ledger.timed("refine"):
            s, model = self.settings, self.potential
            for law in torsions(model):
                law.requires_grad_(True)
            if s.refine_updates == 0 or not any(p.requires_grad for p in model.parameters()):
                yield self._ledger.note("refine", skipped="no updates were asked for, or there is nothing to train")
                return
            yield from self._stored("refine", model, self._refine(model))
        with self._ledger.timed("moments"):
            yield from self._match_torsions(model)
            if self.beads.forces is not None:
                self._ledger["forces"] = force_report(model, self.priors.potential, self.beads)

    def _match_torsions(self, model: nn.Module) -> Iterator[Log]:
        """The end of ``refine``: the moments of the dihedrals, from a sample of the size that the number of updates stands for."""
        snapshots = self.settings.refine_updates // UPDATES_PER_SNAPSHOT
        laws = torsions(model)
        if not laws or not snapshots:
            reason = "no dihedrals" if not laws else f"fewer than {UPDATES_PER_SNAPSHOT} updates"
            yield self._ledger.note("moments", skipped=f"{reason}: the moments of dihedrals are not matched")
            return
        yield from self._stored("moments", nn.ModuleList(laws), self._moments(model, snapshots))

    def simulate(self) -> Iterator[Log]:
        """Production run of all replicas from one basin, into the folder: ``samples``.

        A single molecule runs as the lowest of a ladder of temperatures (``Settings.rungs``), which swap places: dynamics
        of this length alone crosses torsional barriers too rarely to fill rare basins. The run then samples the ensemble, and its time
        is no physical time.
        """
        with self._ledger.timed("simulate"):
            s, beads = self.settings, self.beads
            generator = torch.Generator().manual_seed(s.seed + 1000)
            self.rungs = rungs = rungs_for(beads, s.rungs)
            start, self.start_region = one_basin(beads, self.cvs, s.replicas * rungs, generator)
            dt = s.time_step or suggested_time_step(self.potential, beads)
            every = max(1, round(s.sample_ps * units.ps / dt))
            steps = every * max(1, round(s.simulate_ps * units.ps / dt / every))
            self.time_step, self.sample_interval = dt, every * dt
            integrator = canonical(dt, self.kT, s.friction / units.ps, s.replicas, rungs)
            system = batch_of(beads, torch.zeros(1, dtype=torch.long)).at(start.float().to(self.device))
            velocities = thermal_velocities(system.to("cpu"), integrator.kT, generator).to(self.device)  # type: ignore[attr-defined]
            folder = self.folder / f"simulate-{self._key('simulate')}"
            run: dict[str, Any] = {"every": every, "seed": s.seed, "snapshots_per_chunk": 40, "limits": limits_for(rungs)}
            hotter = float(torch.as_tensor(integrator.kT).mean()) / self.kT  # type: ignore[attr-defined]
            for log in produce(folder, rest(system, velocities), self.potential, integrator, steps, **run):
                log["temperature"] /= hotter  # of all rungs together, in units of what they should have
                yield self._ledger.note("simulate", **log)
            self._ledger["samples"] = read_production(folder)[:, ::rungs].clone()
            yield self._ledger.note("simulate", samples=int(np.prod(self.samples.shape[:2])))

    def compare(self) -> Iterator[Log]:
        """Lay the production run, less its beginning, over the reference: ``comparison``; the memory of the start is judged on all."""
        with self._ledger.timed("compare"):
            s, beads = self.settings, self.beads.to("cpu")
            result = compare(beads, self.samples, kT=self.kT, cvs=self.cvs, start=self.start_region, discard=s.discard, seed=s.seed)
            self._ledger["comparison"] = result
            yield self._ledger.note("compare", js=result.surface.js if result.surface else float("nan"))

    def export(self, folder: str | Path) -> Path:
        """Write what others need to go on: ``mapping.npz``, ``potential.npz`` (``mlmd.store.load``), ``beads.npz`` (``Frames.load``),
        ``beads.pdb`` and ``summary.json``.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        beads = self.beads.to("cpu")
        self.mapping.save(folder / "mapping.npz")
        store.save(folder / "potential.npz", self.potential)
        beads.save(folder / "beads.npz")
        store.write_atomic(folder / "beads.pdb", lambda path: beads[0].to_mdtraj().save_pdb(path))
        report = self.forces
        summary = {
            "mlmd": __version__,
            "settings": asdict(self.settings),
            "forces": None if report is None else report.to_dict(),
            "comparison": self.comparison.summary(),
            "seconds": self.timings,
        }
        text = json.dumps(summary, indent=1, default=plain)
        store.write_atomic(folder / "summary.json", lambda path: Path(path).write_text(text))
        return folder

    @property
    def cvs(self) -> tuple[Coordinate, Coordinate]:
        """The two collective variables of the free energy surface."""
        if "cvs" not in self._ledger:
            n, bonds, _ = single_molecules(self.beads)
            names = [a.name for a in list(self.beads.topology.atoms)[:n]]
            self._ledger.derive("cvs", choose_torsions(self.beads.to("cpu"), internal_terms(n, bonds), names))
        return self._ledger["cvs"]

    # -- inner workings ---------------------------------------------------------------------------------------------------

    def _network(self) -> nn.Module | None:
        s, beads = self.settings, self.beads
        if s.potential == "prior":
            return None
        if s.potential == "invariant":
            return invariant_network(beads, width=s.width, depth=s.depth).to(self.device)
        assert beads.types is not None
        kind = {"schnet": SchNet, "painn": PaiNN}[s.potential]
        return kind(s.cutoff, features=s.width, interactions=s.depth, n_types=int(beads.types.max()) + 1).to(self.device)

    def _match(self, network: Any) -> Iterator[Log]:
        s = self.settings
        return match_forces(
            network, self.priors.potential, self.beads, steps=s.train_steps, batch=s.batch, learning_rate=s.learning_rate,
            seed=s.seed, every=max(1, s.train_steps // 60), checkpoint=str(self.folder / f"train-{self._key('train')}"),
        )  # fmt: skip

    def _refine(self, model: Any) -> Iterator[Log]:
        s = self.settings
        return refine(
            model, self.beads, kT=self.kT, dt=s.time_step or suggested_time_step(model, self.beads), updates=s.refine_updates,
            replicas=max(1, s.replicas // s.rungs), rungs=s.rungs, learning_rate=s.refine_rate, seed=s.seed, every=max(1, s.refine_updates // 60),
            checkpoint=str(self.folder / f"refine-{self._key('refine')}"),
        )  # fmt: skip

    def _moments(self, model: nn.Module, snapshots: int) -> Iterator[Log]:
        s = self.settings
        return match_moments(
            model, self.beads, kT=self.kT, dt=s.time_step or suggested_time_step(model, self.beads), replicas=s.replicas,
            rungs=s.rungs, snapshots=snapshots, discard=5 + snapshots // 10, seed=s.seed,
        )  # fmt: skip

    def _stored(self, stage: str, module: nn.Module, logs: Iterator[Log]) -> Iterator[Log]:
        """Run a stage that changes ``module``, or take its finished result from the folder."""
        path = self.folder / f"{stage}-{self._key(stage)}.npz"
        steps = {"train": self.settings.train_steps, "refine": self.settings.refine_updates}.get(stage, 0)
        if self._ledger.take(path, stage, module.load_state_dict):
            yield {"stage": stage, "loaded": path.name}
            return
        self.history[stage] = []
        began = time.perf_counter()
        for log in logs:
            yield self._ledger.note(stage, **{"steps": steps, **log})
        self._ledger.keep(path, stage, module.state_dict(), began)

    def _key(self, stage: str) -> str:
        """A short name for all that a stage depends on."""
        order = {
            "mapping": ("n_beads", "mapping", "groups", "hydrogens", "rho", "weighting", "force_map", "seed"),
            "train": ("potential", "width", "depth", "cutoff", "train_steps", "batch", "learning_rate", "temperature", "device"),
            "refine": ("refine_updates", "refine_rate", "replicas", "rungs", "time_step"),
            "moments": (),
            "simulate": ("simulate_ps", "sample_ps", "friction"),
        }
        names: list[str] = []
        for name, used in order.items():
            names += used
            if name == stage:
                break
        values = asdict(self.settings)
        begun_from = digest_of_parameters(self.potential) if stage in ("refine", "moments", "simulate") else ""
        return key_of(self._fingerprint, self.kT, begun_from, {n: values[n] for n in names})


def torsions(potential: nn.Module) -> list[FourierDihedrals]:
    """The Fourier dihedral terms of a potential that has a network besides them; none of a prior alone."""
    laws = [m for m in potential.modules() if isinstance(m, FourierDihedrals)]
    return laws if any(p.requires_grad for p in potential.parameters()) else []


def combined(prior: nn.Module, network: nn.Module) -> nn.Module:
    """Prior plus network as one potential; two bonded ones share their coordinates."""
    if isinstance(prior, Bonded) and isinstance(network, Bonded):
        return Bonded(prior.coordinates, [*prior.laws, *network.laws])  # type: ignore[list-item]
    return Sum(prior, network)


def one_basin(
    beads: Frames, cvs: tuple[Coordinate, Coordinate], replicas: int, generator: torch.Generator
) -> tuple[Tensor, Region]:
    """(replicas, n, 3) reference frames near the most probable point of the collective variables, and the region they are from.

    The region is a window of +-0.6 rad (dihedrals) or a tenth of the range around the fullest bin of a 36 x 36 histogram.
    """
    x = beads.positions.cpu().double()
    n, _, molecules = single_molecules(beads)
    values = [np.asarray(cv(molecules.cpu().double())) for cv in cvs] if n == beads.n_atoms else []
    if not values:
        picked = torch.randint(len(x), (replicas,), generator=generator)
        return x[picked], Region("everything", (None, None))
    limits = [cv.limits or (float(v.min()), float(v.max())) for cv, v in zip(cvs, values)]
    counts, *edges = np.histogram2d(values[0], values[1], bins=36, range=limits)
    peak = np.unravel_index(counts.argmax(), counts.shape)
    bounds = []
    for cv, edge, k, (low, high) in zip(cvs, edges, peak, limits):
        centre, half = 0.5 * (edge[k] + edge[k + 1]), 0.6 if cv.periodic else (high - low) / 10
        bounds.append((_into(centre - half, low, high, cv.periodic), _into(centre + half, low, high, cv.periodic)))
    region = Region("start basin", tuple(bounds))
    inside = torch.from_numpy(np.flatnonzero(region.contains(*values)))
    picked = inside[torch.randint(len(inside), (replicas,), generator=generator)]
    return x[picked], region


def _into(value: float, low: float, high: float, periodic: bool) -> float:
    if periodic:
        return float((value - low) % (high - low) + low)
    return float(min(max(value, low), high))
