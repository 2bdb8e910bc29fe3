"""``LiquidStudy``: the whole way from an atomistic liquid to a compared box of beads, and to a larger one, stage by stage."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlmd import __version__, store, units
from mlmd.cell import check_cutoff, widths
from mlmd.cg import autoencoder, force_map
from mlmd.cg.finding_maps import find_map
from mlmd.cg.friction import FrictionLog, Target, fit_friction
from mlmd.cg.friction import Settings as FrictionSettings
from mlmd.cg.groups import components, identical_molecules
from mlmd.cg.liquid_bonded import BondedTarget
from mlmd.cg.liquid_comparison import LiquidComparison, Structure, motion_of, summary_of, velocity_correlations
from mlmd.cg.liquid_fit import Fitted, PotentialFit, first_guess
from mlmd.cg.liquid_molecules import LiquidMolecules
from mlmd.cg.liquid_sampler import BLOCKS, LiquidSampler
from mlmd.cg.liquid_settings import LiquidSettings
from mlmd.cg.mapping import Mapping
from mlmd.cg.pair_splines import PairSplines
from mlmd.cg.relative_entropy import suggested_time_step
from mlmd.cg.rigid_motion_forces import with_molecular_forces
from mlmd.cg.settings import device_of
from mlmd.cg.stages import Ledger, Log, digest_of_frames, key_of, plain
from mlmd.cg.symmetry import with_equivalent_types
from mlmd.cg.target_rdf import TargetRDF
from mlmd.frames import Frames
from mlmd.md import Langevin, enlarged, produce, read_production, simulate
from mlmd.observables.rdf import RDF
from mlmd.potentials.compose import Potential

MIN_FRAMES = 50
LONGEST_STEP = {"molecules": 10.0, "single beads": 4.0}  # fs
STIFF_SHARE = {
    "harmonic": 0.6,
    "splines": 0.4,
}  # of the inverse of the highest frequency in a molecule; splines grow rougher as they are corrected
LEARNED_ON = 20_000  # molecules, in all frames together, that a map is learned on at the most
STIFFEST = 200  # frames that the time step is chosen on: splines are stiff in places
SNAPSHOTS = 200  # of one sample
SAMPLING = {"friction": 1 / units.ps, "equilibration": 2 * units.ps}
SETTLING = {"friction": 5 / units.ps, "time": 4 * units.ps}
FRICTION = 0.1  # 1/ps, where that of the reference is not known
GRAM_PER_CM3 = 1.66053906660  # of one amu per A^3
THINNEST, DENSEST = 5e-3, 25.0  # g/cm^3: a gas, osmium
MADE_BY = {
    **{"mapping": "learn_mapping", "beads": "learn_mapping"},
    **{"structure": "fit", "reference_rdfs": "fit", "target": "fit", "sampler": "fit", "guess": "fit"},
    **{"fitted": "refine", "potential": "refine", "plain": "refine"},
    **{"run": "simulate", "large": "simulate", "comparison": "compare", "friction_fit": "compare"},
}


class LiquidStudy:
    """Stages in order: ``learn_mapping``, ``fit``, ``refine``, ``simulate``, ``compare``.

    Every stage is a generator of logs (dicts with at least "stage"), to be driven by a notebook, a widget or a test, and leaves
    its result as an attribute, as those of :class:`mlmd.cg.study.Study`. Finished stages are kept in the ``folder``, under a name that
    depends on all settings and data that matter: a study that was interrupted continues, one with other settings starts afresh.

    Args:
        frames: a periodic box of equal molecules of one kind, with a temperature. Molecules may be broken across the boundary.
        settings: see :class:`mlmd.cg.liquid_settings.LiquidSettings`; None takes the defaults.
        folder: for checkpoints, results and production runs.

    Raises:
        ValueError: no box, molecules of different kinds, too few frames, no temperature, a box narrower than twice the cutoff, a device
            that is not the CPU.
    """

    def __init__(self, frames: Frames, settings: LiquidSettings | None = None, folder: str | Path = "runs"):
        settings = LiquidSettings() if settings is None else settings
        check_liquid(frames)
        if len(frames) < MIN_FRAMES:
            raise ValueError(
                f"{len(frames)} frames are too few for a liquid: at least {MIN_FRAMES} are needed, some hundreds are better"
            )
        kT = settings.temperature * units.kelvin or frames.kT
        if not kT:
            raise ValueError("the data carry no temperature: give a temperature of 300 K, for instance")
        first = frames.system(0)
        check_cutoff(first.cell, first.pbc, settings.cutoff)
        if device_of(settings.device).type != "cpu":
            raise ValueError(f"device={settings.device!r}: liquids are fitted and run on the CPU only, take device='cpu'")
        store.writable_folder(folder, "folder")
        self.frames, self.settings, self.folder, self.kT = replace(frames, kT=kT), settings, Path(folder), kT
        self.autoencoder: autoencoder.AutoencoderResult | None = None
        self.force_noise: force_map.NoiseReport | None = None
        self._ledger = Ledger(MADE_BY)
        self.timings, self.history = self._ledger.timings, self._ledger.history
        self._fingerprint = digest_of_frames(frames)

    # -- results, each with a clear word if its stage has not run ---------------------------------------------------------

    @property
    def mapping(self) -> Mapping:
        """The map of one molecule, shared by all, with one type for equivalent beads."""
        return self._ledger["mapping"]

    @property
    def beads(self) -> Frames:
        """The reference as beads, molecules whole."""
        return self._ledger["beads"]

    @property
    def structure(self) -> Structure:
        """What is counted: pairs of bead types, range and bins, bonded terms."""
        return self._ledger["structure"]

    @property
    def reference_rdfs(self) -> dict[str, RDF]:
        """g(r) of the reference by name, with block errors; for molecules of several beads that of their centres too."""
        return self._ledger["reference_rdfs"]

    @property
    def target(self) -> TargetRDF:
        """g(r) of the reference for every pair of bead types, to be reproduced."""
        return self._ledger["target"]

    @property
    def basis(self) -> PairSplines:
        """The splines of the pair potentials."""
        return self._ledger["sampler"].basis

    @property
    def guess(self) -> Tensor:
        """(R, I) values at the knots that refinement begins with, eV."""
        return self._ledger["guess"]

    @property
    def fitted(self) -> Fitted:
        """The best potential that was sampled."""
        return self._ledger["fitted"]

    @property
    def potential(self) -> Potential:
        """The same as an energy function of the whole liquid."""
        return self._ledger["potential"]

    @property
    def plain_potential(self) -> Potential:
        """The same without compiled loops, to be stored, trained on or handed to other engines."""
        return self._ledger["plain"]

    @property
    def run_frames(self) -> Frames:
        """The production run in the box of the reference."""
        return self._ledger["run"]

    @property
    def large_frames(self) -> Frames | None:
        """The production run in the enlarged box; None if none was asked for."""
        return self._ledger["large"]

    @property
    def comparison(self) -> LiquidComparison:
        return self._ledger["comparison"]

    @property
    def friction_fit(self) -> list[FrictionLog]:
        """Rounds of the friction fitted to the diffusion of the atoms; empty if none was asked for."""
        return self._ledger["friction_fit"]

    # -- stages -----------------------------------------------------------------------------------------------------------

    def run(self) -> Iterator[Log]:
        """All stages."""
        for stage in (self.learn_mapping, self.fit, self.refine, self.simulate, self.compare):
            yield from stage()

    def learn_mapping(self) -> Iterator[Log]:
        """Find or make the map, learned on all molecules taken whole and shared by them: ``mapping``, ``beads``."""
        with self._ledger.timed("mapping"):
            s = self.settings
            s = replace(s, mapping="molecule") if s.n_beads == 1 and s.mapping == "learned" else s  # there is nothing to learn
            copies = len(components(self.frames.n_atoms, self.frames.bonds))
            some = self.frames[:: max(1, len(self.frames) * copies // LEARNED_ON)]
            for log in find_map(some, s):
                found = log
                if log.mapping is None:
                    yield self._ledger.note("mapping", **log.values)
            assert found.mapping is not None
            self.autoencoder, self.force_noise = found.learned, found.noise
            mapping = with_equivalent_types(found.mapping, self.frames, self.settings.reach)
            self._ledger["mapping"] = mapping
            beads = mapping.apply(self.frames)
            if beads.forces is not None:
                beads = with_molecular_forces(beads, self.frames, mapping)
            self._ledger["beads"] = beads
            check_whole(self.beads)
            mapping.save(self.folder / f"mapping-{self._key('mapping')}.npz")
            yield self._ledger.note("mapping", beads=mapping.n_beads, types=int(mapping.types.max()) + 1)

    def fit(self) -> Iterator[Log]:
        """Bonded terms by Boltzmann inversion, the g(r) of every pair of bead types, and a first guess of what acts between them."""
        with self._ledger.timed("fit"):
            s, beads = self.settings, self.beads
            single = self.mapping.n_beads == 1
            bonded = None if single else BondedTarget.of(beads)
            molecules = None if bonded is None else self._molecules(bonded)
            assert beads.cell is not None
            reach = min(s.range, 0.5 * float(widths(beads.cell.double()).min()))
            bins = int(reach / s.bin_width + 1e-6)
            structure = Structure.of(beads, molecules, bonded, bins * s.bin_width, bins)
            self._ledger["structure"] = structure
            yield self._ledger.note("fit", terms=0 if bonded is None else len(bonded.terms))
            self._ledger["reference_rdfs"] = structure.rdfs(beads)
            self._ledger["target"] = target_of(structure, self.reference_rdfs)
            self._ledger["sampler"] = self._sampler()
            self._ledger["guess"] = first_guess(self._ledger["sampler"])
            yield self._ledger.note("fit", pairs=len(structure.types), range=structure.r_max)

    def refine(self) -> Iterator[Log]:
        """Correct the potential until the structure is right: ``fitted``, ``potential``. One log per iteration.

        A method that diverges is stopped; its best potential is kept, and a log says so ("trouble").
        """
        with self._ledger.timed("refine"):
            fit = PotentialFit(self.settings, self.beads, self._ledger["sampler"], self.structure, self.guess, self.kT)
            path = self.folder / f"refine-{self._key('refine')}.npz"
            if self._ledger.take(path, "refine", fit.restore):
                yield {"stage": "refine", "loaded": path.name}
            else:
                self.history["refine"] = []
                began = time.perf_counter()
                for log in fit.run(path.with_name(path.stem + ".part.npz"), self.history["refine"]):
                    yield self._ledger.note("refine", **log)
                self._ledger.keep(path, "refine", fit.state(), began)
            self._ledger["fitted"] = fit.best
            self._ledger["potential"] = fit.potential()
            self._ledger.derive("plain", fit.plain())

    def simulate(self) -> Iterator[Log]:
        """Production runs in the box of the reference and in one that is ``repeats`` times as long: ``run_frames``, ``large_frames``."""
        with self._ledger.timed("simulate"):
            s = self.settings
            name = self._key("simulate")
            for log in self._produced(f"simulate-{name}", 1, s.simulate_ps):
                yield self._ledger.note("simulate", **log)
            self._ledger["run"] = self._read(f"simulate-{name}", 1)
        with self._ledger.timed("enlarged"):
            large = None
            if s.repeats > 1:
                for log in self._produced(f"enlarged-{name}", s.repeats, s.large_ps):
                    yield self._ledger.note("enlarged", **log)
                large = self._read(f"enlarged-{name}", s.repeats)
            self._ledger["large"] = large
            yield self._ledger.note("simulate", frames=len(self.run_frames))

    def compare(self) -> Iterator[Log]:
        """Lay the runs over the reference: ``comparison``; and fit a friction if one is wanted: ``friction_fit``."""
        with self._ledger.timed("compare"):
            ours = self.structure.rdfs(self.run_frames)
            motion, notes = motion_of(self.beads, self.run_frames)
            large, box = {}, None
            if self.large_frames is not None:
                wide = self.structure.rdfs(self.large_frames)
                large = {name: (g, wide[name]) for name, g in ours.items()}
                box = summary_of(self.large_frames, self.potential, self.kT)
            self._ledger["comparison"] = LiquidComparison(
                {name: (g, ours[name]) for name, g in self.reference_rdfs.items()},
                self.structure.overlays(self.beads, self.run_frames),
                summary_of(self.run_frames, self.potential, self.kT),
                motion,
                large,
                box,
                self.structure.mean_squares(self.beads, self.run_frames),
                velocity_correlations(self.beads, self.run_frames),
                notes,
            )
            yield self._ledger.note("compare", pressure=self.comparison.small.pressure.value / units.bar)
        with self._ledger.timed("friction"):
            rounds: list[FrictionLog] = []
            for found in self._friction_rounds():
                rounds.append(found)
                yield self._ledger.note("friction", round=found.round, friction=found.friction * units.ps, D=found.diffusion.value)
            self._ledger["friction_fit"] = rounds

    def export(self, folder: str | Path) -> Path:
        """Write what others need to go on: ``mapping.npz``, ``potential.npz`` (``mlmd.store.load``), ``beads.npz`` (``Frames.load``),
        ``beads.pdb`` and ``summary.json``.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.mapping.save(folder / "mapping.npz")
        store.save(folder / "potential.npz", self.plain_potential)  # type: ignore[arg-type]
        self.beads.save(folder / "beads.npz")
        store.write_atomic(folder / "beads.pdb", lambda path: self.beads[0].to_mdtraj().save_pdb(path))
        summary = {"mlmd": __version__, "settings": asdict(self.settings), "comparison": self.comparison.summary()}
        text = json.dumps(summary | {"seconds": self.timings}, indent=1, default=plain)
        store.write_atomic(folder / "summary.json", lambda path: Path(path).write_text(text))
        return folder

    # -- inner workings ---------------------------------------------------------------------------------------------------

    @cached_property
    def time_step(self) -> float:
        """fs; as asked for, or from the stiffest mode of a molecule alone, at most ``LONGEST_STEP``."""
        molecules = self.structure.molecules
        if self.settings.time_step:
            return self.settings.time_step
        if molecules is None:
            return LONGEST_STEP["single beads"]
        one = self.beads.atoms(list(range(molecules.size)))
        alone = replace(one, cell=None, forces=None)
        stable = suggested_time_step(
            molecules.bonded, alone, samples=min(STIFFEST, len(alone)), fraction=STIFF_SHARE[self.settings.bonded]
        )
        return min(LONGEST_STEP["molecules"], stable)

    @property
    def friction(self) -> float:
        """Of the production runs, 1/fs."""
        known = [r.get("friction_per_ps") for r in self.frames.provenance.get("runs", []) if isinstance(r, dict)]
        same = float(known[0]) if known and known[0] else FRICTION
        return (self.settings.friction or same) / units.ps

    def _molecules(self, bonded: BondedTarget) -> LiquidMolecules:
        s, m = self.settings, self.mapping
        if s.bonded == "harmonic":
            return LiquidMolecules.of(self.beads, kT=self.kT, hops=s.hops)
        return LiquidMolecules(bonded.bonded(bonded.inversion(self.kT)), tuple(m.bonds), m.n_beads, s.hops)

    def _sampler(self) -> LiquidSampler:
        s, dt = self.settings, self.time_step
        every = max(1, round(s.iteration_ps * units.ps / dt / SNAPSHOTS))
        steps = max(round(s.iteration_ps * units.ps / dt / every), 2 * BLOCKS) * every
        target = self.target
        return LiquidSampler(
            self._start(), target, target.basis(s.cutoff), kT=self.kT, dt=dt, friction=SAMPLING["friction"], molecules=self.structure.molecules,
            steps=steps, every=every, equilibration=min(steps, round(SAMPLING["equilibration"] / dt)), seed=s.seed,
        )  # fmt: skip

    def _start(self) -> Any:
        """The reference frame whose volume is nearest to the mean, as beads."""
        assert self.beads.cell is not None
        volume = torch.linalg.det(self.beads.cell.double()).abs()
        off = (volume - volume.mean()).abs()
        nearest = torch.nonzero(off <= off.min() + 1e-6).flatten()
        return self.beads.system(int(nearest[-1]))

    def _produced(self, name: str, repeats: int, length_ps: float) -> Iterator[Log]:
        s, dt, folder = self.settings, self.time_step, self.folder / name
        every = max(1, round(s.save_ps * units.ps / dt))
        steps = every * max(2 * BLOCKS, round(length_ps * units.ps / dt / every))
        generator = torch.Generator().manual_seed(s.seed + 1000 * repeats)
        state = enlarged(self._start().to(torch.float32), (repeats,) * 3, self.kT, generator, bonds=self.beads.bonds)
        settling = round(SETTLING["time"] / dt)
        if not folder.exists():
            calm = Langevin(dt, self.kT, SETTLING["friction"])
            (state,) = simulate(state, self.potential, calm, settling, every=settling, generator=generator)
        else:  # what is there was settled, and goes on from its own checkpoint
            state = replace(state, step=state.step + settling)
        weak = Langevin(dt, self.kT, self.friction)
        run: dict[str, Any] = {"every": every, "seed": s.seed, "snapshots_per_chunk": 20}
        yield from produce(folder, state, self.potential, weak, state.step + steps, **run)

    def _read(self, name: str, repeats: int) -> Frames:
        x = read_production(self.folder / name)[:, 0]
        like = self.beads[-1:] if repeats == 1 else self.beads[-1:].enlarged((repeats,) * 3)
        cell = self._start().cell[0] * repeats
        every = max(1, round(self.settings.save_ps * units.ps / self.time_step))
        times = self.time_step * every * torch.arange(len(x), dtype=torch.float64)
        return Frames(
            x, like.topology, cell=cell.expand(len(x), 3, 3), time=times, masses=like.masses, types=like.types, kT=self.kT
        )

    def _friction_rounds(self) -> Iterator[FrictionLog]:
        s, motion = self.settings, self.comparison.motion
        if not s.friction_rounds or motion is None:
            return
        d = motion.reference.diffusion
        every = max(1, round(s.save_ps * units.ps / self.time_step))
        steps = every * max(60, round(s.simulate_ps * units.ps / self.time_step / every))
        settings = FrictionSettings(
            dt=self.time_step, kT=self.kT, start=max(self.friction, 0.2 / units.ps), steps=steps, settle=round(SETTLING["time"] / self.time_step), every=every,
            window=(d.first, min(d.last, steps * self.time_step / BLOCKS - every * self.time_step)), rounds=s.friction_rounds, size=self.mapping.n_beads, n_blocks=BLOCKS,
        )  # fmt: skip
        system = self.run_frames.system(len(self.run_frames) - 1).to(torch.float32)
        generator = torch.Generator().manual_seed(s.seed + 5000)
        yield from fit_friction(system, self.potential, Target(d.value, d.error), settings, generator)

    def _key(self, stage: str) -> str:
        """A short name for all that a stage depends on."""
        order = {
            "mapping": ("n_beads", "mapping", "groups", "hydrogens", "rho", "weighting", "force_map", "seed", "reach"),
            "refine": (
                *(
                    "potential",
                    "method",
                    "cutoff",
                    "network_cutoff",
                    "width",
                    "depth",
                    "train_steps",
                    "range",
                    "bin_width",
                    "hops",
                    "bonded",
                ),
                *("iterations", "tolerance", "iteration_ps", "damping", "pressure", "time_step", "temperature", "device"),
            ),
            "simulate": ("simulate_ps", "save_ps", "repeats", "large_ps", "friction"),
        }
        names: list[str] = []
        for name, used in order.items():
            names += used
            if name == stage:
                break
        values = asdict(self.settings)
        return key_of("liquid", self._fingerprint, self.kT, {n: values[n] for n in names})


def is_liquid(frames: Frames) -> bool:
    """Whether the frames are a periodic box with more than one molecule, by the bonds of the topology."""
    return frames.periodic and bool(frames.bonds) and len(components(frames.n_atoms, frames.bonds)) > 1


def check_liquid(frames: Frames) -> None:
    """Refuse what is no periodic box of equal molecules at the density of a liquid.

    Raises:
        ValueError: no box, no bonds, one molecule, molecules of different kinds (with the residues that there are), or a density that says
            that lengths are in another unit.
    """
    if not frames.periodic:
        raise ValueError("frames have no cell: a liquid needs its periodic box; give a trajectory that holds it")
    if not frames.bonds:
        raise ValueError(
            "the topology has no bonds and says nothing about molecules: give one with bonds (PDB with CONECT records, GRO)"
        )
    pieces = components(frames.n_atoms, frames.bonds)
    if len(pieces) < 2:
        raise ValueError("frames hold one molecule: a liquid has many; use mlmd.cg.study.Study for a single one")
    if identical_molecules(frames.topology) != len(pieces):
        sizes = ", ".join(map(str, sorted({len(p) for p in pieces})[:6]))
        kinds = ", ".join(sorted({r.name for r in frames.topology.residues})[:6])
        raise ValueError(
            f"the {len(pieces)} molecules are of different kinds (residues {kinds}; molecules of {sizes} atoms), but one map serves equal "
            "molecules, one after the other: select those of one kind (select='resname ...')"
        )
    density = mass_density(frames)
    if density > DENSEST or 0 < density < THINNEST:
        turn = "nm taken for A? Multiply positions and cell by 10" if density > DENSEST else "multiplied by 10 once too often?"
        raise ValueError(f"the box holds {density:.3g} g/cm^3, which no liquid has: are its lengths {turn}")


def mass_density(frames: Frames) -> float:
    """Mean mass per volume in g/cm^3; 0 for particles without mass."""
    assert frames.masses is not None and frames.cell is not None
    volume = torch.linalg.det(frames.cell.double()).abs().mean()
    return float(frames.masses.double().sum() / units.amu / volume) * GRAM_PER_CM3


def check_whole(beads: Frames) -> None:
    """Refuse beads whose bonds span half the box: molecules that could not be put together.

    Raises:
        ValueError: naming the longest bond and its frame.
    """
    if not beads.bonds or beads.cell is None:
        return
    i, j = torch.tensor(beads.bonds).T
    length = (beads.positions[:, j] - beads.positions[:, i]).norm(dim=-1).amax(1)
    half = 0.5 * widths(beads.cell.double()).amin(-1)
    broken = torch.nonzero(length > half).flatten()
    if len(broken):
        frame = int(broken[0])
        raise ValueError(
            f"frame {frame}: a bond between beads is {float(length[frame]):.3g} A long, more than half the box ({float(half[frame]):.3g} A): the molecules "
            "are broken across the boundary and the bonds of the topology do not join them; give a topology with all bonds"
        )


def target_of(structure: Structure, rdfs: dict[str, RDF]) -> TargetRDF:
    """The g(r) of every pair of types as a target."""
    rows = [rdfs[name] for name in structure.names]
    return TargetRDF(rows[0].r, torch.stack([torch.from_numpy(row.g) for row in rows]).numpy(), structure.types)
