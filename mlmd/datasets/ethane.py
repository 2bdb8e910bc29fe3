"""Liquid ethane at its boiling point with OPLS-AA, by OpenMM.

State: 184.5 K and 1 atm, the normal boiling point, where the model was fitted by its authors (W. L. Jorgensen, D. S. Maxwell, J. Tirado-Rives,
J. Am. Chem. Soc. 118, 11225 (1996)) and where the saturated liquid has 0.544 g/cm^3 (Friend, Ingham, Ely, J. Phys. Chem. Ref. Data 20,
275 (1991); NIST WebBook). 300 K, which is usual for coarse-graining studies of ethane, lies 5 K below its critical point (305.3 K,
4.87 MPa): there 125 molecules feel fluctuations larger than their box, and a small error of the model is a large one of the density.

Bonds to hydrogen are rigid (so their forces are missing from the stored ones; they cancel within any bead that holds a carbon with its
hydrogens), masses are the true ones, and the production is thermostatted so weakly (0.1/ps, against a friction of about 10/ps within the
liquid) that it can be used for kinetics. Steps of 3 fs: the BAOAB splitting samples harmonic modes without an error of the time step, and
the fastest one left, bending of H-C-H, has a period of 23 fs.

The run that ships has 0.540 +- 0.003 g/cm^3 at 1 atm, 0.8 % below experiment, and 225 ps of frames at that density.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mlmd import units
from mlmd.datasets import alkanes
from mlmd.datasets.liquids import Protocol, edge_of, engine, lattice, sample_liquid
from mlmd.datasets.recipe import DatasetInfo, Recipe

N_MOLECULES = 125
SHIPPED = 417  # every 12th of the 5 000 frames of seed 0
MOLECULE_MASS = 30.069  # amu
EXPERIMENT = 0.544  # g/cm^3, saturated liquid at 184.5 K
CUTOFF = 9.0  # A
PROTOCOL = Protocol(temperature=184.5, dt_fs=3.0, frame_ps=0.045, equilibration_ps=50.0)


def recipe(n_molecules: int = N_MOLECULES) -> Recipe:
    """Liquid ethane of any size.

    Raises:
        ValueError: when sampling, for a box smaller than twice the cutoff of 9 A (fewer than 64 molecules).
    """
    top = alkanes.topology(2, n_molecules)
    info = DatasetInfo(
        name="ethane",
        description="liquid ethane at its normal boiling point (184.5 K, 1 atm): the simplest liquid of two-bead molecules",
        atoms=8 * n_molecules,
        frames=SHIPPED if n_molecules == N_MOLECULES else 0,
        temperature=PROTOCOL.temperature,
        source="OpenMM Langevin dynamics, NPT for the density, then NVT; OPLS-AA (Jorgensen, Maxwell, Tirado-Rives, J. Am. Chem. Soc. 1996, "
        "118, 11225), rigid bonds to hydrogen, particle mesh Ewald",
    )

    def sample(folder: Path, n_frames: int, seed: int) -> Iterator[int]:
        edge = edge_of(n_molecules, MOLECULE_MASS * units.amu, EXPERIMENT)
        system = alkanes.opls_liquid(top, edge=edge, cutoff=CUTOFF)
        start, wide = lattice(alkanes.positions(2) / 10, n_molecules, seed)
        yield from sample_liquid(
            system, start, wide, folder, PROTOCOL, n_frames=n_frames, seed=seed, sites_per_molecule=8, density=EXPERIMENT,
            n_molecules=n_molecules, cutoff=CUTOFF,
        )  # fmt: skip

    return Recipe(
        info=info,
        topology=lambda: top,
        sample=sample,
        settings={
            "constraints": "bonds to hydrogen",
            "boundary": "periodic, cubic",
            "Lennard-Jones": f"cut at {CUTOFF:g} A, tail corrections to energy and pressure",
            "electrostatics": "particle mesh Ewald, error tolerance 5e-4",
            "experimental density / g/cm3": EXPERIMENT,
        },
        frame_ps=PROTOCOL.frame_ps,
        engine=engine,
        constraints=lambda: alkanes.rigid_bonds(top),
        resized=recipe,
    )


RECIPE = recipe()
