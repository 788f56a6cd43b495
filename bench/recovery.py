"""Recovery on this machine: six faults, each repeated, from the fault to the next step of the run.

`make bench-recovery` (REPS=20 for the figures of the documentation). Real services, real agents and workers, a local
cluster; a node is a process that is killed with SIGKILL. One JSON object a fault with the split of the repair, medians
and the worst; the targets are those of docs/goodput.md.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path += [str(HERE.parent / "tests/integration" / name) for name in ("training", "trainer")]

from longhaul_core.cluster.local.launch import running_nodes, start_node  # noqa: E402 - found through the path above
from trainer_harness import make_token_set  # noqa: E402
from training_harness import Lab, config, wait  # noqa: E402

TARGET_SECONDS = {
    "worker-kill": (3.0, 10.0),
    "agent-kill": (3.0, 60.0),
    "node-loss": (3.0, 60.0),
    "hang": (33.0, 43.0),
    "straggler": (13.0, 60.0),
    "controller-kill": (0.0, 20.0),
}
"""By fault: most seconds to its detection, and from the fault to the first step after it; 0: not judged.

A straggler is one when it has been slow for 10 s here (60 s by default); its nodes are then checked in pairs.
"""
STEPS = 100_000
DATA = {
    "sequence_length": 32,
    "global_batch_size": 8,
    "micro_batch_size": 2,
    "maximum_epochs": 1e9,
}
results: list[bool] = []


@dataclass(frozen=True, slots=True)
class Repair:
    """One repetition, seconds."""

    detect: float
    restart: float
    restore: float
    total: float


class BenchLab(Lab):
    """A lab whose controller takes a rank for a straggler sooner."""

    def training_environment(self) -> dict[str, str]:
        """See `Lab`."""
        return {"LONGHAUL_STRAGGLER_SECONDS": "10"}


def main() -> None:
    """Runs the faults that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("faults", nargs="*", default=list(FAULTS))
    asked = parser.parse_args()
    for name in asked.faults:
        with tempfile.TemporaryDirectory(prefix="bench-recovery-") as folder:
            lab = prepare(Path(folder), trains=name != "straggler")
            try:
                repairs = [FAULTS[name](lab, number) for number in range(asked.repetitions)]
            finally:
                lab.close()
        report(name, repairs)
    print(f"bench-recovery: {sum(results)} of {len(results)} targets met")


def prepare(folder: Path, *, trains: bool) -> Lab:
    """A lab with a token set and, where it `trains`, one run with a warm spare."""
    lab = BenchLab(folder, 4)
    lab.create_project()
    lab.upstream.add_token_set(make_token_set(lab.objects_url))
    if not trains:
        return lab
    lab.create_run("bench", config(steps=STEPS, checkpoint={"every_steps": 50}, data=DATA), spares=1)
    lab.wait_step("bench", 60)
    return lab


def report(name: str, repairs: list[Repair]) -> None:
    """One line a fault."""
    detect, total = TARGET_SECONDS[name]
    median, worst = statistics.median(r.total for r in repairs), max(r.total for r in repairs)
    met = (not total or worst <= total) and (not detect or max(r.detect for r in repairs) <= detect)
    row = {
        "bench": f"recovery_{name}",
        "ours": round(median, 3),
        "peer": None,
        "peer_name": "",
        "unit": "s from the fault to the next step, median",
        "ratio": None,
        "target": f"detect <= {detect:g} s, in all <= {total:g} s",
        "met": met,
        "worst": round(worst, 3),
        "detect_median": round(statistics.median(r.detect for r in repairs), 3),
        "restart_median": round(statistics.median(r.restart for r in repairs), 3),
        "restore_median": round(statistics.median(r.restore for r in repairs), 3),
        "repetitions": len(repairs),
    }
    print(json.dumps(row), flush=True)
    results.append(met)


def measure(lab: Lab, break_it: Callable[[], Any]) -> Repair:
    """Breaks something and waits until the run is in its next epoch and steps; the split is the run's own."""
    settle(lab)
    epoch = lab.get_run("bench").status.epoch
    count = len(lab.get_run("bench").status.incidents)
    broken = time.time()
    break_it()
    wait(lambda: lab.get_run("bench").status.epoch > epoch, "a new epoch", 180)
    wait(lambda: _steps_in(lab, epoch), "a step of the new epoch", 180)
    incident = lab.get_run("bench").status.incidents[count]
    first = min(row.time.ToNanoseconds() / 1e9 for row in lab.rows("bench") if row.epoch > epoch)
    return Repair(incident.detect_seconds, incident.restart_seconds, incident.restore_seconds, first - broken)


def settle(lab: Lab) -> None:
    """The run trains, has a spare ready, and has made steps since the last checkpoint."""
    lab.wait_state("bench", "RUNNING")
    wait(lambda: lab.get_run("bench").status.spares_ready >= 1, "a spare that is ready", 180)
    wait(lambda: all(i.HasField("recovered_time") for i in lab.get_run("bench").status.incidents), "caught up", 180)


def _steps_in(lab: Lab, epoch: int) -> bool:
    status = lab.get_run("bench").status
    return any(row.epoch > epoch for row in lab.rows("bench")) and status.epoch > epoch


def kill_worker(lab: Lab, number: int) -> Repair:
    return measure(lab, lambda: os.kill(lab.rank("bench", 1).process_id, signal.SIGKILL))


def kill_agent(lab: Lab, number: int) -> Repair:
    pod = lab.rank("bench", 1).pod
    return measure(lab, lambda: os.kill(lab.agent_process(pod), signal.SIGKILL))


def kill_node(lab: Lab, number: int) -> Repair:
    node = lab.rank("bench", 1).node
    repair = measure(lab, lambda: os.kill(running_nodes(lab.cluster)[node], signal.SIGKILL))
    start_node(lab.cluster, node, gpus=1)
    return repair


def hang_worker(lab: Lab, number: int) -> Repair:
    return measure(lab, lambda: os.kill(lab.rank("bench", 1).process_id, signal.SIGSTOP))


def slow_rank(lab: Lab, number: int) -> Repair:
    """A run whose rank 1 is slow from its first step on: noticed, its nodes checked in pairs, and on it goes."""
    run = f"slow-{number}"
    plan = config(steps=STEPS, checkpoint={"every_steps": 50}, data=DATA)
    lab.create_run(run, plan, step_seconds=0.01, drill="step=0.1@rank=1@epoch=1")
    wait(lambda: _event_at(lab, run, "DIAGNOSIS_CLEAR") or _event_at(lab, run, "NODE_ACCUSED"), "a diagnosis", 180)
    epoch = lab.get_run(run).status.epoch
    wait(lambda: any(row.epoch >= epoch for row in lab.rows(run)), "a step after the diagnosis", 180)
    rows = [(row.epoch, row.time.ToNanoseconds() / 1e9) for row in lab.rows(run)]
    began, first = min(at for _, at in rows), min(at for at_epoch, at in rows if at_epoch >= epoch)
    seen = _event_at(lab, run, "SLOW")
    lab.cancel(run)
    lab.wait_state(run, "CANCELLED")
    wait(lambda: not lab.pods(), "its pods are gone", 60)
    return Repair(seen - began, first - seen, 0.0, first - began)


def _event_at(lab: Lab, run: str, kind: str) -> float:
    """When an event of that type came; 0 before it has."""
    return next((event.time.ToNanoseconds() / 1e9 for event in lab.events(run) if event.type == kind), 0.0)


def kill_controller(lab: Lab, number: int) -> Repair:
    """The run goes on by itself: counted is until a new leader follows its steps; nothing may restart."""
    settle(lab)
    epoch = lab.get_run("bench").status.epoch
    broken = time.time()
    lab.training.kill()
    lab.training.start()
    lab.wait_ready()
    wait(lambda: _newest(lab) > broken, "a step after the controller's death is committed", 120)
    seconds = time.time() - broken
    status = lab.get_run("bench").status
    assert status.epoch == epoch, f"a controller's death restarted the run: {status.incidents[-1]}"
    return Repair(0.0, 0.0, 0.0, seconds)


def _newest(lab: Lab) -> float:
    rows = lab.rows("bench")
    return max((row.time.ToNanoseconds() / 1e9 for row in rows), default=0.0)


FAULTS: dict[str, Callable[[Lab, int], Repair]] = {
    "worker-kill": kill_worker,
    "agent-kill": kill_agent,
    "node-loss": kill_node,
    "hang": hang_worker,
    "straggler": slow_rank,
    "controller-kill": kill_controller,
}

if __name__ == "__main__":
    main()
