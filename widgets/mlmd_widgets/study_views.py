"""A :class:`mlmd.cg.study.Study` in pictures and words: what the report notebook shows, each from the results alone."""

from __future__ import annotations

import html
import importlib.metadata
import platform
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import date
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from mlmd import units
from mlmd.analysis.compare import Comparison, SurfaceComparison
from mlmd.cg import autoencoder
from mlmd.cg import mapping as maps
from mlmd.cg.finding_maps import autoencoder_options
from mlmd.cg.force_map import rigid_groups
from mlmd.cg.liquid_settings import LiquidSettings
from mlmd.cg.liquid_study import LiquidStudy, is_liquid
from mlmd.cg.mapping import Mapping
from mlmd.cg.replicas import HOTTEST
from mlmd.cg.study import Settings, Study
from mlmd.frames import Frames, bead_topology
from mlmd.io.checks import InputWarning
from mlmd.observables import Density1D
from mlmd_widgets import blocks, figures, layers, painter, theme, viewer
from mlmd_widgets.blocks import Card
from mlmd_widgets.layers import Layer

SHOWN_FRAMES = 80
SCANNED_FRAMES = 4000  # maps of other sizes are compared on so many frames
SIZES = (3, 4, 5, 6, 8, 10, 12)
REPORTED = ("mlmd", "torch", "numpy", "scipy", "mdtraj", "vesin", "plotly", "matplotlib")
SUITABLE: dict[str, dict[str, Any]] = {  # settings that suit the liquids that ship
    "ethane": {"n_beads": 2},
    "tetracosane": {"n_beads": 8, "bonded": "splines", "bin_width": 0.2, "range": 14.0},
    "water-spce": {"n_beads": 1},
}
OWN_NUMBER = ("residue", "alpha_carbon", "molecule", "identity")  # maps that need not be told the number of beads
RHO_SCAN = (0.0, 1e-5, 1e-4, 1e-3)  # A^2/(kcal/mol/A)^2


def study_of(
    frames: Frames, shared: dict[str, Any], own: dict[str, Any], folder: str, fast: bool, dataset: str = ""
) -> Study | LiquidStudy:
    """The study that goes with the data: of a liquid for a periodic box of molecules, else of a single molecule.

    Args:
        shared, own: settings of both kinds, and of the one kind; None takes the default, or what suits the data set.
        folder: of its files. fast: every stage short. dataset: name of data that ship.

    Raises:
        ValueError: settings or data that the study refuses.
    """
    liquid = is_liquid(frames)
    values = {k: v for k, v in (shared | own).items() if v is not None or k == "pressure"}
    values = SUITABLE.get(dataset, {}) | values
    if liquid:
        chosen = LiquidSettings(**values)
        return LiquidStudy(frames, chosen.fast() if fast else chosen, folder)
    settings = Settings(**values)
    return Study(frames, settings.fast() if fast else settings, folder)


def parse_groups(text: str | None) -> tuple[tuple[int, ...], ...]:
    """Groups of atom indices from "0-3, 8; 4-7": beads are separated by semicolons, ranges include both ends.

    Raises:
        ValueError: anything that is no index or range, or a bead without atoms.
    """
    parts = (text or "").strip().removesuffix(";").split(";")
    if parts == [""]:
        return ()
    empty = [k for k, part in enumerate(parts) if not part.strip()]
    if empty:
        raise ValueError(f"groups={text!r}: bead {empty[0]} is empty; give every bead at least one atom")
    return tuple(tuple(_indices(part, text or "")) for part in parts)


def _indices(part: str, text: str) -> Iterator[int]:
    for item in part.split(","):
        found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", item)
        if not found or (found[2] and int(found[2]) < int(found[1])):
            raise ValueError(f"groups={text!r}: {item.strip()!r} is no atom index or range; write for instance '0-3, 8; 4-7'")
        yield from range(int(found[1]), int(found[2] or found[1]) + 1)


def bead_names(study: Study) -> list[str]:
    """Names of the beads with their atoms: "B1: C O N"."""
    mapping = study.mapping
    if not mapping.one_hot:
        return list(mapping.names)
    names, owner = [a.name for a in study.frames.topology.atoms], mapping.assignment.tolist()
    members = [[names[j] for j in range(len(owner)) if owner[j] == i] for i in range(mapping.n_beads)]
    return [f"{name}: {_listed(atoms)}" for name, atoms in zip(mapping.names, members)]


def _listed(names: Sequence[str], most: int = 5) -> str:
    return " ".join(names[:most]) + (" …" if len(names) > most else "")


def _some(frames: Frames, count: int) -> Frames:
    return frames[:: max(1, len(frames) // count)][:count]


def map_layers(study: Study, count: int = SHOWN_FRAMES) -> list[Layer]:
    """Atoms of one molecule painted by bead, and the beads over them, in some frames of the reference."""
    mapping, n = study.mapping, study.mapping.n_atoms
    frames = _some(study.frames, count)
    x = frames.positions.double()
    if frames.cell is not None:
        x = mapping.whole(x, frames.cell)
    first = frames.topology.subset(range(n))
    one = x[:, :n]
    beads = (mapping.weights.double() @ one).numpy()
    atoms = layers.superposed(one.numpy())
    moved = layers.superposed(one.numpy(), followers=beads)
    groups = mapping.assignment.tolist() if mapping.one_hot else None
    radii = layers.bead_radii(atoms, moved, groups) if groups is not None else 0.8
    return [layers.atom_layer(atoms, first, groups), layers.bead_layer(moved, mapping.bonds, radii, mapping.names)]


def map_picture(study: Study) -> Figure:
    """The molecule painted by bead, in its first frame."""
    still = [layer.frame(0) for layer in map_layers(study, 2)]
    return painter.picture(still, legend=bead_names(study), width=6.8)


def bead_table(study: Study) -> str:
    """Bead, atoms, mass, size."""
    mapping = study.mapping
    names = [a.name for a in study.frames.topology.atoms]
    owner = mapping.assignment.tolist() if mapping.one_hot else []
    rows = []
    for i in range(mapping.n_beads):
        members = " ".join(names[j] for j in range(len(owner)) if owner[j] == i)
        rows.append((f"{mapping.names[i]}: {members}", sum(o == i for o in owner), f"{float(mapping.masses[i]) / units.amu:.1f}"))
    return blocks.table(["bead and its atoms", "atoms", "mass / amu"], rows)


def annealing(study: Study) -> Figure:
    """The assignment matrix through annealing; only for learned maps."""
    result = study.autoencoder
    if result is None:
        raise ValueError("the map of this study was not learned: there is no annealing to show")
    atoms = [a.name for a in study.frames.topology.atoms][: study.mapping.n_atoms]
    return figures.assignment_annealing(
        result.assignment_history, result.temperatures, atoms, study.mapping.names, study.mapping.assignment
    )


def rmsd_put_back(mapping: Mapping, frames: Frames, heavy: bool = False) -> float:
    """RMSD in A of the atoms (``heavy``: without hydrogens) that the best linear decoder puts back from the beads."""
    some = _some(frames, SCANNED_FRAMES)
    per_atom = autoencoder.reconstruction_error(mapping, autoencoder.linear_decoder(mapping, some), some)
    kept = torch.tensor([not heavy or z != 1 for z in maps.molecule_of(frames).elements])
    return float(per_atom[kept].mean().sqrt())


def scan_sizes(frames: Frames, settings: Settings, wanted: Sequence[int] = SIZES) -> list[int]:
    """Those of the wanted numbers of beads that the molecule has enough independent atoms for."""
    together = autoencoder_options(frames, settings).get("together", ())
    return [n for n in wanted if n <= len(rigid_groups(maps.molecule_of(frames).n, list(together)))]


def compression_scan(frames: Frames, settings: Settings, sizes: Sequence[int], steps: int = 400) -> Iterator[dict[str, Any]]:
    """Reconstruction (of the atoms that count in the loss) and force of learned and hand-made maps; one log per number of beads."""
    options, some = autoencoder_options(frames, settings), _some(frames, SCANNED_FRAMES)
    heavy = "importance" in options
    for n in sizes:
        learned = autoencoder.learn(some, n, steps=steps, restarts=4, **options).mapping
        drawn = {"learned": learned, "sequence": maps.sequence(some, n), "backbone": maps.backbone(some, n)}
        drawn["random"] = maps.random(some, n, seed=settings.seed)
        yield {
            "n_beads": n,
            "atoms": "heavy atoms" if heavy else "all atoms",
            "rmsd": {name: rmsd_put_back(m, some, heavy) for name, m in drawn.items()},
            "force": {name: _mean_square_force(m, some) for name, m in drawn.items()},
        }


def _mean_square_force(mapping: Mapping, frames: Frames) -> float:
    """<|F_I|^2> averaged over beads, (eV/A)^2; NaN without forces."""
    return float("nan") if frames.forces is None else float(mapping.forces(frames.forces.double()).square().sum(-1).mean())


def compression(logs: Sequence[dict[str, Any]]) -> Figure:
    """Figure of :func:`compression_scan`."""
    names = list(logs[0]["rmsd"])
    rmsd, force = ({k: [log[what][k] for log in logs] for k in names} for what in ("rmsd", "force"))
    known = bool(np.isfinite(force[names[0]]).all())
    return figures.compression([log["n_beads"] for log in logs], rmsd, force if known else None, logs[0]["atoms"])


def force_scan(frames: Frames, settings: Settings, rho: Sequence[float] = RHO_SCAN, steps: int = 400) -> Iterator[dict[str, Any]]:
    """Learned maps for several weights of the force term; one log per weight."""
    options, some = autoencoder_options(frames, settings), _some(frames, SCANNED_FRAMES)
    heavy = "importance" in options
    for r in rho:
        one = autoencoder.learn(
            some, settings.n_beads, steps=steps, restarts=4, **(options | {"rho": r / units.kcal_mol**2})
        ).mapping
        atoms = "heavy atoms" if heavy else "all atoms"
        yield {"rho": r, "atoms": atoms, "rmsd": rmsd_put_back(one, some, heavy), "force": _mean_square_force(one, some)}


def training(study: Study) -> Figure | None:
    """Force errors during training between zero force and noise; None if nothing was trained on forces."""
    logs = [log for log in study.history.get("train", []) if "held-out" in log]
    report = study.forces
    if report is None or not logs:
        return None
    steps = [log["step"] for log in logs]
    held_out = [log["held-out"] for log in logs]
    return figures.force_training(steps, [log["force"] for log in logs], steps, held_out, report.zero, report.prior, report.noise)


def force_table(study: Study) -> str:
    """Force errors with their errors, and the share explained."""
    r = study.forces
    if r is None:
        return blocks.note("The data hold no forces: the potential was fitted to the structure alone, by relative entropy.")
    factor, unit = units.SHOWN["force^2"]
    noise = getattr(study, "force_noise", None)
    note = ""
    if noise is not None:
        before, after = noise.held_out_before / factor, noise.held_out_after / factor
        note = blocks.note(
            f"Forces of atoms are mapped onto beads by the exact force map of least noise: mean square force per bead {after:.0f} instead of "
            f"{before:.0f} {unit} on {noise.n_held_out} held-out frames."
        )
    rows = [
        (name, blocks.with_error(value / factor, error / factor), f"{100 * r.explained(value):.1f} %")
        for name, value, error in (
            ("no force at all", r.zero, r.zero_error),
            ("prior alone", r.prior, r.prior_error),
            ("whole potential", r.model, r.model_error),
            ("noise (estimate)", r.noise, r.noise_error),
        )
    ]
    return note + blocks.table([f"on {r.frames} held-out frames", f"mean square error / {unit}", "explained"], rows)


def refinement(study: Study) -> Figure | None:
    """Energy difference that relative entropy drives to zero; None if there was no refinement."""
    logs = [log for log in study.history.get("refine", []) if "relative entropy gradient" in log]
    if not logs:
        return None
    with theme.style():
        figure, (left, right) = theme.panels(1, 2, 3.7, 2.5)
        steps = [log["step"] for log in logs]
        left.plot(steps, [log["relative entropy gradient"] for log in logs], color=theme.CG)
        left.axhline(0, color=theme.PALE, linewidth=0.8, zorder=0)
        left.set(xlabel="update", ylabel="β(⟨U⟩ref − ⟨U⟩CG)", title="Energy, reference − replicas")
        right.plot(steps, [log["temperature"] for log in logs], color=theme.CG)
        right.axhline(study.kT / units.kelvin, color=theme.REFERENCE, linewidth=1.2)
        right.set(xlabel="update", ylabel=units.label("temperature", "T"), title="Temperature of the replicas")
    return figure


def overview(study: Study) -> Figure:
    """One picture of the whole: the molecule painted by bead over the three free energy surfaces."""
    s = _surface_of(study)
    with theme.style():
        figure = theme.new_figure(13.6, 3.2)
        grid = figure.add_gridspec(1, 2, width_ratios=(3.9, 9.7))
        axes = figure.add_subplot(grid[0])
        painter.draw(axes, [layer.frame(0) for layer in map_layers(study, 2)])
        n = study.mapping
        axes.set_title(f"{n.n_atoms} atoms, {n.n_beads} beads")
        x, y = map(figures.axis_name, s.coordinates)
        figures.draw_triple(figure, grid[1].subgridspec(1, 3), s.reference, s.simulated, x, y, s.coordinates[0].quantity)
    return figure


def speed(study: Study) -> dict[str, float]:
    """Of the production run: replicas, beads, time step (fs), simulated time (ns), and, if it ran in this session, its speed."""
    t, r, n, _ = study.samples.shape
    logs = [log for log in study.history.get("simulate", []) if "ns/day" in log]
    out = {"replicas": r, "beads": n, "time step": study.time_step, "simulated": t * r * study.sample_interval / units.ns}
    if logs:
        per_day = float(np.mean([log["ns/day"] for log in logs]))
        out |= {"ns/day": per_day, "replica-steps/s": per_day * units.ns / study.time_step / 86400}
        out["temperature"] = float(np.mean([log["temperature"] for log in logs]))
    return out


def trajectories(study: Study, count: int = SHOWN_FRAMES) -> tuple[list[Layer], list[Layer]]:
    """(reference, coarse-grained) beads of one molecule: frames of the data, and one replica of the production run in time."""
    reference = map_layers(study, count)
    beads = reference[1]
    n, target = study.mapping.n_beads, beads.positions[0]
    run = study.samples[:, 0, :n]
    some = run[:: max(1, len(run) // count)][:count].numpy()
    cg = layers.bead_layer(
        layers.superposed(some, target), study.mapping.bonds, beads.radii * 0.62, study.mapping.names, opacity=1.0
    )
    return reference, [cg]


def nglview_pane(study: Study, count: int = SHOWN_FRAMES) -> Any:
    """The first molecule of the reference in nglview, painted by bead, with the beads over it; live sessions only."""
    import mdtraj

    from mlmd_widgets import nglpane

    atoms, beads = map_layers(study, count)
    n = study.mapping.n_atoms
    groups = study.mapping.assignment.tolist() if study.mapping.one_hot else None
    whole = mdtraj.Trajectory(atoms.positions / units.nm, study.frames.topology.subset(range(n)))
    coarse = mdtraj.Trajectory(beads.positions / units.nm, bead_topology(list(study.mapping.names), list(study.mapping.bonds)))
    return nglpane.pane(whole, groups, coarse, beads.radii.tolist())


def trajectories_html(study: Study) -> str:
    """Both trajectories beside each other, each to be turned and played."""
    reference, cg = trajectories(study)
    size = (438, 330)
    return blocks.row(
        [viewer.to_html(reference, title=theme.REFERENCE_NAME, size=size), viewer.to_html(cg, title=theme.CG_NAME, size=size)]
    )


def run_table(study: Study) -> str:
    """What was simulated, and how fast."""
    run = speed(study)
    rows = [
        ("replicas", f"{run['replicas']:.0f}"),
        ("beads of each", f"{run['beads']:.0f}"),
        ("time step / fs", f"{run['time step']:.1f}"),
        ("simulated, all replicas / ns", f"{run['simulated']:.1f}"),
    ]
    if study.rungs > 1:
        low, high = (factor * study.kT / units.kelvin for factor in (1, HOTTEST))
        rows.append(("temperatures of replica exchange", f"{study.rungs}: {low:.0f} to {high:.0f} K"))
    each = "replicas" if study.rungs == 1 else "replicas at all temperatures"
    if "ns/day" in run:
        rows += [
            (f"speed, {each} / ns/day", _rounded(run["ns/day"])),
            (f"steps per second, {each}", _rounded(run["replica-steps/s"])),
            (f"temperature / K (asked for {study.kT / units.kelvin:.0f})", f"{run['temperature']:.1f}"),
        ]
    return blocks.facts(rows, "production run")


def settings_table(study: Study) -> str:
    """All settings of the study, without those that groups of one's own, or a map that decides for itself, overrule."""
    s = study.settings
    overruled = {"groups"} if not s.groups else {"n_beads", "mapping"}
    if s.groups or s.mapping != "learned":
        overruled |= {"hydrogens", "rho"}
    if s.mapping in OWN_NUMBER:
        overruled.add("n_beads")
    if isinstance(s, LiquidSettings) and s.potential == "splines":
        overruled |= {"network_cutoff", "width", "depth", "train_steps"}
    return blocks.facts([(k, v) for k, v in asdict(s).items() if k not in overruled], "settings")


def lead(study: Study, name: str, seconds: float, short: bool = False) -> str:
    """The sentence under the title."""
    minutes = f"{seconds / 60:.1f} minutes" if seconds > 90 else f"{seconds:.0f} seconds"
    what = f"{name}: {len(study.frames):,} frames of {study.frames.n_atoms} atoms at {study.kT / units.kelvin:.4g} K"
    fast = blocks.note("A fast run: every stage is real but short. Look at the page, not at the numbers.", "warn") if short else ""
    return f'{fast}<p class="mlmd-lead">{html.escape(what)}. Made on {date.today():%d %B %Y} in {minutes}.</p>'


def prior_densities(comparison: Comparison) -> dict[str, Density1D]:
    """Distributions of a run under the prior alone, by name, to be laid under the others."""
    return {o.name: o.simulated for o in comparison.overlays}


def surface(study: Study) -> Figure:
    """Free energy: reference, coarse-grained, difference."""
    s = _surface_of(study)
    (x, y), quantity = s.coordinates, s.coordinates[0].quantity
    return figures.fes_triple(s.reference, s.simulated, figures.axis_name(x), figures.axis_name(y), quantity)


def surface_interactive(study: Study) -> Any:
    """The same to point at."""
    s = _surface_of(study)
    x, y = map(figures.axis_name, s.coordinates)
    pairs = [(theme.REFERENCE_NAME, s.reference), (theme.CG_NAME, s.simulated)]
    return figures.fes_interactive(pairs, x, y, s.coordinates[0].quantity)


def _surface_of(study: Study) -> SurfaceComparison:
    s = study.comparison.surface
    if s is None:
        raise ValueError("a molecule of one bead has no free energy surface")
    return s


def memory(study: Study) -> Figure:
    """Share of the replicas in the region in which all of them started, against time."""
    cvs = [np.asarray(c(study.samples.double())) for c in study.cvs]
    inside = study.start_region.contains(*cvs)
    share = inside.mean(1)
    error = np.sqrt(share * (1 - share) / inside.shape[1])
    n = study.mapping.n_beads
    molecules = study.beads.positions.cpu().double().reshape(-1, n, 3)
    reference = study.start_region.contains(*(np.asarray(c(molecules)) for c in study.cvs)).astype(float)
    from mlmd.analysis import block_average

    level = block_average(reference, n_blocks=10)
    time = np.arange(1, len(share) + 1) * study.sample_interval
    return figures.convergence(time, share, error, (float(level[0]), float(level[1])), study.start_region.name)


def divergence_table(study: Study) -> str:
    """JS divergence of the surface with what chance alone gives, and the sample sizes."""
    s, c = _surface_of(study), study.comparison
    f = s.floor
    rows = [
        ("coarse-grained against reference", f"{s.js:.4f}"),
        ("by chance: independent draws from the reference histogram", _plus_minus(f.multinomial, f.multinomial_std)),
        ("by chance: shuffled halves of the reference", _plus_minus(f.shuffled, f.shuffled_std)),
        ("by chance: halves of the reference in blocks of time", _plus_minus(f.block, f.block_std)),
        ("the prior alone, from reference frames (a shorter run)", f"{_prior_js(study):.4f}"),
    ]
    return blocks.table([f"JS divergence / nat ({c.n_simulated} samples against {c.n_reference})", "60 × 60 bins"], rows)


def _plus_minus(value: float, error: float) -> str:
    return f"{value:.4f} ± {error:.4f}" if np.isfinite(value) else "unknown"


def _prior_js(study: Study) -> float:
    s = study.prior_comparison.surface
    return float("nan") if s is None else s.js


def by_chance(s: SurfaceComparison) -> float:
    """JS divergence that two samples of these sizes from one distribution have: shuffled halves where there are, else draws."""
    return s.floor.shuffled if np.isfinite(s.floor.shuffled) else s.floor.multinomial


def population_table(study: Study) -> str:
    """Populations of the regions with block errors, and their differences in percentage points."""
    rows = []
    for a, b in _surface_of(study).populations:
        gap, error = 100 * (b.fraction - a.fraction), 100 * float(np.hypot(a.error, b.error))
        shown = [blocks.with_error(100 * p.fraction, 100 * p.error) for p in (a, b)]
        rows.append((theme.pretty(a.name), *shown, blocks.with_error(gap, error)))
    return blocks.table(["population", "reference / %", "coarse-grained / %", "difference / points"], rows)


def verdicts(study: Study) -> str:
    """The judgements on convergence, in words."""
    s = _surface_of(study)
    named = (("Reference", s.reference_halves), ("Coarse-grained run", s.simulated_halves), ("Start", s.start))
    return "".join(
        blocks.note(f"{name}: {v.sentence.replace('+-', '±')}", "good" if v.converged else "warn")
        for name, v in named
        if v is not None
    )


def cards(study: Study) -> str:
    """The numbers to read first."""
    out = [
        Card(
            f"{study.mapping.n_atoms} → {study.mapping.n_beads}",
            "",
            f"atoms to beads, {'own' if study.settings.groups else study.settings.mapping} map",
        )
    ]
    if study.mapping.n_beads < study.mapping.n_atoms:
        out.append(Card(f"{rmsd_put_back(study.mapping, study.frames):.2f}", "Å", "RMSD of all atoms put back by a linear decoder"))
    if study.forces is not None:
        share = 100 * study.forces.explained(study.forces.model)
        out.append(Card(f"{share:.0f}", "%", "of the explainable mean square force explained", "good" if share > 90 else "warn"))
    s = study.comparison.surface
    if s is not None:
        floor = by_chance(s)
        good = s.js <= 2 * floor + 0.01
        out.append(
            Card(f"{s.js:.3f}", "nat", f"JS divergence of the surface; {floor:.3f} by chance alone", "good" if good else "warn")
        )
        if s.start is not None:
            word = "yes" if s.start.converged else "no"
            out.append(Card(word, "", "start basin forgotten by the replicas", "good" if s.start.converged else "warn"))
    run = speed(study)
    if "ns/day" in run:
        out.append(Card(_rounded(run["ns/day"] / 1000), "µs/day", f"all {run['replicas']:.0f} replicas together"))
    return blocks.cards(out)


def _rounded(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 10 else f"{value:.2g}"


def timing_table(study: Study) -> str:
    """Seconds of every stage, and the memory that was needed."""
    total = sum(study.timings.values())
    rows = [(stage, f"{seconds:.1f}") for stage, seconds in study.timings.items()]
    rows += [("together", f"{total:.1f}"), ("peak memory / GB", f"{_peak_memory() / 1e9:.2f}")]
    return blocks.table(["stage", "time / s"], rows)


def _peak_memory() -> float:
    """Of this process, bytes; nan where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def version_table(study: Study) -> str:
    """Versions, machine, seed: what it takes to do it again."""
    rows = [
        ("Python", platform.python_version()),
        ("machine", f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} thread(s)"),
    ]
    for name in REPORTED:
        try:
            rows.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    rows += [("seed", str(study.settings.seed)), ("device", study.settings.device)]
    return blocks.facts(rows, "versions")


def at_least_one(**values: int) -> None:
    """Refuse counts below one.

    Raises:
        ValueError: naming the first of them.
    """
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")


@contextmanager
def doubts() -> Iterator[list[str]]:
    """Collects what the checks at the door warn of while data are read, and still warns of it."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InputWarning)
        yield found
    for w in caught:
        if issubclass(w.category, InputWarning):
            found.append(str(w.message))
        warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)


def with_times(frames: Frames, frame_ps: float | None, file: str, doubts: list[str]) -> Frames:
    """The frames with ``frame_ps`` between them, or as they are if it is None; of files that hold no times a doubt is added.

    Raises:
        ValueError: times that are not positive.
    """
    if frame_ps is None:
        if file.lower().endswith(".dcd") and is_liquid(frames):
            doubts.append(
                "A DCD file does not say when its frames are: they are taken to be 1 ps apart. Give frame_ps, or do not trust how fast atoms move."
            )
        return frames
    if not frame_ps > 0:
        raise ValueError(f"frame_ps={frame_ps}: must be positive, the time between two frames in ps")
    return replace(frames, time=frame_ps * units.ps * torch.arange(len(frames), dtype=torch.float64))


def doubt_notes(found: Sequence[str]) -> str:
    """The doubts of the checks at the door, to be read before anything that follows from the data."""
    return "".join(blocks.note(text, "warn") for text in found)


def data_table(frames: Frames, name: str) -> str:
    """What the reference is and where it came from."""
    rows: list[tuple[str, Any]] = [("data", name), ("frames", f"{len(frames):,}"), ("atoms", frames.n_atoms)]
    if frames.kT is not None:
        rows.append(("temperature", f"{frames.kT / units.kelvin:.4g} K"))
    rows.append(("forces", "yes" if frames.forces is not None else "no"))
    rows.append(("box", "periodic" if frames.periodic else "none"))
    rows += [
        (key, value) for key, value in frames.provenance.items() if isinstance(value, (str, int, float)) and len(str(value)) < 200
    ]
    return blocks.facts(rows)
