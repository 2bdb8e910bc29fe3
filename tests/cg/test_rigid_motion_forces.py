"""Net force and torque from the atoms leave the mean force on the beads as it is, and take the noise of forces within molecules off."""

from dataclasses import replace
from itertools import pairwise

import mdtraj
import pytest
import torch

from mlmd.cg import mapping
from mlmd.cg.rigid_motion_forces import InnerWeight, rigid_part, with_molecular_forces
from mlmd.frames import Frames

KT = 1.0
STIFF, FIELD = 400.0, 40.0
SHAPE = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.2, 0.0], [0.2, 0.5, 0.8], [4.0, 0.0, 0.3], [4.6, 0.9, 0.0], [4.2, 0.1, 1.1]])
GROUPS = [[0, 1, 2], [3, 4, 5]]


def topology(molecules: int = 1) -> mdtraj.Topology:
    """Molecules of six carbon atoms in a row."""
    top = mdtraj.Topology()
    chain = top.add_chain()
    for _ in range(molecules):
        residue = top.add_residue("M", chain)
        atoms = [top.add_atom("C", mdtraj.element.carbon, residue) for _ in SHAPE]
        for a, b in pairwise(atoms):
            top.add_bond(a, b)
    return top


def stiffness(springs: float, field: float) -> torch.Tensor:
    """(18, 18) matrix of an elastic network of all atoms, at rest at their places, and a field that differs from atom to atom."""
    n = len(SHAPE)
    out = torch.diag(field * (1 + torch.arange(3 * n, dtype=torch.float64) / (3 * n)))
    for i, j in torch.combinations(torch.arange(n)).tolist():
        d = torch.zeros(n, 3, dtype=torch.float64)
        d[j] = torch.nn.functional.normalize((SHAPE[j] - SHAPE[i]).double(), dim=0)
        d[i] = -d[j]
        out += springs * torch.outer(d.flatten(), d.flatten())
    return out


def sampled(matrix: torch.Tensor, n: int) -> Frames:
    """Independent canonical samples of the harmonic molecule with their forces."""
    noise = torch.randn(n, len(matrix), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u = noise @ torch.linalg.inv(torch.linalg.cholesky(matrix)) * KT**0.5
    x = SHAPE.double() + u.reshape(n, -1, 3)
    return Frames(x, topology(), forces=-(u @ matrix).reshape(x.shape), kT=KT)


def mean_force_error(beads: Frames, covariance: torch.Tensor, middle: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Regression coefficients of the forces on the positions, less the exact ones, and their standard errors."""
    x = (beads.positions - middle).flatten(1)
    inverse = torch.linalg.inv(x.T @ x)
    found = inverse @ x.T @ beads.forces.flatten(1)
    left = beads.forces.flatten(1) - x @ found
    error = (inverse.diag()[:, None] * left.square().mean(0)).sqrt()
    return found + KT * torch.linalg.inv(covariance), error


def test_the_mean_force_stays_that_of_the_exact_potential_of_mean_force_and_is_known_better():
    # beads of a harmonic molecule are normal with covariance M S M^T, so the mean force is -kT (M S M^T)^-1 (X - <X>)
    matrix = stiffness(STIFF, FIELD)
    atoms = sampled(matrix, 40_000)
    m = mapping.by_groups(atoms, GROUPS)
    lift = torch.kron(m.weights.double(), torch.eye(3, dtype=torch.float64))
    covariance, middle = KT * lift @ torch.linalg.inv(matrix) @ lift.T, m.positions(SHAPE.double())
    plain = m.apply(atoms)
    off, error = mean_force_error(with_molecular_forces(plain, atoms, m), covariance, middle)
    _, before = mean_force_error(plain, covariance, middle)
    assert float((off / error).square().mean()) < 1.6  # chi-square of 36 numbers: 1 +- 0.24
    across = [1, 2, 4, 5]  # the beads lie along x, and what acts along it is left alone
    assert float(error[:, across].square().mean()) < 0.2 * float(before[:, across].square().mean())


def test_a_molecule_alone_feels_no_net_force_and_no_torque_and_keeps_its_inner_force():
    x = SHAPE.double() + 0.1 * torch.randn(50, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    d = x[:, :, None] - x[:, None]
    pull = (torch.linalg.norm(d, dim=-1, keepdim=True) - 1.5) * torch.nn.functional.normalize(d, dim=-1)
    atoms = Frames(x, topology(), forces=-STIFF * pull.sum(2))
    m = mapping.by_groups(atoms, GROUPS)
    plain = m.apply(atoms)
    beads = with_molecular_forces(plain, atoms, m)
    arm = beads.positions - beads.positions.mean(1, keepdim=True)
    torch.testing.assert_close(beads.forces.sum(1), torch.zeros(50, 3, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(
        torch.linalg.cross(arm, beads.forces).sum(1), torch.zeros(50, 3, dtype=torch.float64), atol=1e-8, rtol=0
    )
    along = torch.nn.functional.normalize(beads.positions[:, 1] - beads.positions[:, 0], dim=-1)
    inner = [((f.forces[:, 1] - f.forces[:, 0]) * along).sum(-1) for f in (plain, beads)]
    torch.testing.assert_close(inner[1], inner[0])


def test_molecules_cut_by_the_box_give_the_same():
    matrix = stiffness(STIFF, FIELD)
    one = sampled(matrix, 5)
    two = Frames(
        torch.cat([one.positions, one.positions + 5.0], 1), topology(2), forces=torch.cat([one.forces, one.forces.flip(0)], 1),
        cell=(12.0 * torch.eye(3, dtype=torch.float64)).expand(5, 3, 3).clone(),
    )  # fmt: skip
    m = replace(mapping.by_groups(one, GROUPS), n_molecules=2)
    wrapped = replace(two, positions=two.positions % 12.0)
    single = replace(m, n_molecules=1)
    whole, cut = (with_molecular_forces(m.apply(f), f, m).forces for f in (two, wrapped))
    torch.testing.assert_close(cut, whole, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(whole[:, :2], with_molecular_forces(single.apply(one), one, single).forces)


def test_frames_that_do_not_belong_together_are_refused():
    atoms = sampled(stiffness(STIFF, FIELD), 4)
    m = mapping.by_groups(atoms, GROUPS)
    with pytest.raises(ValueError, match="no forces"):
        with_molecular_forces(replace(m.apply(atoms), forces=None), atoms, m)
    with pytest.raises(ValueError, match="give beads"):
        with_molecular_forces(m.apply(atoms)[:2], atoms, m)


def test_the_rigid_part_keeps_what_moves_and_turns_molecules_and_nothing_of_forces_between_their_beads():
    generator = torch.Generator().manual_seed(2)
    bent, straight = torch.randn(7, 4, 3, generator=generator), torch.randn(7, 2, 3, generator=generator)
    for x in (bent, straight):
        size = x.shape[1]
        push, spin = torch.randn(2, 7, 1, 3, generator=generator)
        rigid = push + torch.linalg.cross(spin.expand_as(x), x)
        torch.testing.assert_close(rigid_part(x, rigid, size), rigid, atol=1e-4, rtol=1e-4)
        d = x[:, :, None] - x[:, None]
        strength = torch.randn(size, size, generator=generator)
        between = ((strength + strength.T)[None, :, :, None] * d).sum(2)
        torch.testing.assert_close(rigid_part(x, between, size), torch.zeros_like(x), atol=1e-4, rtol=0)


def test_errors_within_molecules_are_weighed_by_how_much_noisier_they_are():
    generator = torch.Generator().manual_seed(3)
    x = 3 * torch.randn(400, 40, 3, generator=generator)  # ten molecules of four beads
    noise = torch.randn(400, 40, 3, generator=generator)
    rigid = rigid_part(x, noise, 4)
    weight = InnerWeight.of(x, rigid + 5.0 * (noise - rigid), 4)
    assert weight.share == pytest.approx(0.2, rel=0.02)
    torch.testing.assert_close(
        weight(x, rigid + 5.0 * (noise - rigid)), rigid + 5.0 * weight.share * (noise - rigid), atol=1e-3, rtol=1e-3
    )
    assert InnerWeight.of(x, rigid + 0.1 * (noise - rigid), 4).share == 1.0
