"""A process to be killed: imports once, then forks a child for every line that it reads; used by ``test_faults.py``.

A line is JSON: {"job": name, ...}. The worker answers with the child's process number, and with its exit status when it has ended.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


class Worker:
    """The other end: started once, asked for children."""

    def __init__(self):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self._answer()  # imports are done

    def start(self, **job):
        """Fork a child; its process number."""
        self.process.stdin.write(json.dumps(job, default=str) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def status(self):
        """Wait for the child; its exit status, negative for the signal that killed it. Until then its number is not given away."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def run(self, **job):
        """A child that is left to end by itself; its exit status."""
        self.start(**job)
        return self.status()

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=20)
        self.process.stdout.close()
        self.process.stderr.close()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker has died: {self.process.stderr.read()[-2000:]}")
        return int(line)


def serve() -> None:
    """Fork for every line, answer with process number and exit status."""
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, str(ROOT))
    from tests.md import fault_jobs

    sys.stdout.write("0\n")
    sys.stdout.flush()
    for line in iter(sys.stdin.readline, ""):
        child = os.fork()
        if not child:
            os._exit(obey(fault_jobs, json.loads(line)))
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        sys.stdin.readline()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write(f"{code}\n")
        sys.stdout.flush()


def obey(jobs: object, job: dict) -> int:
    """Do one job; what goes wrong is written into the file ``error`` and gives exit status 1."""
    error = job.pop("error", None)
    limit = job.pop("file_limit", None)
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if job.pop("nobody", False) and os.getuid() == 0:
        os.setuid(65534)
    try:
        getattr(jobs, job.pop("job"))(**job)
    except Exception as problem:
        if error:
            os.write(int(os.open(error, os.O_WRONLY)), f"{type(problem).__name__}: {problem}".encode())
        else:
            traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve()
