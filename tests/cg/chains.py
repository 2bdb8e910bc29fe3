"""Chains whose bonds, angles and dihedrals are independent and drawn from known densities."""

import numpy as np
import torch

from mlmd.frames import Frames, bead_topology

KT = 0.7
SIZE = 5


def bond_energy(r):
    """A harmonic bond."""
    return 20.0 * (r - 1.5) ** 2


def cosine_energy(c):
    """Straight and bent chains, and none that fold back."""
    return 3.0 * (c + 0.4) ** 2 + 0.4 * np.sin(5 * c)


def dihedral_energy(phi):
    """Not even, so that it tells a chain from its mirror image."""
    return 0.6 * np.cos(phi) + 0.4 * np.sin(phi) + 0.3 * np.cos(3 * phi)


def drawn(energy, low, high, shape, random, measure=None):
    """Numbers with density measure(q) exp(-energy(q) / KT) on [low, high], by inversion of the cumulative sum on a fine grid."""
    edges = np.linspace(low, high, 20001)
    q = (edges[1:] + edges[:-1]) / 2
    p = np.exp(-energy(q) / KT) * (1.0 if measure is None else measure(q))
    return np.interp(random.random(shape), np.append(0.0, np.cumsum(p)) / p.sum(), edges)


def chain(r, c, phi):
    """(M, n, 3) positions from bond lengths (M, n - 1), cosines (M, n - 2) and dihedrals (M, n - 3)."""
    m, n = len(r), r.shape[1] + 1
    x, theta = np.zeros((m, n, 3)), np.arccos(c)
    x[:, 1, 0] = r[:, 0]
    x[:, 2] = x[:, 1] + r[:, 1, None] * np.stack([-np.cos(theta[:, 0]), np.sin(theta[:, 0]), np.zeros(m)], 1)
    for k in range(3, n):
        b = x[:, k - 1] - x[:, k - 2]
        b /= np.linalg.norm(b, axis=1, keepdims=True)
        normal = np.cross(x[:, k - 2] - x[:, k - 3], b)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        up = np.cross(normal, b)
        t, f = theta[:, k - 2, None], phi[:, k - 3, None]
        way = -np.cos(t) * b + np.sin(t) * (np.cos(f) * up + np.sin(f) * normal)
        x[:, k] = x[:, k - 1] + r[:, k - 1, None] * way
    return torch.from_numpy(x)


def sampled(count, seed=0, energies=(bond_energy, cosine_energy, dihedral_energy)):
    """(count, SIZE, 3) chains with these energies of all bonds, cosines and dihedrals."""
    random, (u, v, w) = np.random.default_rng(seed), energies
    r = drawn(u, 0.7, 2.4, (count, SIZE - 1), random, np.square)
    c = drawn(v, -1.0, 1.0, (count, SIZE - 2), random)
    phi = drawn(w, -np.pi, np.pi, (count, SIZE - 3), random)
    return chain(r, c, phi)


def frames_of(x, molecules=10):
    """The chains as frames of a liquid of so many molecules in a large box, all beads of one type."""
    bonds = [(k, k + 1) for k in range(SIZE - 1)]
    top = bead_topology([f"B{k}" for k in range(SIZE)], bonds, molecules)
    flat = x.reshape(-1, molecules * SIZE, 3)
    cell = 30.0 * torch.eye(3, dtype=torch.float64).expand(len(flat), 3, 3)
    n = molecules * SIZE
    return Frames(flat, top, cell=cell, kT=KT, types=torch.zeros(n, dtype=torch.long), masses=torch.ones(n, dtype=torch.float64))
