"""What the pods of a run ask for beside GPUs, where pods are containers of a cluster."""

import re
from typing import Any, Self

from pydantic import Field, NonNegativeFloat, model_validator

from longhaul_core.recipe.section import Section

RESERVED_PREFIX = "LONGHAUL_"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUANTITY = re.compile(r"\d+(\.\d+)?([kMGTPE]i?|Ki|m)?")


class TolerationConfig(Section):
    """A taint of nodes that the pods put up with; an empty value tolerates any value of the key."""

    key: str = Field(min_length=1)
    value: str = ""


class PodConfig(Section):
    """Placement, quantities, secrets and environment of a run's pods. Local processes use placement and env only."""

    node_selector: dict[str, str] = Field(default_factory=dict, description="labels that a node must carry")
    tolerations: list[TolerationConfig] = Field(default_factory=list, description="taints that are put up with")
    topology_label: str = Field(
        "", description="label of nodes (a rack, a block) on whose value all nodes of the run agree; empty: anywhere"
    )
    priority_class: str = Field("", description="PriorityClass of the pods; empty: the installation's")
    resources: dict[str, str] = Field(
        default_factory=dict, description='quantities a pod beside GPUs, such as memory: 64Gi, rdma/hca: "8"'
    )
    shared_memory_gib: NonNegativeFloat = Field(0.0, description="bound of /dev/shm; 0: the pod's memory limit")
    pull_secrets: list[str] = Field(default_factory=list, description="Secrets by which the image is pulled")
    secrets: list[str] = Field(default_factory=list, description="Secrets whose keys become environment variables")
    env: dict[str, str] = Field(default_factory=dict, description="environment variables of the workers")
    grace_seconds: NonNegativeFloat = Field(0.0, description="between SIGTERM and SIGKILL; 0: the installation's")
    overlay: dict[str, Any] = Field(
        default_factory=dict,
        description="partial Kubernetes pod laid over the rest: volumes, affinity, init containers",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in self.env:
            if not _VARIABLE.fullmatch(name):
                raise ValueError(f"env: {name!r} is no name of an environment variable")
            if name.startswith(RESERVED_PREFIX):
                raise ValueError(f"env: {name} is set by the controller; names beginning {RESERVED_PREFIX} are its own")
        for name, value in self.resources.items():
            if not _QUANTITY.fullmatch(value):
                raise ValueError(
                    f"resources: {name} is {value!r}; a quantity is a number with k, M, G, Ki, Mi, Gi or m"
                )
        if unknown := sorted(set(self.overlay) - {"metadata", "spec"}):
            raise ValueError(f"overlay: {unknown[0]!r} is neither metadata nor spec of a pod")
        return self
