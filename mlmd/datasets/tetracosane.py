"""A melt of n-tetracosane, C24H50, with the united-atom force field TraPPE-UA, by OpenMM.

State: 500 K and 1 atm, 164 K below the boiling point, where the end-to-end vectors forget themselves in about 70 ps. United atoms, as an
all-atom melt costs some twenty times more per picosecond and would not have relaxed in the time there was; a bead of two or three carbons
sees the same carbons either way.

The run that ships is short: 120 ps at constant pressure and 260 ps of frames, four relaxation times of 32 chains, so <R^2> is known to 3 or
4 %. Its density, 0.671 +- 0.003 g/cm^3, is 2.5 % above the 0.655 of the correlation of Hankinson and Thomson (AIChE J. 25, 653 (1979)), of which
1 % is the correlation's; the error is statistical and the volume was still rising slowly.

`mlmd data generate tetracosane --frames 12000` continues it to 2.4 ns in the same box, 33 relaxation times: <R^2> = 342.8 +- 1.7 A^2 between the
CH3 groups, <Rg^2> = 43.2 +- 0.1 A^2 (by mass), errors from ten blocks of 240 ps; the end-to-end vector relaxes in 73 +- 2 ps and Rg^2 in 14 +- 1 ps.
<R^2>/6<Rg^2> = 1.32, above the 1 of a Gaussian coil as simulations of other short alkanes find it (Mondello, Grest, Webb and Peczak,
J. Chem. Phys. 109, 798 (1998)); a published value for this chain, force field and temperature was not found. The density is still that of the 120 ps
at constant pressure.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mlmd.datasets import trappe
from mlmd.datasets.liquids import Protocol, edge_of, engine, lattice, sample_liquid
from mlmd.datasets.recipe import DatasetInfo, Recipe

N_CARBONS = 24
N_MOLECULES = 32
SHIPPED = 434  # every third of the 1 300 frames of seed 0
START_DENSITY = 0.66  # g/cm^3, to which the start is compressed
CUTOFF = 12.0  # A
PROTOCOL = Protocol(temperature=500.0, dt_fs=4.0, frame_ps=0.2, equilibration_ps=120.0)


def recipe(n_molecules: int = N_MOLECULES) -> Recipe:
    """The melt in any size.

    Raises:
        ValueError: when sampling, for a box smaller than twice the cutoff of 12 A (fewer than about 17 chains).
    """
    top = trappe.topology(N_CARBONS, n_molecules)
    info = DatasetInfo(
        name="tetracosane",
        description="melt of C24H50 at 500 K and 1 atm, united atoms: chains to be coarse-grained 1:2 or 1:3",
        atoms=N_CARBONS * n_molecules,
        frames=SHIPPED if n_molecules == N_MOLECULES else 0,
        temperature=PROTOCOL.temperature,
        source="OpenMM Langevin dynamics, NPT for the density, then NVT; TraPPE-UA (Martin, Siepmann, J. Phys. Chem. B 1998, 102, 2569) with "
        "harmonic bonds (Nath, Escobedo, de Pablo, J. Chem. Phys. 1998, 108, 9905), no constraints",
    )

    def sample(folder: Path, n_frames: int, seed: int) -> Iterator[int]:
        masses, _ = trappe.sites(N_CARBONS)
        edge = edge_of(n_molecules, float(masses.sum()), START_DENSITY)
        system = trappe.system(N_CARBONS, n_molecules, edge=edge, cutoff=CUTOFF)
        rng = np.random.default_rng([seed, 24])
        chains = np.stack([trappe.conformation(N_CARBONS, rng) for _ in range(n_molecules)])
        start, wide = lattice(chains / 10, n_molecules, seed)
        yield from sample_liquid(
            system, start, wide, folder, PROTOCOL, n_frames=n_frames, seed=seed, sites_per_molecule=N_CARBONS,
            density=START_DENSITY, n_molecules=n_molecules, cutoff=CUTOFF,
        )  # fmt: skip

    return Recipe(
        info=info,
        topology=lambda: top,
        sample=sample,
        settings={
            "constraints": "none",
            "boundary": "periodic, cubic",
            "Lennard-Jones": f"cut at {CUTOFF:g} A, tail corrections to energy and pressure",
        },
        frame_ps=PROTOCOL.frame_ps,
        engine=engine,
        sites=lambda: trappe.sites(N_CARBONS, n_molecules),
        resized=recipe,
    )


RECIPE = recipe()
