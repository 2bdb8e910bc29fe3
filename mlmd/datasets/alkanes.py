"""Linear alkanes with the OPLS-AA force field: topology, start structure and OpenMM system for any length and number of molecules.

Parameters: W. L. Jorgensen, D. S. Maxwell, J. Tirado-Rives, J. Am. Chem. Soc. 1996, 118, 11225 (charges, Lennard-Jones,
torsions V1-V3 from that paper; bond stretching and angle bending are the AMBER/CHARMM values it adopts). 1-4 pairs count half,
and unlike atoms combine geometrically in both sigma and epsilon.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from mlmd import units
from mlmd.errors import require

if TYPE_CHECKING:
    import mdtraj

# classes: C is opls_135/136 (CT), H is opls_140 (HC); kcal/mol, A, degree; E = k (x - x0)^2 without a half
BONDS = {"CC": (1.529, 268.0), "CH": (1.090, 340.0)}
ANGLES = {"CCC": (112.7, 58.35), "CCH": (110.7, 37.50), "HCH": (107.8, 33.0)}
# E = V1/2 (1 + cos phi) + V2/2 (1 - cos 2 phi) + V3/2 (1 + cos 3 phi)
TORSIONS = {"CCCC": (1.740, -0.157, 0.279), "CCCH": (0.0, 0.0, 0.366), "HCCH": (0.0, 0.0, 0.318)}
LENNARD_JONES = {"C": (3.50, 0.066), "H": (2.50, 0.030)}  # sigma, epsilon
HYDROGEN_CHARGE = 0.06  # every carbon carries the opposite of its hydrogens
SCALE_14 = 0.5


def topology(n_carbons: int, n_molecules: int = 1) -> mdtraj.Topology:
    """C_n H_(2n+2), one residue a molecule; every carbon is followed by its hydrogens.

    Raises:
        ValueError: for fewer than two carbons or no molecule.
    """
    import mdtraj

    if n_carbons < 2 or n_molecules < 1:
        raise ValueError(f"n_carbons={n_carbons}, n_molecules={n_molecules}: at least two carbons and one molecule are needed")
    out = mdtraj.Topology()
    chain = out.add_chain()
    for m in range(n_molecules):
        residue = out.add_residue(f"C{n_carbons}", chain, resSeq=m + 1)
        previous = None
        for i in range(n_carbons):
            carbon = out.add_atom(f"C{i + 1}", mdtraj.element.carbon, residue)
            if previous is not None:
                out.add_bond(previous, carbon)
            for k in range(_hydrogens(i, n_carbons)):
                out.add_bond(carbon, out.add_atom(f"H{i + 1}{'ABC'[k]}", mdtraj.element.hydrogen, residue))
            previous = carbon
    return out


def _hydrogens(i: int, n_carbons: int) -> int:
    return 3 if i in (0, n_carbons - 1) else 2


def positions(n_carbons: int) -> np.ndarray:
    """Planar zigzag (all torsions anti) with staggered hydrogens, (atoms, 3) in A, in the order of :func:`topology`."""
    half = np.radians(ANGLES["CCC"][0]) / 2
    cc, ch = BONDS["CC"][0], BONDS["CH"][0]
    i = np.arange(-1, n_carbons + 1)  # the chain with one more carbon at either end: there the third hydrogen of a methyl goes
    chain = np.stack([i * cc * np.sin(half), (i % 2) * cc * np.cos(half), np.zeros(len(i))], 1)
    spread = np.radians(ANGLES["HCH"][0]) / 2
    out = []
    for k in range(1, n_carbons + 1):
        here, before, after = chain[k], chain[k - 1], chain[k + 1]
        outward = _unit(2 * here - before - after)
        sideways = _unit(np.cross(before - here, after - here))
        out.append(here)
        out += [here + ch * (np.cos(spread) * outward + s * np.sin(spread) * sideways) for s in (1, -1)]
        if k == 1:
            out.append(here + ch * _unit(before - here))
        if k == n_carbons:
            out.append(here + ch * _unit(after - here))
    return np.array(out)


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)


def opls_system(top: mdtraj.Topology, *, hydrogen_mass: float | None = None) -> Any:
    """``openmm.System`` of alkanes in the gas phase, without constraints.

    OpenMM's ``NonbondedForce`` averages sigma arithmetically, so it gets the charges and the (explicit) 1-4 pairs only; all other
    Lennard-Jones pairs go to a ``CustomNonbondedForce`` with sigma_ij = sqrt(sigma_i sigma_j).

    Args:
        top: atoms C and H with bonds.
        hydrogen_mass: amu; the difference is taken from the bonded carbon (positions are distributed as before).

    Raises:
        MissingExtra: without OpenMM.
        ValueError: for other elements, or bonds that are no alkane's.
    """
    mm = require("openmm", extra="reference")
    symbols = _alkane_symbols(top)
    bonds = [(a.index, b.index) for a, b in top.bonds]
    neighbours = _neighbours(len(symbols), bonds)
    system = mm.System()
    for mass in _masses(top, neighbours, hydrogen_mass):
        system.addParticle(mass)
    system.addForce(_stretching(mm, symbols, bonds))
    system.addForce(_bending(mm, symbols, neighbours))
    torsions = list(_torsions(bonds, neighbours))
    system.addForce(_twisting(mm, symbols, torsions))
    for force in _nonbonded(mm, symbols, bonds, neighbours, torsions):
        system.addForce(force)
    return system


def opls_liquid(top: mdtraj.Topology, *, edge: float, cutoff: float = 10.0) -> Any:
    """``openmm.System`` of liquid alkanes: bonds to hydrogen rigid, smooth particle mesh Ewald, Lennard-Jones with tail correction.

    Args:
        top: atoms C and H with bonds; edge: of the cubic box in A; cutoff: A.

    Raises:
        MissingExtra: without OpenMM.
        ValueError: as :func:`opls_system`, or a box smaller than twice the cutoff.
    """
    mm = require("openmm", extra="reference")
    if edge < 2 * cutoff:
        raise ValueError(f"edge={edge:.4g} A is less than twice cutoff={cutoff:g} A: take more molecules or a shorter cutoff")
    system = opls_system(top)
    system.setDefaultPeriodicBoxVectors(*(np.eye(3) * edge * _NM))
    for force in system.getForces():
        if isinstance(force, mm.NonbondedForce):
            force.setNonbondedMethod(mm.NonbondedForce.PME)
            force.setCutoffDistance(cutoff * _NM)
        elif isinstance(force, mm.CustomNonbondedForce):
            force.setNonbondedMethod(mm.CustomNonbondedForce.CutoffPeriodic)
            force.setCutoffDistance(cutoff * _NM)
            force.setUseLongRangeCorrection(True)
        elif isinstance(force, mm.HarmonicBondForce):
            _make_rigid(system, force, rigid_bonds(top))
    system.addForce(mm.CMMotionRemover(100))
    return system


def rigid_bonds(top: mdtraj.Topology) -> list[tuple[int, int]]:
    """Bonds to hydrogen, i < j."""
    pairs = ((min(a.index, b.index), max(a.index, b.index)) for a, b in top.bonds if "H" in (a.element.symbol, b.element.symbol))
    return sorted(pairs)


def _make_rigid(system: Any, force: Any, pairs: list[tuple[int, int]]) -> None:
    """Hold these bonds at their rest length, and take their spring away."""
    rigid = set(pairs)
    for k in range(force.getNumBonds()):
        i, j, r0, _ = force.getBondParameters(k)
        if (min(i, j), max(i, j)) in rigid:
            system.addConstraint(i, j, r0)
            force.setBondParameters(k, i, j, r0, 0.0)


def _alkane_symbols(top: mdtraj.Topology) -> list[str]:
    symbols = [a.element.symbol for a in top.atoms]
    degree = np.bincount([i for a, b in top.bonds for i in (a.index, b.index)], minlength=len(symbols))
    for i, (s, d) in enumerate(zip(symbols, degree, strict=True)):
        if {"C": 4, "H": 1}.get(s) != d:
            raise ValueError(f"top: atom {i} ({s}) has {d} bonds; alkanes have C with four and H with one")
    return symbols


def _masses(top: mdtraj.Topology, neighbours: list[list[int]], hydrogen_mass: float | None) -> list[float]:
    mass = [a.element.mass for a in top.atoms]
    if hydrogen_mass is not None:
        for i, a in enumerate(top.atoms):
            if a.element.symbol == "H":
                mass[neighbours[i][0]] -= hydrogen_mass - mass[i]
                mass[i] = hydrogen_mass
    return mass


def _neighbours(n: int, bonds: Iterable[tuple[int, int]]) -> list[list[int]]:
    out: list[list[int]] = [[] for _ in range(n)]
    for i, j in bonds:
        out[i].append(j)
        out[j].append(i)
    return out


def _key(symbols: list[str], atoms: Iterable[int]) -> str:
    key = "".join(symbols[i] for i in atoms)
    return min(key, key[::-1])


def _torsions(bonds: list[tuple[int, int]], neighbours: list[list[int]]) -> Iterator[tuple[int, int, int, int]]:
    for j, k in bonds:
        for i in neighbours[j]:
            for m in neighbours[k]:
                if i != k and m != j:
                    yield i, j, k, m


_NM = units.angstrom / units.nm
_KJ = units.kcal / units.kJ


def _stretching(mm: Any, symbols: list[str], bonds: list[tuple[int, int]]) -> Any:
    force = mm.HarmonicBondForce()
    for i, j in bonds:
        r0, k = BONDS[_key(symbols, (i, j))]
        force.addBond(i, j, r0 * _NM, 2 * k * _KJ / _NM**2)
    return force


def _bending(mm: Any, symbols: list[str], neighbours: list[list[int]]) -> Any:
    force = mm.HarmonicAngleForce()
    for j, around in enumerate(neighbours):
        for i, k in combinations(around, 2):
            theta0, stiffness = ANGLES[_key(symbols, (i, j, k))]
            force.addAngle(i, j, k, np.radians(theta0), 2 * stiffness * _KJ)
    return force


def _twisting(mm: Any, symbols: list[str], torsions: list[tuple[int, int, int, int]]) -> Any:
    force = mm.PeriodicTorsionForce()
    for atoms in torsions:
        for n, v in enumerate(TORSIONS[_key(symbols, atoms)], start=1):
            if v:
                force.addTorsion(*atoms, n, np.pi if n == 2 else 0.0, v / 2 * _KJ)
    return force


def _nonbonded(
    mm: Any,
    symbols: list[str],
    bonds: list[tuple[int, int]],
    neighbours: list[list[int]],
    torsions: list[tuple[int, int, int, int]],
) -> tuple[Any, Any]:
    # geometric means make both powers products: 4 eps sigma^12 = a1 a2 and 4 eps sigma^6 = c1 c2
    coulomb, dispersion = mm.NonbondedForce(), mm.CustomNonbondedForce("a1*a2*y*y - c1*c2*y; y=1/(r2*r2*r2); r2=r*r")
    dispersion.addPerParticleParameter("a")
    dispersion.addPerParticleParameter("c")
    charge = [HYDROGEN_CHARGE if s == "H" else -HYDROGEN_CHARGE * sum(symbols[j] == "H" for j in neighbours[i])
              for i, s in enumerate(symbols)]  # fmt: skip
    for s, q in zip(symbols, charge, strict=True):
        sigma, epsilon = LENNARD_JONES[s]
        coulomb.addParticle(q, 1.0, 0.0)
        depth = (4 * epsilon * _KJ) ** 0.5
        dispersion.addParticle([depth * (sigma * _NM) ** 6, depth * (sigma * _NM) ** 3])
    near = {(min(p), max(p)) for p in bonds} | {(min(p), max(p)) for around in neighbours for p in combinations(around, 2)}
    for i, j in sorted(near):
        coulomb.addException(i, j, 0.0, 1.0, 0.0)
        dispersion.addExclusion(i, j)
    for i, j in sorted({(min(t[0], t[3]), max(t[0], t[3])) for t in torsions} - near):
        (si, ei), (sj, ej) = LENNARD_JONES[symbols[i]], LENNARD_JONES[symbols[j]]
        coulomb.addException(
            i, j, SCALE_14 * charge[i] * charge[j], (si * sj) ** 0.5 * _NM, SCALE_14 * (ei * ej) ** 0.5 * _KJ
        )  # fmt: skip
        dispersion.addExclusion(i, j)
    return coulomb, dispersion
