"""Every value of every chart, toggled: the rendering must differ, and where it is said to.

The list of values comes from the schemas, so a new value without a case fails.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import helm_python as helm
import pytest

from tests.unit.charts.harness import CHARTS, SERVICES, at, differences, merge, profile, render

POSTGRESQL = {"global": {"database": {"kind": "postgresql", "existingSecret": "db"}}}
DIGEST = "sha256:" + "ab" * 32


@dataclass(frozen=True)
class Case:
    """A value to set, the values under which it matters, and what a line of the difference must match."""

    value: Any
    expect: str
    under: Mapping[str, Any] = field(default_factory=dict)


def under(path: str, value: Any) -> dict[str, Any]:
    return at(path.split("."), value)


TLS_BROUGHT = under("global.tls", {"mode": "existingSecret", "existingSecret": "brought"})
CERT_MANAGER = under("global.tls", {"mode": "certManager", "issuer": {"name": "one"}})
S3 = under("global.objectStore.url", "s3://bucket")
MONITORED = under("global.serviceMonitor.enabled", True)
SCALED = merge(POSTGRESQL, under("autoscaling.enabled", True))
ON_METRIC = merge(SCALED, under("autoscaling.metric.enabled", True))
RAY = under("global.engine.kind", "ray")
AGENT = under("agent.enabled", True)
TOKEN = under("global.auth.existingSecret", "token")
LOCAL = under("global.storage.local.node", "node-1")

SHARED: dict[str, Case] = {
    "global.image.registry": Case("r.example", r'image: "r\.example/longhaul/'),
    "global.image.tag": Case("v9", r'image: "longhaul/[a-z]+:v9"'),
    "global.image.pullPolicy": Case("Always", r'imagePullPolicy: "Always"'),
    "global.imagePullSecrets": Case(["pull"], r'imagePullSecrets\[pull\]\.name: "pull"'),
    "global.commonLabels": Case({"team": "lab"}, r'metadata\.labels\.team: "lab"'),
    "global.runAsUser": Case(1000650000, r"runAsUser: 1000650000"),
    "global.database.kind": Case("postgresql", r"secretKeyRef", under("global.database.existingSecret", "db")),
    "global.database.existingSecret": Case("other", r'DATABASE_URL.*secretKeyRef\.name: "other"', POSTGRESQL),
    "global.database.key": Case("dsn", r'DATABASE_URL.*secretKeyRef\.key: "dsn"', POSTGRESQL),
    "global.database.port": Case(6432, r"NetworkPolicy.*port: 6432", POSTGRESQL),
    "global.objectStore.url": Case("s3://bucket/a", r'OBJECT_STORE_URL\]\.value: "s3://bucket/a"'),
    "global.objectStore.existingSecret": Case("store", r'AWS_SECRET_ACCESS_KEY.*name: "store"'),
    "global.objectStore.port": Case(9000, r"NetworkPolicy.*port: 9000", S3),
    "global.storage.existingClaim": Case("mine", r'claimName: "mine"'),
    "global.storage.size": Case("5Gi", r'PersistentVolumeClaim.*storage: "5Gi"'),
    "global.storage.storageClassName": Case("", r'PersistentVolumeClaim.*storageClassName: ""'),
    "global.storage.keep": Case(False, r"-PersistentVolumeClaim.*resource-policy"),
    "global.storage.local.node": Case("node-1", r'PersistentVolume/.*values\[0\]: "node-1"'),
    "global.storage.local.path": Case("/srv", r'PersistentVolume/.*local\.path: "/srv"', LOCAL),
    "global.auth.existingSecret": Case("token", r'LONGHAUL_API_TOKEN.*name: "token"'),
    "global.auth.key": Case("t", r'LONGHAUL_API_TOKEN.*key: "t"', TOKEN),
    "global.auth.usersKey": Case("users", r'volumes\[users\].*key: "users"', TOKEN),
    "global.auth.podTokenKey": Case("pods", r'POD_TOKEN_KEY.*key: "pods"', TOKEN),
    "global.tls.mode": Case("none", r'LONGHAUL_ALLOW_INSECURE\]\.value: "true"'),
    "global.tls.existingSecret": Case("other", r'secretName: "other"', TLS_BROUGHT),
    "global.tls.issuer.name": Case("two", r'Certificate/.*issuerRef\.name: "two"', CERT_MANAGER),
    "global.tls.issuer.kind": Case("Issuer", r'Certificate/.*issuerRef\.kind: "Issuer"', CERT_MANAGER),
    "global.tls.extraNames": Case(["a.example"], r"certificates.*a\.example"),
    "global.log.level": Case("debug", r'LONGHAUL_LOG_LEVEL\]\.value: "debug"'),
    "global.log.format": Case("console", r'LONGHAUL_LOG_FORMAT\]\.value: "console"'),
    "global.migration.enabled": Case(False, r"-Job/.*migrate", POSTGRESQL),
    "global.migration.timeoutSeconds": Case(60, r"Job/.*migrate.*activeDeadlineSeconds: 60", POSTGRESQL),
    "global.test.enabled": Case(False, r"-Pod/.*-test"),
    "global.networkPolicy.enabled": Case(False, r"-NetworkPolicy/"),
    "global.networkPolicy.clients": Case([{"ipBlock": {"cidr": "10.1.0.0/16"}}], r'from.*cidr: "10\.1\.0\.0/16"'),
    "global.networkPolicy.scrapers": Case([{"podSelector": {"matchLabels": {"a": "b"}}}], r'from.*\.a: "b"'),
    "global.networkPolicy.externalCidrs": Case(["10.2.0.0/16"], r'egress.*cidr: "10\.2\.0\.0/16"'),
    "global.networkPolicy.kubernetesApiPorts": Case([16443], r"NetworkPolicy.*port: 16443"),
    "global.serviceMonitor.enabled": Case(True, r"ServiceMonitor/"),
    "global.serviceMonitor.interval": Case("7s", r'interval: "7s"', MONITORED),
    "global.serviceMonitor.labels": Case({"release": "p"}, r'ServiceMonitor.*labels\.release: "p"', MONITORED),
    **{
        f"global.addresses.{service}": Case("far.example:1", rf'{service.upper()}_ADDRESS\]\.value: "far\.example:1"')
        for service in SERVICES
    },
}
"""Values that every chart takes; shown on ingest unless a case of another chart is below."""

SERVICE: dict[str, Case] = {
    "replicas": Case(3, r"Deployment/.*replicas: 3", POSTGRESQL),
    "image.repository": Case("mine/x", r'image: "mine/x:'),
    "image.tag": Case("v7", r':v7"'),
    "image.digest": Case(DIGEST, rf"image: .*@{DIGEST}"),
    "resources": Case({"limits": {"memory": "1Gi"}}, r'limits\.memory: "1Gi"'),
    "extraEnv": Case([{"name": "EXTRA", "value": "1"}], r'env\[EXTRA\]\.value: "1"'),
    "extraEnvFrom": Case([{"secretRef": {"name": "more"}}], r'envFrom.*name: "more"'),
    "extraVolumes": Case([{"name": "more", "emptyDir": {}}], r"volumes\[more\]"),
    "extraVolumeMounts": Case([{"name": "more", "mountPath": "/more"}], r'volumeMounts\[more\].mountPath: "/more"'),
    "podAnnotations": Case({"a": "b"}, r'template\.metadata\.annotations\.a: "b"'),
    "podLabels": Case({"a": "b"}, r'template\.metadata\.labels\.a: "b"'),
    "nodeSelector": Case({"pool": "cpu"}, r'nodeSelector\.pool: "cpu"'),
    "tolerations": Case([{"key": "cpu"}], r'tolerations\[0\]\.key: "cpu"'),
    "affinity": Case({"podAffinity": {}}, r"affinity\.podAffinity"),
    "priorityClassName": Case("high", r'priorityClassName: "high"'),
    "topologySpread.enabled": Case(False, r"-.*topologySpreadConstraints"),
    "topologySpread.topologyKey": Case("zone", r'topologyKey: "zone"'),
    "topologySpread.whenUnsatisfiable": Case("DoNotSchedule", r'whenUnsatisfiable: "DoNotSchedule"'),
    "serviceAccount.create": Case(False, r"-ServiceAccount/"),
    "serviceAccount.name": Case("mine", r'serviceAccountName: "mine"'),
    "serviceAccount.annotations": Case({"role": "arn"}, r'ServiceAccount.*annotations\.role: "arn"'),
    "service.type": Case("NodePort", r'Service/.*type: "NodePort"'),
    "service.annotations": Case({"a": "b"}, r'Service/.*annotations\.a: "b"'),
    "podDisruptionBudget.enabled": Case(True, r"PodDisruptionBudget/.*maxUnavailable: 1"),
    "podDisruptionBudget.maxUnavailable": Case(
        "50%", r'maxUnavailable: "50%"', under("podDisruptionBudget.enabled", True)
    ),
    "autoscaling.enabled": Case(True, r"HorizontalPodAutoscaler/", POSTGRESQL),
    "autoscaling.minReplicas": Case(3, r"minReplicas: 3", SCALED),
    "autoscaling.maxReplicas": Case(30, r"maxReplicas: 30", SCALED),
    "autoscaling.targetCpuPercent": Case(55, r"averageUtilization: 55", SCALED),
    "autoscaling.scaleDownSeconds": Case(60, r"stabilizationWindowSeconds: 60", SCALED),
    "autoscaling.metric.enabled": Case(True, r"metrics\[1\]\.pods", SCALED),
    "autoscaling.metric.name": Case(
        "m", r'metric\.name: "m"', merge(SCALED, under("autoscaling.metric.enabled", True))
    ),
    "autoscaling.metric.averageValue": Case(
        "9", r'averageValue: "9"', merge(SCALED, under("autoscaling.metric.enabled", True))
    ),
    "probes.periodSeconds": Case(20, r"livenessProbe\.periodSeconds: 20"),
    "probes.timeoutSeconds": Case(9, r"readinessProbe\.timeoutSeconds: 9"),
    "probes.startupSeconds": Case(900, r"startupProbe\.failureThreshold: 90"),
    "drainDelaySeconds": Case(2.5, r'DRAIN_DELAY_SECONDS\]\.value: "2\.5"'),
    "shutdownGraceSeconds": Case(60, r"terminationGracePeriodSeconds: 135"),
    "scratchSize": Case("3Gi", r'sizeLimit: "3Gi"'),
}

BY_CHART: dict[str, dict[str, Case]] = {
    "ingest": {
        "workers": Case(3, r'LONGHAUL_WORKERS\]\.value: "3"'),
        "global.engine.kind": Case("ray", r'LONGHAUL_ENGINE\]\.value: "ray"'),
        "global.engine.rayAddress": Case("ray.example:6379", r'RAY_ADDRESS\]\.value: "ray\.example:6379"', RAY),
        "global.engine.rayImage": Case("mine/ray", r'initContainers\[ray\]\.image: "mine/ray:', RAY),
    },
    "training": {
        "rbac.create": Case(False, r"-ClusterRole/"),
        "global.runs.namespaces": Case(["a"], r"RoleBinding/a/"),
        "global.runs.image.repository": Case("mine/t", r'TRAINER_IMAGE\]\.value: "mine/t:'),
        "global.runs.image.tag": Case("v3", r'TRAINER_IMAGE\]\.value: "longhaul/trainer:v3"'),
        "global.runs.image.digest": Case(DIGEST, rf"TRAINER_IMAGE\].value: .*@{DIGEST}"),
        "global.runs.gpuResource": Case("amd.com/gpu", r"CLUSTER_URL.*gpu_resource=amd\.com%2Fgpu"),
        "global.runs.binding": Case("scheduler", r"CLUSTER_URL.*binding=scheduler"),
        "global.runs.gang": Case("volcano", r"CLUSTER_URL.*binding=scheduler.*gang=volcano"),
        "global.runs.queue": Case("q", r"CLUSTER_URL.*queue=q"),
        "global.runs.podSecurity": Case("privileged", r"CLUSTER_URL.*pod_security=privileged"),
        "global.runs.rdma": Case(True, r"ConfigMap/.*template\.yaml.*IPC_LOCK"),
        "global.runs.scratchSize": Case("7Gi", r"ConfigMap/.*template\.yaml.*sizeLimit: 7Gi"),
        "global.runs.existingSecret": Case("keys", r'LONGHAUL_POD_SECRETS\]\.value: "keys"'),
        "global.runs.podTemplate": Case(
            {"spec": {"volumes": [{"name": "nfs", "emptyDir": {}}]}}, r"ConfigMap/.*template\.yaml.*name: nfs"
        ),
        "global.runs.exporterUrl": Case("http://x:1/m", r"CLUSTER_URL.*exporter_url=http%3A%2F%2Fx%3A1%2Fm"),
        "global.networkPolicy.exporterPort": Case(9500, r"CLUSTER_URL.*9500"),
    },
    "gpuhealth": {
        "healthRules": Case("rules: []\n", r"LONGHAUL_RULES_FILE"),
        "nodeWork.namespace": Case("mine", r"DaemonSet/mine/", AGENT),
        "nodeWork.createNamespace": Case(False, r"-Namespace/longhaul-node", AGENT),
        "agent.enabled": Case(True, r"DaemonSet/longhaul-node/.*"),
        "agent.nvml": Case("auto", r"NVIDIA_VISIBLE_DEVICES", AGENT),
        "agent.port": Case(9999, r"hostPort: 9999", AGENT),
        "agent.nodeSelector": Case({"gpu": "h100"}, r'nodeSelector\.gpu: "h100"', AGENT),
        "agent.tolerations": Case([{"key": "other"}], r'tolerations.*key: "other"', AGENT),
        "agent.resources": Case({"limits": {"memory": "1Gi"}}, r'limits\.memory: "1Gi"', AGENT),
        "repair.reset": Case(True, r"LONGHAUL_RESET_JOB_TEMPLATE"),
        "repair.resetJob": Case("kind: Mine\n", r"reset.yaml.*kind: Mine", under("repair.reset", True)),
        "repair.reboot": Case(True, r"LONGHAUL_REBOOT_JOB_TEMPLATE"),
        "repair.rebootJob": Case("kind: Mine\n", r"reboot.yaml.*kind: Mine", under("repair.reboot", True)),
    },
}

SETTINGS: dict[str, Any] = {"discovery": "pods", "exporter_pod_labels": {"app": "x"}, "rules_file": "/x"}
"""Settings that are no numbers, with a value to try."""

GATEWAY = under("endpoint", {"mode": "gateway", "gateway": {"parentRefs": [{"name": "g"}]}})

UMBRELLA: dict[str, Case] = {
    **{f"{service}.enabled": Case(False, rf"-Deployment/longhaul-{service}") for service in SERVICES},
    "global.runs.createNamespaces": Case(True, r"Namespace/a", under("global.runs.namespaces", ["a"])),
    "endpoint.mode": Case("service", r"Service/longhaul\."),
    "endpoint.service.type": Case("NodePort", r'Service/longhaul\..*"NodePort"', under("endpoint.mode", "service")),
    "endpoint.service.annotations": Case({"a": "b"}, r'annotations\.a: "b"', under("endpoint.mode", "service")),
    "endpoint.service.sourceRanges": Case(
        ["10.0.0.0/8"], r'loadBalancerSourceRanges\[0\]: "10\.0\.0\.0/8"', under("endpoint.mode", "service")
    ),
    "endpoint.gateway.parentRefs": Case(
        [{"name": "public"}], r'parentRefs\[public\].name: "public"', under("endpoint.mode", "gateway")
    ),
    "endpoint.gateway.hostnames": Case(
        ["h.example"],
        r'hostnames\[0\]: "h\.example"',
        GATEWAY,
    ),
    "endpoint.gateway.backendTls.enabled": Case(False, r"-BackendTLSPolicy/", GATEWAY),
    "endpoint.gateway.backendTls.authorityKind": Case(
        "ConfigMap", r'BackendTLSPolicy/.*caCertificateRefs\[longhaul-ca\]\.kind: "ConfigMap"', GATEWAY
    ),
    "endpoint.gateway.backendTls.authority": Case(
        "roots", r'BackendTLSPolicy/.*caCertificateRefs.*name: "roots"', GATEWAY
    ),
    "dashboards.enabled": Case(True, r"ConfigMap/longhaul-dashboard-.*grafana_dashboard"),
    "dashboards.labels": Case({"x": "y"}, r'ConfigMap/.*labels\.x: "y"', under("dashboards.enabled", True)),
    "rules.enabled": Case(True, r"PrometheusRule/longhaul"),
    "dcgm.mode": Case("own", r"DaemonSet/longhaul-gpu/"),
    "dcgm.namespace": Case("nvidia", r"DaemonSet/nvidia/", under("dcgm.mode", "own")),
    "dcgm.createNamespace": Case(False, r"-Namespace/longhaul-gpu", under("dcgm.mode", "own")),
    "dcgm.image": Case("mine/dcgm:1", r'image: "mine/dcgm:1"', under("dcgm.mode", "own")),
    "dcgm.intervalMilliseconds": Case(5000000, r'args.*"5000000"', under("dcgm.mode", "own")),
    "dcgm.nodeSelector": Case({"gpu": "h100"}, r'nodeSelector\.gpu: "h100"', under("dcgm.mode", "own")),
    "dcgm.tolerations": Case([{"key": "other"}], r'tolerations.*key: "other"', under("dcgm.mode", "own")),
    "dcgm.resources": Case({"limits": {"memory": "1Gi"}}, r'limits\.memory: "1Gi"', under("dcgm.mode", "own")),
    "ray.enabled": Case(True, r"RayCluster/longhaul-ray"),
    "ray.version": Case("9.9.9", r'rayVersion: "9\.9\.9"', under("ray.enabled", True)),
    "ray.minWorkers": Case(3, r"minReplicas: 3", under("ray.enabled", True)),
    "ray.maxWorkers": Case(30, r"maxReplicas: 30", under("ray.enabled", True)),
    "ray.workerCpus": Case(3, r'requests\.cpu: "3"', under("ray.enabled", True)),
    "ray.workerMemory": Case("3Gi", r'workerGroupSpecs.*memory: "3Gi"', under("ray.enabled", True)),
    "ray.headMemory": Case("3Gi", r'headGroupSpec.*memory: "3Gi"', under("ray.enabled", True)),
    "observability.enabled": Case(True, r"Deployment/longhaul-prometheus"),
    "observability.prometheusImage": Case("p:1", r'image: "p:1"', under("observability.enabled", True)),
    "observability.grafanaImage": Case("g:1", r'image: "g:1"', under("observability.enabled", True)),
    "observability.retention": Case("3d", r"retention\.time=3d", under("observability.enabled", True)),
    "observability.volumeSize": Case(
        "3Gi", r'PersistentVolumeClaim/longhaul-prometheus.*"3Gi"', under("observability.enabled", True)
    ),
    "observability.grafanaExistingSecret": Case(
        "admin", r'ADMIN_PASSWORD.*name: "admin"', under("observability.enabled", True)
    ),
    "uninstall.guard": Case(False, r"-Job/longhaul-guard"),
    "uninstall.force": Case(True, r'Job/longhaul-guard.*"--force=true"'),
}


def schema_of(chart: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((CHARTS / chart / "values.schema.json").read_text(encoding="utf-8"))
    return loaded


def leaves(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every value that is set as a whole, by its path."""
    for key, child in schema["properties"].items():
        full = f"{path}.{key}".lstrip(".")
        if child.get("properties"):
            yield from leaves(child, full)
        elif key not in ("longhaul-lib", "global", "settings"):
            yield full, child


def case_of_setting(schema: Mapping[str, Any], name: str) -> Case:
    kind = schema["type"]
    value = SETTINGS.get(name, {"boolean": True, "string": "text", "array": []}.get(str(kind), 0.5))
    if kind == "integer":
        value = max(8388608, schema.get("minimum", 0)) if "maximum" not in schema else schema["maximum"]
    shown = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return Case(value, rf"LONGHAUL_{name.upper()}\]\.value: {re.escape(json.dumps(shown))}")


def service_cases() -> Iterator[tuple[str, str, Case]]:
    """Each value of each service's chart once: shared ones on ingest, others on the chart that has them."""
    for service in SERVICES:
        own = BY_CHART.get(service, {})
        shared = {**SHARED, **SERVICE} if service == "ingest" else {}
        for path, schema in leaves(schema_of(f"longhaul-{service}")):
            if path.startswith("settings."):
                yield f"longhaul-{service}", path, case_of_setting(schema, path.removeprefix("settings."))
            elif path in own or path in shared:
                yield f"longhaul-{service}", path, own.get(path) or shared[path]


def umbrella_cases() -> Iterator[tuple[str, str, Case]]:
    for path, _ in leaves(schema_of("longhaul")):
        if path in UMBRELLA:
            yield "longhaul", path, UMBRELLA[path]


@pytest.mark.parametrize(("chart", "path", "case"), [*service_cases(), *umbrella_cases()])
def test_value_makes_the_difference_that_it_is_for(chart: str, path: str, case: Case) -> None:
    found = differences(render(chart, case.under), render(chart, merge(case.under, under(path, case.value))))
    assert found, f"{path} changes nothing"
    assert any(re.search(case.expect, line, re.DOTALL) for line in found), "\n".join(found[:20])


def test_every_value_of_every_chart_has_a_case() -> None:
    known = {path for _, path, _ in [*service_cases(), *umbrella_cases()]} | {"enabled"}
    inside = {f"{service}.{path}" for service in SERVICES for path in known}
    missing = {path for path, _ in leaves(schema_of("longhaul"))} - known - inside
    for service in SERVICES:
        missing |= {path for path, _ in leaves(schema_of(f"longhaul-{service}"))} - known
    assert missing == set()


def test_every_value_is_described() -> None:
    for chart in ("longhaul", *(f"longhaul-{service}" for service in SERVICES)):
        for path, schema in leaves(schema_of(chart)):
            if "settings." not in path:  # those are described where the service reads them
                assert schema.get("description"), f"{chart}: {path}"


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": (under("replica", 2), "replica"),
    "unknown key below": (under("global.image.tags", "x"), "tags"),
    "wrong type": (under("replicas", "two"), "/replicas"),
    "wrong type below": (under("global.tls.mode", True), "/global/tls/mode"),
    "not one of the allowed": (under("global.log.level", "loud"), "/global/log/level"),
    "unknown setting": (under("settings.shard_leese_seconds", 3), "shard_leese_seconds"),
    "setting out of bounds": (under("settings.shard_attempts", 0), "/settings/shard_attempts"),
    "two replicas on SQLite": (under("replicas", 2), "/replicas"),
    "scaling on SQLite": (under("autoscaling.enabled", True), "/autoscaling/enabled"),
    "PostgreSQL without its secret": (under("global.database.kind", "postgresql"), "existingSecret"),
    "cert-manager without an issuer": (under("global.tls.mode", "certManager"), "/global/tls/issuer/name"),
    "Kueue without a queue": (under("global.runs.gang", "kueue"), "/global/runs/queue"),
    "malformed digest": (under("image.digest", "sha256:12"), "/image/digest"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_value_is_refused_by_name(name: str) -> None:
    values, expected = BAD[name]
    with pytest.raises(helm.HelmError, match=re.escape(expected)):
        render("longhaul-ingest", values)


@pytest.mark.parametrize("service", SERVICES)
def test_bad_value_of_a_service_is_refused_through_the_umbrella(service: str) -> None:
    with pytest.raises(helm.HelmError, match="replicaz"):
        render("longhaul", under(f"{service}.replicaz", 2))
    with pytest.raises(helm.HelmError, match="/replicas"):
        render("longhaul", under(f"{service}.replicas", 2))


def test_profiles_pass_their_own_schema() -> None:
    for names in (("trial",), ("production",), ("production", "gpu", "ray", "observability")):
        assert render("longhaul", profile(*names)).documents
