"""Tokens by which training pods prove which run, slot and incarnation they are, to any service that has the key.

token = "pod." + base64url(JSON of the claim) + "." + base64url(HMAC-SHA256(key, JSON of the claim)).
A token says nothing about another pod's, and needs no call to check.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import asdict, dataclass

PREFIX = "pod."


@dataclass(frozen=True, slots=True)
class PodClaim:
    """Who a pod is; `run` is the full name of its training run, `run_uid` the identity behind the name."""

    run: str
    run_uid: str
    slot: int
    incarnation: int


class PodTokens:
    """Issues and checks pod tokens under one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def issue(self, claim: PodClaim) -> str:
        """The token of a pod."""
        body = json.dumps(asdict(claim), sort_keys=True, separators=(",", ":")).encode()
        return f"{PREFIX}{_encode(body)}.{_encode(self._sign(body))}"

    def read(self, token: str) -> PodClaim | None:
        """The claim of a token; None for one that this key has not signed."""
        if not token.startswith(PREFIX):
            return None
        body, _, signature = token.removeprefix(PREFIX).partition(".")
        try:
            content, signed = _decode(body), _decode(signature)
        except ValueError:
            return None
        if not hmac.compare_digest(signed, self._sign(content)):
            return None
        return PodClaim(**json.loads(content))

    def _sign(self, body: bytes) -> bytes:
        return hmac.new(self._key, body, hashlib.sha256).digest()


def key_from(secret: str) -> bytes:
    """A key for pod tokens out of another secret, from which that secret cannot be told."""
    return hmac.new(secret.encode(), b"longhaul pod tokens", hashlib.sha256).digest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
