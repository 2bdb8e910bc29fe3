"""A headless Chromium that can reach nothing but this machine, and a JupyterLab to point it at; tests skip where either is absent."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]
LOCAL = ("file:", "data:", "blob:", "about:")


@contextmanager
def page(width: int = 1320, height: int = 1000) -> Iterator[tuple[Any, list[str], list[str]]]:
    """(page, addresses outside this machine that were asked for and refused, errors of scripts)."""
    api = pytest.importorskip("playwright.sync_api")
    binary = os.environ.get("MLMD_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if binary is None:
        pytest.skip("no Chromium: install it or name it in MLMD_CHROMIUM")
    outside: list[str] = []
    errors: list[str] = []

    def guard(route: Any) -> None:
        url = route.request.url
        if url.startswith(LOCAL) or url.startswith(("http://127.0.0.1", "ws://127.0.0.1")):
            route.continue_()
        else:
            outside.append(url)
            route.abort()

    with api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=binary, headless=True, args=FLAGS)
        context = browser.new_context(viewport={"width": width, "height": height})
        context.route("**/*", guard)
        tab = context.new_page()
        tab.on("pageerror", lambda e: errors.append(str(e)))
        tab.on("dialog", lambda d: d.accept())
        yield tab, outside, errors
        context.unroute_all(behavior="ignoreErrors")
        browser.close()


def pixels(locator: Any) -> np.ndarray:
    """What a part of the page looks like, (height, width, 3)."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB")).astype(int)


def ink(image: np.ndarray) -> float:
    """Share of the pixels that are colourful: balls are, backgrounds and grey text are not."""
    return float(((image.max(-1) - image.min(-1)) > 40).mean())


def wait_until(condition: Callable[[], Any], seconds: float, what: str, tab: Any = None) -> Any:
    """The first true value of ``condition``; with a ``tab`` that goes on loading meanwhile (requests pass through this thread)."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        if tab is None:
            time.sleep(0.3)
        else:
            tab.wait_for_timeout(300)
    raise AssertionError(f"waited {seconds:.0f} s in vain for {what}")


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """Address of a JupyterLab with settings of its own that serves ``folder``."""
    pytest.importorskip("jupyterlab")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    private = {f"JUPYTER_{k}_DIR": str(folder / f".{k.lower()}") for k in ("CONFIG", "DATA", "RUNTIME")}
    settings = folder / ".settings"
    quiet = settings / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}))
    # The kernel is started by the bare name "python": the one of this environment has to come first.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | private | {"JUPYTERLAB_SETTINGS_DIR": str(settings), "PATH": path}
    environment.pop("MLMD_HEADLESS", None)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += [
        "--IdentityProvider.token=",
        "--ServerApp.password=",
        "--LabApp.extension_manager=readonly",
        f"--notebook-dir={folder}",
    ]
    log = open(folder / "lab.log", "w")  # noqa: SIM115
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: process.poll() is not None or _answers(f"{address}/api"), 90, "JupyterLab to answer")
        assert process.poll() is None, (folder / "lab.log").read_text()[-2000:]
        yield address
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        log.close()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return reply.status == 200
    except OSError:
        return False


def run_all(tab: Any, address: str, notebook: str, seconds: float) -> None:
    """Open a notebook in JupyterLab, run all its cells, wait for the last; fails on an error in any cell."""
    tab.goto(f"{address}/lab/tree/{notebook}?reset", wait_until="domcontentloaded")

    def kernel_idle() -> bool:
        with urllib.request.urlopen(f"{address}/api/sessions", timeout=5) as reply:
            sessions = json.load(reply)
        return any(
            s["path"] == notebook and s["kernel"]["execution_state"] == "idle" and s["kernel"]["connections"] for s in sessions
        )

    wait_until(kernel_idle, 120, "the kernel", tab)
    prompts = tab.locator(".jp-CodeCell .jp-InputArea-prompt")
    wait_until(lambda: prompts.count() > 0, 60, "the cells", tab)

    def started() -> bool:
        return any(text not in ("[ ]:", "") for text in prompts.all_inner_texts())

    for _ in range(6):  # a run that is asked for while the session still connects is dropped without a word
        tab.click("text=Run >> nth=0")
        tab.click('[data-command="runmenu:run-all"]')
        try:
            wait_until(started, 8, "the first cell", tab)
            break
        except AssertionError:
            continue
    last = lambda: all(t.strip("[]: ").isdigit() for t in prompts.all_inner_texts() if t)  # noqa: E731
    wait_until(last, seconds, "all cells to finish", tab)
    errors = tab.locator('[data-mime-type="application/vnd.jupyter.error"], [data-mime-type="application/vnd.jupyter.stderr"]')
    assert errors.count() == 0, errors.all_inner_texts()
