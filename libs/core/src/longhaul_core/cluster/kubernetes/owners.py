"""What stands for a run in the cluster: a ConfigMap that owns its pods, and the gang's PodGroup where one is wanted.

Made with the first pod and remembered for a while, so that a pod costs no call for it. Remembered only for a while,
because the cluster deletes pods at once that name an owner which is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from longhaul_core.clock import Clock
from longhaul_core.cluster.kubernetes.api import Api, Collection, Raw, Resource
from longhaul_core.cluster.kubernetes.gangs import pod_group
from longhaul_core.cluster.kubernetes.options import KubernetesOptions
from longhaul_core.cluster.model import PodOwner, PodSpec
from longhaul_core.errors import AlreadyExists, NotFound

REMEMBERED_SECONDS = 30.0

_Key = tuple[str, str]


@dataclass(slots=True)
class Owners:
    """Owners by namespace and name."""

    api: Api
    options: KubernetesOptions
    clock: Clock
    _known: dict[_Key, tuple[Raw, float]] = field(default_factory=dict)
    _groups: set[_Key] = field(default_factory=set)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def prepare(self, spec: PodSpec, namespace: str) -> Raw | None:
        """See that owner and PodGroup of a pod exist; returns the reference to the owner, if it has one."""
        async with self._lock:
            reference = None if spec.owner is None else await self._reference(spec.owner, namespace)
            if spec.gang is not None and (namespace, spec.gang.name) not in self._groups:
                group = pod_group(spec.gang, namespace, self.options, reference)
                if group is not None:
                    with suppress(AlreadyExists):
                        await self.api.create(*group)
                    self._groups.add((namespace, spec.gang.name))
            return reference

    async def list(self, labels: Mapping[str, str] | None) -> list[PodOwner]:
        """Owners that carry `labels`, in the namespaces of the scope."""
        found: list[PodOwner] = []
        for namespace in self.options.scope or ("",):
            listing = await self.api.list_all(Collection(Resource.CONFIG_MAPS, namespace), labels)
            found += [_owner(raw) for raw in listing.items]
        return sorted(found, key=lambda owner: (owner.namespace, owner.name))

    async def delete(self, namespace: str, name: str) -> None:
        """Remove an owner."""
        self._known.pop((namespace, name), None)
        with suppress(NotFound):
            await self.api.delete(Collection(Resource.CONFIG_MAPS, namespace), name)

    async def _reference(self, owner: PodOwner, namespace: str) -> Raw:
        key, now = (namespace, owner.name), self.clock.monotonic()
        reference, until = self._known.get(key, ({}, now))
        if now >= until:
            reference = await self._ensure(owner, namespace)
            self._known[key] = (reference, now + REMEMBERED_SECONDS)
        return reference

    async def _ensure(self, owner: PodOwner, namespace: str) -> Raw:
        place = Collection(Resource.CONFIG_MAPS, namespace)
        metadata = {"name": owner.name, "namespace": namespace, "labels": dict(owner.labels)}
        wanted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(owner.data)}
        try:
            raw = await self.api.create(place, wanted)
        except AlreadyExists:
            raw = await self.api.get(place, owner.name)
        return {"apiVersion": "v1", "kind": "ConfigMap", "name": owner.name, "uid": raw["metadata"]["uid"]}


def _owner(raw: Raw) -> PodOwner:
    metadata = raw["metadata"]
    return PodOwner(metadata["name"], metadata["namespace"], metadata.get("labels") or {}, raw.get("data") or {})
