"""The training service with two replicas on a Kubernetes API, whose pods the suite's kubelets run as processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import uuid
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import grpc
import psycopg
import pytest
import yaml
from handle import FAST
from kubelet_logs import LogServer
from kubelets import Kubelets
from longhaul.training.v1 import project_pb2, training_run_pb2, training_run_pb2_grpc
from longhaul_core.cluster.kubernetes import KubernetesOptions
from longhaul_core.cluster.kubernetes.credentials import Credentials
from longhaul_core.cluster.kubernetes.transport import Transport
from longhaul_core.db import Database
from longhaul_core.rpc.client import connect_sync
from player import SCHEDULER
from trainer_harness import make_token_set
from training_harness import DEADLINE_SECONDS, PARENT, USER_TOKEN, Lab, Service, free_port, wait

T = TypeVar("T")
IMAGE = "longhaul-trainer:test"
RACK = "topology.longhaul.dev/rack"


class Background:
    """An event loop in a thread of its own, for what goes on while a test waits."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class KubeLab(Lab):
    """Nodes: node-0 and node-1 in rack r0, node-2 in rack r1, one GPU each. `database`: empty for SQLite."""

    def __init__(self, folder: Path, background: Background, kubeconfig: Path, namespace: str, database: str) -> None:
        self.background = background
        self.kubeconfig = kubeconfig
        self.namespace = namespace
        self.database = database
        transport = Transport(Credentials(KubernetesOptions(kubeconfig=str(kubeconfig))), FAST)
        self.kubelets = Kubelets(transport, (namespace,), folder=folder)
        self.logs = LogServer(folder)
        self.second_port = free_port()
        super().__init__(folder, nodes=3)
        listen = {"LONGHAUL_LISTEN_ADDRESS": f"127.0.0.1:{self.second_port}"}
        self.second = Service("longhaul_training", folder, {**self.training.environment, **listen})
        self.second.log = folder / "second.log"
        self._serving: Future[Any] | None = self.background.spawn(self.kubelets.serve())
        self.second_channel = connect_sync(
            f"127.0.0.1:{self.second_port}", token=USER_TOKEN, tls_ca=(folder / "authority.pem").read_bytes()
        )
        self.second_runs: Any = training_run_pb2_grpc.TrainingRunServiceStub(self.second_channel)

    def training_environment(self) -> dict[str, str]:
        template = self.folder / "pod-template.yaml"
        template.write_text(yaml.safe_dump({"spec": {"schedulerName": SCHEDULER}}))
        keys = {"kubeconfig": self.kubeconfig, "namespace": self.namespace, "template": template}
        replicas = f"127.0.0.1:{self.training_port},127.0.0.1:{self.second_port}"
        return {
            "LONGHAUL_CLUSTER_URL": f"kubernetes://?{urlencode({**keys, 'scope': self.namespace})}",
            "LONGHAUL_CONTROLLER_ADDRESSES": replicas,
            **({"LONGHAUL_DATABASE_URL": self.database} if self.database else {}),
            "LONGHAUL_TRAINER_IMAGE": IMAGE,
            "LONGHAUL_POD_PYTHON": sys.executable,
            "LONGHAUL_POD_SCRATCH_DIR": str(self.folder / "scratch"),
            "LONGHAUL_POD_METRICS_ADDRESS": "",
            "LONGHAUL_NODE_DEAD_SECONDS": "2",
            "LONGHAUL_POD_GRACE_SECONDS": "4",
        }

    def start_nodes(self) -> None:
        if self.database:
            Database.open(self.database, migrated=True).close()

        async def prepare() -> None:
            await self.logs.start()
            self.kubelets.log_port = self.logs.port
            await self.kubelets.ensure_namespace(self.namespace)
            for number, node in enumerate(self.nodes):
                await self.kubelets.add_node(node, 1, {RACK: f"r{number // 2}", "longhaul.dev/pool": "train"})

        self.background.run(prepare())

    def stop_nodes(self) -> None:
        self.second.stop()
        self.second_channel.close()
        if self._serving is not None:
            self._serving.cancel()
        self.background.run(self.kubelets.stop())
        self.background.run(self.logs.stop())
        self.background.run(self.kubelets.transport.close())

    def start_second(self) -> None:
        """The other replica of the training service, once it serves."""
        self.second.start()
        grpc.channel_ready_future(self.second_channel).result(timeout=DEADLINE_SECONDS)

    def create_project(self) -> None:
        spec = project_pb2.ProjectSpec(namespace=self.namespace)
        self.projects.CreateProject(project_pb2.CreateProjectRequest(project_id="lab", spec=spec))

    def create_project_in(self, project: str, namespace: str) -> None:
        spec = project_pb2.ProjectSpec(namespace=namespace)
        self.projects.CreateProject(project_pb2.CreateProjectRequest(project_id=project, spec=spec))

    def submit(
        self,
        run_id: str,
        config: dict[str, Any],
        pod: dict[str, Any] | None = None,
        *,
        parent: str = PARENT,
        **res: Any,
    ) -> None:
        resources = training_run_pb2.RunResources(**{"nodes": 1, "gpus_per_node": 1, **res})
        resources.pod.update(pod or {})
        spec = training_run_pb2.TrainingRunSpec(token_set=f"{PARENT}/tokenSets/words", resources=resources)
        spec.trainer_config.update(config)
        request = training_run_pb2.CreateTrainingRunRequest(parent=parent, training_run_id=run_id, spec=spec)
        self.runs.CreateTrainingRun(request)

    def pods(self) -> list[str]:
        return sorted(pod["metadata"]["name"] for pod in self.raw("pods"))

    def left_of(self, run_id: str) -> list[str]:
        return [*self.raw_pods(run_id), *(owner["metadata"]["name"] for owner in self.owners(run_id))]

    def check_pods(self, run_id: str) -> None:
        """Pods belong to the run's ConfigMap, so that they go with it, and have no token of a service account."""
        (owner,) = self.owners(run_id)
        for pod in self.raw_pods(run_id).values():
            owners = [(ref["kind"], ref["uid"]) for ref in pod["metadata"]["ownerReferences"]]
            assert owners == [("ConfigMap", owner["metadata"]["uid"])]
            assert pod["spec"]["automountServiceAccountToken"] is False

    def lose_node(self, node: str) -> None:
        self.background.run(self.kubelets.silence_node(node))

    def return_node(self, node: str) -> None:
        self.background.run(self.kubelets.revive_node(node))

    def owners(self, run_id: str) -> list[dict[str, Any]]:
        """ConfigMaps that own a run's pods."""
        return [
            raw
            for raw in self.raw("configmaps")
            if (raw["metadata"].get("labels") or {}).get("longhaul.dev/owner") == run_id
        ]

    def cancel(self, run_id: str, parent: str = PARENT) -> None:
        name = f"{parent}/trainingRuns/{run_id}"
        self.runs.CancelTrainingRun(training_run_pb2.CancelTrainingRunRequest(name=name))

    def raw(self, resource: str) -> list[dict[str, Any]]:
        """Objects as the API has them."""
        return self.background.run(self.kubelets.list_raw(self.namespace, resource))

    def raw_pods(self, run_id: str) -> dict[str, dict[str, Any]]:
        """A run's pods by name."""
        return {
            pod["metadata"]["name"]: pod
            for pod in self.raw("pods")
            if pod["metadata"]["labels"].get("longhaul.dev/owner") == run_id
        }

    def wait_reason(self, run_id: str, code: str, stub: Any = None, parent: str = PARENT) -> Any:
        """The run's status once its reason has that code."""

        def find() -> Any:
            request = training_run_pb2.GetTrainingRunRequest(name=f"{parent}/trainingRuns/{run_id}")
            status = (stub or self.runs).GetTrainingRun(request).status
            return status if status.reason.code == code else None

        return wait(find, f"{run_id} with reason {code}")


@contextmanager
def open_lab(
    folder: Path, background: Background, kubeconfig: Path, namespace: str, request: pytest.FixtureRequest
) -> Iterator[KubeLab]:
    """A lab with a project and a token set; on PostgreSQL where that is installed, since it has two replicas."""
    database = ""
    if sorted(Path("/").glob("usr/lib/postgresql/*/bin/postgres")):
        server = request.getfixturevalue("postgres_server")
        database = f"{server}/kube_{uuid.uuid4().hex[:8]}"
        with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {database.rpartition('/')[2]}")
    lab = KubeLab(folder, background, kubeconfig, namespace, database)
    lab.create_project()
    lab.token_set_key = make_token_set(lab.objects_url)
    lab.upstream.add_token_set(lab.token_set_key)
    yield lab
    lab.close()


def signalled(service: Service, number: signal.Signals) -> None:
    """Sends a signal to a service that runs."""
    assert service.process is not None
    with suppress(ProcessLookupError):
        os.kill(service.process.pid, number)
