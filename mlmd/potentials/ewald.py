"""The Ewald sum: charges in a periodic cell and all their images."""

from __future__ import annotations

import math
import weakref
from typing import Any

import torch
from torch import Tensor

from mlmd.cell import periodic_widths
from mlmd.neighbors.pairs import Pairs
from mlmd.potentials.compose import in_closed_form
from mlmd.potentials.coulomb import ChargePotential, charges_of, erf_over, padded
from mlmd.segment import segment_sum
from mlmd.store import configurable
from mlmd.system import System

NEUTRAL = 1e-4  # e; a net charge below it is taken for rounding
Box = tuple[int, int, int]


@configurable
class Ewald(ChargePotential):
    r"""Charges in a periodic cell of any shape with all their images, tin-foil boundary.

    .. math:: \frac Ek=\sum_{i<j}q_iq_j\frac{\mathrm{erfc}(\alpha r_{ij})}{r_{ij}}
        +\frac{2\pi}V\sum_{k\ne0}\frac{e^{-k^2/4\alpha^2}}{k^2}\Big|\sum_jq_je^{ik\cdot x_j}\Big|^2
        -\frac\alpha{\sqrt\pi}\sum_iq_i^2-\frac\pi{2V\alpha^2}\Big(\sum_iq_i\Big)^2

    (Ewald, Ann. Phys. 369, 253 (1921); de Leeuw, Perram and Smith, Proc. R. Soc. A 373, 27 (1980).) The last term is a
    neutralising background: it is there for every system and zero for a neutral one. With :math:`s=\sqrt{-\ln\text{accuracy}}`
    the damping is :math:`\alpha=s/r_c` and the sum over waves runs to :math:`2\alpha s`, where both tails have fallen to
    ``accuracy``. The waves of a cell form a product grid, so that the structure factor is one matrix product. Cost: N times waves.
    Inside ``torch.compile`` the grid stays that of the last call outside.

    Args:
        cutoff: r_c in A of the sum over pairs; a longer one needs fewer waves.
        accuracy: wanted relative error of the energy.
        alpha: damping in 1/A, chosen from cutoff and accuracy if absent.
        background: allow systems with a net charge.
        permittivity: see :class:`ChargePotential`.

    Raises:
        ValueError: if accuracy is not between 0 and 0.1, alpha not positive; on a call if a system has no charges, is not
            periodic in all directions, or has a net charge although ``background`` is False.
    """

    def __init__(
        self,
        cutoff: float,
        accuracy: float = 1e-6,
        alpha: float | None = None,
        background: bool = False,
        permittivity: float = 1.0,
    ):
        super().__init__(cutoff, permittivity)
        if not 0 < accuracy < 0.1:
            raise ValueError(f"accuracy={accuracy}: must lie between 0 and 0.1, for instance 1e-6")
        decay = math.sqrt(-math.log(accuracy))
        self.alpha = decay / self.cutoff if alpha is None else float(alpha)
        if not 0 < self.alpha < float("inf"):
            raise ValueError(f"alpha={alpha}: must be positive, in 1/A; leave it out to have it chosen")
        self.accuracy, self.background = float(accuracy), bool(background)
        self.k_max = 2.0 * self.alpha * decay  # 1/A
        self._last: tuple[Any, Any, Box] | None = None

    def v(self, r: Tensor) -> Tensor:
        """erfc(alpha r)/r in 1/A, the part that is summed over pairs."""
        return torch.erfc(self.alpha * r) / r

    def w(self, r: Tensor) -> Tensor:
        """-erf(alpha r)/r in 1/A, the part that the waves hold."""
        return -erf_over(r, self.alpha)

    def forward(self, system: System, pairs: Pairs | None) -> Tensor:
        """Energy of every system, (S,), in eV."""
        return self.reciprocal(system) + super().forward(system, pairs)

    def analytic(self, system: System, pairs: Pairs | None) -> tuple[Tensor, Tensor]:
        """Energy (S,) and forces (N, 3): the pairs in closed form, the waves by one backward pass through matrix products."""
        energy, forces = in_closed_form(lambda s, _: self.reciprocal(s), system, None)
        near, pull = super().analytic(system, pairs)
        return energy + near, forces + pull

    def reciprocal(self, system: System) -> Tensor:
        """The sum over waves and the background, (S,), in eV."""
        grid = self._grid(system)
        volume = torch.linalg.det(system.cell).abs()
        reciprocal = torch.linalg.inv(system.cell)  # columns b_i/2pi, so that x . reciprocal are fractional coordinates
        plane, line = _waves(grid, system.positions)
        s = padded(system, system.positions) @ reciprocal
        s = s - s.detach().floor()  # small phases keep single precision
        structure = _structure_factor(s, padded(system, charges_of(system, self)), plane, line)
        weight = self._weights(reciprocal, plane, line)
        net = segment_sum(charges_of(system, self), system.batch, system.n_systems)
        background = math.pi / (2.0 * self.alpha**2) * net.square() / volume
        return self.constant * (2.0 * math.pi / volume * (weight * structure).sum((1, 2)) - background)

    def _weights(self, reciprocal: Tensor, plane: Tensor, line: Tensor) -> Tensor:
        r"""(S, X Y, Z) of :math:`e^{-k^2/4\alpha^2}/k^2`, doubled for the waves whose opposites are not in the grid."""
        n = torch.cat([plane[:, None].expand(-1, len(line), -1), line[None, :, None].expand(len(plane), -1, -1)], -1)
        k = 2.0 * math.pi * n @ reciprocal.transpose(-1, -2)[:, None]
        square = k.square().sum(-1)
        origin = (n == 0).all(-1)
        twice = 1.0 + (line > 0).to(k.dtype)
        decayed = torch.exp(-square / (4.0 * self.alpha**2)) / torch.where(origin, torch.ones_like(square), square)
        return torch.where(origin, torch.zeros_like(square), twice * decayed)

    def _grid(self, system: System) -> Box:
        """Largest index of waves along every axis; found anew when cells or charges are other tensors than last time."""
        charges = charges_of(system, self)
        if torch.compiler.is_compiling():
            if self._last is None:
                raise ValueError("Ewald has to see the cell once before it is compiled: evaluate the potential, then compile")
            return self._last[2]
        if self._last is not None and self._last[0]() is system.cell and self._last[1]() is charges:
            return self._last[2]
        self._check(system, charges)
        edges = system.cell.detach().norm(dim=-1).amax(0).tolist()
        x, y, z = (max(1, math.floor(self.k_max * edge / (2.0 * math.pi))) for edge in edges)
        self._last = (weakref.ref(system.cell), weakref.ref(charges), (x, y, z))
        return x, y, z

    def _check(self, system: System, charges: Tensor) -> None:
        if not bool(system.pbc.all()):
            raise ValueError("Ewald needs a cell that is periodic in all three directions: use Coulomb or CoulombDSF for others")
        periodic_widths(system.cell.detach(), system.pbc)  # refuses a cell without volume
        net = segment_sum(charges.detach(), system.batch, system.n_systems)
        worst = int(net.abs().argmax())
        if not self.background and abs(float(net[worst])) > NEUTRAL:
            raise ValueError(
                f"system {worst} has a net charge of {float(net[worst]):.4g} e: a periodic sum of it exists only with a "
                "neutralising background (background=True); otherwise add counter-ions or correct the charges"
            )


def _waves(grid: Box, like: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of half of all waves as a product: (X Y, 2) along the first two axes, and (Z,) >= 0 along the third."""
    x, y, z = grid
    kind: dict[str, Any] = dict(dtype=like.dtype, device=like.device)
    plane = torch.cartesian_prod(torch.arange(-x, x + 1, **kind), torch.arange(-y, y + 1, **kind))
    return plane, torch.arange(z + 1, **kind)


def _structure_factor(s: Tensor, q: Tensor, plane: Tensor, line: Tensor) -> Tensor:
    r""":math:`|\sum_jq_je^{2\pi in\cdot s_j}|^2`, (S, X Y, Z), of charges (S, n) at fractional coordinates (S, n, 3)."""
    a = 2.0 * math.pi * s[..., :2] @ plane.T
    b = 2.0 * math.pi * s[..., 2:] * line
    cos_a, sin_a = ((q[..., None] * f(a)).transpose(1, 2) for f in (torch.cos, torch.sin))
    cos_b, sin_b = b.cos(), b.sin()
    real = cos_a @ cos_b - sin_a @ sin_b
    imaginary = sin_a @ cos_b + cos_a @ sin_b
    return real.square() + imaginary.square()
