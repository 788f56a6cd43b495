"""Logs of a run: chunks of its agents, and what pods wrote whose agents have not started."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from longhaul_core.clock import ManualClock
from longhaul_core.cluster import PodSpec
from longhaul_core.cluster.fake import FakeCluster
from longhaul_core.db import Database
from longhaul_core.objects import open_store
from longhaul_training.adapters.project_store import ProjectStore
from longhaul_training.adapters.run_logs import ASKED_LINES, LogCursor, RunLogs
from longhaul_training.domain.states import Run, RunState
from situations import make_run

AT = datetime(2026, 3, 1, tzinfo=UTC)
NAMESPACE = "team"


class Lab:
    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(AT)
        self.db = Database.open(f"sqlite:///{folder / 'db.sqlite3'}")
        self.store = open_store(f"file://{folder / 'objects'}")
        self.cluster = FakeCluster(self.clock)
        self.projects = ProjectStore(self.db, self.clock)
        self.logs = RunLogs(self.store, self.cluster, self.projects, self.clock)
        run = make_run(RunState.ADMITTED)
        slots = tuple(replace(slot, joined=False) for slot in run.control.slots)
        self.run: Run = replace(run, control=replace(run.control, slots=slots))

    async def open(self) -> None:
        await self.projects.create("p", {"namespace": NAMESPACE}, "")
        for index, pod in enumerate(self.run.current_pods()):
            self.cluster.add_node(f"node-{index}", gpus=1)
            await self.cluster.create_pod(PodSpec(name=pod, command=("x",), namespace=NAMESPACE, node=f"node-{index}"))

    def write_chunk(self, pod: str, text: str) -> None:
        self.store.put(f"projects/p/runs/r/logs/rank-00000/e1-{pod}-0.log", text.encode())


async def test_pod_whose_agent_has_not_started_is_asked_through_the_cluster(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    await lab.open()
    first, second = lab.run.current_pods()
    lab.cluster.write_log(NAMESPACE, first, b"No module named longhaul_trainer\n")
    cursor = LogCursor()
    shown = await lab.logs.read(lab.run, None, cursor)
    assert [(line.chunk.pod, line.chunk.rank, line.text) for line in shown] == [
        (first, -1, "No module named longhaul_trainer")
    ]
    lab.cluster.write_log(NAMESPACE, second, b"starting\n")
    assert [(line.chunk.pod, line.text) for line in await lab.logs.read(lab.run, -1, cursor)] == [(second, "starting")]
    assert await lab.logs.read(lab.run, 0, cursor) == [], "a rank has written nothing"

    lab.write_chunk(first, "step 1\n")
    lab.cluster.write_log(NAMESPACE, first, b"by the agent\n")
    assert [line.text for line in await lab.logs.read(lab.run, None, cursor)] == ["step 1"]
    lab.db.close()


async def test_cluster_that_does_not_answer_costs_only_the_early_lines(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    await lab.open()
    first, second = lab.run.current_pods()
    pod = await lab.cluster.get_pod(NAMESPACE, first)
    await lab.cluster.delete_pod(NAMESPACE, first, pod.uid, 0.0, force=True)
    lab.cluster.write_log(NAMESPACE, second, b"".join(b"line %d\n" % n for n in range(ASKED_LINES + 10)))
    shown = await lab.logs.read(lab.run, None, LogCursor(), 3)
    assert [line.text for line in shown] == [f"line {n}" for n in range(ASKED_LINES + 7, ASKED_LINES + 10)]
    lab.db.close()
