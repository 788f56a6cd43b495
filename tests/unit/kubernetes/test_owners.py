"""What stands for a run in the cluster, and gangs in the words of each scheduler."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from fakekube import FakeKubernetes
from fakekube.faults import Fault
from longhaul_core.cluster import Gang, PodOwner, PodSpec
from longhaul_core.cluster.kubernetes import KubernetesOptions, parse_url
from longhaul_core.cluster.kubernetes.gangs import gang_marks, pod_group
from longhaul_core.cluster.kubernetes.manifest import build_manifest
from longhaul_core.cluster.kubernetes.options import Binding, GangScheduling
from longhaul_core.errors import FailedPrecondition, InvalidArgument

OWNER = PodOwner("longhaul-r1", labels={"longhaul.dev/owner": "r1"}, data={"run": "projects/p/trainingRuns/r1"})
SPEC = PodSpec("run-0", ("agent",), owner=OWNER, gang=Gang("r1-1", 4))


async def test_owner_is_made_once_for_all_pods_and_owns_them(server: FakeKubernetes, handle: Any) -> None:
    cluster = handle.cluster.inner
    specs = [handle.running(f"p{index}", owner=OWNER) for index in range(20)]
    await asyncio.gather(*(cluster.create_pod(spec) for spec in specs))
    assert server.ledger.calls["create", "configmaps"] == 1
    (owner,) = server.objects.all("configmaps", handle.namespace)
    assert owner["data"] == OWNER.data
    for pod in server.objects.all("pods", handle.namespace):
        (reference,) = pod["metadata"]["ownerReferences"]
        assert (reference["kind"], reference["uid"]) == ("ConfigMap", owner["metadata"]["uid"])


async def test_owner_that_another_replica_made_is_taken(server: FakeKubernetes, handle: Any) -> None:
    first, second = handle.cluster.inner, handle.another_client().inner
    await first.create_pod(handle.running("p0", owner=OWNER))
    await second.create_pod(handle.running("p1", owner=OWNER))
    assert len(server.objects.all("configmaps", handle.namespace)) == 1


async def test_owner_is_listed_by_labels_and_deleting_it_twice_is_no_error(server: FakeKubernetes, handle: Any) -> None:
    cluster = handle.cluster.inner
    await cluster.create_pod(handle.running("p0", owner=OWNER))
    (found,) = await cluster.list_owners({"longhaul.dev/owner": "r1"})
    assert (found.name, found.data) == (OWNER.name, OWNER.data)
    assert not await cluster.list_owners({"longhaul.dev/owner": "other"})
    for _ in range(2):
        await cluster.delete_owner(found.namespace, found.name)
    assert not server.objects.all("configmaps", handle.namespace)


async def test_malformed_pod_leaves_no_owner_behind(server: FakeKubernetes, handle: Any) -> None:
    spec = handle.running("p0", owner=OWNER, overlay={"spec": {"hostNetwork": True}})
    with pytest.raises(InvalidArgument):
        await handle.cluster.inner.create_pod(spec)
    assert not server.objects.all("configmaps", handle.namespace)


async def test_pod_group_is_made_before_the_pods_and_owned_too(server: FakeKubernetes, handle: Any) -> None:
    cluster = handle.cluster.inner
    cluster.owners.options = replace(handle.options, gang=GangScheduling.COSCHEDULING, binding=Binding.SCHEDULER)
    for index in range(3):
        await cluster.create_pod(handle.running(f"p{index}", owner=OWNER, gang=Gang("r1-1", 3)))
    (group,) = server.objects.all("podgroups", handle.namespace)
    assert group["spec"] == {"minMember": 3}
    assert group["metadata"]["ownerReferences"][0]["name"] == OWNER.name
    assert server.ledger.calls["create", "podgroups"] == 1


async def test_scheduler_that_is_not_installed_is_said(server: FakeKubernetes, handle: Any) -> None:
    cluster = handle.cluster.inner
    cluster.owners.options = replace(handle.options, gang=GangScheduling.VOLCANO, binding=Binding.SCHEDULER)
    message = "the server could not find the requested resource"
    server.ledger.faults.append(Fault("create", "podgroups", 404, message, "NotFound"))
    with pytest.raises(FailedPrecondition) as caught:
        await cluster.create_pod(handle.running("p0", gang=Gang("g", 2)))
    assert caught.value.reason == "GANG_SCHEDULER_MISSING"
    assert "gang=own" in caught.value.action


def test_kueue_pods_carry_queue_group_and_size() -> None:
    options = parse_url("kubernetes://?gang=kueue&queue=gpus&binding=scheduler")
    metadata = build_manifest(replace(SPEC, node="n0"), "team-a", options, {})["metadata"]
    assert metadata["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert metadata["labels"]["kueue.x-k8s.io/pod-group-name"] == "r1-1"
    assert metadata["annotations"]["kueue.x-k8s.io/pod-group-total-count"] == "4"
    assert pod_group(Gang("r1-1", 4), "team-a", options, None) is None


def test_volcano_pods_name_their_group_and_scheduler() -> None:
    options = KubernetesOptions(gang=GangScheduling.VOLCANO, binding=Binding.SCHEDULER, queue="gpus")
    marks = gang_marks(SPEC, options)
    assert marks["spec"]["schedulerName"] == "volcano"
    assert marks["metadata"]["annotations"]["scheduling.k8s.io/group-name"] == "r1-1"
    made = pod_group(Gang("r1-1", 4), "team-a", options, None)
    assert made is not None
    place, group = made
    assert place.path == "/apis/scheduling.volcano.sh/v1beta1/namespaces/team-a/podgroups"
    assert group["spec"] == {"minMember": 4, "queue": "gpus"}


def test_replacement_keeps_its_place_in_a_queue_but_is_no_member_of_a_group_that_must_fit_at_once() -> None:
    late = replace(SPEC, gang=Gang("r1-1", 4, late=True))
    queue = KubernetesOptions(gang=GangScheduling.KUEUE, binding=Binding.SCHEDULER, queue="gpus")
    assert gang_marks(late, queue) == gang_marks(SPEC, queue)
    for scheduler in (GangScheduling.COSCHEDULING, GangScheduling.VOLCANO):
        options = KubernetesOptions(gang=scheduler, binding=Binding.SCHEDULER)
        assert "r1-1" in str(gang_marks(SPEC, options))
        assert "r1-1" not in str(gang_marks(late, options))
        assert pod_group(Gang("r1-1", 4, late=True), "team-a", options, None) is None


@pytest.mark.parametrize(
    ("url", "field"),
    [
        ("kubernetes://?gang=volcano", "cluster_url.binding"),
        ("kubernetes://?gang=kueue&binding=scheduler", "cluster_url.queue"),
        ("kubernetes://?gang=kweue", "cluster_url.gang"),
    ],
)
def test_gang_keys_that_contradict_are_refused(url: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_url(url)
    assert field in [name for name, _ in caught.value.violations]


def test_scratch_is_the_templates_volume_where_it_has_one() -> None:
    spec = replace(SPEC, scratch_dir="/scratch", field_env={"POD_IP": "status.podIP"}, secret_env=("s3",))
    pod = build_manifest(spec, "team-a", KubernetesOptions(), {})["spec"]
    assert {"name": "scratch", "emptyDir": {}} in pod["volumes"]
    (container,) = pod["containers"]
    assert {"name": "scratch", "mountPath": "/scratch"} in container["volumeMounts"]
    assert {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}} in container["env"]
    assert container["envFrom"] == [{"secretRef": {"name": "s3"}}]
    disk = {"name": "scratch", "persistentVolumeClaim": {"claimName": "nvme"}}
    pod = build_manifest(spec, "team-a", KubernetesOptions(), {"spec": {"volumes": [disk]}})["spec"]
    assert [volume for volume in pod["volumes"] if volume["name"] == "scratch"] == [disk]
