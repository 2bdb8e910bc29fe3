import mdtraj
import numpy as np
import pytest
import torch

from mlmd.cg.target_rdf import TargetRDF
from mlmd.frames import Frames
from mlmd.system import System
from tests.cg.liquids import DENSITY, flat_target, liquid, sampler_of


def test_bins_below_the_table_are_filled_with_zeros_down_to_the_origin():
    target = flat_target(first=0.8, last=2.6, width=0.1)
    assert target.r[0] == pytest.approx(0.1)
    assert target.r[7] == pytest.approx(0.8) == pytest.approx(target.start)
    assert target.g[0, :7].tolist() == [0.0] * 7


def test_a_file_is_read_in_its_own_unit_of_length_and_its_flags_are_not_numbers(tmp_path):
    rows = [f"{r:.2f} {g} i" for r, g in zip(np.arange(0.24, 0.31, 0.01), (0.1, 1.0, 2.8, 2.0, 1.2, 1.0, 1.0))]
    (tmp_path / "g.txt").write_text("\n".join(rows))
    target = TargetRDF.read(tmp_path / "g.txt", length=10.0)
    assert target.width == pytest.approx(0.1)
    assert target.r[target.g[0].argmax()] == pytest.approx(2.6)


def test_the_pairs_of_an_ideal_gas_in_a_shell_are_the_density_times_its_volume():
    system, target = liquid(types=2), flat_target(types=((0, 0), (0, 1)))
    n = len(system)
    shell = 4 / 3 * np.pi * (1.25**3 - 1.15**3) * DENSITY / n  # share of the box
    k = np.flatnonzero(np.isclose(target.r, 1.2))[0]
    same, different = target.pair_counts(system)[:, k]
    assert same == pytest.approx(n / 2 * (n / 2 - 1) / 2 * shell)
    assert different == pytest.approx(n / 2 * n / 2 * shell)


def test_a_target_of_frames_counts_their_pairs_shell_by_shell():
    """A mixture at random in a box, every pair of which is counted here one by one, against N_a N_b v / V pairs of an ideal gas."""
    system, random, bins = liquid(cells=5, types=2), np.random.default_rng(0), 8
    edge = float(system.cell[0, 0, 0])
    x = random.uniform(0, edge, (6, len(system), 3))
    target = TargetRDF.of(frames_of(x, system), r_max=2.4, bins=bins, types=((0, 0), (0, 1)))
    assert target.r == pytest.approx(0.15 + 0.3 * np.arange(bins)) and target.types == ((0, 0), (0, 1))
    d = x[:, :, None] - x[:, None]
    d = np.linalg.norm(d - edge * np.round(d / edge), axis=-1)
    kind = system.types.numpy()
    for row, pair in zip(target.g, target.types, strict=True):
        chosen = (kind[:, None] == pair[0]) & (kind == pair[1]) & ~np.eye(len(kind), dtype=bool)
        counts = np.histogram(d[:, chosen], bins, (0.0, 2.4))[0] / len(x)
        shells = 4 / 3 * np.pi * np.diff((0.3 * np.arange(bins + 1)) ** 3)
        assert row == pytest.approx(counts / (chosen.sum() * shells / edge**3), rel=1e-9)


def frames_of(x: np.ndarray, system: System) -> Frames:
    """Positions (F, N, 3) with the types and the box of a system."""
    topology = mdtraj.Topology()
    residue = topology.add_residue("A", topology.add_chain())
    for _ in range(x.shape[1]):
        topology.add_atom("A", None, residue)
    cell = system.cell.double().expand(len(x), 3, 3).clone()
    return Frames(torch.from_numpy(x), topology, cell=cell, masses=system.masses, types=system.types)


def with_gap() -> TargetRDF:
    r = np.arange(0.8, 2.65, 0.1)
    g = np.ones_like(r)
    g[6] = 0.0
    return TargetRDF(r, g)


def in_nanometres() -> None:
    r = np.arange(0.24, 0.61, 0.01)
    target = TargetRDF(r, 1 + np.exp(-(((r - 0.28) / 0.02) ** 2)))
    system = liquid()
    target.fits(System.single(system.positions * 3.1 / 1.2, cell=system.cell[0] * 3.1 / 1.2))  # beads 3 A apart


def box_in_nanometres() -> None:
    r = np.arange(2.4, 6.1, 0.1)
    target = TargetRDF(r, 1 + np.exp(-(((r - 2.8) / 0.2) ** 2)))
    system = liquid()
    target.fits(System.single(system.positions * 0.3, cell=system.cell[0] * 0.3))  # beads 0.3 nm apart


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (with_gap, r"zero at r=1.4 A and 1 empty bin.*0.8 A"),
        (in_nanometres, "distances in nm"),
        (box_in_nanometres, "box in nm"),
        (lambda: flat_target(last=2.0).basis(2.4), "ends at 2.05 A, before the cutoff=2.4 A"),
        (lambda: TargetRDF(np.arange(5.0), np.zeros(5)), "zero everywhere"),
        (lambda: TargetRDF(np.arange(5.0) ** 2, np.ones(5)), "not a uniform"),
        (lambda: TargetRDF(np.arange(5.0), -np.ones(5)), "not negative"),
        (lambda: TargetRDF(np.arange(5.0), np.ones(4)), r"\(4,\)|\(1, 4\)"),
        (lambda: flat_target(last=5.0).fits(liquid()), "more than half the smallest box width"),
        (lambda: flat_target(types=((0, 1),)).pair_counts(liquid()), "no pair to count"),
        (lambda: flat_target().fits(System.stack([liquid(), liquid()])), "one box"),
        (lambda: sampler_of(flat_target(), steps=100), "at least 400 steps"),
    ],
)
def test_a_target_that_cannot_be_used_says_why(make, names):
    with pytest.raises(ValueError, match=names):
        make()
