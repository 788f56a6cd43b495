"""Scenarios: which pretend nodes there are and what befalls their GPUs, as a checked YAML document."""

from __future__ import annotations

import difflib
import re
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Self

from longhaul_core.errors import InvalidArgument
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from longhaul_gpuhealth.domain.yaml_places import YamlFault, load, locate

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|m|h)?")
_RANGE = re.compile(r"(.*)\[([0-9]+)-([0-9]+)\](.*)")
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
    """Something that befalls nodes `at` a time after the start, or when triggered by name; for a while or for good.

    Attributes:
        name: Its name, for the trigger.
        node: A node, or a pattern such as `rack-1-*`.
        gpu: None: all GPUs of the node.
        at: When it begins; None: when triggered.
        lasts: For how long; None: for good.
        flaps: It holds only every other period of this length.
        xid: A code that is reported once, at the beginning.
        signals: Values that are set while it holds.
        growth: What is added to counters each second.
        node_signals: Values of series of the node as a whole while it holds.
        exporter: How the node's exporter answers while it holds.
        lost: Whether the GPU is gone from the pages.
        restart: Whether the exporter begins anew: counters and the last XID are zero again.
        driver: Version of the driver from then on.
        skew: Seconds by which the exporter's clock is wrong; its samples then carry time stamps.
        duplicate: Whether each GPU is listed twice.
    """

    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    node: str
    gpu: int | None = Field(None, ge=0)
    at: Seconds | None = None
    lasts: Seconds | None = None
    xid: int | None = Field(None, ge=1)
    signals: dict[str, float] = {}
    growth: dict[str, float] = {}
    node_signals: dict[str, float] = {}
    flaps: Annotated[float, BeforeValidator(_seconds), Field(gt=0)] | None = None
    exporter: Behaviour = Behaviour.NORMAL
    lost: bool = False
    restart: bool = False
    driver: str = ""
    skew: float = 0.0
    duplicate: bool = False


class Scenario(_Section):
    """A scenario file. `xid_counter`: also give DCGM_EXP_XID_ERRORS_COUNT, as newer exporters do.

    A node's name may hold one range: `node-[0-7]` are eight nodes.
    """

    seed: int = 0
    xid_counter: bool = False
    nodes: dict[str, NodeScenario] = Field(min_length=1)
    events: tuple[EventScenario, ...] = ()

    @field_validator("nodes", mode="before")
    @classmethod
    def _ranges_are_spelt_out(cls, nodes: Any) -> Any:
        if not isinstance(nodes, dict):
            return nodes
        return {name: value for pattern, value in nodes.items() for name in _spelt_out(str(pattern))}

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        names = [event.name for event in self.events]
        for event in self.events:
            if names.count(event.name) > 1:
                raise ValueError(f"event {event.name!r} is given twice")
            meant = [name for name in self.nodes if fnmatchcase(name, event.node)]
            if not meant:
                raise ValueError(f"event {event.name!r} names node {event.node!r}, which is not among the nodes")
            for name in meant:
                if event.gpu is not None and event.gpu >= self.nodes[name].gpus:
                    raise ValueError(f"event {event.name!r} names GPU {event.gpu}; {name} has {self.nodes[name].gpus}")
        return self


def _spelt_out(pattern: str) -> list[str]:
    match = _RANGE.fullmatch(pattern)
    if match is None:
        return [pattern]
    before, first, last, after = match.groups()
    return [f"{before}{number:0{len(first)}}{after}" for number in range(int(first), int(last) + 1)]


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
