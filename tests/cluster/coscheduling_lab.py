"""The training service whose pods a scheduler with the coscheduling plugin binds, on played nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from chart_lab import Document, Refused
from chart_lab import Lab as Api
from longhaul_core.cluster.kubernetes.manifest import bound_node
from training_lab import Background, KubeLab

GROUP = "/apis/scheduling.x-k8s.io/v1alpha1"
SCHEDULER = "scheduler-plugins-scheduler"
"""As the chart of the scheduler plugins calls it."""
SHARE = "300Gi"
"""Memory of each pod: a node of 512 GiB has room for one."""


class CoschedulingLab(KubeLab):
    """Three nodes of one GPU, whose kubelets leave binding to that scheduler."""

    def __init__(self, folder: Path, background: Background, api: Api) -> None:
        self.api = api
        super().__init__(folder, background, api.kubeconfig, api.namespace, "")

    def training_environment(self) -> dict[str, str]:
        given = super().training_environment()
        main = {"name": "main", "resources": {"requests": {"memory": SHARE}}}
        template = {"spec": {"schedulerName": SCHEDULER, "containers": [main]}}
        (self.folder / "pod-template.yaml").write_text(yaml.safe_dump(template))
        behind = "gang=coscheduling&binding=scheduler"
        return {**given, "LONGHAUL_CLUSTER_URL": f"{given['LONGHAUL_CLUSTER_URL']}&{behind}"}

    def start_nodes(self) -> None:
        self.kubelets.scheduler = SCHEDULER
        super().start_nodes()

    def fill_memory(self, node: str) -> str:
        """Somebody else's pod; returns its name."""
        name = f"other-{node}"
        container = {
            "name": "main",
            "image": "other",
            "command": ["sleep", "3600"],
            "env": [{"name": "OTHER", "value": "1"}],
            "resources": {"requests": {"memory": SHARE}},
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
        secure = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        spec = {
            "nodeName": node,
            "schedulerName": SCHEDULER,
            "containers": [container],
            "securityContext": secure,
            "automountServiceAccountToken": False,
        }
        metadata = {"name": name, "labels": {"app": "other"}}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        self.api.call("POST", f"/api/v1/namespaces/{self.namespace}/pods", body)
        return name

    def free_memory(self, pod: str) -> None:
        self.api.call("DELETE", f"/api/v1/namespaces/{self.namespace}/pods/{pod}", {"gracePeriodSeconds": 1})

    def members(self, run_id: str) -> list[Document]:
        """The run's pods that start together; its spares go by themselves."""
        return [pod for pod in self.raw_pods(run_id).values() if pod["metadata"]["labels"]["longhaul.dev/slot"] in "01"]

    def looked_at(self, run_id: str) -> dict[str, str]:
        """The node that each pod of a gang was bound to, by the one that it asks for; empty until all were tried."""
        members = self.members(run_id)
        if len(members) < 2 or not all(_is_tried(pod) for pod in members):
            return {}
        return {bound_node({**pod["spec"], "nodeName": ""}) or "": pod["spec"].get("nodeName", "") for pod in members}

    def groups(self) -> list[Document]:
        """PodGroups of the namespace."""
        return list(self.api.call("GET", f"{GROUP}/namespaces/{self.namespace}/podgroups")["items"])


def has_pod_groups(api: Api) -> bool:
    """Whether the cluster knows PodGroups of the plugin."""
    try:
        api.call("GET", GROUP)
    except Refused as error:
        if error.status == 404:
            return False
        raise
    return True


def _is_tried(pod: Document) -> bool:
    conditions: list[Any] = pod["status"].get("conditions") or []
    return any(one["type"] == "PodScheduled" for one in conditions)
