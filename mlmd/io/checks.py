"""Checks at the door: slips of units, atoms that do not belong together, forces that do not belong to the positions.

Each check looks at ``Frames`` and returns a :class:`Finding`, or None where it does not apply; what makes the data useless raises
``ValueError``. Nothing is ever corrected here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mlmd import units
from mlmd.cell import minimum_image
from mlmd.frames import Frames, as_numpy
from mlmd.io.bonds import atomic_numbers, radii
from mlmd.io.unit_names import FORCE, LENGTH, nearest
from mlmd.io.virial import N_BLOCKS, molecules, virial


class InputWarning(UserWarning):
    """Something about the data that was read is suspicious."""


class UnitWarning(InputWarning):
    """Lengths or a box of a size that atoms do not have: most likely another unit."""


class VirialWarning(UnitWarning):
    """The virial of the forces is not kT: another unit, the other sign, constraints, or another temperature."""


class BondWarning(InputWarning):
    """Bonded atoms that are far apart: order of atoms differs, or a molecule is cut at the boundary."""


class ConstraintWarning(InputWarning):
    """Bonds of constant length whose forces of constraint are in no file."""


class DuplicateWarning(InputWarning):
    """The same frame several times."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check: in order, to be known, or to be warned of."""

    level: Literal["ok", "note", "warning"]
    message: str
    category: type[InputWarning] = InputWarning


@dataclass(frozen=True)
class Source:
    """How the frames came in: the name for messages, and the units in which the numbers were read."""

    name: str = "frames"
    taken_as: Mapping[str, str] = field(default_factory=dict)

    def unit(self, argument: str) -> str:
        """Unit in which the quantity behind a reader's argument was read."""
        return self.taken_as.get(argument, {"length_unit": "A", "force_unit": "eV/A", "energy_unit": "eV"}[argument])


def source_of(frames: Frames, name: str = "frames") -> Source:
    """The source of frames that :func:`mlmd.io.read` returned, as their provenance tells it."""
    return Source(name, frames.provenance.get("units read", {}))


SAMPLED = 50  # frames looked at where looking at all would cost time


def audit(frames: Frames, source: Source | None = None) -> list[Finding]:
    """All checks, in the order in which a person should mend things.

    Raises:
        ValueError: box without volume, or two atoms at the same place.
    """
    source = source or Source()
    check_box(frames, source)
    findings = [check_lengths(frames, source)]
    slipped = is_slipped(findings[0])
    check_overlap(frames, source)
    checks: tuple[Callable[[Frames, Source], Finding | None], ...] = (check_elements, check_density, check_bonds, check_duplicates)
    findings += [check(frames, source) for check in checks if not (slipped and check is check_bonds)]
    if slipped and frames.forces is not None:
        findings.append(Finding("note", f"{source.name}: virial not compared, because the lengths look wrong"))
    else:
        findings.append(check_constraints(frames, source))
        findings.append(check_virial(frames, source))
    return [f for f in findings if f is not None]


def warn(findings: Iterable[Finding], stacklevel: int = 3) -> None:
    """Issue what deserves a warning, under its own category."""
    for f in findings:
        if f.level == "warning":
            warnings.warn(f.message, f.category, stacklevel=stacklevel)


def require_frames(frames: Frames, needed: int, purpose: str) -> None:
    """Refuse a trajectory that is too short.

    Raises:
        ValueError: naming both numbers and what they are needed for.
    """
    if len(frames) < needed:
        raise ValueError(
            f"{len(frames)} frames, but {purpose} needs at least {needed}: give a longer trajectory or a smaller stride"
        )


def finite(name: str, what: str, values: np.ndarray) -> None:
    """Refuse values that are not finite, naming file and first frame.

    Raises:
        ValueError
    """
    bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(1))
    if len(bad):
        raise ValueError(
            f"{name}: {what} are not finite in {len(bad)} of {len(values)} frames (first: frame {bad[0]}): remove or repair those frames"
        )


def check_box(frames: Frames, source: Source) -> None:
    """Refuse a box without volume."""
    if frames.cell is None:
        return
    flat = torch.linalg.det(frames.cell.double()).abs() < 1e-6
    if bool(flat.any()):
        k = int(torch.nonzero(flat)[0])
        raise ValueError(
            f"{source.name}: the box has no volume in frame {k} ({as_numpy(frames.cell[k]).tolist()} A): "
            "give three lattice vectors, or periodic=False if there is no box"
        )


def check_lengths(frames: Frames, source: Source) -> Finding | None:
    """Median bonded distance (or nearest neighbour, without bonds) against the sum of covalent radii: between 0.7 and 1.5."""
    bonded, median = len(frames.bonds) > 0, length_ratio(frames)
    if median is None:
        return Finding("note", f"{source.name}: lengths not checked: no bond between atoms of known size")
    what = "bonded atoms" if bonded else "nearest atoms"
    text = f"{source.name}: {what} are {median:.3g} times the sum of their covalent radii apart (median)"
    if 0.7 < median < 1.5:
        return Finding("ok", text)
    unit = source.unit("length_unit")
    true = nearest("length_unit", LENGTH[unit] / median)
    mend = f"the numbers look like {true}, pass length_unit={true!r}" if true else "check the unit and the order of atoms"
    return Finding("warning", f"{text}, read as {unit}: {mend}", UnitWarning)


def length_ratio(frames: Frames) -> float | None:
    """Median of bonded (or nearest) distances over the sum of covalent radii; None for beads and single atoms."""
    ratio = _bond_ratios(frames) if frames.bonds else _neighbour_ratios(frames)
    ratio = ratio[torch.isfinite(ratio)]
    return float(ratio.median()) if len(ratio) else None


def is_slipped(finding: Finding | None) -> bool:
    """Whether the check of lengths raised a doubt."""
    return finding is not None and finding.level == "warning"


def _some(frames: Frames) -> Tensor:
    return torch.unique(torch.linspace(0, len(frames) - 1, min(SAMPLED, len(frames))).long())


def _bond_vectors(frames: Frames) -> Tensor:
    """(f, B, 3) over some frames, at the nearest image."""
    index, bonds = _some(frames), torch.tensor(frames.bonds).reshape(-1, 2)
    x = frames.positions[index].double()
    d = x[:, bonds[:, 1]] - x[:, bonds[:, 0]]
    return d if frames.cell is None else minimum_image(d, frames.cell[index].double())


def _bond_ratios(frames: Frames) -> Tensor:
    r, bonds = radii(atomic_numbers(frames.topology)), torch.tensor(frames.bonds).reshape(-1, 2)
    return _bond_vectors(frames).norm(dim=-1) / (r[bonds[:, 0]] + r[bonds[:, 1]])


def _neighbour_ratios(frames: Frames) -> Tensor:
    from scipy.spatial import cKDTree

    if frames.n_atoms < 2:
        return torch.empty(0)
    x = as_numpy(frames.positions[0].double())
    distance, index = cKDTree(x).query(x, k=2)
    r = radii(atomic_numbers(frames.topology))
    return torch.from_numpy(distance[:, 1]) / (r + r[torch.from_numpy(index[:, 1])])


def check_overlap(frames: Frames, source: Source) -> None:
    """Refuse two atoms at one place: closer than 2 % of the median distance between nearest atoms."""
    from scipy.spatial import cKDTree

    if frames.n_atoms < 2:
        return
    for k in _some(frames).tolist():
        x = as_numpy(frames.positions[k].double())
        distance, _ = cKDTree(x).query(x, k=2)
        near = distance[:, 1]
        i = int(near.argmin())
        if near[i] <= 0.02 * np.median(near):
            # of three or more atoms at one place the tree may name an atom as its own neighbour
            j = int(next(j for j in np.argsort(np.linalg.norm(x - x[i], axis=1)) if j != i))
            a, b = frames.topology.atom(min(i, j)), frames.topology.atom(max(i, j))
            raise ValueError(
                f"{source.name}: atoms {a.index} ({a}) and {b.index} ({b}) are at the same place in frame {k} "
                f"({near[i]:.2g} A apart): remove the duplicate from topology and trajectory"
            )


def check_elements(frames: Frames, source: Source) -> Finding | None:
    """Atoms without an element: beads if all are, a slip of names if only some are. They have no mass."""
    assert frames.masses is not None
    unknown = torch.nonzero(frames.masses <= 0).flatten().tolist()
    if not unknown:
        return None
    text = f"{source.name}: {len(unknown)} of {frames.n_atoms} particles have no element and no mass (first: {frames.topology.atom(unknown[0])})"
    if len(unknown) == frames.n_atoms:
        return Finding("note", f"{text}: taken as beads")
    return Finding("warning", f"{text}: write the elements into the topology (columns 77-78 of a PDB)")


def check_density(frames: Frames, source: Source) -> Finding | None:
    """Mass over volume of the first box: between 0.02 and 25 g/cm3 for condensed matter."""
    assert frames.masses is not None
    if frames.cell is None or float(frames.masses.sum()) == 0:
        return None
    volume = float(torch.linalg.det(frames.cell[0].double()).abs())
    density = float(frames.masses.sum()) / units.amu / volume * 1.66053907  # g/cm3 of one amu/A^3
    text = f"{source.name}: density {density:.3g} g/cm3"
    if density > 25:
        return Finding(
            "warning",
            f"{text} in a box of {volume:.4g} A^3: is the box in nm, or a dummy? Mend it or pass periodic=False",
            UnitWarning,
        )
    if density < 0.02 and int(molecules(frames).max()) > 0:
        return Finding("warning", f"{text} in a box of {volume:.4g} A^3: a dilute gas, or a box in the wrong unit", UnitWarning)
    return Finding("ok", text)


def check_bonds(frames: Frames, source: Source) -> Finding | None:
    """Single bonds far from the sum of covalent radii: permuted atoms, or molecules cut in two."""
    if not frames.bonds:
        return Finding("note", f"{source.name}: the topology has no bonds")
    ratio = _bond_ratios(frames)
    wild = torch.isfinite(ratio) & ((ratio > 1.6) | (ratio < 0.55))
    if not bool(wild.any()):
        return None
    f, b = (int(i) for i in torch.nonzero(wild)[0])
    i, j = frames.bonds[b]
    length = float(_bond_vectors(frames)[f, b].norm())
    image = "" if frames.cell is None else " at the nearest image"
    return Finding(
        "warning",
        f"{source.name}: {int(wild.any(0).sum())} of {len(frames.bonds)} bonds have impossible lengths; first: {frames.topology.atom(i)} - "
        f"{frames.topology.atom(j)} is {length:.3g} A{image} in frame {int(_some(frames)[f])}. Topology and trajectory may list "
        "the atoms in different order, or molecules are cut at the boundary of a box that was not read",
        BondWarning,
    )


def check_duplicates(frames: Frames, source: Source) -> Finding | None:
    """The very same positions more than once."""
    rows = np.ascontiguousarray(as_numpy(frames.positions)).reshape(len(frames), -1)
    _, first, count = np.unique(rows.view([("", np.void, rows.strides[0])]), return_index=True, return_counts=True)
    extra = int(count.sum() - len(count))
    if not extra:
        return None
    k = int(first[count > 1].min())
    twin = int(np.flatnonzero((rows == rows[k]).all(1))[1])
    return Finding(
        "warning",
        f"{source.name}: {extra} of {len(frames)} frames repeat another one (first: frames {k} and {twin}): errors will look smaller than "
        "they are; was a run continued over its own end?",
        DuplicateWarning,
    )


def rigid_bonds(frames: Frames, *, spread: float = 0.012) -> list[tuple[int, int]]:
    """Bonds to hydrogen whose length varies by less than ``spread`` (A): held by a constraint.

    Thermal bonds to hydrogen vary by 0.03 A; rounding in XTC files (0.01 A) makes 0.004 A. From 25 frames on the two are told apart.
    """
    if len(frames) < 25 or not frames.bonds:
        return []
    z = atomic_numbers(frames.topology)
    deviation = _bond_vectors(frames).norm(dim=-1).std(0)
    return [(i, j) for (i, j), s in zip(frames.bonds, deviation.tolist(), strict=True) if 1 in (z[i], z[j]) and s < spread]


def check_constraints(frames: Frames, source: Source) -> Finding | None:
    """Bonds of constant length that were not declared: their forces are missing from the file."""
    if frames.forces is None or frames.constraints is not None:
        return None
    rigid = rigid_bonds(frames)
    if not rigid:
        return None
    return Finding(
        "warning",
        f"{source.name}: {len(rigid)} bonds to hydrogen keep their length: they were constrained, and the forces of constraint are not in the "
        'file. Pass constraints="detect", so that force maps keep such atoms together',
        ConstraintWarning,
    )


def check_virial(frames: Frames, source: Source, *, tolerance: float = 0.03) -> Finding | None:
    """Virial per degree of freedom over kT: 1 within three standard errors.

    A deviation below ``tolerance`` is let pass: integration with a finite time step shifts it by that much.
    """
    if frames.forces is None:
        return None
    if (frames.constraints is not None and len(frames.constraints)) or rigid_bonds(frames):
        return Finding("note", f"{source.name}: virial not compared with kT: forces of constraint are in no file")
    v = virial(frames)
    if v is None:
        return Finding("note", f"{source.name}: virial not compared with kT: needs molecules of two atoms and {N_BLOCKS} frames")
    kT = frames.kT if frames.kT is not None else 300 * units.kelvin
    ratio, error = v.value / kT, v.error / kT
    text = f"{source.name}: virial of the forces is {ratio:.4g} +- {error:.2g} kT per degree of freedom (1 expected"
    text += ")" if frames.kT is not None else ", at 300 K, as no temperature was given)"
    # if the numbers are in a unit s times too small, value and error are both s times too large: judge by the error that 1 would have
    fair = error / max(1.0, abs(ratio))
    allowed = max(3 * fair, tolerance)
    if frames.kT is None:  # only slips larger than any sensible temperature count
        allowed = max(allowed, 3.0 if ratio > 1 else 0.75)
    if abs(ratio - 1) > allowed:
        return Finding("warning", f"{text}: {_mend(ratio, error, source)}{_surroundings(frames)}", VirialWarning)
    if fair > 0.3:
        return Finding("note", f"{text}: too few frames to judge")
    return Finding("ok", text + _surroundings(frames))


def _mend(ratio: float, error: float, source: Source) -> str:
    unit = source.unit("force_unit")
    if abs(ratio) <= min(3 * error, 1.0):
        return "the forces seem to have nothing to do with the positions; are both from the same frames, in the same order?"
    sign = "the sign is reversed (gradients instead of forces?), multiply by -1" if ratio < 0 else ""
    true = nearest("force_unit", FORCE[unit] / abs(ratio), tolerance=1.0 + max(0.25, 3 * error / abs(ratio)))
    if true == unit and not sign:
        return "temperature, missing forces (constraints, removed atoms, thermostat or bias) or an incomplete sum over beads"
    slip = f"read as {unit}, the numbers look like {true}: pass force_unit={true!r}" if true not in (None, unit) else ""
    return "; ".join(s for s in (sign, slip) if s) or "temperature, units or missing forces"


def _surroundings(frames: Frames) -> str:
    """A remark if the forces on everything do not cancel: part of the system is not in the file."""
    assert frames.forces is not None
    f = frames.forces.double()
    if float(f.sum(1).norm(dim=-1).mean()) < 0.02 * float(f.norm(dim=-1).mean()) * frames.n_atoms**0.5:
        return ""
    return "; the forces do not add up to zero: they include surroundings that are not in the file (solvent, an external field)"
