"""Installations that the user reaches, by name: endpoint, token, roots; one of them is current.

Kept in `$XDG_CONFIG_HOME/longhaul/contexts.yaml` (else `~/.config/…`), readable by the user alone. The name `local`
stands for the services that `longhaul up` started on this machine.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import yaml
from longhaul_core.errors import InvalidArgument, NotFound
from longhaul_core.net import split_address
from longhaul_core.settings import GRPC_PORTS
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError, field_serializer, field_validator

from longhaul_client.connection import Connection
from longhaul_client.local.layout import SERVICES

LOCAL = "local"


class ClusterContext(BaseModel):
    """One installation: where it answers and with what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str
    """host:port that reaches all services; a host alone has each of them at its own port."""
    addresses: dict[str, str] = {}
    """Services that answer elsewhere."""
    token: SecretStr = SecretStr("")
    tls: bool = True
    ca: str = ""
    """PEM roots; empty: those of the system."""
    project: str = "default"

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        if ":" in value or not value:
            split_address(value, "endpoint")
        return value

    @field_validator("addresses")
    @classmethod
    def _check_addresses(cls, value: dict[str, str]) -> dict[str, str]:
        for service, address in value.items():
            if service not in SERVICES:
                raise ValueError(f"{service!r} is not a service; there are {', '.join(sorted(SERVICES))}")
            split_address(address, service)
        return value

    @field_serializer("token")
    def _reveal(self, token: SecretStr) -> str:
        return token.get_secret_value()

    def connection(self) -> Connection:
        """How to reach the services."""
        return Connection(
            {service: self.addresses.get(service) or self._address(service) for service in SERVICES},
            token=self.token.get_secret_value() or None,
            tls_ca=self.ca.encode() if self.tls else None,
        )

    def _address(self, service: str) -> str:
        return self.endpoint if ":" in self.endpoint else f"{self.endpoint}:{GRPC_PORTS[service]}"


class Contexts(BaseModel):
    """The file's content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    current: str = LOCAL
    contexts: dict[str, ClusterContext] = {}

    def get(self, name: str) -> ClusterContext | None:
        """A context by name; None for the local installation.

        Raises:
            NotFound: CONTEXT_NOT_FOUND, with the names there are.
        """
        if name == LOCAL:
            return None
        if name not in self.contexts:
            raise NotFound(
                f"there is no context {name!r}",
                reason="CONTEXT_NOT_FOUND",
                metadata={"contexts": ", ".join([LOCAL, *self.contexts])},
                action="see `longhaul context list`, or add it with `longhaul context add`",
            )
        return self.contexts[name]

    def with_context(self, name: str, context: ClusterContext) -> Self:
        """With one context added, or replaced, and made current."""
        if name == LOCAL:
            raise InvalidArgument(f"{LOCAL!r} stands for this machine; choose another name", reason="NAME_INVALID")
        return self.model_copy(update={"contexts": {**self.contexts, name: context}, "current": name})

    def without(self, name: str) -> Self:
        """With one context taken out."""
        self.get(name)
        contexts = {key: value for key, value in self.contexts.items() if key != name}
        return self.model_copy(
            update={"contexts": contexts, "current": LOCAL if self.current == name else self.current}
        )

    def using(self, name: str) -> Self:
        """With another one current."""
        self.get(name)
        return self.model_copy(update={"current": name})


def contexts_file(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the contexts are kept."""
    base = environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME", "~")).expanduser() / ".config"
    return Path(base) / "longhaul" / "contexts.yaml"


def read_contexts(path: Path) -> Contexts:
    """The contexts of a file; none where there is no file.

    Raises:
        InvalidArgument: CONTEXTS_INVALID, with the place.
    """
    if not path.exists():
        return Contexts()
    try:
        return Contexts.model_validate(yaml.safe_load(path.read_text()) or {})
    except yaml.YAMLError as error:
        raise _invalid(path, " ".join(str(error).split())) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _invalid(path, f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None


def write_contexts(path: Path, contexts: Contexts) -> None:
    """Replace the file, atomically; it holds tokens, so only its owner reads it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "w") as out:
        yaml.safe_dump(contexts.model_dump(mode="json", exclude_defaults=True), out, sort_keys=False)
    Path(temporary).replace(path)


def _invalid(path: Path, what: str) -> InvalidArgument:
    return InvalidArgument(
        f"contexts file {path}: {what}", reason="CONTEXTS_INVALID", action="mend it, or remove it and add contexts anew"
    )
