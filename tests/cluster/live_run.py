"""A run that trains while the release around it changes, seen through its API and as its pods in the cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
from chart_lab import Document, secret_data
from longhaul.training.v1 import training_run_pb2 as pb
from longhaul.training.v1 import training_run_pb2_grpc
from longhaul_core.rpc.client import CHANNEL_OPTIONS
from longhaul_core.settings import GRPC_PORTS
from release_lab import RELEASE, Release

ENDLESS: dict[str, Any] = {
    "training": {
        "steps": 50_000,
        "data": {"sequence_length": 64, "global_batch_size": 4, "micro_batch_size": 2, "maximum_epochs": 1000},
    },
    "checkpoints": {"every_steps": 50_000},
}
"""More steps than there is time for: the test says when such a run ends. Nothing is evaluated before."""

STEP_SECONDS = 0.2


@dataclass
class LiveRun:
    """`namespace` has its pods, `token` is that of a user who may submit."""

    release: Release
    name: str
    namespace: str
    token: str
    pods: dict[str, Document] = field(default_factory=dict)

    @property
    def resource(self) -> str:
        return f"projects/default/trainingRuns/{self.name}"

    @contextmanager
    def api(self) -> Iterator[Any]:
        """The API of a replica that is ready now, called over TLS as the user."""
        lab = self.release.lab
        address = next(pod["status"]["podIP"] for pod in self.release.pods_of("training") if _ready(pod))
        roots = secret_data(lab.get("Secret", f"{RELEASE}-ca"))["ca.crt"]
        credentials = grpc.composite_channel_credentials(
            grpc.ssl_channel_credentials(roots), grpc.access_token_call_credentials(self.token)
        )
        host = f"{RELEASE}-training-pods.{lab.namespace}.svc"
        options = [*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", host)]
        with grpc.secure_channel(f"{address}:{GRPC_PORTS['training']}", credentials, options) as channel:
            yield training_run_pb2_grpc.TrainingRunServiceStub(channel)

    def get(self) -> pb.TrainingRun:
        with self.api() as runs:
            found: pb.TrainingRun = runs.GetTrainingRun(pb.GetTrainingRunRequest(name=self.resource), timeout=30)
        return found

    def steps(self) -> list[int]:
        """The steps of all its metric rows, in their order."""
        return [row.step for row in self.rows()]

    def rows(self) -> list[pb.StepMetrics]:
        request = pb.ListStepMetricsRequest(name=self.resource, page_size=10_000)
        made: list[pb.StepMetrics] = []
        with self.api() as runs:
            while True:
                page = runs.ListStepMetrics(request, timeout=30)
                made += page.rows
                if not page.more:
                    return made
                request.after_step = made[-1].step

    def await_steps(self, more: int) -> None:
        """Wait until it has made some steps beyond those of now."""
        least = max(self.steps(), default=0) + more
        self.release.wait(lambda: max(self.steps(), default=0) >= least, f"step {least} of {self.name}")

    def submit_another(self, name: str) -> LiveRun:
        """A run with the same specification, its image left to the installation, once it has made a step."""
        spec = self.get().spec
        spec.resources.image = ""
        request = pb.CreateTrainingRunRequest(parent="projects/default", training_run_id=name, spec=spec)
        with self.api() as runs:
            runs.CreateTrainingRun(request, timeout=30)
        other = replace(self, name=name, pods={})
        self.release.wait(other.raw_pods, f"{name} has a pod")
        other.await_steps(1)
        other.remember_pods()
        return other

    def lose_pod(self) -> None:
        """Its pod is removed without a grace; returns once another one has gone on with the steps."""
        lab, (lost,) = self.release.lab, self.pods.values()
        path = lab.path("Pod", lost["metadata"]["name"], self.namespace)
        lab.call("DELETE", path, {"gracePeriodSeconds": 0})

        def replaced() -> bool:
            return any(row.epoch == 2 for row in self.rows())

        self.release.wait(replaced, f"{self.name} makes steps in another pod")
        self.remember_pods()
        assert lost["metadata"]["uid"] not in self.pods

    def cancel(self) -> None:
        with self.api() as runs:
            runs.CancelTrainingRun(pb.CancelTrainingRunRequest(name=self.resource), timeout=30)

    def raw_pods(self) -> dict[str, Document]:
        """Its pods by UID."""
        lab = self.release.lab
        path = lab.path("Pod", namespace=self.namespace) + f"?labelSelector=longhaul.dev/owner={self.name}"
        return {pod["metadata"]["uid"]: pod for pod in lab.call("GET", path)["items"]}

    def remember_pods(self) -> None:
        self.pods = self.raw_pods()
        assert self.pods

    def check_unharmed(self) -> None:
        """The pods are those of before, none of their containers was started again, and no step was made twice."""
        self.await_steps(10)
        now = self.raw_pods()
        assert set(now) == set(self.pods)
        assert [_container(pod)["restartCount"] for pod in now.values()] == [0] * len(now)
        status = self.get().status
        assert (status.epoch, status.state) == (1, pb.TRAINING_RUN_STATE_RUNNING), status
        made = self.steps()
        assert made == list(range(1, made[-1] + 1))

    def images(self) -> set[str]:
        return {pod["spec"]["containers"][0]["image"] for pod in self.raw_pods().values()}


def _ready(pod: Document) -> bool:
    told = {one["type"]: one["status"] for one in pod["status"].get("conditions") or ()}
    return told.get("Ready") == "True" and not pod["metadata"].get("deletionTimestamp")


def _container(pod: Document) -> Document:
    found: Document = pod["status"]["containerStatuses"][0]
    return found
