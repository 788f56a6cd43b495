"""A local installation for tests, driven by the `longhaul` command as a user drives it."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from longhaul_client import Client

COMMAND_TIMEOUT_SECONDS = 220


def _as_a_user() -> list[str]:
    """What makes root obey the permissions of files, as any other user does; services inherit it."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return []
    rights = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"]


@dataclass(frozen=True, slots=True)
class Installation:
    """Services on a data folder of their own."""

    data_dir: Path

    def longhaul(self, *arguments: str, timeout: float = COMMAND_TIMEOUT_SECONDS) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        return subprocess.run(
            [*_as_a_user(), sys.executable, "-m", "longhaul_client", "--data-dir", str(self.data_dir), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def json(self, *arguments: str) -> Any:
        """Run the command with --json and return what it printed."""
        done = self.longhaul(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def json_unchecked(self, *arguments: str) -> Any:
        """Return what the command printed with --json, whatever its exit code."""
        return json.loads(self.longhaul(*arguments, "--json").stdout)

    def up(self, *arguments: str) -> None:
        """Start the services."""
        done = self.longhaul("up", "--port-base", "auto", "--workers", "1", *arguments)
        assert done.returncode == 0, done.stderr + done.stdout

    def down(self) -> None:
        """Stop everything."""
        done = self.longhaul("down")
        assert done.returncode == 0, done.stderr

    def client(self) -> Client:
        """Connect with the SDK."""
        return Client.local(self.data_dir)


def agent_of(worker: int) -> int:
    """The agent above a worker; the worker's own parent is the nursery that it was forked from."""
    parents = psutil.Process(worker).parents()
    return next(process.pid for process in parents if "longhaul_trainer.agent" in process.cmdline())


def refused(done: subprocess.CompletedProcess[str], exit_code: int, *texts: str) -> None:
    """Check that a command failed with one clear message: no traceback, the exit code, and what it must say."""
    assert done.returncode == exit_code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    said = " ".join((done.stdout + done.stderr).split())
    assert "Traceback" not in said
    assert said.count("error:") == 1, said
    for text in texts:
        assert text in said, f"{text!r} is not in: {said}"
