"""Answers of the API server other than success, wrapped once into the errors of this system.

A `Status` object's `reason` and `details` are relied on where the API defines them. What admission refuses has only a
message, whose fixed parts are matched here and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from longhaul_core.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    LonghaulError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)

DEFAULT_RETRY_SECONDS = 1.0
BUSY = "CLUSTER_BUSY"
_QUOTA = re.compile(r"exceeded quota: (?P<quota>\S+), requested: (?P<requested>.+), used: .+, limited: .+")
_MISSING = re.compile(
    r"(?P<kind>serviceaccounts?|PriorityClass|namespaces)\b.*?\"?(?P<name>[\w.-]+)\"? (was )?not found"
)
_OTHER_UID = re.compile(r"UID in (the )?precondition")
_PRIORITY = re.compile(r"no PriorityClass with name (?P<name>\S+) was found")


class ResumePointGoneError(Exception):
    """The API server no longer has the history after the resource version that was asked for (410)."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the API, as errors and counters name it."""

    verb: str
    resource: str
    namespace: str = ""
    name: str = ""
    group: str = ""

    @property
    def key(self) -> str:
        """Name in counters."""
        return f"{self.verb} {self.resource}"

    def described(self) -> str:
        """For messages: `create pods team-a/p`."""
        target = "/".join(part for part in (self.namespace, self.name) if part)
        return f"{self.key} {target}".rstrip()

    def with_name(self, name: str) -> Call:
        """The same call about a named object."""
        return replace(self, name=name)


def unreachable(call: Call, error: BaseException) -> Unavailable:
    """The connection failed or the answer did not come in time."""
    cause = str(error) or type(error).__name__
    return Unavailable(
        f"the Kubernetes API did not answer {call.described()}: {cause}",
        reason="CLUSTER_UNREACHABLE",
        retry_after_seconds=DEFAULT_RETRY_SECONDS,
    )


def asked_pause(error: LonghaulError) -> float:
    """Seconds for which the API server asked to be left alone."""
    return error.retry_after_seconds if isinstance(error, Unavailable) and error.reason == BUSY else 0.0


def from_status(call: Call, code: int, status: Mapping[str, Any], retry_after: float | None = None) -> LonghaulError:
    """The error for an answer with HTTP status `code`; `status` is its `Status` object, `{}` where it had none."""
    message = str(status.get("message") or f"HTTP {code}")
    if code == 429 or code >= 500:
        delay = DEFAULT_RETRY_SECONDS if retry_after is None else retry_after
        return Unavailable(
            f"the Kubernetes API refused {call.described()} for now: {message}",
            reason=BUSY if code == 429 else "CLUSTER_UNAVAILABLE",
            retry_after_seconds=delay,
        )
    match code:
        case 400 | 422:
            return _invalid(call, message, status)
        case 401:
            return Unauthenticated(
                f"the Kubernetes API does not know these credentials: {message}",
                reason="CLUSTER_CREDENTIALS",
                action="renew the kubeconfig's credentials, or mount a service account token",
            )
        case 403:
            return _forbidden(call, message)
        case 404:
            return _not_found(call, message, status)
        case 409:
            return _conflict(call, message, status)
    return Internal(f"the Kubernetes API answered {call.described()} with {code}: {message}", reason="CLUSTER_ANSWER")


def _invalid(call: Call, message: str, status: Mapping[str, Any]) -> InvalidArgument:
    causes = (status.get("details") or {}).get("causes") or ()
    violations = [(str(cause.get("field") or "spec"), str(cause.get("message") or "")) for cause in causes]
    return InvalidArgument(
        f"the Kubernetes API refused {call.described()}: {message}", reason="POD_INVALID", violations=violations
    )


def _forbidden(call: Call, message: str) -> LonghaulError:
    if quota := _QUOTA.search(message):
        return ResourceExhausted(
            f"{call.described()}: {quota[0]}",
            reason="QUOTA_EXCEEDED",
            metadata={"quota": quota["quota"], "requested": quota["requested"], "namespace": call.namespace},
            action=f"raise the ResourceQuota {quota['quota']} of namespace {call.namespace}, or ask for less",
        )
    if "cannot " in message and " resource " in message:
        return _rbac(call, message)
    if "violates PodSecurity" in message:
        action = "take the fields named out of the overlay, or run the namespace at a lower Pod Security level"
        return FailedPrecondition(f"{call.described()}: {message}", reason="POD_SECURITY", action=action)
    if "is being terminated" in message:
        action = "wait for its end and create it again"
        return FailedPrecondition(f"{call.described()}: {message}", reason="NAMESPACE_TERMINATING", action=action)
    if missing := _PRIORITY.search(message) or _MISSING.search(message):
        action = f"create {missing['name']}, or name one that exists"
        return FailedPrecondition(f"{call.described()}: {message}", reason="REFERENCE_MISSING", action=action)
    return FailedPrecondition(
        f"admission of the cluster refused {call.described()}: {message}",
        reason="ADMISSION_REFUSED",
        action="ask the cluster's operator about the policy named",
    )


def _rbac(call: Call, message: str) -> PermissionDenied:
    scope = f"a Role in namespace {call.namespace}" if call.namespace else "a ClusterRole"
    rule = f'{{apiGroups: ["{call.group}"], resources: ["{call.resource}"], verbs: ["{call.verb}"]}}'
    place = f" in namespace {call.namespace}" if call.namespace else ""
    return PermissionDenied(
        f"this service may not {call.verb} {call.resource}{place}: {message}",
        reason="CLUSTER_FORBIDDEN",
        metadata={"verb": call.verb, "resource": call.resource, "namespace": call.namespace},
        action=f"give its service account {scope} with the rule {rule}",
    )


def _not_found(call: Call, message: str, status: Mapping[str, Any]) -> LonghaulError:
    details = status.get("details") or {}
    if details.get("kind") == "namespaces" or message.startswith("namespaces "):
        return NotFound(
            f"there is no namespace {call.namespace}",
            reason="NAMESPACE_NOT_FOUND",
            metadata={"namespace": call.namespace},
            action=f"create it: kubectl create namespace {call.namespace}",
        )
    if call.resource.startswith("nodes"):
        return NotFound(f"there is no node {call.name}", reason="NODE_NOT_FOUND", metadata={"node": call.name})
    if call.resource == "podgroups":
        return FailedPrecondition(
            f"the cluster knows no PodGroup of {call.group}: {message}",
            reason="GANG_SCHEDULER_MISSING",
            action="install the scheduler that the key gang of the cluster URL names, or set gang=own",
        )
    kind = "pod" if call.resource.startswith("pods") else call.resource
    return NotFound(f"there is no {kind} {call.namespace}/{call.name}", reason="POD_NOT_FOUND")


def _conflict(call: Call, message: str, status: Mapping[str, Any]) -> LonghaulError:
    if status.get("reason") == "AlreadyExists":
        kind = "pod" if call.resource == "pods" else call.resource
        return AlreadyExists(f"{kind} {call.namespace}/{call.name} exists", reason="POD_EXISTS")
    if _OTHER_UID.search(message):
        return Aborted(f"pod {call.namespace}/{call.name} is another pod now: {message}", reason="UID_DIFFERS")
    return Aborted(f"{call.described()}: {message}", reason="CONFLICT")
