"""Which role a method asks for, as its proto says, and whether a caller has it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cache

from google.protobuf import descriptor_pool
from longhaul.common.v1 import access_pb2

from longhaul_core.errors import PermissionDenied
from longhaul_core.rpc.pod_tokens import PodClaim


class Role(IntEnum):
    """What a caller may do; each includes those before it."""

    POD = 0
    VIEWER = 1
    SUBMITTER = 2
    OPERATOR = 3
    SERVICE = 4


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller, what it may do, and who it is where it is a training pod."""

    name: str
    role: Role
    pod: PodClaim | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """What a method asks of its caller."""

    role: Role
    pods: bool


_READS = frozenset({"grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection"})


@cache
def access_of(method: str) -> Access:
    """What `/package.Service/Method` asks for; a method that says nothing is for services only."""
    service, _, name = method.removeprefix("/").partition("/")
    if service in _READS:
        return Access(Role.VIEWER, pods=False)
    try:
        found = descriptor_pool.Default().FindMethodByName(f"{service}.{name}")
    except KeyError:
        return Access(Role.SERVICE, pods=False)
    options = found.GetOptions()
    role = options.Extensions[access_pb2.role]
    return Access(Role(role) if role else Role.SERVICE, pods=options.Extensions[access_pb2.pods])


def require_access(principal: Principal, method: str) -> None:
    """Refuse a caller whose role does not reach.

    Raises:
        PermissionDenied: ROLE_MISSING, with the role that the method asks for.
    """
    access = access_of(method)
    if principal.role >= access.role or (principal.role is Role.POD and access.pods):
        return
    wanted, has = access.role.name.lower(), principal.role.name.lower()
    raise PermissionDenied(
        f"{method.rpartition('/')[2]} needs the role {wanted}; {principal.name} is a {has}",
        reason="ROLE_MISSING",
        metadata={"method": method, "role": has, "needed": wanted},
        action="ask an operator of this installation for the role",
    )
