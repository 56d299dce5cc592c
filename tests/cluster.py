"""A Dask cluster on this machine for tests, started by the commands that users run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

DASK_SCHEDULER = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
DASK_WORKER = [sys.executable, "-m", "distributed.cli.dask_worker"]
THIS_MACHINE = ["--host=127.0.0.1", "--no-dashboard", "--dashboard-address=127.0.0.1:0"]  # no other machine can connect


def wait_until(condition, seconds: float = 60) -> bool:
    """Wait until `condition()` is true; False if that takes longer than `seconds`."""
    for _ in range(int(seconds / 0.05)):
        if condition():
            return True
        time.sleep(0.05)
    return False


class DaskScheduler:
    """Processes of `dask scheduler` and `dask worker` on this machine, and the scheduler's address."""

    def __init__(self, folder: Path):
        pytest.importorskip("distributed")
        self.folder = folder
        self.processes = []
        file = folder / "scheduler.json"
        self.start([*DASK_SCHEDULER, "--port=0", *THIS_MACHINE, f"--scheduler-file={file}"])
        assert wait_until(lambda: file.exists() and file.read_text())
        self.address = json.loads(file.read_text())["address"]

    def start(self, command: list[str]) -> None:
        # A job that kills two workers has failed; Dask's default, four, would only take longer.
        settings = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1", "DASK_TEMPORARY_DIRECTORY": str(self.folder)}
        environment = os.environ | settings | {"PYTHONPATH": str(REPOSITORY)}
        with open(self.folder / "log", "a") as log:
            options = {"stdout": log, "stderr": log, "env": environment, "cwd": self.folder}
            self.processes.append(subprocess.Popen(command, start_new_session=True, **options))

    def kill(self) -> None:
        """Kill the scheduler and all workers."""
        while self.processes:
            process = self.processes.pop()
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def start_worker(self) -> subprocess.Popen:
        """Start a worker with one thread."""
        self.start([*DASK_WORKER, self.address, "--nthreads=1", *THIS_MACHINE])
        return self.processes[-1]
