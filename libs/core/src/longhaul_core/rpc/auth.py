"""Who calls: the place in the interceptor chain where a caller is known, and where checks by role find them."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from longhaul_core.errors import Unauthenticated

AUTHORIZATION_KEY = "authorization"
_BEARER = "Bearer "


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller and what it may be."""

    name: str
    roles: frozenset[str]


ANYONE = Principal("anyone", frozenset({"viewer", "submitter", "operator"}))
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
    """Knows one bearer token, which makes its bearer an operator."""

    def __init__(self, token: str) -> None:
        self._expected = token.encode()

    async def authenticate(self, method: str, metadata: Mapping[str, str]) -> Principal:
        """Compare the token of the call."""
        value = metadata.get(AUTHORIZATION_KEY, "")
        if not value.startswith(_BEARER):
            raise Unauthenticated(
                "the call carries no token", reason="TOKEN_MISSING", action="set LONGHAUL_API_TOKEN for the client"
            )
        if not hmac.compare_digest(value.removeprefix(_BEARER).encode(), self._expected):
            raise Unauthenticated(
                "the token of the call is not the server's", reason="TOKEN_WRONG", action="set LONGHAUL_API_TOKEN anew"
            )
        return Principal("token", ANYONE.roles)


_principal: ContextVar[Principal] = ContextVar("longhaul_principal", default=ANYONE)


def current_principal() -> Principal:
    """Return the caller of the call in progress."""
    return _principal.get()


def set_principal(principal: Principal) -> None:
    """Note the caller for the rest of this call (each call is a task of its own)."""
    _principal.set(principal)


def bearer(token: str) -> tuple[str, str]:
    """Return the metadata entry that carries a token."""
    return AUTHORIZATION_KEY, _BEARER + token
