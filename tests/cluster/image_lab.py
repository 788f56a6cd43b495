"""The training service as processes of this machine, its pods from the trainer's image on real nodes of a cluster."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from urllib.parse import urlencode

from chart_lab import Document
from chart_lab import Lab as Api
from longhaul.training.v1 import project_pb2
from player import MARK
from trainer_harness import make_token_set
from training_harness import Lab

from tests.e2e.replicas import ACCESS, BUCKET, SECRET, Bucket

GPU = "longhaul.dev/test-gpu"
KEYS = {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET}
KILL = "LONGHAUL_TEST_KILL_NODE"


class ImageLab(Lab):
    """Services listen where the nodes reach this machine; objects are in an S3 there, with its keys in a Secret."""

    def __init__(self, folder: Path, api: Api, image: str, real: list[Document]) -> None:
        self.api = api
        self.image = image
        self.real = [node["metadata"]["name"] for node in real]
        self.host = address_towards(real[0])
        self.bucket = Bucket(folder / "bucket", self.host)
        super().__init__(folder, nodes=0)
        self.token_set_key = make_token_set(f"file://{folder / 'bucket' / BUCKET / 'lab'}")  # objects there are files
        self.upstream.add_token_set(self.token_set_key)

    def shared_environment(self) -> dict[str, str]:
        return {"LONGHAUL_OBJECT_STORE_URL": self.bucket.url, **KEYS}

    def training_environment(self) -> dict[str, str]:
        cluster = {"kubeconfig": self.api.kubeconfig, "scope": self.api.namespace, "gpu_resource": GPU}
        return {
            "LONGHAUL_CLUSTER_URL": f"kubernetes://?{urlencode(cluster)}",
            "LONGHAUL_TRAINER_IMAGE": self.image,
            "LONGHAUL_POD_PYTHON": "python",
            "LONGHAUL_POD_SCRATCH_DIR": "/scratch",
            "LONGHAUL_POD_SECRETS": "object-store",
            "LONGHAUL_POD_METRICS_ADDRESS": "",
            "LONGHAUL_NODE_DEAD_SECONDS": "2",
        }

    def start_nodes(self) -> None:
        """Each of the nodes gets one device, which is a number and nothing else."""
        self.api.create_namespace("restricted")
        secret = {"metadata": {"name": "object-store"}, "stringData": KEYS}
        self.api.call("POST", self.api.path("Secret"), secret)
        self._set_devices("1")

    def stop_nodes(self) -> None:
        self._set_devices(None)
        self.api.call("DELETE", self.api.path("Namespace", self.api.namespace))

    def close(self) -> None:
        super().close()
        self.bucket.stop()

    def create_project(self) -> None:
        spec = project_pb2.ProjectSpec(namespace=self.api.namespace)
        self.projects.CreateProject(project_pb2.CreateProjectRequest(project_id="lab", spec=spec))

    def raw_pods(self) -> dict[str, Document]:
        """Pods by name."""
        return {pod["metadata"]["name"]: pod for pod in self.api.items("Pod")}

    def pods(self) -> list[str]:
        return sorted(self.raw_pods())

    def lose_node(self, node: str) -> None:
        """Calls the program that takes the node's power, with its name."""
        subprocess.run([os.environ[KILL], node], check=True)

    def _set_devices(self, count: str | None) -> None:
        for name in self.real:
            status = {"capacity": {GPU: count}, "allocatable": {GPU: count}}
            self.api.call("PATCH", self.api.path("Node", name) + "/status", {"status": status})


def real_nodes(api: Api) -> list[Document]:
    """Nodes with a kubelet that is ready."""
    found = []
    for node in api.call("GET", api.path("Node"))["items"]:
        told = {one["type"]: one["status"] for one in node["status"].get("conditions") or ()}
        if MARK not in (node["metadata"].get("annotations") or {}) and told.get("Ready") == "True":
            found.append(node)
    return found


def address_towards(node: Document) -> str:
    """This machine's address on the way to a node; nothing is sent."""
    address = next(one["address"] for one in node["status"]["addresses"] if one["type"] == "InternalIP")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))
        return str(probe.getsockname()[0])
