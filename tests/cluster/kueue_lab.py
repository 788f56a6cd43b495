"""The training service behind Kueue: its pods go through a queue whose quota is smaller than the played cluster."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from chart_lab import Document, Refused
from chart_lab import Lab as Api
from player import GPU
from training_lab import Background, KubeLab

GROUP = "/apis/kueue.x-k8s.io"
GATE = "kueue.x-k8s.io/admission"
POD_GROUP = "kueue.x-k8s.io/pod-group-name"
DEADLINE_SECONDS = 60.0


class KueueLab(KubeLab):
    """Three nodes of one GPU, and a LocalQueue `runs` whose ClusterQueue may give away two."""

    def __init__(self, folder: Path, background: Background, api: Api, version: str, database: str) -> None:
        self.api = api
        self.version = version
        self.cluster_wide = api.namespace
        super().__init__(folder, background, api.kubeconfig, api.namespace, database)

    def training_environment(self) -> dict[str, str]:
        given = super().training_environment()
        behind = "gang=kueue&binding=scheduler&queue=runs"
        return {**given, "LONGHAUL_CLUSTER_URL": f"{given['LONGHAUL_CLUSTER_URL']}&{behind}"}

    def start_nodes(self) -> None:
        super().start_nodes()
        quota = [{"name": GPU, "nominalQuota": "2"}]
        flavors = [{"name": self.cluster_wide, "resources": quota}]
        self._make("resourceflavors", self.cluster_wide, {})
        self._make(
            "clusterqueues",
            self.cluster_wide,
            {"namespaceSelector": {}, "resourceGroups": [{"coveredResources": [GPU], "flavors": flavors}]},
        )
        self._make(f"namespaces/{self.namespace}/localqueues", "runs", {"clusterQueue": self.cluster_wide})

    def stop_nodes(self) -> None:
        super().stop_nodes()
        for place in (f"namespaces/{self.namespace}/localqueues/runs", f"clusterqueues/{self.cluster_wide}"):
            self.api.call("DELETE", f"{GROUP}/{self.version}/{place}")
        self.api.call("DELETE", f"{GROUP}/{self.version}/resourceflavors/{self.cluster_wide}")

    def workloads(self) -> dict[str, Document]:
        """Kueue's records of pod groups, by name."""
        found = self.api.call("GET", f"{GROUP}/{self.version}/namespaces/{self.namespace}/workloads")["items"]
        return {item["metadata"]["name"]: item for item in found}

    def gates(self, run_id: str) -> list[list[str]]:
        """What holds back each of a run's pods."""
        pods = self.raw_pods(run_id).values()
        return [[gate["name"] for gate in pod["spec"].get("schedulingGates") or ()] for pod in pods]

    def _make(self, place: str, name: str, spec: Document) -> None:
        """Its webhooks may not serve yet."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        kind = {"resourceflavors": "ResourceFlavor", "clusterqueues": "ClusterQueue"}.get(place, "LocalQueue")
        body: Document = {"apiVersion": f"kueue.x-k8s.io/{self.version}", "kind": kind, "metadata": {"name": name}}
        while True:
            try:
                self.api.call("POST", f"{GROUP}/{self.version}/{place}", {**body, "spec": spec})
                return
            except Refused as error:
                if error.status != 500 or time.monotonic() > deadline:
                    raise
            time.sleep(0.5)


def served_version(api: Api) -> str:
    """The version of Kueue's API that the cluster prefers; empty without Kueue."""
    try:
        found: Any = api.call("GET", GROUP)
    except Refused as error:
        if error.status == 404:
            return ""
        raise
    return str(found["preferredVersion"]["version"])


def conditions(workload: Document) -> dict[str, str]:
    return {one["type"]: one["status"] for one in workload.get("status", {}).get("conditions") or ()}
