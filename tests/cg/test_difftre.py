"""Differentiable reweighting learns a potential from averages; in units of epsilon, sigma and mass 1."""

import math

import pytest
import torch

from mlmd.cell import face_centred_cubic
from mlmd.cg.difftre import PressureTarget, Target, _Ensemble, difftre
from mlmd.errors import Diverging
from mlmd.md import Langevin, rest, simulate, thermal_velocities
from mlmd.neighbors import neighbors
from mlmd.nn.schnet import SchNet
from mlmd.observables import SmoothADF
from mlmd.observables.blocks import block_mean
from mlmd.observables.smooth_rdf import SmoothRDF
from mlmd.potentials.accelerated import accelerated
from mlmd.potentials.pair import LennardJones, SoftSphere
from mlmd.system import System

KT = 1.5
EDGE = (108 / 0.6) ** (1 / 3)
FLUID = System.single(face_centred_cubic(3, EDGE), cell=EDGE)
G = SmoothRDF(1.9, 30, 0.7)
DYNAMICS = dict(kT=KT, dt=0.01, friction=1.0)


def lennard_jones(epsilon: float) -> LennardJones:
    """A fluid whose depth is to be learned."""
    law = LennardJones(epsilon, 1.0, cutoff=1.8)
    law.sigma.requires_grad_(False)
    return law


def trajectory(law, steps: int, every: int, seed: int = 0, system: System = FLUID) -> torch.Tensor:
    """(F, N, 3) after the first fifth."""
    generator = torch.Generator().manual_seed(seed)
    start = rest(system, thermal_velocities(system, KT, generator))
    run = simulate(start, accelerated(law), Langevin(DYNAMICS["dt"], KT, 1.0), steps, every=every, generator=generator)
    x = [s.system.positions for s in run]
    return torch.stack(x[len(x) // 5 :])


class Stored:
    """A sampler that always returns the same snapshots."""

    def __init__(self, positions):
        self.positions = positions
        self.state = rest(FLUID)

    def advance(self):
        """The snapshots."""
        return self.positions


def stored_loss(model, system, x, targets, pressure, chunk=3):
    """A closure that gives the whole loss of fixed snapshots, whose reference is the model as it is now."""
    ensemble = _Ensemble(model, system, Stored(x), targets, pressure, KT, 0.0, chunk, accelerated)
    ensemble.loss()
    return lambda: sum(ensemble.loss().values()), ensemble


def jiggled(n: int, frames: int, edge: float, dtype=torch.float64) -> tuple[System, torch.Tensor]:
    sites = torch.cartesian_prod(*[torch.arange(float(n), dtype=dtype)] * 3) * (edge / n)
    noise = torch.randn(frames, n**3, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return System.single(sites, cell=edge), sites + 0.1 * noise


def test_the_gradient_is_the_finite_difference_of_the_loss_pressure_included():
    system, x = jiggled(4, 8, 4.8)
    law = LennardJones(1.1, 1.0, cutoff=2.2)
    targets = [Target("g", SmoothRDF(1.9, 20), torch.ones(20)), Target("angles", SmoothADF(1.5, 12), torch.full((12,), 0.3))]
    loss, _ = stored_loss(law, system, x, targets, PressureTarget(0.5, 0.2))
    with torch.no_grad():
        law.epsilon.value += 0.05  # away from the reference, where weights differ
        law.sigma.value -= 0.01
    loss().backward()
    for p in law.parameters():
        value, h = float(p.detach()), 1e-5
        with torch.no_grad():
            up, down = (float([p.fill_(value + s * h), loss()][1]) for s in (1, -1))
            p.fill_(value)
        assert float(p.grad) == pytest.approx((up - down) / (2 * h), rel=1e-5)


def test_the_pressure_of_inverse_power_spheres_is_that_of_the_virial_theorem():
    """u ~ r^-12: P = N kT / V + 4 <U> / V, and so is its derivative with respect to epsilon."""
    system, x = jiggled(4, 6, 4.8)
    law = SoftSphere(0.8, 1.0, cutoff=2.2, onset=2.2)
    loss, ensemble = stored_loss(law, system, x, [], PressureTarget(0.0, 1.0))
    loss()
    volume = 4.8**3
    u = law(system.at(x), neighbors(system.at(x), 2.2)).detach()
    mean = 64 * KT / volume + 4 * u.mean() / volume
    assert ensemble.seen["mean pressure"] == pytest.approx(float(mean), rel=1e-9)
    loss().backward()
    slope = 4 * (u.mean() / 0.8 - (u * u).mean() / 0.8 / KT + u.mean() ** 2 / 0.8 / KT) / volume
    assert float(law.epsilon.value.grad) == pytest.approx(float(2 * mean * slope), rel=1e-8)


def test_a_network_in_chunks_has_the_gradient_of_all_snapshots_at_once():
    system, x = jiggled(3, 5, 4.8)
    net = SchNet(2.2, features=8, interactions=2, n_types=1).double()
    targets = [Target("g", SmoothRDF(1.9, 20), torch.ones(20))]
    grads = []
    for chunk in (2, 5):
        net.zero_grad()
        loss, _ = stored_loss(net, system, x, targets, PressureTarget(0.5, 0.2), chunk)
        loss().backward()
        grads.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert float(grads[0].abs().max()) > 1e-4
    assert grads[0].numpy() == pytest.approx(grads[1].numpy(), abs=1e-12)


def sampling_error(law, x: torch.Tensor) -> float:
    r"""Standard error of an epsilon fitted to g(r) of these snapshots: J . (g - <g>) / J . J, J = -cov(g, dU/d epsilon) / kT."""
    frames = FLUID.at(x)
    with torch.no_grad():
        slope = law(frames, neighbors(frames, law.cutoff)).double() / float(law.epsilon.value)
    g = G(frames)
    deviation = g - g.mean(0)
    jacobian = -(deviation * (slope - slope.mean())[:, None]).mean(0) / KT
    return block_mean(deviation @ jacobian / jacobian.square().sum())[1]


def test_the_depth_of_a_fluid_is_recovered_from_its_structure_within_the_sampling_error():
    true = lennard_jones(1.0)
    x = trajectory(true, 4000, 20)
    target = G(FLUID.at(x)).mean(0)
    law = lennard_jones(0.7)
    run = difftre(
        law, FLUID.at(x[-1]), [Target("g", G, target)], **DYNAMICS, steps=1000, stride=20, equilibration=200, updates=16,
        learning_rate=0.1, final_rate=0.02, chunk=100, engine=accelerated, seed=1,
    )  # fmt: skip
    logs = list(run)
    error = sampling_error(true, x) * math.sqrt(1 + len(x) / 50)  # of the target, and of a sample of 50 snapshots
    assert error < 0.06  # the structure tells the start from the truth
    assert float(law.epsilon.value.detach()) == pytest.approx(1.0, abs=3 * error)
    assert logs[-1]["g"] < 0.1 * logs[0]["g"]
    assert 1 < sum(log["resampled"] for log in logs) < len(logs)  # some samples served several updates
    assert min(log["effective share"] for log in logs) >= 0.9


def short(law, updates=4, **changes):
    """A few updates of a few steps."""
    settings = dict(steps=60, stride=10, equilibration=20, updates=updates, learning_rate=0.02, seed=3) | changes
    return difftre(law, FLUID, [Target("g", G, torch.ones(30))], **DYNAMICS, **settings)


def test_the_guard_decides_when_to_sample_anew():
    def resampled(least):
        return [log["resampled"] for log in short(lennard_jones(1.0), least=least)]

    assert resampled(1.0) == [1, 1, 1, 1]
    assert resampled(0.0) == [1, 0, 0, 0]


def test_an_interrupted_run_continues_bit_for_bit(tmp_path):
    whole, cut = lennard_jones(1.0), lennard_jones(1.0)
    settings = dict(updates=6, replicas=2, least=0.97, average=0.5)
    logs = list(short(whole, **settings))
    folder = dict(checkpoint=str(tmp_path), checkpoint_every=1)
    first = short(cut, **settings, **folder)
    for _ in range(3):
        next(first)
    first.close()
    again = lennard_jones(1.0)
    rest_of_it = list(short(again, **settings, **folder))
    assert [log["step"] for log in rest_of_it] == [4, 5, 6]
    assert rest_of_it == logs[3:]
    assert torch.equal(again.epsilon.value, whole.epsilon.value)


def test_it_stops_by_itself_when_a_fresh_sample_is_good_enough():
    assert len(list(short(lennard_jones(1.0), tolerance=1e9))) == 1
    assert len(list(short(lennard_jones(1.0), tolerance=1e-9))) == 4


def test_an_explosion_leaves_the_last_good_parameters():
    law = lennard_jones(1.0)
    with pytest.raises(Diverging, match="learning_rate") as caught:
        list(short(law, learning_rate=1e4, updates=5))
    assert float(law.epsilon.value.detach()) == pytest.approx(1.0)
    assert float(caught.value.last_good["epsilon.value"]) == 1.0


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="one box"):
        next(difftre(lennard_jones(1.0), FLUID.replicate(2), [Target("g", G, torch.ones(30))], **DYNAMICS))
    with pytest.raises(ValueError, match="at least one"):
        next(difftre(lennard_jones(1.0), FLUID, [], **DYNAMICS))
    with pytest.raises(ValueError, match="stride"):
        next(short(lennard_jones(1.0), stride=100))
    with pytest.raises(ValueError, match="finite"):
        Target("g", G, torch.tensor([float("nan")]))
    with pytest.raises(ValueError, match="positive"):
        PressureTarget(0.0, -1.0)
    with pytest.raises(ValueError, match="value of g"):
        next(difftre(lennard_jones(1.0), FLUID, [Target("g", G, torch.ones(7))], **DYNAMICS, steps=60, stride=10, equilibration=0))
