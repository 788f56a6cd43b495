"""Scenarios: which pretend nodes there are and what befalls their GPUs, as a checked YAML document."""

from __future__ import annotations

import difflib
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from longhaul_core.errors import InvalidArgument
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from longhaul_gpuhealth.domain.yaml_places import YamlFault, load, locate

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|m|h)?")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _seconds(value: Any) -> Any:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    return float(match.group(1)) * _UNITS[match.group(2) or "s"] if match else value


Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0)]


class Behaviour(StrEnum):
    """How an exporter answers."""

    NORMAL = "normal"
    HANG = "hang"
    DROP = "drop"
    FAIL = "fail"
    MALFORMED = "malformed"
    NAN = "nan"
    SLOW = "slow"
    ENDLESS = "endless"
    HTML = "html"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeScenario(_Section):
    """A pretend node. `job_utilization`: percent that its GPUs are busy."""

    gpus: int = Field(1, ge=1, le=16)
    model: str = "NVIDIA H100 80GB HBM3"
    job_utilization: float = Field(97.0, ge=0, le=100)


class EventScenario(_Section):
    """Something that befalls a node `at` a time after the start, or when triggered by name; for a while or for good.

    `gpu` None means all GPUs of the node. `signals` are set, `growth` is added to counters each second, `xid` is
    reported once, `exporter` changes how the node's exporter answers, `lost` takes the GPU out of its pages.
    """

    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    node: str
    gpu: int | None = Field(None, ge=0)
    at: Seconds | None = None
    lasts: Seconds | None = None
    xid: int | None = Field(None, ge=1)
    signals: dict[str, float] = {}
    growth: dict[str, float] = {}
    exporter: Behaviour = Behaviour.NORMAL
    lost: bool = False


class Scenario(_Section):
    """A scenario file. `xid_counter`: also give DCGM_EXP_XID_ERRORS_COUNT, as newer exporters do."""

    seed: int = 0
    xid_counter: bool = False
    nodes: dict[str, NodeScenario] = Field(min_length=1)
    events: tuple[EventScenario, ...] = ()

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        names = [event.name for event in self.events]
        for event in self.events:
            if names.count(event.name) > 1:
                raise ValueError(f"event {event.name!r} is given twice")
            node = self.nodes.get(event.node)
            if node is None:
                raise ValueError(f"event {event.name!r} names node {event.node!r}, which is not among the nodes")
            if event.gpu is not None and event.gpu >= node.gpus:
                raise ValueError(f"event {event.name!r} names GPU {event.gpu}; {event.node} has {node.gpus}")
        return self


def load_scenario(path: Path) -> Scenario:
    """Read a scenario file. Raises `InvalidArgument` with every fault and its line."""
    try:
        document, root = load(path.read_text(encoding="utf-8"))
        return Scenario.model_validate(document)
    except OSError as error:
        raise _invalid(path, [f"cannot be read: {error.strerror}"]) from None
    except (YamlFault, UnicodeDecodeError) as error:
        raise _invalid(path, [str(error)]) from None
    except ValidationError as error:
        faults = []
        for item in error.errors(include_url=False, include_context=False, include_input=False):
            text = item["msg"].removeprefix("Value error, ")
            if item["type"] == "extra_forbidden":
                text = f"unknown key {item['loc'][-1]!r}{_near(str(item['loc'][-1]))}"
            faults.append(f"{locate(root, item['loc'])}: {text}")
        raise _invalid(path, faults) from None


def _near(word: str) -> str:
    known = {*Scenario.model_fields, *NodeScenario.model_fields, *EventScenario.model_fields}
    close = difflib.get_close_matches(word, sorted(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _invalid(path: Path, faults: list[str]) -> InvalidArgument:
    return InvalidArgument(
        f"scenario {path}: " + "; ".join(faults),
        reason="SCENARIO_INVALID",
        violations=[("scenario", fault) for fault in faults],
    )
