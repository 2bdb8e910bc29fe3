"""Bonded potentials: laws over internal coordinates, and the class that sums them over the molecules of a system."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mlmd.neighbors.pairs import Pairs
from mlmd.potentials.internal import Geometry, InternalCoordinates
from mlmd.potentials.spline import UniformKnots
from mlmd.segment import segment_sum
from mlmd.store import configurable
from mlmd.system import System

Values = tuple[Tensor, Tensor, Tensor]
KINDS = ("distances", "angles", "dihedrals")
STRAIGHT = 0.04  # squared sine of an angle at which a torsion has faded to a half


class Law(nn.Module):
    """Energy of a molecule as a function of its internal coordinates; a new law overrides ``forward`` alone."""

    def forward(self, distances: Tensor, angles: Tensor, dihedrals: Tensor) -> Tensor:
        """(P, M), (A, M), (D, M) -> energy (M,)."""
        raise NotImplementedError

    def add_slopes(self, values: Values, slopes: Values) -> Tensor:
        """Energy (M,) without a graph; dE/dq is added to ``slopes`` in place. Overridden where a closed form is faster."""
        with torch.enable_grad():
            leaves = [v.detach().requires_grad_() for v in values]
            energy = self(*leaves)
            grads = torch.autograd.grad(energy.sum(), leaves, allow_unused=True)
        for slope, grad in zip(slopes, grads):
            if grad is not None:
                slope += grad
        return energy.detach()


def _rows(rows: Tensor | Sequence[int]) -> Tensor:
    return torch.as_tensor(rows).long().reshape(-1)


class _PerCoordinate(Law):
    """A law of single coordinates of one kind: ``u(q)`` maps (K, M) to (K, M)."""

    rows: Tensor
    kind = "distances"

    def __init__(self, rows: Tensor | Sequence[int]):
        super().__init__()
        self.register_buffer("rows", _rows(rows))

    def u(self, q: Tensor) -> Tensor:
        """Energy of every coordinate, (K, M) -> (K, M)."""
        raise NotImplementedError

    def u_and_slope(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """u and du/dq, (K, M) each, without a graph."""
        raise NotImplementedError

    def forward(self, distances: Tensor, angles: Tensor, dihedrals: Tensor) -> Tensor:
        q = (distances, angles, dihedrals)[KINDS.index(self.kind)]
        return self.u(q.index_select(0, self.rows)).sum(0)

    def add_slopes(self, values: Values, slopes: Values) -> Tensor:
        k = KINDS.index(self.kind)
        u, slope = self.u_and_slope(values[k].index_select(0, self.rows))
        slopes[k].index_add_(0, self.rows, slope)
        return u.sum(0)


class _Harmonic(_PerCoordinate):
    def __init__(self, rows: Tensor | Sequence[int], k: Tensor, centre: Tensor):
        super().__init__(rows)
        self.k, self.centre = (nn.Parameter(torch.as_tensor(v).clone().reshape(-1, 1)) for v in (k, centre))

    def u(self, q: Tensor) -> Tensor:
        return 0.5 * self.k * (q - self.centre).square()

    def u_and_slope(self, q: Tensor) -> tuple[Tensor, Tensor]:
        d = q - self.centre
        slope = self.k * d
        return 0.5 * slope * d, slope


@configurable
class HarmonicBonds(_Harmonic):
    """u = k/2 (r - centre)^2 on the given rows of the coordinates' distances; k (K,) in eV/A^2, centre (K,) in A."""


@configurable
class HarmonicAngles(_Harmonic):
    """u = k/2 (theta - centre)^2; k (K,) in eV/rad^2, centre (K,) in rad."""

    kind = "angles"


@configurable
class CosineAngles(_PerCoordinate):
    """u = k/2 (cos theta - c0)^2, finite and smooth at theta = pi, where the force of the harmonic angle is not; k in eV.

    The measure of cos(theta) is flat: no sin(theta) enters its Boltzmann inversion.
    """

    kind = "angles"

    def __init__(self, rows: Tensor | Sequence[int], k: Tensor, c0: Tensor):
        super().__init__(rows)
        self.k, self.c0 = (nn.Parameter(torch.as_tensor(v).clone().reshape(-1, 1)) for v in (k, c0))

    def u(self, q: Tensor) -> Tensor:
        return 0.5 * self.k * (q.cos() - self.c0).square()

    def u_and_slope(self, q: Tensor) -> tuple[Tensor, Tensor]:
        d = q.cos() - self.c0
        return 0.5 * self.k * d.square(), -self.k * d * q.sin()


@configurable
class FourierDihedrals(_PerCoordinate):
    """u = sum_n a_n cos(n phi) + b_n sin(n phi), n = 1..order; a, b (K, order) in eV.

    The sine terms change sign with handedness: without them a molecule and its mirror image have the same energy.
    """

    kind = "dihedrals"

    def __init__(self, rows: Tensor | Sequence[int], a: Tensor, b: Tensor):
        super().__init__(rows)
        self.a, self.b = (nn.Parameter(torch.as_tensor(v).clone()) for v in (a, b))

    def u(self, q: Tensor) -> Tensor:
        n = torch.arange(1, self.a.shape[1] + 1, dtype=q.dtype, device=q.device)
        angle = q[..., None] * n
        return (self.a[:, None] * angle.cos() + self.b[:, None] * angle.sin()).sum(-1)

    def u_and_slope(self, q: Tensor) -> tuple[Tensor, Tensor]:
        n = torch.arange(1, self.a.shape[1] + 1, dtype=q.dtype, device=q.device)
        angle = q[..., None] * n
        cos, sin, a, b = angle.cos(), angle.sin(), self.a[:, None], self.b[:, None]
        return (a * cos + b * sin).sum(-1), ((b * n) * cos - (a * n) * sin).sum(-1)


@configurable
class PowerRepulsion(_PerCoordinate):
    """u = epsilon (sigma / r)^power: excluded volume between the given pairs; sigma (K,) in A, epsilon in eV."""

    def __init__(self, rows: Tensor | Sequence[int], sigma: Tensor, epsilon: float = 0.0259, power: int = 6):
        super().__init__(rows)
        self.sigma = nn.Parameter(torch.as_tensor(sigma).clone().reshape(-1, 1))
        self.epsilon, self.power = epsilon, power

    def u(self, q: Tensor) -> Tensor:
        return self.epsilon * (self.sigma / q) ** self.power

    def u_and_slope(self, q: Tensor) -> tuple[Tensor, Tensor]:
        u = self.u(q)
        return u, -self.power * u / q


class _Spline(_PerCoordinate):
    """A trainable cubic spline of every coordinate, or one for a group of coordinates; linear in its coefficients."""

    groups: Tensor

    def __init__(
        self,
        rows: Tensor | Sequence[int],
        knots: UniformKnots,
        groups: Tensor | Sequence[int] | None,
        coefficients: Tensor | Sequence[Sequence[float]] | None,
    ):
        super().__init__(rows)
        groups = _rows(range(len(self.rows)) if groups is None else groups)
        if len(groups) != len(self.rows) or not len(groups) or int(groups.min()) < 0:
            raise ValueError(f"groups={groups.tolist()}: give one number >= 0 for each of the {len(self.rows)} rows")
        self.register_buffer("groups", groups)
        self.knots = knots
        shape = (int(groups.max()) + 1, knots.size)
        c = torch.zeros(shape, dtype=torch.float64) if coefficients is None else torch.as_tensor(coefficients).clone()
        if tuple(c.shape) != shape:
            raise ValueError(f"coefficients has shape {tuple(c.shape)}, expected (groups, functions) = {shape}")
        self.coefficients = nn.Parameter(c)

    def u(self, q: Tensor) -> Tensor:
        return self.knots.combine(q.reshape(-1), self.coefficients, self._row(q)).reshape(q.shape)

    def u_and_slope(self, q: Tensor) -> tuple[Tensor, Tensor]:
        u, slope = self.knots.combine_with_slope(q.reshape(-1), self.coefficients, self._row(q))
        return u.reshape(q.shape), slope.reshape(q.shape)

    def _row(self, q: Tensor) -> Tensor:
        return self.groups[:, None].expand(q.shape).reshape(-1)

    def design_matrix(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """B and dB/dq, (K, M, functions) each, of coordinates (K, M): u = B c[groups], du/dq = B' c[groups]."""
        value, slope = self.knots.design_matrix(q.reshape(-1))
        return value.reshape(*q.shape, -1), slope.reshape(*q.shape, -1)

    def design_forces(self, geometry: Geometry, coordinates: InternalCoordinates) -> Tensor:
        """Forces of every coefficient set to one, (groups, functions, N, 3): the matrix of least-squares force matching."""
        values = (geometry.distances, geometry.angles, geometry.dihedrals)
        k = KINDS.index(self.kind)
        slope = self.design_matrix(values[k].index_select(0, self.rows))[1]
        out = []
        for group in range(self.coefficients.shape[0]):
            own = (self.groups == group).to(slope.dtype)[:, None]
            for function in range(self.knots.size):
                slopes = (torch.zeros_like(values[0]), torch.zeros_like(values[1]), torch.zeros_like(values[2]))
                slopes[k].index_add_(0, self.rows, own * slope[..., function])
                out.append(-coordinates.pull_back(geometry, slopes))
        return torch.stack(out).unflatten(0, (-1, self.knots.size))

    def set_values(self, values: Tensor | Sequence[float], group: int = 0) -> None:
        """Let the spline of a group pass through ``values`` (eV) at its knots: intervals + 1, or intervals if periodic."""
        self.coefficients.data[group] = self.knots.interpolate(torch.as_tensor(values)).to(self.coefficients)


@configurable
class SplineBonds(_Spline):
    r"""u = sum_k c_k B_k(r): cubic B-splines on ``intervals`` equal intervals of [start, stop] A, straight lines outside.

    Args:
        rows: rows of the coordinates' distances; start, stop: range in A; intervals: at least 4.
        groups: (K,) number of the spline of every row, so that alike bonds share one; default one each.
        coefficients: (groups, intervals + 3) in eV, default zero.

    Raises:
        ValueError: if shapes do not fit, or the range is empty.
    """

    def __init__(
        self,
        rows: Tensor | Sequence[int],
        start: float,
        stop: float,
        intervals: int,
        groups: Tensor | Sequence[int] | None = None,
        coefficients: Tensor | Sequence[Sequence[float]] | None = None,
    ):
        super().__init__(rows, UniformKnots(start, stop, intervals), groups, coefficients)


@configurable
class SplineAngles(_Spline):
    r"""u = sum_k c_k B_k(theta) on ``intervals`` equal intervals of [0, pi]; see :class:`SplineBonds`.

    The force has no limit at theta = 0 and pi unless the slope vanishes there, as for any law of the angle itself.
    """

    kind = "angles"

    def __init__(
        self,
        rows: Tensor | Sequence[int],
        intervals: int,
        groups: Tensor | Sequence[int] | None = None,
        coefficients: Tensor | Sequence[Sequence[float]] | None = None,
    ):
        super().__init__(rows, UniformKnots(0.0, math.pi, intervals), groups, coefficients)


@configurable
class SplineCosines(_Spline):
    r"""u = sum_k c_k B_k(cos theta) on ``intervals`` equal intervals of [start, stop], straight lines outside; see :class:`SplineBonds`.

    .. math:: \frac{du}{d\theta}=-\sin\theta\sum_kc_kB_k'(\cos\theta)

    Its force is smooth at theta = 0 and pi, and the measure of cos(theta) is flat: no sin(theta) enters its Boltzmann inversion.
    """

    kind = "angles"

    def __init__(
        self,
        rows: Tensor | Sequence[int],
        start: float,
        stop: float,
        intervals: int,
        groups: Tensor | Sequence[int] | None = None,
        coefficients: Tensor | Sequence[Sequence[float]] | None = None,
    ):
        super().__init__(rows, UniformKnots(start, stop, intervals), groups, coefficients)

    def u(self, q: Tensor) -> Tensor:
        return super().u(q.cos())

    def u_and_slope(self, q: Tensor) -> tuple[Tensor, Tensor]:
        u, slope = super().u_and_slope(q.cos())
        return u, -q.sin() * slope

    def design_matrix(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """B and dB/dtheta, (K, M, functions) each, of angles (K, M)."""
        value, slope = super().design_matrix(q.cos())
        return value, -q.sin()[..., None] * slope


@configurable
class SplineDihedrals(_Spline):
    r"""u = sum_k c_k B_k(phi), periodic on ``intervals`` equal intervals of [-pi, pi]; coefficients (groups, intervals) in eV.

    See :class:`SplineBonds`. A spline that is not even tells a molecule from its mirror image.
    """

    kind = "dihedrals"

    def __init__(
        self,
        rows: Tensor | Sequence[int],
        intervals: int,
        groups: Tensor | Sequence[int] | None = None,
        coefficients: Tensor | Sequence[Sequence[float]] | None = None,
    ):
        super().__init__(rows, UniformKnots(-math.pi, math.pi, intervals, periodic=True), groups, coefficients)


@configurable
class SplineTorsions(Law):
    r"""Dihedral splines that fade out where one of the two angles is straight and the dihedral has no meaning:

    .. math:: u=\sum_k\frac{s_1}{s_1+w}\frac{s_2}{s_2+w}\sum_nc_nB_n(\phi_k),\qquad s=\sin^2\theta,\ w=0.04

    Half of it is left at 11.5 degrees from straight. The force of a bare dihedral grows as 1/sin(theta) there: with beads of several atoms,
    whose angles reach 180 degrees, it heats a simulation with any useful time step. (Bulacu et al., J. Chem. Theory Comput. 9, 3282 (2013)
    fade by sin^3 for the same reason, at all angles.)

    Args:
        rows: (K,) rows of the coordinates' dihedrals; angles: (K, 2) rows of the angles that each of them is made of.
        intervals, groups, coefficients: as in :class:`SplineDihedrals`.

    Raises:
        ValueError: if shapes do not fit.
    """

    kind = "dihedrals"
    angles: Tensor

    def __init__(
        self,
        rows: Tensor | Sequence[int],
        angles: Tensor | Sequence[Sequence[int]],
        intervals: int,
        groups: Tensor | Sequence[int] | None = None,
        coefficients: Tensor | Sequence[Sequence[float]] | None = None,
    ):
        super().__init__()
        self.turn = SplineDihedrals(rows, intervals, groups, coefficients)
        at = torch.as_tensor(angles).long()
        if at.shape != (len(self.turn.rows), 2):
            raise ValueError(
                f"angles has shape {tuple(at.shape)}: give the rows of two angles for each of {len(self.turn.rows)} dihedrals"
            )
        self.register_buffer("angles", at)

    @property
    def rows(self) -> Tensor:
        """(K,) rows of the coordinates' dihedrals."""
        return self.turn.rows

    def forward(self, distances: Tensor, angles: Tensor, dihedrals: Tensor) -> Tensor:
        f = self.fading(angles[self.angles])
        return (f.prod(1) * self.turn.u(dihedrals.index_select(0, self.turn.rows))).sum(0)

    def add_slopes(self, values: Values, slopes: Values) -> Tensor:
        theta = values[1][self.angles]
        f = self.fading(theta)
        u, slope = self.turn.u_and_slope(values[2].index_select(0, self.turn.rows))
        slopes[2].index_add_(0, self.turn.rows, f.prod(1) * slope)
        steep = STRAIGHT * (2 * theta).sin() / (theta.sin().square() + STRAIGHT).square()
        for k in range(2):
            slopes[1].index_add_(0, self.angles[:, k], u * f[:, 1 - k] * steep[:, k])
        return (f.prod(1) * u).sum(0)

    @staticmethod
    def fading(theta: Tensor) -> Tensor:
        """sin^2 / (sin^2 + w) of angles in rad."""
        s = theta.sin().square()
        return s / (s + STRAIGHT)


@configurable
class Bonded(nn.Module):
    """Sum of laws over every molecule of a system; molecules are consecutive, equal and whole (not wrapped).

    E = sum over molecules and laws of u(r, theta, phi)

    The coordinates are computed once for all laws. Without a graph, forces come from the closed-form gradients of the
    coordinates, and only the laws are differentiated.
    """

    cutoff = 0.0

    def __init__(self, coordinates: InternalCoordinates, laws: Sequence[Law]):
        super().__init__()
        self.coordinates = coordinates
        self.laws = nn.ModuleList(laws)

    def energy(self, values: Values) -> Tensor:
        """Energy per molecule, (M,)."""
        total = values[0].new_zeros(values[0].shape[1])
        for law in self.laws:
            total = total + law(*values)
        return total

    def forward(self, system: System, pairs: Pairs | None = None) -> Tensor:
        """Energy of every system, (S,)."""
        return self._per_system(self.energy(self.coordinates(system.positions)), system)

    def analytic(self, system: System, pairs: Pairs | None = None) -> tuple[Tensor, Tensor]:
        """(energy (S,), forces (N, 3)) without a graph through the positions."""
        geometry = self.coordinates.geometry(system.positions)
        energy, forces = self.from_geometry(geometry, create_graph=False)
        return self._per_system(energy, system), forces

    def from_geometry(self, geometry: Geometry, *, create_graph: bool) -> tuple[Tensor, Tensor]:
        """(energy per molecule (M,), forces (N, 3)) of stored geometries; with a graph they can train the laws' parameters."""
        values = (geometry.distances, geometry.angles, geometry.dihedrals)
        energy, slopes = self._graph_slopes(values) if create_graph else self._closed_slopes(values)
        return energy, -self.coordinates.pull_back(geometry, slopes)

    def _graph_slopes(self, values: Values) -> tuple[Tensor, Values]:
        with torch.enable_grad():
            leaves = [v.detach().requires_grad_() for v in values]
            energy = self.energy((leaves[0], leaves[1], leaves[2]))
            grads = torch.autograd.grad(energy.sum(), leaves, create_graph=True, allow_unused=True)
        r, theta, phi = (torch.zeros_like(v) if g is None else g for g, v in zip(grads, values))
        return energy, (r, theta, phi)

    @torch.no_grad()
    def _closed_slopes(self, values: Values) -> tuple[Tensor, Values]:
        slopes = (torch.zeros_like(values[0]), torch.zeros_like(values[1]), torch.zeros_like(values[2]))
        energy = values[0].new_zeros(values[0].shape[1])
        for law in self.laws:
            energy += law.add_slopes(values, slopes)  # type: ignore[operator]
        return energy, slopes

    def _per_system(self, energy: Tensor, system: System) -> Tensor:
        if system.size is not None:
            if system.size % self.coordinates.size:
                raise ValueError(
                    f"systems of {system.size} beads do not hold whole molecules of {self.coordinates.size}: "
                    "the potential was made for another molecule"
                )
            return energy.reshape(system.n_systems, -1).sum(1)
        return segment_sum(energy, system.batch[:: self.coordinates.size], system.n_systems)
