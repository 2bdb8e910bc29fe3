r"""Groups of particles that are moved as one when a cell changes, and the stress of such a change.

Where bonds are rigid, a cell cannot be deformed atom by atom. It is deformed at fixed fractional coordinates of the centres of mass
:math:`X_I` of bodies, whose inner distances :math:`\rho_i=x_i-X_I` stay. The strain then does the work

.. math:: V\sigma=\frac{\partial U}{\partial\epsilon}\Big|_{\rho}=\frac{\partial U}{\partial\epsilon}+\sum_i F_i\otimes\rho_i

(its symmetric part), to which forces inside a body, those of constraints among them, add nothing: the molecular virial
(Ciccotti and Ryckaert, Comput. Phys. Rep. 4, 346 (1986)). With :math:`M\,kT/V` of the M bodies it gives the same mean pressure as
:math:`(3n-n_c)kT/3V` with the forces of the constraints.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from mlmd.forces import Evaluation
from mlmd.segment import segment_sum
from mlmd.system import System


class Bodies(NamedTuple):
    """Which particles belong together."""

    member: Tensor  # (N,) body of every particle
    batch: Tensor  # (B,) system of every body


def joined(system: System, pairs: Tensor) -> Bodies:
    """Bodies of particles that are joined by ``pairs`` (C, 2), directly or through others; each other particle is one of its own."""
    n, ends = len(system), pairs.cpu().numpy()
    label = connected_components(coo_array((np.ones(len(ends)), ends.T), shape=(n, n)), directed=False)[1]
    _, first, member = np.unique(label, return_index=True, return_inverse=True)
    device = system.batch.device
    return Bodies(torch.from_numpy(member).to(device), system.batch[torch.from_numpy(first).to(device)])


def centres(system: System, bodies: Bodies) -> Tensor:
    """(N, 3) for every particle the centre of mass of its body, in A; molecules must be whole."""
    weight, size = system.masses[:, None], len(bodies.batch)
    total = segment_sum(weight * system.positions, bodies.member, size)
    return (total / segment_sum(weight, bodies.member, size))[bodies.member]


def molecular_stress(system: System, result: Evaluation, bodies: Bodies) -> Tensor:
    """(S, 3, 3) derivative of the energy for a strain that moves bodies and leaves them as they are, per volume, in eV/A^3.

    Args:
        system: what was evaluated, its molecules whole.
        result: forces and stress of :func:`mlmd.forces.energy_forces` with ``stress=True``.
        bodies: which particles move together.

    Raises:
        ValueError: if ``result`` holds no stress.
    """
    if result.stress is None:
        raise ValueError("result holds no stress: evaluate with energy_forces(..., stress=True)")
    arm = system.positions - centres(system, bodies)
    work = segment_sum(result.forces[:, :, None] * arm[:, None, :], system.batch, system.n_systems)
    volume = torch.linalg.det(system.cell).abs()[:, None, None]
    return result.stress + 0.5 * (work + work.transpose(-1, -2)) / volume
