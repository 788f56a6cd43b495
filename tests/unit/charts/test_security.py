"""What pods may do, what service accounts may do, and who reaches whom."""

from __future__ import annotations

import pytest

from tests.unit.charts.harness import NAMESPACE, SERVICES, Document, Rendering, profile, render
from tests.unit.charts.test_rendering import CASES

EXCEPTIONS = {
    "DaemonSet/longhaul-gpu/longhaul-dcgm-exporter",
    "DaemonSet/longhaul-node/longhaul-gpuhealth-agent",
}
"""Pods outside of Pod Security "restricted": NVIDIA's exporter and our agent, in namespaces of their own."""

WITH_TOKEN = {
    "Deployment/longhaul-training",
    "Deployment/longhaul-gpuhealth",
    "Job/longhaul-certificates",
    "Job/longhaul-certificates-removal",
}
"""Pods that talk to the Kubernetes API."""

WAYS = {
    ("corpus", "ingest"),
    ("training", "corpus"),
    ("training", "checkpoint"),
    ("training", "gpuhealth"),
    ("checkpoint", "training"),
    ("evaluation", "training"),
    ("evaluation", "checkpoint"),
    ("evaluation", "corpus"),
}
"""Which service calls which; gpuhealth and ingest call nobody."""


@pytest.mark.parametrize("case", CASES)
def test_every_pod_is_restricted(case: str) -> None:
    pods = render("longhaul", profile(*CASES[case])).pods()
    assert len(pods) >= len(SERVICES)
    for name, pod in pods.items():
        if name not in EXCEPTIONS:
            check_restricted(name, pod)


def check_restricted(name: str, pod: Document) -> None:
    """The rules of Pod Security "restricted", with a read-only root and a user that is set."""
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True, name
    assert security["runAsUser"] > 0, name
    assert security["seccompProfile"]["type"] == "RuntimeDefault", name
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        inner = container["securityContext"]
        assert inner["allowPrivilegeEscalation"] is False, name
        assert inner["readOnlyRootFilesystem"] is True, name
        assert inner["capabilities"] == {"drop": ["ALL"]}, name
        assert {port.get("hostPort") for port in container.get("ports", ())} <= {None}, name
    for volume in pod.get("volumes", ()):
        assert set(volume) - {"name"} <= {"emptyDir", "secret", "configMap", "persistentVolumeClaim"}, name


@pytest.mark.parametrize("case", CASES)
def test_every_container_states_its_needs_and_every_pod_its_token(case: str) -> None:
    for name, pod in render("longhaul", profile(*CASES[case])).pods().items():
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["resources"]["requests"]["memory"], name
            assert container["resources"]["limits"]["memory"], name
        if not name.startswith("RayCluster/"):  # KubeRay's autoscaler needs the token of its head
            assert pod["automountServiceAccountToken"] is (name in WITH_TOKEN), name


def test_exporter_lies_in_its_own_namespace() -> None:
    rendering = render("longhaul", profile("production", "gpu"))
    exporter = rendering.one("DaemonSet", "longhaul-gpu/longhaul-dcgm-exporter")
    namespace = rendering.one("Namespace", exporter["metadata"]["namespace"])
    assert namespace["metadata"]["name"] not in ("lab", "longhaul-runs")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"


def test_agent_and_repair_jobs_lie_in_their_own_namespace_and_only_there_may_gpuhealth_make_jobs() -> None:
    rendering = render("longhaul", profile("production", "everything"))
    assert enforced(rendering, "longhaul-node") == "privileged"
    jobs = {right for right in allowed(rendering, "longhaul-gpuhealth") if right[1] == "jobs"}
    assert jobs == {("longhaul-node", "jobs", "get"), ("longhaul-node", "jobs", "create")}
    assert {right for right in allowed(rendering, "longhaul-training") if right[1] == "jobs"} == set()


def test_run_namespace_is_restricted_unless_rdma_needs_more() -> None:
    assert enforced(render("longhaul", profile("production")), "longhaul-runs") == "restricted"
    assert enforced(render("longhaul", profile("rdma")), "runs") == "privileged"


def enforced(rendering: Rendering, namespace: str) -> str:
    labels = rendering.one("Namespace", namespace)["metadata"]["labels"]
    level: str = labels["pod-security.kubernetes.io/enforce"]
    return level


def allowed(rendering: Rendering, account: str) -> set[tuple[str, str, str]]:
    """(namespace or `*`, resource, verb) of everything that a service account may do."""
    found = set()
    for (kind, _), binding in rendering.documents.items():
        if kind not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        if account not in {subject["name"] for subject in binding["subjects"]}:
            continue
        place = binding["metadata"].get("namespace", "*") if kind == "RoleBinding" else "*"
        prefix = "" if place in ("*", NAMESPACE) else f"{place}/"
        role = rendering.one(binding["roleRef"]["kind"], prefix + binding["roleRef"]["name"])
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            found |= {(place, resource, verb) for resource in rule["resources"] for verb in rule["verbs"]}
    return found


def test_training_touches_pods_in_run_namespaces_only_and_reads_nodes() -> None:
    rights = allowed(render("longhaul", profile("production")), "longhaul-training")
    assert {right for right in rights if right[0] == "*"} == {("*", "nodes", verb) for verb in ("get", "list", "watch")}
    assert {right[0] for right in rights if right[0] != "*"} == {"longhaul-runs"}
    pods = {verb for _, resource, verb in rights if resource == "pods"}
    assert pods == {"get", "list", "watch", "create", "delete"}
    assert {resource for _, resource, _ in rights} == {"nodes", "pods", "pods/log", "events", "configmaps"}


def test_training_may_act_in_every_namespace_of_runs() -> None:
    rendering = render("longhaul-training", {"global": {"runs": {"namespaces": ["a", "b"]}}})
    places = {place for place, resource, _ in allowed(rendering, "longhaul-training") if resource == "pods"}
    assert places == {"a", "b"}


def test_only_gpuhealth_patches_nodes() -> None:
    rendering = render("longhaul", profile("production"))
    accounts = set(rendering.kind("ServiceAccount"))
    patching = {
        account
        for account in accounts
        if any(resource.startswith("nodes") and verb == "patch" for _, resource, verb in allowed(rendering, account))
    }
    assert patching == {"longhaul-gpuhealth"}
    assert allowed(rendering, "longhaul-gpuhealth") == {
        *(("*", "nodes", verb) for verb in ("get", "list", "watch", "patch")),
        ("*", "nodes/status", "patch"),
        *(("*", "pods", verb) for verb in ("get", "list", "watch")),
    }


def test_other_services_may_do_nothing_on_the_api() -> None:
    rendering = render("longhaul", profile("production"))
    for service in set(SERVICES) - {"training", "gpuhealth"}:
        assert allowed(rendering, f"longhaul-{service}") == set()


def test_certificates_hook_reads_no_secret_but_its_own() -> None:
    role = render("longhaul").one("Role", "longhaul-certificates")
    for rule in role["rules"]:
        assert rule["resources"] == ["secrets"]
        if rule["verbs"] != ["create"]:
            assert set(rule["resourceNames"]) == {"longhaul-ca", *(f"longhaul-{name}-tls" for name in SERVICES)}


def policies(rendering: Rendering) -> dict[str, Document]:
    return {service: rendering.one("NetworkPolicy", f"longhaul-{service}")["spec"] for service in SERVICES}


def test_every_pod_of_the_release_is_under_a_policy_of_both_directions() -> None:
    rendering = render("longhaul", profile("production", "everything"))
    selectors = [document["spec"] for document in rendering.kind("NetworkPolicy").values()]
    assert all(spec["policyTypes"] == ["Ingress", "Egress"] for spec in selectors)
    for (kind, name), document in rendering.documents.items():
        if kind in ("Deployment", "Job", "Pod"):
            pod = document if kind == "Pod" else document["spec"]["template"]
            assert any(selects(spec["podSelector"], pod["metadata"]["labels"]) for spec in selectors), name


def selects(selector: Document, labels: dict[str, str]) -> bool:
    """Whether a selector with labels and `In` takes a pod."""
    within = (labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", ()))
    return selector["matchLabels"].items() <= labels.items() and all(within)


def test_ways_between_services_are_those_of_the_design_in_both_directions() -> None:
    found = policies(render("longhaul"))
    inward = {
        (peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"], service)
        for service, spec in found.items()
        for peer in spec["ingress"][0]["from"]
        if "app.kubernetes.io/component" in peer["podSelector"]["matchLabels"]
    }
    outward = {
        (service, peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"])
        for service, spec in found.items()
        for rule in spec["egress"]
        for peer in rule.get("to", ())
        if "podSelector" in peer
    }
    assert inward == outward == WAYS


def test_training_pods_reach_training_and_checkpoint_alone() -> None:
    rendering = render("longhaul", profile("production"))
    runs = rendering.one("NetworkPolicy", "longhaul-runs/lab-longhaul-training-pods")
    assert runs["metadata"]["namespace"] == "longhaul-runs"
    reached = {
        peer["podSelector"]["matchLabels"].get("app.kubernetes.io/component")
        for rule in runs["spec"]["egress"]
        for peer in rule.get("to", ())
        if "podSelector" in peer
    }
    assert reached == {"training", "checkpoint", None}
    for service, spec in policies(rendering).items():
        lets_in = any("longhaul.dev/managed-by" in str(peer) for peer in spec["ingress"][0]["from"])
        assert lets_in is (service in ("training", "checkpoint")), service


def test_only_ingest_and_what_needs_them_reach_beyond_the_cluster() -> None:
    found = policies(render("longhaul"))  # SQLite and a folder: no database, no store
    beyond = {service for service, spec in found.items() if any("ipBlock" in str(rule) for rule in spec["egress"])}
    assert beyond == {"ingest", "training", "gpuhealth"}
