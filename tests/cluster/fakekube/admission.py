"""What the API server makes of a pod before it stores it: validation, references, quota, Pod Security."""

from __future__ import annotations

from dataclasses import dataclass, field

from fakekube.objects import ApiError, Objects, Raw

RESTRICTED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


@dataclass(slots=True)
class Admission:
    """`quotas` limits resources by namespace (`{"team-a": {"requests.nvidia.com/gpu": 8}}`)."""

    objects: Objects
    quotas: dict[str, dict[str, int]] = field(default_factory=dict)
    priority_classes: set[str] = field(default_factory=set)
    service_accounts: set[tuple[str, str]] = field(default_factory=set)

    def admit(self, namespace: str, pod: Raw) -> None:
        """Raise the API server's refusal."""
        owner = self.objects.find("namespaces", "", namespace)
        if owner is None:
            details = {"name": namespace, "kind": "namespaces"}
            raise ApiError(404, "NotFound", f'namespaces "{namespace}" not found', details)
        name = pod["metadata"]["name"]
        self._references(namespace, name, pod["spec"])
        level = (owner["metadata"].get("labels") or {}).get("pod-security.kubernetes.io/enforce")
        if level == "restricted" and (faults := restricted_violations(pod["spec"])):
            raise _forbidden(name, f'violates PodSecurity "restricted:latest": {", ".join(faults)}')
        _validate(name, pod["spec"])
        self._quota(namespace, name, pod["spec"])

    def _references(self, namespace: str, name: str, spec: Raw) -> None:
        priority = spec.get("priorityClassName")
        if priority and priority not in self.priority_classes:
            raise _forbidden(name, f"no PriorityClass with name {priority} was found")
        account = spec.get("serviceAccountName")
        if account and (namespace, account) not in self.service_accounts:
            message = f'error looking up service account {namespace}/{account}: serviceaccount "{account}" not found'
            raise _forbidden(name, message)

    def _quota(self, namespace: str, name: str, spec: Raw) -> None:
        for resource, limit in self.quotas.get(namespace, {}).items():
            asked = _requested(spec, resource.removeprefix("requests."))
            running = (pod for pod in self.objects.all("pods", namespace) if not _ended(pod))
            used = sum(_requested(pod["spec"], resource.removeprefix("requests.")) for pod in running)
            if asked and used + asked > limit:
                numbers = f"requested: {resource}={asked}, used: {resource}={used}, limited: {resource}={limit}"
                raise _forbidden(name, f"exceeded quota: gpus, {numbers}")


def restricted_violations(spec: Raw) -> list[str]:
    """The Pod Security Standard "restricted", version 1.37, as far as its fields occur."""
    found = [key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    security = spec.get("securityContext") or {}
    containers = [*spec["containers"], *spec.get("initContainers", ())]
    if (security.get("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
        found.append("seccompProfile")
    for container in containers:
        own = container.get("securityContext") or {}
        if own.get("privileged"):
            found.append("privileged")
        if own.get("allowPrivilegeEscalation") is not False:
            found.append("allowPrivilegeEscalation != false")
        if "ALL" not in (own.get("capabilities") or {}).get("drop", ()):
            found.append("unrestricted capabilities")
        if set((own.get("capabilities") or {}).get("add", ())) - {"NET_BIND_SERVICE"}:
            found.append("added capabilities")
        if not own.get("runAsNonRoot", security.get("runAsNonRoot")):
            found.append("runAsNonRoot != true")
    for volume in spec.get("volumes", ()):
        found += [f"volume type {kind}" for kind in set(volume) - {"name"} - RESTRICTED_VOLUMES]
    return found


def _validate(name: str, spec: Raw) -> None:
    causes = []
    for index, container in enumerate(spec["containers"]):
        field_ = f"spec.containers[{index}]"
        if not container.get("image"):
            causes.append({"reason": "FieldValueRequired", "message": "Required value", "field": f"{field_}.image"})
        resources = container.get("resources") or {}
        requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
        for resource in {*requests, *limits}:
            if "/" in resource and requests.get(resource) != limits.get(resource):
                message = f"Invalid value: {resource} limit must be equal to request"
                causes.append({"message": message, "field": f"{field_}.resources"})
        declared = {volume["name"] for volume in spec.get("volumes", ())}
        for mount in container.get("volumeMounts", ()):
            if mount["name"] not in declared:
                causes.append({"message": f'Not found: "{mount["name"]}"', "field": f"{field_}.volumeMounts"})
    if causes:
        fields = ", ".join(f"{cause['field']}: {cause['message']}" for cause in causes)
        details = {"name": name, "kind": "Pod", "causes": causes}
        raise ApiError(422, "Invalid", f'Pod "{name}" is invalid: {fields}', details)


def _requested(spec: Raw, resource: str) -> int:
    if resource == "pods":
        return 1
    requests = ((container.get("resources") or {}).get("requests") or {} for container in spec["containers"])
    return sum(int(request.get(resource, 0)) for request in requests)


def _ended(pod: Raw) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _forbidden(name: str, message: str) -> ApiError:
    return ApiError(403, "Forbidden", f'pods "{name}" is forbidden: {message}', {"name": name, "kind": "pods"})
