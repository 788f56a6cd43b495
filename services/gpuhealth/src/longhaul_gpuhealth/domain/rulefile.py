"""Rules files: YAML checked against a schema, with every fault named by line and nearest known key."""

from __future__ import annotations

import difflib
import re
from importlib import resources
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from longhaul_gpuhealth.domain.model import HealthAction, Remedy, Severity
from longhaul_gpuhealth.domain.rules import (
    Codes,
    Condition,
    Increase,
    Level,
    Marked,
    MarkKind,
    Missing,
    Outlier,
    PeerScope,
    Repeats,
    Rule,
    RuleSet,
)
from longhaul_gpuhealth.domain.yaml_places import YamlFault, load, locate

DEFAULT_CLEAR_SECONDS = 300.0
DEFAULT_HOLD_SECONDS = 600.0
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_KINDS = {
    "codes": ("codes", "hold"),
    "above": ("above", "for"),
    "differs_from": ("differs_from", "for"),
    "mask": ("mask", "for"),
    "increase_above": ("increase_above", "window"),
    "repeats_of": ("repeats_of", "at_least", "window", "unless_gpus", "unless_within"),
    "below_share": ("below_share", "for", "peers", "peers_of", "busy_signal", "busy_above"),
    "below_deviations": ("below_deviations", "for", "peers", "peers_of", "busy_signal", "busy_above"),
    "missing": ("missing", "for"),
    "node_conditions": ("node_conditions",),
    "node_taints": ("node_taints",),
}
_NEEDED = {"increase_above": ("window",), "repeats_of": ("at_least", "window")}
_WITHOUT_SIGNAL = ("codes", "repeats_of", "missing", "node_conditions", "node_taints")


class RulesFault(ValueError):  # noqa: N818 (it is a fault of the text)
    """The file is no valid rules file; one line a fault, each with its place."""


def _seconds(value: Any) -> float:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is no duration such as 30s, 5m or 24h")
    return float(match.group(1)) * _UNITS[match.group(2)]


Duration = Annotated[float, BeforeValidator(_seconds)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _When(_Section):
    codes: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(None, min_length=1)
    hold: Duration = DEFAULT_HOLD_SECONDS
    above: float | None = None
    differs_from: float | None = None
    mask: Annotated[int, Field(ge=1)] | None = None
    for_: Duration = Field(0.0, alias="for")
    increase_above: float | None = Field(None, ge=0)
    window: Duration = 0.0
    repeats_of: tuple[str, ...] | None = Field(None, min_length=1)
    at_least: int = Field(1, ge=1)
    unless_gpus: int | None = Field(None, ge=2)
    unless_within: Duration = 60.0
    below_share: float | None = Field(None, gt=0, lt=1)
    below_deviations: float | None = Field(None, gt=0)
    peers: int = Field(3, ge=1)
    peers_of: Literal["model", "run"] = "model"
    busy_signal: str = ""
    busy_above: float = 0.0
    missing: Literal[True] | None = None
    node_conditions: tuple[str, ...] | None = Field(None, min_length=1)
    node_taints: tuple[str, ...] | None = Field(None, min_length=1)

    @property
    def kind(self) -> str:
        """The key that says which condition it is."""
        return next(kind for kind in _KINDS if getattr(self, kind) is not None)

    @model_validator(mode="after")
    def _is_one_condition(self) -> Self:
        given = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"needs exactly one of {', '.join(_KINDS)}; it has {' and '.join(given) or 'none'}")
        keys = {("for" if name == "for_" else name) for name in self.model_fields_set}
        for key in sorted(keys - set(_KINDS[given[0]])):
            raise ValueError(f"{key!r} does not go with {given[0]!r}")
        for key in _NEEDED.get(given[0], ()):
            if key not in keys:
                raise ValueError(f"{given[0]!r} needs {key!r}")
        return self


class _Override(_Section):
    model: str
    when: _When


class _Rule(_Section):
    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    signal: str | tuple[str, ...] = ()
    when: _When
    severity: Literal["info", "warning", "error", "critical"]
    action: Literal["event", "restart_application", "diagnose", "human", "drain", "isolate"]
    description: str
    computes: bool | None = None
    latched: bool | None = None
    clear_after: Duration = DEFAULT_CLEAR_SECONDS
    shadow: bool = False
    remedy: Literal["none", "reset", "reboot", "replace"] = "none"
    when_idle: bool = False
    overrides: tuple[_Override, ...] = ()

    @model_validator(mode="after")
    def _has_its_signal(self) -> Self:
        needs = self.when.kind not in _WITHOUT_SIGNAL
        if needs != bool(self.signal):
            raise ValueError(f"{self.when.kind!r} {'needs a' if needs else 'takes no'} 'signal'")
        if any(override.when.kind != self.when.kind for override in self.overrides):
            raise ValueError(f"overrides must be of the kind {self.when.kind!r} as the rule")
        if self.when_idle and self.action != "drain":
            raise ValueError(f"'when_idle' goes with the action 'drain', not with {self.action!r}")
        return self


class _File(_Section):
    version: str = Field(min_length=1)
    rules: tuple[_Rule, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_sound(self) -> Self:
        ids = [rule.id for rule in self.rules]
        twice = sorted({one for one in ids if ids.count(one) > 1})
        if twice:
            raise ValueError(f"rule {twice[0]!r} is given twice")
        for rule in self.rules:
            for other in rule.when.repeats_of or ():
                if other not in ids or other == rule.id:
                    raise ValueError(f"rule {rule.id!r} repeats {other!r}, which is no other rule{_near(other, ids)}")
        return self


def default_rules() -> RuleSet:
    """The rules that are shipped."""
    return parse_rules(default_rules_text())


def default_rules_text() -> str:
    """The shipped rules file."""
    return resources.files("longhaul_gpuhealth").joinpath("rules/default.yaml").read_text(encoding="utf-8")


def parse_rules(text: str) -> RuleSet:
    """Read a rules file. Raises `RulesFault`."""
    try:
        document, root = load(text)
    except YamlFault as fault:
        raise RulesFault(str(fault)) from None
    if not isinstance(document, dict):
        raise RulesFault("line 1, column 1: the file is no mapping with the keys 'version' and 'rules'")
    try:
        file = _File.model_validate(document)
    except ValidationError as error:
        raise RulesFault("\n".join(_faults(error, root))) from None
    return RuleSet(file.version, tuple(_rule(rule) for rule in file.rules))


def _rule(rule: _Rule) -> Rule:
    signals = (rule.signal,) if isinstance(rule.signal, str) else rule.signal
    action = HealthAction[rule.action.upper()]
    severity = Severity[rule.severity.upper()]
    return Rule(
        id=rule.id,
        when=_condition(rule.when, signals),
        severity=severity,
        action=action,
        description=rule.description,
        computes=action is not HealthAction.ISOLATE if rule.computes is None else rule.computes,
        latched=severity is Severity.CRITICAL if rule.latched is None else rule.latched,
        clear_seconds=rule.clear_after,
        shadow=rule.shadow,
        overrides=tuple((one.model, _condition(one.when, signals)) for one in rule.overrides),
        remedy=Remedy[rule.remedy.upper()],
        when_idle=rule.when_idle,
    )


def _condition(when: _When, signals: tuple[str, ...]) -> Condition:
    if when.codes is not None:
        return Codes(frozenset(when.codes), when.hold)
    if when.increase_above is not None:
        return Increase(signals, when.increase_above, when.window)
    if when.repeats_of is not None:
        return Repeats(when.repeats_of, when.at_least, when.window, when.unless_gpus, when.unless_within)
    if when.below_share is not None or when.below_deviations is not None:
        return Outlier(
            signals,
            when.below_share,
            when.below_deviations,
            when.for_,
            when.peers,
            when.busy_signal,
            when.busy_above,
            PeerScope(when.peers_of),
        )
    if when.missing is not None:
        return Missing(when.for_)
    if when.node_conditions is not None:
        return Marked(MarkKind.CONDITION, when.node_conditions)
    if when.node_taints is not None:
        return Marked(MarkKind.TAINT, when.node_taints)
    return Level(signals, when.above, when.differs_from, when.mask, when.for_)


def _faults(error: ValidationError, root: yaml.Node | None) -> list[str]:
    faults = []
    for item in error.errors(include_url=False, include_context=False):
        path = item["loc"]
        text = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            key = str(path[-1])
            text = f"unknown key {key!r}{_near(key, _known_keys(path))}"
        where = ".".join(str(step) for step in path)
        faults.append(f"{locate(root, path)}: {where + ': ' if where else ''}{text}")
    return faults


def _known_keys(path: tuple[str | int, ...]) -> list[str]:
    around = path[-2] if len(path) > 1 else ""
    section: type[BaseModel] = _File
    if around == "when":
        section = _When
    elif isinstance(around, int):
        section = _Override if "overrides" in path else _Rule
    return [field.alias or name for name, field in section.model_fields.items()]


def _near(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(sorted(known))}"
