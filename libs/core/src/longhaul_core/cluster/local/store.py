"""Nodes and pods in the folder of a local cluster: create once, compare-and-set, delete by uid."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from longhaul_core.cluster.local.layout import Layout, locked, open_directory, read_file, write_durably
from longhaul_core.cluster.local.records import (
    DELETION,
    ENDPOINT,
    NODE_RECORD,
    POD_RECORD,
    POD_STATUS,
    Deletion,
    Endpoint,
    NodeRecord,
    PodRecord,
    PodStatus,
    StoredPod,
)
from longhaul_core.cluster.model import PodSpec
from longhaul_core.errors import Aborted, AlreadyExists, NotFound
from longhaul_core.ids import new_uid


@dataclass(frozen=True, slots=True)
class Store:
    """The folder of a local cluster. Calls are short file operations; any number of processes may make them at once."""

    layout: Layout

    def prepare(self) -> None:
        """Make the folders."""
        for path in (self.layout.nodes, self.layout.pods, self.layout.trash):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)

    # Nodes

    def node_names(self) -> list[str]:
        """Names of all nodes that were ever started."""
        if not self.layout.nodes.is_dir():
            return []
        return sorted(entry.name for entry in self.layout.nodes.iterdir() if (entry / "node.json").is_file())

    def load_node(self, name: str) -> NodeRecord:
        """One node. Raises `NotFound`."""
        try:
            return NODE_RECORD.validate_json(self.layout.marks(name).read_bytes())
        except FileNotFoundError:
            raise _no_node(name) from None

    def register_node(self, name: str, *, gpus: int, labels: dict[str, str], exporter_url: str) -> NodeRecord:
        """Create the node, or bring what its command line says up to date and keep its marks."""
        self.layout.node(name).mkdir(parents=True, exist_ok=True, mode=0o700)

        def update(current: NodeRecord) -> NodeRecord:
            return replace(current, gpus_total=gpus, labels={**current.labels, **labels}, exporter_url=exporter_url)

        if not self.layout.marks(name).exists():
            fresh = NodeRecord(name=name, uid=new_uid(), gpus_total=gpus)
            with open_directory(self.layout.node(name)) as folder:
                write_durably(folder, "node.json", NODE_RECORD.dump_json(update(fresh)))
        return self.change_node(name, update)

    def change_node(
        self, name: str, change: Callable[[NodeRecord], NodeRecord], expected_version: str | None = None
    ) -> NodeRecord:
        """Apply `change` under the node's lock.

        The version rises when the record differs. Raises `NotFound`, `Aborted`.
        """
        try:
            with open_directory(self.layout.node(name)) as folder, locked(folder, f"node {name}"):
                current = self.load_node(name)
                if expected_version is not None and expected_version != str(current.version):
                    raise Aborted(
                        f"node {name} has version {current.version}, not {expected_version}",
                        reason="NODE_CHANGED",
                        metadata={"node": name, "version": str(current.version)},
                        action="read the node again and decide anew",
                    )
                changed = change(current)
                if changed != current:
                    changed = replace(changed, version=current.version + 1)
                    write_durably(folder, "node.json", NODE_RECORD.dump_json(changed))
                return changed
        except FileNotFoundError:
            raise _no_node(name) from None

    def write_endpoint(self, name: str, endpoint: Endpoint) -> None:
        """Tell clients where the node's process listens."""
        with open_directory(self.layout.node(name)) as folder:
            write_durably(folder, "endpoint.json", ENDPOINT.dump_json(endpoint))

    def load_endpoint(self, name: str) -> Endpoint | None:
        """Where the node's process said it listens."""
        try:
            return ENDPOINT.validate_json(self.layout.endpoint(name).read_bytes())
        except FileNotFoundError:
            return None

    # Pods

    def create_pod(self, spec: PodSpec, now: datetime) -> PodRecord:
        """Store a pod under its name unless there is one. Raises `AlreadyExists`."""
        record = PodRecord(uid=new_uid(), created_at=now, spec=spec)
        draft = self.layout.trash / f"draft-{record.uid}"
        draft.mkdir(mode=0o700)
        with open_directory(draft) as folder:
            write_durably(folder, "pod.json", POD_RECORD.dump_json(record))
            if spec.node is not None:
                write_durably(folder, "node", spec.node.encode())
        target = self.layout.pod(spec.namespace, spec.name)
        target.parent.mkdir(exist_ok=True, mode=0o700)
        try:
            draft.rename(target)  # fails on a folder that is not empty: the name is taken once
        except OSError:
            shutil.rmtree(draft)
            if not target.exists():
                raise
            raise AlreadyExists(
                f"pod {spec.namespace}/{spec.name} exists",
                reason="POD_EXISTS",
                metadata={"namespace": spec.namespace, "pod": spec.name},
            ) from None
        with open_directory(target.parent) as parent:
            os.fsync(parent)
        return record

    def pod_keys(self) -> list[tuple[str, str]]:
        """Namespace and name of all pods."""
        if not self.layout.pods.is_dir():
            return []
        return sorted((pod.parent.name, pod.name) for pod in self.layout.pods.glob("*/*"))

    def pods(self) -> Iterator[StoredPod]:
        """All pods, by namespace and name."""
        for namespace, name in self.pod_keys():
            try:
                yield self.load_pod(namespace, name)
            except NotFound:
                continue

    def load_pod(self, namespace: str, name: str) -> StoredPod:
        """One pod. Raises `NotFound`."""
        with self.open_pod(namespace, name) as folder:
            return load_stored(folder)

    @contextmanager
    def open_pod(self, namespace: str, name: str) -> Iterator[int]:
        """The pod's folder. Raises `NotFound`."""
        try:
            with open_directory(self.layout.pod(namespace, name)) as folder:
                yield folder
        except FileNotFoundError:
            raise no_pod(namespace, name) from None

    def bind_pod(self, folder: int, node: str) -> bool:
        """Bind an unbound pod to `node`; False when another node was first."""
        temporary = f".node.{node}"
        write_durably(folder, temporary, node.encode())
        try:
            os.link(temporary, "node", src_dir_fd=folder, dst_dir_fd=folder)
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary, dir_fd=folder)
        os.fsync(folder)
        return True

    def request_deletion(self, namespace: str, name: str, uid: str | None, deletion: Deletion) -> None:
        """Record that the pod shall end; an earlier request stands unless this one is shorter."""
        with self.open_pod(namespace, name) as folder, locked(folder, f"pod {namespace}/{name}"):
            stored = load_stored(folder)
            _check_uid(stored, uid)
            earlier = stored.deletion
            if earlier is None or deletion.grace_seconds < earlier.grace_seconds:
                write_durably(folder, "deletion.json", DELETION.dump_json(deletion))

    def remove_pod(self, namespace: str, name: str, uid: str | None) -> None:
        """Take the pod out of the cluster. Raises `NotFound`, `Aborted`.

        Whoever moves a pod's folder holds its lock and has seen it under this name, so no other pod of the name can be
        hit.
        """
        path = self.layout.pod(namespace, name)
        with self.open_pod(namespace, name) as folder, locked(folder, f"pod {namespace}/{name}"):
            stored = load_stored(folder)
            _check_uid(stored, uid)
            if not is_at(folder, path):
                raise no_pod(namespace, name)
            grave = self.layout.trash / stored.record.uid
            path.rename(grave)
        with open_directory(path.parent) as parent:
            os.fsync(parent)
        shutil.rmtree(grave, ignore_errors=True)


def load_stored(folder: int) -> StoredPod:
    """Read a pod from its open folder. Raises `FileNotFoundError` when it is being removed."""
    record = read_file(folder, "pod.json")
    if record is None:
        raise FileNotFoundError("pod.json")
    node, status, deletion = (read_file(folder, name) for name in ("node", "status.json", "deletion.json"))
    return StoredPod(
        record=POD_RECORD.validate_json(record),
        node=None if node is None else node.decode(),
        status=PodStatus() if status is None else POD_STATUS.validate_json(status),
        deletion=None if deletion is None else DELETION.validate_json(deletion),
    )


def write_status(folder: int, status: PodStatus) -> None:
    """Record what the pod's node says.

    Harmless when the pod was removed meanwhile, since the folder is held, not its name.
    """
    write_durably(folder, "status.json", POD_STATUS.dump_json(status))


def is_at(folder: int, path: Path) -> bool:
    """Whether the open folder still lies at `path`."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(folder)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def no_pod(namespace: str, name: str) -> NotFound:
    """The error for a pod that is not there."""
    return NotFound(
        f"there is no pod {namespace}/{name}", reason="POD_NOT_FOUND", metadata={"namespace": namespace, "pod": name}
    )


def _no_node(name: str) -> NotFound:
    return NotFound(f"there is no node {name}", reason="NODE_NOT_FOUND", metadata={"node": name})


def _check_uid(stored: StoredPod, uid: str | None) -> None:
    if uid is not None and uid != stored.record.uid:
        spec = stored.record.spec
        raise Aborted(
            f"pod {spec.namespace}/{spec.name} is another pod now (uid {stored.record.uid}, not {uid})",
            reason="UID_DIFFERS",
            metadata={"namespace": spec.namespace, "pod": spec.name, "uid": stored.record.uid},
        )
