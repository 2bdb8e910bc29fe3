"""Names of units that a person may write for numbers without a label, and what they are worth inside."""

from __future__ import annotations

from collections.abc import Mapping

from mlmd import units

LENGTH: Mapping[str, float] = {"A": units.angstrom, "nm": units.nm, "bohr": units.bohr}
ENERGY: Mapping[str, float] = {
    "eV": units.eV,
    "kcal/mol": units.kcal_mol,
    "kJ/mol": units.kJ_mol,
    "hartree": units.hartree,
}
FORCE: Mapping[str, float] = {
    "eV/A": units.eV,
    "kcal/mol/A": units.kcal_mol,
    "kJ/mol/nm": units.kJ_mol / units.nm,
    "kJ/mol/A": units.kJ_mol,
    "hartree/bohr": units.hartree / units.bohr,
}
TABLES: Mapping[str, Mapping[str, float]] = {"length_unit": LENGTH, "energy_unit": ENERGY, "force_unit": FORCE}


def worth(argument: str, name: str) -> float:
    """Internal value of one ``name``, where ``argument`` is length_unit, energy_unit or force_unit.

    Raises:
        ValueError: for an unknown name; lists the known ones.
    """
    table = TABLES[argument]
    if name not in table:
        raise ValueError(f"{argument}={name!r} is not known: use one of {', '.join(table)}")
    return table[name]


def nearest(argument: str, value: float, *, tolerance: float = 1.6) -> str | None:
    """The unit of ``argument`` worth about ``value`` (within a factor ``tolerance``), or None."""
    table = TABLES[argument]
    ratio = {name: max(value / v, v / value) for name, v in table.items() if value > 0}
    best = min(ratio, key=ratio.__getitem__, default=None)
    return best if best is not None and ratio[best] < tolerance else None
