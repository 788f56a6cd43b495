"""Where the exporter of a node is: as the node says, at its exporter pod, or as a file lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from longhaul_core.cluster import Node, Pod, PodPhase
from longhaul_core.errors import InvalidArgument
from longhaul_core.logging import get_logger

from longhaul_gpuhealth.domain.yaml_places import YamlFault, load

log = get_logger(__name__)


class DiscoveryMode(StrEnum):
    """How exporters are found."""

    NODES = "nodes"
    PODS = "pods"
    LIST = "list"


@dataclass(slots=True)
class Discovery:
    """Knows the URLs of each node's exporters, separated by spaces.

    Attributes:
        mode: How exporters are found.
        pod_labels: What exporter pods carry.
        pod_url: Their URL, with `{address}` for the pod's.
        file: YAML mapping of node to URLs, read again when it changes.
    """

    mode: DiscoveryMode
    pod_labels: Mapping[str, str] = field(default_factory=dict)
    pod_url: str = ""
    file: Path | None = None
    _pods: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    _listed: Mapping[str, str] = field(default_factory=dict)
    _seen: tuple[int, int] | None = None

    def url_of(self, node: Node) -> str:
        """URLs of the exporters of a node; empty: it has none."""
        if self.mode is DiscoveryMode.NODES:
            return node.exporter_url
        if self.mode is DiscoveryMode.LIST:
            return self._listed.get(node.name, "")
        return " ".join(sorted({url for name, url in self._pods.values() if name == node.name}))

    def put_pod(self, key: tuple[str, str], pod: Pod | None) -> str:
        """Take a sight of any pod; the node whose exporters changed, empty: none."""
        if self.mode is not DiscoveryMode.PODS:
            return ""
        before = self._pods.get(key)
        after = None if pod is None else self._exporter(pod)
        if before == after:
            return ""
        if after is None:
            return self._pods.pop(key)[0]
        self._pods[key] = after
        return after[0]

    def keys(self) -> set[tuple[str, str]]:
        """The exporter pods that are known."""
        return set(self._pods)

    def reload(self) -> bool:
        """Read the list again if it changed; whether it is another one. A list with a fault leaves the old in force."""
        if self.mode is not DiscoveryMode.LIST or self.file is None:
            return False
        try:
            stat = self.file.stat()
            if (stat.st_mtime_ns, stat.st_size) == self._seen:
                return False
            self._seen = stat.st_mtime_ns, stat.st_size
            listed = read_list(self.file)
        except (OSError, InvalidArgument) as error:
            log.error("exporter list not loaded", path=str(self.file), error=str(error))
            return False
        changed = listed != self._listed
        self._listed = listed
        return changed

    def _exporter(self, pod: Pod) -> tuple[str, str] | None:
        ready = pod.phase is PodPhase.RUNNING and pod.pod_ip and pod.node
        if not ready or any(pod.labels.get(key) != value for key, value in self.pod_labels.items()):
            return None
        address = f"[{pod.pod_ip}]" if ":" in pod.pod_ip else pod.pod_ip
        return pod.node or "", self.pod_url.replace("{address}", address)


def read_list(path: Path) -> dict[str, str]:
    """A YAML mapping of node to one URL or several. Raises `InvalidArgument`, `OSError`."""
    try:
        document, _ = load(path.read_text(encoding="utf-8"))
    except (YamlFault, UnicodeDecodeError) as error:
        raise _invalid(path, str(error)) from None
    if not isinstance(document, dict):
        raise _invalid(path, "line 1, column 1: the file is no mapping of node to URL")
    listed: dict[str, str] = {}
    for node, value in document.items():
        urls = value if isinstance(value, list) else [value]
        if not all(isinstance(url, str) and url.startswith(("http://", "https://")) for url in urls):
            raise _invalid(path, f"{node!r} has {value!r}, which is no http URL nor a list of them")
        listed[str(node)] = " ".join(urls)
    return listed


def _invalid(path: Path, fault: str) -> InvalidArgument:
    return InvalidArgument(
        f"exporter list {path}: {fault}", reason="EXPORTER_LIST_INVALID", violations=[("exporters_file", fault)]
    )
