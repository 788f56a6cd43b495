"""Compare-and-set of a node's marks over the API's own optimistic locking."""

from __future__ import annotations

from longhaul_core.cluster.kubernetes.api import NODES, Api
from longhaul_core.cluster.kubernetes.nodes import NodeRecord, parse_node, spec_patch, status_patch
from longhaul_core.cluster.kubernetes.options import KubernetesOptions
from longhaul_core.cluster.model import NodePatch
from longhaul_core.cluster.rules import apply_patch
from longhaul_core.errors import Aborted

ATTEMPTS = 6


async def patch_marks(
    api: Api,
    options: KubernetesOptions,
    name: str,
    patch: NodePatch,
    expected_version: str | None,
    known: NodeRecord | None,
) -> NodeRecord:
    """Apply `patch` to the node, of which `known` may be an older sight, and return what it is afterwards.

    Each write goes onto the resource version that it was computed from. A conflict is looked at: when the marks are
    still those expected (a kubelet wrote its status), the write is tried again; when they are those wanted, an answer
    was lost. Metadata, spec and conditions need two writes, in this order. Raises `Aborted`, `NotFound`.
    """
    record = known
    if record is None or expected_version not in (None, record.node.resource_version):
        record = parse_node(await api.get(NODES, name), options)
    for attempt in range(ATTEMPTS):
        patched = apply_patch(record.node, patch)
        if attempt and patched == record.node:
            return record
        if expected_version not in (None, record.node.resource_version):
            raise _changed(record)
        try:
            if body := spec_patch(record, patched):
                record = parse_node(await api.patch_node(name, body), options)
                expected_version = record.node.resource_version if expected_version is not None else None
            if body := status_patch(record, patched, patch):
                record = parse_node(await api.patch_node_status(name, body), options)
            return record
        except Aborted:
            record = parse_node(await api.get(NODES, name), options)
    raise _changed(record)


def _changed(record: NodeRecord) -> Aborted:
    node = record.node
    return Aborted(
        f"node {node.name} has other marks than expected, version {node.resource_version}",
        reason="NODE_CHANGED",
        metadata={"node": node.name, "version": node.resource_version},
    )
