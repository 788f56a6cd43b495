"""What every command shares: the data folder, the project and the client."""

from dataclasses import dataclass
from pathlib import Path

import typer
from longhaul_core.errors import InvalidArgument

from longhaul_client.connection import Connection, local_connection
from longhaul_client.contexts import ClusterContext
from longhaul_client.sdk import Client


@dataclass(frozen=True, slots=True)
class Session:
    """The global options; `cluster` is where the services are not this machine's."""

    data_dir: Path
    project: str
    cluster: ClusterContext | None = None

    @property
    def parent(self) -> str:
        """The project as a resource name."""
        return f"projects/{self.project}"

    def client(self) -> Client:
        """Connect to the services."""
        return Client(self.connection())

    def connection(self) -> Connection:
        """How to reach the services."""
        return self.cluster.connection() if self.cluster is not None else local_connection(self.data_dir)

    def resource(self, name: str, collection: str) -> str:
        """Return the full name of a resource given by id or by full name."""
        if "/" not in name:
            return f"{self.parent}/{collection}/{name}"
        if f"/{collection}/" not in name:
            raise InvalidArgument(f"{name!r} is not a name of {collection}", reason="NAME_INVALID")
        return name


def session_of(context: typer.Context) -> Session:
    """Return the session that the main callback has made."""
    session = context.obj
    if not isinstance(session, Session):
        raise TypeError("the main callback did not run")
    return session
