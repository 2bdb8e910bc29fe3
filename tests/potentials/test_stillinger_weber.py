import itertools

import numpy as np
import pytest
import torch

from mlmd import units
from mlmd.cell import face_centred_cubic
from mlmd.forces import energy_forces
from mlmd.neighbors import neighbors
from mlmd.potentials.stillinger_weber import StillingerWeberAngles, monatomic_water, stillinger_weber
from mlmd.system import System
from tests.interop.test_lammps import lammps, needs_lammps, read

CHANNELS = dict(coefficients=[[0.2, -0.1, 0.3], [0.1, 0.2, -0.15]], decay=[1.0, 2.5], cutoff=4.0, r_unit=1.6)


def crowd(n: int = 40, edge: float = 9.0) -> System:
    """Particles at random in a triclinic cell, none nearer than 0.8 A to another."""
    generator, kept = torch.Generator().manual_seed(0), list[torch.Tensor]()
    while len(kept) < n:
        x = edge * torch.rand(3, generator=generator, dtype=torch.float64)
        if all(float((x - y).norm()) > 0.8 for y in kept):
            kept.append(x)
    cell = torch.tensor([[edge, 0, 0], [1.0, edge, 0], [-0.7, 0.4, edge]], dtype=torch.float64)
    return System.single(torch.stack(kept), cell=cell)


def test_moments_give_the_sum_over_all_triplets():
    law, system = StillingerWeberAngles(**CHANNELS), crowd()
    pairs = neighbors(system, law.cutoff)
    d, i = pairs.vectors(system).numpy(), pairs.index[0].numpy()
    total, c = 0.0, np.array(CHANNELS["coefficients"])
    for centre in range(len(system)):
        for a, b in itertools.combinations(d[i == centre], 2):
            r, s = np.linalg.norm(a), np.linalg.norm(b)
            cos = a @ b / (r * s)
            for n, decay in enumerate(CHANNELS["decay"]):
                f = np.exp(sum(decay / (x - 4.0) - decay / (1.6 - 4.0) for x in (r, s)))
                total += f * (c[n, 0] + c[n, 1] * cos + c[n, 2] * cos**2)
    assert float(law(system, pairs).detach()) == pytest.approx(total, rel=1e-10)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-10), (torch.float32, 3e-4)])
def test_the_compiled_loop_gives_the_energy_and_forces_of_autograd(dtype, near):
    pytest.importorskip("numba")
    law, system = StillingerWeberAngles(**CHANNELS), System.stack([crowd(), crowd(20, 8.5)]).to(dtype)
    pairs = neighbors(system, law.cutoff + 0.5)
    exact = energy_forces(law, system, pairs)
    with torch.no_grad():
        fast = energy_forces(law, system, pairs)
    torch.testing.assert_close(fast.energy, exact.energy.detach(), rtol=near, atol=near)
    torch.testing.assert_close(fast.forces, exact.forces.detach(), rtol=near, atol=near * float(exact.forces.detach().abs().max()))


def test_a_diamond_lattice_of_monatomic_water_is_bound_by_two_epsilon_per_particle():
    """Four neighbours at the minimum of the pair term under tetrahedral angles, the next ones beyond the cutoff."""
    epsilon, sigma = 6.189 * units.kcal_mol, 2.3925
    edge = 2 ** (1 / 6) * sigma * 4 / 3**0.5
    one = face_centred_cubic(3, 3 * edge).double()
    system = System.single(torch.cat([one, one + edge / 4]), cell=3 * edge)
    law = monatomic_water()
    out = energy_forces(law, system, neighbors(system, law.cutoff))
    assert float(out.energy.detach()) / len(system) == pytest.approx(-2 * epsilon, rel=2e-6)
    assert float(out.forces.detach().abs().max()) < 1e-6


MODEL = """units metal
atom_modify map array
region box prism 0 {a} 0 {b} 0 {c} {xy} {xz} {yz} units box
create_box 1 box
mass 1 18.0154
{atoms}
pair_style sw
pair_coeff * * mW.sw mW
fix bath all nve
"""


@needs_lammps
def test_energy_and_forces_are_those_of_lammps(tmp_path):
    """Its pair style sw with the parameters of Molinero and Moore (2009), in a triclinic box."""
    system, epsilon = crowd(60, 11.0), 6.189 * units.kcal_mol
    (a, _, _), (xy, b, _), (xz, yz, c) = system.cell[0].tolist()
    atoms = "\n".join("create_atoms 1 single {:.12f} {:.12f} {:.12f} units box".format(*x) for x in wrapped(system).tolist())
    (tmp_path / "in.lmp").write_text(MODEL.format(a=a, b=b, c=c, xy=xy, xz=xz, yz=yz, atoms=atoms))
    (tmp_path / "mW.sw").write_text(f"mW mW mW {epsilon:.12f} 2.3925 1.8 23.15 1.2 {-1 / 3:.12f} 7.049556277 0.6022245584 4 0 0\n")
    lammps(tmp_path)
    energy, forces, _ = read(tmp_path)
    law = stillinger_weber(epsilon, 2.3925, 23.15, -1 / 3, r_unit=3.0)
    ours = energy_forces(law, system, neighbors(system, law.cutoff))
    assert float(ours.energy.detach()) == pytest.approx(energy, rel=1e-8)
    torch.testing.assert_close(ours.forces.detach(), forces, rtol=1e-8, atol=1e-8 * float(forces.abs().max()))


def wrapped(system: System) -> torch.Tensor:
    """Positions inside the cell."""
    inside = torch.linalg.solve(system.cell[0].T, system.positions.T).T
    return (inside - inside.floor()) @ system.cell[0]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"coefficients": [[0.1, 0.2]]}, r"coefficients has shape \(1, 2\).*expected \(K, 3\)"),
        ({"decay": [1.0, -2.0]}, r"decay=\[1.0, -2.0\]: must be positive"),
        ({"r_unit": 4.5}, r"r_unit=4.5: must lie between 0 and cutoff=4.0"),
    ],
)
def test_parameters_that_make_no_potential_are_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        StillingerWeberAngles(**(CHANNELS | changes))
