"""The training loop and its checkpoints."""

import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from mlmd.errors import BrokenCheckpoint
from mlmd.learn import Average, Checkpoint, ClipGradient, EarlyStop, cosine, fit, minibatch
from mlmd.learn.checkpoint import load_latest, save_checkpoint

CHILD = """
import sys, torch
torch.set_num_threads(1)
from tests.learn.test_fit import training
model, logs = training(sys.argv[1], 400)
for log in logs:
    print(log["step"], flush=True)
torch.save({k: v for k, v in model.state_dict().items()}, sys.argv[2])
"""


def training(folder, steps, every=3):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
    x = torch.randn(200, 3)
    y = x[:, :1].sin() + x[:, 1:2] * 0.5
    pick, mean = minibatch(len(x), 32, seed=1), Average(0.9)
    callbacks = [ClipGradient(1.0), mean] + ([Checkpoint(folder, every=every, companions=(mean,))] if folder else [])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loss = lambda m, i: {"square": (m(x[i]) - y[i]).square().mean()}  # noqa: E731
    return model, fit(model, loss, pick, steps=steps, optimizer=optimizer, schedule=cosine(400), callbacks=callbacks)


def finished(folder, steps=400):
    model, logs = training(folder, steps)
    return model.state_dict(), list(logs)


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def test_training_learns():
    _, logs = finished(None)
    assert logs[-1]["square"] < 0.2 * logs[0]["square"]


def test_training_stopped_at_any_step_resumes_bit_for_bit(tmp_path):
    whole, _ = finished(None)
    for stop in (1, 7, 100):
        folder = tmp_path / str(stop)
        _, logs = training(folder, 400)
        for log in logs:
            if log["step"] == stop:
                break
        logs.close()
        resumed, _ = finished(folder)
        assert same(whole, resumed)


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_training_killed_at_random_moments_resumes_bit_for_bit(tmp_path, kills):
    whole, _ = finished(None)
    rng = np.random.default_rng(0)
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    for kill in range(kills):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path / "run"), str(tmp_path / "end.pt")], stdout=subprocess.PIPE, env=env
        )
        for line in child.stdout:
            if float(line) > 380 * kill / kills:
                break
        time.sleep(float(rng.uniform(0, 0.1)))
        child.send_signal(signal.SIGKILL)
        child.wait()
    resumed, _ = finished(tmp_path / "run")
    assert same(whole, resumed)


def test_nothing_is_lost_when_the_loop_is_stopped_between_steps(tmp_path):
    _, logs = training(tmp_path, 400)
    for log in logs:
        if log["step"] == 50:
            break
    logs.close()
    seen = [log["step"] for log in finished(tmp_path)[1]]
    assert seen == [float(s) for s in range(51, 401)]


def test_a_loss_that_is_not_finite_stops_training_with_the_parameters_of_the_step_before():
    model = nn.Linear(1, 1)
    loss = lambda m, step: {"bad": m(torch.ones(1)).sum() * (torch.nan if step == 3 else 1.0)}  # noqa: E731
    with pytest.raises(FloatingPointError, match="step 3"):
        list(fit(model, loss, lambda s: s, steps=10, optimizer=torch.optim.SGD(model.parameters(), lr=0.1)))
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_early_stop_returns_the_best_parameters():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 3.0)
    loss = lambda m, _: {"down": m.weight.sum()}  # noqa: E731
    stop = EarlyStop(lambda m: (m.weight - 1).abs().item(), every=1, patience=4)
    list(fit(model, loss, lambda s: s, steps=100, optimizer=torch.optim.SGD(model.parameters(), lr=0.25), callbacks=[stop]))
    assert model.weight.item() == pytest.approx(1.0)


def test_every_epoch_visits_every_frame_once():
    pick = minibatch(100, 10, seed=0)
    first, second = (torch.cat([pick(s) for s in range(k, k + 10)]) for k in (0, 10))
    assert torch.equal(first.sort()[0], torch.arange(100))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("tries", [60, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_damaged_checkpoint_is_detected_and_the_previous_one_used(tmp_path, damage, tries):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"step": step, "w": torch.arange(1000.0)})
    newest = tmp_path / "step_00000002.npz"
    good, rng = newest.read_bytes(), np.random.default_rng(0)
    for _ in range(tries):
        data = bytearray(good)
        at = int(rng.integers(len(data)))
        if damage == "flip":
            data[at] ^= 1 << int(rng.integers(8))
        else:
            del data[at:]
        newest.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a flip in an unused header field changes nothing and warns of nothing
            found = load_latest(tmp_path)
        assert found["step"] == 1 or (found["step"] == 2 and torch.equal(found["w"], torch.arange(1000.0)))


def test_when_all_checkpoints_are_damaged_it_says_so(tmp_path):
    save_checkpoint(tmp_path, 1, {"step": 1})
    (tmp_path / "step_00000001.npz").write_bytes(b"not a checkpoint")
    with pytest.warns(UserWarning, match="cannot be read"), pytest.raises(BrokenCheckpoint, match="no checkpoint in"):
        load_latest(tmp_path)
