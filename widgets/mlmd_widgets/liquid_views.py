"""A :class:`mlmd.cg.liquid_study.LiquidStudy` in pictures and words: what the report notebook shows of a liquid, from the results alone."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure

from mlmd import units
from mlmd.cg.liquid_bonded import BondedTarget
from mlmd.cg.liquid_comparison import BLOCKS, FINEST, LETTERS, Measured, apart, peak_of
from mlmd.cg.liquid_study import LiquidStudy, mass_density
from mlmd.frames import Frames
from mlmd.observables import Density1D
from mlmd.observables.blocks import block_mean
from mlmd.observables.unwrap import centres, molecules
from mlmd_widgets import blocks, figures, painter, theme
from mlmd_widgets.blocks import Card
from mlmd_widgets.layers import Layer
from mlmd_widgets.painter import Camera

OFF = 0.06  # share of the temperature by which a sample may differ before it is mistrusted
BEADS_SHOWN = 2500  # spheres in one picture
GOOD, FAIR = 0.03, 0.95  # mean abs difference of g(r), overlap of densities: what a bead liquid is expected to reach
METHOD_NAMES = {
    "relative-entropy": "relative entropy (Newton)",
    "ibi": "iterative Boltzmann inversion",
    "imc": "inverse Monte Carlo",
    "force-matching": "force matching",
    "none": "no iteration",
}


def density_of(frames: Frames) -> str:
    """Mass per volume, and how much the volume varies if it does."""
    assert frames.cell is not None
    volume = torch.linalg.det(frames.cell.double()).abs()
    spread = float(volume.std() / volume.mean())
    return f"{mass_density(frames):.4f} g/cm³" + (f", volume ± {spread:.1%}" if spread > 1e-4 else "")


def box_facts(study: LiquidStudy) -> str:
    """Molecules, box, density and spacing in time: where wrong units show first."""
    f = study.frames
    assert f.cell is not None and f.time is not None
    count = int(molecules(f).max()) + 1
    edges = " × ".join(f"{float(x):.2f}" for x in f.cell[0].norm(dim=-1))
    rows = [
        ("molecules", f"{count}, of {f.n_atoms // count} atoms each"),
        ("box / Å", edges),
        ("density", density_of(f)),
        (
            "length / ps",
            f"{float(f.time[-1] - f.time[0]) / units.ps:.4g}, a frame every {float(f.time[1] - f.time[0]) / units.ps:.3g}",
        ),
    ]
    return blocks.facts(rows, "the box")


def type_note(study: LiquidStudy) -> str:
    """Which beads are alike, and so share a potential."""
    types, letters = study.mapping.types.tolist(), LETTERS
    kinds = [[name for name, t in zip(study.mapping.names, types) if t == k] for k in sorted(set(types))]
    told = "; ".join(f"{letters[k % len(letters)]}: {', '.join(names)}" for k, names in enumerate(kinds))
    word = "type" if len(kinds) == 1 else "types"
    return blocks.note(
        f"One map for all {study.mapping.n_molecules} molecules, found on molecules that were made whole across the boundary. {len(kinds)} {word} of "
        f"beads, {told}: those of one type are made of the same atoms and share one potential."
    )


def targets(study: LiquidStudy) -> Figure:
    """g(r) of the reference by pair of bead types and of centres of mass."""
    return figures.rdfs({name: (g, None) for name, g in study.reference_rdfs.items()})


def bonded_targets(study: LiquidStudy) -> Figure | None:
    """Densities of the bonded terms of the reference; None for single beads."""
    target: BondedTarget | None = study.structure.bonded
    if target is None:
        return None
    items = {}
    for term, d in zip(target.terms, target.reference):
        name = f"{term.kind.removesuffix('s')} {study.structure.along(term.types)}"
        items[name] = _shown(term.kind, d)
    return figures.densities(items)


def _shown(kind: str, d: Density1D) -> tuple[str, Density1D]:
    """Axis label, and the density in its unit."""
    if kind == "cosines":
        return "cos θ", d
    quantity = "length" if kind == "bonds" else "angle"
    f = units.SHOWN[quantity].factor
    return f"{'r' if kind == 'bonds' else 'φ'} / {units.SHOWN[quantity].label}", Density1D(d.edges / f, d.density * f, d.error * f)


def iteration_logs(study: LiquidStudy) -> list[dict]:
    """Of the refinement, those of iterations."""
    return [log for log in study.history.get("refine", []) if "iteration" in log]


def refinement(study: LiquidStudy) -> Figure:
    """Structure and pressure against the iteration."""
    s, terms = study.settings, _all_terms(study)
    return figures.iterations(iteration_logs(study), s.tolerance * (1 if terms else 2), "mean" if terms else "largest", s.pressure)


def _all_terms(study: LiquidStudy) -> bool:
    """Whether bonded terms are corrected together with the pairs."""
    return study.structure.bonded is not None and study.settings.bonded == "splines"


def network_training(study: LiquidStudy) -> Figure | None:
    """Held-out force error while the network was trained; None without a network."""
    logs = [log for log in study.history.get("refine", []) if "held-out" in log]
    if not logs:
        return None
    factor, unit = units.SHOWN["force^2"]
    steps = [log["step"] for log in logs]
    curves = {"training": [log["force"] / factor for log in logs], "held out": [log["held-out"] / factor for log in logs]}
    return figures.courses(steps, curves, "step", f"mean square error / {unit}", "Force matching of the network")


def refinement_notes(study: LiquidStudy) -> str:
    """How the refinement ended, in words."""
    logs, fitted, s = iteration_logs(study), study.fitted, study.settings
    out = "".join(blocks.note(log["trouble"], "warn") for log in study.history.get("refine", []) if "trouble" in log)
    out += "".join(blocks.note(text, "warn") for text in _hot(study, logs))
    numbers = f"mean |Δg| {fitted.mean:.3f}, largest {fitted.largest:.3f} in its sample of {s.iteration_ps:g} ps"
    method = METHOD_NAMES[s.method]
    if fitted.converged:
        return out + blocks.note(f"Converged after {len(logs)} iteration(s) by {method}: {numbers}.", "good")
    if s.method in ("none", "force-matching"):
        return out + blocks.note(f"{method[0].upper()}{method[1:]}: {numbers}.")
    wanted = f"a mean below {s.tolerance:g}" if _all_terms(study) else f"a largest below {2 * s.tolerance:g}"
    return out + blocks.note(
        f"Not converged within {len(logs)} iteration(s) by {method}; the best potential is kept: {numbers}; {wanted} is wanted. More iterations, "
        "a longer iteration_ps or another method may help.",
        "warn",
    )


def _hot(study: LiquidStudy, logs: list[dict]) -> list[str]:
    """A warning if the sample of the kept potential had another temperature than the thermostat's."""
    wanted = study.kT / units.kelvin
    kept = [log["temperature"] for log in logs if log["mean"] == study.fitted.mean]
    if not kept or abs(kept[-1] / wanted - 1) < OFF:
        return []
    return [
        f"The sample of the kept potential had {kept[-1]:.0f} K instead of {wanted:.0f} K: its time step of {study.time_step:g} fs is too long; give a shorter one."
    ]


def potentials(study: LiquidStudy) -> Figure:
    """First guess and result for every pair of types."""
    r = study.basis.knots[:-1].numpy()
    first = "correction, begins at zero" if study.settings.potential != "splines" else "first guess"
    curves = {
        name: {first: study.guess[k].numpy(), "fitted": study.fitted.values[k].numpy()}
        for k, name in enumerate(study.structure.names)
    }
    if study.settings.potential != "splines":
        curves = {name: {"splines on top of the network": c["fitted"]} for name, c in curves.items()}
    return figures.pair_potentials(r, curves, study.kT)


def snapshot(study: LiquidStudy) -> Figure:
    """The last frame of the atoms and of the beads, and of the enlarged box: spheres in the box, molecules whole, coloured by bead."""
    shown = {"atoms, painted by bead": _atoms_in_box(study), "beads": _beads_in_box(study, study.run_frames)}
    large = study.large_frames
    if large is not None and large.n_atoms <= BEADS_SHOWN:
        shown[f"beads, {study.settings.repeats} × {study.settings.repeats} × {study.settings.repeats}"] = _beads_in_box(
            study, large
        )
    with theme.style():
        figure = theme.new_figure(3.9 * len(shown), 4.1)
        for k, (title, layers) in enumerate(shown.items()):
            axes = figure.add_subplot(1, len(shown), k + 1)
            painter.draw(axes, layers, _corner_view(layers), width=700)
            axes.set_title(title)
        painter.add_bead_legend(figure, list(study.mapping.names))
    return figure


def _atoms_in_box(study: LiquidStudy) -> list[Layer]:
    f, m = study.frames, study.mapping
    assert f.cell is not None
    x = m.whole(f.positions[-1:].double(), f.cell[-1:].double())
    owner = m.assignment.tolist() * m.n_molecules if m.one_hot else [0] * f.n_atoms
    return _in_box("atoms", f, x, owner, 0.55)


def _beads_in_box(study: LiquidStudy, f: Frames) -> list[Layer]:
    n = study.mapping.n_beads
    radius = 0.42 * peak_of(study.reference_rdfs[study.structure.names[0]])[0]
    return _in_box("beads", f, f.positions[-1:].double(), [k % n for k in range(f.n_atoms)], radius)


def _in_box(name: str, f: Frames, x: torch.Tensor, owner: list[int], radius: float) -> list[Layer]:
    """Balls with centres of molecules inside the box, and its edges."""
    assert f.cell is not None and f.masses is not None
    cell, labels = f.cell[-1].double().cpu(), molecules(f)
    middle = centres(x, f.masses, labels)[0]
    moved = (x[0] - (torch.floor(middle @ torch.linalg.inv(cell)) @ cell)[labels]).numpy()
    colors = tuple(theme.bead_color(b) if b >= 0 else theme.PALE for b in owner)
    balls = Layer(name, moved, np.full(len(moved), radius), colors, ("",) * len(moved), tuple(f.bonds), min(0.35, radius / 3))
    corners = (torch.cartesian_prod(*[torch.arange(2.0)] * 3).double() @ cell).numpy()
    edges = tuple((a, b) for a in range(8) for b in range(a + 1, 8) if bin(a ^ b).count("1") == 1)
    thin = 0.006 * float(cell.norm(dim=-1).max())
    frame = Layer("box", corners, np.full(8, thin), (theme.GREY,) * 8, ("",) * 8, edges, thin)
    return [balls, frame]


def _corner_view(layers: list[Layer], turn: float = 0.45, tilt: float = 0.3) -> Camera:
    """From above one corner of the box."""
    about_y = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(tilt), np.sin(tilt)], [0, -np.sin(tilt), np.cos(tilt)]])
    rotation = about_y @ about_x
    everything = np.concatenate([layer.positions[0] for layer in layers]).astype(float)
    reach = np.concatenate([layer.radii for layer in layers])[:, None]
    centre = layers[-1].positions[0].astype(float).mean(0)
    half = (np.abs((everything - centre) @ rotation) + reach).max(0) * 1.03
    return Camera(rotation, centre, (float(half[0]), float(half[1])))


def structure(study: LiquidStudy) -> Figure:
    """g(r) of beads over that of the atoms."""
    return figures.rdfs(study.comparison.rdfs)


def bonded(study: LiquidStudy) -> Figure | None:
    """Densities of bonds, angles and dihedrals over those of the atoms; None for single beads."""
    return figures.overlays(study.comparison.overlays) if study.comparison.overlays else None


def structure_table(study: LiquidStudy) -> str:
    """Differences of g(r) with the noise to expect, and overlaps of densities, with the sizes of the samples."""
    c = study.comparison
    rows = []
    for name, pair in c.rdfs.items():
        d = apart(*pair)
        peaks = [f"{g:.2f} at {r:.2f}" if g > 1.02 else "none" for r, g in map(peak_of, pair)]
        rows.append((name, f"{d['mean']:.3f}", f"{d['noise']:.3f}", f"{d['max']:.3f}", *peaks))
    head = [
        f"g(r) up to {study.structure.r_max:.1f} Å",
        "mean |Δg|",
        "by noise alone",
        "largest |Δg|",
        "first peak, atoms",
        "first peak, beads",
    ]
    sizes = f"{len(study.beads):,} frames of the atoms, {c.small.frames:,} of the beads."
    out = blocks.table(head, rows)
    if c.overlays:
        out += blocks.table(["density", "overlap", "JS / nat"], [(o.name, f"{o.overlap:.3f}", f"{o.js:.4f}") for o in c.overlays])
    if c.mean_squares:
        shown = [
            (f"⟨{name}²⟩ / Å²", _told(a, 1.0), _told(b, 1.0), f"{100 * (b.value / a.value - 1):+.1f} %")
            for name, (a, b) in c.mean_squares.items()
        ]
        out += blocks.table(["size of a molecule", "atoms, as beads", "beads", "difference"], shown)
    return out + f'<p class="mlmd-small">{sizes}</p>'


def enlarged(study: LiquidStudy) -> Figure | None:
    """g(r) in both boxes; None without a larger one."""
    c, s = study.comparison, study.settings
    return figures.two_boxes(c.large, ("box of the atoms", f"{s.repeats**3} times as many beads")) if c.large else None


def run_table(study: LiquidStudy) -> str:
    """What was simulated: size, length, temperature, pressure, energy; the enlarged box beside it."""
    c, s = study.comparison, study.settings
    runs = [("box of the atoms", c.small, "simulate", study.run_frames)]
    if c.box is not None and study.large_frames is not None:
        runs.append((f"{s.repeats} × {s.repeats} × {s.repeats}", c.box, "enlarged", study.large_frames))
    rows = []
    for label, one in (
        ("beads", lambda r: f"{r[1].n_beads:,}"),
        ("time step / fs", lambda r: f"{study.time_step:g}"),
        ("friction / 1/ps", lambda r: f"{study.friction * units.ps:g}"),
        ("length / ps (frames)", lambda r: f"{_length(r[3]):.3g} ({r[1].frames})"),
        (f"temperature / K (asked for {study.kT / units.kelvin:.1f})", lambda r: _mean_of(study, r[2], "temperature")),
        ("pressure / bar", lambda r: _told(r[1].pressure, units.bar)),
        ("energy per bead / meV", lambda r: _told(r[1].energy, 1e-3)),
        ("speed / ns/day", lambda r: _mean_of(study, r[2], "ns/day")),
    ):
        rows.append((label, *(one(r) for r in runs)))
    return blocks.table(["production run", *(r[0] for r in runs)], rows)


def _length(f: Frames) -> float:
    assert f.time is not None
    return float(f.time[-1] - f.time[0] + (f.time[1] - f.time[0])) / units.ps


def _mean_of(study: LiquidStudy, stage: str, name: str) -> str:
    values = [log[name] for log in study.history.get(stage, []) if name in log]
    if not values:
        return "of an earlier session"
    if name != "temperature" or len(values) < 2 * BLOCKS:
        return f"{np.mean(values):.4g}"
    return blocks.with_error(*block_mean(np.array(values), BLOCKS))


def _told(m: Measured, unit: float) -> str:
    return blocks.with_error(m.value / unit, m.error / unit)


def pressure_note(study: LiquidStudy) -> str:
    """What the pressure of the beads means."""
    p = study.comparison.small.pressure
    told = _told(p, units.bar)
    if study.settings.pressure is not None:
        return blocks.note(f"Pressure {told} bar; {study.settings.pressure:g} bar were asked for.")
    return blocks.note(
        f"The beads have {told} bar. A g(r) hardly feels the slow tail of a potential that makes the pressure, and no pressure was asked for: "
        "method='ibi' with pressure=1 (bar) fits it as well."
    )


def motion(study: LiquidStudy) -> list[tuple[Figure, str]]:
    """MSD, relaxation functions and acceleration factors, each with words for those who cannot see it."""
    m = study.comparison.motion
    if m is None:
        return []
    curves = {theme.REFERENCE_NAME: m.reference, theme.CG_NAME: m.beads}
    out = [(figures.displacements(curves), "mean square displacements of molecules, atoms and beads")]
    if m.reference.correlations:
        out.append((figures.relaxations(curves), "relaxation functions of molecules, atoms and beads"))
    v = study.comparison.velocities
    if v:
        named = {theme.REFERENCE_NAME: v["reference"], theme.CG_NAME: v["simulated"]}
        out.append(
            (figures.velocity_correlation(named), "velocity autocorrelations of molecules, atoms and beads, and their integrals")
        )
    return [*out, (figures.acceleration(m), "factors by which beads are faster than atoms")]


def motion_table(study: LiquidStudy) -> str:
    """D and relaxation times with errors, the factor of acceleration, the fitted friction, and what is to be mistrusted."""
    m, c = study.comparison.motion, study.comparison
    out = ""
    if m is not None:
        rows = [
            (
                _quantity(r["quantity"]),
                blocks.with_error(r["reference"], r["+-"]),
                blocks.with_error(r["beads"], r["+- "]),
                blocks.with_error(r["factor"], r["+-  "]),
            )
            for r in m.rows()
        ]
        out += blocks.table(["quantity", "atoms", "beads", "beads / atoms: times as fast"], rows)
    if not c.velocities:
        out += blocks.note(
            f"No velocity autocorrelation: its velocities are differences between frames, which may be {FINEST / units.ps:g} ps apart at most. Give more "
            "closely spaced frames of the atoms (`mlmd data generate`, or stride=1), and a longer run."
        )
    out += "".join(blocks.note(n.replace("+-", "±"), "warn") for n in c.notes)
    return out + friction_note(study)


def _quantity(name: str) -> str:
    return theme.pretty(name).replace("1e-9 m^2/s", "10⁻⁹ m²/s").replace("Rg^2", "Rg²")


def friction_note(study: LiquidStudy) -> str:
    """The friction that makes beads diffuse like atoms, if it was fitted."""
    rounds = study.friction_fit
    if not rounds:
        return ""
    last, ps = rounds[-1], units.ps
    told = blocks.with_error(last.estimate * ps, last.error * ps)
    end = "" if last.converged else " It is not settled: more friction_rounds or a longer simulate_ps."
    return blocks.note(
        f"A Langevin friction of {told} /ps would make molecules diffuse as those of the atoms do ({len(rounds)} rounds).{end}",
        "good" if last.converged else "warn",
    )


def cards(study: LiquidStudy) -> str:
    """The numbers to read first."""
    c, n = study.comparison, study.mapping
    out = [
        Card(f"{n.n_atoms} → {n.n_beads}", "", f"atoms to beads per molecule, {n.n_molecules} molecules, {_map_name(study)} map")
    ]
    wrong = {name: apart(*pair) for name, pair in c.rdfs.items()}
    between = max(d["mean"] for name, d in wrong.items() if name in study.structure.names)
    noise = max(d["noise"] for name, d in wrong.items() if name in study.structure.names)
    out.append(Card(f"{between:.3f}", "", f"mean |Δg| of beads; {noise:.3f} by noise alone", _kind(between < GOOD)))
    if "centres of mass" in wrong:
        middle = wrong["centres of mass"]
        out.append(
            Card(
                f"{middle['mean']:.3f}",
                "",
                f"mean |Δg| of centres, not fitted; {middle['noise']:.3f} by noise",
                _kind(middle["mean"] < max(GOOD, 1.5 * middle["noise"])),
            )
        )
    bonded = [o for o in c.overlays if o.kind in ("bond", "angle", "dihedral")]
    if bonded:
        least = min(bonded, key=lambda o: o.overlap)
        out.append(
            Card(
                f"{least.overlap:.3f}",
                "",
                f"least overlap of bonded densities ({least.name.split()[0]})",
                _kind(least.overlap > FAIR),
            )
        )
    if c.motion is not None:
        d = c.motion.diffusion
        out.append(Card(f"{d.value:.2f}", f"±\u00a0{d.error:.2f}", "times as fast as the atoms: diffusion of the beads"))
    if c.box is not None:
        change = max(apart(*c.large[name])["mean"] for name in study.structure.names)
        out.append(
            Card(
                f"{change:.3f}",
                "",
                f"mean |Δg| of beads, box of {c.box.n_beads:,} beads against that of {c.small.n_beads:,}",
                _kind(change < 0.02),
            )
        )
    return blocks.cards(out)


def _kind(good: bool) -> str:
    return "good" if good else "warn"


def _map_name(study: LiquidStudy) -> str:
    return "own" if study.settings.groups else study.settings.mapping
