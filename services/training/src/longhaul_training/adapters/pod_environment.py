"""What is the same for every pod of an installation, and where it comes from.

A pod is a process beside this service on a local node, or a container elsewhere: then interpreter, paths and addresses
are those of the image and of the cluster, not this service's own.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from longhaul_core.cluster import Toleration

from longhaul_training.settings import TrainingSettings

CONTAINER_PYTHON = "python"
CONTAINER_SCRATCH = "/scratch"


@dataclass(frozen=True, slots=True)
class PodEnvironment:
    """Addresses as the pods reach them, paths and programs as they are inside.

    `installation` tells the pods of this database from those of another one in the same cluster.
    """

    controller_addresses: str
    object_store_url: str
    checkpoint_address: str
    scratch_dir: Path
    image: str = ""
    log_level: str = "info"
    metrics_address: str = ""
    metrics_targets_dir: Path | None = None
    python: str = sys.executable
    in_containers: bool = False
    secrets: tuple[str, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    grace_seconds: float = 30.0
    installation: str = ""
    tls_ca_pem: str = ""


def pod_environment(settings: TrainingSettings, address: str, installation: str) -> PodEnvironment:
    """The environment that the settings describe; `address` is where this replica is reached."""
    is_local = settings.resolved_cluster_url.startswith("local:")
    data = settings.data_dir.absolute()
    return PodEnvironment(
        controller_addresses=settings.controller_addresses or address,
        object_store_url=settings.pod_object_store_url or settings.resolved_object_store_url,
        checkpoint_address=settings.pod_checkpoint_address or settings.checkpoint_address,
        scratch_dir=Path(settings.pod_scratch_dir or (data / "scratch" if is_local else CONTAINER_SCRATCH)),
        image=settings.trainer_image,
        log_level=settings.log_level,
        # Pretend pods share one network: each takes a free port and writes down which.
        metrics_address="127.0.0.1:0" if is_local else settings.pod_metrics_address,
        metrics_targets_dir=data / "metrics-targets" if is_local else None,
        python=settings.pod_python or (sys.executable if is_local else CONTAINER_PYTHON),
        in_containers=not is_local,
        secrets=_parts(settings.pod_secrets),
        tolerations=tuple(_toleration(part) for part in _parts(settings.pod_tolerations)),
        grace_seconds=settings.pod_grace_seconds,
        installation=installation,
        tls_ca_pem=settings.tls_ca.read_text() if settings.tls_ca is not None else "",
    )


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _toleration(text: str) -> Toleration:
    key, _, value = text.partition("=")
    return Toleration(key, value)
