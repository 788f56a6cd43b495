"""The URL of a cluster, and what is found wrong before anything is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakekube import FakeKubernetes
from longhaul_core.clock import SystemClock
from longhaul_core.cluster import open_cluster
from longhaul_core.cluster.kubernetes import KubernetesCluster, KubernetesOptions, parse_url
from longhaul_core.cluster.kubernetes.options import Binding, PodSecurity
from longhaul_core.errors import FailedPrecondition, InvalidArgument


def test_parse_url_reads_every_key() -> None:
    url = (
        "kubernetes://?namespace=ml&scope=ml,team-b&kubeconfig=/k&context=west&gpu_resource=nvidia.com/mig-1g.10gb"
        "&binding=scheduler&pod_security=privileged&template=/t.yaml&exporter_url=http://{address}:9400/metrics"
    )
    assert parse_url(url) == KubernetesOptions(
        namespace="ml",
        scope=("ml", "team-b"),
        kubeconfig="/k",
        context="west",
        gpu_resource="nvidia.com/mig-1g.10gb",
        binding=Binding.SCHEDULER,
        pod_security=PodSecurity.PRIVILEGED,
        template="/t.yaml",
        exporter_url="http://{address}:9400/metrics",
    )
    assert parse_url("kubernetes://") == KubernetesOptions()


def test_parse_url_names_every_wrong_key_and_value() -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_url("kubernetes://?namespce=x&binding=magic&context=a&context=b&gpu_resource=")
    assert caught.value.violations == (
        ("cluster_url.namespce", "is unknown; namespace is known"),
        ("cluster_url.binding", "'magic' is none of node, scheduler"),
        ("cluster_url.context", "is given 2 times"),
        ("cluster_url.gpu_resource", "is empty"),
    )


@pytest.mark.parametrize("url", ["kubernetes://host:6443", "kubernetes:///path", "https://x", "local://"])
def test_open_cluster_of_unknown_form_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        open_cluster(url)
    assert caught.value.reason == "CLUSTER_URL_UNKNOWN"


async def test_open_cluster_by_url_works(server: FakeKubernetes, tmp_path: Path) -> None:
    cluster = open_cluster(f"kubernetes://?kubeconfig={server.write_kubeconfig(tmp_path / 'config')}&context=fake")
    assert await cluster.list_nodes() == []
    await cluster.close()


@pytest.mark.parametrize(("kubeconfig", "context"), [("absent", ""), ("config", "elsewhere"), ("broken", "")])
async def test_unusable_kubeconfig_is_reported_with_what_to_do(
    server: FakeKubernetes, tmp_path: Path, kubeconfig: str, context: str
) -> None:
    server.write_kubeconfig(tmp_path / "config")
    (tmp_path / "broken").write_text("{clusters: [")
    options = KubernetesOptions(kubeconfig=str(tmp_path / kubeconfig), context=context)
    cluster = KubernetesCluster.open(options, SystemClock())
    with pytest.raises(FailedPrecondition) as caught:
        await cluster.list_nodes()
    assert caught.value.reason == "CLUSTER_CONFIG"
    assert "kubeconfig=" in caught.value.action


@pytest.mark.parametrize("text", ["- a list", "a: [", None])
def test_unusable_template_is_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "template.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidArgument) as caught:
        open_cluster(f"kubernetes://?template={path}")
    assert caught.value.reason == "TEMPLATE_INVALID"
