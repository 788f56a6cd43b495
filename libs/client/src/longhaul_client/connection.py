"""Where the services are: of a local installation, or as given."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from longhaul_core.errors import FailedPrecondition

from longhaul_client.local.layout import SERVICES, load_layout

DATA_DIR_VARIABLE = "LONGHAUL_DATA_DIR"
DEFAULT_DATA_DIR = ".longhaul"


@dataclass(frozen=True, slots=True)
class Connection:
    """Addresses of the six services, the bearer token, and the data folder where they are local.

    `tls_ca`: PEM roots; empty: those of the system; None: no TLS.
    """

    addresses: Mapping[str, str]
    token: str | None = None
    tls_ca: bytes | None = None
    data_dir: Path | None = None


def default_data_dir() -> Path:
    """Return the data folder: of the environment, or `.longhaul` here."""
    return Path(os.environ.get(DATA_DIR_VARIABLE, DEFAULT_DATA_DIR)).absolute()


def local_connection(data_dir: Path) -> Connection:
    """Return how to reach the services that `longhaul up` started on a data folder.

    Raises:
        FailedPrecondition: NOT_UP, when nothing was ever started there.
    """
    layout = load_layout(data_dir)
    if layout is None:
        raise FailedPrecondition(
            f"nothing was started on {data_dir}",
            reason="NOT_UP",
            action="start the services with `longhaul up`, or name another folder with --data-dir",
        )
    return Connection({name: layout.addresses[name] for name in SERVICES}, data_dir=data_dir)
