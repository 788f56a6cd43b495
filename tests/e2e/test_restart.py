"""kill -9 of the supervisor and of all services in each stage; `longhaul up` and `longhaul run` again end well."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from installation import Installation
from longhaul_client.local.layout import SERVICES, load_layout
from longhaul_client.local.lock import lock_holder
from recipes import recipe, write_recipe

DEADLINE_SECONDS = 240

STAGES = {
    "ingest": ("datasets", "list", lambda found: True),
    "corpus": ("datasets", "list", lambda found: bool(found)),
    "training": ("checkpoints", "list", lambda found: bool(found)),
}
"""What is looked at, and when the stage has been reached."""


def kill_everything(installation: Installation) -> None:
    """kill -9 the supervisor first, so that it starts nothing again, then every service."""
    layout = load_layout(installation.data_dir)
    assert layout is not None
    supervisor = lock_holder(layout.lock_file)
    assert supervisor
    victims = [psutil.Process(supervisor), *(psutil.Process(layout.processes[name].pid) for name in SERVICES)]
    for process in victims:
        os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs(victims, timeout=10)
    assert lock_holder(layout.lock_file) is None


@pytest.mark.timeout(600)
def test_everything_killed_in_each_stage_ends_well_after_up_and_run(tmp_path: Path, documents: Path):
    broken = Installation(tmp_path / "data")
    broken.up("--nodes", "3")
    try:
        path = write_recipe(tmp_path / "recipe.yaml", recipe("broken", documents))
        for stage, (noun, verb, reached) in STAGES.items():
            assert broken.longhaul("run", str(path), "--detach").returncode == 0
            deadline = time.monotonic() + DEADLINE_SECONDS
            while not reached(broken.json(noun, verb)):
                assert time.monotonic() < deadline, f"{stage} was not reached"
            kill_everything(broken)
            assert broken.longhaul("runs", "list").returncode == 5
            broken.up()

        done = broken.longhaul("run", str(path))
        assert done.returncode == 0, done.stdout + done.stderr
        rows = broken.json("runs", "metrics", "broken")
        assert [int(row["step"]) for row in rows] == list(range(1, 21))
        status = broken.json("datasets", "show", "broken")["ingestion"]["status"]
        assert int(status["documents_read"]) == int(status["documents_kept"]) == 120
        assert len(broken.json("datasets", "list")) == 1
        steps = [int(point["step"]) for point in broken.json("evals", "curve", "broken")["points"]]
        assert steps == sorted(set(steps))
        assert 20 in steps
    finally:
        broken.down()
