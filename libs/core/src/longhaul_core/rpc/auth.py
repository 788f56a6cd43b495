"""Who calls: authenticators, and where servicers find the caller of the call in progress."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Protocol

from longhaul_core.clock import Clock
from longhaul_core.errors import InvalidArgument, PermissionDenied, Unauthenticated
from longhaul_core.rpc.access import Principal, Role
from longhaul_core.rpc.pod_tokens import PREFIX, PodTokens, key_from
from longhaul_core.rpc.user_tokens import UserTokens
from longhaul_core.settings import ServiceSettings

AUTHORIZATION_KEY = "authorization"
_BEARER = "Bearer "

ANYONE = Principal("anyone", Role.SERVICE)
"""The caller where no authentication is set up: loopback, one user."""


class Authenticator(Protocol):
    """Tells who calls."""

    async def authenticate(self, method: str, metadata: Mapping[str, str]) -> Principal:
        """Return the caller of a method.

        Raises:
            Unauthenticated: The credentials are missing or wrong.
        """
        ...


class OpenAuthenticator:
    """Takes every caller for the one user of this machine."""

    async def authenticate(self, method: str, metadata: Mapping[str, str]) -> Principal:
        """Return `ANYONE`."""
        return ANYONE


class TokenAuthenticator:
    """Knows the token of the services, those of users, and those of training pods."""

    def __init__(self, token: str, users: UserTokens | None, pods: PodTokens) -> None:
        self._token = token.encode()
        self._users = users
        self._pods = pods

    async def authenticate(self, method: str, metadata: Mapping[str, str]) -> Principal:
        """Find the bearer of the call's token."""
        value = metadata.get(AUTHORIZATION_KEY, "")
        if not value.startswith(_BEARER):
            raise Unauthenticated(
                "the call carries no token",
                reason="TOKEN_MISSING",
                action="add the token to your context (`longhaul context add`), or set LONGHAUL_API_TOKEN",
            )
        token = value.removeprefix(_BEARER)
        if hmac.compare_digest(token.encode(), self._token):
            return Principal("service", Role.SERVICE)
        if token.startswith(PREFIX) and (claim := self._pods.read(token)) is not None:
            return Principal(f"pod {claim.slot} of {claim.run}", Role.POD, claim)
        if self._users is not None and (user := self._users.find(token)) is not None:
            return Principal(user.name, Role[user.role.upper()])
        raise Unauthenticated(
            "the token of the call is not known here",
            reason="TOKEN_WRONG",
            action="see `longhaul context list`; an operator makes a new one with `longhaul token`",
        )


def open_authenticator(settings: ServiceSettings, clock: Clock) -> Authenticator:
    """The authenticator that the settings ask for; without a token every caller is let in.

    Raises:
        InvalidArgument: The users file is wrong, or users are named and the services have no token.
    """
    token = settings.api_token.get_secret_value()
    if not token:
        if settings.users_file is not None:
            raise InvalidArgument(
                "LONGHAUL_USERS_FILE is set and LONGHAUL_API_TOKEN is not: services could not call one another",
                reason="TOKEN_MISSING",
                action="set LONGHAUL_API_TOKEN, the same for all services",
            )
        return OpenAuthenticator()
    users = UserTokens(settings.users_file, clock) if settings.users_file is not None else None
    return TokenAuthenticator(token, users, PodTokens(pod_key(settings)))


def pod_key(settings: ServiceSettings) -> bytes:
    """The key that pod tokens are signed with, the same in all services; empty where callers are not asked."""
    secret = settings.pod_token_key.get_secret_value() or settings.api_token.get_secret_value()
    return key_from(secret) if secret else b""


_principal: ContextVar[Principal] = ContextVar("longhaul_principal", default=ANYONE)


def current_principal() -> Principal:
    """Return the caller of the call in progress."""
    return _principal.get()


def set_principal(principal: Principal) -> None:
    """Note the caller for the rest of this call (each call is a task of its own)."""
    _principal.set(principal)


def require_own_run(run: str) -> None:
    """Refuse a training pod that asks for a run other than its own.

    Raises:
        PermissionDenied: POD_OF_OTHER_RUN.
    """
    pod = current_principal().pod
    if pod is not None and pod.run != run:
        raise PermissionDenied(
            f"a pod of {pod.run} asked for {run}", reason="POD_OF_OTHER_RUN", metadata={"run": run, "own_run": pod.run}
        )


def bearer(token: str) -> tuple[str, str]:
    """Return the metadata entry that carries a token."""
    return AUTHORIZATION_KEY, _BEARER + token
