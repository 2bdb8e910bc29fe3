r"""Liquid water by OpenMM: SPC/E and TIP4P/2005, rigid molecules, any number of them.

Parameters: SPC/E, H. J. C. Berendsen, J. R. Grigera, T. P. Straatsma, J. Phys. Chem. 91, 6269 (1987); TIP4P/2005, J. L. F. Abascal, C. Vega,
J. Chem. Phys. 123, 234505 (2005). The negative charge of TIP4P/2005 sits on a massless site M on the bisector, a linear combination
:math:`r_M=(1-2w)r_O+w(r_{H1}+r_{H2})` of the atoms; its force is spread over them with the same weights, so that stored frames hold the
three atoms and all forces (but those of the constraints, which cancel within a molecule).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlmd import units
from mlmd.datasets.liquids import Protocol, edge_of, engine, lattice, sample_liquid
from mlmd.datasets.recipe import DatasetInfo, Recipe
from mlmd.errors import require

if TYPE_CHECKING:
    import mdtraj

N_MOLECULES = 300
SHIPPED = {"water-spce": 300, "water-tip4p2005": 200}  # all frames of seed 0
MASSES = {"O": 15.999, "H": 1.008}  # amu
CUTOFF = 9.0  # A
START_DENSITY = 0.997  # g/cm^3
_NM = units.angstrom / units.nm


@dataclass(frozen=True)
class Model:
    """A rigid water: sigma (A) and epsilon (kJ/mol) of oxygen, charge of a hydrogen (e), bond (A), angle (degree), O-M distance (A)."""

    name: str
    title: str
    source: str
    sigma: float
    epsilon: float
    hydrogen_charge: float
    bond: float
    angle: float
    om: float
    temperature: float

    @property
    def n_sites(self) -> int:
        """Three atoms, and M where it is not on the oxygen."""
        return 4 if self.om else 3

    @property
    def weight(self) -> float:
        """w of r_M = (1 - 2 w) r_O + w (r_H1 + r_H2)."""
        return self.om / (2 * self.bond * float(np.cos(np.radians(self.angle) / 2)))

    @property
    def geometry(self) -> np.ndarray:
        """One molecule (sites, 3) in A: O at the origin, H, H, and M if there is one."""
        half = np.radians(self.angle) / 2
        hydrogens = [self.bond * np.array([np.cos(half), s * np.sin(half), 0.0]) for s in (1, -1)]
        return np.array([np.zeros(3), *hydrogens, np.array([self.om, 0.0, 0.0])][: self.n_sites])


SPCE = Model(
    name="water-spce",
    title="SPC/E",
    source="Berendsen, Grigera, Straatsma, J. Phys. Chem. 1987, 91, 6269",
    sigma=0.3428**2
    / 0.37122
    * 10,  # from (A/r)^6 and (B/r)^12 of the paper, A = 0.37122 (kJ/mol)^(1/6) nm, B = 0.3428 (kJ/mol)^(1/12) nm
    epsilon=(0.37122 / 0.3428) ** 12 / 4,
    hydrogen_charge=0.4238,
    bond=1.0,
    angle=109.47,
    om=0.0,
    temperature=300.0,
)
TIP4P2005 = Model(
    name="water-tip4p2005",
    title="TIP4P/2005",
    source="Abascal, Vega, J. Chem. Phys. 2005, 123, 234505",
    sigma=3.1589,
    epsilon=93.2 * units.kelvin / units.kJ_mol,
    hydrogen_charge=0.5564,
    bond=0.9572,
    angle=104.52,
    om=0.1546,
    temperature=298.0,
)


def topology(n_molecules: int = 1) -> mdtraj.Topology:
    """O, H1, H2 and two bonds per molecule.

    Raises:
        ValueError: for no molecule.
    """
    import mdtraj

    if n_molecules < 1:
        raise ValueError(f"n_molecules={n_molecules}: at least one molecule is needed")
    out = mdtraj.Topology()
    chain = out.add_chain()
    for m in range(n_molecules):
        residue = out.add_residue("HOH", chain, resSeq=m + 1)
        oxygen = out.add_atom("O", mdtraj.element.oxygen, residue)
        for k in (1, 2):
            out.add_bond(oxygen, out.add_atom(f"H{k}", mdtraj.element.hydrogen, residue))
    return out


def rigid_pairs(n_molecules: int) -> list[tuple[int, int]]:
    """O-H, O-H and H-H of every molecule of three atoms."""
    return [(3 * m + i, 3 * m + j) for m in range(n_molecules) for i, j in ((0, 1), (0, 2), (1, 2))]


def system(model: Model, n_molecules: int, *, edge: float, cutoff: float = CUTOFF, tolerance: float = 5e-4) -> Any:
    """``openmm.System`` of rigid water: smooth particle mesh Ewald, Lennard-Jones between oxygens with tail correction.

    Args:
        edge: of the cubic box, A; cutoff: A; tolerance: of the Ewald sum.

    Raises:
        MissingExtra: without OpenMM.
        ValueError: for a box smaller than twice the cutoff.
    """
    mm = require("openmm", extra="reference")
    if edge < 2 * cutoff:
        raise ValueError(f"edge={edge:.4g} A is less than twice cutoff={cutoff:g} A: take more molecules or a shorter cutoff")
    out, pairs = mm.System(), mm.NonbondedForce()
    out.setDefaultPeriodicBoxVectors(*(np.eye(3) * edge * _NM))
    pairs.setNonbondedMethod(mm.NonbondedForce.PME)
    pairs.setCutoffDistance(cutoff * _NM)
    pairs.setEwaldErrorTolerance(tolerance)
    pairs.setUseDispersionCorrection(True)
    q, w = model.hydrogen_charge, model.weight
    between = 2 * model.bond * np.sin(np.radians(model.angle) / 2)
    for m in range(n_molecules):
        o = model.n_sites * m
        for symbol, charge in (("O", 0.0 if model.om else -2 * q), ("H", q), ("H", q)):
            out.addParticle(MASSES[symbol])
            pairs.addParticle(charge, model.sigma * _NM, model.epsilon if symbol == "O" else 0.0)
        if model.om:
            out.addParticle(0.0)
            out.setVirtualSite(o + 3, mm.ThreeParticleAverageSite(o, o + 1, o + 2, 1 - 2 * w, w, w))
            pairs.addParticle(-2 * q, 1.0, 0.0)
        for i, j, r in ((0, 1, model.bond), (0, 2, model.bond), (1, 2, between)):
            out.addConstraint(o + i, o + j, r * _NM)
        for i in range(model.n_sites):
            for j in range(i):
                pairs.addException(o + j, o + i, 0.0, 1.0, 0.0)
    out.addForce(pairs)
    out.addForce(mm.CMMotionRemover(100))
    return out


def protocol(model: Model) -> Protocol:
    """Steps of 3 fs (librations take 40), a frame every 0.15 ps; 30 ps at constant pressure."""
    return Protocol(
        temperature=model.temperature, dt_fs=3.0, frame_ps=0.15, equilibration_ps=30.0, settle_ps=5.0, frames_per_chunk=50
    )


def recipe(model: Model, n_molecules: int = N_MOLECULES) -> Recipe:
    """Liquid water at 1 atm in any size.

    Raises:
        ValueError: when sampling, for a box smaller than twice the cutoff of 9 A (fewer than 195 molecules).
    """
    top = topology(n_molecules)
    settings = protocol(model)
    info = DatasetInfo(
        name=model.name,
        description=f"{model.title} water at {model.temperature:g} K and 1 atm",
        atoms=3 * n_molecules,
        frames=SHIPPED.get(model.name, 0) if n_molecules == N_MOLECULES else 0,
        temperature=model.temperature,
        source=f"OpenMM Langevin dynamics, NPT for the density, then NVT; {model.title} ({model.source}), rigid, particle mesh Ewald",
    )

    def sample(folder: Path, n_frames: int, seed: int) -> Iterator[int]:
        molecule_mass = (MASSES["O"] + 2 * MASSES["H"]) * units.amu
        edge = edge_of(n_molecules, molecule_mass, START_DENSITY)
        start, wide = lattice(model.geometry / 10, n_molecules, seed)
        sites = np.arange(model.n_sites * n_molecules).reshape(n_molecules, -1)
        yield from sample_liquid(
            system(model, n_molecules, edge=edge), start, wide, folder, settings, n_frames=n_frames, seed=seed,
            sites_per_molecule=model.n_sites, density=START_DENSITY, keep=sites[:, :3].ravel(), n_molecules=n_molecules, cutoff=CUTOFF,
        )  # fmt: skip

    return Recipe(
        info=info,
        topology=lambda: top,
        sample=sample,
        settings={
            "constraints": "rigid molecules",
            "boundary": "periodic, cubic",
            "Lennard-Jones": f"cut at {CUTOFF:g} A, tail corrections to energy and pressure",
            "electrostatics": "particle mesh Ewald, error tolerance 5e-4",
        },
        frame_ps=settings.frame_ps,
        engine=engine,
        constraints=lambda: rigid_pairs(n_molecules),
        resized=lambda n: recipe(model, n),
    )


SPCE_RECIPE = recipe(SPCE)
TIP4P2005_RECIPE = recipe(TIP4P2005)
