"""Training, GPU health and an exporter as processes on one cluster: from a fatal signal to the run's next step."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import yaml
from fakekube import FakeKubernetes
from longhaul.gpuhealth.v1 import node_health_pb2 as pb
from longhaul.gpuhealth.v1 import node_health_pb2_grpc
from longhaul.training.v1 import training_run_pb2
from longhaul_core.clock import SystemClock
from longhaul_core.cluster import LocalCluster
from longhaul_core.cluster.local.launch import start_node
from longhaul_core.rpc.client import connect_sync
from longhaul_gpuhealth.adapters.marks import SESSION
from trainer_harness import make_token_set
from training_harness import DEADLINE_SECONDS, USER_TOKEN, Lab, Service, config, free_port, run_name, wait
from training_lab import Background, KubeLab

RUN = "watched"
XIDS = (79, 48, 62, 95, 119, 120, 140, 143)
"""Fatal codes; the exporter's gauge shows a fault only when the code is another one than before."""
EXPORTER_SECONDS = 60.0
NEWEST_STEPS = 5000
STEP_SECONDS = 0.1
DATA = {"sequence_length": 32, "global_batch_size": 8, "micro_batch_size": 2, "maximum_epochs": 1e9}
CONFIG = config(steps=1_000_000, validation={"every_steps": 0}, data=DATA)
Trouble = Callable[["Watch"], Callable[[], None]]
"""Breaks something more, and returns what mends it once the run has moved."""


@dataclass(frozen=True, slots=True)
class Split:
    """Seconds of one repair. The parts follow one another; `total` is from the signal to the run's next step.

    Attributes:
        detect: From the signal on the exporter's page to the finding.
        quarantine: To the marks on the node.
        drain: From the drain request to training's first act; it does not wait for the marks.
        restart: To workers that run.
        restore: To their state, as of the last checkpoint.
        total: To the first step of the new epoch.
        empty: From the drain request to its acknowledgement: no pod is left on the node.
    """

    detect: float
    quarantine: float
    drain: float
    restart: float
    restore: float
    total: float
    empty: float


class Exporter:
    """The pretend exporter of all nodes. `broken` nodes show the fault from the start, as after its restart."""

    def __init__(self, folder: Path, nodes: list[str]) -> None:
        self.folder, self.nodes, self.port = folder, nodes, free_port()
        self.broken: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        listed = {node: f"http://127.0.0.1:{self.port}/nodes/{node}/metrics" for node in nodes}
        (folder / "exporters.yaml").write_text(yaml.safe_dump(listed))

    def start(self) -> None:
        events: list[dict[str, Any]] = [
            {"name": f"{node}-{code}", "node": node, "gpu": 0, "xid": code} for node in self.nodes for code in XIDS
        ]
        for node, code in self.broken.items():
            events.append({"name": f"old-{node}", "node": node, "gpu": 0, "xid": code, "at": 0})
        scenario = {"nodes": {node: {"gpus": 1} for node in self.nodes}, "events": events}
        path = self.folder / "scenario.yaml"
        path.write_text(yaml.safe_dump(scenario))
        listen = f"127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "longhaul_gpuhealth.exporter", "--scenario", str(path), "--listen", listen]
        with (self.folder / "exporter.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait(self._answers, "the exporter answers", EXPORTER_SECONDS)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def show(self, node: str, code: int) -> None:
        """The GPU of a node reports an XID from now on."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/events/{node}-{code}", method="POST")
        with urllib.request.urlopen(request, timeout=EXPORTER_SECONDS) as answer:
            assert answer.status == 200
        self.broken[node] = code

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


class Watch:
    """The exporter and the gpuhealth service beside a lab of training, which was told `port` as gpuhealth's."""

    def __init__(self, lab: Lab, port: int, cluster: Mapping[str, str], session_on: Callable[[str], str]) -> None:
        self.lab, self.session_on = lab, session_on
        self.exporter = Exporter(lab.folder, lab.nodes)
        guard = {key: value for key, value in lab.checkpoint.environment.items() if "ADDRESS" not in key}
        environment = {
            **guard,
            **cluster,
            "LONGHAUL_LISTEN_ADDRESS": f"127.0.0.1:{port}",
            "LONGHAUL_METRICS_ADDRESS": "",
            "LONGHAUL_SCRAPE_INTERVAL_SECONDS": "0.3",
            "LONGHAUL_LEASE_SECONDS": "1",
            "LONGHAUL_RECOVERY_SECONDS": "0.2",
            "LONGHAUL_BUDGET_WINDOW_SECONDS": "0.2",
            "LONGHAUL_BUDGET_MINIMUM_NODES": str(len(lab.nodes)),
            "LONGHAUL_DISCOVERY": "list",
            "LONGHAUL_EXPORTERS_FILE": str(lab.folder / "exporters.yaml"),
        }
        self.service = Service("longhaul_gpuhealth", lab.folder, environment)
        self.address = f"127.0.0.1:{port}"
        self.authority = (lab.folder / "authority.pem").read_bytes()
        self.channel = connect_sync(self.address, token=USER_TOKEN, tls_ca=self.authority)
        self.stub: Any = node_health_pb2_grpc.NodeHealthServiceStub(self.channel)

    def start(self) -> None:
        self.exporter.start()
        self.service.start()
        self.wait_ready()

    def close(self) -> None:
        self.channel.close()
        self.service.kill()
        self.exporter.kill()

    def wait_ready(self) -> None:
        grpc.channel_ready_future(self.channel).result(timeout=DEADLINE_SECONDS)

    def get(self, node: str) -> pb.NodeHealth:
        return self.stub.GetNodeHealth(pb.GetNodeHealthRequest(name=f"nodes/{node}"))

    def states(self) -> dict[str, int]:
        return {one.node: one.state for one in self.stub.ListNodeHealth(pb.ListNodeHealthRequest()).nodes}

    def events(self, node: str) -> list[Any]:
        return list(self.stub.ExplainVerdict(pb.ExplainVerdictRequest(name=f"nodes/{node}")).events)

    def is_out(self, node: str) -> bool:
        return self.states().get(node) == pb.HEALTH_STATE_QUARANTINED

    def all_healthy_but(self, *nodes: str) -> bool:
        expected = {node for node in self.lab.nodes if node not in nodes}
        return {node for node, state in self.states().items() if state == pb.HEALTH_STATE_HEALTHY} == expected

    def release(self, node: str) -> None:
        """The GPU was repaired."""
        self.exporter.broken.pop(node, None)
        self.stub.ReleaseNode(pb.ReleaseNodeRequest(name=f"nodes/{node}", reason="repaired", author="ada"))

    @contextmanager
    def training_held(self) -> Iterator[None]:
        """Training does nothing meanwhile, so that what is killed meanwhile is killed before the run has moved."""
        assert self.lab.training.process is not None
        self.lab.training.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.lab.training.process.send_signal(signal.SIGCONT)


class LocalLab(Lab):
    """On node processes of this machine."""

    def __init__(self, folder: Path) -> None:
        self.health_port = free_port()
        super().__init__(folder, nodes=4)
        self.watch = Watch(self, self.health_port, {}, self._session_on)
        self.watch.start()

    def training_environment(self) -> dict[str, str]:
        return told(self.health_port)

    def start_nodes(self) -> None:
        with ThreadPoolExecutor(len(self.nodes)) as threads:
            list(threads.map(lambda node: start_node(self.cluster, node, gpus=1), self.nodes))

    def close(self) -> None:
        self.watch.close()
        self.training.kill()
        super().close()

    def _session_on(self, node: str) -> str:
        async def read() -> str:
            cluster = LocalCluster.open(self.cluster, SystemClock())
            try:
                return (await cluster.get_node(node)).annotations.get(SESSION, "")
            finally:
                await cluster.close()

        return asyncio.run(read())


class KubeHealthLab(KubeLab):
    """On a Kubernetes API in memory, which can be stopped and started."""

    def __init__(self, folder: Path, background: Background, api: FakeKubernetes) -> None:
        self.health_port = free_port()
        self.api = api
        super().__init__(folder, background, api.write_kubeconfig(folder / "kubeconfig"), "watched-runs", "")
        cluster = {"LONGHAUL_CLUSTER_URL": self.training.environment["LONGHAUL_CLUSTER_URL"]}
        self.watch = Watch(self, self.health_port, cluster, self._session_on)
        self.watch.start()

    def training_environment(self) -> dict[str, str]:
        return {**super().training_environment(), **told(self.health_port)}

    def start_nodes(self) -> None:
        self.nodes.append("node-3")  # for the next spare
        super().start_nodes()

    def close(self) -> None:
        self.watch.close()
        self.training.kill()
        super().close()

    def _session_on(self, node: str) -> str:
        found = self.api.objects.find("nodes", "", node)
        return str(((found or {"metadata": {}})["metadata"].get("annotations") or {}).get(SESSION, ""))


def told(port: int) -> dict[str, str]:
    """What training is told of gpuhealth."""
    return {"LONGHAUL_GPUHEALTH_ADDRESS": f"127.0.0.1:{port}"}


def start_run(lab: Lab) -> None:
    """A run on two nodes with a spare that trains until it is cancelled."""
    lab.create_project()
    lab.upstream.add_token_set(make_token_set(lab.objects_url))
    lab.create_run(RUN, CONFIG, step_seconds=STEP_SECONDS, spares=1)
    lab.wait_step(RUN, 12)


def settle(watch: Watch) -> None:
    """The run trains and has a spare ready; every node is healthy."""
    lab = watch.lab
    wait(lambda: watch.all_healthy_but(), "all nodes healthy")
    lab.wait_state(RUN, "RUNNING")
    wait(lambda: lab.get_run(RUN).status.spares_ready >= 1, "a spare that is ready")
    wait(lambda: all(one.HasField("recovered_time") for one in lab.get_run(RUN).status.incidents), "caught up")


def lose_gpu(watch: Watch, code: int, trouble: Trouble | None = None) -> Split:
    """Let a GPU of the run fail, and something else with it; checks the end state and returns how long all took."""
    lab = watch.lab
    settle(watch)
    before = lab.get_run(RUN).status
    node = lab.rank(RUN, 1, before.epoch).node
    told = len(watch.events(node))
    shown = time.time()
    mend = break_more(watch, node, code, trouble) if trouble else watch.exporter.show(node, code)
    wait(lambda: watch.session_on(node), f"marks on {node}")
    marked = time.time()
    wait(lambda: any(row.epoch > before.epoch for row in newest(lab)), "a step of a new epoch")
    if mend is not None:
        mend()
    wait(lambda: watch.get(node).drain.HasField("acknowledge_time"), "the acknowledged drain")
    check_end(watch, node, told, before.epoch)
    events = watch.events(node)[told:]
    incident = lab.get_run(RUN).status.incidents[len(before.incidents)]
    health = watch.get(node)
    found = next(one for one in events if one.type == "RULE_FIRED").time
    asked, left = health.drain.request_time, health.drain.acknowledge_time
    first = min(seconds(row.time) for row in newest(lab) if row.epoch > before.epoch)
    split = Split(
        detect=seconds(found) - shown,
        quarantine=max(0.0, marked - seconds(found)),
        drain=seconds(incident.fault_time) + incident.detect_seconds - seconds(asked),
        restart=incident.restart_seconds,
        restore=incident.restore_seconds,
        total=first - shown,
        empty=seconds(left) - seconds(asked),
    )
    watch.release(node)
    wait(lambda: not watch.session_on(node), f"{node} without marks")
    return split


def break_more(watch: Watch, node: str, code: int, trouble: Trouble) -> Callable[[], None]:
    """The trouble begins when the quarantine is decided and training has not heard of it."""
    with watch.training_held():
        watch.exporter.show(node, code)
        wait(lambda: watch.is_out(node), f"{node} quarantined")
        assert not watch.get(node).drain.HasField("acknowledge_time")
        return trouble(watch)


def check_end(watch: Watch, node: str, told: int, epoch: int) -> None:
    """The same end, whatever happened: one quarantine, one session, no work on the node, all others healthy."""
    lab = watch.lab
    health = watch.get(node)
    types = [one.type for one in watch.events(node)[told:]]
    assert health.state == pb.HEALTH_STATE_QUARANTINED
    assert (types.count("QUARANTINED"), types.count("DRAIN_REQUESTED")) == (1, 1), types
    assert watch.session_on(node) == health.drain.session
    status = lab.get_run(RUN).status
    assert node not in {rank.node for rank in status.ranks}
    assert status.epoch == epoch + 1
    wait(lambda: watch.all_healthy_but(node), "all other nodes healthy")


def newest(lab: Lab) -> list[Any]:
    """The rows of the last steps."""
    after = max(0, lab.get_run(RUN).status.step - NEWEST_STEPS)
    request = training_run_pb2.ListStepMetricsRequest(name=run_name(RUN), after_step=after, page_size=NEWEST_STEPS * 2)
    return list(lab.runs.ListStepMetrics(request).rows)


def seconds(stamp: Any) -> float:
    return float(stamp.ToNanoseconds()) / 1e9
