"""The training service as a process, with a local cluster, the checkpoint service, and the two services it watches."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from longhaul.checkpoint.v1 import checkpoint_pb2_grpc
from longhaul.corpus.v1 import corpus_build_pb2_grpc, token_set_pb2, token_set_pb2_grpc
from longhaul.gpuhealth.v1 import node_health_pb2, node_health_pb2_grpc
from longhaul.training.v1 import (
    experiment_pb2_grpc,
    plan_pb2_grpc,
    project_pb2,
    project_pb2_grpc,
    task_pb2,
    task_pb2_grpc,
    training_run_pb2,
    training_run_pb2_grpc,
)
from longhaul_core.certificates.authority import create_authority, issue
from longhaul_core.cluster.local.launch import running_nodes, start_node, stop_node
from longhaul_core.rpc.client import connect_sync
from longhaul_core.rpc.user_tokens import digest_of

PARENT = "projects/lab"
API_TOKEN, USER_TOKEN = "services-only", "lab-operator"
TOKEN_SET = "projects/lab/tokenSets/words"
LOOPBACK = "127.0.0.1"
DEADLINE_SECONDS = 240.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait(condition: Callable[[], Any], what: str = "", seconds: float = DEADLINE_SECONDS) -> Any:
    """Looks until `condition` is true and returns what it gave; a service that is away is waited for."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = condition()
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            found = None
        if found:
            return found
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.05)


class Upstream(
    token_set_pb2_grpc.TokenSetServiceServicer,
    corpus_build_pb2_grpc.CorpusBuildServiceServicer,
    node_health_pb2_grpc.NodeHealthServiceServicer,
):
    """The watches of corpus and gpuhealth, with their promises: everything after a revision, then what comes."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.revision = 0
        self.token_sets: dict[str, tuple[int, token_set_pb2.TokenSet]] = {}
        self.nodes: dict[str, tuple[int, node_health_pb2.NodeHealth]] = {}
        self.quarantined: list[node_health_pb2.QuarantineNodeRequest] = []
        self.acknowledged: list[node_health_pb2.AcknowledgeDrainRequest] = []
        self._changed = threading.Condition()
        options = [("grpc.http2.min_ping_interval_without_data_ms", 5000), ("grpc.keepalive_permit_without_calls", 1)]
        self._server = grpc.server(futures.ThreadPoolExecutor(16), options=options)
        token_set_pb2_grpc.add_TokenSetServiceServicer_to_server(self, self._server)
        corpus_build_pb2_grpc.add_CorpusBuildServiceServicer_to_server(self, self._server)
        node_health_pb2_grpc.add_NodeHealthServiceServicer_to_server(self, self._server)
        loopback = "127.0.0.1:0"
        if credentials is None:
            port = self._server.add_insecure_port(loopback)
        else:
            port = self._server.add_secure_port(loopback, credentials)
        self.address = f"127.0.0.1:{port}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait()

    def add_token_set(self, manifest_key: str) -> None:
        with self._changed:
            self.revision += 1
            found = token_set_pb2.TokenSet(manifest_key=manifest_key, digest="d1")
            found.metadata.name = TOKEN_SET
            self.token_sets[TOKEN_SET] = (self.revision, found)
            self._changed.notify_all()

    def ask_drain(self, node: str, *, computes: bool, session: str = "s1") -> None:
        now = Timestamp()
        now.GetCurrentTime()
        with self._changed:
            self.revision += 1
            drain = node_health_pb2.DrainRequest(session=session, computes=computes, cause="XID_79", request_time=now)
            self.nodes[node] = (self.revision, node_health_pb2.NodeHealth(node=node, drain=drain))
            self._changed.notify_all()

    def withdraw(self, node: str) -> None:
        """The node is healthy again."""
        with self._changed:
            self.revision += 1
            self.nodes[node] = (self.revision, node_health_pb2.NodeHealth(node=node))
            self._changed.notify_all()

    def WatchTokenSets(self, request: Any, context: Any) -> Iterator[Any]:
        for revision, found in self._follow(lambda: self.token_sets, request.after_revision, context):
            yield token_set_pb2.WatchTokenSetsResponse(type=1, token_set=found, revision=revision)

    def WatchCorpusBuilds(self, request: Any, context: Any) -> Iterator[Any]:
        yield from self._follow(lambda: {}, request.after_revision, context)

    def WatchNodeHealth(self, request: Any, context: Any) -> Iterator[Any]:
        for revision, found in self._follow(lambda: self.nodes, request.after_revision, context):
            yield node_health_pb2.WatchNodeHealthResponse(type=1, node=found, revision=revision)

    def AcknowledgeDrain(self, request: Any, context: Any) -> Any:
        node = request.name.removeprefix("nodes/")
        with self._changed:
            self.acknowledged.append(request)
            self.revision += 1
            health = self.nodes[node][1]
            health.drain.acknowledge_time.GetCurrentTime()
            self.nodes[node] = (self.revision, health)
            self._changed.notify_all()
        return health

    def QuarantineNode(self, request: Any, context: Any) -> Any:
        with self._changed:
            self.quarantined.append(request)
        return node_health_pb2.NodeHealth(node=request.name.removeprefix("nodes/"))

    def _follow(self, items: Callable[[], dict[str, tuple[int, Any]]], after: int, context: Any) -> Iterator[Any]:
        while context.is_active():
            with self._changed:
                new = sorted((item for item in items().values() if item[0] > after), key=lambda item: item[0])
                if not new:
                    self._changed.wait(0.2)
            for revision, item in new:
                yield revision, item
                after = revision


class Service:
    """One service as a process of its own, with its log in a file."""

    def __init__(self, module: str, folder: Path, environment: dict[str, str]) -> None:
        self.module = module
        self.folder = folder
        self.environment = environment
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / f"{module}.log"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.module],
            env={**os.environ, **self.environment},
            stdout=self.log.open("ab"),
            stderr=subprocess.STDOUT,
        )

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(timeout=30)


class Guard:
    """Certificates, the services' token, and one user, as files and as environment."""

    def __init__(self, folder: Path, host: str) -> None:
        self.authority = create_authority("lab", datetime.now(UTC))
        server = issue(self.authority, sorted({LOOPBACK, host}), datetime.now(UTC))
        users = f"users: [{{name: lab, role: operator, token_sha256: {digest_of(USER_TOKEN)}}}]"
        for name, content in (
            ("authority.pem", self.authority.certificate),
            ("server.pem", server.certificate),
            ("server.key", server.key),
            ("users.yaml", users.encode()),
        ):
            (folder / name).write_bytes(content)
        self.credentials = grpc.ssl_server_credentials([(server.key, server.certificate)])
        self.environment = {
            "LONGHAUL_API_TOKEN": API_TOKEN,
            "LONGHAUL_USERS_FILE": str(folder / "users.yaml"),
            "LONGHAUL_TLS_CERTIFICATE": str(folder / "server.pem"),
            "LONGHAUL_TLS_KEY": str(folder / "server.key"),
            "LONGHAUL_TLS_CA": str(folder / "authority.pem"),
        }


class Lab:
    """Everything a test of the training service needs, and an operator's view of it.

    Over TLS and with tokens, unless `guarded` is false. `host` is where the services listen.
    """

    host = LOOPBACK

    def __init__(self, folder: Path, nodes: int, *, guarded: bool = True) -> None:
        self.folder = folder
        self.cluster = folder / "cluster"
        self.objects_url = f"file://{folder / 'objects'}"
        guard = Guard(folder, self.host) if guarded else None
        self.upstream = Upstream(guard.credentials if guard else None)
        self.training_port, checkpoint_port = free_port(), free_port()
        common = {
            "LONGHAUL_DATA_DIR": str(folder),
            "LONGHAUL_METRICS_ADDRESS": "",
            **(guard.environment if guard else {}),
            **self.shared_environment(),
            "LONGHAUL_TRAINING_ADDRESS": f"{self.host}:{self.training_port}",
            "LONGHAUL_CHECKPOINT_ADDRESS": f"{self.host}:{checkpoint_port}",
            "LONGHAUL_CORPUS_ADDRESS": self.upstream.address,
            "LONGHAUL_GPUHEALTH_ADDRESS": self.upstream.address,
        }
        self.checkpoint = Service(
            "longhaul_checkpoint", folder, {**common, "LONGHAUL_LISTEN_ADDRESS": f"{self.host}:{checkpoint_port}"}
        )
        self.training = Service(
            "longhaul_training",
            folder,
            {
                **common,
                "LONGHAUL_LISTEN_ADDRESS": f"{self.host}:{self.training_port}",
                "LONGHAUL_LEASE_SECONDS": "3",
                "LONGHAUL_RECONNECT_SECONDS": "5",
                **self.training_environment(),
            },
        )
        self.nodes = [f"node-{number}" for number in range(nodes)]
        self.start_nodes()
        self.checkpoint.start()
        self.training.start()
        reach: dict[str, Any] = {"token": USER_TOKEN, "tls_ca": guard.authority.certificate} if guard else {}
        self.channel = connect_sync(f"{self.host}:{self.training_port}", **reach)
        self.checkpoint_channel = connect_sync(f"{self.host}:{checkpoint_port}", **reach)
        self.runs: Any = training_run_pb2_grpc.TrainingRunServiceStub(self.channel)
        self.tasks: Any = task_pb2_grpc.TaskServiceStub(self.channel)
        self.plans: Any = plan_pb2_grpc.PlanServiceStub(self.channel)
        self.projects: Any = project_pb2_grpc.ProjectServiceStub(self.channel)
        self.experiments: Any = experiment_pb2_grpc.ExperimentServiceStub(self.channel)
        self.checkpoints: Any = checkpoint_pb2_grpc.CheckpointServiceStub(self.checkpoint_channel)
        self.token_set_key = ""
        self.wait_ready()

    def create_project(self) -> None:
        self.projects.CreateProject(project_pb2.CreateProjectRequest(project_id="lab"))

    def wait_ready(self) -> None:
        for channel in (self.channel, self.checkpoint_channel):
            grpc.channel_ready_future(channel).result(timeout=DEADLINE_SECONDS)

    def close(self) -> None:
        self.channel.close()
        self.checkpoint_channel.close()
        self.stop_nodes()
        self.training.kill()
        self.checkpoint.kill()
        self.upstream.stop()

    def shared_environment(self) -> dict[str, str]:
        """What both services are told beside the addresses."""
        return {}

    def training_environment(self) -> dict[str, str]:
        """What the training service is told beside the addresses."""
        return {"LONGHAUL_NODE_DEAD_SECONDS": "2"}

    def start_nodes(self) -> None:
        for node in self.nodes:
            start_node(self.cluster, node, gpus=self.gpus_of(node))

    def gpus_of(self, node: str) -> int:
        """Pretend GPUs of a node."""
        return 1

    def stop_nodes(self) -> None:
        for node in running_nodes(self.cluster):
            stop_node(self.cluster, node)

    def create_run(
        self,
        run_id: str,
        config: dict[str, Any],
        *,
        step_seconds: float = 0.0,
        drill: str = "",
        reference: str = "",
        env: dict[str, str] | None = None,
        **resources: Any,
    ) -> training_run_pb2.TrainingRun:
        """A run; with `step_seconds` each step takes so much longer, so that it can be met in the middle anywhere.

        `drill`: further faults that are planted in it; `reference`: the run that it is to keep up with; `env`: more
        variables of its pods.
        """
        values, pod = Struct(), Struct()
        values.update(config)
        planted = [f"step={step_seconds:g}"] * bool(step_seconds) + [drill] * bool(drill)
        variables = {**(env or {}), **({"TRAINER_DRILL": ",".join(planted)} if planted else {})}
        if variables:
            pod.update({"env": variables})
        spec = training_run_pb2.TrainingRunSpec(
            trainer_config=values,
            token_set=TOKEN_SET,
            resources=training_run_pb2.RunResources(**{"nodes": 2, "gpus_per_node": 1, **resources}, pod=pod),
            reference_run=run_name(reference) if reference else "",
        )
        return self.runs.CreateTrainingRun(
            training_run_pb2.CreateTrainingRunRequest(parent=PARENT, training_run_id=run_id, spec=spec)
        )

    def cancel(self, run_id: str) -> None:
        self.runs.CancelTrainingRun(training_run_pb2.CancelTrainingRunRequest(name=run_name(run_id)))

    def get_run(self, run_id: str) -> training_run_pb2.TrainingRun:
        return self.runs.GetTrainingRun(training_run_pb2.GetTrainingRunRequest(name=run_name(run_id)))

    def create_burn_in(self, task_id: str) -> task_pb2.Task:
        arguments = Struct()
        arguments.update({"seconds": 0.2, "matrix_size": 64, "memory_bytes": 65536})
        spec = task_pb2.TaskSpec(
            kind=task_pb2.TASK_KIND_BURN_IN, arguments=arguments, result_key=f"projects/lab/{task_id}.json", gpus=1
        )
        return self.tasks.CreateTask(task_pb2.CreateTaskRequest(parent=PARENT, task_id=task_id, spec=spec))

    def get_task(self, task_id: str) -> task_pb2.Task:
        return self.tasks.GetTask(task_pb2.GetTaskRequest(name=f"{PARENT}/tasks/{task_id}"))

    def state(self, run_id: str) -> str:
        value = self.get_run(run_id).status.state
        return training_run_pb2.TrainingRunState.Name(value).removeprefix("TRAINING_RUN_STATE_")

    def wait_state(self, run_id: str, *states: str, seconds: float = DEADLINE_SECONDS) -> training_run_pb2.TrainingRun:
        wait(lambda: self.state(run_id) in states, f"{run_id} in {states}", seconds)
        return self.get_run(run_id)

    def wait_step(self, run_id: str, step: int, epoch: int = 1) -> None:
        wait(
            lambda: any(row.step >= step and row.epoch >= epoch for row in self.rows(run_id)),
            f"step {step} of epoch {epoch}",
        )

    def rows(self, run_id: str) -> list[training_run_pb2.StepMetrics]:
        request = training_run_pb2.ListStepMetricsRequest(name=run_name(run_id), page_size=10_000)
        return list(self.runs.ListStepMetrics(request).rows)

    def losses(self, run_id: str) -> dict[int, float]:
        return {row.step: row.loss for row in self.rows(run_id)}

    def events(self, run_id: str) -> list[Any]:
        request = training_run_pb2.ListTrainingRunEventsRequest(name=run_name(run_id), page_size=1000)
        return list(self.runs.ListTrainingRunEvents(request).events)

    def rank(self, run_id: str, rank: int, epoch: int = 1) -> training_run_pb2.RankStatus:
        """The rank's process as its agent reports it, once there is one in this epoch."""

        def find() -> Any:
            status = self.get_run(run_id).status
            found = [r for r in status.ranks if r.rank == rank and r.process_id]
            return found[0] if status.epoch >= epoch and found else None

        return wait(find, f"rank {rank} of epoch {epoch}")

    def pods(self) -> list[str]:
        return sorted(path.name for path in (self.cluster / "pods").glob("*/*") if path.is_dir())

    def left_of(self, run_id: str) -> list[str]:
        """All that the cluster still has of a run."""
        return [pod for pod in self.pods() if f".run-{run_id}-" in pod]

    def check_pods(self, run_id: str) -> None:
        """Asserts that each pod of a run is held by the node that the run shows."""
        for rank in self.get_run(run_id).status.ranks:
            assert rank.node in running_nodes(self.cluster)
            assert rank.pod in self.pods()

    def lose_node(self, node: str) -> None:
        """The machine loses its power: its node process dies, and all its pods with it."""
        os.kill(running_nodes(self.cluster)[node], signal.SIGKILL)

    def return_node(self, node: str) -> None:
        """The machine is back; what ran on it is not."""
        start_node(self.cluster, node, gpus=self.gpus_of(node))

    def agent_process(self, pod: str) -> int:
        """Process id of a pod's agent."""
        found = subprocess.run(
            ["pgrep", "-f", "longhaul_trainer.agent"], capture_output=True, text=True, check=False
        ).stdout.split()
        for process in found:
            with suppress(OSError):
                environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
                if f"LONGHAUL_POD={pod}".encode() in environment and str(self.folder).encode() in b" ".join(
                    environment
                ):
                    return int(process)
        raise AssertionError(f"no agent of {pod}")


def config(**sections: Any) -> dict[str, Any]:
    """A trainer configuration of a very small model."""
    base: dict[str, Any] = {
        "steps": 60,
        "seed": 3,
        "model": {"hidden_size": 32, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_size": 64},
        "optimizer": {"learning_rate": 0.01},
        "schedule": {"warmup_steps": 2},
        "data": {"sequence_length": 32, "global_batch_size": 8, "micro_batch_size": 2},
        "validation": {"every_steps": 20, "sequences": 8},
        "checkpoint": {"every_steps": 10},
        "runtime": {"device": "cpu"},
    }
    return {**base, **sections}


def run_name(run_id: str) -> str:
    return f"{PARENT}/trainingRuns/{run_id}"
