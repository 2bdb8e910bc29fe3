from dataclasses import replace

import mdtraj
import pytest
import torch

from mlmd.cg.liquid_molecules import LiquidMolecules
from mlmd.cg.pair_force_matching import match_pair_forces
from mlmd.cg.pair_splines import PairSplines
from mlmd.cg.priors import molecule_coordinates
from mlmd.forces import energy_forces
from mlmd.frames import Frames
from mlmd.md import Langevin, rest, simulate
from mlmd.neighbors import neighbors
from mlmd.potentials.accelerated import Accelerated
from mlmd.potentials.bonded import Bonded, HarmonicBonds
from mlmd.potentials.pair import Excluding
from tests.cg.liquids import liquid, well_values

TYPES = ((0, 0), (0, 1), (1, 1))
BASIS = PairSplines(0.8, 2.4, 12, TYPES)
NOISE = 0.5


@pytest.fixture(scope="module")
def frames() -> Frames:
    """A mixture simulated with known splines, with the forces of these splines and noise on them."""
    system, generator = liquid(cells=8, types=2), torch.Generator().manual_seed(0)
    law = BASIS.law(well_values(BASIS))
    states = list(simulate(rest(system), Accelerated(law), Langevin(0.01, 1.0, 1.0), 1500, every=50, generator=generator))[10:]
    x = torch.stack([s.system.positions for s in states]).double()
    exact = []
    for positions in x:
        now = system.to(torch.float64).at(positions)
        exact.append(energy_forces(law, now, neighbors(now, law.cutoff)).forces.detach())
    noise = torch.randn(x.shape, dtype=x.dtype, generator=generator) * NOISE
    topology = mdtraj.Topology()
    residue = topology.add_residue("A", topology.add_chain())
    for _ in range(len(system)):
        topology.add_atom("A", None, residue)
    cell = system.cell.double().expand(len(x), 3, 3).clone()
    return Frames(x, topology, forces=torch.stack(exact) + noise, cell=cell, masses=system.masses, types=system.types)


def test_the_splines_that_made_the_forces_come_back_within_their_error_bars(frames):
    *_, last = match_pair_forces(frames, BASIS)
    truth = well_values(BASIS)
    pull = ((last.values - truth) / last.error)[last.sampled]
    assert len(pull) > 25
    assert float(pull.square().mean()) < 2.5  # chi-square of ten blocks: 9/7 per degree of freedom, correlated from knot to knot
    assert float(pull.abs().max()) < 5.0


def test_what_is_left_is_the_noise(frames):
    *_, last = match_pair_forces(frames, BASIS)
    assert last.residual == pytest.approx(NOISE**2, rel=0.03)
    assert last.explained == pytest.approx(1 - NOISE**2 / float(frames.forces.square().mean()), abs=0.002)


def test_without_noise_every_block_gives_the_truth(frames):
    law, exact = BASIS.law(well_values(BASIS)), []
    for f in range(len(frames)):
        now = frames.system(f)
        exact.append(energy_forces(law, now, neighbors(now, law.cutoff)).forces.detach())
    logs = list(match_pair_forces(replace(frames, forces=torch.stack(exact)), BASIS, n_blocks=2))
    assert [log.blocks for log in logs] == [1, 2]
    torch.testing.assert_close(logs[0].values[logs[0].sampled], well_values(BASIS)[logs[0].sampled], atol=1e-6, rtol=0)


def test_bonded_forces_are_taken_off_and_bonded_pairs_left_out(frames):
    coordinates, _ = molecule_coordinates(2, [(0, 1)])
    bond = Bonded(coordinates, [HarmonicBonds([0], torch.tensor([3.0]), torch.tensor([1.0]))])
    dimers = LiquidMolecules(bond, ((0, 1),), 2)
    some, law = frames[:6], BASIS.law(well_values(BASIS))
    whole = Excluding(law, [(0, 1)], 2) + bond
    exact = []
    for f in range(len(some)):
        now = some.system(f)
        exact.append(energy_forces(whole, now, neighbors(now, law.cutoff)).forces.detach())
    *_, last = match_pair_forces(replace(some, forces=torch.stack(exact)), BASIS, molecules=dimers, n_blocks=2)
    torch.testing.assert_close(last.values[last.sampled], well_values(BASIS)[last.sampled], atol=1e-5, rtol=0)
    assert last.explained == pytest.approx(1.0, abs=1e-8)


def test_the_core_that_no_pair_reaches_goes_on_as_a_straight_line(frames):
    deep = PairSplines(0.4, 2.4, 15, TYPES)
    *_, last = match_pair_forces(frames, deep)
    for u, seen in zip(last.values, last.sampled):
        first = int(seen.int().argmax())
        assert first >= 2
        steps = u[: first + 2].diff()
        torch.testing.assert_close(steps, steps[-1].expand_as(steps))
        assert float(steps[-1]) < 0


def test_bad_input_is_named(frames):
    with pytest.raises(ValueError, match="no forces"):
        next(match_pair_forces(replace(frames, forces=None), BASIS))
    with pytest.raises(ValueError, match="no cell"):
        next(match_pair_forces(replace(frames, cell=None), BASIS))
    with pytest.raises(ValueError, match="n_blocks=0"):
        next(match_pair_forces(frames, BASIS, n_blocks=0))
    with pytest.raises(ValueError, match="half the smallest box width"):
        next(match_pair_forces(frames, PairSplines(0.8, 5.0, 12, TYPES)))
    with pytest.raises(ValueError, match=r"types \[\(2, 2\)\]"):
        next(match_pair_forces(frames, PairSplines(0.8, 2.4, 12, ((0, 0), (2, 2)))))
