"""A release whose pods run: `helm test`, a pipeline, scaling, restarts, upgrade and rollback under load, removal.

The cluster's own controllers and scheduler do their work; containers are processes of this machine (see machine.py).
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml
from chart_lab import Lab, load_values
from live_run import ENDLESS, STEP_SECONDS, LiveRun
from longhaul_core.rpc.user_tokens import digest_of
from longhaul_core.settings import GRPC_PORTS
from machine import TOLERATION, Machine
from release_lab import OF_RELEASE, RELEASE, SERVICES, Release

from tests.e2e.recipes import recipe, write_documents
from tests.e2e.replicas import ACCESS, SECRET, Bucket

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mount namespaces and addresses of its own"),
]
ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "longhaul"
USER = Path(__file__).parent / "user.py"
TOKEN_OF_ALICE = "token-of-alice"
USER_ENTRY = {"name": "alice", "role": "submitter", "token_sha256": digest_of(TOKEN_OF_ALICE)}
QUICK = {"drainDelaySeconds": 2, "shutdownGraceSeconds": 10}


@pytest.fixture
def lab(kubeconfig: Path) -> Iterator[Lab]:
    made = Lab(kubeconfig, f"longhaul-release-{uuid.uuid4().hex[:8]}")
    made.create_namespace("restricted")
    yield made
    made.call("DELETE", made.path("Namespace", made.namespace))


def values(profile: str, **settings: Any) -> dict[str, Any]:
    """A profile, placed on the suite's machine."""
    loaded = load_values(CHART / "profiles" / f"{profile}.yaml")
    for service in SERVICES:
        loaded[service] = {**loaded.get(service, {}), "tolerations": [TOLERATION], "workers": 1, **QUICK}
    training = loaded["training"].setdefault("settings", {})
    training |= {"pod_scratch_dir": "/tmp/scratch", "pod_tolerations": TOLERATION["key"]}
    loaded["global"].update(settings)
    return loaded


def start_pipeline(release: Release, name: str, texts: Path, **sections: Any) -> None:
    """`longhaul run` in a pod of a user who has the sources."""
    lab = release.lab
    document = recipe(name, Path("/etc/texts"), **sections)
    document["resources"] = {"nodes": 1, "gpus_per_node": 1, **sections.get("resources", {})}
    data = {
        name: {"recipe.yaml": yaml.safe_dump(document), "token": TOKEN_OF_ALICE},
        f"{name}-texts": {path.name: path.read_text() for path in texts.iterdir()},
    }
    for own, files in data.items():
        lab.call("POST", lab.path("ConfigMap"), {"metadata": {"name": own}, "data": files})
    hosts = {service: f"{RELEASE}-{service}-pods.{lab.namespace}.svc:{port}" for service, port in GRPC_PORTS.items()}
    add = ["context", "add", "lab", "--endpoint", hosts["training"], "--ca", "/etc/longhaul/tls/ca.crt"]
    add += ["--token-file", "/etc/recipe/token"] if release.auth else []
    add += [part for service, address in hosts.items() for part in ("--service", f"{service}={address}")]
    commands = [add, ["status"], ["run", "/etc/recipe/recipe.yaml"]]
    release.start_pod(
        f"user-{name}",
        ["python", str(USER), json.dumps(commands)],
        volumes=[{"name": own, "configMap": {"name": own}} for own in data],
        mounts=[
            {"name": name, "mountPath": "/etc/recipe", "readOnly": True},
            {"name": f"{name}-texts", "mountPath": "/etc/texts", "readOnly": True},
        ],
    )


def end_of_pipeline(release: Release, name: str) -> str:
    """The phase that the user's pod ends with."""
    release.wait(lambda: release.phase(f"user-{name}") in ("Succeeded", "Failed"), "the pipeline's end")
    return release.phase(f"user-{name}")


def test_trial_trains_a_model_and_leaves_nothing_but_its_volume(lab: Lab, tmp_path: Path) -> None:
    with (
        Machine(lab.admin, f"{lab.namespace}-node", [lab.namespace], gpus=2) as machine,
        helm.Config(kubeconfig_path=lab.kubeconfig, namespace=lab.namespace) as config,
    ):
        release = Release(lab, machine, config)
        given = values("trial")
        given["global"]["storage"]["local"] = {"node": machine.name}
        config.install(CHART, RELEASE, given, timeout=300)
        release.await_rollout("installation")
        config.test(RELEASE, timeout=120)
        for service in SERVICES:
            said = machine.log(f"{RELEASE}-{service}-test")
            assert f"{RELEASE}-{service}" in said, said
            assert "SERVING, answered List" in said
        texts = write_documents(tmp_path / "texts", documents=80)
        start_pipeline(release, "trial", texts)
        assert end_of_pipeline(release, "trial") == "Succeeded", machine.log("user-trial")
        assert "upload docs: " in machine.log("user-trial")
        assert {"default.run-trial-0-1"} <= set(machine.seen), machine.seen
        config.uninstall(RELEASE, timeout=120)
        release.wait(lambda: not release.left(), "nothing left but the volume")
        assert lab.names("PersistentVolumeClaim", OF_RELEASE) == {f"{RELEASE}-data"}
    lab.call("DELETE", lab.path("PersistentVolume", f"{lab.namespace}-{RELEASE}-data"))


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    served = Bucket(tmp_path / "bucket")
    yield served
    served.stop()


def production(lab: Lab, database_url: str, bucket: Bucket) -> dict[str, Any]:
    """The profile with secrets of a real PostgreSQL and a real S3; monitors need kinds that a bare cluster lacks."""
    secrets = {
        "longhaul-database": {"url": database_url},
        "longhaul-store": {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET},
        "longhaul-token": {"token": "services-only", "users.yaml": yaml.safe_dump({"users": [USER_ENTRY]})},
    }
    runs = f"{lab.namespace}-runs"
    lab.call("POST", lab.path("Namespace"), {"metadata": {"name": runs}})
    for name, data in secrets.items():
        lab.call("POST", lab.path("Secret"), {"metadata": {"name": name}, "stringData": data})
    store = {"metadata": {"name": "longhaul-store"}, "stringData": secrets["longhaul-store"]}
    lab.call("POST", lab.path("Secret", namespace=runs), store)
    made = values("production")
    made["global"]["objectStore"]["url"] = bucket.url
    made["global"]["runs"] |= {"namespaces": [runs], "createNamespaces": False}
    made["global"]["serviceMonitor"] = {"enabled": False}
    made["rules"] = {"enabled": False}
    for service in SERVICES:
        made[service]["topologySpread"] = {"enabled": False}
    return made


def released(given: dict[str, Any], digit: str) -> dict[str, Any]:
    """The values with images of another release."""
    images = {"image": {"tag": f"release-{digit}"}}
    runs = {**given["global"]["runs"], "image": {"digest": f"sha256:{digit * 64}"}}
    return {**given, "global": {**given["global"], **images, "runs": runs}}


def train_for_long(release: Release, runs: str, texts: Path) -> LiveRun:
    """A run that goes on until it is cancelled, once it has made some steps."""
    drill = {"pod": {"env": {"TRAINER_DRILL": f"step={STEP_SECONDS}"}}}
    start_pipeline(release, "stays", texts, resources=drill, **ENDLESS)
    live = LiveRun(release, "stays", runs, TOKEN_OF_ALICE)
    release.wait(lambda: live.raw_pods() or release.phase("user-stays") == "Failed", "the run has a pod")
    assert release.phase("user-stays") == "Running"
    live.await_steps(5)
    live.remember_pods()
    return live


def remove(release: Release, live: LiveRun, other: LiveRun) -> None:
    """Refused while runs live; forced, it leaves the pods of those that do, which go with what owns them."""
    lab, machine = release.lab, release.machine
    with pytest.raises(helm.HelmError):
        release.helm.uninstall(RELEASE, timeout=300)
    said = "".join(machine.log(pod) for pod in machine.seen if pod.startswith(f"{RELEASE}-guard-"))
    assert "guard: 2 live: " in said
    assert live.resource in said
    assert other.resource in said
    assert {f"{RELEASE}-{service}" for service in SERVICES} <= lab.names("Deployment", OF_RELEASE)
    live.cancel()
    release.wait(lambda: not live.raw_pods(), "the pods of the cancelled run are gone")
    owner, pods = f"longhaul-{other.get().metadata.uid}", set(other.raw_pods())
    forced = {"metadata": {"name": f"{RELEASE}-removal"}, "data": {"force": "true"}}
    lab.call("POST", lab.path("ConfigMap"), forced)
    release.helm.uninstall(RELEASE, timeout=300)
    assert set(other.raw_pods()) == pods
    lab.call("DELETE", lab.path("ConfigMap", owner, other.namespace))
    release.wait(lambda: not other.raw_pods(), "the pods of the other run are gone")


@pytest.mark.needs_program("postgres")
def test_production_scales_restarts_upgrades_and_rolls_back_under_load(
    lab: Lab, postgres_url: str, bucket: Bucket, tmp_path: Path
) -> None:
    runs = f"{lab.namespace}-runs"
    with (
        Machine(lab.admin, f"{lab.namespace}-node", [lab.namespace, runs], gpus=3) as machine,
        helm.Config(kubeconfig_path=lab.kubeconfig, namespace=lab.namespace) as config,
    ):
        release = Release(lab, machine, config, auth=True)
        given = production(lab, postgres_url, bucket)
        config.install(CHART, RELEASE, released(given, "1"), timeout=300)
        for service in SERVICES:  # autoscalers bring theirs up to their least within seconds
            release.wait(lambda service=service: len(release.pods_of(service)) == 2, f"two pods of {service}")  # type: ignore[misc]
        release.await_rollout("installation")
        config.test(RELEASE, timeout=120)

        live = train_for_long(release, runs, write_documents(tmp_path / "texts", documents=80))
        other = live.submit_another("loses-a-pod")
        release.start_clients(3)
        for service in SERVICES:
            release.restart(service)
        release.await_rollout("rolling restart")
        for service in SERVICES:
            release.scale(service, 3)
            release.scale(service, 2)
        live.check_unharmed()
        config.upgrade(CHART, RELEASE, released(given, "2"), timeout=300)
        release.await_rollout("upgrade")
        live.check_unharmed()
        other.lose_pod()
        config.rollback(RELEASE, timeout=300)
        release.await_rollout("rollback")
        live.check_unharmed()
        said = release.end_clients()
        assert [client["failed"] for client in said] == [[], [], []], said
        assert all(sum(client["made"].values()) > 100 for client in said), said
        assert live.images() | other.images() == {f"longhaul/trainer@sha256:{'1' * 64}"}

        remove(release, live, other)
        release.wait(lambda: not release.left(), "nothing left")
        assert not lab.names("PersistentVolumeClaim")
    lab.call("DELETE", lab.path("Namespace", runs))
