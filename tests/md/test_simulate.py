"""The runner: limits that name the culprit, replicas that are frozen alone, reasons to stop, whole steps compiled."""

import gc
import io
import sys
import time
import warnings
import weakref

import mdtraj
import numpy as np
import pytest
import torch

from mlmd import units
from mlmd.errors import StopSimulation, Unstable
from mlmd.md import (
    CSVR,
    DCD,
    Brownian,
    CellRescaling,
    Checkpoint,
    Converged,
    Langevin,
    Limits,
    Log,
    NoseHooverChain,
    Progress,
    Recorder,
    Trajectory,
    Until,
    VelocityVerlet,
    WallTime,
    frames,
    half_step_kT,
    rest,
    resume,
    simulate,
    thermal_velocities,
)
from mlmd.md.limits import Guard
from mlmd.potentials.pair import LennardJones
from mlmd.system import System
from tests.md.test_integrators import Spring, oscillators


class Pull(Spring):
    """A spring whose force on particles beyond x = ``edge`` is wrong in some way from ``step`` calls on."""

    def __init__(self, wrong, edge=0.5):
        super().__init__()
        self.wrong, self.edge = wrong, edge

    def forward(self, system, pairs):
        bad = system.positions[:, 0] > self.edge
        extra = torch.where(bad, self.wrong, 0.0) * system.positions[:, 0]
        return super().forward(system, pairs) + extra.reshape(system.n_systems, -1).sum(1)


def going_over_the_edge(systems=4, n=3, culprit=7):
    """All particles rest but one, which reaches the edge x = 0.5 after some 52 steps of 0.01."""
    system = oscillators(systems, n)
    v = torch.zeros(systems * n, 3).double()
    v[culprit, 0] = 1.0
    return rest(system, v)


def crossing_step():
    """The first step after which the particle of the undisturbed run is beyond the edge."""
    for state in simulate(going_over_the_edge(), Spring(), VelocityVerlet(0.01), 100, every=1):
        if float(state.system.positions.max()) > 0.5:
            return state.step
    raise RuntimeError("it never gets there")


@pytest.mark.parametrize(
    ("wrong", "limits", "quantity"),
    [
        (float("nan"), Limits(), "force"),
        (1e6, Limits(), "force"),
        (1e6, Limits(force=1e12), "displacement per step"),
    ],
)
def test_step_atom_system_and_quantity_of_a_runaway_are_named(wrong, limits, quantity):
    crossed = crossing_step()
    with pytest.raises(Unstable) as caught:
        list(simulate(going_over_the_edge(), Pull(wrong), VelocityVerlet(0.01), 500, every=100, limits=limits))
    error = caught.value
    assert (error.systems, error.atom, error.quantity) == ([2], 7, quantity)
    assert crossed <= error.step <= crossed + 10
    assert f"step {error.step}" in str(error) and f"{quantity}" in str(error) and "atom 7" in str(error)
    assert error.last_good.step == error.step - 1
    assert bool(torch.isfinite(error.last_good.system.positions).all())


def test_a_force_limit_stops_at_the_very_step_that_passes_it():
    states = list(simulate(going_over_the_edge(), Spring(), VelocityVerlet(0.01), 100, every=1))
    first = next(s.step for s in states if float(s.forces.norm(dim=1).max()) > 0.3)
    with pytest.raises(Unstable) as caught:
        list(simulate(going_over_the_edge(), Spring(), VelocityVerlet(0.01), 100, limits=Limits(force=0.3)))
    assert caught.value.step == first
    assert caught.value.value == pytest.approx(float(states[first - 1].forces.norm(dim=1).max()), rel=1e-12)


def test_an_energy_that_is_not_finite_is_noticed_where_the_forces_are():
    class Shifted(Spring):
        def forward(self, system, pairs):
            energy = super().forward(system, pairs)
            return energy + torch.where(energy.detach() > 0.1, torch.inf, 0.0)

    with pytest.raises(Unstable, match="energy inf") as caught:
        list(simulate(going_over_the_edge(), Shifted(), VelocityVerlet(0.01), 100))
    assert caught.value.systems == [2]


def test_a_system_hotter_than_ten_times_its_target_is_a_runaway():
    kT = torch.tensor([0.1, 0.1, 0.1]).double()
    system = oscillators(3, n=200)
    v = thermal_velocities(system, kT)
    v[200:400] *= 5.5  # 30 times too hot
    with pytest.raises(Unstable, match="temperature") as caught:
        list(simulate(rest(system, v), Spring(), Langevin(0.01, kT, 0.01), 50))
    assert caught.value.systems == [1]
    assert caught.value.value == pytest.approx(float(v[200:400].square().sum() / 600 / units.kelvin), rel=0.05)


def test_the_allowance_for_few_degrees_of_freedom_is_that_of_laurent_and_massart():
    for n in (1, 2, 10, 1000):
        guard = Guard(Limits(temperature=1.0), oscillators(1, n), 1.0)
        f = 3 * n
        chance = torch.special.gammaincc(torch.tensor(f / 2).double(), guard.hot.double() * f / 2)  # of chi-square with f degrees
        assert float(chance) <= np.exp(-60)


def test_a_broken_bond_is_named():
    system = oscillators(3, n=2)
    x = torch.tensor([[0.0, 0, 0], [1.0, 0, 0]]).double().repeat(3, 1)
    v = torch.zeros(6, 3).double()
    v[5, 1] = 1.0
    limits = Limits(bonds=[(0, 1)], bond_length=1.2)
    with pytest.raises(Unstable, match="bond length") as caught:
        list(simulate(rest(system.at(x), v), Spring(0.0), VelocityVerlet(0.01), 200, limits=limits))
    assert caught.value.systems == [2]
    assert caught.value.step == pytest.approx(np.sqrt(1.2**2 - 1) / 0.01, abs=1)


def test_bonds_of_particles_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="0 to 1 of one system"):
        list(simulate(rest(oscillators(2, n=2)), Spring(), VelocityVerlet(0.01), 1, limits=Limits(bonds=[(0, 2)])))


INTEGRATORS = {
    "Verlet": lambda: VelocityVerlet(0.05),
    "Langevin": lambda: Langevin(0.05, 0.3, 0.5),
    "Brownian": lambda: Brownian(0.05, 0.3, 5.0),
    "Nose-Hoover": lambda: NoseHooverChain(0.05, 0.3, 1.0),
    "CSVR": lambda: CSVR(0.05, 0.3, 1.0),
}


@pytest.mark.parametrize("name", INTEGRATORS)
def test_a_time_step_that_explodes_is_stopped_within_ten_steps_whatever_the_integrator(name):
    class Stiff(Spring):
        def __init__(self):
            super().__init__(1e5)  # dt omega = 16

    system = oscillators(3, n=4)
    start = rest(system.at(0.01 * torch.ones(12, 3).double()), thermal_velocities(system, 0.3))
    limits = Limits()
    torch.manual_seed(0)
    with pytest.raises(Unstable) as caught:
        list(simulate(start, Stiff(), INTEGRATORS[name](), 1000, limits=limits))
    assert caught.value.step <= first_violation(start, Stiff(), INTEGRATORS[name](), limits) + 10


def first_violation(start, potential, integrator, limits):
    """Step by step, with all limits off, until one of ``limits`` is passed."""
    off = Limits(force=torch.inf, displacement=torch.inf, temperature=torch.inf)
    guard, before = Guard(limits, start.system, getattr(integrator, "kT", None)), start
    torch.manual_seed(0)
    try:
        for state in simulate(start, potential, integrator, 40, every=1, limits=off):
            if guard.violation(before, state) is not None:
                return state.step
            before = state
    except Unstable as error:  # not finite at once
        return error.step
    raise RuntimeError("it never explodes")


def healthy_alarms(replicas, steps):
    """Anharmonic particles, 4 to a replica, at their temperature: how often a limit is passed in replicas x steps steps."""
    system = oscillators(replicas, n=4)
    g = torch.Generator().manual_seed(11)
    start = rest(system, thermal_velocities(system, 0.5, g))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        *_, end = simulate(start, Spring(), Langevin(0.3, 0.5, 0.5), steps, generator=g, on_unstable="freeze")
    return len(caught) + int(0 if end.frozen is None else end.frozen.sum())


def test_healthy_steps_raise_no_alarm():
    assert healthy_alarms(1000, 100) == 0


@pytest.mark.slow
def test_two_million_healthy_steps_raise_no_alarm():
    assert healthy_alarms(2000, 1000) == 0
    assert healthy_alarms(1, 2000) == 0


# ---- one replica that explodes ----


def test_an_exploding_replica_is_frozen_and_the_others_are_bit_identical_to_a_run_in_which_it_behaves():
    def run(potential, v7):
        start = going_over_the_edge()
        start.velocities[7, 0] = v7
        g = torch.Generator().manual_seed(3)
        *_, end = simulate(start, potential, Langevin(0.01, 0.001, 0.1), 200, generator=g, on_unstable="freeze")
        return end

    with pytest.warns(UserWarning, match=r"system\(s\) \[2\] stopped"):
        end = run(Pull(float("nan")), 1.0)
    healthy = run(Pull(float("nan")), 0.0)
    assert end.frozen.tolist() == [False, False, True, False] and healthy.frozen is None
    others = torch.tensor([0, 1, 3])
    for mine, theirs in (
        (end.system.dense()[others], healthy.system.dense()[others]),
        (end.system.dense(end.velocities)[others], healthy.system.dense(healthy.velocities)[others]),
        (end.energy[others], healthy.energy[others]),
    ):
        assert torch.equal(mine, theirs)
    assert bool(
        torch.isfinite(end.system.positions).all() & torch.isfinite(end.velocities).all() & torch.isfinite(end.forces).all()
    )
    assert float(end.system.positions[7, 0]) < 0.5  # its last good state


def droplets():
    """Three open droplets of 8 particles; in the last one two particles come at each other far too fast."""
    corners = torch.tensor([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]).double()
    system = System.single(1.4 * corners).replicate(3)
    v = 0.02 * torch.randn(24, 3, generator=torch.Generator().manual_seed(5)).double()
    wild = v.clone()
    wild[16:] = 0
    wild[16, 0] = 120.0  # 2.4 A per step
    return system, v, wild


def test_with_a_neighbour_list_the_others_are_bit_identical_to_a_batch_without_it():
    system, _, wild = droplets()
    law = LennardJones(0.1, 1.2, cutoff=2.0).double()
    limits = Limits(force=1e3, displacement=2.0)
    with pytest.warns(UserWarning, match=r"\[2\] stopped at step 1:"):
        *_, end = simulate(rest(system, wild), law, VelocityVerlet(0.02), 300, skin=0.3, limits=limits, on_unstable="freeze")
    *_, alone = simulate(rest(system.select([0, 1]), wild[:16]), law, VelocityVerlet(0.02), 300, skin=0.3, limits=limits)
    assert torch.equal(end.system.positions[:16], alone.system.positions)
    assert torch.equal(end.velocities[:16], alone.velocities)
    assert torch.equal(end.system.positions[16:], system.positions[16:])


def test_when_all_systems_are_lost_the_run_ends_with_the_error():
    start = rest(oscillators(2, n=1), torch.tensor([[1.0, 0, 0], [0.8, 0, 0]]).double())
    run = simulate(start, Pull(float("nan")), VelocityVerlet(0.01), 500, on_unstable="freeze")
    with pytest.warns(UserWarning, match="stopped"), pytest.raises(Unstable):
        list(run)


# ---- neighbour lists ----


def test_a_step_longer_than_half_the_skin_is_made_with_a_wider_list():
    system, _, fast = droplets()
    fast[16, 0] = -120.0  # away from the others
    law = LennardJones(0.1, 1.2, cutoff=2.0).double()
    runs = []
    for skin in (0.01, 40.0):
        *_, end = simulate(rest(system, fast), law, VelocityVerlet(0.02), 30, skin=skin)
        runs.append(end.system.positions)
    assert torch.allclose(runs[0], runs[1], atol=1e-12)


def test_which_list_a_step_uses_does_not_depend_on_when_somebody_looks():
    system, v, _ = droplets()

    def lists(every):
        law, seen = LennardJones(0.1, 1.2, cutoff=2.0).double(), []

        class Spy(torch.nn.Module):
            cutoff = 2.0

            def forward(self, system, pairs):
                if not seen or pairs is not seen[-1]:
                    seen.append(pairs)
                return law(system, pairs)

        *_, end = simulate(rest(system, 20 * v), Spy(), VelocityVerlet(0.02), 120, every=every, skin=0.2)
        return [len(p) for p in seen], end.system.positions

    one, seven, all_ = lists(1), lists(7), lists(120)
    assert len(one[0]) > 5
    assert one[0] == seven[0] == all_[0]
    assert torch.equal(one[1], all_[1]) and torch.equal(seven[1], all_[1])


# ---- continuing ----


@pytest.mark.parametrize("name", INTEGRATORS)
def test_a_state_handed_on_keeps_the_memory_of_its_integrator(name):
    integrator, system = INTEGRATORS[name](), oscillators(3, n=4)
    start = rest(system.at(torch.ones(12, 3).double()), thermal_velocities(system, 0.3))
    g = torch.Generator().manual_seed(1)
    *_, whole = simulate(start, Spring(), integrator, 60, generator=g)
    g = torch.Generator().manual_seed(1)
    *_, half = simulate(start, Spring(), integrator, 30, generator=g)
    *_, both = simulate(half, Spring(), integrator, 30, generator=g)
    assert torch.equal(whole.system.positions, both.system.positions)


def liquid():
    x = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"), -1).reshape(-1, 3).double() * 1.5
    system = System.single(x, cell=[6.0] * 3).replicate(2)
    return rest(system, thermal_velocities(system, 0.05, torch.Generator().manual_seed(2)))


THERMOSTATS = {
    "Langevin": lambda: Langevin(0.03, 0.05, 0.5),
    "Nose-Hoover": lambda: NoseHooverChain(0.03, 0.05, 1.0),
    "CSVR": lambda: CSVR(0.03, 0.05, 1.0),
    "cell rescaling": lambda: CellRescaling(Langevin(0.03, 0.05, 0.5), pressure=0.001, time=1.0, compressibility=2.0),
}


@pytest.mark.parametrize("name", THERMOSTATS)
def test_a_checkpoint_continues_bit_for_bit_with_thermostat_cell_noise_and_list(name, tmp_path):
    law = LennardJones(0.05, 1.2, cutoff=2.2).double()

    def run(state, steps, generator):
        keeper = Checkpoint(tmp_path, 40, generator)
        integrator = THERMOSTATS[name]()
        *_, end = simulate(state, law, integrator, steps, generator=generator, skin=0.3, report=[keeper])
        return end

    whole = run(liquid(), 100, torch.Generator().manual_seed(9))
    g = torch.Generator().manual_seed(123)  # is set to what it was
    half = resume(tmp_path, liquid(), THERMOSTATS[name](), g, step=40)
    assert half.step == 40
    integrator = half.owner
    *_, end = simulate(half, law, integrator, 60, generator=g, skin=0.3, report=[Checkpoint(tmp_path / "again", 40, g)])
    for a, b in ((whole.system.positions, end.system.positions), (whole.velocities, end.velocities), (whole.energy, end.energy)):
        assert torch.equal(a, b)
    assert torch.equal(whole.system.cell, end.system.cell)
    assert name != "cell rescaling" or not torch.equal(end.system.cell, liquid().system.cell)


def test_nothing_to_resume_gives_back_the_start(tmp_path):
    state = liquid()
    assert resume(tmp_path, state, VelocityVerlet(0.1)) is state
    with pytest.raises(ValueError, match="no intact checkpoint"):
        resume(tmp_path, state, VelocityVerlet(0.1), step=5)


def test_a_checkpoint_of_another_integrator_is_refused(tmp_path):
    list(simulate(liquid(), Spring(), NoseHooverChain(0.03, 0.05, 1.0), 10, report=[Checkpoint(tmp_path, 10)]))
    with pytest.raises(ValueError, match="another integrator"):
        resume(tmp_path, liquid(), Langevin(0.03, 0.05, 0.5))


# ---- reporters and reasons to stop ----


def test_a_condition_ends_the_run_at_its_step_and_every_reporter_has_seen_it():
    recorder = Recorder(every=5)
    over = Until(lambda s: float(s.system.positions.max()) > 0.5, every=5)
    *_, end = simulate(going_over_the_edge(), Spring(), VelocityVerlet(0.01), 500, every=100, report=[over, recorder])
    assert end.step == -(-crossing_step() // 5) * 5
    assert len(recorder.snapshots) == end.step // 5


def test_a_plain_callable_and_a_raised_stop_end_the_run_too():
    *_, end = simulate(going_over_the_edge(), Spring(), VelocityVerlet(0.01), 500, every=20, stop=[lambda s: s.step >= 30])
    assert end.step == 40

    class Enough:
        every = 7

        def __call__(self, state):
            raise StopSimulation

    *_, end = simulate(going_over_the_edge(), Spring(), VelocityVerlet(0.01), 500, report=[Enough()])
    assert end.step == 7


def test_a_time_limit_ends_the_run():
    began = time.perf_counter()
    *_, end = simulate(rest(oscillators(2)), Spring(), VelocityVerlet(0.01), 10**7, stop=[WallTime(0.2, every=10)])
    assert 0.2 <= time.perf_counter() - began < 5
    assert 0 < end.step < 10**7


def test_a_run_until_converged_reaches_its_error_and_the_right_mean():
    kT, system = 0.5, oscillators(20, n=5)
    g = torch.Generator().manual_seed(4)
    done = Converged(lambda s: s.energy / 5, error=0.02, every=20, at_least=50)
    *_, end = simulate(
        rest(system, thermal_velocities(system, kT, g)), Spring(), Langevin(0.3, kT, 1.0), 10**6, generator=g, stop=[done]
    )
    mean, error = done.result()
    assert error <= 0.02 and 1000 <= end.step < 50_000
    assert mean == pytest.approx(1.5 * kT, abs=4 * 0.02)


def test_half_step_temperature_falls_back_to_the_full_step_where_there_is_no_kick():
    state = rest(oscillators(2), torch.ones(2, 3).double())
    assert torch.equal(half_step_kT(state), state.kT)


def test_progress_without_a_terminal_is_lines_with_speed_and_time_left():
    lines = []
    list(simulate(rest(oscillators(2)), Spring(), VelocityVerlet(1.0), 300, report=[Progress(300, 1.0, 100, lines.append)]))
    assert [line.split("  ")[0] for line in lines] == ["step 100/300", "step 200/300", "step 300/300"]
    assert "ns/day" in lines[1] and lines[2].endswith("0:00:00 left")


def test_progress_on_a_terminal_is_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    list(simulate(rest(oscillators(2)), Spring(), VelocityVerlet(1.0), 300, report=[Progress(300, 1.0, 100)]))
    assert "300/300" in sys.stderr.getvalue() and "ns/day" in sys.stderr.getvalue()


def test_the_log_counts_speed_from_its_first_call():
    log = Log(50, dt=2.0)
    list(simulate(rest(oscillators(2)), Spring(), VelocityVerlet(2.0), 150, report=[log]))
    assert [r["step"] for r in log.rows] == [50, 100, 150]
    assert log.rows[0]["ns/day"] == 0 and log.rows[2]["ns/day"] > 0


def test_a_trajectory_reporter_and_a_dcd_hold_the_states_of_the_run(tmp_path):
    state = liquid()
    law = LennardJones(0.05, 1.2, cutoff=2.2).double()
    report = [Trajectory(tmp_path / "a.mlmd", 10, dt=0.03), DCD(tmp_path / "a.dcd", 10, system=1), Recorder(10)]
    *_, end = simulate(state, law, VelocityVerlet(0.03), 50, report=report)
    list(simulate(end, law, VelocityVerlet(0.03), 30, report=[report[0], report[2]]))  # the same reporter appends
    (chunk,) = frames(tmp_path / "a.mlmd")
    assert chunk.steps.tolist() == list(range(10, 90, 10))
    assert np.allclose(chunk.times, 0.03 * chunk.steps)
    recorded = report[2].positions().numpy()
    assert np.array_equal(chunk.positions.reshape(recorded.shape), recorded.astype(np.float32))
    with mdtraj.formats.DCDTrajectoryFile(str(tmp_path / "a.dcd")) as f:
        xyz, lengths, angles = f.read()
    assert np.allclose(xyz, recorded[:5, 1], atol=1e-5)
    assert np.allclose(lengths, 6.0) and np.allclose(angles, 90.0)


def test_an_existing_trajectory_is_not_overwritten_unasked(tmp_path):
    (tmp_path / "a.mlmd").write_text("precious")
    with pytest.raises(ValueError, match="append=True"):
        Trajectory(tmp_path / "a.mlmd", 10)


@pytest.mark.parametrize(
    ("bad", "match"),
    [({"steps": -1}, "steps=-1"), ({"every": 0}, "every=0"), ({"skin": 0.0}, "skin"), ({"on_unstable": "ignore"}, "on_unstable")],
)
def test_impossible_arguments_are_refused_by_name(bad, match):
    arguments = {"steps": 10} | bad
    with pytest.raises(ValueError, match=match):
        list(simulate(rest(oscillators(1)), Spring(), VelocityVerlet(0.1), **arguments))


def test_lists_are_freed_when_a_run_ends_without_waiting_for_the_garbage_collector():
    """A list of a hundred thousand beads is fifty megabytes; runs that follow each other must not pile them up."""

    class Watched(LennardJones):
        def analytic(self, system, pairs):
            lists.append(weakref.ref(pairs))
            return super().analytic(system, pairs)

    lists, state, law = [], liquid(), Watched(0.05, 1.2, cutoff=2.2).double()
    gc.disable()
    try:
        (end,) = simulate(state, law, VelocityVerlet(0.03), 5, every=5, skin=0.3)
        alive = [ref for ref in lists if ref() is not None]
    finally:
        gc.enable()
    assert end.step == 5
    assert lists and not alive


# ---- compiled ----


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["no pairs", "pairs"])
def test_a_compiled_step_does_what_the_eager_one_does(kind):
    from tests.contracts.potentials import POTENTIALS, system_for

    if kind == "pairs":
        state, law = liquid(), LennardJones(0.05, 1.2, cutoff=2.2).double()
    else:
        row = next(r for r in POTENTIALS if r.name == "InvariantNet")
        state, law = rest(system_for(row, 1).replicate(4)), row.make()
    ends = []
    for compile in (False, True):
        g = torch.Generator().manual_seed(1)
        *_, end = simulate(state, law, Langevin(0.03, 0.05, 0.5), 60, generator=g, skin=0.3, compile=compile)
        ends.append(end)
    assert ends[1].step == 60
    assert torch.allclose(ends[0].system.positions, ends[1].system.positions, atol=1e-10)
    assert torch.allclose(ends[0].energy, ends[1].energy, atol=1e-10)
