"""The chain of filters that a recipe asks for: built from names and parameters, checked before any work begins."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from longhaul_core.errors import InvalidArgument

from longhaul_ingest.domain.addresses import UrlLists
from longhaul_ingest.domain.custom import Custom, load_rule
from longhaul_ingest.domain.gopher import GopherQuality, GopherRepetition
from longhaul_ingest.domain.language import Language
from longhaul_ingest.domain.optional import Confusables, Emoji, Spelling, Toxicity
from longhaul_ingest.domain.privacy import PersonalData
from longhaul_ingest.domain.refusal import Refusal
from longhaul_ingest.domain.scoring import Quality
from longhaul_ingest.domain.web import C4, FineWeb, LineDeduplication

if TYPE_CHECKING:
    from longhaul_ingest.domain.features import Features

Parameter = float | int | bool | str | list[str] | None


class Filter(Protocol):
    """A set of rules over one text."""

    @property
    def name(self) -> str:
        """The name by which recipes ask for it."""
        ...

    def refusals(self, text: Features) -> Iterator[Refusal]:
        """The rules that the text does not meet, lazily and in a fixed order."""
        ...


@runtime_checkable
class Rewriter(Protocol):
    """A filter that changes the text before its rules look at it."""

    def rewrite(self, text: Features) -> str:
        """The text as it goes on."""
        ...


KINDS: Final = (
    UrlLists, Language, GopherRepetition, GopherQuality, C4, FineWeb, LineDeduplication, PersonalData, Quality, Custom,
    Toxicity, Spelling, Confusables, Emoji,
)  # fmt: skip
FILTERS: Final[Mapping[str, Any]] = {kind.name: kind for kind in KINDS}
NEEDED: Final = {"quality": ("model",), "custom": ("rule",), "spelling": ("word_files",)}
CHOICES: Final = {("emoji", "action"): ("keep", "name", "drop")}


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a chain of filters makes of a text.

    Attributes:
        text: what goes on, rewritten where a filter does so.
        labels: language, language_score and scores that filters noted.
        refused: `filter.rule` and the first refusal; None where the text is accepted.
        notes: every refusal, and each filter that rewrote the text; filled only where all are asked for.
    """

    text: str
    labels: Mapping[str, Any]
    refused: tuple[str, Refusal] | None = None
    notes: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class _Progress:
    text: Features
    notes: list[tuple[str, str]] = field(default_factory=list)


def build_filter(name: str, parameters: Mapping[str, Parameter], field: str = "filters") -> Filter:
    """Make one filter; a parameter of `false` or null turns its rule off.

    Raises:
        InvalidArgument: the name or a parameter is unknown (the nearest known one is named), or a value does not fit.
        FailedPrecondition: a custom rule is not installed.
    """
    kind = FILTERS.get(name)
    if kind is None:
        raise _unknown(f"{field}.name", "filter", name, sorted(FILTERS))
    if name == Custom.name:
        return _custom(parameters, field)
    known = {item.name: item.default for item in fields(kind)}
    values: dict[str, object] = {}
    for key, value in parameters.items():
        path = f"{field}.parameters.{key}"
        if key not in known:
            raise _unknown(path, f"parameter of {name}", key, sorted(known))
        values[key] = _checked(path, value, known[key])
        if (name, key) in CHOICES and value not in CHOICES[name, key]:
            raise _invalid(path, f"{value!r} is none of {', '.join(CHOICES[name, key])}")
    for key in NEEDED.get(name, ()):
        if not values.get(key):
            raise _invalid(f"{field}.parameters.{key}", f"the filter {name} needs it")
    built: Filter = kind(**values)
    return built


def first_refusal(chain: Sequence[Filter], text: Features) -> tuple[str, Refusal] | None:
    """The first rule that refuses the text, as (`filter.rule`, refusal); None: it is accepted."""
    return judge(chain, text).refused


def judge(chain: Sequence[Filter], text: Features, *, everything: bool = False) -> Judgement:
    """Send a text through the chain; it stops at the first refusal unless `everything` is asked for."""
    progress = _Progress(text)
    first: tuple[str, Refusal] | None = None
    for item in chain:
        _rewrite(item, progress)
        for refusal in item.refusals(progress.text):
            rule = f"{item.name}.{refusal.rule}"
            first = first or (rule, refusal)
            if not everything:
                return Judgement(progress.text.text, text.labels, first)
            progress.notes.append((rule, refusal.detail))
    return Judgement(progress.text.text, text.labels, first, tuple(progress.notes))


def _rewrite(item: Filter, progress: _Progress) -> None:
    progress.text.before = None
    if not isinstance(item, Rewriter):
        return
    changed = item.rewrite(progress.text)
    if changed != progress.text.text:
        progress.notes.append((f"{item.name}.rewrite", f"{len(progress.text.text)} to {len(changed)} characters"))
        progress.text = progress.text.with_text(changed)


def _custom(parameters: Mapping[str, Parameter], field: str) -> Filter:
    options = dict(parameters)
    rule = options.pop("rule", None)
    if not isinstance(rule, str) or not rule:
        raise _invalid(f"{field}.parameters.rule", "the filter custom needs the name of an entry point")
    frozen = tuple((key, tuple(v) if isinstance(v, list) else v) for key, v in sorted(options.items()))
    load_rule(rule, frozen)
    return Custom(rule, frozen)


def _checked(path: str, value: Parameter, default: object) -> object:
    """A parameter of the type that its default has."""
    if isinstance(default, tuple):
        if isinstance(value, list) and all(isinstance(entry, str) and entry for entry in value):
            return tuple(value)
        raise _invalid(path, f"{value!r} is no list of words")
    if isinstance(default, str):
        if isinstance(value, str) or value in (False, None):
            return value or ""
        raise _invalid(path, f"{value!r} is no text")
    if isinstance(default, bool):
        if isinstance(value, bool):
            return value
        raise _invalid(path, f"{value!r} is neither true nor false")
    if value is None or value is False:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise _invalid(path, f"{value!r} is no threshold: a number of 0 or more, or false for off")
    return value


def _unknown(path: str, what: str, name: str, known: Sequence[str]) -> InvalidArgument:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return _invalid(path, f"unknown {what} {name!r}; {hint}")


def _invalid(path: str, description: str) -> InvalidArgument:
    return InvalidArgument(f"{path}: {description}", reason="FILTER_INVALID", violations=[(path, description)])
