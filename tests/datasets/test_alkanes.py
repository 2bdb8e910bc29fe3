"""The alkane builder makes the molecules it names, and the force field is OPLS-AA with geometric combining."""

import numpy as np
import pytest

from mlmd.datasets import alkanes


@pytest.mark.parametrize("n", [2, 3, 4, 24])
def test_counts_of_atoms_and_bonds(n):
    top = alkanes.topology(n, 2)
    assert (top.n_atoms, top.n_bonds, top.n_residues) == (2 * (3 * n + 2), 2 * (3 * n + 1), 2)
    assert alkanes.positions(n).shape == (3 * n + 2, 3)


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_start_structure_has_the_bond_lengths_and_no_clash(n):
    x, top = alkanes.positions(n), alkanes.topology(n)
    d = np.linalg.norm(x[:, None] - x[None], axis=-1)
    bonded = {frozenset((a.index, b.index)) for a, b in top.bonds}
    for a, b in top.bonds:
        expected = alkanes.BONDS["".join(sorted(a.element.symbol + b.element.symbol))][0]
        assert d[a.index, b.index] == pytest.approx(expected, abs=1e-6)
    others = [d[i, j] for i in range(len(x)) for j in range(i) if frozenset((i, j)) not in bonded]
    assert min(others) > 1.7


def test_impossible_alkanes_are_refused():
    with pytest.raises(ValueError, match="n_carbons=1"):
        alkanes.topology(1)
    pytest.importorskip("openmm")
    from mlmd.io.formats import topology_of

    with pytest.raises(ValueError, match=r"atom 0 \(O\) has 0 bonds"):
        alkanes.opls_system(topology_of(np.array([8, 1, 1])))


@pytest.mark.parametrize("n", [2, 3, 5])
def test_terms_and_neutrality(n):
    mm = pytest.importorskip("openmm")
    system = alkanes.opls_system(alkanes.topology(n), hydrogen_mass=3.0)
    force = {type(f).__name__: f for f in system.getForces()}
    assert force["HarmonicBondForce"].getNumBonds() == 3 * n + 1
    assert force["HarmonicAngleForce"].getNumAngles() == 6 * n
    carbons = 3 * (n - 3) if n > 3 else 0
    assert force["PeriodicTorsionForce"].getNumTorsions() == 9 * (n - 1) + 2 * (carbons // 3)  # CCCC has three terms
    charges = [force["NonbondedForce"].getParticleParameters(i)[0]._value for i in range(system.getNumParticles())]
    assert sum(charges) == pytest.approx(0, abs=1e-12)
    mass = sum(system.getParticleMass(i)._value for i in range(system.getNumParticles()))
    assert mass == pytest.approx(sum(a.element.mass for a in alkanes.topology(n).atoms))
    assert isinstance(system, mm.System)


def test_energy_equals_the_formula_of_the_paper_written_out():
    """Pentane, displaced at random, against a plain sum over all bonds, angles, torsions and pairs (kcal/mol, A)."""
    mm = pytest.importorskip("openmm")
    top, x = alkanes.topology(5), alkanes.positions(5) + 0.1 * np.random.default_rng(1).normal(size=(17, 3))
    context = mm.Context(alkanes.opls_system(top), mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    context.setPositions(x / 10)
    openmm = context.getState(getEnergy=True).getPotentialEnergy()._value / 4.184
    assert openmm == pytest.approx(plain_energy(top, x), rel=1e-5)


def plain_energy(top, x):
    z = [a.element.symbol for a in top.atoms]
    bonded = [set() for _ in z]
    for a, b in top.bonds:
        bonded[a.index].add(b.index)
        bonded[b.index].add(a.index)
    hydrogens = [sum(z[j] == "H" for j in bonded[i]) for i in range(len(z))]
    q = [0.06 if s == "H" else -0.06 * h for s, h in zip(z, hydrogens, strict=True)]
    separation = bond_separations(bonded)
    energy = 0.0
    for i in range(len(z)):
        for j in range(i):
            r = np.linalg.norm(x[i] - x[j])
            (si, ei), (sj, ej) = ((3.5, 0.066) if k == "C" else (2.5, 0.030) for k in (z[i], z[j]))
            pair = 332.0637 * q[i] * q[j] / r + 4 * (ei * ej) ** 0.5 * ((si * sj / r**2) ** 6 - (si * sj / r**2) ** 3)
            energy += pair * {1: 0, 2: 0, 3: 0.5}.get(separation[i][j], 1)
            if separation[i][j] == 1:
                r0, k = (1.529, 268) if z[i] + z[j] == "CC" else (1.09, 340)
                energy += k * (r - r0) ** 2
    for j in range(len(z)):
        for i in bonded[j]:
            for k in bonded[j]:
                if i < k:
                    t0, c = {0: (112.7, 58.35), 1: (110.7, 37.5), 2: (107.8, 33.0)}[(z[i] + z[k]).count("H")]
                    energy += c * (angle(x[i] - x[j], x[k] - x[j]) - np.radians(t0)) ** 2
    for a, b in top.bonds:
        for i in bonded[a.index] - {b.index}:
            for k in bonded[b.index] - {a.index}:
                v = {0: (1.740, -0.157, 0.279), 1: (0, 0, 0.366), 2: (0, 0, 0.318)}[(z[i] + z[k]).count("H")]
                n1 = np.cross(x[a.index] - x[i], x[b.index] - x[a.index])
                n2 = np.cross(x[b.index] - x[a.index], x[k] - x[b.index])
                phi = angle(n1, n2)
                energy += v[0] / 2 * (1 + np.cos(phi)) + v[1] / 2 * (1 - np.cos(2 * phi)) + v[2] / 2 * (1 + np.cos(3 * phi))
    return energy


def bond_separations(bonded):
    n = len(bonded)
    d = np.full((n, n), 99)
    for i in range(n):
        d[i, i] = 0
        for j in bonded[i]:
            d[i, j] = 1
    for k in range(n):
        d = np.minimum(d, d[:, k, None] + d[None, k])
    return d


def angle(u, v):
    return np.arccos(np.clip(u @ v / np.linalg.norm(u) / np.linalg.norm(v), -1, 1))
