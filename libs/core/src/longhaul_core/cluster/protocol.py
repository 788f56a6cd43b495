"""The seam between longhaul and whatever runs its pods."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from longhaul_core.cluster.model import ClusterEvent, Node, NodePatch, Pod, PodOwner, PodSpec


class Cluster(Protocol):
    """Nodes and pods. Every call may raise `Unavailable`, after a few tries of its own at most.

    Reads see every write that was answered before them; while a watch stands they may come from its cache, which sees
    the writes of other clients with the hint that tells of them. A cache never forgets because the cluster is out of
    reach: it is served with its age (`staleness`). Writers that race are told so (`Aborted`, `AlreadyExists`) and read
    again.
    """

    def staleness(self) -> float:
        """Seconds since reads were last known to be current; 0 where every read asks the cluster."""
        ...

    async def list_nodes(self, labels: Mapping[str, str] | None = None) -> Sequence[Node]:
        """All nodes that carry `labels`, by name; a node that does not answer is listed with `ready` False."""
        ...

    async def get_node(self, name: str) -> Node:
        """One node. Raises `NotFound`."""
        ...

    async def patch_node(self, name: str, patch: NodePatch, *, expected_version: str | None = None) -> Node:
        """Change a node's marks and return the node as it is afterwards; works on nodes that do not answer, too.

        Raises `NotFound`, and `Aborted` (reason `NODE_CHANGED`) when `expected_version` is given and no longer the
        node's. A patch that changes nothing keeps the version.
        """
        ...

    async def create_pod(self, spec: PodSpec) -> Pod:
        """Store a pod; it starts as soon as its node can.

        With `spec.node` the pod is bound there in spite of cordon and taints; it fails with reason `OutOfGpus` when the
        node lacks the GPUs and stays Pending while the node does not answer. Without, the first ready node that fits
        takes it; while none does it stays Pending with reason `Unschedulable`. Raises `AlreadyExists` (reason
        `POD_EXISTS`) while a pod of that name exists in the namespace, whatever its phase, `NotFound` for an unknown
        node, `InvalidArgument` for a malformed spec. The spec's owner is made with its first pod.
        """
        ...

    async def get_pod(self, namespace: str, name: str) -> Pod:
        """One pod. Raises `NotFound`."""
        ...

    async def list_pods(
        self, labels: Mapping[str, str] | None = None, *, namespace: str | None = None
    ) -> Sequence[Pod]:
        """All pods that carry `labels`, by namespace and name."""
        ...

    async def delete_pod(
        self, namespace: str, name: str, uid: str | None = None, grace_seconds: float | None = None, force: bool = False
    ) -> None:
        """Ask for the end of a pod: SIGTERM, after the grace SIGKILL, then the pod is gone (`NotFound`).

        Until then it has `deletion_requested`. A second delete may only shorten the grace. With `force` the pod is gone
        at once, even when its node does not answer; its processes end as soon as the node can end them. Raises
        `NotFound`, and `Aborted` (reason `UID_DIFFERS`) when `uid` is given and the pod of that name is another one.
        """
        ...

    async def list_owners(self, labels: Mapping[str, str] | None = None) -> Sequence[PodOwner]:
        """Owners of pods that carry `labels`; none where pods need no owner to be cleaned up."""
        ...

    async def delete_owner(self, namespace: str, name: str) -> None:
        """Remove an owner; pods of it that are left are deleted by the cluster. One that is not there is no error."""
        ...

    def watch(
        self, labels: Mapping[str, str] | None = None, *, namespace: str | None = None
    ) -> AsyncIterator[ClusterEvent]:
        """Hints of changes of nodes, and of pods that match, without end; starts with `RESYNC` once the watch stands.

        What changes after `RESYNC` was received gives at least one hint, or another `RESYNC` when the implementation
        lost its place. Hints may be merged and come in any order.
        """
        ...

    def pod_logs(
        self, namespace: str, name: str, *, follow: bool = False, tail_lines: int | None = None
    ) -> AsyncIterator[bytes]:
        """Standard output and error of a pod in pieces; with `follow` until the pod has ended. Raises `NotFound`."""
        ...

    async def close(self) -> None:
        """Give back connections; nodes and pods go on."""
        ...
