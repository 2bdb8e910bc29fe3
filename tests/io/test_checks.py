"""Slips that every reader lets through silently are warned of, with the mend; good data raise no doubt."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from mlmd import datasets, io, units
from mlmd.datasets import alkanes
from mlmd.frames import Frames, as_numpy, bead_topology
from mlmd.io import checks
from mlmd.io.unit_names import FORCE

PROPANE = datasets.load("propane")
TOP = PROPANE.topology
X, F = as_numpy(PROPANE.positions.double()), as_numpy(PROPANE.forces.double())


def read(x, f=None, force_unit="eV/A", length_unit="A", **arguments) -> Frames:
    return io.read(TOP, x, f, length_unit=length_unit, force_unit=None if f is None else force_unit, **arguments)


@pytest.mark.parametrize("name", [d.name for d in datasets.available() if d.ships])
def test_shipped_data_raise_no_doubt(name):
    frames = datasets.load(name)
    x, f = as_numpy(frames.positions), as_numpy(frames.forces)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rigid = None if frames.constraints is None else "detect"
        io.read(frames.topology, x, f, length_unit="A", force_unit="eV/A", temperature=frames.kT / units.kelvin, constraints=rigid)
    noted = {"ok"} if rigid is None else {"ok", "note"}  # forces of constraint are in no file, so that the virial has no meaning
    assert {f.level for f in io.audit(frames)} == noted


@pytest.mark.parametrize(
    ("factor", "read_as", "true"),
    [(0.1, "A", "nm"), (1.0, "nm", "A"), (1 / units.bohr, "A", "bohr"), (1.0, "bohr", "A"), (0.1, "bohr", "nm")],
)
@pytest.mark.parametrize("with_bonds", [True, False])
def test_every_slip_of_lengths_is_flagged_with_the_true_unit(factor, read_as, true, with_bonds):
    top = TOP if with_bonds else alkanes_without_bonds()
    with pytest.warns(io.UnitWarning, match=rf"pass length_unit='{true}'"):
        io.read(top, X[:20] * factor, length_unit=read_as)


def alkanes_without_bonds():
    from mlmd.io.formats import topology_of

    return topology_of(as_numpy(PROPANE.types))


@pytest.mark.parametrize("true", sorted(FORCE))
@pytest.mark.parametrize("read_as", sorted(FORCE))
def test_every_slip_of_force_units_is_flagged_with_the_true_unit(true, read_as):
    numbers = F / FORCE[true]
    if true == read_as:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read(X, numbers, read_as, temperature=300)
    else:
        with pytest.warns(io.VirialWarning, match=rf"pass force_unit='{true}'"):
            read(X, numbers, read_as, temperature=300)


@pytest.mark.parametrize(("true", "read_as"), [("kcal/mol/A", "eV/A"), ("kJ/mol/nm", "kcal/mol/A"), ("eV/A", "kJ/mol/nm")])
def test_coarse_slips_are_flagged_without_a_temperature(true, read_as):
    with pytest.warns(io.VirialWarning, match=rf"300 K.*pass force_unit='{true}'"):
        read(X, F / FORCE[true], read_as)


def test_reversed_sign_is_recognised():
    with pytest.warns(io.VirialWarning, match="sign is reversed"):
        read(X, -F, temperature=300)


def test_reversed_sign_in_another_unit_is_recognised():
    with pytest.warns(io.VirialWarning, match=r"sign is reversed.*force_unit='kcal/mol/A'"):
        read(X, -F / units.kcal_mol, temperature=300)


def test_forces_of_other_frames_are_recognised():
    with pytest.warns(io.VirialWarning, match="nothing to do with the positions"):
        read(X, np.roll(F, 1000, axis=0), temperature=300)


def test_another_temperature_is_flagged():
    with pytest.warns(io.VirialWarning, match="temperature"):
        read(X, F, temperature=600)


def test_after_a_slip_of_lengths_the_virial_is_not_blamed_on_the_forces():
    with pytest.warns(io.UnitWarning) as caught:
        read(X / 10, F, temperature=300)
    assert [w.category for w in caught] == [io.UnitWarning]


def test_every_planted_duplicate_is_counted():
    x = np.concatenate([X[:1000], X[100:200]])
    with pytest.warns(io.DuplicateWarning, match=r"100 of 1100 frames repeat another one \(first: frames 100 and 1000\)"):
        read(x)


def test_permuted_atoms_are_flagged():
    order = np.arange(11)
    order[[1, 9]] = [9, 1]  # hydrogens of different carbons
    with pytest.warns(io.BondWarning, match=r"2 of 10 bonds.*C31-C1 - C31-H1A.*different order"):
        read(X[:50][:, order])


def rigid() -> tuple[np.ndarray, np.ndarray]:
    """Propane whose C-H lengths are reset to one value."""
    x = X[:200].copy()
    for i, j in PROPANE.bonds:
        a, b = (i, j) if TOP.atom(i).element.symbol == "C" else (j, i)
        if TOP.atom(b).element.symbol == "H":
            d = x[:, b] - x[:, a]
            x[:, b] = x[:, a] + 1.09 * d / np.linalg.norm(d, axis=-1, keepdims=True)
    return x, F[:200]


def test_undeclared_constraints_are_noticed_and_the_virial_is_not_judged():
    with pytest.warns(io.ConstraintWarning, match=r'8 bonds to hydrogen.*constraints="detect"') as caught:
        read(*rigid(), temperature=300)
    assert len(caught) == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("how", ["detect", "h-bonds"])
def test_declared_constraints_are_kept(how):
    frames = read(*rigid(), temperature=300, constraints=how)
    assert frames.constraints.shape == (8, 2)
    assert [f.level for f in io.audit(frames)][-1] == "note"


@pytest.mark.filterwarnings("error")
def test_free_bonds_are_not_taken_for_constraints_after_rounding_by_xtc(tmp_path):
    PROPANE[:200].to_mdtraj().save(str(tmp_path / "a.xtc"))
    assert len(io.read(TOP, tmp_path / "a.xtc", constraints="detect").constraints) == 0


def in_a_box(edge: float, copies: int = 1) -> Frames:
    x = torch.cat([PROPANE.positions[:5] + 7.0 * k for k in range(copies)], 1)
    return Frames(x, alkanes.topology(3, copies), cell=edge * torch.eye(3).expand(5, 3, 3))


@pytest.mark.parametrize(
    ("edge", "copies", "message"), [(1.0, 1, "box in nm, or a dummy"), (1e3, 3, "dilute gas, or a box in the wrong unit")]
)
def test_boxes_of_impossible_density_are_flagged(edge, copies, message):
    finding = checks.check_density(in_a_box(edge, copies), checks.Source())
    assert finding.category is io.UnitWarning and message in finding.message


def test_density_is_in_gram_per_cubic_centimetre():
    from mlmd.io.formats import topology_of

    water = Frames(torch.rand(1, 3, 3), topology_of(np.array([8, 1, 1])), cell=torch.eye(3)[None] * 29.9 ** (1 / 3))
    assert "density 1 g/cm3" in checks.check_density(water, checks.Source()).message


def test_atoms_without_an_element_are_flagged_and_beads_are_not(tmp_path):
    path = tmp_path / "a.pdb"
    PROPANE[0].to_mdtraj().save(str(path))
    lines = path.read_text().splitlines()
    k = next(i for i, line in enumerate(lines) if line.startswith(("ATOM", "HETATM")))
    lines[k] = lines[k][:12] + " X1 " + lines[k][16:76]
    path.write_text("\n".join(lines))
    with pytest.warns(io.InputWarning, match=r"1 of 11 particles have no element.*columns 77-78"):
        io.read(path)
    beads = Frames(torch.rand(3, 2, 3), bead_topology(["A", "B"], [(0, 1)]))
    assert checks.check_elements(beads, checks.Source()).level == "note"


def test_fewer_frames_than_needed_names_both_numbers():
    with pytest.raises(ValueError, match=r"5 frames, but training needs at least 10"):
        io.require_frames(PROPANE[:5], 10, "training")


def test_checks_can_be_switched_off():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(X[:20], -F[:20], temperature=300, check=False)


def test_findings_do_not_change_the_data():
    frames = replace(PROPANE[:100], forces=-PROPANE.forces[:100])
    before = frames.forces.clone()
    io.audit(frames)
    assert torch.equal(frames.forces, before)
