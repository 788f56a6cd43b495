"""Where the API server is and who we are there: a kubeconfig, or the service account of the pod around us."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import yaml

from longhaul_core.cluster.kubernetes.options import KubernetesOptions
from longhaul_core.errors import FailedPrecondition

USER_AGENT = "longhaul"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Loads a vendor configuration and keeps it usable."""

    options: KubernetesOptions

    async def client(self) -> Any:
        """A new REST client. Raises `FailedPrecondition` when no usable configuration is found."""
        await asyncio.to_thread(_import_vendor)  # hundreds of modules: the loop goes on meanwhile
        from kubernetes.aio.client.api_client import ApiClient
        from kubernetes.aio.client.configuration import Configuration

        configuration = Configuration()
        await self.load(configuration)
        client = ApiClient(configuration)
        client.user_agent = USER_AGENT
        return client

    async def load(self, configuration: Any) -> None:
        """Fill `configuration`, also again when its token has expired."""
        from kubernetes.aio import config

        chosen = self.options.kubeconfig or self.options.context
        try:
            if not chosen and _in_cluster(config, configuration):
                return
            await config.load_kube_config(
                config_file=self.options.kubeconfig or None,
                context=self.options.context or None,
                client_configuration=configuration,
                persist_config=False,
            )
        except (config.ConfigException, OSError, ValueError, yaml.YAMLError) as error:
            raise FailedPrecondition(
                f"no usable Kubernetes configuration: {error}",
                reason="CLUSTER_CONFIG",
                action="set KUBECONFIG, or kubeconfig= and context= in the cluster URL, or run in a pod",
            ) from error


def _in_cluster(config: Any, configuration: Any) -> bool:
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException:
        return False
    return True


def _import_vendor() -> None:
    import kubernetes.aio.client.api_client
    import kubernetes.aio.config  # noqa: F401 (its import is what takes time)
