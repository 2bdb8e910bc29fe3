"""``System``: a batch of molecules or periodic boxes as flat tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mlmd.cell import completed, fractional, periodic_widths, spanning_tree


@dataclass(frozen=True, eq=False)
class System:
    """N particles (atoms or beads) in S independent systems; never modified, only replaced.

    | field | shape | unit |
    |---|---|---|
    | positions | N 3 | A, may be unwrapped |
    | types | N | integer species: atomic number or bead type |
    | masses | N | eV fs^2/A^2 |
    | cell | S 3 3 | A, rows are lattice vectors, zero where not periodic |
    | pbc | S 3 | bool |
    | batch | N | system of each particle, ascending |
    | charges | N | e, optional |
    | size | int | particles per system if all systems are equally large, else None |
    """

    positions: Float[Tensor, "N 3"]
    types: Int[Tensor, " N"]
    masses: Float[Tensor, " N"]
    cell: Float[Tensor, "S 3 3"]
    pbc: Bool[Tensor, "S 3"]
    batch: Int[Tensor, " N"]
    charges: Float[Tensor, " N"] | None = None
    size: int | None = None

    @staticmethod
    def single(
        positions: Any, types: Any = None, masses: Any = None, cell: Any = None, pbc: Any = None, charges: Any = None
    ) -> System:
        """One system from arrays; types default to 0, masses to 1, and it is periodic exactly if a cell is given."""
        x = torch.as_tensor(positions)
        x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        if x.ndim != 2 or x.shape[1] != 3:
            raise ValueError(f"positions has shape {tuple(x.shape)}, expected (N, 3)")
        n = len(x)
        like: dict[str, Any] = dict(dtype=x.dtype, device=x.device)
        types = (
            torch.zeros(n, dtype=torch.long, device=x.device) if types is None else torch.as_tensor(types, device=x.device).long()
        )
        masses = torch.ones(n, **like) if masses is None else torch.as_tensor(masses, **like)
        periodic = cell is not None
        cell = torch.as_tensor(cell if periodic else torch.zeros(3, 3), **like)
        if tuple(cell.shape) not in ((), (1,), (3,), (3, 3)):
            raise ValueError(f"cell has shape {tuple(cell.shape)}: give an edge, three edges or three lattice vectors, in A")
        cell = torch.diag(cell.expand(3)) if cell.ndim < 2 else cell
        pbc = torch.as_tensor(periodic if pbc is None else pbc, device=x.device).expand(3)
        charges = None if charges is None else torch.as_tensor(charges, **like)
        for name, value in (("types", types), ("masses", masses), ("charges", charges)):
            if value is not None and value.shape != (n,):
                raise ValueError(f"{name} has shape {tuple(value.shape)} for {n} particles, expected ({n},)")
        if bool((types < 0).any()) or not bool((masses >= 0).all()):
            raise ValueError("types and masses must not be negative")
        if not bool(torch.isfinite(cell).all()):
            raise ValueError("cell holds values that are not finite: give lattice vectors in A")
        if bool(pbc.any()):
            periodic_widths(cell[None], pbc[None])  # refuses a periodic box without volume
        batch = torch.zeros(n, dtype=torch.long, device=x.device)
        return System(x, types, masses, cell[None], pbc[None].clone(), batch, charges, n)

    @staticmethod
    def stack(systems: Sequence[System]) -> System:
        """Concatenate systems into one batch."""
        if not systems:
            raise ValueError("systems is empty: give at least one System")
        offset, batches = 0, []
        for s in systems:
            batches.append(s.batch + offset)
            offset += s.n_systems
        sizes = {s.size for s in systems}
        with_charges = all(s.charges is not None for s in systems)
        if not with_charges and any(s.charges is not None for s in systems):
            raise ValueError("some systems have charges and some have none: give charges to all (zeros where neutral) or to none")
        cat = {f: torch.cat([getattr(s, f) for s in systems]) for f in ("positions", "types", "masses", "cell", "pbc")}
        charges = torch.cat([s.charges for s in systems]) if with_charges else None  # type: ignore[misc]
        return System(**cat, batch=torch.cat(batches), charges=charges, size=sizes.pop() if len(sizes) == 1 else None)

    @property
    def n_systems(self) -> int:
        return self.cell.shape[0]

    def __len__(self) -> int:
        return self.positions.shape[0]

    @property
    def periodic(self) -> bool:
        """Whether any direction of any system repeats (one host read on a GPU)."""
        return bool(self.pbc.any())

    def replicate(self, k: int) -> System:
        """``k`` copies of the whole batch."""
        if k < 1:
            raise ValueError(f"k={k}: at least one copy is needed")
        return System.stack([self] * k)

    def enlarged(self, repeats: Sequence[int], bonds: Iterable[tuple[int, int]] = ()) -> System:
        r"""Every system as a box ``repeats`` = (na, nb, nc) times as long along its lattice vectors, filled with its images.

        .. math:: x_{i,(p,q,r)}=x_i+p\,a+q\,b+r\,c,\qquad A\to\mathrm{diag}(n_a,n_b,n_c)\,A

        The particles of the first image come first, then those of the next (r fastest), so molecules that lie one after
        another still do. An energy whose cutoff fits into the small box is na nb nc times as large, and forces are the same.
        For independent copies of a system there is :meth:`replicate`.

        Args:
            repeats: three whole numbers, 1 along directions that are not periodic.
            bonds: pairs of particles of the whole batch. Molecules that a wrapped trajectory has cut are joined along them
                first, each to lie where its first particle is; without bonds molecules must be whole already.

        Raises:
            ValueError: repeats that are not three whole numbers of at least 1, or over 1 where the system does not repeat.
        """
        n = _checked_repeats(repeats, self.pbc)
        x = self.positions.clone()
        filled = completed(self.cell, self.pbc)
        for parent, child in spanning_tree(len(self), bonds):
            s, d = int(self.batch[child]), x[child] - x[parent]
            turns = fractional(d[None], filled[s]).round() * self.pbc[s]
            x[child] -= (turns @ filled[s])[0]
        steps = torch.cartesian_prod(*[torch.arange(k, dtype=x.dtype, device=x.device) for k in n])
        shift = torch.einsum("kj,sji->ksi", steps, self.cell)[:, self.batch]  # (images, N, 3)
        batch = self.batch.repeat(len(steps))
        order = torch.argsort(batch, stable=True)

        def repeated(values: Tensor) -> Tensor:
            return values.repeat(len(steps))[order]

        return System(
            positions=(x + shift).reshape(-1, 3)[order],
            types=repeated(self.types),
            masses=repeated(self.masses),
            cell=self.cell * torch.tensor(n, dtype=x.dtype, device=x.device)[:, None],
            pbc=self.pbc,
            batch=batch[order],
            charges=None if self.charges is None else repeated(self.charges),
            size=None if self.size is None else self.size * len(steps),
        )

    def at(self, positions: Tensor) -> System:
        """The same particles elsewhere: (N, 3), or (F, N, 3) for a batch of F snapshots of a single system."""
        if tuple(positions.shape[-2:]) != (len(self), 3) or positions.ndim not in (2, 3):
            raise ValueError(f"positions has shape {tuple(positions.shape)}, expected (..., {len(self)}, 3)")
        if positions.dtype != self.positions.dtype:
            return self.to(positions.dtype).at(positions)
        if positions.ndim == 2:
            return replace(self, positions=positions)
        if self.n_systems != 1:
            raise ValueError(f"positions of shape {tuple(positions.shape)} need a single system, this batch has {self.n_systems}")
        base = replace(self, positions=positions[0].detach()).replicate(len(positions))
        return replace(base, positions=positions.reshape(-1, 3))

    def select(self, systems: Sequence[int] | Tensor) -> System:
        """The given systems, in the given order; negative numbers count from the end."""
        index = torch.as_tensor(systems, dtype=torch.long, device=self.batch.device).reshape(-1)
        if not len(index) or bool((index >= self.n_systems).any() | (index < -self.n_systems).any()):
            raise ValueError(f"systems={index.tolist()}: choose at least one of the systems 0 to {self.n_systems - 1}")
        index, size = index % self.n_systems, self.size
        if size is not None:
            atoms = (index[:, None] * size + torch.arange(size, device=index.device)).reshape(-1)
            counts = torch.full_like(index, size)
        else:
            atoms = torch.cat([torch.nonzero(self.batch == s).flatten() for s in index])
            counts = torch.bincount(self.batch, minlength=self.n_systems)[index]
            size = int(counts[0]) if bool((counts == counts[0]).all()) else None
        batch = torch.repeat_interleave(torch.arange(len(index), device=atoms.device), counts)
        charges = None if self.charges is None else self.charges[atoms]
        return System(
            self.positions[atoms], self.types[atoms], self.masses[atoms], self.cell[index], self.pbc[index], batch, charges, size
        )

    def dense(self, values: Tensor | None = None) -> Tensor:
        """(S, n, ...) view of a per-particle tensor (default: the positions) when all systems are equally large."""
        if self.size is None:
            raise ValueError("dense() needs systems of equal size; this batch has unequal ones")
        values = self.positions if values is None else values
        return values.reshape(self.n_systems, self.size, *values.shape[1:])

    def to(self, target: torch.device | torch.dtype | str) -> System:
        """Move to a device, or change the floating-point type."""
        floats_only = isinstance(target, torch.dtype)
        moved: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor) and (value.is_floating_point() or not floats_only):
                moved[f.name] = value.to(target)
        return replace(self, **moved)


def _checked_repeats(repeats: Sequence[int], pbc: Tensor) -> tuple[int, int, int]:
    n = tuple(int(k) for k in repeats)
    if len(n) != 3 or n != tuple(repeats) or min(n) < 1:
        raise ValueError(f"repeats={tuple(repeats)}: give three whole numbers of at least 1, one for each lattice vector")
    open_ones = [d for d in range(3) if n[d] > 1 and not bool(pbc[:, d].all())]
    if open_ones:
        raise ValueError(f"repeats={n}: lattice vector(s) {open_ones} are not periodic, give 1 there")
    return n  # type: ignore[return-value]
