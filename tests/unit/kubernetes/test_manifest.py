"""Pods as they are written: every field of a spec, and what overlays may and may not do."""

from __future__ import annotations

from typing import Any

import pytest
from fakekube.admission import restricted_violations
from longhaul_core.cluster import Colocation, PodSpec, Toleration
from longhaul_core.cluster.kubernetes.manifest import bound_node, build_manifest
from longhaul_core.cluster.kubernetes.options import Binding, KubernetesOptions, PodSecurity
from longhaul_core.cluster.kubernetes.overlay import lay_over
from longhaul_core.errors import InvalidArgument

OPTIONS = KubernetesOptions()
SPEC = PodSpec(
    name="run-0",
    command=("python", "-m", "agent"),
    labels={"longhaul.dev/owner": "r1"},
    annotations={"note": "x"},
    node="n0",
    gpus=8,
    env={"B": "2", "A": "1"},
    working_dir="/work",
    tolerations=(Toleration("dedicated", "training"), Toleration("spot")),
    node_selector={"pool": "h100"},
    grace_seconds=90.5,
    image="registry.example/trainer:1",
    service_account="trainer",
    priority_class="training",
    resources={"cpu": "96", "memory": "900Gi", "rdma/hca": "8"},
    shared_memory_bytes=64 << 30,
    pull_secrets=("registry",),
    colocation=Colocation("topology.example/block", {"longhaul.dev/owner": "r1"}),
)


def build(spec: PodSpec = SPEC, options: KubernetesOptions = OPTIONS, template: dict[str, Any] | None = None) -> Any:
    return build_manifest(spec, "team-a", options, template or {})


def test_manifest_carries_every_field_of_the_spec() -> None:
    quantities = {"cpu": "96", "memory": "900Gi", "rdma/hca": "8", "nvidia.com/gpu": "8"}
    assert build() == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "run-0",
            "namespace": "team-a",
            "labels": {"longhaul.dev/owner": "r1"},
            "annotations": {"note": "x"},
        },
        "spec": {
            "nodeName": "n0",
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "serviceAccountName": "trainer",
            "priorityClassName": "training",
            "imagePullSecrets": [{"name": "registry"}],
            "terminationGracePeriodSeconds": 91,
            "nodeSelector": {"pool": "h100"},
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "tolerations": [
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"},
                {"key": "dedicated", "operator": "Equal", "value": "training"},
                {"key": "spot", "operator": "Exists"},
            ],
            "affinity": {
                "podAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": [
                        {
                            "topologyKey": "topology.example/block",
                            "labelSelector": {"matchLabels": {"longhaul.dev/owner": "r1"}},
                        }
                    ]
                }
            },
            "volumes": [{"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": str(64 << 30)}}],
            "containers": [
                {
                    "name": "main",
                    "image": "registry.example/trainer:1",
                    "command": ["python", "-m", "agent"],
                    "workingDir": "/work",
                    "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                    "resources": {"requests": quantities, "limits": quantities},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}],
                    "terminationMessagePolicy": "FallbackToLogsOnError",
                }
            ],
        },
    }


def test_manifest_passes_pod_security_restricted_with_added_containers_and_volumes() -> None:
    overlay = {
        "spec": {
            "initContainers": [{"name": "warm", "image": "x"}],
            "containers": [{"name": "side", "image": "y"}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}],
        }
    }
    assert restricted_violations(build(PodSpec(name="p", command=("x",), image="i"))["spec"]) == []
    assert restricted_violations(build(PodSpec(name="p", command=("x",), image="i", overlay=overlay))["spec"]) == []


@pytest.mark.parametrize("resource", ["nvidia.com/mig-1g.10gb", "amd.com/gpu"])
def test_manifest_names_the_gpu_resource_of_the_cluster(resource: str) -> None:
    resources = build(options=KubernetesOptions(gpu_resource=resource))["spec"]["containers"][0]["resources"]
    assert resources["limits"][resource] == resources["requests"][resource] == "8"
    assert "nvidia.com/gpu" not in resources["limits"]


def test_manifest_bound_by_scheduler_keeps_the_affinity_of_the_template() -> None:
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    zones = [{"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]} for zone in ("a", "b")]
    template = {"spec": {"affinity": {"nodeAffinity": {required: {"nodeSelectorTerms": zones}}}}}
    pod = build(options=KubernetesOptions(binding=Binding.SCHEDULER), template=template)["spec"]
    assert "nodeName" not in pod
    name = {"key": "metadata.name", "operator": "In", "values": ["n0"]}
    terms = pod["affinity"]["nodeAffinity"][required]["nodeSelectorTerms"]
    assert terms == [{**zone, "matchFields": [name]} for zone in zones]
    assert pod["affinity"]["podAffinity"][required][0]["topologyKey"] == "topology.example/block"
    assert {"operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert bound_node(pod) == "n0"
    assert bound_node(build(PodSpec(name="p", command=("x",)), template=template)["spec"]) is None


def test_template_lies_under_the_spec_and_the_overlay_over_it() -> None:
    template = {
        "metadata": {"labels": {"team": "ops", "longhaul.dev/owner": "forged"}},
        "spec": {
            "schedulerName": "gpu-scheduler",
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "containers": [
                {"name": "main", "env": [{"name": "NCCL_DEBUG", "value": "WARN"}, {"name": "A", "value": "0"}]}
            ],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    }
    overlay = {
        "metadata": {"labels": {"longhaul.dev/owner": "forged", "team": "mine"}},
        "spec": {
            "containers": [
                {
                    "name": "main",
                    "env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }
            ]
        },
    }
    manifest = build(
        PodSpec(name="p", command=("x",), labels={"longhaul.dev/owner": "r1"}, env={"A": "1"}, overlay=overlay),
        template=template,
    )
    main = manifest["spec"]["containers"][0]
    assert {item["name"]: item["value"] for item in main["env"]} == {"NCCL_DEBUG": "INFO", "A": "1"}
    assert [mount["mountPath"] for mount in main["volumeMounts"]] == ["/dev/shm", "/data"]
    assert manifest["metadata"]["labels"] == {"team": "mine", "longhaul.dev/owner": "r1"}
    assert manifest["spec"]["schedulerName"] == "gpu-scheduler"
    assert {"key": "nvidia.com/gpu", "operator": "Exists"} in manifest["spec"]["tolerations"]
    assert [volume["name"] for volume in manifest["spec"]["volumes"]] == ["data", "shared-memory"]


@pytest.mark.parametrize(
    ("overlay", "field"),
    [
        ({"spec": {"nodeName": "n1"}}, "overlay.spec.nodeName"),
        ({"spec": {"serviceAccountName": "admin"}}, "overlay.spec.serviceAccountName"),
        ({"spec": {"automountServiceAccountToken": True}}, "overlay.spec.automountServiceAccountToken"),
        ({"spec": {"priorityClassName": "system-node-critical"}}, "overlay.spec.priorityClassName"),
        ({"spec": {"hostNetwork": True}}, "overlay.spec.hostNetwork"),
        ({"spec": {"volumes": [{"name": "r", "hostPath": {"path": "/"}}]}}, "overlay.spec.volumes[0]"),
        ({"spec": {"volumes": [{"name": "t", "projected": {"sources": []}}]}}, "overlay.spec.volumes[0]"),
        (
            {"spec": {"containers": [{"name": "main", "securityContext": {"privileged": True}}]}},
            "overlay.spec.containers[0].securityContext",
        ),
        ({"spec": {"containers": [{"name": "b", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]}}, "overlay"),
        ({"status": {"phase": "Running"}}, "overlay"),
        ({"metadata": {"name": "other"}}, "overlay.metadata.name"),
    ],
)
def test_overlay_that_leaves_its_bounds_is_refused(overlay: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        build(PodSpec(name="p", command=("x",), image="i", overlay=overlay))
    assert caught.value.reason == "OVERLAY_REFUSED"
    assert [name for name, _ in caught.value.violations] == [field]


def test_overlay_may_lock_memory_for_rdma_where_the_operator_allows_it() -> None:
    security = {"capabilities": {"add": ["IPC_LOCK"]}}
    overlay = {"spec": {"hostNetwork": True, "containers": [{"name": "main", "securityContext": security}]}}
    options = KubernetesOptions(pod_security=PodSecurity.PRIVILEGED)
    pod = build(PodSpec(name="p", command=("x",), image="i", overlay=overlay), options)["spec"]
    assert pod["hostNetwork"]
    assert pod["containers"][0]["securityContext"] == security


def test_lay_over_leaves_its_inputs_as_they_are() -> None:
    base = {"a": {"b": [1]}, "items": [{"name": "x", "v": [1]}]}
    merged = lay_over(base, {"a": {"b": [2]}, "items": [{"name": "x", "w": 2}]})
    assert merged == {"a": {"b": [1, 2]}, "items": [{"name": "x", "v": [1], "w": 2}]}
    assert base == {"a": {"b": [1]}, "items": [{"name": "x", "v": [1]}]}
