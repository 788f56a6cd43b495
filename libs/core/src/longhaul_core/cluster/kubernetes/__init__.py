"""The cluster seam on Kubernetes: pods created directly, everything read through list and watch.

The layers, from the outside in: `cluster` (the Protocol), `cache` and `reflector` (what the watches show), `manifest`,
`pods`, `nodes`, `reasons` (translation, pure), `api` and `transport` (HTTP). `errors` wraps the vendor's refusals,
once. Needs the extra `longhaul-core[kubernetes]`.
"""

from longhaul_core.cluster.kubernetes.cluster import KubernetesCluster
from longhaul_core.cluster.kubernetes.options import KubernetesOptions, parse_url

__all__ = ["KubernetesCluster", "KubernetesOptions", "parse_url"]
