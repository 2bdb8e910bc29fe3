r"""Linear alkanes with the united-atom force field TraPPE-UA: topology, start structure and OpenMM system for any length and number.

Parameters: M. G. Martin, J. I. Siepmann, J. Phys. Chem. B 102, 2569 (1998): Lennard-Jones sites CH3 and CH2 with Lorentz-Berthelot rules
between sites of different molecules or more than three bonds apart; bending (k/2)(theta - theta0)^2; torsion
c1 (1 + cos phi) + c2 (1 - cos 2 phi) + c3 (1 + cos 3 phi). No charges.

One thing differs: bonds of the paper are rigid, and rigid bonds all along a chain would leave no force on a bead that is smaller than the
chain. Here they are springs (K/2)(r - 1.54 A)^2 with the K of R. Nath, F. A. Escobedo, J. J. de Pablo, J. Chem. Phys. 108, 9905 (1998).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mlmd import units
from mlmd.errors import require

if TYPE_CHECKING:
    import mdtraj

# energies over Boltzmann's constant, K
BOND = (1.54, 96_500.0)  # A, K/A^2
ANGLE = (114.0, 62_500.0)  # degree, K/rad^2
TORSION = (355.03, -68.19, 791.32)
LENNARD_JONES = {3: (3.75, 98.0), 2: (3.95, 46.0)}  # sigma (A), epsilon, by the number of hydrogens
MASS = {3: 15.035, 2: 14.027}  # amu
METHYL, METHYLENE = 3, 2  # integer types of the sites: their hydrogens

_NM = units.angstrom / units.nm
_KJ = units.kelvin / units.kJ_mol


def hydrogens(n_carbons: int) -> list[int]:
    """Hydrogens of every site of one chain: 3 at the ends, else 2.

    Raises:
        ValueError: for fewer than two carbons.
    """
    if n_carbons < 2:
        raise ValueError(f"n_carbons={n_carbons}: a chain has at least two")
    return [METHYL if i in (0, n_carbons - 1) else METHYLENE for i in range(n_carbons)]


def topology(n_carbons: int, n_molecules: int = 1) -> mdtraj.Topology:
    """One carbon per site, one residue a molecule, bonds along the chains.

    Raises:
        ValueError: for fewer than two carbons or no molecule.
    """
    import mdtraj

    hydrogens(n_carbons)
    if n_molecules < 1:
        raise ValueError(f"n_molecules={n_molecules}: at least one molecule is needed")
    out = mdtraj.Topology()
    chain = out.add_chain()
    for m in range(n_molecules):
        residue = out.add_residue(f"C{n_carbons}", chain, resSeq=m + 1)
        atoms = [out.add_atom(f"C{i + 1}", mdtraj.element.carbon, residue) for i in range(n_carbons)]
        for a, b in pairwise(atoms):
            out.add_bond(a, b)
    return out


def sites(n_carbons: int, n_molecules: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Masses (n,) in eV fs^2/A^2 and integer types (n,), 3 for CH3 and 2 for CH2."""
    types = torch.tensor(hydrogens(n_carbons)).repeat(n_molecules)
    masses = torch.where(types == METHYL, MASS[METHYL], MASS[METHYLENE]).double() * units.amu
    return masses, types


def conformation(n_carbons: int, rng: np.random.Generator, *, gauche: float = 0.35) -> np.ndarray:
    """A chain (n_carbons, 3) in A with bonds and angles at rest; torsions anti, or gauche of either sign with the given probability.

    Conformations in which sites more than four bonds apart come nearer than 3.5 A are drawn again.
    """
    while True:
        phi = np.where(rng.random(n_carbons) < gauche, rng.choice([-1, 1], n_carbons) * np.radians(66), np.pi)
        x = _chain(phi, BOND[0], np.radians(ANGLE[0]))
        d = np.linalg.norm(x[:, None] - x[None], axis=-1)
        if d[np.triu_indices(n_carbons, 5)].min(initial=np.inf) > 3.5:
            return x


def _chain(phi: np.ndarray, bond: float, angle: float) -> np.ndarray:
    """Sites placed one after another from internal coordinates; phi[k] turns the bond from k - 1 to k."""
    x = [np.zeros(3), np.array([bond, 0.0, 0.0])]
    if len(phi) > 2:
        x.append(x[1] + bond * np.array([-np.cos(angle), np.sin(angle), 0.0]))
    for k in range(3, len(phi)):
        along = _unit(x[-1] - x[-2])
        normal = _unit(np.cross(x[-2] - x[-3], along))
        around = np.cos(phi[k]) * np.cross(normal, along) + np.sin(phi[k]) * normal
        x.append(x[-1] + bond * (np.sin(angle) * around - np.cos(angle) * along))
    return np.array(x[: len(phi)])


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)


def system(n_carbons: int, n_molecules: int, *, edge: float, cutoff: float = 12.0) -> Any:
    """``openmm.System`` of the liquid without constraints; Lennard-Jones cut at ``cutoff`` with tail corrections.

    Args:
        edge: of the cubic box, A; cutoff: A (14 in the paper).

    Raises:
        MissingExtra: without OpenMM.
        ValueError: for a box smaller than twice the cutoff, or as :func:`topology`.
    """
    mm = require("openmm", extra="reference")
    if edge < 2 * cutoff:
        raise ValueError(f"edge={edge:.4g} A is less than twice cutoff={cutoff:g} A: take more molecules or a shorter cutoff")
    kinds = hydrogens(n_carbons) * n_molecules
    out = mm.System()
    out.setDefaultPeriodicBoxVectors(*(np.eye(3) * edge * _NM))
    pairs = mm.NonbondedForce()
    pairs.setNonbondedMethod(mm.NonbondedForce.CutoffPeriodic)
    pairs.setCutoffDistance(cutoff * _NM)
    pairs.setUseDispersionCorrection(True)
    for kind in kinds:
        sigma, epsilon = LENNARD_JONES[kind]
        out.addParticle(MASS[kind])
        pairs.addParticle(0.0, sigma * _NM, epsilon * _KJ)
    bonds, angles, torsions = mm.HarmonicBondForce(), mm.HarmonicAngleForce(), mm.PeriodicTorsionForce()
    for first in range(0, len(kinds), n_carbons):
        for i in range(first, first + n_carbons):
            left = first + n_carbons - i - 1  # sites that follow in this chain
            for apart in range(1, min(left, 3) + 1):
                pairs.addException(i, i + apart, 0.0, 1.0, 0.0)
            if left >= 1:
                bonds.addBond(i, i + 1, BOND[0] * _NM, BOND[1] * _KJ / _NM**2)
            if left >= 2:
                angles.addAngle(i, i + 1, i + 2, np.radians(ANGLE[0]), ANGLE[1] * _KJ)
            if left >= 3:
                for n, c in enumerate(TORSION, start=1):
                    torsions.addTorsion(i, i + 1, i + 2, i + 3, n, np.pi if n == 2 else 0.0, c * _KJ)
    for force in (bonds, angles, torsions, pairs, mm.CMMotionRemover(100)):
        out.addForce(force)
    return out
