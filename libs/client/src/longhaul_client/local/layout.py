"""What `longhaul up` runs on this machine: addresses, folders, pretend nodes; kept in the data folder."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from longhaul_core.errors import FailedPrecondition
from longhaul_core.settings import GRPC_PORTS, METRICS_PORT_OFFSET

SERVICES = ("checkpoint", "gpuhealth", "ingest", "corpus", "training", "evaluation")
"""In the order of starting; each finds the others when they come."""

DEFAULT_PORT_BASE = min(GRPC_PORTS.values())
PORT_OFFSETS = {name: port - DEFAULT_PORT_BASE for name, port in GRPC_PORTS.items()}
METRICS_OFFSET = METRICS_PORT_OFFSET
EXPORTER_OFFSET = 200
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What the user may choose of a local installation."""

    port_base: int = DEFAULT_PORT_BASE
    nodes: int = 1
    gpus_per_node: int = 1
    workers: int = 0
    scenario: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """A local installation: where it lives and at which addresses it answers."""

    data_dir: Path
    options: UpOptions
    addresses: dict[str, str]
    metrics_addresses: dict[str, str]
    exporter_address: str
    processes: dict[str, "ProcessMark"] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)
    """Services that ended in a way that no restart mends, and how often in a row."""

    @property
    def lock_file(self) -> Path:
        """Held by the supervisor while it lives."""
        return self.data_dir / "up.lock"

    @property
    def log_dir(self) -> Path:
        """Logs of the services, the nodes and the supervisor."""
        return self.data_dir / "logs"

    def node_names(self) -> list[str]:
        """Names of the pretend nodes."""
        return [f"node-{index}" for index in range(self.options.nodes)]

    def exporter_url(self, node: str) -> str:
        """Where the exporter answers for a node."""
        return f"http://{self.exporter_address}/nodes/{node}/metrics"

    def with_process(self, name: str, mark: "ProcessMark | None") -> Self:
        """Return the layout with one process set, or taken out."""
        processes = {key: value for key, value in self.processes.items() if key != name}
        if mark is not None:
            processes[name] = mark
        return replace(self, processes=processes)

    def with_refusals(self, name: str, times: int) -> Self:
        """Return the layout with one service's refusals counted."""
        return replace(self, refusals={**self.refusals, name: times})

    def save(self) -> None:
        """Write the layout to the data folder, atomically."""
        content = asdict(self)
        content["data_dir"] = str(self.data_dir)
        target = layout_file(self.data_dir)
        temporary = target.with_suffix(".tmp")
        temporary.write_text(json.dumps(content, indent=1))
        temporary.replace(target)


@dataclass(frozen=True, slots=True)
class ProcessMark:
    """Identity of a process: its number alone may be used again by another."""

    pid: int
    create_time: float


def layout_file(data_dir: Path) -> Path:
    """Return where the layout of a data folder is kept."""
    return data_dir / "up.json"


def load_layout(data_dir: Path) -> Layout | None:
    """Read the layout of a data folder; None where `longhaul up` never ran.

    Raises:
        FailedPrecondition: LAYOUT_DAMAGED, when the file is there but unreadable.
    """
    path = layout_file(data_dir)
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        return Layout(
            data_dir=data_dir,
            options=UpOptions(**content["options"]),
            addresses=content["addresses"],
            metrics_addresses=content["metrics_addresses"],
            exporter_address=content["exporter_address"],
            processes={name: ProcessMark(**mark) for name, mark in content["processes"].items()},
            refusals=content.get("refusals", {}),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise FailedPrecondition(
            f"{path} is damaged: {error}",
            reason="LAYOUT_DAMAGED",
            action=f"remove {path}; everything else in the folder is kept",
        ) from error


def new_layout(data_dir: Path, options: UpOptions) -> Layout:
    """Lay out the addresses of a data folder from its port base."""
    base = options.port_base
    return Layout(
        data_dir=data_dir,
        options=options,
        addresses={name: f"{LOOPBACK}:{base + PORT_OFFSETS[name]}" for name in SERVICES},
        metrics_addresses={name: f"{LOOPBACK}:{base + METRICS_OFFSET + PORT_OFFSETS[name]}" for name in SERVICES},
        exporter_address=f"{LOOPBACK}:{base + EXPORTER_OFFSET}",
    )
