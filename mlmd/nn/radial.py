"""Functions of distance for networks: bases that resolve it, envelopes that end it smoothly at the cutoff."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mlmd.store import configurable

FLOOR = 60.0  # exp(-60) = 9e-27: smaller values turn subnormal in single precision, which costs a hundred cycles each


def _positive(value: float, name: str) -> float:
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}={value}: must be positive and finite, in A")
    return float(value)


@configurable
class GaussianBasis(nn.Module):
    r""":math:`g_k(r)=\exp[-(r-\mu_k)^2/2\sigma^2]`, centres evenly spaced on [start, cutoff], width = spacing.

    Schuett et al., J. Chem. Phys. 148, 241722 (2018), eq. 6.
    """

    centres: Tensor

    def __init__(self, cutoff: float, size: int = 50, start: float = 0.0):
        super().__init__()
        if size < 2:
            raise ValueError(f"size={size}: a Gaussian basis needs at least 2 functions")
        self.size, self.cutoff = size, _positive(cutoff, "cutoff")
        self.register_buffer("centres", torch.linspace(start, cutoff, size, dtype=torch.float64))
        self.scale = math.sqrt(0.5) * (size - 1) / (cutoff - start)  # 1 / (sqrt(2) sigma)

    def forward(self, r: Tensor) -> Tensor:
        """(P,) -> (P, size)."""
        x = (r[:, None] - self.centres.to(r.dtype)) * self.scale
        return torch.exp(-(x * x).clamp(max=FLOOR))

    def slope(self, r: Tensor, value: Tensor) -> Tensor:
        """dg/dr (P, size) from the values (P, size) at distances (P,)."""
        return (self.centres.to(r.dtype) - r[:, None]).mul_(value).mul_(2.0 * self.scale**2)


@configurable
class BesselBasis(nn.Module):
    r""":math:`\phi_n(r)=\sin(n\pi r/r_c)/r,\ n=1\ldots` (Gasteiger et al. 2020; PaiNN eq. 8).

    The limit at r = 0 is taken exactly: phi_n(0) = n pi / r_c.
    """

    wave: Tensor

    def __init__(self, cutoff: float, size: int = 20):
        super().__init__()
        if size < 1:
            raise ValueError(f"size={size}: a basis needs at least 1 function")
        self.size, self.cutoff = size, _positive(cutoff, "cutoff")
        self.register_buffer("wave", torch.arange(1, size + 1, dtype=torch.float64) * (math.pi / cutoff))

    def forward(self, r: Tensor) -> Tensor:
        """(P,) -> (P, size)."""
        safe = r.clamp(min=1e-4)  # within rounding of the limit
        return torch.sin(safe[:, None] * self.wave.to(r.dtype)) / safe[:, None]


@configurable
class ExpNormalBasis(nn.Module):
    r""":math:`\phi_k(r)=\exp[-\beta(e^{-\alpha r}-\mu_k)^2]`, fine at short and coarse at long distances.

    Unke and Meuwly, J. Chem. Theory Comput. 15, 3678 (2019), eq. 7: mu_k evenly spaced on [exp(-alpha r_c), 1],
    beta = (2 (1 - exp(-alpha r_c)) / size)^-2, alpha = 5 / r_c by default.
    """

    centres: Tensor

    def __init__(self, cutoff: float, size: int = 50, alpha: float | None = None):
        super().__init__()
        if size < 2:
            raise ValueError(f"size={size}: a basis needs at least 2 functions")
        self.size, self.cutoff = size, _positive(cutoff, "cutoff")
        self.alpha = 5.0 / cutoff if alpha is None else float(alpha)
        end = math.exp(-self.alpha * cutoff)
        self.register_buffer("centres", torch.linspace(end, 1.0, size, dtype=torch.float64))
        self.beta = (2.0 / size * (1.0 - end)) ** -2

    def forward(self, r: Tensor) -> Tensor:
        """(P,) -> (P, size)."""
        x = torch.exp(-self.alpha * r)[:, None] - self.centres.to(r.dtype)
        return torch.exp(-(self.beta * x * x).clamp(max=FLOOR))


@configurable
class CosineEnvelope(nn.Module):
    r""":math:`f(r)=\frac12[\cos(\pi r/r_c)+1]`, zero with zero slope at the cutoff and beyond (Behler 2011)."""

    def __init__(self, cutoff: float):
        super().__init__()
        self.cutoff = _positive(cutoff, "cutoff")

    def forward(self, r: Tensor) -> Tensor:
        """(P,) -> (P,)."""
        x = r.clamp(max=self.cutoff) * (math.pi / self.cutoff)
        return torch.where(r < self.cutoff, 0.5 * (torch.cos(x) + 1.0), torch.zeros_like(r))

    def slope(self, r: Tensor, value: Tensor) -> Tensor:
        """df/dr (P,) at distances (P,)."""
        return torch.sin(r.clamp(max=self.cutoff) * (math.pi / self.cutoff)) * (-0.5 * math.pi / self.cutoff)


@configurable
class PolynomialEnvelope(nn.Module):
    r"""Polynomial from 1 at 0 to 0 at the cutoff whose first ``smoothness`` derivatives vanish at both ends.

    :math:`f=1-10t^3+15t^4-6t^5` (2), :math:`f=1-35t^4+84t^5-70t^6+20t^7` (3), with :math:`t=r/r_c`.
    """

    def __init__(self, cutoff: float, smoothness: int = 2):
        super().__init__()
        if smoothness not in (2, 3):
            raise ValueError(f"smoothness={smoothness}: 2 or 3 continuous derivatives are offered")
        self.cutoff, self.smoothness = _positive(cutoff, "cutoff"), smoothness

    def forward(self, r: Tensor) -> Tensor:
        """(P,) -> (P,)."""
        t = (r / self.cutoff).clamp(max=1.0)
        if self.smoothness == 2:
            return 1.0 - t**3 * (10.0 - t * (15.0 - 6.0 * t))
        return 1.0 - t**4 * (35.0 - t * (84.0 - t * (70.0 - 20.0 * t)))


def slope_of(function: Callable[[Tensor], Tensor], r: Tensor) -> Tensor:
    """dW/dr (P, ...) of a function of distances (P,) -> (P, ...): the vector-Jacobian product v . W' differentiated by v."""
    with torch.enable_grad():
        r = r.detach().requires_grad_()
        value = function(r)
        v = torch.ones_like(value, requires_grad=True)
        (product,) = torch.autograd.grad(value, r, v, create_graph=True)
        (slope,) = torch.autograd.grad(product.sum(), v)
    return slope.detach()
