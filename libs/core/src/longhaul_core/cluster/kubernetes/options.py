"""The settings of a Kubernetes cluster and their URL form.

`kubernetes://?namespace=training&context=gpu-west&gpu_resource=nvidia.com/mig-1g.10gb`; every key is a field of
`KubernetesOptions` and may be left out. Without `kubeconfig` and `context` the credentials are those of the pod that
this runs in, and outside a pod those of the default kubeconfig.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

from longhaul_core.cluster.model import DEFAULT_NAMESPACE
from longhaul_core.errors import InvalidArgument, Violation

SCHEME = "kubernetes"
_E = TypeVar("_E", bound=StrEnum)


class Binding(StrEnum):
    """How a pod gets to the node that its spec names.

    `NODE` writes the node's name into the pod: no scheduler is asked, as for a burn-in on a cordoned node. `SCHEDULER`
    makes it a required affinity, for clusters where a scheduler must have the last word (Kueue, preemption by
    priority, other users' pods on the same nodes).
    """

    NODE = "node"
    SCHEDULER = "scheduler"


class PodSecurity(StrEnum):
    """The Pod Security level that overlays of single pods must stay within."""

    RESTRICTED = "restricted"
    PRIVILEGED = "privileged"


class GangScheduling(StrEnum):
    """Who starts the pods of a run together.

    `OWN`: longhaul counts capacity and creates all pods or none. The others add to that what a scheduler of the cluster
    asks for: Kueue's pod groups, the PodGroup of the coscheduling plugin, or Volcano's.
    """

    OWN = "own"
    KUEUE = "kueue"
    COSCHEDULING = "coscheduling"
    VOLCANO = "volcano"


@dataclass(frozen=True, slots=True)
class KubernetesOptions:
    """What a cluster URL says.

    Attributes:
        namespace: Stands for the namespace `default` of pod specs.
        scope: Comma-separated namespaces whose pods are read; empty: all, which needs a ClusterRole.
        kubeconfig: Path of a kubeconfig file.
        context: Context of that file, or of the default one.
        gpu_resource: Name of the resource that counts as a GPU.
        binding: See `Binding`.
        pod_security: `privileged` lets overlays of single pods leave the restricted profile (RDMA with IPC_LOCK).
        template: Path of a YAML file with a partial pod that the operator lays under every pod.
        gang: See `GangScheduling`; all but `own` need `binding=scheduler`.
        queue: Kueue's LocalQueue, or Volcano's queue, of the pods.
        exporter_url: Where a node's GPU metrics are scraped, with `{address}` for its internal IP; an annotation
            `longhaul.dev/exporter-url` of the node outranks it.
    """

    namespace: str = DEFAULT_NAMESPACE
    scope: tuple[str, ...] = ()
    kubeconfig: str = ""
    context: str = ""
    gpu_resource: str = "nvidia.com/gpu"
    binding: Binding = Binding.NODE
    pod_security: PodSecurity = PodSecurity.RESTRICTED
    template: str = ""
    gang: GangScheduling = GangScheduling.OWN
    queue: str = ""
    exporter_url: str = ""


def parse_url(url: str) -> KubernetesOptions:
    """Read `kubernetes://?key=value&...`. Raises `InvalidArgument` naming every wrong key and value."""
    parts = urlsplit(url)
    if parts.scheme != SCHEME or parts.netloc or parts.path.strip("/"):
        raise _invalid(url, [("cluster_url", f"{url!r} is not kubernetes://?key=value")])
    known = {field.name for field in fields(KubernetesOptions)}
    given: dict[str, object] = {}
    violations: list[Violation] = []
    for key, values in parse_qs(parts.query, keep_blank_values=True).items():
        if key not in known:
            nearest = difflib.get_close_matches(key, sorted(known), 1)
            hint = f"; {nearest[0]} is known" if nearest else f"; known are {', '.join(sorted(known))}"
            violations.append((f"cluster_url.{key}", f"is unknown{hint}"))
            continue
        try:
            given[key] = _value(key, values)
        except ValueError as error:
            violations.append((f"cluster_url.{key}", str(error)))
    if violations:
        raise _invalid(url, violations)
    options = KubernetesOptions(**given)  # type: ignore[arg-type]  # the keys and types were checked above
    if problems := _contradictions(options):
        raise _invalid(url, problems)
    return options


def _contradictions(options: KubernetesOptions) -> list[Violation]:
    found: list[Violation] = []
    if options.gang is not GangScheduling.OWN and options.binding is not Binding.SCHEDULER:
        found.append(("cluster_url.binding", f"{options.binding} asks no scheduler; gang={options.gang} needs one"))
    if options.gang is GangScheduling.KUEUE and not options.queue:
        found.append(("cluster_url.queue", "is empty; gang=kueue needs the name of a LocalQueue"))
    return found


def _value(key: str, values: list[str]) -> object:
    value = values[-1]
    if key == "scope":
        return tuple(sorted({name for text in values for name in text.split(",") if name}))
    if len(values) > 1:
        raise ValueError(f"is given {len(values)} times")
    if key == "binding":
        return _member(Binding, value)
    if key == "pod_security":
        return _member(PodSecurity, value)
    if key == "gang":
        return _member(GangScheduling, value)
    if key in ("namespace", "gpu_resource") and not value:
        raise ValueError("is empty")
    return value


def _member(kind: type[_E], value: str) -> _E:
    if value not in list(kind):
        raise ValueError(f"{value!r} is none of {', '.join(kind)}")
    return kind(value)


def _invalid(url: str, violations: list[Violation]) -> InvalidArgument:
    described = "; ".join(f"{field} {problem}" for field, problem in violations)
    return InvalidArgument(f"cluster URL {url!r}: {described}", reason="CLUSTER_URL_UNKNOWN", violations=violations)
