"""TLS secrets of one namespace, over the plain HTTPS API: all that an installation hook needs of Kubernetes."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from longhaul_core.certificates.authority import KeyPair
from longhaul_core.errors import AlreadyExists, FailedPrecondition, PermissionDenied, Unavailable

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
API_SERVER = "https://kubernetes.default.svc"
CERTIFICATE, KEY, AUTHORITY = "tls.crt", "tls.key", "ca.crt"
_TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Secrets:
    """Reads and writes secrets of type kubernetes.io/tls."""

    namespace: str
    server: str = API_SERVER
    account: Path = SERVICE_ACCOUNT

    def read(self, name: str) -> KeyPair | None:
        """Return the pair in a secret, None where there is no such secret.

        Raises:
            FailedPrecondition: The secret holds no pair.
        """
        found = self._ask("GET", name)
        if found is None:
            return None
        data = {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}
        if not data.get(CERTIFICATE) or not data.get(KEY):
            raise FailedPrecondition(
                f"the secret {name} of namespace {self.namespace} lacks {CERTIFICATE} or {KEY}",
                reason="SECRET_INCOMPLETE",
                action="fill it, or delete it so that it is made anew",
            )
        return KeyPair(data[CERTIFICATE], data[KEY])

    def create(self, name: str, pair: KeyPair, authority: bytes, labels: Mapping[str, str]) -> None:
        """Create a secret. Raises AlreadyExists where another was faster."""
        self._ask("POST", "", self._document(name, pair, authority, labels))

    def replace(self, name: str, pair: KeyPair, authority: bytes, labels: Mapping[str, str]) -> None:
        """Write over a secret."""
        self._ask("PUT", name, self._document(name, pair, authority, labels))

    def delete(self, name: str) -> bool:
        """Delete a secret; tell whether there was one."""
        return self._ask("DELETE", name) is not None

    def _document(self, name: str, pair: KeyPair, authority: bytes, labels: Mapping[str, str]) -> dict[str, Any]:
        data = {CERTIFICATE: pair.certificate, KEY: pair.key, AUTHORITY: authority}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": name, "namespace": self.namespace, "labels": dict(labels)},
            "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
        }

    def _ask(self, method: str, name: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        path = f"/api/v1/namespaces/{quote(self.namespace)}/secrets"
        request = urllib.request.Request(  # noqa: S310 - the scheme is https, or http of a test
            self.server + (f"{path}/{quote(name)}" if name else path),
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Authorization": f"Bearer {self._token()}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS, context=self._context()) as answer:  # noqa: S310
                decoded: dict[str, Any] = json.loads(answer.read())
                return decoded
        except urllib.error.HTTPError as error:
            self._refused(error, method, name)
            return None
        except OSError as error:
            raise Unavailable(
                f"the Kubernetes API at {self.server} does not answer: {error}",
                reason="CLUSTER_UNREACHABLE",
                action="see whether a network policy keeps this pod from the API server",
            ) from error

    def _refused(self, error: urllib.error.HTTPError, method: str, name: str) -> None:
        """Raise what an answer means; return where there is simply no such secret."""
        with error:
            text = error.read().decode(errors="replace")
        if error.code == 404 and method in ("GET", "DELETE"):
            return
        if error.code == 409:
            raise AlreadyExists(f"the secret {name or 'to create'} is there already", reason="SECRET_EXISTS")
        if error.code in (401, 403):
            raise PermissionDenied(
                f"the service account may not {method} secrets of namespace {self.namespace}: {text[:300]}",
                reason="CLUSTER_REFUSED",
                action="see the Role of the certificates hook",
            )
        raise Unavailable(f"the Kubernetes API answered {error.code}: {text[:300]}", reason="CLUSTER_ERROR")

    def _token(self) -> str:
        path = self.account / "token"
        try:
            return path.read_text().strip()
        except OSError as error:
            raise FailedPrecondition(
                f"no service account token: {error}", reason="CLUSTER_CONFIG", action="run this in a pod"
            ) from error

    def _context(self) -> ssl.SSLContext | None:
        if not self.server.startswith("https"):
            return None
        return ssl.create_default_context(cafile=str(self.account / "ca.crt"))
