"""Units against numbers from textbooks and against SciPy's table of constants."""

from __future__ import annotations

import pytest
from scipy import constants as si

from mlmd import units


@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        (units.kelvin, si.k / si.e),
        (units.kJ_mol, 1e3 / si.N_A / si.e),
        (units.kcal_mol, 4184.0 / si.N_A / si.e),
        (units.amu, si.physical_constants["atomic mass constant"][0] * 1e10 / si.e),
        (units.bar, 1e5 * 1e-30 / si.e),
        (units.bohr, si.physical_constants["Bohr radius"][0] * 1e10),
        (units.hartree, si.physical_constants["Hartree energy in eV"][0]),
        (units.coulomb_constant, si.e / (4 * si.pi * si.epsilon_0) * 1e10),
    ],
    ids=["kelvin", "kJ/mol", "kcal/mol", "amu", "bar", "bohr", "hartree", "coulomb"],
)
def test_constants_agree_with_codata(ours: float, reference: float) -> None:
    assert ours == pytest.approx(reference, rel=1e-8)


def test_room_temperature_is_a_fortieth_of_an_electronvolt_and_0_596_kcal_per_mol() -> None:
    kT = 300 * units.kelvin
    assert kT == pytest.approx(1 / 38.68, rel=1e-3)
    assert kT / units.kcal_mol == pytest.approx(0.596, abs=1e-3)


def test_argon_at_120_kelvin_moves_about_158_metres_per_second() -> None:
    speed = (120 * units.kelvin / (39.948 * units.amu)) ** 0.5  # one Cartesian component, A/fs
    assert speed * 1e5 == pytest.approx(158.0, abs=0.5)  # 1 A/fs = 1e5 m/s


def test_labels_name_the_quantity_and_its_unit() -> None:
    assert units.label("length", "r") == "r / Å"
    assert units.label("free energy") == "free energy / kcal/mol"
    assert units.shown(300 * units.kelvin, "temperature") == pytest.approx(300.0)


def test_unknown_quantities_have_no_label() -> None:
    with pytest.raises(KeyError):
        units.label("colour")
