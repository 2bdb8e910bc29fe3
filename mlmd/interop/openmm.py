"""OpenMM: classical potentials as its own formulas, any other one through its ``PythonForce``.

Units there are nm, ps, kJ/mol and amu; they are converted here. Pair laws are OpenMM's ``CustomNonbondedForce`` with the exact
expression, its own quintic switch being the one of :func:`mlmd.potentials.pair.switch`; splines and tables become their exact
polynomials. Only below ``0.3 sigma`` (Yukawa: 0.1 A), where the laws here go on as straight lines, does OpenMM see the bare law.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mlmd import units
from mlmd.cell import minimum_image, spanning_tree
from mlmd.errors import require
from mlmd.forces import Potential
from mlmd.interop.evaluator import Evaluator
from mlmd.interop.terms import (
    BondedTerm,
    ChargeTerm,
    PairTerm,
    Pieces,
    Terms,
    constants,
    reduced_cell,
    sampled_pieces,
    seen_among,
    spline_pieces,
    take_apart,
    unsupported,
)
from mlmd.potentials.bonded import (
    STRAIGHT,
    CosineAngles,
    FourierDihedrals,
    HarmonicAngles,
    HarmonicBonds,
    PowerRepulsion,
    SplineAngles,
    SplineBonds,
    SplineCosines,
    SplineDihedrals,
    SplineTorsions,
)
from mlmd.potentials.coulomb import CoulombDSF
from mlmd.potentials.ewald import Ewald
from mlmd.potentials.pair import CORE, WCA, LennardJones, Morse, PairPotential, SoftSphere, Yukawa
from mlmd.potentials.spline import CubicSplinePair, TabulatedPair
from mlmd.system import System

ENERGY = 1.0 / units.kJ_mol  # eV -> kJ/mol
LENGTH = 1.0 / units.nm  # A -> nm
INTERVALS = 2000  # of a pair law that OpenMM has no expression for


def to_openmm(
    potential: nn.Module, system: System, *, names: Sequence[str] | None = None, bonds: Sequence[tuple[int, int]] = ()
) -> tuple[Any, Any]:
    r"""``(openmm.System, openmm.app.Topology)`` of a classical potential for one system.

    Energies and forces are those of ``mlmd.energy_forces`` within OpenMM's precision. Positions for a ``Context`` come from
    :func:`positions_nm`, masses from ``system.masses``.

    Args:
        potential: sum of pair laws, exclusions and bonded laws, scaled and shifted at will.
        system: one system; its types, masses and cell are used.
        names: of the particles, for the topology (default: ``T`` and the type).
        bonds: pairs of particles for the topology (default: those of ``HarmonicBonds``).

    Raises:
        ValueError: a potential without a formula, named with its class; a cell that OpenMM does not take, or less than two cutoffs
            wide; types that the potential has no parameters for.
        MissingExtra: OpenMM is absent.
    """
    mm = require("openmm", extra="reference")
    terms = take_apart(potential, system)
    out = empty_system(mm, system)
    for number, term in enumerate(terms.pairs):
        out.addForce(_nonbonded(mm, term, terms, system, group=number))
        if again := seen_among(terms.excluded, term):
            out.addForce(_seen_again(mm, term, again, system))
    for number, charge in enumerate(terms.charges, len(terms.pairs)):
        for force in _charges(mm, charge, terms, system, group=number):
            out.addForce(force)
    for bonded in terms.bonded:
        out.addForce(_bonded(mm, bonded, system))
    if constant := terms.constant + _self_energy(terms, system):
        out.addForce(_named(mm.CustomCVForce(repr(constant * ENERGY)), "constant"))
    return out, topology(system, names, bonds or _harmonic_bonds(terms, system))


def to_openmm_python(
    potential: Potential,
    system: System,
    *,
    skin: float = 1.0,
    names: Sequence[str] | None = None,
    bonds: Sequence[tuple[int, int]] = (),
) -> tuple[Any, Any]:
    """``(openmm.System, openmm.app.Topology)`` with one ``PythonForce`` that calls ``potential``: any potential of mlmd, at its speed.

    The neighbour list is made for cutoff + ``skin`` (A) and again when a particle has moved half the skin. Platforms may hand over
    particles moved by a lattice vector, one by one: give ``bonds`` if the potential acts on whole molecules, they are joined again.

    Raises:
        ValueError: several systems, a cell that OpenMM does not take, or an OpenMM without ``PythonForce``.
        MissingExtra: OpenMM is absent.
    """
    mm = require("openmm", extra="reference")
    if not hasattr(mm, "PythonForce"):
        raise ValueError(f"OpenMM {mm.__version__} has no PythonForce: install a newer one, for instance 8.6")
    out = empty_system(mm, system)
    levels = bond_levels(len(system), bonds) if system.periodic else []
    force = mm.PythonForce(_Computation(Evaluator(potential, system, skin), levels))
    force.setUsesPeriodicBoundaryConditions(system.periodic)
    out.addForce(_named(force, type(potential).__name__))
    return out, topology(system, names, bonds)


@dataclass(frozen=True, eq=False)
class _Computation:
    """What ``PythonForce`` calls: a state of OpenMM in, energy (kJ/mol) and forces (kJ/mol/nm) out."""

    evaluator: Evaluator
    levels: list[tuple[Tensor, Tensor]]

    def __call__(self, state: Any) -> tuple[float, Any]:
        import openmm.unit as mu

        positions = state.getPositions(asNumpy=True).value_in_unit(mu.angstrom)
        cell = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(mu.angstrom) if self.evaluator.periodic else None
        if self.levels:
            positions = joined(torch.tensor(positions), torch.tensor(cell), self.levels)
        out = self.evaluator(positions, cell)
        return float(out.energy) * ENERGY, out.forces.cpu().double().numpy() * (ENERGY / LENGTH)


def bond_levels(n: int, bonds: Sequence[tuple[int, int]]) -> list[tuple[Tensor, Tensor]]:
    """(parents, children) of the bonds of ``n`` particles, generation by generation from the first particle of every molecule."""
    depth, levels = [0] * n, defaultdict(list)
    for parent, child in spanning_tree(n, bonds):
        depth[child] = depth[parent] + 1
        levels[depth[child]].append((parent, child))
    return [(pairs[:, 0], pairs[:, 1]) for pairs in (torch.tensor(levels[d]) for d in sorted(levels))]


def joined(positions: Tensor, cell: Tensor, levels: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Positions (N, 3) with every child at the image nearest to its parent; :func:`mlmd.cell.make_whole` for many molecules at once."""
    x = positions.clone()
    for parents, children in levels:
        x[children] = x[parents] + minimum_image(x[children] - x[parents], cell)
    return x


def positions_nm(system: System) -> Any:
    """Positions (N, 3) as a NumPy array in nm, for ``Context.setPositions``."""
    return system.positions.detach().double().cpu().numpy() * LENGTH


def empty_system(mm: Any, system: System) -> Any:
    """An ``openmm.System`` with the masses and the cell of one system, and no forces.

    Raises:
        ValueError: several systems; periodic in some directions only; a cell that is not lower triangular.
    """
    if system.n_systems != 1:
        raise ValueError(f"system holds {system.n_systems} systems: choose one, for instance system.select([0])")
    if system.periodic and not bool(system.pbc.all()):
        raise ValueError(f"pbc={system.pbc[0].tolist()}: OpenMM knows systems periodic in all directions or in none")
    out = mm.System()
    for mass in (system.masses.double() / units.amu).tolist():
        out.addParticle(mass)
    if system.periodic:
        out.setDefaultPeriodicBoxVectors(*(mm.Vec3(*row) for row in (reduced_cell(system) * LENGTH).tolist()))
    return out


def topology(system: System, names: Sequence[str] | None = None, bonds: Sequence[tuple[int, int]] = ()) -> Any:
    """An ``openmm.app.Topology``: one chain, every set of bonded particles a residue ``CG``.

    Raises:
        ValueError: not one name per particle.
    """
    app = require("openmm.app", extra="reference")
    names = [f"T{t}" for t in system.types.tolist()] if names is None else list(names)
    if len(names) != len(system):
        raise ValueError(f"names holds {len(names)} names for {len(system)} particles: give one each")
    out = app.Topology()
    chain = out.addChain()
    molecule = molecules(len(system), bonds)
    residues = {m: out.addResidue("CG", chain) for m in dict.fromkeys(molecule)}
    atoms = [out.addAtom(name, None, residues[m]) for name, m in zip(names, molecule)]
    for i, j in bonds:
        out.addBond(atoms[i], atoms[j])
    if system.periodic:
        import openmm.unit as mu

        out.setPeriodicBoxVectors((reduced_cell(system) * LENGTH).tolist() * mu.nanometer)
    return out


def molecules(n: int, bonds: Sequence[tuple[int, int]]) -> list[int]:
    """Number of the molecule of each of ``n`` particles, molecules being what bonds join, counted from 0 by their first particle."""
    root = list(range(n))

    def top(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for i, j in bonds:
        a, b = top(i), top(j)
        root[max(a, b)] = min(a, b)
    order = {r: k for k, r in enumerate(dict.fromkeys(top(i) for i in range(n)))}
    return [order[top(i)] for i in range(n)]


def _harmonic_bonds(terms: Terms, system: System) -> list[tuple[int, int]]:
    rows = [t.atoms(system).reshape(-1, 2).tolist() for t in terms.bonded if isinstance(t.law, HarmonicBonds)]
    return sorted({(min(i, j), max(i, j)) for part in rows for i, j in part})


def _named(force: Any, name: str) -> Any:
    force.setName(name)
    return force


# -- pair laws ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Expression:
    """A pair law for OpenMM: ``energy`` in kJ/mol of ``r`` in nm, in terms of ``parameters`` (T, T) and of ``tables``."""

    energy: str
    parameters: dict[str, Tensor] = field(default_factory=dict)
    tables: dict[str, Tensor] = field(default_factory=dict)


def _lennard_jones(law: LennardJones, types: list[int]) -> Expression:
    return Expression("4*epsilon*(s^12-s^6); s=sigma/r", _scaled(law, types, epsilon=ENERGY, sigma=LENGTH))


def _wca(law: WCA, types: list[int]) -> Expression:
    inside = "select(step(s^6-0.5), 4*epsilon*(s^12-s^6)+epsilon, 0); s=sigma/r"
    return Expression(inside, _scaled(law, types, epsilon=ENERGY, sigma=LENGTH))


def _morse(law: Morse, types: list[int]) -> Expression:
    parameters = _scaled(law, types, depth=ENERGY, width=1.0 / LENGTH, distance=LENGTH)
    return Expression("depth*x*(x-2); x=exp(-width*(r-distance))", parameters)


def _yukawa(law: Yukawa, types: list[int]) -> Expression:
    return Expression("strength*exp(-kappa*r)/r", _scaled(law, types, strength=ENERGY * LENGTH, kappa=1.0 / LENGTH))


def _soft_sphere(law: SoftSphere, types: list[int]) -> Expression:
    return Expression(f"epsilon*(sigma/r)^{law.power!r}", _scaled(law, types, epsilon=ENERGY, sigma=LENGTH))


def _splines(law: CubicSplinePair | TabulatedPair, types: list[int]) -> Expression:
    return _pieces(spline_pieces(law, types))


def _pieces(pieces: Pieces) -> Expression:
    k, c = pieces.coefficients.shape[1], pieces.coefficients * ENERGY
    energy = (
        "c0(k)+inside*(c1(k)+inside*(c2(k)+inside*c3(k)))+c1(k)*min(t,0); inside=max(t,0); "  # a straight line below the first knot
        f"t=x-place; k=place+row*{k}; place=min(max(floor(x),0),{k - 1}); "
        f"x=(r-{pieces.start * LENGTH!r})/{pieces.spacing * LENGTH!r}"
    )
    return Expression(energy, {"row": pieces.row.double()}, {f"c{n}": c[:, :, n].reshape(-1) for n in range(4)})


def _scaled(law: nn.Module, types: list[int], **factors: float) -> dict[str, Tensor]:
    return {name: factor * constants(getattr(law, name), types) for name, factor in factors.items()}


EXPRESSIONS: dict[type, Callable[[Any, list[int]], Expression]] = {
    LennardJones: _lennard_jones,
    WCA: _wca,
    Morse: _morse,
    Yukawa: _yukawa,
    SoftSphere: _soft_sphere,
    CubicSplinePair: _splines,
    TabulatedPair: _splines,
}


def expression(law: PairPotential, types: list[int]) -> Expression:
    """OpenMM's expression of a pair law without its switch; a law of another class is interpolated between 2000 points."""
    make = EXPRESSIONS.get(type(law))
    return make(law, types) if make else _pieces(sampled_pieces(law, types, CORE, INTERVALS))


def _present(system: System) -> tuple[list[int], list[float]]:
    """The types of a system, and the place of every particle's type among them."""
    types, place = system.types.cpu().unique(return_inverse=True)
    return types.tolist(), place.double().tolist()


def _declared(mm: Any, force: Any, e: Expression) -> None:
    """Tables of parameters and coefficients that the expression names."""
    for name, values in e.parameters.items():
        if not _uniform(values):
            n = len(values)
            force.addTabulatedFunction(f"{name}_of", mm.Discrete2DFunction(n, n, values.T.reshape(-1).tolist()))
    for name, values in e.tables.items():
        force.addTabulatedFunction(name, mm.Discrete1DFunction(values.tolist()))


def _definitions(e: Expression) -> str:
    one = {name: repr(float(v[0, 0])) if _uniform(v) else f"{name}_of(type1,type2)" for name, v in e.parameters.items()}
    return "".join(f"; {name}={value}" for name, value in one.items())


def _uniform(values: Tensor) -> bool:
    return bool((values == values[0, 0]).all())


def _nonbonded(mm: Any, term: PairTerm, terms: Terms, system: System, group: int) -> Any:
    law = term.law
    types, place = _present(system)
    e = expression(term.bare, types)
    force = mm.CustomNonbondedForce(f"{term.factor!r}*u; u={e.energy}{_definitions(e)}")
    _declared(mm, force, e)
    force.addPerParticleParameter("type")
    for t in place:
        force.addParticle([t])
    _excluding(force, terms, system, law.cutoff, group)
    if law.onset < law.cutoff:
        force.setUseSwitchingFunction(True)
        force.setSwitchingDistance(law.onset * LENGTH)
    return _named(force, type(law).__name__)


def _excluding(force: Any, terms: Terms, system: System, cutoff: float, group: int) -> None:
    """Exclusions, which OpenMM wants to be the same in all forces, and a cutoff, of which a GPU wants one per force group."""
    for i, j in terms.excluded:
        force.addExclusion(i, j)
    _check_room(system, cutoff)
    force.setNonbondedMethod(force.CutoffPeriodic if system.periodic else force.CutoffNonPeriodic)
    force.setCutoffDistance(cutoff * LENGTH)
    force.setForceGroup(group % 32)


def _check_room(system: System, cutoff: float) -> None:
    if system.periodic:
        smallest = float(reduced_cell(system).diagonal().min())
        if smallest < 2 * cutoff:
            raise ValueError(f"cutoff={cutoff:g} A is more than half of the cell ({smallest:.4g} A): OpenMM wants a larger cell")


def _seen_again(mm: Any, term: PairTerm, pairs: list[tuple[int, int]], system: System) -> Any:
    """A pair law between single pairs that other laws exclude."""
    law = term.law
    types, place = _present(system)
    e = expression(term.bare, types)
    switched = "1"
    if law.onset < law.cutoff:
        t = f"max(0,(r-{law.onset * LENGTH!r})/{(law.cutoff - law.onset) * LENGTH!r})"
        switched = f"1-w^3*(10-w*(15-6*w)); w={t}"
    inside = f"select(step({law.cutoff * LENGTH!r}-r), {term.factor!r}*u*S, 0); S={switched}; u={e.energy}{_definitions(e)}"
    force = mm.CustomCompoundBondForce(2, f"{inside}; r=distance(p1,p2)")
    _declared(mm, force, e)
    for name in ("type1", "type2"):
        force.addPerBondParameter(name)
    for i, j in pairs:
        force.addBond([i, j], [place[i], place[j]])
    force.setUsesPeriodicBoundaryConditions(system.periodic)
    return _named(force, f"{type(law).__name__} of pairs that other laws exclude")


# -- charges --------------------------------------------------------------------------------------------------------------------


def _self_energy(terms: Terms, system: System) -> float:
    """Of the damped shifted force, in eV; OpenMM's own sums know theirs."""
    own = [t.factor * float(t.law.self_energy(system.to(torch.float64))) for t in terms.charges if isinstance(t.law, CoulombDSF)]
    return sum(own)


def _charges(mm: Any, term: ChargeTerm, terms: Terms, system: System, group: int) -> list[Any]:
    if isinstance(term.law, CoulombDSF):
        return _damped_shifted(mm, term, term.law, terms, system, group)
    return [_coulomb(mm, term, terms, system, group)]


def _charge_list(system: System) -> list[float]:
    return [] if system.charges is None else system.charges.double().tolist()


def _damped_shifted(mm: Any, term: ChargeTerm, law: CoulombDSF, terms: Terms, system: System, group: int) -> list[Any]:
    """The pairs within the cutoff, and what excluded ones keep: the law less the bare 1/r."""
    q, k = _charge_list(system), term.constant * ENERGY * LENGTH
    alpha, cutoff = law.alpha / LENGTH, law.cutoff * LENGTH
    shift = f"{law.steepness / LENGTH**2!r}*(r-{cutoff!r})-{law.height / LENGTH!r}"
    force = mm.CustomNonbondedForce(f"{k!r}*q1*q2*(erfc({alpha!r}*r)/r+{shift})")
    force.addPerParticleParameter("q")
    for charge in q:
        force.addParticle([charge])
    _excluding(force, terms, system, law.cutoff, group)
    out = [_named(force, "CoulombDSF")]
    rest = {
        True: f"select(step({cutoff!r}-r), {shift}-erf({alpha!r}*r)/r, -1/r)",
        False: f"step({cutoff!r}-r)*(erfc({alpha!r}*r)/r+{shift})",
    }
    again = seen_among(terms.excluded, term)
    for excluded, pairs in ((True, sorted(term.excluded)), (False, again)):
        if pairs:
            single = mm.CustomBondForce(f"{k!r}*qq*({rest[excluded]})")
            single.addPerBondParameter("qq")
            for i, j in pairs:
                single.addBond(i, j, [q[i] * q[j]])
            single.setUsesPeriodicBoundaryConditions(system.periodic)
            out.append(_named(single, "CoulombDSF of single pairs"))
    return out


def _coulomb(mm: Any, term: ChargeTerm, terms: Terms, system: System, group: int) -> Any:
    """Ewald sums become particle-mesh ones of the same accuracy; the interaction's strength goes into the charges."""
    scale = (term.constant / units.coulomb_constant) ** 0.5
    q = [scale * charge for charge in _charge_list(system)]
    force = mm.NonbondedForce()
    for charge in q:
        force.addParticle(charge, 1.0, 0.0)
    for i, j in terms.excluded:
        force.addException(i, j, 0.0 if (i, j) in term.excluded else q[i] * q[j], 1.0, 0.0)
    if isinstance(term.law, Ewald):
        _check_room(system, term.law.cutoff)
        force.setNonbondedMethod(force.PME)
        force.setCutoffDistance(term.law.cutoff * LENGTH)
        force.setEwaldErrorTolerance(term.law.accuracy)
    else:
        force.setNonbondedMethod(force.NoCutoff)
    force.setUseDispersionCorrection(False)
    force.setForceGroup(group % 32)
    return _named(force, type(term.law).__name__)


# -- bonded laws ----------------------------------------------------------------------------------------------------------------


def _bonded(mm: Any, term: BondedTerm, system: System) -> Any:
    make = BONDED.get(type(term.law))
    if make is None:
        raise unsupported(term.law)
    return _named(make(mm, term, term.atoms(system).tolist()), type(term.law).__name__)


def _harmonic(mm: Any, term: BondedTerm, molecules: list) -> Any:
    """OpenMM writes k/2 (q - q0)^2 as well."""
    bonds = isinstance(term.law, HarmonicBonds)
    force = mm.HarmonicBondForce() if bonds else mm.HarmonicAngleForce()
    add, length = (force.addBond, LENGTH) if bonds else (force.addAngle, 1.0)
    k = term.values("k")[:, 0] * (term.factor * ENERGY / length**2)
    centre = term.values("centre")[:, 0] * length
    for rows in molecules:
        for atoms, c, strength in zip(rows, centre.tolist(), k.tolist()):
            add(*atoms, c, strength)
    return force


def _cosine(mm: Any, term: BondedTerm, molecules: list) -> Any:
    parameters = {"k": term.values("k")[:, 0] * (term.factor * ENERGY), "c0": term.values("c0")[:, 0]}
    force = mm.CustomAngleForce("0.5*k*(cos(theta)-c0)^2")
    return _filled(force, force.addPerAngleParameter, force.addAngle, parameters, molecules)


def _power(mm: Any, term: BondedTerm, molecules: list) -> Any:
    law = term.law
    force = mm.CustomBondForce(f"{term.factor * ENERGY * float(law.epsilon)!r}*(sigma/r)^{law.power!r}")  # type: ignore[arg-type]
    parameters = {"sigma": term.values("sigma")[:, 0] * LENGTH}
    return _filled(force, force.addPerBondParameter, force.addBond, parameters, molecules)


def _fourier(mm: Any, term: BondedTerm, molecules: list) -> Any:
    a, b = term.values("a") * (term.factor * ENERGY), term.values("b") * (term.factor * ENERGY)
    orders = range(1, a.shape[1] + 1)
    force = mm.CustomTorsionForce("+".join(f"a{n}*cos({n}*theta)+b{n}*sin({n}*theta)" for n in orders))
    parameters = {f"a{n}": a[:, n - 1] for n in orders} | {f"b{n}": b[:, n - 1] for n in orders}
    return _filled(force, force.addPerTorsionParameter, force.addTorsion, parameters, molecules)


def _spline(mm: Any, term: BondedTerm, molecules: list) -> Any:
    """The polynomials of a spline of a bond, an angle, its cosine or a dihedral; torsions fade where an angle is straight."""
    fades = isinstance(term.law, SplineTorsions)
    law: Any = term.law.turn if isinstance(term.law, SplineTorsions) else term.law
    q, beads, scale = COORDINATES[type(law)]
    n, start, spacing = law.knots.intervals, law.knots.start * scale, law.knots.spacing * scale
    fading = "f1=s1/(s1+w); f2=s2/(s2+w); s1=sin(angle(p1,p2,p3))^2; s2=sin(angle(p2,p3,p4))^2; " + f"w={STRAIGHT!r}; "
    energy = (
        ("f1*f2*u; " + fading if fades else "u; ") + "u=v+slope*(t-inside); "  # straight lines outside a range that is not periodic
        "v=c0(k)+inside*(c1(k)+inside*(c2(k)+inside*c3(k))); slope=c1(k)+inside*(2*c2(k)+inside*3*c3(k)); "
        f"inside=min(max(t,0),1); t=x-place; k=place+group*{n}; place=min(max(floor(x),0),{n - 1}); x=({q}-({start!r}))/{spacing!r}"
    )
    force = mm.CustomCompoundBondForce(beads, energy)
    polynomials = law.knots.polynomials(law.coefficients.detach().double().cpu()) * (term.factor * ENERGY)
    for power in range(4):
        force.addTabulatedFunction(f"c{power}", mm.Discrete1DFunction(polynomials[:, power].tolist()))
    parameters = {"group": law.groups.double().cpu()}
    return _filled(force, force.addPerBondParameter, lambda *a: force.addBond(a[:-1], a[-1]), parameters, molecules)


COORDINATES: dict[type, tuple[str, int, float]] = {  # expression of OpenMM, beads, its unit in units of the library
    SplineBonds: ("distance(p1,p2)", 2, LENGTH),
    SplineAngles: ("angle(p1,p2,p3)", 3, 1.0),
    SplineCosines: ("cos(angle(p1,p2,p3))", 3, 1.0),
    SplineDihedrals: ("dihedral(p1,p2,p3,p4)", 4, 1.0),
}


def _filled(force: Any, declare: Any, add: Any, parameters: dict[str, Tensor], molecules: list) -> Any:
    """Parameters declared, and one term per row of every molecule."""
    for name in parameters:
        declare(name)
    values = torch.stack(list(parameters.values()), 1).tolist()
    for rows in molecules:
        for atoms, v in zip(rows, values):
            add(*atoms, v)
    return force


BONDED: dict[type, Callable[[Any, BondedTerm, list], Any]] = {
    HarmonicBonds: _harmonic,
    HarmonicAngles: _harmonic,
    CosineAngles: _cosine,
    PowerRepulsion: _power,
    FourierDihedrals: _fourier,
    SplineBonds: _spline,
    SplineAngles: _spline,
    SplineCosines: _spline,
    SplineDihedrals: _spline,
    SplineTorsions: _spline,
}
