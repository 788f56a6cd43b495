"""Gangs in the words of the schedulers that know them. Pure.

Kueue: queue and pod group are labels of the pods, the group's size is an annotation; no object is made. The
coscheduling plugin: a label, and a PodGroup of `scheduling.x-k8s.io/v1alpha1` that is made before the first pod.
Volcano: an annotation, `schedulerName: volcano`, and a PodGroup of `scheduling.volcano.sh/v1beta1`.

A late pod keeps its group's place in Kueue's queue. To the other two a group is a number of pods that must fit at
once, which those that are left of a gang may never be again; so a late pod is bound by itself there.
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
    group = None if gang is None or gang.late else gang.name
    if options.gang is GangScheduling.VOLCANO:
        marks: Raw = {"spec": {"schedulerName": "volcano"}}
        return marks | ({"metadata": {"annotations": {VOLCANO_GROUP: group}}} if group else {})
    if options.gang is GangScheduling.COSCHEDULING and group:
        return {"metadata": {"labels": {COSCHEDULING_GROUP: group}}}
    return {}


def pod_group(
    gang: Gang, namespace: str, options: KubernetesOptions, owner: Raw | None
) -> tuple[Collection, Raw] | None:
    """Where the gang's PodGroup belongs and what it is; None where the scheduler wants none."""
    version = _GROUP_VERSIONS.get(options.gang)
    if version is None or gang.late:
        return None
    spec: Raw = {"minMember": gang.size}
    if options.gang is GangScheduling.VOLCANO and options.queue:
        spec["queue"] = options.queue
    metadata: Raw = {"name": gang.name, "namespace": namespace}
    if owner is not None:
        metadata["ownerReferences"] = [owner]
    group = {"apiVersion": version, "kind": "PodGroup", "metadata": metadata, "spec": spec}
    return Collection(Resource.POD_GROUPS, namespace, version), group
