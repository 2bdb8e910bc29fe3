"""Units: length Angstrom, time fs, energy eV, charge e; masses in eV fs^2/A^2 so that acceleration = force / mass.

Multiply by a unit on the way in (``dt=2 * fs, kT=300 * kelvin``), divide on the way out (``energy / (kcal / mol)``).
Constants: CODATA 2018 (exact where the SI defines them). Reduced units are plain numbers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

angstrom = 1.0
fs = 1.0
eV = 1.0
e = 1.0

nm = 10.0 * angstrom
bohr = 0.529177210903 * angstrom
ps = 1000.0 * fs
ns = 1e6 * fs

_J = 1.0 / 1.602176634e-19  # exact
_avogadro = 6.02214076e23  # exact
mol = _avogadro
kJ = 1e3 * _J
kcal = 4.184 * kJ
hartree = 27.211386245988 * eV
kelvin = 1.380649e-23 * _J  # kT of one kelvin, in eV
amu = 1.66053906660e-27 * _J * 1e10  # kg = J s^2/m^2 = 1e30 fs^2/1e20 A^2
bar = 1e5 * _J * 1e-30  # J/m^3 in eV/A^3
coulomb_constant = 14.399645478425668  # e^2/(4 pi eps0) in eV A

kJ_mol = kJ / mol
kcal_mol = kcal / mol


class Unit(NamedTuple):
    """A unit for showing a quantity: divide by ``factor`` and write ``label``."""

    factor: float
    label: str


SHOWN: dict[str, Unit] = {
    "length": Unit(angstrom, "Å"),
    "time": Unit(ps, "ps"),
    "energy": Unit(kcal_mol, "kcal/mol"),
    "force": Unit(kcal_mol / angstrom, "kcal/mol/Å"),
    "force^2": Unit((kcal_mol / angstrom) ** 2, "(kcal/mol/Å)²"),
    "free energy": Unit(kcal_mol, "kcal/mol"),
    "temperature": Unit(kelvin, "K"),
    "mass": Unit(amu, "amu"),
    "angle": Unit(math.pi / 180, "°"),
    "speed": Unit(1.0, "ns/day"),
}


def label(quantity: str, name: str | None = None) -> str:
    """Axis label, for instance ``label("length", "r") == "r / Å"``."""
    return f"{name or quantity} / {SHOWN[quantity].label}"


def shown(value: float, quantity: str) -> float:
    """``value`` in the unit in which ``quantity`` is shown to people."""
    return value / SHOWN[quantity].factor
