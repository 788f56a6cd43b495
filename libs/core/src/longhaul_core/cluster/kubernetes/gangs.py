"""Gangs in the words of the schedulers that know them. Pure.

Kueue: queue and pod group are labels of the pods, the group's size is an annotation; no object is made. The
coscheduling plugin: a label, and a PodGroup of `scheduling.x-k8s.io/v1alpha1` that is made before the first pod.
Volcano: an annotation, `schedulerName: volcano`, and a PodGroup of `scheduling.volcano.sh/v1beta1`.
"""

from __future__ import annotations

from longhaul_core.cluster.kubernetes.api import Collection, Raw, Resource
from longhaul_core.cluster.kubernetes.options import GangScheduling, KubernetesOptions
from longhaul_core.cluster.model import Gang, PodSpec

KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
KUEUE_GROUP = "kueue.x-k8s.io/pod-group-name"
KUEUE_SIZE = "kueue.x-k8s.io/pod-group-total-count"
COSCHEDULING_GROUP = "scheduling.x-k8s.io/pod-group"
VOLCANO_GROUP = "scheduling.k8s.io/group-name"

_GROUP_VERSIONS = {
    GangScheduling.COSCHEDULING: "scheduling.x-k8s.io/v1alpha1",
    GangScheduling.VOLCANO: "scheduling.volcano.sh/v1beta1",
}


def gang_marks(spec: PodSpec, options: KubernetesOptions) -> Raw:
    """The partial pod that makes it a member of its gang; a pod without one still goes through Kueue's queue."""
    gang = spec.gang
    if options.gang is GangScheduling.KUEUE:
        labels = {KUEUE_QUEUE: options.queue}
        if gang is None:
            return {"metadata": {"labels": labels}}
        return {"metadata": {"labels": {**labels, KUEUE_GROUP: gang.name}, "annotations": {KUEUE_SIZE: str(gang.size)}}}
    if options.gang is GangScheduling.VOLCANO:
        marks: Raw = {"spec": {"schedulerName": "volcano"}}
        return marks | ({"metadata": {"annotations": {VOLCANO_GROUP: gang.name}}} if gang is not None else {})
    if options.gang is GangScheduling.COSCHEDULING and gang is not None:
        return {"metadata": {"labels": {COSCHEDULING_GROUP: gang.name}}}
    return {}


def pod_group(
    gang: Gang, namespace: str, options: KubernetesOptions, owner: Raw | None
) -> tuple[Collection, Raw] | None:
    """Where the gang's PodGroup belongs and what it is; None where the scheduler wants none."""
    version = _GROUP_VERSIONS.get(options.gang)
    if version is None:
        return None
    spec: Raw = {"minMember": gang.size}
    if options.gang is GangScheduling.VOLCANO and options.queue:
        spec["queue"] = options.queue
    metadata: Raw = {"name": gang.name, "namespace": namespace}
    if owner is not None:
        metadata["ownerReferences"] = [owner]
    group = {"apiVersion": version, "kind": "PodGroup", "metadata": metadata, "spec": spec}
    return Collection(Resource.POD_GROUPS, namespace, version), group
