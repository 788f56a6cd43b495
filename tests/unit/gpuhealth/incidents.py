"""Plays written incidents: real pages through reader, engine, decisions and budget, on the trace's time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from longhaul_gpuhealth.domain.budget import Budget, Fleet
from longhaul_gpuhealth.domain.decision import Situation, decide
from longhaul_gpuhealth.domain.engine import Engine
from longhaul_gpuhealth.domain.exposition import MalformedPageError, PageReader
from longhaul_gpuhealth.domain.model import Job, Sample
from longhaul_gpuhealth.domain.reading import XID_COUNT, Attribution, Reading
from longhaul_gpuhealth.domain.record import NodeFacts, NodeRecord
from longhaul_gpuhealth.domain.rulefile import default_rules_text, parse_rules
from longhaul_gpuhealth.domain.rules import RuleSet
from longhaul_gpuhealth.domain.verbs import Decision, Policy, release
from longhaul_gpuhealth.exporter import fleet as pretence
from longhaul_gpuhealth.exporter.scenario import Behaviour, Scenario
from pydantic import BaseModel, ConfigDict

START = 1_800_000_000.0
SILENT = {Behaviour.HANG, Behaviour.DROP, Behaviour.FAIL, Behaviour.HTML, Behaviour.SLOW, Behaviour.ENDLESS}
TOLD = frozenset(
    {"QUARANTINED", "DRAIN_REQUESTED", "QUARANTINE_WITHHELD", "BREAKER_OPENED", "REPEAT_OFFENDER", "RELEASED"}
)


class Happening(BaseModel):
    """Something at the cluster, or an operator's deed, at a second of the trace."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: float
    node: str
    taints: tuple[str, ...] | None = None
    conditions: tuple[str, ...] | None = None
    opted_out: bool | None = None
    idle: bool | None = None
    release: str = ""


class Incident(BaseModel):
    """A trace: what happens, and exactly what must follow from it.

    `findings` are all that ever fired (rule -> `node/gpu`), `states` the last states (`*`: of all others), `actions`
    what was decided, in order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    scenario: Scenario
    every: float
    lasts: float
    start_watching: float = 0.0
    fleet: int = 0
    run: tuple[str, ...] = ()
    cluster: tuple[Happening, ...] = ()
    replace_rules: tuple[tuple[float, str, str], ...] = ()
    findings: dict[str, list[str]]
    states: dict[str, str]
    actions: list[str]


def load_incident(path: Path) -> Incident:
    return Incident.model_validate(yaml.safe_load(path.read_text()))


@dataclass
class Player:
    """One replica that watches the trace's cluster."""

    incident: Incident
    rules: RuleSet
    policy: Policy = field(default_factory=Policy)
    budget: Budget = field(default_factory=Budget)
    records: dict[str, NodeRecord] = field(default_factory=dict)
    facts: dict[str, NodeFacts] = field(default_factory=dict)
    marks: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)
    fired: dict[str, set[str]] = field(default_factory=dict)
    actions: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    readers: dict[str, tuple[PageReader, Attribution]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.engine = Engine(self.rules, 3 * self.incident.every + 2, 2 * self.incident.every, 300.0)
        self.exporters = pretence.Fleet(self.incident.scenario)
        self.nodes = sorted(self.incident.scenario.nodes)
        self.due = sorted(self.incident.cluster, key=lambda one: one.at)

    def play(self) -> None:
        incident = self.incident
        steps = int((incident.lasts - incident.start_watching) / incident.every) + 1
        reloads = list(incident.replace_rules)
        for step in range(steps):
            second = incident.start_watching + step * incident.every
            while reloads and reloads[0][0] <= second:
                _, old, new = reloads.pop(0)
                text = default_rules_text()
                assert text.count(old) == 1, old
                self.engine.use_rules(parse_rules(text.replace(old, new)), START + second)
            while self.due and self.due[0].at <= second:
                self.happen(self.due.pop(0), START + second)
            for node in self.nodes:
                self.look(node, second)

    def happen(self, one: Happening, now: float) -> None:
        facts = self.facts.get(one.node) or NodeFacts(True, False, "", "http://exporter")
        if one.opted_out is not None:
            facts = replace(facts, opted_out=one.opted_out)
        if one.idle is not None:
            facts = replace(facts, idle=one.idle)
        self.facts[one.node] = facts
        conditions, taints = self.marks.get(one.node, ((), ()))
        self.marks[one.node] = (
            conditions if one.conditions is None else one.conditions,
            taints if one.taints is None else one.taints,
        )
        if one.release:
            self.adopt(
                one.node,
                release(self.records[one.node], self.budget, self.policy, now=now, reason="repaired", by=one.release),
            )
            self.engine.release(one.node)

    def look(self, node: str, second: float) -> None:
        now = START + second
        reading = self.scrape(node, second)
        if reading is not None:
            self.engine.observe(reading)
            self.keep(reading)
        if node in self.incident.run:
            gpus = self.incident.scenario.nodes[node].gpus
            slot = self.incident.run.index(node)
            jobs = {gpu: Job("default", f"r-{slot}", "p", "r", slot * gpus + gpu) for gpu in range(gpus)}
            self.engine.assign(node, jobs)
        if node in self.marks:
            self.engine.observe_marks(node, *self.marks[node], now)
        verdict = self.engine.verdict(node, now)
        record = self.records.get(node) or NodeRecord(node, state_since=now)
        facts = self.facts.get(node) or NodeFacts(True, False, "", "http://exporter")
        total = max(self.incident.fleet, len(self.nodes))
        situation = Situation(verdict, facts, Fleet(total), now, f"{node}@{second:g}")
        self.adopt(node, decide(record, self.budget, situation, self.policy))
        for finding in verdict.findings:
            place = node if finding.gpu < 0 else f"{node}/{finding.gpu}"
            self.fired.setdefault(finding.rule, set()).add(place)

    def adopt(self, node: str, decision: Decision) -> None:
        """The decision is carried out at once, as by a cluster that answers."""
        self.records[node], self.budget = decision.record, decision.budget
        facts = self.facts.get(node) or NodeFacts(True, False, "", "http://exporter")
        record = decision.record
        if record.quarantine is not None and not record.quarantine.marked:
            self.records[node] = replace(record, quarantine=replace(record.quarantine, marked=True))
            facts = replace(facts, session=record.quarantine.session)
        elif record.releasing:
            self.records[node] = replace(record, releasing="")
            facts = replace(facts, session="")
        self.facts[node] = facts
        for told in decision.occurrences:
            if told.type in TOLD:
                detail = told.cause if told.type in ("QUARANTINE_WITHHELD", "BREAKER_OPENED") else ""
                if told.type == "DRAIN_REQUESTED":
                    detail = "by checkpoint" if told.data["computes"] else "at once"
                self.actions.append(f"{told.type} {node} {detail}".rstrip())

    def scrape(self, node: str, second: float) -> Reading | None:
        behaviour = self.exporters.behaviour(node, second)
        if behaviour in SILENT:
            return None
        text = self.exporters.page(node, second)
        if behaviour is Behaviour.NAN:
            text = "".join(
                line if line[0] == "#" else line.rpartition(" ")[0] + " NaN\n" for line in text.splitlines(True)
            )
        if behaviour is Behaviour.MALFORMED:
            text = text[: len(text) // 2]
        reader, attribution = self.readers.setdefault(node, (PageReader(), Attribution(self.rules.wanted)))
        try:
            return attribution.attribute(node, START + second, reader.read(text))
        except MalformedPageError:
            return None

    def keep(self, reading: Reading) -> None:
        """The samples as a recorder would have kept them, for Replay."""
        for index, gpu in reading.gpus.items():
            labels = {"UUID": gpu.uuid, "modelName": gpu.model}
            for signal, value in gpu.signals.items():
                self.samples.append(Sample(reading.node, index, signal, value, reading.time, labels))
            for code, count in (gpu.xid_counts or {}).items():
                self.samples.append(Sample(reading.node, index, XID_COUNT, count, reading.time, {"xid": str(code)}))

    def states(self) -> dict[str, str]:
        return {node: str(record.state) for node, record in self.records.items()}


def expected_states(incident: Incident) -> dict[str, str]:
    others: Any = incident.states.get("*", "HEALTHY")
    return {node: incident.states.get(node, others) for node in incident.scenario.nodes}
