"""The demo's two faults, done for real: kill -9 of a worker, and a node whose exporter reports XID 79."""

import os
import signal
import threading
import time
import urllib.request
from dataclasses import dataclass, field

from longhaul.training.v1 import training_run_pb2
from longhaul_client import Client
from longhaul_client.sdk import call
from longhaul_client.watching import TERMINAL_RUN_STATES

WORKER_KILLED_AFTER_STEP = 180
NODE_LOST_AFTER_STEP = 400
POLL_SECONDS = 0.2


@dataclass(slots=True)
class FaultRecord:
    """What was done, and when (seconds since the epoch)."""

    killed_pid: int = 0
    killed_at: float = 0.0
    lost_node: str = ""
    lost_at: float = 0.0
    last_nodes: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


class FaultInjector:
    """Watches a run from beside and breaks things at given steps."""

    def __init__(self, client: Client, run: str, exporter_address: str) -> None:
        self._client = client
        self._run = run
        self._exporter_address = exporter_address
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.record = FaultRecord()

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def finish(self) -> FaultRecord:
        """Stop watching and return what was done."""
        self._stop.set()
        self._thread.join()
        return self.record

    def _work(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            request = training_run_pb2.GetTrainingRunRequest(name=self._run)
            status = call(self._client.runs.GetTrainingRun, request).status
            if status.state in TERMINAL_RUN_STATES:
                return
            if status.state != training_run_pb2.TRAINING_RUN_STATE_RUNNING or not status.ranks:
                continue
            self.record.last_nodes = sorted({rank.node for rank in status.ranks})
            if not self.record.killed_pid:
                if status.step > WORKER_KILLED_AFTER_STEP:
                    self._kill_worker(status.ranks[-1])
            elif not self.record.lost_node and status.step > NODE_LOST_AFTER_STEP and status.incidents:
                self._report_xid(status.ranks[-1].node)

    def _kill_worker(self, rank: training_run_pb2.RankStatus) -> None:
        os.kill(rank.process_id, signal.SIGKILL)
        self.record.killed_pid, self.record.killed_at = rank.process_id, time.time()
        self._say(f"fault: kill -9 of the worker of rank {rank.rank} (process {rank.process_id}) at step {rank.step}")

    def _report_xid(self, node: str) -> None:
        url = f"http://{self._exporter_address}/events/{node}-falls-off-the-bus"
        with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=5):
            self.record.lost_node, self.record.lost_at = node, time.time()
        self._say(f"fault: the exporter of {node} reports XID 79, a GPU fell off the bus")

    def _say(self, message: str) -> None:
        self.record.messages.append(message)
        print(f"\n>>> {message}\n", flush=True)
